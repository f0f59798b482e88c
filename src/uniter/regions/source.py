"""What every holder of regions by name offers: our own store, and the files of others read in place."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np

from uniter.regions.packed import MISSING_PROBS, PackedRegions
from uniter.regions.regions import Regions

TOGETHER = 512  # images of a file without shards that count as one


class UnknownImageError(ValueError, KeyError):
    """Regions were asked for of an image that is not there."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class RegionSource(ABC):
    """The regions of many images by name: `source["folder/cat.jpg"]` is a `Regions`.

    A source can be pickled (it is opened again where it is unpickled) and read by several threads and processes.
    """

    path: Any  # a Path, or the URL of what is behind one
    names: list[str]
    _position: dict[str, int]  # name -> place in names

    @abstractmethod
    def __getitem__(self, name: str) -> Regions: ...

    @abstractmethod
    def num_regions(self, name: str) -> int:
        """How many regions this image has; without reading them where the format allows."""

    @property
    @abstractmethod
    def detector(self) -> str | None:
        """Fingerprint or name of what made the regions, or None if nobody said."""

    @property
    @abstractmethod
    def class_names(self) -> list[str] | None:
        """Names of the columns of `class_probs`, or None."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """Numbers in a region's feature."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Columns of `class_probs`; 0 if there are none."""

    @abstractmethod
    def close(self) -> None:
        """Let go of open files; the source can still be read, and opens them again."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, images={len(self)}, detector={self.detector!r})"

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._position

    def __enter__(self):
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def place(self, name: str) -> int:
        """Where a name is in `names`.

        Raises:
            UnknownImageError: it is not; the text names one like it.
        """
        position = self._position.get(name)
        if position is None:
            stem = PurePosixPath(str(name)).stem
            near = [known for known in self.names if PurePosixPath(known).stem == stem][:1]
            near = near or difflib.get_close_matches(str(name), self.names[:20_000], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UnknownImageError(f"{self._said()} ({len(self)} images) holds no image {name!r}{hint}")
        return position

    def _said(self) -> str:
        return str(self.path)

    def counts(self) -> np.ndarray:
        """How many regions each image has, int64, in the order of `names`."""
        return np.array([self.num_regions(name) for name in self.names], np.int64)

    def counts_of(self, names: Sequence[str]) -> np.ndarray:
        """How many regions each of these images has, int64."""
        return np.array([self.num_regions(name) for name in names], np.int64)

    def places(self, names: Sequence[str]) -> np.ndarray:
        """Where each of these is in `names`, int64; `place` of many."""
        try:
            return np.array([self._position[name] for name in names], np.int64)
        except KeyError:
            return np.array([self.place(name) for name in names])  # or the error that names what is near

    def shard_numbers(self) -> np.ndarray:
        """Which images lie together, so that they are best read together: int64, in the order of `names`."""
        return np.arange(len(self.names)) // TOGETHER

    def read(self, names: Iterable[str]) -> list[Regions]:
        """The regions of several images, in that order."""
        names = list(names)
        self.prefetch(names)
        return [self[name] for name in names]

    @property
    def feature_type(self) -> np.dtype:
        """The smallest of float16 and float32 that holds every feature to the bit."""
        return np.dtype(np.float32)

    def read_packed(
        self, names: Sequence[str], out: np.ndarray | None = None, class_probs: bool = False
    ) -> PackedRegions:
        """The regions of several images behind each other; the same numbers as `read` gives.

        Args:
            names: in the order wanted; one may come several times.
            out: (N or more, F) to write the features into; an array of `feature_type` if left out.
            class_probs: read them too.

        Raises:
            ValueError: there are no class probabilities, or `out` is too small.
        """
        if class_probs and not self.num_classes:
            raise ValueError(MISSING_PROBS)
        counts = self.counts_of(names)
        features = self.feature_type if out is None else out
        into = PackedRegions.empty(counts, self.feature_size, self.num_classes if class_probs else None, features)
        self.fill(names, into, into.starts())
        return into

    def fill(self, names: Sequence[str], into: PackedRegions, starts: np.ndarray) -> None:
        """Write the regions of images to where their rows begin; those of other images may lie between them."""
        into.put(self.read(names), starts)

    def prefetch(self, names: Iterable[str]) -> None:  # noqa: B027 - doing nothing is right for most
        """Say that these images will be read soon; a source that can fetch ahead does, the others do nothing."""
