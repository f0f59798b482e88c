"""NLVR's files: boxes of its training pictures as COCO JSON, pictures out of their archives, folders held out."""

import json
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uniter.files import replacing, write_json, write_text
from uniter.real.files import needed
from uniter.tasks.reading import field, json_lines

SIZE, SIDE, LEFTS = (400, 100), 100, (0, 150, 300)  # of a picture and of its three boxes, in pixels
COLOURS = {"#0099ff": "blue", "Black": "black", "Yellow": "yellow"}
SHAPES = ("circle", "square", "triangle")
SIZES = {10: "small", 20: "medium", 30: "large"}
# Colour and shape together, since a model is shown a detector's classes and not its attributes, and the sentences speak
# of both; `box` is the grey square that things lie in, of which they speak too.
CLASSES = [*(f"{colour} {shape}" for colour in COLOURS.values() for shape in SHAPES), "box"]
MODEL = "small,long_side=400-400,regions=4-40"
ORDERS = 6
HELD_OUT = 10  # every tenth folder of the training split is validated on


def to_coco(record: Mapping[str, Any], order: int) -> list[dict[str, Any]]:
    """COCO annotations, without ids, of one example's picture that shows its boxes in one of the six orders."""
    found: list[dict[str, Any]] = []
    for left, number in zip(LEFTS, record["permutations"][order], strict=True):
        found.append({"category_id": len(CLASSES), "bbox": [left, 0, SIDE, SIDE], "area": SIDE * SIDE, "iscrowd": 0})
        for thing in record["structured_rep"][number]:
            side, colour = int(thing["size"]), COLOURS[thing["color"]]
            said = {"colour": colour, "shape": thing["type"], "size": SIZES[side]}
            found.append(
                {
                    "category_id": CLASSES.index(f"{colour} {thing['type']}") + 1,
                    "bbox": [left + int(thing["x_loc"]), int(thing["y_loc"]), side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "attributes": said,
                }
            )
    return found


def write_boxes(
    data: Path, split: str, pictures: int, out: Path, folders: Collection[str] | None = None, name: str = ""
) -> Path:
    """Unpack pictures of a split, spread over its examples and orders, and write their boxes.

    Args:
        data: folder of NLVR's files.
        split: which.
        pictures: at most so many.
        out: folder for `images` and `<name>.json`.
        folders: of the split (`directory`), the others are left out; None: all.
        name: of the file; left out, the split's.

    Returns:
        The COCO file.
    """
    file = out / f"{name or split}.json"
    if file.is_file():
        return file
    records = [r for r in json_lines(needed(data / f"{split}.jsonl")) if folders is None or r["directory"] in folders]
    every = len(records) * ORDERS
    images, annotations = [], []
    with zipfile.ZipFile(needed(data / f"images-{split}.zip")) as packed:
        names = {Path(name).name: name for name in packed.namelist()}
        for number in np.unique(np.linspace(0, every - 1, min(pictures, every)).astype(int)):
            record, order = records[number // ORDERS], int(number % ORDERS)
            picture = f"{split}-{record['identifier']}-{order}.webp"
            target = out / "images" / picture
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(packed.read(names[picture]))
            images.append({"id": len(images) + 1, "file_name": picture, "width": SIZE[0], "height": SIZE[1]})
            for entry in to_coco(record, order):
                annotations.append({"id": len(annotations) + 1, "image_id": len(images), **entry})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    write_json(file, {"images": images, "annotations": annotations, "categories": categories})
    return file


def is_held_out(folder: str) -> bool:
    """Whether a training folder (`directory`) is validated on instead of learnt from."""
    return folder.isdecimal() and int(folder) % HELD_OUT == 0


def write_parts(file: Path, split: str, orders: int, out: Path) -> None:
    """Write a split's sentences for the task, and unpack the first orders of their pictures, once.

    The training split becomes two, `train` and `held`, by `is_held_out` its folders.

    Args:
        file: JSON lines, with `images-<its name>.zip` beside it.
        split: what it is called here.
        orders: how many.
        out: folder for `<split>.jsonl` and `images`.

    Raises:
        ValueError: a file is missing or foreign, or a picture is not in the archive.
    """
    records = list(json_lines(needed(file)))
    parts: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        held = split == "train" and is_held_out(field(record, "directory", file, str))
        parts.setdefault("held" if held else split, []).append(record)
    if all((out / f"{part}.jsonl").is_file() for part in parts):
        return
    archive = needed(file.with_name(f"images-{file.stem}.zip"))
    with zipfile.ZipFile(archive) as packed:
        names = {Path(name).stem: name for name in packed.namelist()}
        for part, rows in parts.items():
            for source, target in _pictures(rows, file.stem, part, orders):
                if source not in names:
                    raise ValueError(f"{archive}: no picture {source}, of which {file.name} speaks")
                place = out / "images" / f"{target}{Path(names[source]).suffix}"
                if not place.is_file():
                    with replacing(place, wait=False) as temporary:
                        temporary.write_bytes(packed.read(names[source]))
    kept = ("sentence", "label", "identifier", "directory")
    for part, rows in parts.items():
        lines = (json.dumps({key: row[key] for key in kept if key in row}) + "\n" for row in rows)
        write_text(out / f"{part}.jsonl", "".join(lines))


def _pictures(rows: list[dict[str, Any]], before: str, after: str, orders: int) -> Iterator[tuple[str, str]]:
    for row in rows:
        for order in range(orders):
            yield tuple(f"{split}-{row['identifier']}-{order}" for split in (before, after))  # pyrefly: ignore
