"""What is kept when a loss or a gradient stops being a number, so that the step can be looked at and run again.

RUN/incident-00000012/report.json            the step, its examples, the tensors that are wrong
RUN/incident-00000012/batch-0.safetensors    the tensors of each micro-batch that was wrong
RUN/incident-00000012/model/                 the weights that the step began with
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import read_json
from ..recipe import Training
from .folder import RunFolder
from .job import Job
from .order import MicroBatch
from .saving import write_folder

REPORT, MODEL = "report.json", "model"
FEW = 20  # names of tensors that a report lists


def stop(
    job: Job,
    training: Training,
    folder: RunFolder,
    micros: Sequence[MicroBatch],
    losses: Sequence[float],
    norm: float,
    save: Callable[[Path], None],
) -> NoReturn:
    """Keep what the update in progress was about, and raise.

    Args:
        job: what is trained; its weights are still those that the update began with.
        training: how.
        folder: of the run.
        micros: the update's micro-batches.
        losses: of each.
        norm: of the gradient.
        save: writes the model into a new folder; all processes of the run call it.

    Raises:
        FloatingPointError: always; names the step, examples and the folder.
    """
    guilty = [micro for micro, loss in zip(micros, losses) if not math.isfinite(loss)] or list(micros)
    what = "gradient" if all(map(math.isfinite, losses)) else "loss"
    first, place = guilty[0], folder.path / f"incident-{micros[0].update:08d}"
    indices = [int(index) for micro in guilty for index in micro.indices]
    examples = [name for micro in guilty for name in job.describe(micro.stream, micro.indices)]
    checkpoints = sorted(path.name for path in folder.checkpoints.glob("step-*"))
    report: dict[str, Any] = {
        "what": what,
        "step": first.update,
        "stream": first.stream,
        "epoch": first.epoch,
        "indices": indices,
        "examples": examples,
        "losses": [str(loss) for loss in losses],
        "grad_norm": str(norm),
        "weights": _names(job.model, lambda parameter: parameter),
        "gradients": _names(job.model, lambda parameter: parameter.grad),
        "checkpoint": checkpoints[-1] if checkpoints else None,
        "accumulate": training.accumulate,
        "batches": [],
    }

    def write(fresh: Path) -> None:
        for micro in guilty:  # made again, for preparing is a pure function
            batch = job.prepare(micro.stream, micro.indices, micro.epoch)
            tensors: dict[str, Tensor] = {}
            structure = _taken_apart(batch, "batch", tensors)
            file = f"batch-{micro.micro}.safetensors"
            save_file(tensors, fresh / file)
            named = job.describe(micro.stream, micro.indices)
            report["batches"].append(
                {"micro": micro.micro, "file": file, "structure": structure, "wrong": wrong_in(tensors, named)}
            )
        (fresh / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    if folder.writes:
        write_folder(place, write)
    save(place / MODEL)
    few = ", ".join(examples[:8]) + (", ..." if len(examples) > 8 else "")
    wrong = [f"{one['tensor']} of {', '.join(one['examples'][:3])}" for b in report["batches"] for one in b["wrong"]]
    seen = f"; not finite in the batch: {'; '.join(wrong)}" if wrong else ""
    raise FloatingPointError(
        f"the {what} is not finite at step {first.update}, stream {first.stream}, among examples {few}{seen}. The step "
        f"is kept: `uniter replay {place}` shows where it went wrong. Mend those examples and run the same command "
        "again, or lower train.learning_rate or train.clip in a new folder"
    )


def read_report(place: Path) -> dict[str, Any]:
    """The report of an incident.

    Raises:
        ValueError: there is none, or it was not kept to the end.
    """
    report = read_json(place / REPORT, mend="give the folder incident-... of a run")
    if not (place / MODEL / "config.json").is_file():
        raise ValueError(f"{place} has no {MODEL}: the run was killed while it was kept; run it again")
    return report


def read_batch(place: Path, said: Mapping[str, Any]) -> Any:
    """A batch that is kept, from what the report says of it."""
    return _put_together(said["structure"], load_file(place / said["file"]))


def wrong_in(tensors: Mapping[str, Tensor], examples: Sequence[str]) -> list[dict[str, Any]]:
    """The tensors that hold what is no number: how many, and the examples of these rows."""
    found = []
    for name, tensor in tensors.items():
        bad = ~torch.isfinite(tensor) if tensor.is_floating_point() else torch.zeros(0, dtype=torch.bool)
        if not bad.any():
            continue
        rows = torch.nonzero(bad.flatten(1).any(1) if bad.dim() > 1 else bad)[:, 0] if bad.dim() else torch.zeros(0)
        named = [f"row {row}" for row in rows.tolist()]
        owners = _owners(tensor, name, tensors, len(examples)) if bad.dim() else None
        if owners is not None:
            named = list(dict.fromkeys(examples[owner] for owner in owners[rows].tolist()))
        found.append({"tensor": name.removeprefix("batch/"), "numbers": int(bad.sum()), "examples": named})
    return found


def _owners(tensor: Tensor, name: str, tensors: Mapping[str, Tensor], examples: int) -> Tensor | None:
    """The example of each row of a tensor; None if nobody knows. Regions lie flat, those of all examples in turn."""
    if len(tensor) == examples:
        return torch.arange(examples)
    mask = tensors.get(f"{name.rpartition('/')[0]}/region_mask")
    if mask is None or len(mask) != examples or len(tensor) != int(mask.sum()):
        return None
    return torch.arange(examples).repeat_interleave(mask.sum(1))


def _names(model: nn.Module, part: Callable[[nn.Parameter], Tensor | None]) -> list[str]:
    """The first parameters whose part is not finite."""
    found = []
    for name, parameter in model.named_parameters():
        tensor = part(parameter)
        if tensor is None or len(found) == FEW:
            continue
        own = getattr(tensor, "to_local", lambda tensor=tensor: tensor)()  # of a sharded one what this process has
        if not torch.isfinite(own).all():
            found.append(name)
    return found


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON that says how a batch is built, and its tensors by name."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"mapping": {key: _taken_apart(inner, f"{name}/{key}", tensors) for key, inner in value.items()}}
    if isinstance(value, list | tuple):
        return {"list": [_taken_apart(inner, f"{name}/{place}", tensors) for place, inner in enumerate(value)]}
    return {"value": value}


def _put_together(structure: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, inner),) = structure.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "mapping":
        return {key: _put_together(value, tensors) for key, value in inner.items()}
    return [_put_together(value, tensors) for value in inner] if kind == "list" else inner
