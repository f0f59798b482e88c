"""Bottom-up attention: the Faster R-CNN of Visual Genome whose features UNITER was published with.

Anderson et al., CVPR 2018. The network is in `bottom_up_network`, what its makers did around it in `bottom_up_rules`,
the files of its weights in `bottom_up_weights`. Mode `port` gives the boxes of the public PyTorch port, without its
faults: it saw local pictures with red and blue exchanged, fractions of boxes were wrong for two pictures and failed for
three, too few regions raised an error or repeated the picture before, given boxes raised an error, and a picture's
regions depended on what it was batched with.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from uniter.files import read_json
from uniter.regions import bottom_up_weights
from uniter.regions.bottom_up_network import BottomUpConfig, BottomUpNetwork
from uniter.regions.bottom_up_rules import (
    MODES,
    Chosen,
    Mode,
    Scaled,
    choose_official,
    choose_port,
    propose,
    scale,
)
from uniter.regions.choosing import given_boxes
from uniter.regions.hub import HUB
from uniter.regions.pictures import upright_rgb
from uniter.regions.regions import Regions

PREFIX = "bottom-up"
SIZES = "bottom_up.json"  # beside the weights, of a network of other sizes
VOCABULARIES = ("objects_vocab.txt", "attributes_vocab.txt")  # beside the weights; a line a name, synonyms after commas
PRECISIONS = ("float32", "bfloat16")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Candidates:
    """What the network says about places of one picture.

    Args:
        boxes: (R, 4) in scaled pixels.
        objectness: (R,) logits of proposals; 0 of given boxes.
        features: (R, F), of the boxes as they are here.
        classes: (R, classes + 1) logits, background last.
    """

    boxes: Tensor
    objectness: Tensor
    features: Tensor
    classes: Tensor


class BottomUpDetector:
    """The detector of bottom-up attention, ready for use.

    Args:
        network: with trained weights; it is folded and used without gradients.
        mode: how pictures are scaled and regions chosen; one of `MODES` or another.
        fingerprint: what the regions are marked with.
        class_names: index 0 is `background`.
        attribute_names: without "none".
        device: where to compute.
        precision: `float32`, or `bfloat16` for the fifth stage, which is nine tenths of the work; the rest stays in
            float32, or other boxes would be proposed.
    """

    def __init__(
        self,
        network: BottomUpNetwork,
        mode: Mode,
        fingerprint: str,
        class_names: list[str],
        attribute_names: list[str],
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.device = torch.device(device)
        self.network = network.fold().to(self.device).to(memory_format=torch.channels_last)  # pyrefly: ignore
        self.network.roi_heads.res5.to(getattr(torch, precision))
        self.mode = mode
        self.fingerprint = fingerprint
        self.class_names = class_names
        self.attribute_names = {"attribute": attribute_names}

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        return self.network.config.feature_size

    def detect(self, images: list[Image.Image]) -> list[Regions]:
        """The regions of each image, most confident first.

        Images are looked at one by one: the border that pads them to one size would change their regions.

        Args:
            images: pictures of any size and mode.

        Returns:
            Of each image 10 to 100 regions (`port`: 36, or fewer where there are no more). Features are those of the
            proposals; so are the boxes, but `port` gives mended ones, as it always did.
        """
        return [regions for regions, _ in self.detect_with_attributes(images)]

    @torch.inference_mode()
    def detect_with_attributes(self, images: list[Image.Image]) -> list[tuple[Regions, dict[str, np.ndarray]]]:
        """As `detect`, and of each region (R, A) probabilities of its `attribute`, among those that are not "none"."""
        found = []
        for image in images:
            image = upright_rgb(image)
            with self._exact():
                scaled = scale(image, self.mode, self.device)
                (candidates,) = self.candidates(scaled.pixels[None], [scaled])
                found.append(self._regions(image, candidates, self.choose(candidates, scaled)))
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
        image = upright_rgb(image)
        given = torch.from_numpy(given_boxes(boxes, image.width, image.height)).to(self.device)
        with self._exact():
            scaled = scale(image, self.mode, self.device)
            (candidates,) = self.candidates(scaled.pixels[None], [scaled], [given / given.new_tensor(scaled.back * 2)])
            scores = candidates.classes.softmax(1)[:, :-1].amax(1)
            chosen = Chosen(torch.arange(len(given), device=self.device), given, scores, 1.0)
            return self._regions(image, candidates, chosen)[0]

    def candidates(self, pixels: Tensor, pictures: list[Scaled], given: list[Tensor] | None = None) -> list[Candidates]:
        """What the network says about each picture's proposals, or about given boxes.

        Args:
            pixels: (B, 3, H, W), the pictures' pixels padded with 0 to one size.
            pictures: B of them.
            given: of each picture (R, 4) boxes in scaled pixels.
        """
        maps = self.network.maps(pixels.contiguous(memory_format=torch.channels_last))
        if given is None:
            logits, deltas = self.network.propose(maps)
            anchors = self.network.anchors(*maps.shape[2:])
            each = zip(logits, deltas, pictures, strict=True)
            places = [propose(said, moves, anchors, one, self.mode) for said, moves, one in each]
        else:
            places = [(boxes, boxes.new_zeros(len(boxes))) for boxes in given]
        features = self.network.describe(maps, [boxes for boxes, _ in places])
        parts = [len(boxes) for boxes, _ in places]
        both = zip(features.split(parts), self.network.classes(features).split(parts), strict=True)
        return [Candidates(*place, *said) for place, said in zip(places, both, strict=True)]

    def choose(self, candidates: Candidates, scaled: Scaled) -> Chosen:
        """The regions among a picture's proposals, as the mode says."""
        probs = candidates.classes.softmax(1)
        if self.mode.choose == "official":
            return choose_official(candidates.boxes, probs, scaled, self.mode)
        deltas = self.network.deltas(candidates.features)
        return choose_port(candidates.boxes, probs, deltas, scaled, self.mode)

    def _regions(
        self, image: Image.Image, candidates: Candidates, chosen: Chosen
    ) -> tuple[Regions, dict[str, np.ndarray]]:
        features, classes = candidates.features[chosen.rows], candidates.classes[chosen.rows]
        probs = classes.softmax(1).roll(1, dims=1)  # background to the front
        attributes = self.network.attributes(features, classes)[:, :-1].softmax(1)
        limit = np.array([image.width, image.height] * 2, dtype=np.float32)  # scaled back, a box may be a rounding over
        regions = Regions(
            features=features.cpu().numpy(),
            boxes=np.minimum(chosen.boxes.float().cpu().numpy(), limit),
            width=image.width,
            height=image.height,
            class_probs=probs.cpu().numpy(),
            scores=chosen.scores.cpu().numpy(),
        )
        return regions, {"attribute": attributes.cpu().numpy()}

    def _exact(self) -> AbstractContextManager:
        """Without the shorter numbers that a GPU's convolutions use if they are let: they propose other boxes."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)

    @classmethod
    def load(
        cls,
        path: str | Path,
        mode: str | Mode = "official",
        precision: str = "float32",
        device: torch.device | str = "cpu",
        config: BottomUpConfig | None = None,
    ) -> "BottomUpDetector":
        """The detector of a file of weights.

        The file's form is known by its name's ending (`bottom_up_weights`). Names of classes and attributes are read
        from `objects_vocab.txt` and `attributes_vocab.txt` beside it, if they are there.

        Args:
            path: the file, or a folder with one.
            mode: `official`, `port` or settings of one's own.
            precision: as of the class.
            device: where to compute.
            config: the network's sizes; by default those in `bottom_up.json` beside the file, or the published ones.

        Raises:
            ValueError: no such file, damaged, or the weights of another network; names what does not fit.
        """
        path = _the_file(Path(path))
        config = config or _sizes(path.parent / SIZES)
        weights = bottom_up_weights.read_weights(path)
        classes, attributes = (path.parent / name for name in VOCABULARIES)
        names = _names(classes, config.classes, "class"), _names(attributes, config.attributes, "attribute")
        settings = mode if isinstance(mode, Mode) else MODES[mode]
        try:
            return cls.of_weights(weights, config, settings, precision, device, *names)
        except ValueError as error:
            raise ValueError(f"{path}: {error}, or say other sizes in {SIZES} beside it") from None

    @classmethod
    def of_weights(
        cls,
        weights: dict[str, Tensor],
        config: BottomUpConfig,
        mode: Mode,
        precision: str = "float32",
        device: torch.device | str = "cpu",
        class_names: list[str] | None = None,
        attribute_names: list[str] | None = None,
    ) -> "BottomUpDetector":
        """The detector of tensors by the port's names; arguments as of `load`, numbered names by default.

        Raises:
            ValueError: a tensor is missing, unknown or of another shape.
        """
        with torch.device("meta"):  # no use drawing 65 million numbers
            network = BottomUpNetwork(config)
        state = network.state_dict()
        expected = {name: value.shape for name, value in state.items() if not name.endswith("num_batches_tracked")}
        bottom_up_weights.check(weights, expected)
        fingerprint = _fingerprint(weights, config, mode, precision)
        network.load_state_dict(weights, strict=False, assign=True)
        class_names = ["background", *(class_names or _numbered("class", config.classes))]
        attribute_names = attribute_names or _numbered("attribute", config.attributes)
        return cls(network, mode, fingerprint, class_names, attribute_names, device, precision)


def load(name: str, device: torch.device | str = "cpu") -> BottomUpDetector:
    """The detector by what is typed for it.

    Args:
        name: `bottom-up:FILE`, or `bottom-up-port:FILE` for mode `port`; `-bf16` before the colon computes nine tenths
            in bfloat16. `hub:OWNER/NAME` in the place of a file downloads it from the Hugging Face hub.
        device: where to compute.

    Raises:
        ValueError: there is no such kind, or as `BottomUpDetector.load`.
    """
    kind, _, file = name.partition(":")
    kinds = {
        f"{PREFIX}{'' if mode == 'official' else f'-{mode}'}{'-bf16' if precision == 'bfloat16' else ''}": (
            mode,
            precision,
        )
        for mode in MODES
        for precision in PRECISIONS
    }
    if kind not in kinds or not file:
        raise ValueError(f"there is no detector {name!r}: give one of {', '.join(f'{kind}:FILE' for kind in kinds)}")
    path = _downloaded(file.removeprefix(HUB)) if file.startswith(HUB) else Path(file)
    mode, precision = kinds[kind]
    return BottomUpDetector.load(path, mode, precision, device)


def _the_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = [file for file in sorted(path.iterdir()) if file.suffix in bottom_up_weights.SUFFIXES]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{path}: a folder with one file of weights is needed, found {found}: give the file")
    return files[0]


def _sizes(path: Path) -> BottomUpConfig:
    if not path.is_file():
        return BottomUpConfig()
    said = read_json(path)
    known = [field.name for field in fields(BottomUpConfig)]
    for name, value in said.items():
        if name not in known or not isinstance(value, int) or value < 1:
            raise ValueError(f"{path}: {name}: {value!r} is no size; sizes are whole numbers of {', '.join(known)}")
    try:
        return BottomUpConfig(**said)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _numbered(kind: str, count: int) -> list[str]:
    return [f"{kind} {number}" for number in range(1, count + 1)]


def _names(path: Path, count: int, kind: str) -> list[str]:
    """The first name of each line, or numbered ones if there is no file."""
    if not path.is_file():
        return _numbered(kind, count)
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) != count:
        raise ValueError(f"{path}: {len(lines)} lines for {count} names: take the list that belongs to the weights")
    return [line.partition(",")[0].strip() for line in lines]


def _fingerprint(weights: dict[str, Tensor], config: BottomUpConfig, mode: Mode, precision: str) -> str:
    settings = {"config": asdict(config), "mode": asdict(mode), "precision": precision}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(f"{name} {tuple(weights[name].shape)}".encode())
        digest.update(weights[name].numpy().data)
    label = next((name for name, known in MODES.items() if known == mode), "own")
    return f"{PREFIX}-{label}-{digest.hexdigest()[:16]}"


def _downloaded(repository: str) -> Path:
    """The file of weights in a repository of the hub, with the lists of names beside it if it has them."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def fetch(name: str, get: Callable[..., str] = hf_hub_download) -> Path | None:
        try:
            return Path(get(repository, name))
        except EntryNotFoundError:
            return None

    try:
        for name in (SIZES, *VOCABULARIES):
            fetch(name)
        path = next((path for name in _HUB_FILES if (path := fetch(name)) is not None), None)
    except Exception as error:  # no such repository, no network, no right to it
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{repository} cannot be had from the Hugging Face hub ({type(error).__name__}: {reason}): give a file "
            "instead"
        ) from None
    if path is None:
        raise ValueError(
            f"{repository} on the Hugging Face hub has none of {', '.join(_HUB_FILES)}: give a file instead"
        )
    return path
