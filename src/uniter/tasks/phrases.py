"""Phrase grounding (Flickr30K Entities): which region a phrase of a caption means. Plummer et al. 2015."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from uniter.processing_uniter import Segment
from uniter.tasks.reading import field, json_lines, name_finder
from uniter.tasks.refcoco import Box, Expression, RefCOCO

PROTOCOLS = ("any", "merged")


@dataclass(frozen=True, slots=True)
class Phrase(Expression):
    """One phrase of a caption.

    Args:
        boxes: all that it means, pixels x1 y1 x2 y2; `box` is the smallest one around them.
    """

    boxes: tuple[Box, ...] = ()


class Phrases(RefCOCO):
    """Which region a phrase of a caption means, among the regions at hand; learnt as referring expressions are.

    From `<split>.jsonl`, a record a picture: `file`, `size` (width, height in pixels), `phrases` (of each caption its
    `sentence` and its `phrases`, with `phrase` and `chain`), `boxes` (`chains`, and `box` in fractions x1 y1 x2 y2). A
    phrase means the boxes that hold its chain; one without any is left out, as is usual. A prediction is as in RefCOCO,
    with the phrase's number in the split. Options:

        protocol: how a phrase of several boxes is judged; "any": by the best of them; "merged": by the one around them.
        context: show the whole caption behind the phrase.
        overlap: as in RefCOCO.
    """

    name = "phrases"
    text_kind = "phrase"
    options = MappingProxyType({"protocol": "any", "context": False, "overlap": "plain"})

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.settings["protocol"] not in PROTOCOLS:
            raise ValueError(f"option protocol of task {self.name} is any or merged, got {self.settings['protocol']!r}")
        self.any_box = self.settings["protocol"] == "any"

    def _of_split(self, split: str) -> list[Expression]:
        path, name_of = self.file(f"{split}.jsonl"), name_finder(self.regions)
        found: list[Expression] = []
        for record in json_lines(path):
            image = name_of(field(record, "file", path, str))
            self._sizes[image] = size = _size(record, path)
            boxes = _boxes_by_chain(record, size, path)
            for caption in field(record, "phrases", path, list):
                sentence = field(caption, "sentence", path, str)
                for phrase in field(caption, "phrases", path, list):
                    meant = boxes.get(field(phrase, "chain", path, int))
                    text = field(phrase, "phrase", path, str)
                    if meant and text.strip():
                        shown = (Segment(text), Segment(sentence)) if self.settings["context"] else text
                        found.append(Phrase(len(found), shown, image, _around(meant), boxes=tuple(meant)))
        if not found:
            raise ValueError(f"{path}: no phrase has a box; download or write it again")
        return found

    def overlap(self, boxes: np.ndarray, example: Expression) -> np.ndarray:
        """(R,) overlap of (R, 4) boxes with the best box of a phrase, or with the one around its boxes."""
        assert isinstance(example, Phrase)
        if not self.any_box:
            return super().overlap(boxes, example)
        return np.max([self.overlaps(boxes, box) for box in example.boxes], axis=0)

    def perfect(self, examples: Sequence[Expression]) -> list[dict[str, Any]]:
        """A true box each."""
        whole = super().perfect(examples)
        if self.any_box:
            for said, example in zip(whole, examples, strict=True):
                assert isinstance(example, Phrase)
                x1, y1, x2, y2 = example.boxes[0]
                said["pred_box"] = [x1, y1, x2 - x1, y2 - y1]
        return whole


def _size(record: Any, path: Path) -> tuple[float, float]:
    size = field(record, "size", path, list)
    if len(size) != 2 or not all(isinstance(side, int | float) and side > 0 for side in size):
        raise ValueError(f"{path}: size {size!r:.40} of {record.get('file')!r:.40} is not width and height in pixels")
    return float(size[0]), float(size[1])


def _boxes_by_chain(record: Mapping[str, Any], size: tuple[float, float], path: Path) -> dict[int, list[Box]]:
    """The boxes of each chain in pixels; chain 0 is of what no box shows."""
    found: dict[int, list[Box]] = {}
    for entry in field(record, "boxes", path, list):
        box = field(entry, "box", path, list)
        if len(box) != 4 or not all(isinstance(number, int | float) for number in box):
            raise ValueError(f"{path}: box {box!r:.60} of {record.get('file')!r:.40} is not x1 y1 x2 y2 in fractions")
        x1, y1, x2, y2 = (float(number) * side for number, side in zip(box, (*size, *size), strict=True))
        for chain in field(entry, "chains", path, list):
            if chain:
                found.setdefault(chain, []).append((x1, y1, x2, y2))
    return found


def _around(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)
