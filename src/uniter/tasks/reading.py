"""Records, boxes, lines and names of images, as benchmarks' files have them; what is wrong names the file."""

import csv
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniter.regions import Regions
from uniter.regions.formats import open_regions
from uniter.regions.source import RegionSource

Names = RegionSource | Mapping[str, Regions]  # what knows which images there are
IMAGE_ENDING = re.compile(r"\.(npz|jpe?g|png|webp)$", re.IGNORECASE)


def opened(regions: Names | str | Path | list[Path] | None) -> Names | None:
    """Regions given by path, or by several, opened; others as they are."""
    return open_regions(regions) if isinstance(regions, str | Path | list) else regions


def shards_of(images: Iterable[Any], stored: Any) -> np.ndarray:
    """The shard of the store that each image lies in, int64; of an image that is several, the first one's in it.

    Args:
        images: names, or tuples of several.
        stored: the regions; what is no `RegionSource` is one shard.
    """
    if not isinstance(stored, RegionSource):
        return np.zeros(len(list(images)), np.int64)
    numbers = stored.shard_numbers()
    named = ((image,) if isinstance(image, str) else image for image in images)
    first = (next((name for name in names if name in stored), None) for names in named)
    return np.array([0 if name is None else numbers[stored.place(name)] for name in first], np.int64)


def field(record: Any, key: str, place: Path | str, kind: type | tuple[type, ...] = object) -> Any:
    """`record[key]`, a `kind`, or an error that names the place, the key and the record.

    Raises:
        ValueError: the record is no mapping, has no such key, or its value is of another kind.
    """
    there = isinstance(record, Mapping) and key in record
    if there and isinstance(record[key], kind):
        return record[key]
    raise ValueError(
        f"{place}: a record has {'an odd' if there else 'no'} {key!r}: {record!r:.80}; is this the benchmark's format? "
        "download or write it again"
    )


def said_of(
    names: Sequence[Any], predictions: Iterable[Any], key: str, task: str, kind: type | tuple[type, ...] = (str, int)
) -> list[Any]:
    """Each example's prediction, in the examples' order; predictions of others are let alone.

    Args:
        names: of the examples.
        predictions: in any order.
        key: what a prediction calls its example's name.
        task: for messages.
        kind: of the names.

    Raises:
        ValueError: a prediction names nothing, an example has none, or two.
    """
    said: dict[Any, Any] = {}
    for prediction in predictions:
        name = field(prediction, key, f"a prediction of {task}", kind)
        if name in said:
            raise ValueError(f"{key} {name} has two predictions: give each one")
        said[name] = prediction
    if missing := [name for name in names if name not in said]:
        raise ValueError(
            f"{len(missing)} of {len(names)} have no prediction, the first is {key} {missing[0]}: predict the whole "
            "split"
        )
    return [said[name] for name in names]


def corners(box: Any, place: Path | str) -> tuple[float, float, float, float]:
    """A file's box x y w h as x1 y1 x2 y2, pixels.

    Raises:
        ValueError: this is no list of four finite numbers.
    """
    number = lambda value: isinstance(value, int | float) and math.isfinite(value)
    if not (isinstance(box, list | tuple) and len(box) == 4 and all(map(number, box))):
        raise ValueError(f"{place}: not a box of four numbers x y w h: {box!r:.80}; download or write it again")
    x, y, w, h = box
    return (x, y, x + w, y + h)


def json_lines(path: Path) -> Iterator[Any]:
    """The records of a file with one JSON value a line.

    Raises:
        ValueError: not JSON lines; names the line.
    """
    return (record for _, record in numbered_json_lines(path))


def numbered_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """`json_lines`, each with the number of its line."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark before the first line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not JSON lines ({error}); download or write it again") from None
    for number, line in enumerate(text.split("\n"), 1):  # JSON strings may hold other line ends as they are
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}); download or write it again") from None
        yield number, record


def read_csv(path: Path) -> list[list[str]]:
    """The rows of a CSV file.

    Raises:
        ValueError: missing, or no text.
    """
    try:
        return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give one that was written by `uniter predict`") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not CSV ({error}); write it again") from None


def trailing_number(name: str) -> int | None:
    """The image id at the end of a file name: COCO_val2014_000000000042.jpg -> 42."""
    found = re.search(r"(\d+)$", Path(name).stem)
    return int(found[1]) if found else None


def images_by_id(names: Iterable[str], subset: str = "") -> dict[int, str]:
    """Image id -> name, by the number at the names' end; of two with the same one, that which holds `subset` wins."""
    found: dict[int, str] = {}
    for name in names:
        number = trailing_number(name)
        if number is not None and (number not in found or (subset and subset in name and subset not in found[number])):
            found[number] = name
    return found


def by_stem(stored: Collection[str] | None) -> dict[str, str]:
    """Stored images by what they are called without folder and ending; None: there are none."""
    found: dict[str, str] = {}
    for name in stored or ():
        found.setdefault(stem(name), name)
    return found


def stem(name: str) -> str:
    """An image's name without folder and ending; other dots stay (VCR's names have some)."""
    return IMAGE_ENDING.sub("", name.rsplit("/", 1)[-1])


def name_finder(stored: Collection[str] | None) -> Callable[..., str]:
    """What finds a stored image by its file name, or by that behind its folder, or by the number at its end.

    By number only if what stands before it is the same but for capitals, or one of both is a bare number: image 42 of
    COCO is none of Visual Genome.

    Args:
        stored: what knows the images there are; None: file names are taken as they are.

    Returns:
        A function of the file name and, if there is one, the folder; a name that nothing fits comes back as it is.
    """
    if stored is None:
        return lambda filename, folder="": filename
    found: dict[tuple[str | None, int], str] = {}  # what stands before the number (None: whatever), the number

    def name_of(filename: str, folder: str = "") -> str:
        for name in (filename, f"{folder}/{filename}"):
            if name in stored:
                return name
        if not found:
            for name in stored:
                if (numbered := _before_and_number(name)) is not None:
                    found.setdefault(numbered, name)
                    found.setdefault((None, numbered[1]), name)
        asked = _before_and_number(filename)
        if asked is None:
            return filename
        before, number = asked
        keys = [(before, number), ("", number), *([] if before else [(None, number)])]
        return next((found[key] for key in keys if key in found), filename)

    return name_of


def _before_and_number(name: str) -> tuple[str, int] | None:
    """COCO_val2014_000000000042.jpg -> ("coco_val2014_", 42)."""
    number = trailing_number(name)
    return None if number is None else (Path(name).stem.lower().rstrip("0123456789"), number)
