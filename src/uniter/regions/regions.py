"""Regions: the places that a detector found in one image, and what it saw there. Units are said here, once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The regions of one image.

    Args:
        features: (R, F) float16 or float32, one feature vector a region.
        boxes: (R, 4) float32, pixels x1 y1 x2 y2 in the image as a viewer shows it (after EXIF rotation).
        width: image width in pixels.
        height: image height in pixels.
        class_probs: (R, C) float32 or float16, the detector's class distribution; column 0 is background. Or None.
        scores: (R,) float32 confidences, highest first. Or None.

    Raises:
        ValueError: shapes disagree, there is no region, or a value is not finite.
    """

    features: np.ndarray
    boxes: np.ndarray
    width: float
    height: float
    class_probs: np.ndarray | None = None
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.boxes.shape != (len(self.features), 4):
            raise ValueError(
                "features must be (regions, size) and boxes (regions, 4), "
                f"got {self.features.shape} and {self.boxes.shape}"
            )
        if len(self.features) == 0:
            raise ValueError(
                "an image needs at least one region: use the whole picture as a region if nothing was found"
            )
        if not (self.width > 0 and self.height > 0):
            raise ValueError(f"image width and height must be positive, got {self.width} x {self.height}")
        for name in ("class_probs", "scores"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.features):
                raise ValueError(f"{name} has {len(value)} rows for {len(self.features)} regions")
        if not np.isfinite(self.features).all() or not np.isfinite(self.boxes).all():
            raise ValueError("features or boxes hold NaN or infinity: extract this image again")

    def __len__(self) -> int:
        return len(self.features)

    def fractions(self) -> np.ndarray:
        """The seven location numbers [x1, y1, x2, y2, w, h, w*h] as fractions of the image, (R, 7) float32."""
        scale = np.array([self.width, self.height, self.width, self.height], dtype=np.float32)
        corners = self.boxes.astype(np.float32) / scale
        size = corners[:, 2:] - corners[:, :2]
        return np.concatenate([corners, size, size[:, :1] * size[:, 1:]], axis=1)

    def take(self, index: np.ndarray) -> "Regions":
        """The regions at these positions (any NumPy row index), in that order."""
        pick = lambda array: None if array is None else array[index]
        return Regions(
            self.features[index], self.boxes[index], self.width, self.height, pick(self.class_probs), pick(self.scores)
        )


def concatenate(parts: Sequence[Regions]) -> Regions:
    """The regions of several images (NLVR2) or several stores of one image (VCR), one after the other, as if of one.

    Boxes of one size of image stay in pixels; else each becomes fractions of its own image, in an image of size 1 x 1.
    Class probabilities are kept if all parts have them; confidences, which must fall from first to last, are not.

    Raises:
        ValueError: no parts, or feature sizes differ.
    """
    if not parts:
        raise ValueError("nothing to concatenate: give the regions of at least one image")
    if len(sizes := {part.features.shape[1] for part in parts}) > 1:
        raise ValueError(f"regions of different detectors cannot be joined: feature sizes {sorted(sizes)}")
    probabilities = [part.class_probs for part in parts if part.class_probs is not None]
    alike = len({(part.width, part.height) for part in parts}) == 1
    width, height = (parts[0].width, parts[0].height) if alike else (1, 1)
    return Regions(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.boxes if alike else part.fractions()[:, :4] for part in parts]),
        width,
        height,
        np.concatenate(probabilities) if len(probabilities) == len(parts) else None,
    )
