"""Regions of one's own pictures: a folder of pictures in, a store out."""

import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from uniter.files import write_json
from uniter.regions.detectors import Detector, load_detector
from uniter.regions.pictures import open_picture as open_picture
from uniter.regions.regions import Regions
from uniter.regions.store import StoreWriter

SKIPPED = "skipped.json"


@dataclass(frozen=True)
class Skipped:
    """A file that gave no regions: its name and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What an extraction did.

    Args:
        store: the folder of the store.
        images: images in the store now.
        added: of these, the ones that this run added.
        skipped: files that could not be read; also in `skipped.json` in the store's folder.
        seconds: how long it took.
    """

    store: Path
    images: int
    added: int
    skipped: list[Skipped]
    seconds: float

    def __str__(self) -> str:
        text = f"{self.store}: {self.images} images, {self.added} added in {self.seconds:.1f} s"
        return f"{text}, {len(self.skipped)} files skipped (see {SKIPPED})" if self.skipped else text


def extract(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    detector: Detector | str | os.PathLike = "scenes",
    batch: int = 8,
    progress: bool = True,
    shard_images: int = 512,
    root: str | os.PathLike | None = None,
    annotated: bool = False,
) -> Report:
    """Find the regions of every picture in a folder and keep them in a store.

    Run again after a kill, it does what is missing, and the store comes out as if it had not been killed. An image's
    name is its path below the folder, with `/`, and names are taken in order. Hidden files are left out.

    Args:
        source: a folder, searched with all folders in it, or a list of files.
        out: the folder of the store, new or to be continued.
        detector: what finds the regions, or the name or folder of one.
        batch: pictures handed to the detector at a time.
        progress: show a progress bar.
        shard_images: images a shard of the store.
        root: the folder that names begin below; by default `source`, or the common folder of the files.
        annotated: take the boxes in the JSON file beside each picture, in its order, instead of finding some: VCR's
            metadata, with `boxes` of x1 y1 x2 y2 and maybe a score, `width` and `height` in pixels.

    Returns:
        What was done and what was skipped.

    Raises:
        ValueError: there are no pictures, or `out` is not a store of this detector.
    """
    started = time.time()
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch}")
    out = Path(out)
    files = list_pictures(source, out, root)
    if isinstance(detector, str | os.PathLike):
        detector = load_detector(detector)
    skipped: list[Skipped] = []
    # a new store is made when the first picture could be read, so that a mistaken folder leaves none behind
    writer = _writer(out, detector, shard_images) if out.exists() else None
    todo = [(name, path) for name, path in files if writer is None or not writer.has(name)]
    added, paths = 0, dict(files)
    with tqdm(total=len(files), initial=len(files) - len(todo), unit="picture", disable=not progress) as bar:
        for group in _batched(_decoded(todo, 2 * batch), batch, skipped, bar):
            writer = writer or _writer(out, detector, shard_images)
            if annotated:
                found = [_at_boxes(detector, paths[name], image) for name, image in group]
            else:
                found = detector.detect([image for _, image in group])
            for (name, _), regions in zip(group, found, strict=True):
                if isinstance(regions, str):
                    skipped.append(Skipped(name, regions))
                    continue
                writer.add(name, regions)
                added += 1
            bar.update(len(group))
    if writer is None or len(writer) == 0:
        reasons = f"; the first: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"none of the {len(files)} files in {source} is a picture that can be read{reasons}")
    writer.close()
    if skipped:
        write_json(out / SKIPPED, [asdict(entry) for entry in skipped], indent=1)
    else:
        (out / SKIPPED).unlink(missing_ok=True)
    return Report(out, len(writer), added, skipped, time.time() - started)


