"""Detectors: from a picture to regions. What a detector is, and how one is found by its name."""

import json
import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from uniter.regions.regions import Regions

SHIPPED = {"scenes": Path(__file__).parent.parent / "assets" / "detector"}
# What stands before the colon of a name -> the module whose `load` reads what stands behind it.
KINDS = {"torchvision": "faster_rcnn", "huggingface": "hugging_face", "grid": "grid"}
# What the config.json of a folder says its format is -> the module and class whose `load` reads the folder.
FORMATS = {
    "uniter-small-detector": ("small", "SmallDetector"),
    "uniter-torchvision-detector": ("faster_rcnn", "FasterRCNNDetector"),
}


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


def load_detector(name_or_folder: str | os.PathLike = "scenes", device: torch.device | str | None = None) -> Detector:
    """A detector, by name or by folder. Nothing is downloaded unless the name asks for it (docs/detectors.md).

    Args:
        name_or_folder: `scenes` (ships with the package), a folder that `uniter detector train` wrote, or a kind, a
            colon and what that kind reads, such as `torchvision:fasterrcnn_resnet50_fpn_v2@FILE` or `bottom-up:FILE`.
        device: where to compute; by default the first GPU, or else the processor.

    Raises:
        ValueError: there is no such detector.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = str(name_or_folder)
    kind, colon, rest = name.partition(":")
    if colon and kind.startswith("bottom-up"):  # one of several modes, which it knows
        return import_module("uniter.regions.bottom_up").load(name, device)
    if colon and kind in KINDS:
        return import_module(f"uniter.regions.{KINDS[kind]}").load(rest, device)
    folder = SHIPPED.get(name, Path(name_or_folder))
    if not folder.is_dir():
        raise ValueError(
            f"there is no detector {name!r}: give {', '.join(SHIPPED)}, a folder with config.json and "
            f"model.safetensors, or one of {', '.join(f'{kind}:...' for kind in (*KINDS, 'bottom-up'))}"
        )
    config = _config(folder)
    if "model_type" in config:
        raise ValueError(f"{folder} holds a model of transformers': give it as huggingface:{folder}")
    module, reader = FORMATS.get(config.get("format", ""), FORMATS["uniter-small-detector"])
    return getattr(import_module(f"uniter.regions.{module}"), reader).load(folder, device)


def _config(folder: Path) -> dict[str, Any]:
    """A folder's config.json; what is wrong with the file is its reader's to say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
