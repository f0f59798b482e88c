"""Several sources of regions as one: a benchmark's images often lie in a store for each of its splits or subsets."""

from collections.abc import Iterable, Sequence

import numpy as np

from uniter.regions.packed import PackedRegions
from uniter.regions.regions import Regions
from uniter.regions.source import RegionSource


class JoinedRegions(RegionSource):
    """The images of several sources, one after the other.

    Args:
        parts: the sources, of one detector.

    Raises:
        ValueError: they are of several detectors, or two hold an image of one name.
    """

    def __init__(self, parts: Sequence[RegionSource]) -> None:
        self.parts = list(parts)
        self.path = self.parts[0].path
        first = self.parts[0]
        for part in self.parts[1:]:
            if part.feature_size != first.feature_size or part.detector != first.detector:
                said = [
                    f"{source.detector or 'an unnamed one'} ({source.feature_size} numbers)" for source in (first, part)
                ]
                raise ValueError(
                    f"{first.path} has regions of detector {said[0]}, {part.path} of {said[1]}: one model reads "
                    "one detector's"
                )
        self.names = [name for part in self.parts for name in part.names]
        self._position = {name: place for place, name in enumerate(self.names)}
        if len(self._position) < len(self.names):
            holders = {}
            for part in self.parts:
                for name in part.names:
                    if name in holders:
                        raise ValueError(f"{holders[name]} and {part.path} both hold an image {name!r}: leave one out")
                    holders[name] = part.path

    def _part(self, name: str) -> RegionSource:
        self.place(name)  # or the error that names what is near
        return next(part for part in self.parts if name in part)

    def __getitem__(self, name: str) -> Regions:
        return self._part(name)[name]

    def num_regions(self, name: str) -> int:
        """How many regions this image has."""
        return self._part(name).num_regions(name)

    def shard_numbers(self) -> np.ndarray:
        """Which images lie together: those of one part's shard."""
        found, first = [], 0
        for part in self.parts:
            found.append(part.shard_numbers() + first)
            first = int(found[-1].max(initial=first - 1)) + 1
        return np.concatenate(found)

    @property
    def detector(self) -> str | None:
        """What made the regions."""
        return self.parts[0].detector

    @property
    def class_names(self) -> list[str] | None:
        """Names of the columns of `class_probs`, or None."""
        return self.parts[0].class_names

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        return self.parts[0].feature_size

    @property
    def num_classes(self) -> int:
        """Columns of `class_probs`, if all parts have them; else 0."""
        return min(part.num_classes for part in self.parts)

    def close(self) -> None:
        """Let go of open files."""
        for part in self.parts:
            part.close()

    def prefetch(self, names: Iterable[str]) -> None:
        """Say that these images will be read soon."""
        names = list(names)
        for part in self.parts:
            part.prefetch(name for name in names if name in part)

    @property
    def feature_type(self) -> np.dtype:
        """That of the parts, the larger one where they differ."""
        return np.result_type(*(part.feature_type for part in self.parts))

    def fill(self, names: Sequence[str], into: PackedRegions, starts: np.ndarray) -> None:
        """Write the regions of images to where their rows begin."""
        for part in self.parts:
            rows = [row for row, name in enumerate(names) if name in part]
            if rows:
                part.fill([names[row] for row in rows], into, starts[rows])

    def _said(self) -> str:
        return ", ".join(str(part.path) for part in self.parts)
