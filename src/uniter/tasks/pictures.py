"""Pictures of COCO, Visual Genome and Flickr under their numbers: one photograph may be in all three."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from uniter.files import read_json
from uniter.tasks.reading import Names, field, stem

FLICKR = re.compile(
    r"flickr\.com/(?:.*/)?(\d+)_[^/]*$"
)  # https://farm4.staticflickr.com/3153/2970773875_164f0c0b83_z.jpg
GENOME = re.compile(r"(vg_0*)?([1-9]\d*)")  # vg_000000000042.npz, VG_100K/42.jpg; COCO's bare numbers have zeros before


class Numbers(NamedTuple):
    """A photograph's numbers in COCO and at Flickr, as far as anybody says."""

    coco: int | None = None
    flickr: int | None = None


def flickr_number(address: str | None) -> int | None:
    """The number of the photograph in an address at Flickr; None for other addresses."""
    found = FLICKR.search(address or "")
    return int(found[1]) if found else None


def leading_number(name: str) -> int | None:
    """What Flickr30K's and Flickr8K's file names begin with: the photograph's number at Flickr."""
    found = re.match(r"\d+", stem(name))
    return int(found[0]) if found else None


def coco_number(record: Any) -> int | None:
    """COCO's number of an image in Karpathy's layout; None for another data set's."""
    if isinstance(record.get("cocoid"), int):
        return record["cocoid"]
    found = re.fullmatch(r"COCO_\w+?_(\d{12})", stem(str(record.get("filename", ""))))
    return int(found[1]) if found else None


def karpathy_splits(path: Path) -> dict[int, str]:
    """The split of each COCO image in Karpathy's file, by COCO's number.

    Raises:
        ValueError: the file is missing or foreign, or of another data set.
    """
    found = {}
    for image in field(read_json(path, dict), "images", path, list):
        split, number = field(image, "split", path, str), coco_number(image)
        if number is None:
            raise ValueError(f"{path}: image {image.get('filename')!r:.60} is none of COCO; give dataset_coco.json")
        found[number] = split
    return found


def genome_numbers(folder: Path) -> dict[int, Numbers]:
    """Each image of Visual Genome, by its own number, as COCO and Flickr number it.

    Raises:
        ValueError: `image_data.json` is missing or foreign.
    """
    path = folder / "image_data.json"
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file, which says what Visual Genome's images are in COCO and at Flickr; put it there"
        )
    found = {}
    for image in read_json(path, list):
        coco, flickr = (field(image, key, path, (int, str, type(None))) for key in ("coco_id", "flickr_id"))
        found[field(image, "image_id", path, int)] = Numbers(_number(coco, path), _number(flickr, path))
    return found


def _number(value: int | str | None, path: Path) -> int | None:
    if value is None or isinstance(value, int):
        return value
    if value.isdecimal():
        return int(value)
    raise ValueError(f"{path}: {value!r:.40} is no number of a picture; download or write it again")


def genome_finder(stored: Names | None) -> Callable[[int], str]:
    """What finds a stored image of Visual Genome by its number: `vg_000000000042.npz`, `VG_100K/42.jpg`, `42.jpg`.

    A number that nothing fits gives the published name.
    """
    found: dict[int, str] = {}
    for name in stored or ():
        named = GENOME.fullmatch(stem(name).lower())
        if named and (named[1] or int(named[2]) not in found):
            found[int(named[2])] = name
    return lambda number: found.get(number, f"vg_{number:012d}.npz")


def of_genome(name: str) -> bool:
    """Whether an image is called as Visual Genome's are, by the published code or by the public folders."""
    return name.rsplit("/", 1)[-1].lower().startswith("vg_") or "vg_100k" in name.lower()


def list_items(path: Path) -> Iterator[Any]:
    """The items of a JSON list one by one: Visual Genome's files would be gigabytes all at once.

    Raises:
        ValueError: missing, or not a JSON list.
    """
    mend = "download it again"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {mend}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); {mend}") from None
    decode, space = json.JSONDecoder().raw_decode, re.compile(r"\s*")
    skip = lambda at: space.match(text, at).end()  # type: ignore[union-attr]
    place = skip(0)
    if text[place : place + 1] != "[":
        raise ValueError(f"{path}: expected a JSON list; {mend}")
    place = skip(place + 1)
    if text[place : place + 1] == "]":
        return
    while True:
        try:
            item, place = decode(text, place)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not JSON ({error}); {mend}") from None
        yield item
        place = skip(place)
        mark = text[place : place + 1]
        if mark == "]":
            return
        if mark != ",":
            raise ValueError(f"{path}: not JSON (cut off or spoilt at character {place}); {mend}")
        place = skip(place + 1)
