"""Which examples an update sees: a pure function of (seed, update), so that a resumed run needs no saved order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .. import draws
from ..recipe import Training
from .batching import training_batches


def choices(seed: int, mixture: Mapping[str, float], first: int, last: int) -> np.ndarray:
    """Numbers of the streams drawn by the updates first..last-1 (updates count from 1), in proportion to their weights.

    All micro-batches of an update come from the same stream (published behaviour).

    Raises:
        ValueError: there is no stream, or no weight is above zero, or one is below.
    """
    weights = np.array(list(mixture.values()), dtype=np.float64)
    if not len(weights) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(f"the mixture needs a stream with a weight above 0 and none below: {dict(mixture)}")
    ends = np.cumsum(weights) / weights.sum()
    drawn = np.searchsorted(ends, draws.uniform(seed, "stream", np.arange(first, last)), side="right")
    return np.minimum(drawn, np.flatnonzero(weights)[-1])


def stream_of(seed: int, mixture: Mapping[str, float], update: int) -> str:
    """The stream that an update (from 1) draws from."""
    return list(mixture)[choices(seed, mixture, update, update + 1)[0]]


def uses_before(seed: int, mixture: Mapping[str, float], update: int) -> dict[str, int]:
    """How many updates before this one (from 1) drew each stream."""
    counts = np.bincount(choices(seed, mixture, 1, update), minlength=len(mixture))
    return dict(zip(mixture, counts.tolist()))


class Stream:
    """The endless sequence of a stream's batches: epoch after epoch, each in an order of its own.

    Args:
        name: the stream's name; two streams over the same examples have different orders.
        lengths: (examples,) tokens of each.
        training: seed, budget and packing.
        shards: (examples,) the shard that each lies in, for `order: shards`. Or None.

    Raises:
        ValueError: an example does not fit the budget, or the stream has no batch at all.
    """

    def __init__(self, name: str, lengths: np.ndarray, training: Training, shards: np.ndarray | None = None) -> None:
        self.name, self.lengths, self.training = name, np.asarray(lengths, dtype=np.int64), training
        self.shards = shards
        self._ends: list[int] = []  # batches up to and with each epoch
        self._epoch: int = -1
        self._batches: list[np.ndarray] = []
        self._batches_of(0)  # what does not fit should fail now, not when the stream is first drawn

    def batch(self, position: int) -> tuple[int, np.ndarray]:
        """Epoch (from 0) and example indices of the stream's batch number `position` (from 0)."""
        while not self._ends or position >= self._ends[-1]:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self._batches_of(len(self._ends))))
        epoch = int(np.searchsorted(self._ends, position, side="right"))
        batches = self._batches_of(epoch)
        return epoch, batches[position - (self._ends[epoch] - len(batches))]

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        if epoch != self._epoch:
            setting = self.training
            try:
                self._batches = training_batches(
                    self.lengths,
                    setting.tokens,
                    seed=setting.seed,
                    purpose=f"order/{self.name}",
                    epoch=epoch,
                    window=setting.window,
                    max_examples=setting.max_examples,
                    mode=setting.batching,
                    shuffled=setting.order != "files",
                    shards=self.shards,
                    shard_window=setting.shard_window,
                    lanes=setting.accumulate,
                )
            except ValueError as error:
                raise ValueError(f"stream {self.name}: {error}") from None
            if not self._batches:
                raise ValueError(
                    f"stream {self.name}: its {len(self.lengths)} examples make no batch; give it more, "
                    "give it weight 0, or use batching: filled, which drops none"
                )
            self._epoch = epoch
        return self._batches


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass sees: which update and part of it, and which examples."""

    update: int
    micro: int
    stream: str
    epoch: int
    indices: np.ndarray


def plan(
    streams: Mapping[str, Stream], mixture: Mapping[str, float], training: Training, first: int
) -> Iterator[MicroBatch]:
    """The micro-batches of the updates first..training.steps, in order."""
    uses = uses_before(training.seed, mixture, first)
    names = list(mixture)
    for update, number in enumerate(choices(training.seed, mixture, first, training.steps + 1), start=first):
        stream = names[number]
        for micro in range(training.accumulate):
            epoch, indices = streams[stream].batch(uses[stream] * training.accumulate + micro)
            yield MicroBatch(update, micro, stream, epoch, indices)
        uses[stream] += 1
