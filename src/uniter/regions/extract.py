"""Regions of one's own pictures: a folder of pictures in, a store out; or five million of them, by many machines."""

import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from uniter.files import read_json
from uniter.regions.detectors import Detector
from uniter.regions.pictures import open_picture as open_picture
from uniter.regions.pictures_source import Failure as Failure
from uniter.regions.pictures_source import Source, is_url
from uniter.regions.pictures_source import list_pictures as list_pictures
from uniter.regions.runners import How, local_rank, run_here, run_pool, run_ray
from uniter.regions.shard_work import FAILURES, LOCK, Work, begin, read_failures
from uniter.regions.store import INDEX, PLAN, UNFINISHED


@dataclass(frozen=True)
class Report:
    """What an extraction did.

    Args:
        store: the folder of the store.
        images: images in the store now.
        added: of these, the ones that this run added.
        failures: pictures without regions, and why; also in `failures.jsonl` in the store's folder.
        seconds: how long it took.
        left: shards that other ranks have yet to do.
    """

    store: Path
    images: int
    added: int
    failures: list[Failure]
    seconds: float
    left: int = 0

    def __str__(self) -> str:
        text = f"{self.store}: {self.images} images, {self.added} added in {self.seconds:.1f} s"
        if self.left:
            return f"{text}, {len(self.failures)} failed, {self.left} shards left to other ranks"
        return f"{text}, {len(self.failures)} failed (see {FAILURES})" if self.failures else text


def extract(
    source: Source,
    out: str | os.PathLike,
    detector: Detector | str | os.PathLike = "scenes",
    batch: int = 8,
    progress: bool = True,
    shard_images: int = 512,
    root: str | os.PathLike | None = None,
    annotated: bool = False,
    workers: int | None = None,
    threads: int | None = None,
    rank: tuple[int, int] | None = None,
    ray: bool = False,
) -> Report:
    """Find the regions of every picture of a source and keep them in a store.

    The pictures are cut into shards, in order. Run again after a kill, it does the shards that are missing, and the
    store comes out as if it had not been killed; the same store comes out of one process, several, ranks and Ray. Run
    again after the end, it does what is new or failed.

    Args:
        source: a folder, searched with all folders in it; a glob, a list file, WebDataset tars, Parquet files or a URL
            of these, as `find_pictures` says; or a list of files.
        out: the folder of the store, new or to be continued.
        detector: what finds the regions, or the name or folder of one.
        batch: pictures handed to the detector at a time.
        progress: show a progress bar.
        shard_images: images a shard of the store.
        root: the folder that names begin below; by default `source`, or the common folder of the files.
        annotated: take the boxes in the JSON file beside each picture, in its order, instead of finding some: VCR's
            metadata, with `boxes` of x1 y1 x2 y2 and maybe a score, `width` and `height` in pixels.
        workers: processes on this machine, by default one; or Ray actors, by default one a GPU, or else one a core.
            Each computes with one of torch's threads, or the last bits would depend on their number.
        threads: that decode in each of them; by default 1, or 8 beside a GPU.
        rank: this process's rank and the number of ranks: of them, each does its share of the shards, and the last
            makes the store. What failed before is not tried again.
        ray: work in Ray actors.

    Returns:
        What was done and what failed.

    Raises:
        ValueError: there are no pictures, or `out` is not a store of this detector.
        OSError: the store cannot be written to, such as on a full disk; what is done stays.
    """
    started = time.time()
    for name, value in (("batch", batch), ("workers", workers), ("threads", threads), ("shard_images", shard_images)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    if is_url(out):
        raise ValueError(f"{out} is a URL: a store is made in a folder, copy it from there")
    out = Path(out)
    how = How(out.absolute(), detector, batch, threads)
    loaded: Detector | None = None
    failures = read_failures(out) if rank else []  # what is not tried again
    before = None
    while True:
        loaded = loaded or how.load(local_rank(os.environ))
        with _alone(out) if rank else nullcontext():
            work, resumed = begin(source, out, loaded, shard_images, root, annotated, failures, shared=rank is not None)
        before = _images(out) if before is None else before
        if work is None:
            return Report(out, _images(out), _images(out) - before, failures, time.time() - started)
        shards = [shard for shard in work.left() if rank is None or shard % rank[1] == rank[0]]
        names = {picture.name for shard in shards for picture in work.pictures(shard)} if rank else set()
        if ray or (workers or 1) > 1:
            loaded = None  # its GPU is needed
        if ray:
            run_ray(work, shards, how, workers, progress, merge=rank is None)
        elif (workers or 1) > 1:
            run_pool(work, shards, how, workers or 1, progress, merge=rank is None)
        else:
            run_here(work, shards, how, loaded, progress, merge=rank is None)
        if left := len(work.left()):
            assert rank is not None, "a shard was forgotten"
            said = [work.said(shard) for shard in shards]
            failures = [Failure(**one) for shard in said for one in shard["failures"]]
            return Report(out, _images(out), len(names) - len(failures), failures, time.time() - started, left)
        failures = work.finish()
        images = _images(out)
        if images == 0:
            reasons = f"; the first: {failures[0].reason}" if failures else ""
            raise ValueError(f"none of the {work.images} files in {source} is a picture that can be read{reasons}")
        if rank or not resumed:  # after what was begun long ago there may be new pictures
            added = len(names) - len({failure.name for failure in failures} & names) if rank else images - before
            return Report(out, images, added, failures, time.time() - started)


def finish(out: str | os.PathLike) -> Report:
    """Make the store after ranks that did all shards, none of which could do this.

    Args:
        out: the folder of the store.

    Raises:
        ValueError: no extraction goes on there, or shards are missing.
    """
    started, out = time.time(), Path(out)
    before = _images(out)
    if (out / UNFINISHED / PLAN).exists():
        failures = Work(out).finish()
    elif before:  # somebody has finished it
        failures = read_failures(out)
    else:
        raise ValueError(f"no extraction goes on in {out}: check the path")
    return Report(out, _images(out), _images(out) - before, failures, time.time() - started)


def _images(out: Path) -> int:
    """How many images a store has; 0 if there is none."""
    file = out / INDEX
    return sum(entry["images"] for entry in read_json(file)["shards"]) if file.exists() else 0


def _alone(out: Path) -> FileLock:
    """Held by the one rank that looks for the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    return FileLock(out / LOCK)
