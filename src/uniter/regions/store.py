"""A store: a folder that holds the regions of many images by name, written once and read by many processes.

    index.json                 format, detector, class names, and of each shard: file, sha256 of it and of the tensors
                               that say what it holds, images, regions, bytes
    shard-00000.safetensors    512 images: flat features and boxes, and where each image begins

A shard is written to a temporary file and renamed, then the index is replaced, so a killed writer leaves a store that
opens, and that the next writer continues. Shards are memory-mapped; an image costs the pages it lies on.
"""

import hashlib
import json
import mmap
import os
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from uniter.files import write_bytes, write_json
from uniter.regions.packed import PackedRegions, copy_rows
from uniter.regions.regions import ByteFeatures, Regions, StoredRegions, TopProbs, fractions
from uniter.regions.source import RegionSource
from uniter.regions.source import UnknownImageError as UnknownImageError

FORMAT = "uniter-regions"
VERSION = 1
INDEX = "index.json"
UNFINISHED, PLAN = ".extraction", "plan.json"  # the folder, in a store's, of an extraction that goes on
FULL_CLASSES = 64  # up to so many classes the whole distribution is stored
TOP_CLASSES = 32  # above, so many of the most probable, and the mass of the rest
_OTHER_FILES = 256  # that a process may want to have open beside mapped shards, each of which holds a descriptor
_TENSORS = {"features", "boxes", "scores", "offsets", "widths", "heights", "names", "name_offsets"}
_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)  # not on Windows
_DTYPES = {"F16": np.float16, "F32": np.float32, "I64": np.int64, "U8": np.uint8, "U16": np.uint16}


