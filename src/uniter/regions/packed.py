"""The regions of many images behind each other in flat arrays, as a batch holds them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uniter.regions.regions import ByteFeatures, Regions, TopProbs


@dataclass(frozen=True, eq=False)
class PackedRegions:
    """The regions of several images, one image behind the other.

    Args:
        features: (N, F) float16 or float32, N regions together.
        locations: (N, 7) float32, fractions x1 y1 x2 y2 w h w*h.
        counts: (images,) int64, how many regions each image has.
        class_probs: (N, C) float32, or None.
    """

    features: np.ndarray
    locations: np.ndarray
    counts: np.ndarray
    class_probs: np.ndarray | None = None

    @classmethod
    def empty(
        cls, counts: np.ndarray, feature_size: int, num_classes: int | None, features: np.ndarray | np.dtype
    ) -> "PackedRegions":
        """Rows to be written.

        Args:
            counts: (images,) regions of each image.
            feature_size: F.
            num_classes: C; None: without class probabilities.
            features: an array (N or more, F) to write features into, or the type of a new one.

        Raises:
            ValueError: the array is too small or of another shape.
        """
        counts = np.asarray(counts, dtype=np.int64)
        rows = int(counts.sum())
        if not isinstance(features, np.ndarray):
            features = np.empty((rows, feature_size), features)
        elif features.ndim != 2 or len(features) < rows or features.shape[1] != feature_size:
            raise ValueError(f"features of shape ({rows}, {feature_size}) do not fit into {features.shape}")
        probs = None if num_classes is None else np.empty((rows, num_classes), np.float32)
        return cls(features[:rows], np.empty((rows, 7), np.float32), counts, probs)

    @classmethod
    def of(cls, images: Sequence[Regions], class_probs: bool = False) -> "PackedRegions":
        """Regions that are at hand, copied behind each other.

        Raises:
            ValueError: feature sizes or numbers of classes differ, or class probabilities are asked for and missing.
        """
        kept = [regions.kept_features for regions in images]
        if len(sizes := {features.shape[1] for features in kept}) > 1:
            raise ValueError(f"regions of different detectors in one batch: feature sizes {sorted(sizes)}")
        half = all(isinstance(features, np.ndarray) and features.dtype == np.float16 for features in kept)
        probs = [regions.kept_class_probs for regions in images] if class_probs else []
        if any(found is None for found in probs):
            raise ValueError(MISSING_PROBS)
        classes = {found.shape[1] for found in probs if found is not None}
        if len(classes) > 1:
            raise ValueError(f"regions of different detectors in one batch: {sorted(classes)} classes")
        into = cls.empty(
            np.array([len(regions) for regions in images]),
            sizes.pop(),
            classes.pop() if classes else None,
            np.dtype(np.float16 if half else np.float32),
        )
        into.put(images, into.starts())
        return into

    def starts(self) -> np.ndarray:
        """(images,) where each image's rows begin."""
        return np.cumsum(self.counts) - self.counts

    def put(self, images: Sequence[Regions], starts: np.ndarray) -> None:
        """Copy regions to where their rows begin."""
        for regions, start in zip(images, starts.tolist(), strict=True):
            rows = slice(start, start + len(regions))
            copy_rows(regions.kept_features, self.features[rows])
            regions.fractions(self.locations[rows])
            if self.class_probs is not None:
                probs = regions.kept_class_probs
                if probs is None:
                    raise ValueError(MISSING_PROBS)
                copy_rows(probs, self.class_probs[rows])


MISSING_PROBS = "these regions have no class probabilities; extract them again, or leave MRC and MRC-kl out"


def copy_rows(rows: np.ndarray | ByteFeatures | TopProbs, out: np.ndarray) -> None:
    """Write rows, however they are kept, into an array of their shape, float32 or float16."""
    if isinstance(rows, np.ndarray):
        if rows.dtype == out.dtype:
            out[:] = rows
        else:
            import torch  # widens halves ten times as fast as NumPy

            torch.from_numpy(out).copy_(torch.from_numpy(np.require(rows, requirements=["C", "W"])))
    elif out.dtype == np.float32:
        rows.write(out)
    else:
        out[:] = rows.whole()


class Buffers:
    """Arrays that are used again once nobody holds them: fresh memory costs as much as filling it.

    An array is free when nothing refers to it but this: a view refers to its array, and a tensor to its view.
    """

    def __init__(self, most: int = 8) -> None:
        self._arrays: list[np.ndarray] = []
        self._most = most

    def rows(self, count: int, width: int, dtype: np.dtype) -> np.ndarray:
        """(count, width) of undefined numbers."""
        for place in range(len(self._arrays)):
            if _references(self._arrays, place) == _UNUSED and _fits(self._arrays[place], count, width, dtype):
                self._arrays.append(self._arrays.pop(place))  # those seldom used are let go of first
                return self._arrays[-1][:count]
        self._arrays = self._arrays[-self._most + 1 :]
        self._arrays.append(np.empty((count + count // 8, width), dtype))  # so that a somewhat larger batch fits too
        return self._arrays[-1][:count]


def _references(arrays: list[np.ndarray], place: int) -> int:
    return sys.getrefcount(arrays[place])


def _fits(array: np.ndarray, count: int, width: int, dtype: np.dtype) -> bool:
    return array.dtype == dtype and array.shape[1] == width and len(array) >= count


_UNUSED = _references([np.empty(0)], 0)  # how many are counted where there is no other: not alike in all Pythons
