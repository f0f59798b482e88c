"""Flickr30K Entities' files: phrases of captions, and the boxes of what they mean. Plummer et al. 2015."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from uniter.tasks.reading import field, json_lines

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels
NOT_VISUAL = 0  # the chain of what no box shows
# [/EN#283585/people Two people]; what is between slashes are types
_PHRASE = re.compile(r"\[/EN#(\d+)(?:/[^\s\]]*)?\s+([^\]]*)\]")


@dataclass(frozen=True)
class Picture:
    """A picture's phrases and boxes.

    Args:
        name: of its file.
        size: width and height in pixels.
        captions: of each its text, and its phrases with the chain of what they mean.
        boxes: of each chain, pixels x1 y1 x2 y2.
    """

    name: str
    size: tuple[float, float]
    captions: list[tuple[str, list[tuple[str, int]]]]
    boxes: dict[int, list[Box]]


def read_published(folder: Path, split: Path) -> Iterator[Picture]:
    """The pictures of a split in the published layout, in its order.

    Args:
        folder: with `Sentences/<picture>.txt` and `Annotations/<picture>.xml`.
        split: file with a picture's number a line (`train.txt`, `val.txt`, `test.txt`).

    Raises:
        ValueError: a file is missing or foreign.
    """
    for stem in split.read_text(encoding="utf-8").split():
        captions = []
        for line in _text(folder / "Sentences" / f"{stem}.txt").split("\n"):
            if line.strip():
                phrases = [(text.strip(), int(chain)) for chain, text in _PHRASE.findall(line)]
                captions.append((_PHRASE.sub(r"\2", line).strip(), phrases))
        path = folder / "Annotations" / f"{stem}.xml"
        try:
            root = ElementTree.fromstring(_text(path))
            size = tuple(float(_said(root, f"size/{side}")) for side in ("width", "height"))
            boxes: dict[int, list[Box]] = {}
            for thing in root.iter("object"):
                if thing.find("bndbox") is None:  # a scene, or nothing that a box fits around
                    continue
                corners = [float(_said(thing, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
                for name in thing.iter("name"):
                    boxes.setdefault(int(name.text or ""), []).append((*corners,))  # pyrefly: ignore[bad-argument-type]
        except (ElementTree.ParseError, ValueError) as error:
            raise ValueError(f"{path}: no annotation of Flickr30K Entities ({error}); download it again") from None
        boxes.pop(NOT_VISUAL, None)
        yield Picture(f"{stem}.jpg", (size[0], size[1]), captions, boxes)


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; unpack Flickr30K Entities' annotations.zip into the folder")
    return path.read_text(encoding="utf-8")


def _said(element: ElementTree.Element, path: str) -> str:
    found = element.findtext(path)
    if found is None:
        raise ValueError(f"no {path}")
    return found


def read_lines(path: Path) -> Iterator[Picture]:
    """The pictures of a file with a JSON record a line, in its order.

    A record has `file`, `size`, `phrases` (of each caption its `sentence` and its `phrases`, with `phrase` and `chain`)
    and `boxes` (`chains`, and `box` in fractions x1 y1 x2 y2).

    Args:
        path: the file.

    Raises:
        ValueError: it is foreign.
    """
    for record in json_lines(path):
        name, size = field(record, "file", path, str), field(record, "size", path, list)
        if len(size) != 2 or not all(isinstance(side, int | float) and side > 0 for side in size):
            raise ValueError(f"{path}: size {size!r:.40} of {name!r:.40} is not width and height in pixels")
        captions = []
        for caption in field(record, "phrases", path, list):
            phrases = [(field(p, "phrase", path, str), field(p, "chain", path, int)) for p in _phrases(caption, path)]
            captions.append((field(caption, "sentence", path, str), phrases))
        boxes: dict[int, list[Box]] = {}
        for entry in field(record, "boxes", path, list):
            box = field(entry, "box", path, list)
            if len(box) != 4 or not all(isinstance(number, int | float) for number in box):
                raise ValueError(f"{path}: box {box!r:.60} of {name!r:.40} is not x1 y1 x2 y2 in fractions")
            x1, y1, x2, y2 = (float(number) * side for number, side in zip(box, (*size, *size), strict=True))
            for chain in field(entry, "chains", path, list):
                if not isinstance(chain, int):
                    raise ValueError(f"{path}: chain {chain!r:.40} of {name!r:.40} is not a number; write it again")
                boxes.setdefault(chain, []).append((x1, y1, x2, y2))
        boxes.pop(NOT_VISUAL, None)
        yield Picture(name, (float(size[0]), float(size[1])), captions, boxes)


def _phrases(caption: Any, path: Path) -> list[Any]:
    return field(caption, "phrases", path, list)