class StoreWriter:
    """Appends the regions of images to a store, and continues a store that was left unfinished.

    One writer at a time. Images that are not yet in a finished shard when the process dies are not in the store.

    Args:
        path: the folder of the store; made if missing.
        detector: fingerprint of what made the regions, None if it is not known; one store holds the regions of one.
        class_names: names of the columns of `class_probs`, index 0 background. Or None.
        attribute_names: of each attribute the names of its values, kept for whoever reads the index. Or None.
        shard_images: images a shard.
        full: keep the whole class distribution (float16) even above 64 classes, not the 32 largest and the rest's mass.
        compact: keep features as bytes (see `ByteFeatures`), not as float16: half the disk and the reading.
        source: where imported regions come from (`path` and settings), kept in the index under `sources`. Or None.
        notes: what the detector says of itself, such as how its class probabilities were made, kept in the index. Or
            None.

    Raises:
        ValueError: the folder holds something else, the regions of another detector, or of the same source with other
            settings.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        detector: str | None,
        class_names: list[str] | None = None,
        attribute_names: dict[str, list[str]] | None = None,
        shard_images: int = 512,
        full: bool = False,
        compact: bool = False,
        source: dict[str, Any] | None = None,
        notes: dict[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        if shard_images < 1:
            raise ValueError(f"shard_images must be 1 or more, got {shard_images}")
        self.shard_images = shard_images
        self.full = full
        self.compact = compact
        self._pending: list[tuple[str, Regions]] = []
        self._names: set[str] = set()
        self._closed = False
        found = read_to_continue(self.path, detector, class_names)
        if found is not None:
            self.index, names = found
            self._found: dict[str, Any] | None = json.loads(json.dumps(self.index))
            if bool(self.index.get("compact")) != compact:
                kept = "bytes" if self.index.get("compact") else "float16"
                raise ValueError(f"{self.path} keeps its features as {kept}: say so again, or write to another folder")
            self._note(source)
            self._names.update(names)
        else:
            self._made_folder = not self.path.exists()
            self._found = None
            self.path.mkdir(parents=True, exist_ok=True)
            self.index = new_index(detector, class_names, attribute_names, notes)
            if compact:
                self.index["compact"] = True
            self._note(source)
            write_json(self.path / INDEX, self.index, indent=1)
        for left in self.path.glob("*.writing"):  # of a writer that was killed
            left.unlink()

    def _note(self, source: dict[str, Any] | None) -> None:
        if source is None or source in self.index.setdefault("sources", []):
            return
        if any(known["path"] == source["path"] for known in self.index["sources"]):
            raise ValueError(
                f"{self.path} holds regions of {source['path']} that were imported with other settings: write to "
                "another folder, or remove this one"
            )
        self.index["sources"].append(source)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._names)

    def has(self, name: str) -> bool:
        """Whether this image is in the store, or was given to this writer."""
        return name in self._names

    def add(self, name: str, regions: Regions) -> None:
        """Append the regions of one image; a name that is already there is skipped.

        Args:
            name: the image's name, its path below the folder it was read from, with `/`.
            regions: its regions; every image needs the same feature size and the same number of classes.

        Raises:
            ValueError: sizes differ from the store's, or a feature does not fit into float16.
        """
        if self._closed:
            raise ValueError(f"the writer of {self.path} is closed: open a new one to append")
        if not name:
            raise ValueError("an image needs a name")
        if name in self._names:
            return
        check_fits(self.index, name, regions, self.path)
        self._names.add(name)
        self._pending.append((name, regions))
        if len(self._pending) >= self.shard_images:
            self.flush()

    def flush(self) -> None:
        """Write the images given since the last shard as a shard of their own."""
        if not self._pending:
            return
        on_disk = json.loads((self.path / INDEX).read_text(encoding="utf-8"))
        if len(on_disk["shards"]) != len(self.index["shards"]):
            raise ValueError(f"another process is writing to {self.path}: let one writer at a time append to a store")
        number, classes = next_shard(self.index), self.index["num_classes"] or 0
        entry = write_shard(self.path, number, self._pending, classes, self.full, self.compact)
        self.index["shards"].append(entry)
        write_json(self.path / INDEX, self.index, indent=1)
        self._pending = []

    def abandon(self) -> None:
        """Take back all that this writer wrote: a new store vanishes, an old one is as it was found."""
        self._closed, self._pending = True, []
        kept = 0 if self._found is None else len(self._found["shards"])
        if self._found is not None:
            write_json(self.path / INDEX, self._found, indent=1)
        else:
            (self.path / INDEX).unlink(missing_ok=True)
        for entry in self.index["shards"][kept:]:
            (self.path / entry["file"]).unlink(missing_ok=True)
        if self._found is None and self._made_folder:
            self.path.rmdir()

    def close(self) -> None:
        """Write what is pending; the store can be continued by another writer."""
        if not self._closed:
            self.flush()
            self._closed = True


def new_index(
    detector: str | None,
    class_names: list[str] | None,
    attribute_names: dict[str, list[str]] | None,
    notes: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The index of a store without images; arguments as `StoreWriter`'s."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "detector": detector,
        "class_names": None if class_names is None else list(class_names),
        "attribute_names": attribute_names,
        "notes": notes,
        "feature_size": None,
        "num_classes": None,
        "shards": [],
    }


def read_to_continue(
    path: Path, detector: str | None, class_names: list[str] | None
) -> tuple[dict[str, Any], list[str]] | None:
    """The index and the names of the store that is to be continued at a path, None if there is none yet.

    Raises:
        ValueError: the folder holds something else, or the regions of another detector.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: give the folder of a store, or one that does not exist yet")
    if (path / UNFINISHED / PLAN).exists():
        raise ValueError(f"an extraction into {path} was not finished: run it again first, or remove {path}")
    if not (path / INDEX).exists():
        if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise ValueError(f"{path} is not empty and is no store (no {INDEX}): give a new or an empty folder")
        return None
    store = Store(path)
    if store.detector != detector:
        raise ValueError(
            f"{path} holds regions of detector {store.detector!r}, not of {detector!r}: "
            "write to another folder, or remove this one"
        )
    if class_names is not None and store.class_names not in (None, list(class_names)):
        raise ValueError(f"{path} was made with other class names: write to another folder")
    store.close()
    return store.index, store.names


def check_fits(index: dict[str, Any], name: str, regions: Regions, path: Path) -> None:
    """Refuse the regions of an image that a store cannot hold; the first ones say the sizes, kept in the index.

    Raises:
        ValueError: sizes differ from the store's, or a feature does not fit into float16.
    """
    classes = 0 if regions.class_probs is None else regions.class_probs.shape[1]
    for key, value in (("feature_size", regions.features.shape[1]), ("num_classes", classes)):
        if index[key] is None:
            index[key] = value
        elif index[key] != value:
            raise ValueError(f"image {name!r} has {key} {value}, the store {path} has {index[key]}")
    names = index["class_names"]
    if names is not None and classes and len(names) != classes:
        raise ValueError(f"image {name!r} has {classes} class probabilities, but {len(names)} class names were given")
    if not np.isfinite(regions.features).all():
        raise ValueError(f"image {name!r} has features that are not numbers: look at the picture and the detector")
    if np.abs(regions.features).max(initial=0) > np.finfo(np.float16).max:
        raise ValueError(f"image {name!r} has features beyond float16's range (65504): scale the features")


