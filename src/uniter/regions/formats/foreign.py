"""What the readers of foreign formats share: names of fields, which regions to take, and how errors are worded."""

import os
import threading
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from uniter.regions.regions import Regions, StoredRegions
from uniter.regions.source import RegionSource

# The names under which published files keep a field; the first that is there is read.
FEATURES = ("features", "image_features", "x", "feat")
BOXES = ("boxes", "image_bb", "bbox", "bboxes")
LOCATIONS = ("norm_bb", "spatial_features", "spatials")  # fractions x1 y1 x2 y2 w h, perhaps with the area behind
WIDTH = ("image_w", "img_w", "image_width", "width", "widths")
HEIGHT = ("image_h", "img_h", "image_height", "height", "heights")
SCORES = ("conf", "scores", "objects_conf", "obj_conf")
CLASS_PROBS = ("soft_labels", "class_probs", "cls_prob")
COUNT = ("num_boxes", "num_bbox")
NEEDED = frozenset((*FEATURES, *BOXES, *LOCATIONS, *WIDTH, *HEIGHT, *SCORES, *CLASS_PROBS, *COUNT))

_UNREADABLE = (ValueError, KeyError, TypeError, IndexError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Choice:
    """Which of an image's stored regions to take: always its first ones.

    Args:
        conf_threshold: take as many as have a confidence above it, at least `min_regions` and at most `max_regions`
            (section 3 of the published code's preparation: min(max, max(min, count))). None: no threshold.
        max_regions: at most so many; 100 if left out with a threshold, no limit without.
        min_regions: with a threshold at least so many, if there are; 10 if left out.
    """

    conf_threshold: float | None = None
    max_regions: int | None = None
    min_regions: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_regions", "min_regions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if self.conf_threshold is None and self.min_regions is not None:
            raise ValueError("min_regions needs a conf_threshold: without one all regions are taken")

    def count(self, rows: int, confidences: Callable[[], np.ndarray | None]) -> int:
        """How many of `rows` regions to take; confidences are asked for only if they matter."""
        if self.conf_threshold is None:
            return min(rows, self.max_regions or rows)
        conf = confidences()
        if conf is None:
            raise ValueError("there are no confidences to compare with conf_threshold: leave it out")
        # halves are compared as halves, as the published code does: 0.2 is not above 0.2
        above = int((np.asarray(conf).reshape(-1) > self.conf_threshold).sum())
        return min(rows, self.max_regions or 100, max(self.min_regions or 10, above))


@dataclass
class Record:
    """What a file says of one image, all of its regions.

    Args:
        features: (R, F).
        boxes: (R, 4), in pixels if `size` is given, else fractions of the image; None: the locations say it.
        locations: (R, 6), fractions x1 y1 x2 y2 w h. Or None.
        size: width and height of the image in pixels. Or None.
        scores: (R,) or (R, 1) confidences, as stored. Or None.
        class_probs: reads (R, C). Or None.
    """

    features: np.ndarray
    boxes: np.ndarray | None = None
    locations: np.ndarray | None = None
    size: tuple[float, float] | None = None
    scores: np.ndarray | None = None
    class_probs: Callable[[], np.ndarray | None] | None = None


class ForeignRegions(RegionSource):
    """Regions in a format of somebody else, read in place.

    A subclass sets `names` and gives `_record`; `_rows` and `_confidences` where they cost less than a record.

    Args:
        path: the file or folder.
        detector: name of what made the regions, to be compared with what a model was trained on. None: not known.
        conf_threshold: see `Choice`; as max_regions, min_regions.
        progress: show a bar where an index is built; None: on a terminal.

    Raises:
        ValueError: it cannot be read; the text names what is wrong.
    """

    format: ClassVar[str]  # what an imported store says of its source

    def __init__(
        self,
        path: str | os.PathLike,
        detector: str | None = None,
        conf_threshold: float | None = None,
        max_regions: int | None = None,
        min_regions: int | None = None,
        progress: bool | None = None,
    ) -> None:
        self.path = Path(path)
        self._detector = detector
        self._given = (conf_threshold, max_regions, min_regions)
        self.choice = Choice(*self._given)
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self.progress = progress
        self._open()

    def __reduce__(self) -> tuple:
        return type(self), (str(self.path), self._detector, *self._given)

    @abstractmethod
    def _open(self) -> None:
        """Find the names; called once."""

    @abstractmethod
    def _record(self, name: str) -> Record:
        """All regions of one image."""

    def _rows(self, name: str) -> int:
        """How many regions the file holds of an image."""
        return len(self._record(name).features)

    def _confidences(self, name: str) -> np.ndarray | None:
        return self._record(name).scores

    def _taken(self, name: str, rows: int, confidences: Callable[[], np.ndarray | None]) -> int:
        """How many of the stored regions are given out."""
        return self.choice.count(rows, confidences)

    def _name_all(self, names: Iterable[str]) -> None:
        self.names = [str(name) for name in names]
        self._position = {name: place for place, name in enumerate(self.names)}
        if not self.names:
            raise ValueError(f"{self.path} holds no image: check that the file is whole")
        if len(self._position) < len(self.names):
            twice = next(name for place, name in enumerate(self.names) if self._position[name] != place)
            raise ValueError(f"{self.path} holds image {twice!r} twice: names must differ")

    def __getitem__(self, name: str) -> Regions:
        self.place(name)
        regions = self._worded(name, lambda: self._regions(name))
        if regions.features.shape[1] != self.feature_size:
            raise ValueError(
                f"{self.path}: image {name!r} has features of {regions.features.shape[1]} numbers, image "
                f"{self.names[0]!r} of {self.feature_size}: one file holds the regions of one detector"
            )
        return regions

    def _worded(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except _UNREADABLE as error:
            text = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            if "allow_pickle" in text:
                text = "a field is a pickled object, which is never opened: save plain arrays"
            raise ValueError(f"{self.path}: image {name!r} cannot be read: {text}") from None

    def _regions(self, name: str) -> Regions:
        record = self._record(name)
        features, scores = record.features, record.scores
        if features.ndim != 2:
            raise ValueError(f"features must be (regions, size), got {features.shape}")
        for field in (scores, record.boxes, record.locations):
            if field is not None and len(field) != len(features):
                raise ValueError(f"{len(features)} features, but {len(field)} boxes or confidences")
        count = self._taken(name, len(features), lambda: scores)
        boxes, width, height = _boxes(record)
        if features.dtype not in (np.float16, np.float32):
            features = features.astype(np.float32)
        checked = Regions(
            features[:count],
            boxes[:count],
            width,
            height,
            scores=None if scores is None else scores.reshape(-1)[:count].astype(np.float32),
            locations=None if record.locations is None else record.locations[:count],
        )
        if record.class_probs is None:
            return checked
        reader = record.class_probs
        return StoredRegions(
            *(checked.features, checked.boxes, width, height),
            lambda: self._worded(name, lambda: _probabilities(reader(), count)),
            *(checked.scores, checked.locations),
        )

    def num_regions(self, name: str) -> int:
        """How many regions this image has; read once, from the head of its record where the format allows."""
        if name not in self._counts:
            self.place(name)
            confidences = lambda: self._confidences(name)
            count = lambda: self._taken(name, self._rows(name), confidences)
            self._counts[name] = self._worded(name, count)
        return self._counts[name]

    @property
    def detector(self) -> str | None:
        """Name of what made the regions, as given; None if not."""
        return self._detector

    @property
    def class_names(self) -> list[str] | None:
        """None: no foreign format has them."""
        return None

    @cached_property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        first = self.names[0]
        return self._worded(first, lambda: self._regions(first)).features.shape[1]

    @cached_property
    def num_classes(self) -> int:
        """Columns of `class_probs`; 0 if there are none."""
        probs = self[self.names[0]].class_probs
        return 0 if probs is None else probs.shape[1]

    def close(self) -> None:
        """Let go of open files; the source can still be read, and opens them again."""


def _boxes(record: Record) -> tuple[np.ndarray, float, float]:
    """(R, 4) float32 and the image's width and height; 1 and 1, with boxes in fractions, where nobody kept the size."""
    if record.size is not None:
        width, height = (float(number) for number in record.size)
        scale = np.array([width, height, width, height], np.float32)
        boxes = record.boxes
        if boxes is None and record.locations is not None:
            boxes = record.locations[:, :4].astype(np.float32) * scale
        if boxes is None:
            raise ValueError("there are no boxes")
        return boxes.astype(np.float32), width, height
    if record.locations is not None:
        return record.locations[:, :4].astype(np.float32), 1.0, 1.0
    if record.boxes is None:
        raise ValueError("there are no boxes")
    if record.boxes.size and record.boxes.max() > 1.01:  # halves may round above 1
        raise ValueError(
            "boxes are in pixels, but the image's size is not there: add image_w and image_h, or norm_bb (fractions)"
        )
    return record.boxes.astype(np.float32), 1.0, 1.0


def _probabilities(probs: np.ndarray | None, count: int) -> np.ndarray | None:
    if probs is None:
        return None
    if probs.ndim != 2 or len(probs) < count:
        raise ValueError(f"class probabilities must be (regions, classes), got {probs.shape} for {count} regions")
    probs = probs[:count].astype(np.float32)
    if not np.isfinite(probs).all():
        raise ValueError("class probabilities hold NaN or infinity")
    return probs


def record_of(fields: Mapping[str, Any]) -> Record:
    """The record in a mapping of arrays by the names that published files use.

    Raises:
        ValueError: no features.
    """
    features = first(fields, FEATURES)
    if features is None:
        there = ", ".join(sorted(fields)[:8])
        raise ValueError(f"there are no features (none of {', '.join(FEATURES)}); there are {there or 'no fields'}")
    features = np.asarray(features)
    locations, boxes, count = first(fields, LOCATIONS), first(fields, BOXES), first(fields, COUNT)
    width, height, scores = first(fields, WIDTH), first(fields, HEIGHT), first(fields, SCORES)
    probs = next((name for name in CLASS_PROBS if name in fields), None)
    rows = len(features) if count is None else min(len(features), int(np.asarray(count).reshape(-1)[0]))
    cut = lambda array: None if array is None else np.asarray(array)[:rows]  # some files pad each image to one length
    locations, boxes = sixths(cut(locations), cut(boxes))
    return Record(
        features=features[:rows],
        boxes=boxes,
        locations=locations,
        size=None if width is None or height is None else (_number(width), _number(height)),
        scores=cut(scores),
        class_probs=None if probs is None else lambda: np.asarray(fields[probs]),
    )


def sixths(locations: np.ndarray | None, boxes: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Locations cut to six columns; with fewer than six they are only boxes."""
    if locations is None or locations.ndim != 2:
        return None, boxes
    if locations.shape[1] >= 6:
        return locations[:, :6], boxes
    return None, boxes if boxes is not None else locations[:, :4]


def first(fields: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first of these fields that is there, or None."""
    return next((fields[name] for name in names if name in fields), None)


UNREAD = ("info", "allow_pickle")  # members that published tools pickle or leave behind, and nobody here reads


def plain_npz(file: Any) -> Any:
    """An open npz, of which a member is read when it is asked for.

    Raises:
        ValueError: it is no npz, or a member is a pickled object; those in `UNREAD` are let be.
    """
    try:
        fields = np.load(file, allow_pickle=False)
    except (ValueError, EOFError):  # NumPy takes whatever it does not know for a pickle
        raise ValueError("it is no npz, though it is named so: copy or download it again") from None
    if not isinstance(fields, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array, no npz")
    for member in fields.files:
        if member not in NEEDED and member not in UNREAD:
            fields[member]
    return fields


def _number(value: Any) -> float:
    return float(np.asarray(value).reshape(-1)[0])
