"""Regions: the places that a detector found in one image, and what it saw there. Units are said here, once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class TopProbs:
    """Class distributions of which the largest probabilities were kept; the others share what is left evenly.

    Args:
        classes: (R, K) whole numbers, the columns of the largest.
        probs: (R, K) float16, their probabilities.
        rest: (R,) float32, the others' mass together.
        num_classes: columns of the whole distribution.
    """

    classes: np.ndarray
    probs: np.ndarray
    rest: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C) of the whole distributions."""
        return len(self.classes), self.num_classes

    def write(self, out: np.ndarray) -> None:
        """Write the whole distributions into (R, C) float32: a batch's own rows, which spares a copy."""
        assert out.shape == self.shape, f"rows of shape {out.shape} for {self.shape}"
        out[:] = (self.rest / max(self.num_classes - self.classes.shape[1], 1))[:, None]
        out[np.arange(len(out))[:, None], self.classes] = self.probs

    def whole(self) -> np.ndarray:
        """(R, C) float32, the whole distributions."""
        out = np.empty(self.shape, np.float32)
        self.write(out)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class ByteFeatures:
    """Features of which each region's numbers were rounded to 256 even steps from the least to the largest of them.

    Args:
        codes: (R, F) uint8, how many steps above the least.
        steps: (R,) float32, the size of a step.
        lows: (R,) float32, the least.
    """

    codes: np.ndarray
    steps: np.ndarray
    lows: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "ByteFeatures":
        """Features (R, F) rounded; no number moves by more than half a step, 1/510 of its region's range."""
        wide = features.astype(np.float32)
        lows = wide.min(1)
        steps = (wide.max(1) - lows) / np.float32(255)
        codes = np.rint((wide - lows[:, None]) / np.where(steps > 0, steps, 1)[:, None])
        return cls(codes.astype(np.uint8), steps, lows)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """(R, F)."""
        return self.codes.shape

    def write(self, out: np.ndarray) -> None:
        """Write the numbers into (R, F) float32: a batch's own rows, which spares a copy."""
        import torch  # multiplies bytes twice as fast as NumPy

        assert out.shape == self.shape, f"rows of shape {out.shape} for {self.shape}"
        rows, column = torch.from_numpy(out), lambda numbers: torch.from_numpy(numbers)[:, None]
        rows.copy_(torch.from_numpy(self.codes)).mul_(column(self.steps))
        if self.lows.any():  # of rectified features the least is nearly always 0
            rows.add_(column(self.lows))

    def whole(self) -> np.ndarray:
        """(R, F) float32."""
        out = np.empty(self.shape, np.float32)
        self.write(out)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The regions of one image.

    Args:
        features: (R, F) float16 or float32, one feature vector a region.
        boxes: (R, 4) float32, pixels x1 y1 x2 y2 in the image as a viewer shows it (after EXIF rotation).
        width: image width in pixels; 1 where the size is not known, boxes are then fractions of the image.
        height: image height in pixels; as width.
        class_probs: (R, C) float32 or float16, the detector's class distribution; column 0 is background. Or None.
        scores: (R,) float32 confidences, highest first from our detectors. Or None.
        locations: (R, 6) float32 or float16, fractions x1 y1 x2 y2 w h as somebody else stored them, where the boxes
            would not give the same numbers to the bit. Or None.

    Raises:
        ValueError: shapes disagree, there is no region, or a value is not finite.
    """

    features: np.ndarray
    boxes: np.ndarray
    width: float
    height: float
    class_probs: np.ndarray | None = None
    scores: np.ndarray | None = None
    locations: np.ndarray | None = None

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
        if self.locations is not None and self.locations.shape != (len(self.features), 6):
            raise ValueError(f"locations must be (regions, 6), got {self.locations.shape}")
        if not all(_finite(array) for array in (self.features, self.boxes, self.locations) if array is not None):
            raise ValueError("features or boxes hold NaN or infinity: extract this image again")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def kept_features(self) -> "np.ndarray | ByteFeatures":
        """`features` as they are kept: bytes of a compact store stay so, until a batch asks for the numbers."""
        return self.features

    @property
    def kept_class_probs(self) -> "np.ndarray | TopProbs | None":
        """`class_probs` as they are kept: what a store cut to the largest stays so, until a batch asks for all."""
        return self.class_probs

    def fractions(self, out: np.ndarray | None = None) -> np.ndarray:
        """The seven location numbers [x1, y1, x2, y2, w, h, w*h] as fractions of the image, (R, 7) float32.

        Args:
            out: (R, 7) float32 to write them into, a batch's own rows. Or None.
        """
        numbers = np.empty((len(self), 7), np.float32) if out is None else out
        if self.locations is not None:
            numbers[:, :6] = self.locations
        else:
            fractions(self.boxes, np.array([self.width, self.height], dtype=np.float32), numbers)
            return numbers
        np.multiply(numbers[:, 4], numbers[:, 5], out=numbers[:, 6])
        return numbers

    def take(self, index: np.ndarray) -> "Regions":
        """The regions at these positions (any NumPy row index), in that order."""
        pick = lambda array: None if array is None else array[index]
        return Regions(
            self.features[index],
            self.boxes[index],
            self.width,
            self.height,
            pick(self.class_probs),
            pick(self.scores),
            pick(self.locations),
        )


class StoredRegions(Regions):
    """Regions that were checked when they were written or read: nothing is looked at again.

    Args:
        features: as in `Regions`, or rounded to bytes.
        class_probs: as in `Regions`, or their largest, or a function that reads them when they are first asked for;
            most readers of regions never do, and they cost as much as the features.
    """

    _features: np.ndarray | ByteFeatures
    _class_probs: np.ndarray | TopProbs | Callable[[], np.ndarray | TopProbs | None] | None

    def __init__(
        self,
        features: np.ndarray | ByteFeatures,
        boxes: np.ndarray,
        width: float,
        height: float,
        class_probs: np.ndarray | TopProbs | Callable[[], np.ndarray | TopProbs | None] | None = None,
        scores: np.ndarray | None = None,
        locations: np.ndarray | None = None,
    ) -> None:
        put = object.__setattr__  # frozen
        put(self, "_features", features)
        put(self, "boxes", boxes)
        put(self, "width", width)
        put(self, "height", height)
        put(self, "scores", scores)
        put(self, "locations", locations)
        put(self, "_class_probs", class_probs)

    @property
    def features(self) -> np.ndarray:  # pyrefly: ignore
        """(R, F), one feature vector a region."""
        if isinstance(self._features, ByteFeatures):
            object.__setattr__(self, "_features", self._features.whole())
        return self._features  # pyrefly: ignore[bad-return]

    @property
    def kept_features(self) -> np.ndarray | ByteFeatures:
        """`features` as they are kept."""
        return self._features

    @property
    def class_probs(self) -> np.ndarray | None:  # pyrefly: ignore
        """(R, C), the detector's class distribution; column 0 is background. Or None."""
        probs = self.kept_class_probs
        if isinstance(probs, TopProbs):
            probs = probs.whole()
            object.__setattr__(self, "_class_probs", probs)
        return probs

    @property
    def kept_class_probs(self) -> np.ndarray | TopProbs | None:
        """`class_probs` as they are kept."""
        probs = self._class_probs
        if callable(probs):
            probs = probs()
            object.__setattr__(self, "_class_probs", probs)
        return probs

    def __reduce__(self) -> tuple:
        probs = self.kept_class_probs
        kept = (self._features, self.boxes, self.width, self.height, probs, self.scores, self.locations)
        return StoredRegions, kept


