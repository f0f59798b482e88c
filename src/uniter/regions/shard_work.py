"""The work of an extraction, cut into shards that are done whole or not at all, by anybody and in any order.

In the store's folder, while it goes on:

    .extraction/pictures.jsonl     every picture that has no regions yet, one a line
    .extraction/plan.json          what was asked, and where in it each shard begins; once it is there the cut stands
    .extraction/00003.json         the fourth shard is done: its entry in the index, its failures
    shard-00003.safetensors        what it found

A shard's bytes depend on its pictures and the detector alone. Whoever is killed repeats the shard that it was at.
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from uniter.files import read_json, replacing, write_bytes, write_json
from uniter.regions.detectors import Detector
from uniter.regions.pictures import open_picture
from uniter.regions.pictures_source import (
    Failure,
    Picture,
    Place,
    Source,
    find_pictures,
    is_url,
    read_bytes,
    to_open,
)
from uniter.regions.regions import Regions
from uniter.regions.store import (
    INDEX,
    PLAN,
    UNFINISHED,
    check_fits,
    new_index,
    next_shard,
    read_to_continue,
    write_shard,
)

FAILURES = "failures.jsonl"
LOCK = ".lock"
_SKIPPED = "skipped.json"  # its name in earlier versions
_WAITING = 8  # at most so many batches' pictures wait for others of their size


class Work:
    """An extraction that goes on in a store's folder.

    Args:
        out: the store's folder.

    Raises:
        ValueError: none goes on there.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, out / UNFINISHED
        self.plan = read_json(self.folder / PLAN, mend="no extraction goes on here; begin one")
        self.shards: int = len(self.plan["begins"]) - 1
        self.images: int = self.plan["images"]
        self._merged = 0  # so many shards from the first are in the index
        self._entries: list[dict[str, Any]] = []  # theirs
        self._sizes: dict[str, int | None] = {"feature_size": None, "num_classes": None}

    def pictures(self, number: int) -> list[Picture]:
        """The pictures of a shard."""
        begin, end = self.plan["begins"][number : number + 2]
        with (self.folder / "pictures.jsonl").open("rb") as file:
            file.seek(begin)
            rows = [json.loads(line) for line in file.read(end - begin).splitlines()]
        return [Picture(name, Place(*place), None if said is None else Place(*said)) for name, place, said in rows]

    def is_done(self, number: int) -> bool:
        """Whether a shard is done."""
        return self._done(number).exists()

    def left(self) -> list[int]:
        """The shards that are not done."""
        try:
            there = {path.name for path in self.folder.iterdir()}
        except FileNotFoundError:  # another one has finished
            return []
        return [number for number in range(self.shards) if self._done(number).name not in there]

    def images_of(self, number: int) -> int:
        """How many pictures a shard has."""
        return min(self.plan["asked"]["shard_images"], self.images - number * self.plan["asked"]["shard_images"])

    def said(self, number: int) -> dict[str, Any]:
        """What a shard that is done says: `entry` (None if nothing was found), sizes, `failures`."""
        return read_json(self._done(number))

    def keep(self, number: int, images: list[tuple[str, Regions]], failures: list[Failure], sizes: dict) -> None:
        """Write a shard and what is said about it."""
        entry = None
        if images:
            entry = write_shard(self.out, self.plan["first"] + number, images, sizes["num_classes"] or 0)
        said = {key: sizes[key] if images else None for key in self._sizes}
        write_json(self._done(number), {"entry": entry, **said, "failures": [asdict(failure) for failure in failures]})

    def _done(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"

    def merge(self, gaps: bool = False) -> None:
        """Put the shards that are done into the index, up to the first that is not, or (`gaps`) all of them."""
        before = self._merged
        for number in range(self._merged, self.shards):
            if not self.is_done(number):
                if gaps:
                    continue
                break
            said = self.said(number)
            if said["entry"] is not None:
                self._entries.append(said["entry"])
                for key in self._sizes:
                    if self._sizes[key] not in (None, said[key]):
                        raise ValueError(f"the detector gave a {key} of {self._sizes[key]}, then of {said[key]}")
                    self._sizes[key] = said[key]
            self._merged = number + 1
        if not self._entries or self._merged == before:
            return
        file = self.out / INDEX
        plan = self.plan
        said = (plan["detector"], plan["classes"], plan["attributes"], plan["notes"])
        index = read_json(file) if file.exists() else new_index(*said)
        for key, value in self._sizes.items():
            if index[key] not in (None, value):
                raise ValueError(f"{self.out} has a {key} of {index[key]}, the detector gave {value}")
            index[key] = value
        there = index["shards"][plan["base"] :]
        common = min(len(there), len(self._entries))
        if there[:common] != self._entries[:common]:
            raise ValueError(f"another process is writing to {self.out}: let one at a time append to a store")
        if common == len(self._entries):  # another one merged as much
            return
        index["shards"][plan["base"] :] = self._entries
        write_json(file, index, indent=1)

    def finish(self) -> list[Failure]:
        """Make the store of the shards, and write what failed to `failures.jsonl`; several may try at once.

        Raises:
            ValueError: a shard is not done, or there is nothing to keep.
        """
        try:
            if left := self.left():
                raise ValueError(
                    f"{len(left)} of the {self.shards} shards in {self.out} are not done: run the extraction again, "
                    "by all ranks or by one process, and it does them"
                )
            failures = [Failure(**said) for said in self.plan["failures"]]
            for number in range(self.shards):
                failures += [Failure(**said) for said in self.said(number)["failures"]]
            self.merge()
        except (FileNotFoundError, ValueError):
            if (self.folder / PLAN).exists():
                raise
            return read_failures(self.out)  # another one was quicker
        if (self.out / INDEX).exists():
            write_failures(self.out, failures)
        self.clear()
        return failures

    def clear(self) -> None:
        """Remove what is needed while the work goes on only; the store as it is now stays."""
        away = self.out / f"{UNFINISHED}.{os.getpid()}"
        with suppress(OSError):  # another one was quicker
            self.folder.rename(away)
        shutil.rmtree(away if away.exists() else self.folder, ignore_errors=True)
        for left in self.out.glob(".*.writing"):  # of somebody who was killed; who still writes sees that all is done
            left.unlink(missing_ok=True)
        with suppress(OSError):  # Windows keeps a file that somebody has open
            (self.out / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # only if there is no store
            self.out.rmdir()

    def give_up(self) -> None:
        """Keep what is done, forget how the rest was cut."""
        self.merge(gaps=True)
        for number in self.left():
            (self.out / f"shard-{self.plan['first'] + number:05d}.safetensors").unlink(missing_ok=True)
        self.clear()


def begin(
    source: Source,
    out: Path,
    detector: Detector,
    shard_images: int,
    root: str | os.PathLike | None,
    annotated: bool,
    known: list[Failure],
    shared: bool,
) -> tuple[Work | None, bool]:
    """Go on with the work in a store's folder, or cut new work.

    Args:
        source: as `find_pictures` takes it.
        out: the store's folder.
        detector: what will find the regions.
        shard_images: images a shard.
        root: as `find_pictures` takes it.
        annotated: take annotated boxes.
        known: what failed before and is not tried again.
        shared: others may be at the same work: what was asked must be the same.

    Returns:
        The work, None if there is nothing to do, and whether it had been begun before.

    Raises:
        ValueError: there are no pictures, or the folder holds something else.
    """
    for left in out.glob(f"{UNFINISHED}.*"):  # of somebody who was killed while clearing up
        shutil.rmtree(left, ignore_errors=True)
    asked = {"source": _absolute(source), "root": root and _absolute(root)}
    asked |= {"annotated": annotated, "shard_images": shard_images}
    if (out / UNFINISHED / PLAN).exists():
        work = Work(out)
        if work.plan["detector"] != detector.fingerprint:
            raise ValueError(
                f"{out} holds regions of detector {work.plan['detector']!r}, not of {detector.fingerprint!r}: "
                "write to another folder, or remove this one"
            )
        if work.plan["asked"] == asked:
            return work, True
        if shared:
            changed = ", ".join(key for key in asked if asked[key] != work.plan["asked"][key])
            raise ValueError(
                f"an extraction into {out} goes on that was begun with another {changed}: give the same, or run it "
                "once as one process, which keeps what is done"
            )
        work.give_up()
    found = read_to_continue(out, detector.fingerprint, detector.class_names)
    pictures, failures = find_pictures(source, out, root)
    have = set(found[1] if found else ()) | {failure.name for failure in known}
    todo = [picture for picture in pictures if picture.name not in have]
    failures = list(dict.fromkeys(known + failures))
    if not todo and failures == read_failures(out) and (out / INDEX).exists():
        return None, False
    index = found[0] if found else None
    begins = _write_lines(out / UNFINISHED / "pictures.jsonl", todo, shard_images)
    plan = {
        "asked": asked,
        "detector": detector.fingerprint,
        "classes": detector.class_names,
        "attributes": getattr(detector, "attribute_names", None),
        "notes": getattr(detector, "notes", None),
        "base": len(index["shards"]) if index else 0,
        "first": next_shard(index) if index else 0,
        "images": len(todo),
        "begins": begins,
        "failures": [asdict(failure) for failure in failures],
    }
    write_json(out / UNFINISHED / PLAN, plan)
    return Work(out), False


def _absolute(source: Source) -> str:
    """A source as a plan names it."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        at = "@" * text.startswith("@")
        text = text if is_url(text) else at + os.path.abspath(text.removeprefix("@"))  # noqa: PTH100
        return text.encode(errors="replace").decode()
    paths = json.dumps([_absolute(path) for path in source])
    return f"{len(source)} paths, sha256 {hashlib.sha256(paths.encode()).hexdigest()}"


def _write_lines(path: Path, pictures: list[Picture], shard_images: int) -> list[int]:
    """Write pictures one a line; gives the bytes at which each shard begins, and the last one ends."""
    begins = [0]
    with replacing(path) as temporary, temporary.open("wb") as file:
        for first in range(0, len(pictures), shard_images):
            rows = pictures[first : first + shard_images]
            lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
            begins.append(begins[-1] + file.write(lines.encode()))
    return begins


def read_failures(out: Path) -> list[Failure]:
    """What the last extraction into a store could not do."""
    file = out / FAILURES
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [Failure(**json.loads(line)) for line in lines]


def write_failures(out: Path, failures: list[Failure]) -> None:
    """Keep them in the store's folder, one a line; without any there is no file."""
    (out / _SKIPPED).unlink(missing_ok=True)
    if failures:
        lines = "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
        write_bytes(out / FAILURES, lines.encode())
    else:
        (out / FAILURES).unlink(missing_ok=True)


# ---------------------------------------------------------------- one shard


def process(
    work: Work, number: int, detector: Detector, batch: int, threads: int, step: Callable[[int], object]
) -> None:
    """Find the regions of a shard's pictures and keep them; does nothing if that is done already.

    Args:
        work: the work.
        number: of the shard.
        detector: what finds them. If it has a `batch_key(size)`, pictures of the same key are given to it together.
        batch: pictures handed to it at a time.
        threads: that decode.
        step: told how many more pictures are done.

    Raises:
        OSError: the store cannot be written to.
    """
    if work.is_done(number):
        return
    pictures = work.pictures(number)
    names = detector.class_names
    classes = None if names is None else len(names)
    if names is not None and len(names) == 1:  # nothing but background: a grid tells no classes apart
        classes = 0
    sizes = {"feature_size": detector.feature_size, "num_classes": classes, "class_names": names}
    results: list[Regions | str] = [""] * len(pictures)
    for places, images in _grouped(_decoded(pictures, threads, 2 * batch), detector, batch, results, step):
        if work.plan["asked"]["annotated"]:
            found = [_at_boxes(detector, pictures[i], image) for i, image in zip(places, images, strict=True)]
        else:
            found = _detect(detector, images)
        for place, regions in zip(places, found, strict=True):
            results[place] = _fitting(sizes, pictures[place].name, regions, work.out)
        step(len(places))
    named = [(picture.name, result) for picture, result in zip(pictures, results, strict=True)]
    images = [(name, result) for name, result in named if isinstance(result, Regions)]
    failures = [Failure(name, _line(result)) for name, result in named if isinstance(result, str)]
    work.keep(number, images, failures, sizes)


def _line(reason: str) -> str:
    """A reason as one line of valid UTF-8, not too long."""
    return " ".join(reason.encode(errors="replace").decode().split())[:500]


def _detect(detector: Detector, images: list[Image.Image]) -> list[Regions | str]:
    """Of each picture its regions, or why there are none: what spoils a batch is looked for one by one."""
    try:
        found = detector.detect(images)
        if len(found) != len(images):
            raise ValueError(f"the detector gave regions of {len(found)} pictures for {len(images)}")
        return list(found)
    except (ImportError, getattr(torch, "AcceleratorError", ImportError)):  # no other picture would fare better
        raise
    except Exception as error:
        if len(images) == 1:
            return [f"the detector failed: {_said(error)}"]
        return [regions for image in images for regions in _detect(detector, [image])]


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _fitting(sizes: dict[str, Any], name: str, regions: Any, out: Path) -> Regions | str:
    """The regions if a store can hold them, or why not."""
    if isinstance(regions, str):
        return regions
    if not isinstance(regions, Regions):
        return f"the detector gave a {type(regions).__name__}, not Regions"
    if regions.class_probs is None and sizes["num_classes"]:
        return f"the detector gave no probabilities of its {sizes['num_classes']} classes"
    try:
        check_fits(sizes, name, regions, out)
    except ValueError as error:
        return str(error)
    return regions


def _at_boxes(detector: Detector, picture: Picture, image: Image.Image) -> Regions | str:
    """The regions at a picture's annotated boxes, or the reason why there are none."""
    where = picture.beside()
    file = Path(picture.name).with_suffix(".json").name if where is None or where.size >= 0 else Path(where.path).name
    try:
        if where is None:
            raise FileNotFoundError
        said = json.loads(read_bytes(where))
        boxes = np.array([box[:4] for box in said["boxes"]], dtype=np.float32).reshape(-1, 4)
        scale = np.array([image.width / said["width"], image.height / said["height"]] * 2, dtype=np.float32)
    except FileNotFoundError:
        return f"there is no {file} with its boxes beside it"
    except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as error:
        return f"{file} does not hold boxes, width and height as VCR's metadata do ({error})"
    try:
        return detector.features(image, boxes * scale)
    except Exception as error:
        return f"the detector failed at the boxes of {file}: {_said(error)}"


def _decoded(pictures: list[Picture], threads: int, ahead: int) -> Iterator[Image.Image | str]:
    """Each picture in order, or the reason why there is none; decoded by threads, a few ahead."""
    waiting: deque[Future] = deque()
    remaining = iter(pictures)
    with ThreadPoolExecutor(max_workers=threads) as pool:
        try:
            while True:
                while len(waiting) < max(ahead, threads + 1) and (picture := next(remaining, None)) is not None:
                    waiting.append(pool.submit(_open, picture))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _open(picture: Picture) -> Image.Image | str:
    file = picture.place.path
    inside = picture.place.size >= 0 or picture.place.column
    try:
        return open_picture(to_open(picture.place), f"{picture.name} in {file}" if inside else file)
    except ValueError as error:
        return str(error)
    except FileNotFoundError:
        return f"there is no picture at {file}: check the path"
    except Exception as error:  # whatever a server's client may raise
        return f"{file} cannot be read: {_said(error)}"


def _grouped(
    decoded: Iterator[Image.Image | str],
    detector: Detector,
    batch: int,
    results: list[Regions | str],
    step: Callable[[int], object],
) -> Iterator[tuple[list[int], list[Image.Image]]]:
    """Batches of pictures that the detector likes to see together, and their places; reasons go to `results`.

    Depends on the pictures' sizes and order alone, so that a batch is the same whoever makes it.
    """
    key: Callable[[tuple[int, int]], Hashable] = getattr(detector, "batch_key", lambda size: None)
    buckets: dict[Hashable, tuple[list[int], list[Image.Image]]] = {}
    waiting = 0
    for place, image in enumerate(decoded):
        if isinstance(image, str):
            results[place] = image
            step(1)
            continue
        bucket = key(image.size)
        places, images = buckets.setdefault(bucket, ([], []))
        places.append(place)
        images.append(image)
        waiting += 1
        if len(places) == batch or waiting >= _WAITING * batch:
            if len(places) < batch:
                bucket = max(buckets, key=lambda one: len(buckets[one][0]))  # the first of the fullest
            waiting -= len(buckets[bucket][0])
            yield buckets.pop(bucket)
    yield from buckets.values()
