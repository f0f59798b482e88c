"""HDF5: all regions behind each other with an index, as many an image, or a group or set of datasets an image."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from uniter.databases import needs
from uniter.regions.formats.foreign import (
    BOXES,
    CLASS_PROBS,
    FEATURES,
    HEIGHT,
    LOCATIONS,
    NEEDED,
    SCORES,
    WIDTH,
    ForeignRegions,
    Record,
    first,
    record_of,
    sixths,
)
from uniter.regions.formats.npz import COUNTS, NAMES, OFFSETS

_SEPARATORS = ("_", "-")  # of sets of datasets: 42_features, 42-features


class Hdf5Regions(ForeignRegions):
    """An HDF5 file, in one of three layouts.

    - Flat: `features` (N, F), `boxes` (N, 4) or `spatials` (N, 6), and `pos_boxes` (images, begin and end), `offsets`
      or `num_regions`; or as many regions an image: `features` (images, R, F). Names of the images are in `image_ids`
      (or `names`, `files`, `ids`), or in the JSON file `NAME_imgid2idx.json` beside it, name -> row.
    - A group an image: `42/features`, `42/boxes`, `42/img_w`, ...; sizes may be attributes.
    - Datasets an image: `42_features`, `42_boxes`, ...
    """

    format = "HDF5"
    _file: tuple[int, Any] | None = None  # the process that opened it, and the file

    def _open(self) -> None:
        file = self._h5()
        self._begin_end: np.ndarray | None = None
        self._flat: dict[str, Any] = {}
        self._group: dict[str, str] = {}  # image -> where its fields are: "42/", "42_"
        if first(file, FEATURES) is not None and hasattr(first(file, FEATURES), "shape"):
            self._open_flat(file)
        else:
            self._open_groups(file)
        self._worded(self.names[0], lambda: self._record(self.names[0]))

    def _open_flat(self, file: Any) -> None:
        features = first(file, FEATURES)
        if first(file, (*BOXES, *LOCATIONS)) is None:
            raise ValueError(f"{self.path}: no boxes (none of {', '.join((*BOXES, *LOCATIONS))}); {_there(file)}")
        counts, offsets = first(file, COUNTS), first(file, OFFSETS)
        if features.ndim == 3:
            self._begin_end = None
            images = len(features)
        elif offsets is not None:
            offsets = np.asarray(offsets, np.int64)
            self._begin_end = offsets if offsets.ndim == 2 else np.stack([offsets[:-1], offsets[1:]], 1)
            images = len(self._begin_end)
        elif counts is not None:
            numbers = np.asarray(counts, np.int64).reshape(-1)
            self._begin_end = np.stack([np.cumsum(numbers) - numbers, np.cumsum(numbers)], 1)
            images = len(numbers)
        else:
            raise ValueError(
                f"{self.path}: nothing says which rows are whose (none of {', '.join((*OFFSETS, *COUNTS))}); "
                f"{_there(file)}"
            )
        if self._begin_end is not None and self._begin_end.max(initial=0) > len(features):
            raise ValueError(
                f"{self.path}: its index reaches to row {self._begin_end.max()}, there are {len(features)}: copy it "
                "again"
            )
        self._name_all(self._flat_names(file, images))

    def _flat_names(self, file: Any, images: int) -> list[str]:
        found, beside = first(file, NAMES), self.path.with_name(f"{self.path.stem}_imgid2idx.json")
        if found is not None:
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in np.asarray(found).tolist()]
        elif beside.is_file():
            try:
                rows = {int(row): str(name) for name, row in json.loads(beside.read_text(encoding="utf-8")).items()}
                names = [rows[row] for row in range(images)]
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                raise ValueError(f"{beside} is no map of names to rows 0 to {images - 1} ({error})") from None
        else:
            raise ValueError(
                f"{self.path}: nothing names the images: it has no {' or '.join(NAMES)}, and there is no {beside.name} "
                "beside it (name -> row; of an imgid2idx.pkl, save what is in it as JSON)"
            )
        if len(names) != images:
            raise ValueError(f"{self.path}: {len(names)} names for {images} images")
        return names

    def _open_groups(self, file: Any) -> None:
        h5py = needs("h5py")
        groups = [key for key in file if file.get(key, getclass=True) is h5py.Group]
        if groups and any(name in file[groups[0]] for name in FEATURES):  # a walk over all of them would take long
            self._group = {key: f"{key}/" for key in groups}
            self._name_all(self._group)
            return
        endings = [separator + name for separator in _SEPARATORS for name in FEATURES]

        def note(path: str, item: Any) -> None:
            parent, _, last = path.rpartition("/")
            if isinstance(item, h5py.Dataset) and last in FEATURES and parent:
                self._group[parent] = f"{parent}/"
            elif isinstance(item, h5py.Dataset) and "/" not in path and path not in NEEDED:
                for ending in endings:
                    if path.endswith(ending) and len(path) > len(ending):
                        self._group.setdefault(path.removesuffix(ending), path.removesuffix(ending) + ending[0])

        file.visititems(note)
        if not self._group:
            raise ValueError(
                f"{self.path}: no regions in it: neither datasets of all images ({', '.join(FEATURES)}) nor a group an "
                f"image with such a dataset; {_there(file)}"
            )
        self._name_all(sorted(self._group))

    def _h5(self) -> Any:
        """The open file; every process has its own."""
        held = self._file
        if held is not None and held[0] == os.getpid():
            return held[1]
        h5py = needs("h5py")
        with self._lock:
            if self._file is None or self._file[0] != os.getpid():
                try:
                    self._file = os.getpid(), h5py.File(self.path, "r", locking=False)
                except OSError as error:
                    text = str(error).split("(", 1)[-1].rstrip(")")
                    raise ValueError(f"{self.path} cannot be opened ({text}): copy it again") from None
            return self._file[1]

    def _rows(self, name: str) -> int:
        if self._group:
            fields = _Fields(self._h5(), self._group[name])
            boxes = first(fields, (*LOCATIONS, *BOXES))
            return super()._rows(name) if boxes is None or "num_boxes" in fields else len(boxes)
        if self._begin_end is None:
            return super()._rows(name)
        begin, end = self._begin_end[self._position[name]]
        return int(end - begin)

    def _record(self, name: str) -> Record:
        file = self._h5()
        if self._group:
            fields = _Fields(file, self._group[name])
            return record_of({key: fields[key] for key in fields})
        place = self._position[name]
        rows: Any = place if self._begin_end is None else slice(*self._begin_end[place].tolist())
        some = lambda names: None if (field := first(file, names)) is None else np.asarray(field[rows])
        width, height = first(file, WIDTH), first(file, HEIGHT)
        locations, boxes = sixths(some(LOCATIONS), some(BOXES))
        features, count = some(FEATURES), None
        assert features is not None
        if self._begin_end is None and (counts := first(file, COUNTS)) is not None:
            count = int(counts[place])
        cut = lambda array: None if array is None else array[:count]
        return Record(
            features=features[:count],
            boxes=cut(boxes),
            locations=cut(locations),
            size=None if width is None or height is None else (float(width[place]), float(height[place])),
            scores=cut(some(SCORES)),
            class_probs=None if first(file, CLASS_PROBS) is None else lambda: cut(some(CLASS_PROBS)),
        )

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        with self._lock:
            if self._file is not None and self._file[0] == os.getpid():
                self._file[1].close()
            self._file = None


class _Fields(Mapping):
    """The fields of one image by the names that are known, in a group or in datasets with a prefix; or attributes."""

    def __init__(self, file: Any, prefix: str) -> None:
        self.file, self.prefix = file, prefix
        self.attributes = file[prefix].attrs if prefix.endswith("/") else {}

    def __contains__(self, name: object) -> bool:
        return f"{self.prefix}{name}" in self.file or name in self.attributes

    def __getitem__(self, name: str) -> Any:
        path = f"{self.prefix}{name}"
        return np.asarray(self.file[path][()]) if path in self.file else self.attributes[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in sorted(NEEDED) if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _there(file: Any) -> str:
    keys = sorted(file)
    return f"there are {', '.join(keys[:6])}{', ...' if len(keys) > 6 else ''}" if keys else "the file is empty"
