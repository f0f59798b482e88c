"""Engines: how the processes of a run share the work of an update. Alone, DDP and FSDP2 compute the same thing.

An update's micro-batches are a function of the seed and of the update. Processes take them in turn; where there are
more processes than micro-batches, or memory is short, each micro-batch is cut into parts by its examples. A part counts
by its share of the targets that the micro-batch's loss is the mean of, so that neither the number of processes nor that
of parts changes what is computed, but for the order of sums.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ..recipe import Training
from .job import Divisible, Job
from .order import MicroBatch

T = TypeVar("T")


# Processes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """One process among those of the run.

    Args:
        rank: its number, from 0; the first writes the folder.
        world: how many there are.
        local: its number on its machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes what all share."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.world == 1

    def first(self, does: Callable[[], T]) -> T | None:
        """Let the first process do something while the others wait; its ValueError is raised in all of them."""
        found, failed = None, ""
        if self.is_first:
            try:
                found = does()
            except ValueError as error:
                if self.alone:
                    raise
                failed = str(error) or "it failed"
        if failed := self.told(failed):
            raise ValueError(failed)
        return found

    def told(self, value: T) -> T:
        """What the first process says (plain JSON data), in every process."""
        if self.alone:
            return value
        said = [json.dumps(value)]
        dist.broadcast_object_list(said, src=0)
        return json.loads(said[0])

    def wait(self) -> None:
        """Wait for all."""
        if not self.alone:
            dist.barrier()


