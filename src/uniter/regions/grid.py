"""A plain grid as a detector: the cells of a picture as its regions, for comparison with regions that were found.

A cell's feature is what its pixels are like (a thumbnail, the colours' means, deviations and histograms), or what a
frozen vision transformer sees there. There are no classes and no confidences.
"""

import re
from typing import Any

import numpy as np
import torch
from PIL import Image

from uniter.regions.choosing import fingerprint_of, given_boxes, half
from uniter.regions.frozen_vit import FrozenViT
from uniter.regions.pictures import upright_rgb
from uniter.regions.regions import Regions

_THUMBNAIL, _BINS, _MOST = 4, 8, 100


class Grid:
    """The cells of a grid over the picture, row by row.

    Args:
        rows: of the grid.
        columns: of the grid.
        vit: describes the cells. Or None: their pixels do.

    Raises:
        ValueError: the grid has no cells, or more than a model reads.
    """

    def __init__(self, rows: int, columns: int, vit: FrozenViT | None = None) -> None:
        if not 1 <= rows * columns <= _MOST:
            raise ValueError(f"a grid of {columns}x{rows} has {rows * columns} cells: give one of 1 to {_MOST}")
        self.rows, self.columns, self.vit = rows, columns, vit
        self.class_names = ["background"]
        said: dict[str, Any] = {"rows": rows, "columns": columns, "thumbnail": _THUMBNAIL, "bins": _BINS}
        if vit is not None:
            said["vit"] = vit.settings
        self.fingerprint = fingerprint_of("grid", said, *([] if vit is None else [vit.model]))
        self.notes = {
            "detector": f"grid of {columns} columns and {rows} rows",
            "features": "thumbnail and colours of the cell" if vit is None else f"{vit.kind}, pooled in the cell",
            "class_probs": "none",
        }

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        return 3 * (_THUMBNAIL * _THUMBNAIL + 2 + _BINS) if self.vit is None else self.vit.feature_size

    def detect(self, images: list[Image.Image]) -> list[Regions]:
        """The cells of each image; no class probabilities, no confidences."""
        return [self.features(image, self._cells(*upright_rgb(image).size)) for image in images]

    def features(self, image: Image.Image, boxes: np.ndarray) -> Regions:
        """The regions at given boxes, in that order.

        Args:
            image: a picture of any size and mode.
            boxes: (R, 4) pixels x1 y1 x2 y2 of the upright picture; clipped to it.

        Raises:
            ValueError: boxes have another shape, or none is given.
        """
        image = upright_rgb(image)
        boxes = given_boxes(boxes, *image.size)
        if self.vit is None:
            described = torch.from_numpy(np.stack([_described(image, box) for box in boxes.tolist()]))
        else:
            described = self.vit.describe(image, boxes)
        return Regions(half(described), boxes, image.width, image.height)

    def _cells(self, width: int, height: int) -> np.ndarray:
        x, y = np.linspace(0, width, self.columns + 1), np.linspace(0, height, self.rows + 1)
        cells = [[x[i], y[j], x[i + 1], y[j + 1]] for j in range(self.rows) for i in range(self.columns)]
        return np.array(cells, np.float32)


def _described(image: Image.Image, box: list[float]) -> np.ndarray:
    """(F,) float32 of one box, about -1 to 1: thumbnail; of each colour mean and deviation; of each a histogram."""
    x1, y1, x2, y2 = (round(value) for value in box)
    x1, y1 = min(x1, image.width - 1), min(y1, image.height - 1)
    cell = image.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))
    pixels = np.asarray(cell, np.float32).reshape(-1, 3) / 255
    thumbnail = np.asarray(cell.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), np.float32) / 255
    bins = np.minimum((pixels * _BINS).astype(int), _BINS - 1)
    histogram = np.stack([np.bincount(bins[:, colour], minlength=_BINS) for colour in range(3)]) / len(pixels)
    parts = (2 * thumbnail - 1, 2 * pixels.mean(0) - 1, pixels.std(0), histogram)
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)


def load(text: str, device: torch.device | str = "cpu") -> Grid:
    """A grid by what stands after `grid:` in its name: `7x7` (columns x rows), or `7x7@FOLDER` of a vision transformer.

    Raises:
        ValueError: it is no such name.
    """
    shape, at, folder = text.partition("@")
    found = re.fullmatch(r"(\d+)x(\d+)", shape)
    if found is None or (at and not folder):
        raise ValueError(f"grid:{text}: give columns x rows, such as grid:7x7, or grid:7x7@FOLDER of a transformer")
    return Grid(int(found[2]), int(found[1]), FrozenViT(folder, device) if folder else None)
