"""NLVR: whether a sentence is true of a picture of three boxes. Suhr et al. 2017; official evaluation of images."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from uniter import draws
from uniter.files import write_text
from uniter.tasks.base import Batch, Predictions
from uniter.tasks.classification import Classification, Labelled
from uniter.tasks.intervals import with_interval
from uniter.tasks.reading import by_stem, field, json_lines, read_csv, stem

LABELS = ("false", "true")
ORDERS = 6  # of the three boxes; there is a picture of each
OTHER_NAMES = {"val": "dev"}  # split -> what the benchmark calls it


class NLVR(Classification):
    """Whether a sentence is true of a picture that shows three boxes; the sentence holds for all six orders of them.

    From the public files `<split>.json` or `<split>.jsonl` (a JSON record a line), in the folder or in `<split>/`, and
    pictures called `<split>-<identifier>-<order>`, whatever their ending. Splits: train, dev (or val), test. One text,
    one picture and two labels: the head of visual entailment. Option:

        orders: how many of the six orders are learnt from and measured, the first ones. An example is learnt from once
            an epoch, by an order drawn anew; measured is every picture, as in the official evaluation.
    """

    name = "nlvr"
    text_kind = "sentence"
    options = MappingProxyType({"orders": ORDERS})
    # Not published for UNITER: those of visual entailment, the nearest task.
    defaults = MappingProxyType(
        {"learning_rate": 8e-5, "steps": 4000, "warmup": 400, "tokens": 4096, "accumulate": 8}
        | {"clip": 2.0, "weight_decay": 0.01}
    )

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if not 1 <= self.settings["orders"] <= ORDERS:
            raise ValueError(
                f"option orders of task {self.name} is a number from 1 to {ORDERS}, got {self.settings['orders']!r}"
            )

    def known_labels(self) -> Sequence[str]:
        """False and true."""
        return LABELS

    def examples(self, split: str) -> list[Labelled]:
        """A split's pictures, each with its sentence, in the file's order.

        Raises:
            ValueError: the split's file is missing or foreign.
        """
        return [picture for lesson in self.lessons(split) for picture in _pictures(lesson)]

    def lessons(self, split: str) -> list[Labelled]:
        """A split's sentences, each with all orders of its picture, in the file's order."""
        split = OTHER_NAMES.get(split, split)
        path = self.file(f"{split}.json", f"{split}.jsonl", f"{split}/{split}.json", f"{split}/{split}.jsonl")
        found = list(self._read(path, split))
        if not found:
            raise ValueError(f"{path}: no sentences; download or write it again")
        return found

    def _read(self, path: Path, split: str) -> Iterator[Labelled]:
        stored = by_stem(self.regions)
        for record in json_lines(path):
            identifier, label = field(record, "identifier", path, str), record.get("label")
            if not re.fullmatch("[^-,]+-[^-,]+", identifier):
                raise ValueError(f"{path}: identifier {identifier!r:.40} is no sentence and picture joined by a dash")
            if label is not None and label not in LABELS:
                raise ValueError(f"{path}: label {label!r:.20} of {identifier} is neither true nor false")
            name = f"{split}-{identifier}"
            orders = [f"{name}-{order}.png" for order in range(self.settings["orders"])]
            images = tuple(stored.get(stem(order), order) for order in orders)
            yield Labelled(name, field(record, "sentence", path, str), images, label)

    def lengths(self, examples: Sequence[Labelled]) -> np.ndarray:
        """(examples,) int64 tokens of each example; of a sentence with all its orders, those of the longest."""
        pictures = [_pictures(example) for example in examples]
        starts = np.cumsum([0, *map(len, pictures)])[:-1]
        lengths = super().lengths([picture for several in pictures for picture in several])
        return np.maximum.reduceat(lengths, starts) if len(examples) else lengths

    def training_batch(self, examples: Sequence[Labelled], indices: np.ndarray, epoch: int) -> Batch:
        """These sentences, each with one of its pictures: pure in (seed, epoch, index)."""
        drawn = draws.uniform(self.seed, "nlvr-order", epoch, np.asarray(indices))
        pictures = [_pictures(examples[i]) for i in indices]
        return self.batch([several[int(at * len(several))] for several, at in zip(pictures, drawn, strict=True)])

    def score(self, predictions: Predictions, examples: Sequence[Labelled]) -> dict[str, float]:
        """How many pictures, examples and sentences are right.

        Returns:
            accuracy: of the pictures (official), and by label; its 95% interval draws examples, since the orders of one
                are not independent.
            examples_most_right, examples_all_right: share of examples of which more than half, or all, of the measured
                orders are right; so beside it stands what is measured on structure, one prediction an example.
            consistency: share of sentences that are right of all their pictures (official).

        Raises:
            ValueError: a picture has no prediction, or no label.
        """
        right = self.right(predictions, examples)
        by_example: dict[str, list[bool]] = {}
        by_sentence: dict[str, list[bool]] = {}
        for is_right, example in zip(right, examples, strict=True):
            split, sentence, picture, _ = stem(str(example.name)).rsplit("-", 3)
            by_example.setdefault(f"{split}-{sentence}-{picture}", []).append(is_right)
            by_sentence.setdefault(f"{split}-{sentence}", []).append(is_right)
        groups = list(by_example.values())
        found = with_interval("accuracy", [100.0 * sum(group) for group in groups], [len(group) for group in groups])
        if groups:
            found["examples_most_right"] = 100.0 * float(np.mean([2 * sum(group) > len(group) for group in groups]))
            found["examples_all_right"] = 100.0 * float(np.mean([all(group) for group in groups]))
            found |= with_interval("consistency", [100.0 * all(group) for group in by_sentence.values()])
        return found | self.by_label(right, examples)

    def write(self, predictions: Predictions, path: str | Path, examples: Sequence[Labelled] | None = None) -> None:
        """What the official evaluation of images reads: a line `dev-1572-0-3.png,true` for each picture, no header."""
        write_text(path, "".join(f"{said[self.key]},{said['label']}\n" for said in predictions))

    def read(self, path: str | Path, examples: Sequence[Labelled] | None = None) -> list[dict[str, Any]]:
        """What `write` wrote."""
        path, found = Path(path), []
        for number, row in enumerate(read_csv(path), 1):
            if len(row) != 2 or row[1] not in LABELS:
                raise ValueError(
                    f"{path}, line {number}: not `picture,true` or `picture,false`: {','.join(row)!r:.80}; give a file "
                    "of predictions"
                )
            found.append({self.key: row[0], "label": row[1]})
        return found


def _pictures(example: Labelled) -> list[Labelled]:
    """A sentence with each of its pictures; what has one already stays as it is."""
    if isinstance(example.image, str):
        return [example]
    named = enumerate(example.image)
    return [replace(example, name=f"{example.name}-{order}.png", image=image) for order, image in named]
