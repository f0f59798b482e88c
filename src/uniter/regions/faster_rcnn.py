"""Torchvision's Faster R-CNNs as detectors: a region's feature is what the box head says of its final box.

The networks are torchvision's own; what is done with them is not: torchvision's detection drops the features and lists
a box once for each class. Here a box is kept once, with its whole class distribution, and is pooled again at its final
place, so that a feature describes the box that it is stored with.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn

from uniter import draws
from uniter.files import read_json, write_bytes, write_json
from uniter.regions.choosing import (
    Selection,
    clip,
    fingerprint_of,
    given_boxes,
    groups,
    half,
    read_name,
    refuse_rest,
    take_settings,
)
from uniter.regions.pictures import upright_rgb
from uniter.regions.regions import Regions

FORMAT = "uniter-torchvision-detector"
BACKGROUND = "background"
_LIMIT = 8.0  # a standardised feature's largest magnitude, in deviations


@dataclass(frozen=True)
class FasterRCNNSettings:
    """Settings of the network; 0 leaves torchvision's own.

    Args:
        min_size: pixels that a picture's shorter side is scaled to.
        max_size: pixels that its longer side then has at the most.
        proposals: boxes that the second stage looks at.
    """

    min_size: int = 0
    max_size: int = 0
    proposals: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 0:
                raise ValueError(f"{name} is a number of 1 or more (0: torchvision's own), got {value}")

    def arguments(self) -> dict[str, int]:
        """What torchvision's builder is told."""
        found = {name: value for name in ("min_size", "max_size") if (value := getattr(self, name))}
        if self.proposals:
            found |= {"rpn_post_nms_top_n_test": self.proposals, "rpn_pre_nms_top_n_test": self.proposals}
        return found


class FasterRCNN(nn.Module):
    """A network of torchvision's, and what its hidden vectors are standardised by.

    Args:
        model: a `torchvision.models.detection.FasterRCNN`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = cast(Any, model)
        size = self.model.roi_heads.box_predictor.cls_score.in_features
        # Mean 0 and scale 1 leave a hidden vector as it is; training on one's own boxes sets them.
        self.register_buffer("feature_mean", torch.zeros(size))
        self.register_buffer("feature_scale", torch.ones(size))

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        return len(cast(Tensor, self.feature_mean))

    def standardise(self, hidden: Tensor, limit: float = _LIMIT) -> Tensor:
        """Features (N, F) of hidden vectors: of mean 0 and deviation 1 over the training pictures, where these are."""
        mean, scale = cast(Tensor, self.feature_mean), cast(Tensor, self.feature_scale)
        if not bool(mean.any()) and bool((scale == 1).all()):
            return hidden
        return ((hidden - mean) * scale).clamp(-limit, limit)


def names_of_networks() -> list[str]:
    """Names of torchvision's networks that have a box head."""
    from torchvision.models import detection, list_models

    return [name for name in list_models(module=detection) if "rcnn" in name]


def build(name: str, classes: int | None, settings: FasterRCNNSettings, weights: str | None = None) -> FasterRCNN:
    """One of torchvision's networks.

    Args:
        name: such as `fasterrcnn_resnet50_fpn_v2`.
        classes: its classes, background among them; None for as many as torchvision's own weights have.
        settings: of the network.
        weights: name of torchvision's own weights, such as `DEFAULT`, which torchvision downloads; None for random
            ones, always the same.

    Raises:
        ValueError: there is no such network or no such weights.
    """
    from torchvision.models import get_model, get_model_weights

    if name not in names_of_networks():
        raise ValueError(
            f"torchvision has no detector {name!r} with a box head: there are {', '.join(names_of_networks())}"
        )
    # Torchvision would fetch weights of the backbone unless told not to.
    asked: dict[str, Any] = {"weights_backbone": None, **settings.arguments()}
    if weights is not None:
        known = [entry.name for entry in get_model_weights(name)]
        if weights not in (*known, "DEFAULT"):
            raise ValueError(
                f"torchvision has no weights {weights!r} of {name}: there are DEFAULT, {', '.join(known)}; or give a "
                "file or folder that exists"
            )
        return FasterRCNN(get_model(name, weights=weights, **asked)).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.number(0, f"torchvision-{name}") % 2**31)
        return FasterRCNN(get_model(name, weights=None, num_classes=classes, **asked)).eval()


