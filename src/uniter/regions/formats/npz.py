"""npz: a folder with a file an image (bottom-up layouts), or one file with the regions of all images, flat."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from uniter.regions.formats.foreign import (
    BOXES,
    CLASS_PROBS,
    FEATURES,
    HEIGHT,
    LOCATIONS,
    NEEDED,
    SCORES,
    UNREAD,
    WIDTH,
    ForeignRegions,
    Record,
    first,
    plain_npz,
    record_of,
    sixths,
)

NAMES = ("files", "names", "image_ids", "ids")
OFFSETS = ("offsets", "pos_boxes")
COUNTS = ("num_regions", "num_boxes")


def npz_files(folder: Path) -> Iterator[Path]:
    """The npz files in a folder and all folders in it, hidden ones left out."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if name.endswith(".npz") and name[0] != ".")


class NpzFolder(ForeignRegions):
    """A folder with an npz an image, as the extractors of bottom-up attention write them.

    An image's name is its file's path below the folder, with `/` and `.npz`. Read are `features` or `x`; `norm_bb`, or
    `bbox` with `image_w` and `image_h`; and, if there, `conf`, `soft_labels`, `num_bbox`.
    """

    format = "npz folder"

    def _open(self) -> None:
        self._name_all(sorted(file.relative_to(self.path).as_posix() for file in npz_files(self.path)))
        self._worded(self.names[0], lambda: self._record(self.names[0]))

    def _fields(self, name: str) -> Any:
        return plain_npz(self.path / name)

    def _record(self, name: str) -> Record:
        # all is read, so that no file stays open
        with self._fields(name) as fields:
            return record_of({key: fields[key] for key in fields.files if key in NEEDED})

    def _rows(self, name: str) -> int:
        with self._fields(name) as fields:
            small = {key: fields[key] for key in fields.files if key in NEEDED and key not in (*FEATURES, *CLASS_PROBS)}
        boxes = first(small, (*LOCATIONS, *BOXES))
        if boxes is None:
            return super()._rows(name)
        return len(record_of({**small, "features": boxes}).features)

    def _confidences(self, name: str) -> np.ndarray | None:
        with self._fields(name) as fields:
            return first(fields, SCORES)


class FlatNpz(ForeignRegions):
    """One npz with the regions of all images behind each other.

    `files` names the images and `num_regions` (or `offsets`, one more than images, or `pos_boxes`, begin and end) says
    which rows are whose; then `features`, `boxes`, and, if there, `class_probs`, `conf`, `norm_bb`. Boxes are fractions
    of the image, or pixels where `widths` and `heights` are there. All of it is held in memory.
    """

    format = "flat npz"

    def _open(self) -> None:
        arrays = self._arrays
        names, spans = first(arrays, NAMES), _spans(arrays)
        features = first(arrays, FEATURES)
        if names is None or spans is None or features is None:
            there = ", ".join(sorted(arrays))
            raise ValueError(
                f"{self.path}: a flat npz needs names ({', '.join(NAMES)}), num_regions or offsets, and features; "
                f"there are {there or 'no arrays'}"
            )
        if len(names) != len(spans) or spans.min(initial=0) < 0 or spans.max(initial=0) > len(features):
            raise ValueError(
                f"{self.path}: {len(names)} names, {len(spans)} numbers of regions that reach to "
                f"{spans.max(initial=0)}, but {len(features)} regions: they do not fit each other"
            )
        self._begin_end = spans
        self._name_all(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            with plain_npz(self.path) as file:
                return {key: file[key] for key in file.files if key not in UNREAD}
        except Exception as error:  # zipfile and zlib have a dozen
            text = "a member is a pickled object, which is never opened" if "allow_pickle" in str(error) else error
            raise ValueError(f"{self.path} cannot be read: {text}") from None

    def _rows(self, name: str) -> int:
        begin, end = self._begin_end[self._position[name]]
        return int(end - begin)

    def _record(self, name: str) -> Record:
        place = self._position[name]
        begin, end = self._begin_end[place]
        rows = lambda names: None if (array := first(self._arrays, names)) is None else array[begin:end]
        width, height = first(self._arrays, WIDTH), first(self._arrays, HEIGHT)
        locations, boxes = sixths(rows(LOCATIONS), rows(BOXES))
        probs = rows(CLASS_PROBS)
        features = rows(FEATURES)
        assert features is not None
        return Record(
            features=features,
            boxes=boxes,
            locations=locations,
            size=None if width is None or height is None else (float(width[place]), float(height[place])),
            scores=rows(SCORES),
            class_probs=None if probs is None else lambda: probs,
        )


def _spans(arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """(images, 2) int64, begin and end of each image's rows; None if nothing says it."""
    counts, offsets = first(arrays, COUNTS), first(arrays, OFFSETS)
    if offsets is not None:
        offsets = offsets.astype(np.int64)
        return offsets.reshape(-1, 2) if offsets.ndim == 2 else np.stack([offsets[:-1], offsets[1:]], 1)
    if counts is None:
        return None
    ends = np.cumsum(counts.astype(np.int64))
    return np.stack([ends - counts.astype(np.int64), ends], 1)