def next_shard(index: dict[str, Any]) -> int:
    """The number of the shard that comes after all that the index names; numbers may have gaps."""
    return max((int(entry["file"].split("-")[1].split(".")[0]) + 1 for entry in index["shards"]), default=0)


def write_shard(
    folder: Path,
    number: int,
    images: list[tuple[str, Regions]],
    num_classes: int,
    full: bool = False,
    compact: bool = False,
) -> dict[str, Any]:
    """Write images as a shard, whole or not at all: the same images give the same bytes.

    Args:
        folder: the store's.
        number: of the shard.
        images: names and regions, at least one.
        num_classes: columns of their class probabilities, 0 if there are none.
        full: as `StoreWriter`'s.
        compact: as `StoreWriter`'s.

    Returns:
        The shard's entry in the index.
    """
    from safetensors.numpy import save

    tensors = _tensors(images, num_classes, full, compact)
    data = save(tensors)
    file = f"shard-{number:05d}.safetensors"
    write_bytes(folder / file, data)
    return {
        "file": file,
        "sha256": hashlib.sha256(data).hexdigest(),
        "held_sha256": hashlib.sha256(b"".join(tensors[name].tobytes() for name in HELD)).hexdigest(),
        "images": len(images),
        "regions": sum(len(regions) for _, regions in images),
        "bytes": len(data),
    }


def _tensors(named: list[tuple[str, Regions]], classes: int, full: bool, compact: bool) -> dict[str, np.ndarray]:
    images = [regions for _, regions in named]
    names = [name.encode() for name, _ in named]
    flat = {
        **(
            _bytes(images) if compact else {"features": np.concatenate([r.features.astype(np.float16) for r in images])}
        ),
        "boxes": np.concatenate([r.boxes.astype(np.float32) for r in images]),
        **_locations(images),
        # NaN says "no score", so that images with and without can share a shard
        "scores": np.concatenate(
            [np.full(len(r), np.nan, np.float32) if r.scores is None else r.scores.astype(np.float32) for r in images]
        ),
        "offsets": _offsets([len(r) for r in images]),
        "widths": np.array([r.width for r in images], np.float32),
        "heights": np.array([r.height for r in images], np.float32),
        "names": np.frombuffer(b"".join(names), np.uint8),
        "name_offsets": _offsets([len(name) for name in names]),
    }
    if not classes:
        return flat
    probs = np.concatenate([np.asarray(r.class_probs, np.float32) for r in images])
    if classes <= FULL_CLASSES:
        flat["class_probs"] = probs
    elif full:
        flat["class_probs"] = probs.astype(np.float16)
    else:
        top = np.argsort(-probs, axis=1, kind="stable")[:, :TOP_CLASSES]
        values = np.take_along_axis(probs, top, axis=1).astype(np.float16)
        flat["top_classes"] = top.astype(np.uint16 if classes < 65536 else np.int64)
        flat["top_probs"] = values
        flat["rest_probs"] = np.maximum(probs.sum(1) - values.astype(np.float32).sum(1), 0).astype(np.float32)
    return flat


def _bytes(images: list[Regions]) -> dict[str, np.ndarray]:
    rounded = [ByteFeatures.of(r.features) for r in images]
    return {
        "features": np.concatenate([r.codes for r in rounded]),
        "feature_steps": np.concatenate([r.steps for r in rounded]),
        "feature_lows": np.concatenate([r.lows for r in rounded]),
    }


def _locations(images: list[Regions]) -> dict[str, np.ndarray]:
    """(sum R, 6) float32 if any image has locations of its own; NaN says that the boxes give them."""
    if all(r.locations is None for r in images):
        return {}
    rows = [
        np.full((len(r), 6), np.nan, np.float32) if r.locations is None else r.locations.astype(np.float32)
        for r in images
    ]
    return {"locations": np.concatenate(rows)}