@contextmanager
def joined_ranks(training: Training) -> Iterator[Ranks]:
    """Join the processes that torchrun started, as its environment says; nothing of ours starts processes.

    A process group that is there already is used and left as it is.

    Raises:
        ValueError: the environment is half there.
    """
    environment = os.environ
    world = int(environment.get("WORLD_SIZE") or 1) if "RANK" in environment else 1
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), int(environment.get("LOCAL_RANK") or 0))
        return
    if world == 1:
        yield Ranks()
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {world} and {' and '.join(missing)} not set: start with torchrun (docs/distributed.md)"
        )
    ranks = Ranks(int(environment["RANK"]), world, int(environment.get("LOCAL_RANK") or 0))
    on_gpu = training.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(ranks.local % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


# Sharing an update ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece(MicroBatch):
    """What one process does in one pass: a micro-batch, or a part of one.

    Args:
        part: which part of the micro-batch, from 0.
        parts: how many it is cut into.
        stands_in: its loss counts nothing; it is there so that all processes make equally many passes.
        micros: the whole update.
    """

    part: int
    parts: int
    stands_in: bool
    micros: tuple[MicroBatch, ...]


def divide(planned: Iterable[MicroBatch], accumulate: int, parts: int, ranks: Ranks) -> Iterator[Piece]:
    """The pieces of this process, `passes_of` an update, in order.

    Args:
        planned: micro-batches, `accumulate` an update.
        accumulate: likewise.
        parts: how many each is cut into; examples are dealt out in turn, so that long and short ones are in each.
        ranks: this process and the others, who take the pieces in turn.
    """
    planned = iter(planned)
    while micros := tuple(islice(planned, accumulate)):
        pieces = []
        for micro in micros:
            for part in range(parts):
                indices = micro.indices[part::parts]
                if len(indices):
                    kept = {name: getattr(micro, name) for name in ("update", "micro", "stream", "epoch")}
                    pieces.append(
                        Piece(**kept, indices=indices, part=part, parts=parts, stands_in=False, micros=micros)
                    )
        for turn in range(passes_of(accumulate, parts, ranks.world)):
            number = turn * ranks.world + ranks.rank
            yield pieces[number] if number < len(pieces) else replace(pieces[0], stands_in=True)


def passes_of(accumulate: int, parts: int, world: int) -> int:
    """Passes, forward and backward, of each process in an update."""
    return -(-accumulate * parts // world)


class _Step(nn.Module):
    """The job's loss as a module's forward, which is what DDP and FSDP2 know how to wrap."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model = job.model
        self.job = job

    def forward(self, stream: str, batch: dict[str, Any]) -> tuple[Tensor, Mapping[str, Any]]:
        return self.job.loss(stream, batch)


class Engine:
    """Computes an update's gradients together with the other processes.

    Args:
        job: what is trained; FSDP2 shards its model in place, so build the optimiser afterwards.
        training: `engine` and `accumulate`.
        ranks: this process and the others.
        device: where it computes.
        parts: cut each micro-batch into so many at least, for want of memory.

    Raises:
        ValueError: there are more processes than micro-batches, and the job cannot say what its loss is a mean of.
    """

    def __init__(self, job: Job, training: Training, ranks: Ranks, device: torch.device, parts: int = 1) -> None:
        self.ranks, self.device, self.accumulate, self.job = ranks, device, training.accumulate, job
        self.parts = max(parts, -(-ranks.world // training.accumulate))
        self.passes = passes_of(self.accumulate, self.parts, ranks.world)
        if self.parts > 1 and not isinstance(job, Divisible):
            raise ValueError(
                f"a micro-batch has to be cut for {ranks.world} processes, and this job has no `count` that says what "
                f"its loss is a mean of; set train.accumulate to {ranks.world}, or give it one"
            )
        step = _Step(job)
        self.ddp: DistributedDataParallel | None = None
        self.fsdp: FSDPModule | None = None
        if not ranks.alone and training.engine == "ddp":
            # An objective leaves the others' heads unused, hence the search for unused parameters.
            self.ddp = DistributedDataParallel(step, find_unused_parameters=True)
        elif not ranks.alone:
            mesh = dist.init_device_mesh(device.type, (ranks.world,))
            for block in blocks(job.model):
                fully_shard(block, mesh=mesh)
            self.fsdp = fully_shard(step, mesh=mesh)
        self._step = self.ddp or step
        self._sharded = [module for module in step.modules() if isinstance(module, FSDPModule)]

    def divide(self, planned: Iterable[MicroBatch]) -> Iterator[Piece]:
        """What this process does of the planned micro-batches."""
        return divide(planned, self.accumulate, self.parts, self.ranks)

    def loss(self, stream: str, batch: dict[str, Any]) -> tuple[Tensor, Mapping[str, Any]]:
        """The job's loss; the gradient of it times `ranks.world` is what to go backward from."""
        return self._step(stream, batch)

    def shares(self, pieces: Iterable[tuple[Piece, dict[str, Any]]]) -> Iterator[tuple[Piece, dict[str, Any], float]]:
        """An update's pieces with their batches, and what each one's loss counts in its micro-batch's."""
        if self.parts == 1:
            yield from ((piece, batch, 0.0 if piece.stands_in else 1.0) for piece, batch in pieces)
            return
        held, job = list(pieces), self.job
        assert isinstance(job, Divisible)
        counts = [None if piece.stands_in else job.count(piece.stream, batch) for piece, batch in held]
        totals = torch.zeros(self.accumulate, dtype=torch.float64)
        for (piece, _), count in zip(held, counts):
            totals[piece.micro] += count or 0
        self._sum(totals)
        for (piece, batch), count in zip(held, counts):
            whole = float(totals[piece.micro])
            share = 0.0 if piece.stands_in else 1.0 if count is None else count / whole if whole else 0.0
            yield piece, batch, share

    @contextmanager
    def passing(self, last: bool) -> Iterator[None]:
        """Around a pass: gradients meet in the last one of an update."""
        if self.fsdp is not None:
            self.fsdp.set_requires_gradient_sync(last)
        held: AbstractContextManager = nullcontext() if self.ddp is None or last else self.ddp.no_sync()
        with held:
            yield

    def summed(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        return self._sum(values)

    def _sum(self, values: Tensor) -> Tensor:
        if not self.ranks.alone:
            dist.all_reduce(values)
        return values

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Around a validation, which each process does in full: FSDP2's parameters are gathered for it."""
        for module in self._sharded:
            module.unshard()
            module.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for module in self._sharded:
                module.set_reshard_after_forward(module is not self.fsdp, recurse=False)
                module.reshard()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around `job.save` in the first process: its model holds whole tensors instead of shards."""
        if self.fsdp is None:
            yield
            return
        whole: dict[int, nn.Parameter] = {}
        before: list[tuple[nn.Module, str, nn.Parameter]] = []
        for module in self.job.model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    before.append((module, name, parameter))
                    if id(parameter) not in whole:  # tied ones stay tied
                        tensor = full(parameter).detach()
                        kept = tensor.cpu() if self.ranks.is_first else tensor.new_empty(0)
                        whole[id(parameter)] = nn.Parameter(kept, requires_grad=parameter.requires_grad)
        for module, name, parameter in before:
            module._parameters[name] = whole[id(parameter)]
        try:
            yield
        finally:
            for module, name, parameter in before:
                module._parameters[name] = parameter


def blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, as FSDP2 shards and activation checkpointing forgets them: the members of its lists."""
    return [block for part in model.modules() if isinstance(part, nn.ModuleList) for block in part]


@contextmanager
def forgetting(model: nn.Module, forgets: bool) -> Iterator[None]:
    """Activation checkpointing: the blocks keep their inputs alone and are computed again in the backward pass.

    Dropout draws the same the second time. The modules' names stay, so checkpoints do not tell the difference.
    """
    forgetful = blocks(model) if forgets else []
    for block in forgetful:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in forgetful:
            del block.forward


def rounds(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; on a CPU without tiles for it, bfloat16 is slower than float32."""
    if precision == "auto":
        return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
    return precision == "bfloat16"


def full(tensor: Tensor) -> Tensor:
    """A tensor in whole; of a sharded one all processes have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
