"""Fine-tuning on a task, as a job for the loop."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from uniter import draws
from uniter.adapters import save_lora
from uniter.files import write_json
from uniter.modeling_uniter import UniterPreTrainedModel
from uniter.tasks.base import Batch, Precision, Task
from uniter.tasks.reading import shards_of


class FineTuning:
    """Fine-tuning on a task, as a job for the loop.

    Args:
        task: with regions and a processor.
        model: with the task's head.
        train_split: to learn from; several joined by "+" ("train+restval").
        validation_split: to measure on; None: nothing is measured.
        validation_examples: measure on so many of them at most, always the same ones; None: on all.
        tokens: budget of a batch when measuring.
        precision: when measuring.
        measured: the task to measure on; the same one if left out (published expressions learn from annotated boxes
            and are measured on detected ones).
        adapter: what `adapters.add_lora` gave; None: all weights are trained.

    Raises:
        ValueError: a split is empty, the task has no processor, or an image has no regions.
    """

    def __init__(
        self,
        task: Task,
        model: UniterPreTrainedModel,
        train_split: str = "train",
        validation_split: str | None = "val",
        validation_examples: int | None = None,
        tokens: int = 8192,
        precision: Precision = "float32",
        measured: Task | None = None,
        adapter: Any = None,
    ):
        if task.processor is None:
            raise ValueError(f"fine-tuning on {task.name} needs a processor: give the task one")
        self.task, self.measured, self.model, self.monitor = task, measured or task, model, task.monitor
        self.tokens, self.precision, self.adapter = tokens, precision, adapter
        self.mixture = {task.name: 1.0}
        task.fit_into(model)
        self.examples = [example for split in train_split.split("+") for example in task.training_examples(split)]
        if not self.examples:
            raise ValueError(f"{task.data}: split {train_split!r} of {task.name} has no examples")
        self.validation = self.measured.examples(validation_split) if validation_split else []
        if validation_examples is not None and len(self.validation) > validation_examples:
            order = draws.permutation(task.seed, "validation", len(self.validation))
            self.validation = [self.validation[i] for i in sorted(order[:validation_examples])]

    def lengths(self, stream: str) -> np.ndarray:
        """(examples,) tokens of each training example."""
        return self.task.lengths(self.examples)

    def shards(self, stream: str) -> np.ndarray:
        """(examples,) the shard of the store that each training example's first image lies in."""
        return shards_of([self.task.shown(example)[0][1] for example in self.examples], self.task.regions)

    def describe(self, stream: str, indices: np.ndarray) -> list[str]:
        """Each example's id, or number."""
        return [self.task.example_id(self.examples[index], int(index)) for index in indices]

    def prepare(self, stream: str, indices: np.ndarray, epoch: int) -> Batch:
        """The batch of these training examples."""
        return self.task.training_batch(self.examples, indices, epoch)

    def loss(self, stream: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The task's loss."""
        return self.task.step(self.model, batch), {}

    def count(self, stream: str, batch: Batch) -> int | None:
        """How many targets the loss is the mean of; None: it is a sum."""
        return self.task.count(batch)

    def validate(self) -> dict[str, float]:
        """The task's numbers on the validation examples."""
        if not self.validation:
            return {}
        return self.measured.evaluate(self.model, self.validation, tokens=self.tokens, precision=self.precision)

    def save(self, folder: str | Path) -> None:
        """Model, vocabulary and the task's name; with LoRA the merged model, and the adapter beside it."""
        assert self.task.processor is not None
        if self.adapter is None:
            self.model.save_pretrained(folder)
        else:
            save_lora(self.model, self.adapter, Path(folder))
        self.task.processor.save_pretrained(folder)
        write_json(Path(folder) / "task.json", {"task": self.task.name, "options": self.task.settings})