class Store(RegionSource):
    """The regions of many images by name: `store["folder/cat.jpg"]` is a `Regions`.

    Opening reads the names and checks every shard's size; `verify` also checks the contents. A pickled store is opened
    again by the process that unpickles it. The arrays of its regions are views of the mapped files: what is written
    into them never reaches the disk, but later reads of the process may see it, so copy what you want to change.

    Args:
        path: a folder that a `StoreWriter` made.

    Raises:
        ValueError: there is no store, or a file of it is missing, damaged or foreign; the text names it and the mend.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._open(_read_index(self.path))

    def _open(self, index: dict[str, Any]) -> None:
        """Read the names and how many regions each image has."""
        self.index = index
        self.names: list[str] = []
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._lock = threading.Lock()
        counts = []
        self._starts = [0]  # of each shard the place of its first image
        for entry, held in zip(index["shards"], self._held(), strict=True):
            self.names.extend(held.names)
            self._starts.append(len(self.names))
            counts.append(held.counts)
            if len(held.names) != entry["images"] or len(held.counts) != entry["images"]:
                raise ValueError(
                    f"{self._place(entry)} does not hold the {entry['images']} images that the index says: {_MEND}"
                )
        self._counts = np.concatenate(counts) if counts else np.zeros(0, np.int64)
        self._position = {name: position for position, name in enumerate(self.names)}

    def _held(self) -> Iterable["Held"]:
        """Of each shard, which images it holds."""
        for number in range(len(self.index["shards"])):
            tensors = self._shard(number).tensors
            yield Held.of(*(tensors[name] for name in HELD))

    def __reduce__(self) -> tuple:
        return (type(self), (str(self.path),))

    def __getitem__(self, name: str) -> Regions:
        number, row = self._find(name)
        shard = self._shard(number)
        begin, end = shard.offsets[row], shard.offsets[row + 1]
        tensors = shard.tensors
        return StoredRegions(
            shard.kept(begin, end),
            tensors["boxes"][begin:end],
            shard.widths[row],
            shard.heights[row],
            lambda: self._class_probs(tensors, begin, end),
            tensors["scores"][begin:end] if shard.scored[row] else None,
            tensors["locations"][begin:end] if shard.located[row] else None,
        )

    @property
    def feature_type(self) -> np.dtype:
        """float16; float32 of a compact store."""
        return np.dtype(np.float32 if self.index.get("compact") else np.float16)

    def fill(self, names: Sequence[str], into: PackedRegions, starts: np.ndarray) -> None:
        """Write the regions of images to where their rows begin: straight from the mapped file, no `Regions` made."""
        places = self.places(names)
        order = np.argsort(places, kind="stable")  # as they lie on the disk
        self.prefetch(names)
        counts = self._counts[places]
        firsts = np.cumsum(counts) - counts
        boxes, sizes = np.empty((int(counts.sum()), 4), np.float32), np.empty((len(places), 2), np.float32)
        features, probs, own = into.features, into.class_probs, []
        widths, heights = [], []
        where = starts[order].tolist(), firsts[order].tolist()
        for (shard, row), start, first in zip(self._images(places[order]), *where, strict=True):
            begin, end = shard.offsets[row], shard.offsets[row + 1]
            copy_rows(shard.kept(begin, end), features[start : start + end - begin])
            boxes[first : first + end - begin] = shard.boxes[begin:end]
            widths.append(shard.widths[row])
            heights.append(shard.heights[row])
            if shard.located[row]:
                own.append((start, shard.tensors["locations"][begin:end].copy()))
            if probs is not None:
                kept = self._class_probs(shard.tensors, begin, end)
                assert kept is not None, "read_packed has asked"
                copy_rows(kept, probs[start : start + end - begin])
        sizes[order, 0], sizes[order, 1] = widths, heights
        sizes = np.repeat(sizes, counts, axis=0)
        if len(boxes) == len(into.locations) and np.array_equal(starts, firsts):
            fractions(boxes, sizes, into.locations)
        else:
            into.locations[np.arange(len(boxes)) + np.repeat(starts - firsts, counts)] = fractions(boxes, sizes)
        for start, six in own:  # places that do not follow from the boxes
            rows = into.locations[start : start + len(six)]
            rows[:, :6] = six
            np.multiply(rows[:, 4], rows[:, 5], out=rows[:, 6])

    def _images(self, places: np.ndarray) -> Iterator[tuple["_Shard", int]]:
        """Of images by their rising places the shard, and the number in it; one shard is held at a time."""
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        rows = (places - np.array(self._starts)[numbers]).tolist()
        held, shard = -1, None
        for number, row in zip(numbers.tolist(), rows, strict=True):
            if number != held or shard is None:
                held, shard = number, self._shard(number)
            yield shard, row

    def prefetch(self, names: Iterable[str]) -> None:
        """Have the system fetch the features of these images from the disk, all at once and without waiting."""
        for shard, row in self._images(np.sort(self.places(list(names)))):  # as they lie on the disk
            shard.expect(row)

    def _class_probs(self, shard: dict[str, np.ndarray], begin: int, end: int) -> np.ndarray | TopProbs | None:
        """(R, C) float32, or the largest of them."""
        if "class_probs" in shard:
            return shard["class_probs"][begin:end].astype(np.float32)
        if "top_probs" not in shard:
            return None
        top, probs, rest = (shard[name][begin:end] for name in ("top_classes", "top_probs", "rest_probs"))
        return TopProbs(top, probs, rest, self.num_classes)

    def _find(self, name: str) -> tuple[int, int]:
        position = self.place(name)
        number = bisect_right(self._starts, position) - 1
        return number, position - self._starts[number]

    def _said(self) -> str:
        return f"the store {self.path}"

    def _shard(self, number: int) -> "_Shard":
        with self._lock:
            shard = self._shards.pop(number, None)
            if shard is None:
                shard = self._mapped(number)
                if len(self._shards) >= _most_open(len(self.index["shards"])):
                    self._shards.popitem(last=False)
            self._shards[number] = shard
            return shard

    def _mapped(self, number: int) -> "_Shard":
        """A shard that was not mapped yet."""
        entry = self.index["shards"][number]
        return _Shard(self.path / entry["file"], entry["bytes"])

    def _place(self, entry: dict[str, Any]) -> str:
        """What a shard is called in messages."""
        return f"{self.path}/{entry['file']}"

    def shard_numbers(self) -> np.ndarray:
        """In which shard each image lies, int64, in the order of `names`."""
        return np.repeat(np.arange(len(self._starts) - 1), np.diff(self._starts))

    @property
    def detector(self) -> str | None:
        """Fingerprint of what made the regions; None if they were imported and nobody said."""
        return self.index["detector"]

    @property
    def class_names(self) -> list[str] | None:
        """Names of the columns of `class_probs`, or None."""
        return self.index["class_names"]

    @property
    def attribute_names(self) -> dict[str, list[str]] | None:
        """Of each attribute of the detector the names of its values, or None."""
        return self.index.get("attribute_names")

    @property
    def notes(self) -> dict[str, str] | None:
        """What the detector said of itself: what its features are, how its class probabilities were made. Or None."""
        return self.index.get("notes")

    @property
    def feature_size(self) -> int:
        """Numbers in a region's feature."""
        if self.index["feature_size"] is None:
            raise ValueError(f"the store {self.path} holds no image yet: run the extraction that fills it")
        return self.index["feature_size"]

    @property
    def num_classes(self) -> int:
        """Columns of `class_probs`; 0 if the store has none."""
        return self.index["num_classes"] or 0

    def num_regions(self, name: str) -> int:
        """How many regions this image has, without reading them."""
        return int(self._counts[self.place(name)])

    def counts(self) -> np.ndarray:
        """How many regions each image has, int64, in the order of `names`."""
        return self._counts.copy()

    def counts_of(self, names: Sequence[str]) -> np.ndarray:
        """How many regions each of these images has, int64."""
        return self._counts[self.places(names)]

    def verify(self) -> None:
        """Read every shard and compare it with its sha256.

        Raises:
            ValueError: a shard is not what was written.
        """
        for entry in self.index["shards"]:
            with (self.path / entry["file"]).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    raise ValueError(f"{self.path / entry['file']} is damaged (sha256 differs): {_MEND}")

    def close(self) -> None:
        """Let go of the mapped shards; the store can still be read, and maps them again."""
        with self._lock:
            self._shards.clear()


