"""Visual entailment (SNLI-VE): whether a picture entails a sentence, contradicts it or neither. Paper section 4."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniter.files import read_json, write_json
from uniter.modeling_uniter import UniterForAnswers, UniterPreTrainedModel
from uniter.processing_uniter import Text
from uniter.tasks.base import (
    Batch,
    Predictions,
    Task,
    field,
    json_lines,
    name_finder,
    with_interval,
)
from uniter.tasks.text_database import open_split

LABELS = ("contradiction", "entailment", "neutral")  # published numbers 0, 1, 2
UNDECIDED = "-"  # the label of pairs on which people did not agree; the benchmark leaves them out
IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID")  # of the public files, newer and older


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One sentence about a picture.

    Args:
        pair_id: its id.
        text: its words, or its word pieces.
        image: its image's name in the store.
        label: one of `LABELS`; None where nobody says (a text database without targets).
    """

    pair_id: str
    text: Text
    image: str
    label: str | None


class SNLIVE(Task):
    """Whether a picture (the premise) entails a sentence; the premise's own sentence is not shown, as published.

    From the public files `snli_ve_<split>.jsonl` or text databases `ve_<split>.db`; splits are train, dev (or val) and
    test. Learnt as VQA is, with binary cross-entropy over the three labels (published).
    """

    name = "snli_ve"
    model = UniterForAnswers
    monitor = "accuracy"
    # spec 4.4, train-ve-base-2gpu: 4 x 2 batches of 4096 tokens, 190-260 sentences an update
    defaults = MappingProxyType(
        {"learning_rate": 8e-5, "steps": 4000, "warmup": 400, "tokens": 4096, "accumulate": 8}
        | {"clip": 2.0, "weight_decay": 0.01}
    )

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._labels = list(LABELS)  # in the order of the head's outputs

    def examples(self, split: str) -> list[Hypothesis]:
        """The sentences of a split in the file's order, without the undecided ones.

        Raises:
            ValueError: the split's file is missing or foreign.
        """
        split, name_of = {"val": "dev"}.get(split, split), name_finder(self.regions)
        if database := open_split(self.data, split, ("ve",), self.vocabulary):
            return [
                Hypothesis(pair_id, text, name_of(image), self._label_of(target, database.place(pair_id)))
                for pair_id, text, image, target in database.labelled()
            ]
        path = self.file(f"snli_ve_{split}.jsonl")
        found = []
        for record in json_lines(path):
            label, text = field(record, "gold_label", path, str), field(record, "sentence2", path, str)
            if label == UNDECIDED:
                continue
            if label not in LABELS:
                raise ValueError(
                    f"{path}: gold_label {label!r} is none of {', '.join(LABELS)}; download the file again"
                )
            image = name_of(_image_of(record, path))
            found.append(Hypothesis(field(record, "pairID", path, str), text, image, label))
        if not found:
            raise ValueError(f"{path}: no sentences; download or write it again")
        return found

    def _label_of(self, target: Sequence[tuple[int, float]] | None, place: str) -> str | None:
        if target is None:
            return None
        number = max(target, key=lambda entry: entry[1], default=(-1, 0.0))[0]
        if not 0 <= number < len(LABELS):
            raise ValueError(f"{place}: label {number} is none of {len(LABELS)}; is this a text database of SNLI-VE?")
        return LABELS[number]

    def config(self) -> dict[str, Any]:
        """Three labels by name."""
        return {
            "num_labels": len(LABELS),
            "id2label": dict(enumerate(LABELS)),
            "label2id": {label: number for number, label in enumerate(LABELS)},
        }

    def adopt(self, model: UniterPreTrainedModel) -> None:
        """The order of the model's labels; a model that names none has the published one.

        Raises:
            ValueError: the model has other labels.
        """
        named = {int(number): str(label) for number, label in (model.config.id2label or {}).items()}
        labels = [named[number] for number in sorted(named)]
        nameless = labels == [f"LABEL_{number}" for number in range(len(LABELS))]
        if sorted(labels) != sorted(LABELS) and not nameless:
            raise ValueError(
                f"the model tells {len(labels)} labels apart ({', '.join(labels):.80}), {self.name} has "
                f"{', '.join(LABELS)}: give a model that was fine-tuned on {self.name}"
            )
        self._labels = list(LABELS) if nameless else labels

    def target(self, examples: Sequence[Hypothesis]) -> Tensor:
        """(examples, 3) 1 for the label, 0 elsewhere."""
        target = torch.zeros(len(examples), len(LABELS))
        for row, example in enumerate(examples):
            target[row, self._labels.index(self._known(example))] = 1.0
        return target

    def _known(self, example: Hypothesis) -> str:
        if example.label is None:
            raise ValueError(f"{self.data}: {example.pair_id} has no label; use a split with public labels")
        return example.label

    def decode(self, output: Any, examples: Sequence[Hypothesis], batch: Batch) -> list[dict[str, str]]:
        """The highest label of each sentence."""
        best = output.logits.argmax(1).tolist()
        return [{"pairID": e.pair_id, "label": self._labels[i]} for e, i in zip(examples, best, strict=True)]

    def score(self, predictions: Predictions, examples: Sequence[Hypothesis]) -> dict[str, float]:
        """Accuracy with its 95% interval, and by label.

        Raises:
            ValueError: a sentence has no prediction, or no public label.
        """
        place = "a prediction of snli_ve"
        said = {field(p, "pairID", place, str): field(p, "label", place, str) for p in predictions}
        right: dict[str, list[float]] = {}
        for example in examples:
            if example.pair_id not in said:
                raise ValueError(f"sentence {example.pair_id} has no prediction: predict the whole split")
            label = self._known(example)
            right.setdefault(label, []).append(100.0 * (said[example.pair_id] == label))
        found = with_interval("accuracy", [value for values in right.values() for value in values])
        return found | {f"accuracy {label}": float(np.mean(values)) for label, values in sorted(right.items())}

    def perfect(self, examples: Sequence[Hypothesis]) -> list[dict[str, str]]:
        """The true labels."""
        return [{"pairID": e.pair_id, "label": self._known(e)} for e in examples]

    def write(self, predictions: Predictions, path: str | Path, examples: Sequence[Hypothesis] | None = None) -> None:
        """One JSON mapping of pair id to label, as the published code writes it."""
        write_json(path, {said["pairID"]: said["label"] for said in predictions})

    def read(self, path: str | Path) -> list[dict[str, str]]:
        """What `write` wrote."""
        return [{"pairID": pair_id, "label": label} for pair_id, label in read_json(Path(path), dict).items()]


def _image_of(record: Any, path: Path) -> str:
    """The file name of a record's image; files name it with or without .jpg, under two keys, or in captionID alone."""
    for key in IMAGE_KEYS:
        if isinstance(record, Mapping) and key in record:
            break
    else:
        key = "captionID"
    stem = field(record, key, path, str).split("#")[0].removesuffix(".jpg")
    return f"{stem}.jpg"
