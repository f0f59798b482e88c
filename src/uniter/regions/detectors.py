"""Detectors: from a picture to regions. What a detector is, and how one is found by its name."""

import os
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from uniter.regions.regions import Regions

SHIPPED = {"scenes": Path(__file__).parent.parent / "assets" / "detector"}


@runtime_checkable
class Detector(Protocol):
    """What finds regions: anything with these names will do.

    Attributes:
        feature_size: numbers in a region's feature.
        class_names: names of the columns of `class_probs`; index 0 is `background`.
        fingerprint: changes whenever the regions would.
    """

    @property
    def feature_size(self) -> int: ...  # noqa: D102

    @property
    def class_names(self) -> list[str]: ...  # noqa: D102

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def detect(self, images: list[Image.Image]) -> list[Regions]:
        """The regions of each image, most confident first; what it is batched with changes nothing."""
        ...

    def features(self, image: Image.Image, boxes: np.ndarray) -> Regions:
        """The regions at given boxes, (R, 4) pixels x1 y1 x2 y2, in that order."""
        ...


def vision_ops() -> ModuleType:
    """The module `torchvision.ops`.

    Raises:
        ImportError: torchvision was built for another torch; the text names the repair.
    """
    try:
        from torchvision import ops
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"torch {torch.__version__} and the installed torchvision do not fit each other ({error}): repair with "
            "`pip install --upgrade torch torchvision`"
        ) from error
    return ops


def checked_boxes(boxes: np.ndarray) -> np.ndarray:
    """Boxes that were given to a detector, (R, 4) float32.

    Raises:
        ValueError: they have another shape, are not finite, or there is none.
    """
    boxes = np.asarray(boxes, dtype=np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) == 0 or not np.isfinite(boxes).all():
        raise ValueError(f"boxes must be finite and (regions, 4) pixels x1 y1 x2 y2, got shape {boxes.shape}")
    return boxes


def load_detector(name_or_folder: str | os.PathLike = "scenes", device: torch.device | str | None = None) -> Detector:
    """A trained detector, by name or by folder.

    Args:
        name_or_folder: `scenes` (ships with the package), a folder that `SmallDetector.save` wrote, or
            `bottom-up:FILE` (`bottom_up.load`).
        device: where to compute; by default the first GPU, or else the processor.

    Raises:
        ValueError: there is no such detector.
    """
    from uniter.regions import bottom_up
    from uniter.regions.small import SmallDetector

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if str(name_or_folder).startswith(bottom_up.PREFIX) and ":" in str(name_or_folder):
        return bottom_up.load(str(name_or_folder), device)
    folder = SHIPPED.get(str(name_or_folder), Path(name_or_folder))
    if not folder.is_dir():
        raise ValueError(
            f"there is no detector {str(name_or_folder)!r}: give one of {', '.join(SHIPPED)}, "
            "a folder with config.json and model.safetensors, or bottom-up:FILE"
        )
    return SmallDetector.load(folder, device)
