"""What detectors of other people's networks share: settings in a name, which boxes are kept, and a fingerprint."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from uniter.regions.detectors import vision_ops

S = TypeVar("S", bound=Any)
HALF_LIMIT = 65504.0  # a store keeps float16


@dataclass(frozen=True)
class Selection:
    """Which of a detector's candidates become regions.

    Args:
        threshold: confidence from which a region is kept beyond the least number.
        least: regions that a picture has whatever their confidence, if the detector offers so many.
        most: regions of a picture at the most.
        overlap: intersection over union above which the less confident of two regions is dropped, whatever their
            classes.

    Raises:
        ValueError: a number is out of its range.
    """

    threshold: float = 0.2
    least: int = 10
    most: int = 100
    overlap: float = 0.6

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(
                f"a picture needs at least one region, and not more at the least than at the most: got least "
                f"{self.least}, most {self.most}"
            )
        for name in ("threshold", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a number between 0 and 1, got {getattr(self, name)}")

    def choose(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Places of the regions to keep, most confident first.

        Args:
            boxes: (N, 4) x1 y1 x2 y2.
            scores: (N,) confidences.
        """
        order = scores.argsort(descending=True, stable=True)
        kept = order[vision_ops().nms(boxes[order].float(), scores[order].float(), self.overlap)]
        count = min(max(int((scores[kept] >= self.threshold).sum()), self.least), self.most)
        return kept[:count]


def read_name(text: str) -> tuple[str, dict[str, str]]:
    """The parts of a detector's name `NAME,key=value,key=value`.

    Raises:
        ValueError: a part after the first is no `key=value`.
    """
    name, *parts = text.split(",")
    settings = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"detector {text!r}: {part!r} is no setting, write key=value (a path must hold no comma)")
        settings[key.strip()] = value.strip()
    return name.strip(), settings


def take_settings(base: S, given: dict[str, str], where: str) -> S:
    """A dataclass of numbers with those of the settings that are fields of it, taken out of `given`.

    Raises:
        ValueError: a value is not the number that is needed.
    """
    found = {}
    for field in fields(base):
        if field.name in given:
            text = given.pop(field.name)
            try:
                found[field.name] = (float if field.type in (float, "float") else int)(text)
            except ValueError:
                raise ValueError(f"{where}: {field.name} is a number, got {text!r}") from None
    return replace(base, **found)


def refuse_rest(given: Mapping[str, str], known: Sequence[str], where: str) -> None:
    """Refuse settings that nobody took.

    Raises:
        ValueError: there is one; the text names those that there are.
    """
    if given:
        raise ValueError(f"{where} has no setting {min(given)!r}: there are {', '.join(known)}")


def fingerprint_of(kind: str, settings: Mapping[str, Any], *modules: nn.Module) -> str:
    """What regions are marked with: changes with every weight and every setting."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            if value.numel():
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"{kind}-{digest.hexdigest()[:16]}"


def groups(images: Sequence[Image.Image], device: torch.device) -> list[list[int]]:
    """Places of the images that are looked at together.

    On a processor each alone, which is no slower and makes a region independent of its neighbours to the bit; on a GPU
    those of one size, so that nothing is padded and neighbours change no more than the last digits.
    """
    if device.type == "cpu":
        return [[place] for place in range(len(images))]
    alike: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        alike.setdefault(image.size, []).append(place)
    return list(alike.values())


def given_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes that a caller gave, (R, 4) float32 within the picture, each side at least a pixel long.

    Raises:
        ValueError: they have another shape, are not finite, or none is given.
    """
    boxes = np.asarray(boxes, dtype=np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) == 0 or not np.isfinite(boxes).all():
        raise ValueError(f"boxes must be finite and (regions, 4) pixels x1 y1 x2 y2, got shape {boxes.shape}")
    return clip(torch.from_numpy(boxes), width, height).numpy()


def clip(boxes: Tensor, width: float, height: float) -> Tensor:
    """Boxes (N, 4) within a picture, each side at least a pixel long."""
    ends = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    low = torch.minimum(boxes[:, :2].clamp(min=0), (ends - 1).clamp(min=0))
    high = torch.minimum(torch.maximum(boxes[:, 2:], low + 1), ends)
    return torch.cat([low, high], dim=1)


def half(features: Tensor) -> np.ndarray:
    """Features as a store keeps them: float16, what is beyond its range at its ends."""
    return features.float().clamp(-HALF_LIMIT, HALF_LIMIT).half().cpu().numpy()