class FasterRCNNDetector:
    """A Faster R-CNN of torchvision's, ready for use.

    Args:
        network: as `build` gives it, with its weights.
        name: torchvision's name of it.
        class_names: of the columns of `class_probs`; index 0 is `background`.
        settings: that the network was built with.
        selection: which boxes are kept.
        device: where to compute.
    """

    def __init__(
        self,
        network: FasterRCNN,
        name: str,
        class_names: list[str],
        settings: FasterRCNNSettings | None = None,
        selection: Selection | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.network, self.name = network.eval().to(self.device), name
        self.class_names = list(class_names)
        self.settings, self.selection = settings or FasterRCNNSettings(), selection or Selection()
        self.fingerprint = fingerprint_of("torchvision", self._said(), self.network)
        self.notes = {
            "detector": f"torchvision {name}",
            "features": "output of the box head at the final box"
            + (", standardised" if bool(cast(Tensor, network.feature_mean).any()) else ""),
            "class_probs": "softmax",
        }

    def _said(self) -> dict[str, Any]:
        said = {"model": self.name, "class_names": self.class_names}
        return said | {"settings": asdict(self.settings), "selection": asdict(self.selection)}

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        return self.network.feature_size

    @torch.inference_mode()
    def detect(self, images: list[Image.Image]) -> list[Regions]:
        """The regions of each image, most confident first.

        Args:
            images: pictures of any size and mode.

        Returns:
            float16 features, class probabilities, confidences. A picture in which nothing was proposed has one region:
            all of it.
        """
        images = [upright_rgb(image) for image in images]
        found: dict[int, Regions] = {}
        for group in groups(images, self.device):
            maps, scaled = self._look([images[place] for place in group])
            boxes, sizes = self._final_boxes(maps, scaled), scaled.image_sizes
            for place, regions in zip(group, self._describe(maps, sizes, boxes, images[group[0]].size), strict=True):
                assert regions.scores is not None
                found[place] = regions.take(np.argsort(-regions.scores, kind="stable"))
        return [found[place] for place in range(len(images))]

    @torch.inference_mode()
    def features(self, image: Image.Image, boxes: np.ndarray) -> Regions:
        """The regions at given boxes, in that order.

        Args:
            image: a picture of any size and mode.
            boxes: (R, 4) pixels x1 y1 x2 y2 of the upright picture; clipped to it.

        Raises:
            ValueError: boxes have another shape, or none is given.
        """
        image = upright_rgb(image)
        given = torch.from_numpy(given_boxes(boxes, *image.size)).to(self.device)
        maps, scaled = self._look([image])
        sizes = scaled.image_sizes
        scale = torch.tensor([sizes[0][1] / image.width, sizes[0][0] / image.height] * 2, device=self.device)
        return self._describe(maps, sizes, [given * scale], image.size)[0]

    def _look(self, images: list[Image.Image]) -> tuple[dict[str, Tensor], Any]:
        """Maps of images of one size, and these as torchvision's transform scales them (an `ImageList`)."""
        width, height = images[0].size
        longest = self.network.model.transform.max_size
        least = (max(width, -(-height // longest)), max(height, -(-width // longest)))
        if least != (width, height):  # a side of it would be scaled to less than a pixel
            images = [image.resize(least) for image in images]
        pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1).to(self.device) / 255 for image in images]
        scaled, _ = self.network.model.transform(pixels)
        maps = self.network.model.backbone(scaled.tensors)
        return ({"0": maps} if isinstance(maps, Tensor) else maps), scaled

    def _second_stage(
        self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden vectors (N, F), class probabilities (N, C) and every class's own box (N, C, 4), of all images."""
        heads = self.network.model.roi_heads
        hidden = heads.box_head(heads.box_roi_pool(maps, boxes, sizes))
        logits, deltas = heads.box_predictor(hidden)
        return hidden, logits.float().softmax(1), heads.box_coder.decode(deltas.float(), boxes)

    def _final_boxes(self, maps: dict[str, Tensor], scaled: Any) -> list[Tensor]:
        """Of each image the boxes of its regions, in pixels of the scaled picture."""
        sizes = scaled.image_sizes
        proposals, _ = self.network.model.rpn(scaled, maps)
        _, probs, boxes = self._second_stage(maps, proposals, sizes)
        scores, kinds = probs[:, 1:].max(1)
        boxes = boxes[torch.arange(len(kinds), device=boxes.device), kinds + 1]
        counts, final = [len(part) for part in proposals], []
        for part, confidence, (height, width) in zip(boxes.split(counts), scores.split(counts), sizes, strict=True):
            part = clip(part, width, height)
            kept = part[self.selection.choose(part, confidence)]
            final.append(kept if len(kept) else kept.new_tensor([[0, 0, width, height]]))
        return final

    def _describe(
        self, maps: dict[str, Tensor], sizes: list[tuple[int, int]], boxes: list[Tensor], original: tuple[int, int]
    ) -> list[Regions]:
        hidden, probs, _ = self._second_stage(maps, boxes, sizes)
        features, counts = self.network.standardise(hidden.float()), [len(part) for part in boxes]
        found, limit = [], np.array([*original, *original], dtype=np.float32)
        for part, feature, prob, (height, width) in zip(
            boxes, features.split(counts), probs.split(counts), sizes, strict=True
        ):
            scale = np.array([original[0] / width, original[1] / height] * 2, dtype=np.float32)
            found.append(
                Regions(
                    features=half(feature),
                    boxes=np.minimum(part.cpu().numpy() * scale, limit),
                    width=original[0],
                    height=original[1],
                    class_probs=prob.cpu().numpy(),
                    scores=prob[:, 1:].amax(1).cpu().numpy(),
                )
            )
        return found

    def save(self, folder: str | os.PathLike) -> str:
        """Write `config.json` and `model.safetensors` to a folder that `load_detector` reads.

        Returns:
            The fingerprint, which is the same when it is loaded from there.
        """
        path = Path(folder)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        write_bytes(path / "model.safetensors", save(weights))
        write_json(path / "config.json", {"format": FORMAT, **self._said()}, indent=1)
        return self.fingerprint

    @classmethod
    def load(
        cls, folder: str | os.PathLike, device: torch.device | str = "cpu", given: dict[str, str] | None = None
    ) -> "FasterRCNNDetector":
        """Read what `save` wrote.

        Args:
            folder: with config.json and model.safetensors.
            device: where to compute.
            given: settings of `Selection` that differ from the folder's.

        Raises:
            ValueError: a file is missing or is something else.
        """
        path = Path(folder)
        config = read_json(path / "config.json", mend="give a folder that `uniter detector train` wrote")
        try:
            if config.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            settings, selection = FasterRCNNSettings(**config["settings"]), Selection(**config["selection"])
            network = build(config["model"], len(config["class_names"]), settings)
            network.load_state_dict(load_file(path / "model.safetensors"))
        except Exception as error:
            raise ValueError(f"the detector in {path} cannot be read ({error}): copy or train it again") from error
        given = dict(given or {})
        selection = take_settings(selection, given, str(path))
        refuse_rest(given, list(Selection.__dataclass_fields__), f"a trained detector ({path})")
        return cls(network, config["model"], config["class_names"], settings, selection, device)


def load(text: str, device: torch.device | str = "cpu") -> FasterRCNNDetector:
    """A detector by what stands after `torchvision:` in its name.

    Args:
        text: `NAME`, random weights; `NAME@FILE`, a state dict of torchvision's (.pth or .safetensors); `NAME@FOLDER`,
            what `uniter detector train` wrote; `NAME@DEFAULT` (or another of torchvision's names of weights), which
            torchvision downloads. Then settings, such as `,threshold=0.3,min_size=480`.
        device: where to compute.

    Raises:
        ValueError: there is no such network, weights or setting.
    """
    where = f"torchvision:{text}"
    full, given = read_name(text)
    name, _, weights = full.partition("@")
    if weights and Path(weights).is_dir():
        found = FasterRCNNDetector.load(weights, device, given)
        if found.name != name:
            raise ValueError(f"{weights} holds a {found.name}, not a {name}")
        return found
    known = [field for kind in (Selection, FasterRCNNSettings) for field in kind.__dataclass_fields__]
    selection, settings = take_settings(Selection(), given, where), take_settings(FasterRCNNSettings(), given, where)
    refuse_rest(given, known, where)
    if weights and Path(weights).is_file():
        state = _state_dict(Path(weights))
        classes = len(state["roi_heads.box_predictor.cls_score.bias"])
        network = build(name, classes, settings)
        _fill(network.model, state, weights, name)
    else:
        network = build(name, None, settings, weights or None)
        classes = network.model.roi_heads.box_predictor.cls_score.out_features
    return FasterRCNNDetector(network, name, _class_names(name, classes), settings, selection, device)


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state["roi_heads.box_predictor.cls_score.bias"].shape  # noqa: B018 - or it is something else
    except Exception as error:
        raise ValueError(
            f"{path} is no state dict of a Faster R-CNN of torchvision's ({type(error).__name__}: {error}): give a "
            "file that torch.save or safetensors wrote of `model.state_dict()`"
        ) from error
    return state


def _fill(model: nn.Module, state: dict[str, Tensor], path: str, name: str) -> None:
    """Load the weights; frozen normalisations lack the count of batches, which is of no use."""
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {name}: {str(error).splitlines()[-1].strip()}") from None
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{path} does not fit {name}: it lacks {missing[:3]}, and has {unexpected[:3]} beyond it")


def _class_names(name: str, classes: int) -> list[str]:
    """Those of torchvision's own weights where the number fits, or plain numbers."""
    from torchvision.models import get_model_weights

    known = next(iter(get_model_weights(name))).meta["categories"]
    return [BACKGROUND, *(known[1:] if len(known) == classes else [f"class {n}" for n in range(1, classes)])]
