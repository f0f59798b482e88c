"""A step that went wrong, run again: which module first gave what is no number."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws
from ..recipe import Training
from .ahead import to_device
from .engine import rounds
from .incidents import read_batch, read_report
from .job import Job

SHOWN = 8  # modules of each direction


@dataclass(frozen=True)
class Wrong:
    """A tensor that holds what is no number.

    Args:
        module: the module by its name in the model.
        nan: how many NaN.
        infinite: how many infinite numbers.
        numbers: how many it has.
        largest: of the module's inputs, by size; NaN if they were wrong already.
    """

    module: str
    nan: int
    infinite: int
    numbers: int
    largest: float = float("nan")

    def __str__(self) -> str:
        counts = [f"{self.nan} NaN"] * (self.nan > 0) + [f"{self.infinite} infinite"] * (self.infinite > 0)
        text = f"{self.module}: {', '.join(counts)} of {self.numbers} numbers"
        return text if self.largest != self.largest else f"{text}, from inputs of up to {self.largest:.4g}"


@dataclass
class Replay:
    """What running a step again showed, in the order in which it happened.

    Args:
        step: the update.
        stream: its stream.
        loss: of the micro-batch.
        batch: tensors of the batch that were wrong before anything was computed, and whose.
        weights: parameters that were wrong before.
        forward: outputs of modules.
        backward: gradients of outputs of modules.
        gradients: parameters whose gradient is wrong.
    """

    step: int
    stream: str
    loss: float
    batch: list[dict[str, Any]]
    weights: list[str] = field(default_factory=list)
    forward: list[Wrong] = field(default_factory=list)
    backward: list[Wrong] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)

    @property
    def reproduced(self) -> bool:
        """Whether it went wrong again."""
        return bool(self.batch or self.weights or self.forward or self.backward or self.gradients) or not (
            abs(self.loss) < float("inf")
        )

    def __str__(self) -> str:
        lines = [f"step {self.step}, stream {self.stream}: loss {self.loss:g}"]
        lines += [
            f"  batch: {one['tensor']}: {one['numbers']} numbers, in {', '.join(one['examples'][:4])}"
            for one in self.batch
        ]
        for name, found in (
            ("weights", self.weights),
            ("forward", self.forward),
            ("backward", self.backward),
            ("gradients", self.gradients),
        ):
            lines += [f"  {name}: {one}" for one in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"  {name}: and {len(found) - SHOWN} more")
        if not self.reproduced:
            lines.append("  everything is finite this time: the machine computed otherwise when it went wrong")
        return "\n".join(lines)


def replay(job: Job, training: Training, place: Path) -> list[Replay]:
    """Run the micro-batches of an incident again, forward and backward; nothing is updated or written.

    Args:
        job: as it was trained, with the weights that the incident keeps.
        training: as it was trained.
        place: folder of the incident.
    """
    report = read_report(place)
    device = torch.device("cuda" if torch.cuda.is_available() and training.device != "cpu" else "cpu")
    job.model.to(device).train()
    for module in job.model.modules():
        if isinstance(module, nn.Dropout) and training.dropout is not None:
            module.p = training.dropout
    found = []
    for said in report["batches"]:
        batch = to_device(read_batch(place, said), device)
        job.model.zero_grad(set_to_none=True)
        one = Replay(report["step"], report["stream"], float("nan"), said["wrong"])
        one.weights = [name for name, p in job.model.named_parameters() if not torch.isfinite(p).all()]
        torch.manual_seed(draws.number(training.seed, "dropout", report["step"], said["micro"]))
        with _watched(job.model, one):
            with torch.autocast(device.type, torch.bfloat16, enabled=rounds(training.precision, device)):
                loss, _ = job.loss(report["stream"], batch)
            (loss if training.accumulation == "sum" else loss / training.accumulate).backward()
        one.loss = float(loss.detach())
        one.gradients = [
            name for name, p in job.model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        found.append(one)
    return found


@contextmanager
def _watched(model: nn.Module, found: Replay) -> Iterator[None]:
    """Note which modules' outputs, and gradients of outputs, are wrong."""

    def watch(name: str, module: nn.Module) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if wrong := _wrong(name, tensor, list(_tensors(inputs))):
                    found.forward.append(wrong)
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: note(name, gradient))

        return module.register_forward_hook(hook)

    def note(name: str, gradient: Tensor) -> None:
        if (wrong := _wrong(name, gradient)) and all(one.module != name for one in found.backward):
            found.backward.append(wrong)

    handles = [watch(name or "the model", module) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in arguments or outputs."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _wrong(name: str, tensor: Tensor, inputs: list[Tensor] | None = None) -> Wrong | None:
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    if not nan and not infinite:
        return None
    sizes = [float(one.detach().abs().max()) for one in inputs or () if one.numel()]
    finite = all(size < float("inf") for size in sizes)
    return Wrong(name, nan, infinite, tensor.numel(), max(sizes) if sizes and finite else float("nan"))