def _at_boxes(detector: Detector, picture: Path, image: Image.Image) -> Regions | str:
    """The regions at a picture's annotated boxes, or the reason why there are none."""
    path = picture.with_suffix(".json")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        boxes = np.array([box[:4] for box in said["boxes"]], dtype=np.float32).reshape(-1, 4)
        scale = np.array([image.width / said["width"], image.height / said["height"]] * 2, dtype=np.float32)
        return detector.features(image, boxes * scale)
    except FileNotFoundError:
        return f"there is no {path.name} with its boxes beside it"
    except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as error:
        return f"{path.name} does not hold boxes, width and height as VCR's metadata do ({error})"


def list_pictures(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    out: Path | None = None,
    root: str | os.PathLike | None = None,
) -> list[tuple[str, Path]]:
    """Names and paths of the files that `extract` would try, in order.

    A JSON file in a folder that is named as a picture beside it is left out: it holds the picture's metadata (VCR).

    Args:
        source: a folder or a list of files.
        out: a folder to leave out. Or None.
        root: the folder that names begin below.

    Raises:
        ValueError: the folder or a file is missing, there is no file, or two files have the same name.
    """
    if isinstance(source, str | os.PathLike):
        folder = Path(source)
        if not folder.exists():
            raise ValueError(f"there is no folder {folder}: check the path")
        paths = [folder] if folder.is_file() else list(_walk(folder, out))
        root = Path(root or (folder.parent if folder.is_file() else folder))
    else:
        paths = [Path(path) for path in source]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} of the {len(paths)} files do not exist, such as {missing[0]}: check the paths"
            )
        root = Path(root or (os.path.commonpath([path.absolute().parent for path in paths]) if paths else "."))
    if not paths:
        raise ValueError(f"there are no pictures in {source}: give a folder with JPEG, PNG, WebP, BMP or GIF files")
    try:
        files = {path.absolute().relative_to(root.absolute()).as_posix(): path for path in paths}
    except ValueError:
        raise ValueError(f"not all files lie below {root}: give their common folder as root") from None
    return sorted(files.items())


def _walk(folder: Path, out: Path | None) -> Iterator[Path]:
    left_out = None if out is None else out.resolve()
    for parent, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and Path(parent, f).resolve() != left_out]
        stems = Counter(Path(file).stem for file in files)
        for file in files:
            beside = file.endswith(".json") and stems[Path(file).stem] > 1  # a picture's metadata (VCR)
            if not file.startswith(".") and not beside:
                yield Path(parent, file)


def _writer(out: Path, detector: Detector, shard_images: int) -> StoreWriter:
    attributes = getattr(detector, "attribute_names", None)
    notes = getattr(detector, "notes", None)
    return StoreWriter(out, detector.fingerprint, detector.class_names, attributes, shard_images, notes=notes)


def _decoded(files: list[tuple[str, Path]], ahead: int) -> Iterator[tuple[str, Image.Image | str]]:
    """Each name with its picture, or with the reason why there is none; decoded in a thread, a few ahead."""
    waiting: deque[tuple[str, Future]] = deque()
    remaining = iter(files)
    with ThreadPoolExecutor(max_workers=1) as thread:
        while True:
            while len(waiting) < ahead and (entry := next(remaining, None)) is not None:
                waiting.append((entry[0], thread.submit(_open, *entry)))
            if not waiting:
                return
            name, future = waiting.popleft()
            yield name, future.result()


def _open(name: str, path: Path) -> Image.Image | str:
    try:
        name.encode()
        return open_picture(path)
    except UnicodeEncodeError:
        return "the file's name is not valid UTF-8: rename it"
    except ValueError as error:
        return str(error)


def _batched(
    decoded: Iterator[tuple[str, Image.Image | str]], batch: int, skipped: list[Skipped], bar: tqdm
) -> Iterator[list[tuple[str, Image.Image]]]:
    """Groups of readable pictures; the others go to `skipped`."""
    group: list[tuple[str, Image.Image]] = []
    for name, image in decoded:
        if isinstance(image, str):
            skipped.append(Skipped(name.encode(errors="replace").decode(), image.encode(errors="replace").decode()))
            bar.update(1)
            continue
        group.append((name, image))
        if len(group) == batch:
            yield group
            group = []
    if group:
        yield group
