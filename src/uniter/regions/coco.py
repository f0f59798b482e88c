"""Pictures with their boxes from a COCO JSON file (Lin et al. 2014): what a detector is trained and measured on.

Beyond COCO's own fields an annotation may have `attributes`, a mapping such as `{"colour": "red"}`, as annotation tools
write them.
"""

import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uniter import draws
from uniter.files import read_json
from uniter.regions.measuring import Things
from uniter.regions.pictures import open_picture

Targets = dict[str, np.ndarray]
"""`boxes` (N, 4) pixels, `classes` (N,) from 1, and of each attribute (N,) value numbers, -1 where it is not known."""
BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class Annotated:
    """One picture and what is in it.

    Args:
        name: its `file_name`.
        path: the file.
        size: width and height in pixels, as the COCO file says.
        things: boxes with classes from 1; crowds among them.
        attributes: of each attribute (N,) value numbers, -1 where it is not known.
    """

    name: str
    path: Path
    size: tuple[int, int]
    things: Things
    attributes: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class AnnotatedPictures(Sequence):
    """Pictures with their things: what `train_detector` is handed.

    Args:
        entries: the pictures.
        class_names: index 0 is `background`.
        attributes: of each attribute the names of its values.
        counted: what was mended or left out when the file was read, and how often.
    """

    entries: list[Annotated]
    class_names: list[str]
    attributes: dict[str, list[str]]
    counted: Counter = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Image.Image, Targets]:  # pyrefly: ignore  # no slices
        """A picture and its targets, crowds left out.

        Raises:
            ValueError: the picture cannot be read, or has another size than the file says.
        """
        entry = self.entries[index]
        image = self.open(index)
        crowd = entry.things.crowd
        kept = slice(None) if crowd is None else ~crowd
        targets = {"boxes": entry.things.boxes[kept], "classes": entry.things.classes[kept]}
        return image, targets | {name: values[kept] for name, values in entry.attributes.items()}

    def open(self, index: int) -> Image.Image:
        """A picture.

        Raises:
            ValueError: as for an index.
        """
        entry = self.entries[index]
        image = open_picture(entry.path)
        if image.size != entry.size:
            raise ValueError(
                f"{entry.path} is {image.width} x {image.height} pixels (upright), its COCO file says "
                f"{entry.size[0]} x {entry.size[1]}: give the pictures that the boxes were drawn on"
            )
        return image

    def split(self, share: float, seed: int) -> "tuple[AnnotatedPictures, AnnotatedPictures]":
        """Pictures to train on and pictures held out: a pure function of a picture's name and the seed.

        Args:
            share: of the pictures to hold out, between 0 and 1.
            seed: of the choice.

        Raises:
            ValueError: one of the two would be empty.
        """
        marks = np.array([zlib.crc32(entry.name.encode()) for entry in self.entries], np.int64)
        held = draws.uniform(seed, "detector-held-out", marks) < share
        if held.all() or not held.any():
            raise ValueError(
                f"a share of {share} of {len(self)} pictures leaves none to {'train on' if held.all() else 'measure'}: "
                "give another share, or the boxes to measure on in a file of their own"
            )
        pick = lambda wanted: [entry for entry, out in zip(self.entries, held, strict=True) if out == wanted]
        parts = [AnnotatedPictures(pick(out), self.class_names, self.attributes) for out in (False, True)]
        return parts[0], parts[1]


def read_coco(
    file: str | os.PathLike, images: str | os.PathLike, like: AnnotatedPictures | None = None
) -> AnnotatedPictures:
    """The pictures of a COCO JSON file, in the order of their ids.

    Boxes are clipped to the picture; those that are nothing then are left out. Both are counted, as are pictures
    without boxes, which are kept: a detector learns from them what is background.

    Args:
        file: with `images`, `annotations` and `categories`.
        images: the folder that `file_name` begins in.
        like: pictures whose classes and attributes are those to use, by their names. Or None: the file's own.

    Raises:
        ValueError: a field is missing or wrong, a category or picture is unknown, a picture's file is missing, or there
            are no boxes; the text names it.
    """
    file, folder = Path(file), Path(images)
    data = read_json(file, mend="give a COCO JSON file (docs/detectors.md)")
    listed = {name: _rows(data, name, file) for name in ("images", "annotations", "categories")}
    class_names, columns = _categories(listed["categories"], file, like)
    attributes = _attributes(listed["annotations"]) if like is None else like.attributes
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for row in listed["images"]:
        by_image.setdefault(_field(row, "id", file, "an image"), [])
    if len(by_image) < len(listed["images"]):
        raise ValueError(f"{file}: two images have one id: give each its own")
    for row in listed["annotations"]:
        owner = _field(row, "image_id", file, "an annotation")
        if owner not in by_image:
            raise ValueError(f"{file}: an annotation is of image {owner!r}, which is not among its images")
        by_image[owner].append(row)
    counted: Counter = Counter()
    rows = sorted(listed["images"], key=lambda row: (str(type(row["id"])), row["id"]))
    entries = [_entry(row, by_image[row["id"]], file, folder, columns, attributes, counted) for row in rows]
    missing = [entry.path for entry in entries if not entry.path.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(entries)} pictures of {file} are missing, such as {missing[0]}: check the "
            "folder of the pictures, or take them out of the file"
        )
    if not any(len(entry.things.boxes) for entry in entries):
        raise ValueError(f"{file} has no boxes: draw some, and export them as COCO JSON")
    return AnnotatedPictures(entries, class_names, attributes, counted)


