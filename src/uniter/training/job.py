"""What the loop is handed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn


class Job(Protocol):
    """Something to train: a model, numbered examples in streams, and what to do with a batch of them.

    Pre-training has one stream per objective and source, fine-tuning has one. An example is (stream, index).

    Attributes:
        model: what is trained, in place; the loop moves it to the device and switches between train and eval.
        mixture: stream name -> weight; one stream is drawn per update, in proportion.
        monitor: the key of `validate()` to keep the best by; higher is better.
    """

    @property
    def model(self) -> nn.Module: ...  # noqa: D102

    @property
    def mixture(self) -> dict[str, float]: ...  # noqa: D102

    @property
    def monitor(self) -> str: ...  # noqa: D102

    def lengths(self, stream: str) -> np.ndarray:
        """Tokens of each example of a stream: text with CLS and SEP, and regions; int64 (examples,)."""
        ...

    def shards(self, stream: str) -> np.ndarray:
        """Which examples' regions lie together, for `order: shards`: the number of each one's shard, (examples,)."""
        ...

    def prepare(self, stream: str, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """A batch of CPU tensors; a pure function of its arguments, for it runs ahead and in a thread."""
        ...

    def describe(self, stream: str, indices: np.ndarray) -> list[str]:
        """What people call these examples, for messages."""
        ...

    def loss(self, stream: str, batch: dict[str, Any]) -> tuple[torch.Tensor, Mapping[str, Any]]:
        """The loss of a batch (a scalar with a graph), and numbers worth a place in the log."""
        ...

    def validate(self) -> dict[str, float]:
        """The model's numbers on held-out examples, in eval mode without gradients; empty: there are none."""
        ...

    def save(self, folder: Path) -> None:
        """Write what a user loads (model and vocabulary) into an existing empty folder."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """A job whose batches can be cut: by more processes than micro-batches, or for want of memory."""

    def count(self, stream: str, batch: dict[str, Any]) -> int | None:
        """How many targets the loss of a prepared batch is the MEAN of; None where it is their SUM."""
        ...
