"""Batches by a budget of tokens: examples of like length together, so that little of a batch is padding."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from .. import draws

UNBOUNDED = 2**62
PUBLISHED_GROUP = 8  # the published sampler walks in groups of 8 examples


def training_batches(
    lengths: np.ndarray,
    tokens: int,
    *,
    seed: int = 0,
    purpose: str = "order",
    epoch: int = 0,
    window: int = 8192,
    max_examples: int | None = None,
    mode: str = "filled",
    shuffled: bool = True,
    shards: np.ndarray | None = None,
    shard_window: int = 8,
    lanes: int = 1,
) -> list[np.ndarray]:
    """The batches of one epoch, in the order they are used; a pure function of its arguments.

    The examples are shuffled and cut into windows; each window is sorted by length and cut into batches of as many
    examples as fit the budget; the batches are shuffled. In mode "filled" every example comes exactly once an epoch:
    what is left of a window joins the next; only the last of an epoch may be a small batch, and it is kept. Mode
    "published" is the published sampler: sizes are multiples of 8 set by the longest example of the window (its running
    maximum is never reset), and what is left of a window is dropped. Mode "examples" takes `max_examples` at a time, as
    as they come.

    With `shards` all this is done with the examples of a few shards after those of the next few, in an order of the
    shards that is drawn anew each epoch: whoever reads the batches needs no other shards meanwhile. `lanes` sequences
    of such windows, of different shards, take turns: batch i is of lane i modulo `lanes` until one of them ends.

    Args:
        lengths: (examples,) tokens of each example.
        tokens: budget: examples of a batch times the longest of them is at most this; in mode "packed" the sum of their
            tokens.
        seed: the run's seed.
        purpose: what is ordered, so that two streams differ.
        epoch: from 0.
        window: examples sorted together.
        max_examples: most examples in a batch; None: no bound.
        mode: "filled", "published" or "examples"; or "packed": the examples as they come, cut where their tokens reach
            the budget, for a model that computes no padding; its batches are as random as the order, every example
            comes once.
        shuffled: False leaves the examples, and batches, in the files' order.
        shards: (examples,) the shard that each example's regions lie in; None: they may lie anywhere.
        shard_window: shards whose examples are shuffled together.
        lanes: batches that are computed at once, by processes that read for themselves.

    Returns:
        int64 arrays of example indices.

    Raises:
        ValueError: an example is longer than the budget (in mode "published": than an eighth of it).
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    group = PUBLISHED_GROUP if mode == "published" else 1
    check_fits(lengths, tokens // group, tokens, group)
    order = draws.permutation(seed, purpose, len(lengths), epoch) if shuffled else np.arange(len(lengths))
    cut = {"filled": _filled, "published": _published, "packed": _packed, "examples": _by_count}[mode]
    if shards is not None:
        found: list[list[np.ndarray]] = [[] for _ in range(lanes)]
        for number, part in enumerate(_shard_windows(order, shards, shard_window, seed, purpose, epoch)):
            batches = cut(part, lengths, tokens, window, max_examples or UNBOUNDED)
            turns = draws.permutation(seed, purpose + "/batches", len(batches), epoch, number)
            found[number % lanes] += [batches[i] for i in turns]
        return [batch for turn in zip_longest(*found) for batch in turn if batch is not None]
    batches = cut(order, lengths, tokens, window, max_examples or UNBOUNDED)
    if not shuffled:
        return batches
    return [batches[i] for i in draws.permutation(seed, purpose + "/batches", len(batches), epoch)]


def _shard_windows(
    order: np.ndarray, shards: np.ndarray, shard_window: int, seed: int, purpose: str, epoch: int
) -> list[np.ndarray]:
    """The examples of a few shards, of the next few, and so on; each part in the given order."""
    there, number = np.unique(shards, return_inverse=True)
    place = np.empty(len(there), np.int64)
    place[draws.permutation(seed, purpose + "/shards", len(there), epoch)] = np.arange(len(there))
    windows = (place[number] // shard_window)[order]
    by_window = order[np.argsort(windows, kind="stable")]
    return np.split(by_window, np.cumsum(np.bincount(windows))[:-1]) if len(order) else []


def evaluation_batches(lengths: np.ndarray, tokens: int, max_examples: int | None = None) -> list[np.ndarray]:
    """Batches that cover every example once, the longest first (so that memory runs out at once or never).

    Args:
        lengths: (examples,) tokens of each example.
        tokens: budget: examples of a batch times the longest of them is at most this.
        max_examples: most examples in a batch; None: no bound.

    Returns:
        int64 arrays of example indices; `in_order` puts results back.

    Raises:
        ValueError: an example is longer than the budget.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    check_fits(lengths, tokens, tokens)
    return _filled(np.arange(len(lengths)), lengths, tokens, max(1, len(lengths)), max_examples or UNBOUNDED)


def in_order(batches: Sequence[np.ndarray], results: Sequence[Sequence[Any]]) -> list[Any]:
    """Results of batches (one sequence per batch, one item per example) in the order of the examples."""
    flat = [item for result in results for item in result]
    places = np.concatenate(batches) if batches else np.empty(0, dtype=np.int64)
    assert len(flat) == len(places), f"{len(flat)} results for {len(places)} examples"
    ordered: list[Any] = [None] * len(flat)
    for place, item in zip(places.tolist(), flat):
        ordered[place] = item
    return ordered


def fill(batches: Sequence[np.ndarray], lengths: np.ndarray, tokens: int) -> float:
    """Real tokens over the budget, the mean over batches: 1 is no padding and no room left."""
    return float(np.mean([lengths[batch].sum() / tokens for batch in batches])) if batches else 0.0


def check_fits(lengths: np.ndarray, longest: int, tokens: int, group: int = 1) -> None:
    """Raise a ValueError that names the first example longer than `longest`."""
    too_long = np.flatnonzero(lengths > longest)
    if len(too_long):
        index = int(too_long[0])
        need = int(lengths.max()) * group
        share = f", and published batching needs room for {group} of the longest" if group > 1 else ""
        raise ValueError(
            f"example {index} has {int(lengths[index])} tokens and does not fit the budget of {tokens}{share} "
            f"({len(too_long)} of {len(lengths)} examples do not); raise train.tokens to {need} or lower max_text"
        )


def _filled(order: np.ndarray, lengths: np.ndarray, tokens: int, window: int, most: int) -> list[np.ndarray]:
    batches: list[np.ndarray] = []
    left = order[:0]
    for start in range(0, len(order), window):
        bucket = np.concatenate([left, order[start : start + window]])
        bucket = bucket[np.argsort(-lengths[bucket], kind="stable")]
        last_window = start + window >= len(order)
        at = 0
        while at < len(bucket):
            size = min(
                most, tokens // max(1, int(lengths[bucket[at]]))
            )  # sorted: the first is the longest of its batch
            if at + size > len(bucket) and not last_window:
                break
            batches.append(bucket[at : at + size])
            at += size
        left = bucket[at:]
    return batches


def _packed(order: np.ndarray, lengths: np.ndarray, tokens: int, window: int, most: int) -> list[np.ndarray]:
    batches: list[np.ndarray] = []
    ends = np.cumsum(lengths[order])
    at = 0
    while at < len(order):
        before = int(ends[at - 1]) if at else 0
        size = min(most, int(np.searchsorted(ends, before + tokens, side="right")) - at)
        batches.append(order[at : at + size])
        at += size
    return batches


def _by_count(order: np.ndarray, lengths: np.ndarray, tokens: int, window: int, most: int) -> list[np.ndarray]:
    if most == UNBOUNDED:
        raise ValueError("batching: examples needs train.max_examples, how many make a batch")
    batches = [order[start : start + most] for start in range(0, len(order), most)]
    for batch in batches:
        if len(batch) * int(lengths[batch].max()) > tokens:
            raise ValueError(
                f"{len(batch)} examples of up to {int(lengths[batch].max())} tokens do not fit the budget of {tokens}; "
                f"raise train.tokens to {most * int(lengths.max())} or lower train.max_examples"
            )
    return batches


def _published(order: np.ndarray, lengths: np.ndarray, tokens: int, window: int, most: int) -> list[np.ndarray]:
    batches: list[np.ndarray] = []
    for start in range(0, len(order), window):
        bucket = order[start : start + window]
        bucket = bucket[np.argsort(-lengths[bucket], kind="stable")]
        size = tokens // (PUBLISHED_GROUP * max(1, int(lengths[bucket[0]]))) * PUBLISHED_GROUP
        size = max(PUBLISHED_GROUP, min(size, most // PUBLISHED_GROUP * PUBLISHED_GROUP))
        # A batch is closed by the group that would overflow it; a last batch that is merely full stays open: dropped.
        groups = -(-len(bucket) // PUBLISHED_GROUP)
        closed = (groups - 1) * PUBLISHED_GROUP // size
        batches += [bucket[i * size : (i + 1) * size] for i in range(closed)]
    return batches
