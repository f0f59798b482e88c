"""What memory an update takes, and into how many parts its micro-batches are cut so that it takes no more than given.

Weights, gradients and the optimiser's state are counted. What the forward pass keeps for the backward one is measured
on a few examples of each stream, the longest, the shortest and one between, and scaled to the budget of tokens.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..recipe import Training
from .engine import blocks, forgetting, rounds
from .job import Job

log = logging.getLogger(__name__)

Mover = Callable[[dict[str, Any]], dict[str, Any]]
MARGIN = 1.25  # for what the backward pass works with, and for the allocator's gaps
PROBED = 2  # examples of a length


@dataclass(frozen=True)
class Need:
    """Bytes that training takes.

    Args:
        fixed: weights, gradients, the optimiser's state, copies.
        token: what is kept for the backward pass, for each token of a batch.
        longest: tokens of the longest example.
    """

    fixed: int
    token: float
    longest: int

    def of(self, tokens: int, parts: int = 1) -> int:
        """With micro-batches of so many tokens in so many parts."""
        at_once = tokens if parts == 1 else min(tokens, math.ceil(tokens / parts) + self.longest)
        return self.fixed + int(MARGIN * self.token * at_once)

    def parts(self, tokens: int, limit: int) -> int:
        """The fewest parts that fit.

        Raises:
            ValueError: it does not fit with one example at a time.
        """
        for parts in range(1, tokens // max(1, self.longest) + 2):
            if self.of(tokens, parts) <= limit:
                return parts
        least = self.fixed + int(MARGIN * self.token * self.longest)
        raise ValueError(
            f"--max-memory of {limit / 1e9:.2f} GB is not enough: {self.fixed / 1e9:.2f} GB for weights and optimiser, "
            f"about {least / 1e9:.2f} GB with one example at a time; set train.activation_checkpointing=true, "
            "model.lora (fine-tuning), train.engine=fsdp over several processes, or give more"
        )


def parts_that_fit(
    job: Job,
    training: Training,
    lengths: Mapping[str, np.ndarray],
    device: torch.device,
    to_device: Mover,
    limit: int,
    world: int = 1,
) -> int:
    """Into how many parts each micro-batch is cut so that training takes at most `limit` bytes.

    Args:
        job: with the whole model on the device.
        training: its settings.
        lengths: tokens of each example, by stream.
        device: where it trains.
        to_device: puts a batch there.
        limit: bytes.
        world: processes that share the work.

    Raises:
        ValueError: it does not fit with one example at a time.
    """
    need = measured(job, training, lengths, device, to_device, world)
    parts = need.parts(training.tokens, limit)
    log.info(
        "memory: about %.2f GB of %.2f GB with micro-batches in %d parts (%.2f GB in one)",
        *(need.of(training.tokens, parts) / 1e9, limit / 1e9, parts, need.of(training.tokens) / 1e9),
    )
    return parts


def measured(
    job: Job,
    training: Training,
    lengths: Mapping[str, np.ndarray],
    device: torch.device,
    to_device: Mover,
    world: int = 1,
) -> Need:
    """What training takes; arguments as in `parts_that_fit`."""
    token = constant = 0.0
    for stream, all_lengths in lengths.items():
        order = np.argsort(all_lengths, kind="stable")
        for first in (len(order) - PROBED, len(order) // 2, 0):
            few = order[max(0, first) : first + PROBED]
            sizes = []
            for chosen in (few, np.tile(few, 2)):  # weights that autocast rounds are kept once, however many examples
                kept = _kept(job, training, stream, chosen, device, to_device)
                sizes.append((kept, int(all_lengths[chosen].sum())))
            (one, tokens), (two, twice) = sizes
            slope = max(0.0, (two - one) / (twice - tokens))
            token, constant = max(token, slope), max(constant, one - slope * tokens)
    longest = max(int(of_stream.max()) for of_stream in lengths.values())
    return Need(_fixed(job.model, training, device, world) + int(constant), token, longest)


def _fixed(model: nn.Module, training: Training, device: torch.device, world: int) -> int:
    """Bytes that do not depend on the batch."""
    weights = _bytes(model.parameters())
    trained = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    state = 2 * trained + (trained if training.ema else 0)
    if world > 1 and training.engine == "fsdp":
        return (weights + trained + state) // world + weights  # all of them are gathered now and then
    buckets = trained if world > 1 else 0
    staged = weights + state if device.type == "cpu" else 0  # a checkpoint on its way to the disk
    return weights + trained + state + buckets + staged


def _kept(
    job: Job, training: Training, stream: str, indices: np.ndarray, device: torch.device, to_device: Mover
) -> int:
    """Bytes that the forward pass over these examples keeps for the backward one."""
    was_training = job.model.training
    job.model.train()
    batch = to_device(job.prepare(stream, indices, 0))
    whole, largest = _saved(job, training, stream, batch, device)
    if training.activation_checkpointing and (layers := blocks(job.model)):
        with forgetting(job.model, True):
            kept, _ = _saved(job, training, stream, batch, device)
        whole = kept + whole // len(layers)  # one layer at a time is computed again
    job.model.train(was_training)
    return whole + 2 * largest


def _saved(job: Job, training: Training, stream: str, batch: dict[str, Any], device: torch.device) -> tuple[int, int]:
    """Bytes of all storages that a forward pass saves, weights left out, and of the largest of them."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in job.model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # keeps the storage; the tensor itself would keep the whole graph, in a ring

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(device.type, torch.bfloat16, enabled=rounds(training.precision, device)),
    ):
        job.loss(stream, batch)
    return sum(found.values()), max(found.values(), default=0)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