def fractions(boxes: np.ndarray, sizes: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The seven location numbers of boxes, (R, 7) float32.

    Args:
        boxes: (R, 4) pixels x1 y1 x2 y2.
        sizes: float32 width and height of the image, (2,), or of each box's, (R, 2).
        out: (R, 7) float32 to write them into. Or None.
    """
    numbers = np.empty((len(boxes), 7), np.float32) if out is None else out
    for column in range(4):  # by column: rows of four are too short for NumPy
        length = sizes[..., column % 2]
        np.divide(boxes[:, column], length, out=numbers[:, column], dtype=np.float32, casting="same_kind")
    for column in range(4, 6):
        np.subtract(numbers[:, column - 2], numbers[:, column - 4], out=numbers[:, column])
    np.multiply(numbers[:, 4], numbers[:, 5], out=numbers[:, 6])
    return numbers


def _finite(array: np.ndarray) -> bool:
    if array.dtype == np.float16:  # NumPy widens halves one by one; their exponent's bits say the same
        return not ((array.view(np.uint16) & 0x7C00) == 0x7C00).any()
    return bool(np.isfinite(array).all())


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
    stored = any(part.locations is not None for part in parts)  # places that do not follow from the boxes to the bit
    width, height = (parts[0].width, parts[0].height) if alike else (1, 1)
    return Regions(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.boxes if alike else part.fractions()[:, :4] for part in parts]),
        width,
        height,
        np.concatenate(probabilities) if len(probabilities) == len(parts) else None,
        locations=np.concatenate([part.fractions()[:, :6] for part in parts]) if stored else None,
    )
