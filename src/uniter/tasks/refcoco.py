"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg, scenes): which region is meant. Paper section 4."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniter.files import read_json
from uniter.modeling_uniter import UniterForGrounding
from uniter.pickles import read_pickle
from uniter.processing_uniter import Text
from uniter.regions.regions import Regions, StoredRegions
from uniter.tasks.base import Batch, Image, Predictions, Task
from uniter.tasks.intervals import with_interval
from uniter.tasks.reading import corners, field, said_of, trailing_number
from uniter.tasks.text_database import TextDatabase, open_split

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels
IN_FRACTIONS = 1.01  # boxes of an image of size 1 x 1 that reach no further are fractions; halves may round above 1
# How the published code names an image's regions, by what their boxes are.
SAME_BOX = 2.0  # pixels that a stored box may differ from its annotation: half precision, and rounding when extracted


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression.

    Args:
        sent_id: its number.
        text: its words, or its word pieces.
        image: its image's name in the store.
        box: the box meant, pixels x1 y1 x2 y2.
        place: of a text database: the number of the box meant among the image's annotated ones.
    """

    sent_id: int
    text: Text
    image: str
    box: Box
    place: int | None = None


class RefCOCO(Task):
    """Which region an expression means, among the regions at hand.

    Target: the region that covers the true box best, if their overlap is at least 0.5, else none (no loss). Prediction:
    the box of the highest region, with the true box beside it. Regions stored as fractions (the published LMDBs) become
    pixels by the image sizes that the benchmark's files say. From the public files, or from text databases
    `refcoco_<split>.db`, `refcoco+_<split>.db`, `refcocog_<split>.db`: where the regions are a database's annotated
    boxes, the target is the annotated thing itself, as published. Options:

        refs: file name of the references (`refs(unc).p`, `refs(umd).p`); the only one if left out.
        overlap: "plain": intersection over union; "published": by the published code's rule, which takes the last pixel
            for a part of the box.
        boxes: whether regions are the "annotated" boxes of a text database or "detected" ones; if left out this is seen
            from the boxes, image by image. To learn from the ones and measure on the others, as published, is what a
            recipe's `validation_regions` is for.
    """

    name = "refcoco"
    id_field, text_kind = "sent_id", "expression"
    model = UniterForGrounding
    monitor = "accuracy"
    options = MappingProxyType({"refs": "", "overlap": "plain", "boxes": ""})
    published = MappingProxyType(
        {"train": {"batching": "examples", "order": "files"}, "options": {"overlap": "published"}}
    )
    # spec 4.4, train-refcoco-base-1gpu: 128 expressions an update
    defaults = MappingProxyType(
        {"learning_rate": 1e-4, "steps": 24_000, "warmup": 1500, "examples": 128, "clip": 2.0, "weight_decay": 0.01}
    )

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.settings["overlap"] not in OVERLAPS:
            raise ValueError(
                f"option overlap of task {self.name} is one of {', '.join(OVERLAPS)}, got {self.settings['overlap']!r}"
            )
        self.overlaps = OVERLAPS[self.settings["overlap"]]
        if self.settings.get("boxes", "") not in ("", "annotated", "detected"):
            raise ValueError(
                f"option boxes of task {self.name} is annotated, detected or left out, got {self.settings['boxes']!r}"
            )
        self._annotated: dict[str, np.ndarray] = {}  # image -> (R, 4) annotated boxes of a text database
        self._are_annotated: dict[str, bool] = {}  # image -> whether its regions are these
        self._sizes: dict[str, tuple[float, float]] = {}  # image -> width and height in pixels, as the files say

    @property
    def most_pieces(self) -> int:
        """One less than `max_text`: the published filter is strict here."""
        return super().most_pieces - 1

    def examples(self, split: str) -> list[Expression]:
        """The expressions of a split (train, val, testA, testB, test; several joined by "+") in the file's order.

        Raises:
            ValueError: a file is missing or foreign, or has no such split.
        """
        return [example for part in split.split("+") for example in self._of_split(part)]

    def _of_split(self, split: str) -> list[Expression]:
        if database := open_split(self.data, split, ("refcoco*",), self.vocabulary):
            return self._stored_expressions(database)
        path, instances_path = self.only_file("refs", "refs(*).p"), self.file("instances.json")
        refs = read_pickle(path)
        if not isinstance(refs, list):
            raise ValueError(
                f"{path}: expected a list of references, got a {type(refs).__name__}; is it a refs(...).p?"
            )
        splits = [field(ref, "split", path, str) for ref in refs]
        boxes, image_of = self._instances(instances_path)
        found = []
        for ref in (ref for ref, part in zip(refs, splits, strict=True) if part == split):
            thing = field(ref, "ann_id", path, int)
            if thing not in boxes:
                raise ValueError(
                    f"{instances_path}: no annotation {thing}, which {path.name} refers to; take both from one release"
                )
            image = image_of(field(ref, "image_id", path, int), str(ref.get("file_name", "")))
            for sentence in field(ref, "sentences", path, list):
                text = field(sentence, "sent", path, str)
                if text.strip():
                    found.append(Expression(field(sentence, "sent_id", path, int), text, image, boxes[thing]))
        if not found:
            raise self.unknown_split(path, split, splits)
        return found

    def _instances(self, path: Path) -> tuple[dict[int, Box], Callable[[int, str], str]]:
        """Boxes (x1 y1 x2 y2) by annotation id, and what turns an image's id and file name into its name."""
        instances = read_json(path, dict)
        annotations, images = (field(instances, key, path, list) for key in ("annotations", "images"))
        boxes: dict[int, Box] = {field(a, "id", path, int): corners(field(a, "bbox", path), path) for a in annotations}
        files = {field(image, "id", path, int): field(image, "file_name", path, str) for image in images}
        sizes = _sizes(images)
        stored = self.regions
        by_id = self._names_by_id(alone=False)

        def image_of(image_id: int, file_name: str) -> str:
            name = files.get(image_id, file_name)
            name = name if stored is None or name in stored else by_id.get(image_id, name)
            if image_id in sizes:
                self._sizes[name] = sizes[image_id]
            return name

        return boxes, image_of

    def _stored_expressions(self, database: TextDatabase) -> list[Expression]:
        """The expressions of a text database, in the order of its references."""
        place = {name: database.path / f"{name}.json" for name in ("refs", "annotations", "images")}
        refs, annotations, images = (database.beside(path.name, list) for path in place.values())
        boxes = {field(a, "id", place["annotations"], int): field(a, "bbox", place["annotations"]) for a in annotations}
        things = {
            field(image, "id", place["images"], int): field(image, "ann_ids", place["images"], list) for image in images
        }
        names, sizes = self._names_by_id(), _sizes(images)
        found = []
        for ref in refs:
            image_id, thing = (field(ref, key, place["refs"], int) for key in ("image_id", "ann_id"))
            if thing not in things.get(image_id, ()):
                raise ValueError(
                    f"{place['images']}: image {image_id} has no annotation {thing}, which refs.json names"
                )
            name = names.get(image_id, f"visual_grounding_coco_gt_{image_id:012d}.npz")
            if image_id in sizes:
                self._sizes[name] = sizes[image_id]
            if name not in self._annotated:
                known = [corners(boxes.get(other), place["annotations"]) for other in things[image_id]]
                self._annotated[name] = np.array(known)
            for sent_id in field(ref, "sent_ids", place["refs"], list):
                record = database.record(str(sent_id))
                box = corners(field(record, "bbox", database.place(str(sent_id))), database.path)
                number = field(record, "sent_id", database.place(str(sent_id)), int)
                text = database.pieces(str(sent_id), record)
                found.append(Expression(number, text, name, box, things[image_id].index(thing)))
        return found

    def _names_by_id(self, alone: bool = True) -> dict[int, str]:
        """The images at hand by the number at their names' end.

        Args:
            alone: refuse two names of a number; else the first counts.

        Raises:
            ValueError: two images have the same number (regions of annotated and of detected boxes in one place).
        """
        found: dict[int, str] = {}
        for name in self.regions or ():
            number = trailing_number(name)
            if number is not None and found.setdefault(number, name) != name and alone:
                raise ValueError(
                    f"{self.data}: {found[number]} and {name} are both regions of image {number}; give annotated and "
                    "detected boxes apart (`regions` and `validation_regions` of a recipe)"
                )
        return found

    def seen(self, image: Image) -> Regions:
        """The regions of an image with boxes in pixels: where they are stored as fractions, by the files' image size.

        Raises:
            ValueError: they are not in the store, or fractions of an image whose size nobody says.
        """
        found = super().seen(image)
        if isinstance(image, tuple) or (found.width, found.height) != (1, 1) or found.boxes.max() > IN_FRACTIONS:
            return found
        if image not in self._sizes:
            raise ValueError(
                f"{self.data}: nothing says the size of image {image!r}, whose regions are fractions of it; give "
                "regions that have sizes, or files with each image's width and height"
            )
        width, height = self._sizes[image]
        x1, y1, _, _, w, h, _ = found.fractions().T  # width and height count, not the right edge (published)
        boxes = np.stack([x1, y1, x1 + w, y1 + h], 1) * np.array([width, height, width, height], np.float32)
        places = found.fractions()[:, :6] if found.locations is None else found.locations
        return StoredRegions(found.kept_features, boxes, width, height, lambda: found.class_probs, found.scores, places)

    def on_annotated(self, image: str) -> bool:
        """Whether an image's regions are a text database's annotated boxes, in their order.

        Raises:
            ValueError: the option `boxes` says so, and there are more or fewer.
        """
        if image not in self._are_annotated:
            known, boxes, said = self._annotated[image], self.seen(image).boxes, self.settings["boxes"]
            if said == "annotated" and len(known) != len(boxes):
                raise ValueError(
                    f"{self.data}: image {image!r} has {len(known)} annotated boxes and {len(boxes)} regions; give the "
                    "regions of the annotated boxes, or the option boxes=detected"
                )
            same = known.shape == boxes.shape and bool(np.abs(known - boxes).max() <= SAME_BOX)
            self._are_annotated[image] = said == "annotated" or (same and not said)
        return self._are_annotated[image]

    def overlap(self, boxes: np.ndarray, example: Expression) -> np.ndarray:
        """(R,) overlap of (R, 4) boxes with what an expression means (a phrase may mean several boxes)."""
        return self.overlaps(boxes, example.box)

    def true_box(self, example: Expression) -> Box:
        """The box meant, whatever regions there are."""
        return example.box

    def target(self, examples: Sequence[Expression]) -> Tensor:
        """(examples,) the region meant, -1 where none covers the true box."""
        labels = []
        for example in examples:
            if example.place is not None and self.on_annotated(example.image):
                labels.append(example.place)
                continue
            overlap = self.overlap(self.seen(example.image).boxes, example)
            labels.append(int(overlap.argmax()) if overlap.max() >= 0.5 else -1)
        return torch.tensor(labels)

    def decode(self, output: Any, examples: Sequence[Expression], batch: Batch) -> list[dict[str, Any]]:
        """The box of each expression's highest region."""
        best = output.logits.argmax(1).tolist()
        return [
            {"sent_id": e.sent_id, "pred_box": _xywh(self.seen(e.image).boxes[i]), "tgt_box": _xywh(e.box)}
            for e, i in zip(examples, best, strict=True)
        ]

    def score(self, predictions: Predictions, examples: Sequence[Expression]) -> dict[str, float]:
        """Accuracy at an overlap above 0.5 with its 95% interval; with regions at hand also the best that they allow.

        Raises:
            ValueError: an expression has no prediction.
        """
        place = "a prediction of refcoco"
        said = said_of([example.sent_id for example in examples], predictions, "sent_id", self.name, int)
        right = []
        for example, prediction in zip(examples, said, strict=True):
            box = np.array([corners(field(prediction, "pred_box", place), place)])
            right.append(100.0 * float(self.overlap(box, example)[0] > 0.5))
        found = with_interval("accuracy", right)
        if self.regions is not None:
            within = [self.overlap(self.seen(e.image).boxes, e).max() > 0.5 for e in examples]
            found["upper_bound"] = 100.0 * float(np.mean(within))
        return found

    def perfect(self, examples: Sequence[Expression]) -> list[dict[str, Any]]:
        """The true boxes."""
        return [{"sent_id": e.sent_id, "pred_box": _xywh(e.box), "tgt_box": _xywh(e.box)} for e in examples]


