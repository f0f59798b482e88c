"""The small detector, one of which ships: two stages as in Faster R-CNN, light enough for one processor core.

A dense stage proposes boxes (one objectness and four distances a place, as in FCOS, Tian et al. 2019); the second pools
each box, describes it by one feature, and names its class and attributes and mends its box from that feature alone. The
regions that come out are pooled again at their final boxes, so a feature describes the box it is stored with.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from uniter.regions.detectors import checked_boxes, vision_ops
from uniter.regions.pictures import upright_rgb
from uniter.regions.regions import Regions

STRIDE = 8  # of the map that boxes are proposed on
FINE_STRIDE = 4  # of the map that regions are pooled from
_FORMAT = "uniter-small-detector"


@dataclass(frozen=True)
class SmallDetectorConfig:
    """The settings of a `SmallDetector`.

    Args:
        class_names: index 0 is `background`.
        attributes: of each attribute the names of its values.
        channels: of the maps at stride 2, 4, 8 and 16.
        feature_size: numbers in a region's feature.
        long_side: least and largest longer side in pixels that a picture is scaled into before it is looked at.
        regions: least and largest number of regions of a picture.
        proposals: boxes that the second stage looks at.
        threshold: confidence from which a region is kept beyond the least number.
        overlap: intersection over union above which the less confident of two regions is dropped.
    """

    class_names: list[str]
    attributes: dict[str, list[str]]
    channels: tuple[int, int, int, int] = (24, 48, 96, 160)
    feature_size: int = 256
    long_side: tuple[int, int] = (192, 320)
    regions: tuple[int, int] = (10, 36)
    proposals: int = 64
    threshold: float = 0.2
    overlap: float = 0.55


class _Conv(nn.Module):
    """Convolution, normalisation, ReLU; the normalisation is folded into the convolution for use."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.norm(self.conv(maps))
        return F.relu(maps) if self.relu else maps

    def fold(self) -> None:
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = nn.utils.fusion.fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class _Block(nn.Module):
    """Two convolutions around which the input passes unchanged (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Conv(channels, channels)
        self.second = _Conv(channels, channels, relu=False)

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(maps + self.second(self.first(maps)))


@dataclass
class Described:
    """What the second stage says about N boxes.

    Args:
        features: (N, F), not negative.
        classes: (N, C) logits.
        deltas: (N, 4) how to mend the box: shift of the centre in box sides, logarithm of the sides' growth.
        attributes: of each attribute (N, K) logits.
    """

    features: Tensor
    classes: Tensor
    deltas: Tensor
    attributes: dict[str, Tensor]


class SmallNetwork(nn.Module):
    """The parameters of a `SmallDetector`; about 2.5 million."""

    def __init__(self, config: SmallDetectorConfig) -> None:
        super().__init__()
        self.config = config
        half, fine, middle, coarse = config.channels
        pooled = 64
        self.stem = nn.Sequential(_Conv(3, half, stride=2), _Conv(half, fine, stride=2), _Block(fine))
        self.middle = nn.Sequential(_Conv(fine, middle, stride=2), _Block(middle), _Block(middle))
        self.coarse = nn.Sequential(_Conv(middle, coarse, stride=2), _Block(coarse), _Block(coarse))
        self.from_coarse = _Conv(coarse, middle, 1, relu=False)
        self.join_middle = _Conv(middle, middle)
        self.from_middle = _Conv(middle, pooled, 1, relu=False)
        self.from_fine = _Conv(fine, pooled, 1, relu=False)
        self.join_fine = _Conv(pooled, pooled)
        self.propose = _Conv(middle, 64)
        self.objectness = nn.Conv2d(64, 1, 1)
        self.distances = nn.Conv2d(64, 4, 1)
        self.describe_1 = nn.Linear(pooled * 49 + 4, config.feature_size)
        self.describe_2 = nn.Linear(config.feature_size, config.feature_size)
        self.classes = nn.Linear(config.feature_size, len(config.class_names))
        self.deltas = nn.Linear(config.feature_size, 4)
        self.attributes = nn.ModuleDict(
            {name: nn.Linear(config.feature_size, len(values)) for name, values in config.attributes.items()}
        )
        # What turns a hidden vector into a region's feature; `training.calibrate` sets them.
        self.register_buffer("feature_mean", torch.zeros(config.feature_size))
        self.register_buffer("feature_scale", torch.ones(config.feature_size))
        nn.init.constant_(self.objectness.bias, -4.0)  # pyrefly: ignore  # almost every place is background (Lin et al. 2017)
        nn.init.zeros_(self.deltas.weight)
        nn.init.zeros_(self.deltas.bias)

    def fold(self) -> "SmallNetwork":
        """Fold every normalisation into its convolution; for use, not for training."""
        self.eval()
        for module in list(self.modules()):
            if isinstance(module, _Conv):
                module.fold()
        return self

    def standardise(self, hidden: Tensor, limit: float) -> Tensor:
        """Features (N, F) of hidden vectors: each number has mean 0 and deviation 1 over the training pictures.

        What all regions have in common would otherwise drown what tells them apart, and a model would learn more
        slowly.
        """
        return ((hidden - self.feature_mean) * self.feature_scale).clamp(-limit, limit)

    def maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Maps to pool from and to propose on.

        Args:
            pixels: (B, 3, H, W), about -2 to 2, sides a multiple of 16.

        Returns:
            (B, 64, H/4, W/4) and (B, channels[2], H/8, W/8).
        """
        fine = self.stem(pixels)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.join_middle(F.relu(middle + F.interpolate(self.from_coarse(coarse), scale_factor=2.0)))
        fine = self.from_fine(fine) + F.interpolate(self.from_middle(middle), scale_factor=2.0)
        return self.join_fine(F.relu(fine)), middle

    def dense(self, middle: Tensor) -> tuple[Tensor, Tensor]:
        """Objectness logits (B, P) and boxes (B, P, 4) in pixels of the P places of the map, row by row."""
        hidden = self.propose(middle)
        logits = self.objectness(hidden).float().flatten(1)
        distances = self.distances(hidden).float().clamp(-4, 4).exp() * (2 * STRIDE)
        centres = places(middle.shape[2], middle.shape[3], middle.device)
        left_top, right_bottom = distances.flatten(2).transpose(1, 2).split(2, dim=2)
        return logits, torch.cat([centres - left_top, centres + right_bottom], dim=2)

    def describe(self, fine: Tensor, boxes: list[Tensor], short_sides: list[float]) -> Described:
        """What is at these boxes.

        Args:
            fine: (B, 64, H/4, W/4) from `maps`.
            boxes: of each image (n, 4) pixels x1 y1 x2 y2.
            short_sides: of each image the shorter side in pixels; a size is said relative to it.
        """
        pooled = (
            vision_ops().roi_align(fine.float(), boxes, 7, 1 / FINE_STRIDE, sampling_ratio=2, aligned=True).flatten(1)
        )
        sides = torch.cat([(b[:, 2:] - b[:, :2]) / short for b, short in zip(boxes, short_sides, strict=True)])
        sides = torch.cat([sides * 4, 1.5 + sides.clamp(min=1e-3).log()], dim=1)
        features = F.relu(self.describe_1(torch.cat([pooled, sides], dim=1)))
        features = F.relu(self.describe_2(features))
        attributes = {name: head(features).float() for name, head in self.attributes.items()}
        return Described(features.float(), self.classes(features).float(), self.deltas(features).float(), attributes)