@dataclass(frozen=True)
class Held:
    """Which images a shard holds, and how many regions of each: (images,) int64."""

    names: list[str]
    counts: np.ndarray

    @classmethod
    def of(cls, names: np.ndarray, name_offsets: np.ndarray, offsets: np.ndarray) -> "Held":
        """From the tensors of these names."""
        blob = names.tobytes()
        return cls([blob[a:b].decode() for a, b in pairwise(name_offsets.tolist())], np.diff(offsets))


HELD = ("names", "name_offsets", "offsets")  # the tensors that say it
_MEND = "copy the store again, or remove it and extract again"


def _read_index(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(
            f"there is no store at {path}: check the path, or make one with `uniter extract PICTURES {path}`"
        )
    file = path / INDEX
    if not file.is_file():
        raise ValueError(f"{path} is no store of regions (no {INDEX}): make one with `uniter extract PICTURES {path}`")
    return parse_index(file.read_bytes(), file)


def parse_index(data: bytes, file: str | Path) -> dict[str, Any]:
    """The index in these bytes of `file`.

    Raises:
        ValueError: it is damaged, or none of a store.
    """
    try:
        index = json.loads(data.decode())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): {_MEND}") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ValueError(f"{file} is not the index of a store of regions: give the folder that `uniter extract` made")
    if index.get("version") != VERSION:
        raise ValueError(
            f"{file} has version {index.get('version')}, this uniter reads {VERSION}: upgrade uniter or extract again"
        )
    missing = {"detector", "class_names", "feature_size", "num_classes", "shards"} - set(index)
    if missing:
        raise ValueError(f"{file} is damaged (no {', '.join(sorted(missing))}): {_MEND}")
    return index