def _sizes(images: Sequence[Any]) -> dict[int, tuple[float, float]]:
    """Width and height in pixels by image id, of the records that say them."""
    numbers = lambda image: (image.get("width"), image.get("height"))
    known = [image for image in images if all(isinstance(n, int | float) and n > 0 for n in numbers(image))]
    return {image["id"]: (float(image["width"]), float(image["height"])) for image in known}


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return [x1, y1, x2 - x1, y2 - y1]


def overlaps(boxes: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """(R,) intersection over union with one box.

    Args:
        boxes: (R, 4) pixels x1 y1 x2 y2.
        box: pixels x1 y1 x2 y2.
    """
    return _overlaps(boxes, box, last_pixel=0.0)


def published_overlaps(boxes: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """`overlaps` by the published rule, which takes the last pixel for a part of the box.

    The intersection's right edge is x + w - 1 and its width right - left + 1, zero unless the boxes strictly overlap;
    the union has no such +1.
    """
    return _overlaps(boxes, box, last_pixel=1.0)


def _overlaps(boxes: np.ndarray, box: Sequence[float], last_pixel: float) -> np.ndarray:
    boxes = np.asarray(boxes, dtype=np.float64)
    x1, y1, x2, y2 = box
    left, top = np.maximum(boxes[:, 0], x1), np.maximum(boxes[:, 1], y1)
    right, bottom = np.minimum(boxes[:, 2], x2) - last_pixel, np.minimum(boxes[:, 3], y2) - last_pixel
    size = (right - left + last_pixel) * (bottom - top + last_pixel)
    inside = np.where((left < right) & (top < bottom), size, 0.0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) + (x2 - x1) * (y2 - y1) - inside
    return inside / np.maximum(areas, 1e-9)


OVERLAPS = {"plain": overlaps, "published": published_overlaps}