def places(rows: int, columns: int, device: torch.device) -> Tensor:
    """Centres (rows * columns, 2) in pixels x y of the places of a map of stride 8."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return (torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5) * STRIDE


def mend(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (N, 4) changed by deltas (N, 4) of a `Described`."""
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + sides / 2 + deltas[:, :2] * sides
    sides = sides * deltas[:, 2:].clamp(-1, 1).exp()
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


def to_pixels(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) float32 numbers of about -2 to 2."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().sub_(127.5).div_(64)


class SmallDetector:
    """The small two-stage detector, ready for use.

    Args:
        network: a trained network; it is folded and used without gradients.
        fingerprint: what the regions are marked with.
        device: where to compute.
    """

    standard_limit = 8.0  # a feature's largest magnitude, in deviations

    def __init__(self, network: SmallNetwork, fingerprint: str, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.fold().to(self.device).to(memory_format=torch.channels_last)  # pyrefly: ignore
        self.config = network.config
        self.fingerprint = fingerprint

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        return self.config.feature_size

    @property
    def class_names(self) -> list[str]:
        """Names of the columns of `class_probs`; index 0 is `background`."""
        return list(self.config.class_names)

    @property
    def attribute_names(self) -> dict[str, list[str]]:
        """Of each attribute the names of its values."""
        return {name: list(values) for name, values in self.config.attributes.items()}

    def detect(self, images: list[Image.Image]) -> list[Regions]:
        """The regions of each image, most confident first.

        Images are looked at one by one, so a result does not depend on what it is batched with.

        Args:
            images: pictures of any size and mode.

        Returns:
            Of each image 10 to 36 regions; float16 features, class probabilities, confidences.
        """
        return [regions for regions, _ in self.detect_with_attributes(images)]

    @torch.inference_mode()
    def detect_with_attributes(self, images: list[Image.Image]) -> list[tuple[Regions, dict[str, np.ndarray]]]:
        """As `detect`, and of each attribute the (R, K) probabilities of its values."""
        found = []
        for image in images:
            looked = self._look(image)
            found.append(self._describe(looked, self._final_boxes(looked), sort=True))
        return found

    @torch.inference_mode()
    def features(self, image: Image.Image, boxes: np.ndarray) -> Regions:
        """The regions at given boxes, in that order.

        Args:
            image: a picture of any size and mode.
            boxes: (R, 4) pixels x1 y1 x2 y2 of the upright picture; clipped to it.

        Raises:
            ValueError: boxes have another shape, or none is given.
        """
        boxes = checked_boxes(boxes)
        looked = self._look(image)
        return self._describe(looked, torch.from_numpy(boxes).to(self.device) * looked.scale, sort=False)[0]

    def words(self, regions: Regions, attributes: dict[str, np.ndarray]) -> list[str]:
        """What each region is called, such as `large red striped star`; arguments from `detect_with_attributes`."""
        assert regions.class_probs is not None
        kinds = regions.class_probs[:, 1:].argmax(1) + 1
        order = sorted(attributes, key=lambda name: (name != "size", name))
        return [
            " ".join(
                [self.config.attributes[name][attributes[name][row].argmax()] for name in order]
                + [self.class_names[kind]]
            )
            for row, kind in enumerate(kinds)
        ]

    def _look(self, image: Image.Image) -> "_Looked":
        image = upright_rgb(image)
        width, height = image.size
        low, high = self.config.long_side
        long = max(width, height)
        scale = min(max(long, low), high) / long
        if scale != 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = image.resize(size, Image.Resampling.BILINEAR)
        pixels = to_pixels(image)
        pixels = F.pad(pixels, (0, -image.width % 16, 0, -image.height % 16))[None]
        pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        fine, middle = self.network.maps(pixels)
        factors = torch.tensor([image.width / width, image.height / height] * 2, device=self.device)
        return _Looked(fine, middle, width, height, image.width, image.height, factors)

    def _final_boxes(self, looked: "_Looked") -> Tensor:
        """The boxes of the regions to keep, in pixels of the scaled picture."""
        nms = vision_ops().nms
        logits, boxes = self.network.dense(looked.middle)
        logits, boxes = logits[0], looked.clip(boxes[0])
        best = logits.argsort(descending=True, stable=True)[:400]
        best = best[nms(boxes[best], logits[best], 0.7)][: self.config.proposals]
        boxes = boxes[best]
        described = self.network.describe(looked.fine, [boxes], [looked.short])
        scores = described.classes.softmax(1)[:, 1:].amax(1)
        boxes = looked.clip(mend(boxes, described.deltas))
        kept = nms(boxes, scores, self.config.overlap)
        least, most = self.config.regions
        count = min(max(int((scores[kept] >= self.config.threshold).sum()), least), most)
        boxes = boxes[kept[:count]]
        if len(boxes) < least:  # a picture of a few pixels: the whole and its ninths
            boxes = torch.cat([boxes, looked.grid()])[:least]
        return boxes

    def _describe(self, looked: "_Looked", boxes: Tensor, sort: bool) -> tuple[Regions, dict[str, np.ndarray]]:
        boxes = looked.clip(boxes)
        described = self.network.describe(looked.fine, [boxes], [looked.short])
        probs = described.classes.softmax(1)
        scores = probs[:, 1:].amax(1)
        order = scores.argsort(descending=True, stable=True) if sort else torch.arange(len(scores), device=self.device)
        take = lambda tensor: tensor[order].cpu().numpy()
        limit = np.array([looked.width, looked.height] * 2, dtype=np.float32)
        regions = Regions(
            features=take(self.network.standardise(described.features, self.standard_limit).half()),
            boxes=np.minimum(take(boxes / looked.scale), limit),
            width=looked.width,
            height=looked.height,
            class_probs=take(probs),
            scores=take(scores),
        )
        return regions, {name: take(logits.softmax(1)) for name, logits in described.attributes.items()}

    def save(self, folder: str | os.PathLike) -> str:
        """Write `config.json` and `model.safetensors` (float16) to a folder.

        Returns:
            The fingerprint that the detector has when it is loaded from there.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        weights = {name: value.cpu().half().contiguous() for name, value in self.network.state_dict().items()}
        (path / "model.safetensors").write_bytes(save(weights))
        (path / "config.json").write_bytes(
            (json.dumps({"format": _FORMAT, **asdict(self.config)}, indent=1) + "\n").encode()
        )
        return _fingerprint(path)

    @classmethod
    def load(cls, folder: str | os.PathLike, device: torch.device | str = "cpu") -> "SmallDetector":
        """Read what `save` wrote.

        Raises:
            ValueError: a file is missing or is something else.
        """
        path = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (path / name).is_file():
                raise ValueError(f"{path} holds no detector (no {name}): give a folder that SmallDetector.save wrote")
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            if config.pop("format", None) != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT}")
            for name in ("channels", "long_side", "regions"):
                config[name] = tuple(config[name])
            network = SmallNetwork(SmallDetectorConfig(**config)).fold()
            weights = load((path / "model.safetensors").read_bytes())
            network.load_state_dict({name: value.float() for name, value in weights.items()})
        except Exception as error:
            raise ValueError(f"the detector in {path} cannot be read ({error}): copy or train it again") from error
        return cls(network, _fingerprint(path), device)


@dataclass
class _Looked:
    """One picture after the first stage; boxes meant for it are in pixels of the scaled picture."""

    fine: Tensor
    middle: Tensor
    width: int
    height: int
    scaled_width: int
    scaled_height: int
    scale: Tensor

    @property
    def short(self) -> float:
        return float(min(self.scaled_width, self.scaled_height))

    def clip(self, boxes: Tensor) -> Tensor:
        """Boxes within the picture, each side at least a pixel long."""
        ends = torch.tensor([self.scaled_width, self.scaled_height], dtype=boxes.dtype, device=boxes.device)
        low = torch.minimum(boxes[:, :2].clamp(min=0), ends - 1)
        high = torch.minimum(torch.maximum(boxes[:, 2:], low + 1), ends)
        return torch.cat([low, high], dim=1)

    def grid(self) -> Tensor:
        """The whole picture and its nine ninths, (10, 4)."""
        x, y = self.scaled_width / 3, self.scaled_height / 3
        boxes = [[0.0, 0.0, 3 * x, 3 * y]]
        boxes += [[x * i, y * j, x * (i + 1), y * (j + 1)] for j in range(3) for i in range(3)]
        return self.clip(torch.tensor(boxes, device=self.fine.device))


def _fingerprint(folder: Path) -> str:
    settings = (folder / "config.json").read_bytes()
    digest = hashlib.sha256(settings.replace(b"\r\n", b"\n"))  # a checkout on Windows may have changed its lines' ends
    digest.update((folder / "model.safetensors").read_bytes())
    return f"small-{digest.hexdigest()[:16]}"