def header_end(data: bytes) -> int:
    """Where the header of a safetensors file ends, from the file's first eight bytes."""
    return 8 + struct.unpack("<Q", data[:8])[0]


def read_header(data: bytes) -> dict[str, tuple[Any, list[int], int, int]]:
    """Of each tensor dtype, shape, and the bytes of the file that it lies between, from the file's header."""
    end = header_end(data)
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    return {
        name: (_DTYPES[entry["dtype"]], entry["shape"], *(end + offset for offset in entry["data_offsets"]))
        for name, entry in header.items()
    }


class _Shard:
    """One shard: its tensors as views of the mapped file, and what is asked of every image as plain numbers."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        if not path.is_file():
            raise ValueError(f"{path} is missing: {_MEND}")
        if path.stat().st_size != size:
            raise ValueError(f"{path} has {path.stat().st_size} bytes, the index says {size}: {_MEND}")
        try:
            with path.open("rb") as file:  # copy on write: torch takes only what may be written to
                self.file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            data = np.frombuffer(self.file, np.uint8)
            header = read_header(data[: header_end(data[:8].tobytes())].tobytes())
            self.tensors: dict[str, np.ndarray] = {}
            for name, (dtype, shape, begin, end) in header.items():
                self.tensors[name] = data[begin:end].view(dtype).reshape(shape)
            if not set(self.tensors) >= _TENSORS:
                raise KeyError("a tensor is missing")
            *_, self.begin, self.end = header["features"]
            self.features, self.boxes = self.tensors["features"], self.tensors["boxes"]
            self.row_bytes = self.features.strides[0]
            self.fetched = "class_probs" in header  # these are large, and seldom asked for
            self.offsets: list[int] = self.tensors["offsets"].tolist()
            self.widths: list[float] = self.tensors["widths"].tolist()
            self.heights: list[float] = self.tensors["heights"].tolist()
            firsts = self.tensors["offsets"][:-1]
            self.scored = (~np.isnan(self.tensors["scores"][firsts])).tolist()
            located = self.tensors.get("locations")
            self.located = [False] * len(firsts) if located is None else (~np.isnan(located[firsts, 0])).tolist()
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error, OverflowError) as error:
            raise ValueError(f"{path} is damaged ({error}): {_MEND}") from None

    def kept(self, begin: int, end: int) -> np.ndarray | ByteFeatures:
        """The features of some rows as they are kept."""
        if "feature_steps" not in self.tensors:
            return self.features[begin:end]
        steps, lows = (self.tensors[name][begin:end] for name in ("feature_steps", "feature_lows"))
        return ByteFeatures(self.features[begin:end], steps, lows)

    def expect(self, row: int) -> None:
        """Have the system fetch an image's features and, once, all that lies around features: no waits page by page."""
        if not self.fetched:
            self.fetched = True
            self._fetch(0, self.begin)
            self._fetch(self.end, len(self.file))
        begin, end = self.offsets[row], self.offsets[row + 1]
        self._fetch(self.begin + begin * self.row_bytes, self.begin + end * self.row_bytes)

    def _fetch(self, begin: int, end: int) -> None:
        if _WILL_NEED is not None and end > begin:
            page = begin - begin % mmap.PAGESIZE
            self.file.madvise(_WILL_NEED, page, end - page)


def _most_open(shards: int) -> int:
    """How many of a store's shards may be mapped at once: all of them, where the system lets the process.

    To map a shard anew for each image would cost several times the reading. The process's own limit of open files,
    often 1,024 (macOS: 256), is raised for it towards what the system allows; a quarter of it is for one store.
    """
    try:
        import resource
    except ImportError:  # Windows, where a mapping counts as no open file
        return shards
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * shards + _OTHER_FILES
    if soft == resource.RLIM_INFINITY:
        return shards
    if soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return max(1, min(shards, soft // 4))


def _offsets(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