def _rows(data: Mapping[str, Any], name: str, file: Path) -> list[dict[str, Any]]:
    rows = data.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{file}: {name} should be a list of records, as in COCO's instances_*.json")
    return rows


def _field(row: Mapping[str, Any], name: str, file: Path, whose: str) -> Any:
    if name not in row:
        raise ValueError(f"{file}: {whose} has no {name} ({str(row)[:80]})")
    return row[name]


def _categories(
    rows: list[dict[str, Any]], file: Path, like: AnnotatedPictures | None
) -> tuple[list[str], dict[Any, int]]:
    """Class names, and the column of each category id."""
    named = {_field(row, "id", file, "a category"): str(_field(row, "name", file, "a category")) for row in rows}
    names = [named[number] for number in sorted(named, key=lambda n: (str(type(n)), n))]
    if len(named) < len(rows) or len(set(names)) < len(names) or BACKGROUND in names:
        raise ValueError(f"{file}: each category needs an id and a name of its own, none called {BACKGROUND}")
    class_names = [BACKGROUND, *names] if like is None else like.class_names
    unknown = [name for name in names if name not in class_names]
    if unknown:
        raise ValueError(
            f"{file}: the category {unknown[0]!r} is unknown to the boxes that are trained on, which have "
            f"{', '.join(class_names[1:])}"
        )
    return class_names, {number: class_names.index(name) for number, name in named.items()}


def _attributes(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Of each attribute that has two values or more these, sorted."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, value in (row.get("attributes") or {}).items():
            if isinstance(value, str) and name.isidentifier():
                values.setdefault(name, set()).add(value)
    return {name: sorted(values[name]) for name in sorted(values) if len(values[name]) > 1}


def _entry(
    row: dict[str, Any],
    annotations: list[dict[str, Any]],
    file: Path,
    folder: Path,
    columns: Mapping[Any, int],
    attributes: Mapping[str, list[str]],
    counted: Counter,
) -> Annotated:
    name = str(_field(row, "file_name", file, "an image"))
    size = (_field(row, "width", file, f"image {name}"), _field(row, "height", file, f"image {name}"))
    if not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"{file}: image {name} is {size[0]!r} x {size[1]!r} pixels: two whole numbers are needed")
    boxes, classes, crowd = [], [], []
    values: dict[str, list[int]] = {attribute: [] for attribute in attributes}
    for annotation in annotations:
        category = _field(annotation, "category_id", file, f"an annotation of {name}")
        if category not in columns:
            raise ValueError(f"{file}: an annotation of {name} is of category {category!r}, which is not among them")
        bbox = _field(annotation, "bbox", file, f"an annotation of {name}")
        try:
            x, y, width, height = (float(number) for number in bbox)
        except (TypeError, ValueError):
            raise ValueError(f"{file}: a box of {name} is {bbox!r}: x, y, width and height are needed") from None
        given = np.array([x, y, x + width, y + height])
        if not np.isfinite(given).all():
            raise ValueError(f"{file}: a box of {name} holds NaN or infinity: {bbox!r}")
        box = np.clip(given, 0, [*size, *size])
        if (box[2:] - box[:2] < 1e-3).any():
            counted["boxes left out: without an area in the picture"] += 1
            continue
        if np.abs(box - given).max() > 1:
            counted["boxes clipped to the picture"] += 1
        boxes.append(box)
        classes.append(columns[category])
        crowd.append(bool(annotation.get("iscrowd", 0)))
        said = annotation.get("attributes") or {}
        for attribute, known in attributes.items():
            values[attribute].append(known.index(said[attribute]) if said.get(attribute) in known else -1)
    if not boxes:
        counted["pictures without boxes"] += 1
    things = Things(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), crowd=np.array(crowd, bool)
    )
    return Annotated(name, folder / name, size, things, {a: np.array(v, np.int64) for a, v in values.items()})
