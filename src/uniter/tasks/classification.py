"""Tasks whose answer is one of a few labels by name: what visual entailment, NLVR and one's own labels share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from uniter.modeling_uniter import UniterForAnswers, UniterPreTrainedModel
from uniter.processing_uniter import Text
from uniter.tasks.base import Batch, Image, Predictions, Task
from uniter.tasks.intervals import with_interval
from uniter.tasks.reading import field, said_of


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text about an image.

    Args:
        name: its id in the files and in the predictions.
        text: its words, or its word pieces.
        image: its image's name in the store.
        label: one of the task's; None where nobody says.
    """

    name: str | int
    text: Text
    image: Image
    label: str | None


class Classification(Task):
    """One label for a text and an image; learnt as VQA is, by binary cross-entropy over the labels (published for VE).

    A subclass gives `examples` and `known_labels`, and a name.
    """

    model = UniterForAnswers
    monitor = "accuracy"
    id_field = "name"
    key: ClassVar[str] = "identifier"  # what a prediction calls the example's name

    _adopted: Sequence[str] | None = None

    def known_labels(self) -> Sequence[str]:
        """The labels that the benchmark has, in the order of a fresh head's outputs; none where only a model says."""
        raise NotImplementedError

    @property
    def labels(self) -> Sequence[str]:
        """The labels in the order of the head's outputs."""
        return self.known_labels() if self._adopted is None else self._adopted

    def config(self) -> dict[str, Any]:
        """As many labels, by name."""
        labels = self.labels
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
        }

    def adopt(self, model: UniterPreTrainedModel) -> None:
        """The order of the model's labels; a model that names none has the benchmark's.

        Raises:
            ValueError: the model has other labels.
        """
        known = self.known_labels()
        named = {int(number): str(label) for number, label in (model.config.id2label or {}).items()}
        labels = [named[number] for number in sorted(named)]
        nameless = labels == [f"LABEL_{number}" for number in range(len(labels))]
        if len(known) != len(labels) if nameless else known and sorted(known) != sorted(labels):
            raise ValueError(
                f"the model tells {len(labels)} labels apart ({', '.join(labels):.80}), {self.name} has "
                f"{', '.join(known):.80}: give a model that was fine-tuned on {self.name}"
            )
        self._adopted = list(known) if nameless else labels

    def target(self, examples: Sequence[Labelled]) -> Tensor:
        """(examples, labels) 1 for the label, 0 elsewhere."""
        labels = list(self.labels)
        target = torch.zeros(len(examples), len(labels))
        for row, example in enumerate(examples):
            target[row, labels.index(self.known(example))] = 1.0
        return target

    def known(self, example: Labelled) -> str:
        """An example's label.

        Raises:
            ValueError: nobody says it.
        """
        if example.label is None:
            raise ValueError(f"{self.data}: {example.name} has no label; use a split with labels")
        return example.label

    def decode(self, output: Any, examples: Sequence[Labelled], batch: Batch) -> list[dict[str, Any]]:
        """The highest label of each example."""
        best, labels = output.logits.argmax(1).tolist(), self.labels
        return [{self.key: e.name, "label": labels[i]} for e, i in zip(examples, best, strict=True)]

    def right(self, predictions: Predictions, examples: Sequence[Labelled]) -> list[bool]:
        """Whether each example's prediction is its label.

        Raises:
            ValueError: an example has no prediction, or no label.
        """
        said = said_of([example.name for example in examples], predictions, self.key, self.name)
        labels = [field(prediction, "label", f"a prediction of {self.name}", str) for prediction in said]
        return [label == self.known(example) for label, example in zip(labels, examples, strict=True)]

    def score(self, predictions: Predictions, examples: Sequence[Labelled]) -> dict[str, float]:
        """Accuracy with its 95% interval, and by label.

        Raises:
            ValueError: an example has no prediction, or no label.
        """
        right = self.right(predictions, examples)
        return with_interval("accuracy", 100.0 * np.array(right)) | self.by_label(right, examples)

    def by_label(self, right: Sequence[bool], examples: Sequence[Labelled]) -> dict[str, float]:
        """Accuracy of the examples of each label."""
        groups: dict[str, list[bool]] = {}
        for is_right, example in zip(right, examples, strict=True):
            groups.setdefault(self.known(example), []).append(is_right)
        return {f"accuracy {label}": 100.0 * float(np.mean(group)) for label, group in sorted(groups.items())}

    def perfect(self, examples: Sequence[Labelled]) -> list[dict[str, Any]]:
        """The true labels."""
        return [{self.key: e.name, "label": self.known(e)} for e in examples]
