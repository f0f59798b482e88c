"""Phrase grounding (Flickr30K Entities): which region a phrase of a caption means. Plummer et al. 2015."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from uniter.processing_uniter import Segment
from uniter.tasks.entities import read_lines, read_published
from uniter.tasks.reading import name_finder
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

    From the public files `<split>.txt`, `Sentences/`, `Annotations/`, or from `<split>.jsonl` with a record a picture
    (`tasks/entities.py` says what is in them). A phrase means the boxes that hold its chain; one without any is left
    out, as is usual. A prediction is as in RefCOCO, with the phrase's number in the split. Options:

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
        path, name_of = self.file(f"{split}.jsonl", f"{split}.txt"), name_finder(self.regions)
        found: list[Expression] = []
        for picture in read_lines(path) if path.suffix == ".jsonl" else read_published(self.data, path):
            image = name_of(picture.name)
            self._sizes[image] = picture.size
            for sentence, phrases in picture.captions:
                for text, chain in phrases:
                    meant = picture.boxes.get(chain)
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


def _around(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)
