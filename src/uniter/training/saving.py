"""Checkpoints: written whole or not at all, checked when read, and nothing in them is ever unpickled."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import flush

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], keep: int = 2
) -> Path:
    """Write `folder/step-00000500` and remove all but the newest `keep`.

    It is written under another name, flushed to disk and renamed, so a crash leaves either the whole or nothing.

    Args:
        folder: where the checkpoints of the run lie.
        step: updates done.
        model: its parameters and buffers are written.
        optimizer: its state is written, by the parameters' names.
        state: JSON values to get back with it.
        keep: how many to keep.
    """
    target = folder / f"step-{step:08d}"

    def write(place: Path) -> None:
        save_file(_model_tensors(model), place / MODEL)
        save_file(_optimizer_tensors(model, optimizer), place / OPTIMIZER)
        sums = {name: _digest(place / name) for name in (MODEL, OPTIMIZER)}
        (place / STATE).write_text(json.dumps({"step": step, "sha256": sums, **state}, indent=1), encoding="utf-8")

    write_folder(target, write)
    # Later ones were damaged when the run resumed from an earlier one: they are not among those to keep.
    later = [place for place in _checkpoints(folder) if place.name > target.name]
    for old in [*later, *_checkpoints(folder)[len(later) + keep :]]:
        shutil.rmtree(old)
    return target


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Load the newest whole checkpoint below `folder` into model and optimiser.

    A torn or altered one is passed over with a warning, and the one before it is taken.

    Returns:
        The saved state with `step`; None if there is no checkpoint.

    Raises:
        ValueError: there are checkpoints, and none is whole; or one does not belong to this model.
    """
    found = _checkpoints(folder)
    for place in found:
        try:
            state = json.loads((place / STATE).read_text(encoding="utf-8"))
            for name, digest in state["sha256"].items():
                if _digest(place / name) != digest:
                    raise ValueError(f"{name} is not what was written")
            tensors, moments = load_file(place / MODEL), load_file(place / OPTIMIZER)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            warnings.warn(f"checkpoint {place} is damaged ({error}); taking the one before it", stacklevel=2)
            continue
        _restore_model(model, tensors, place)
        _restore_optimizer(model, optimizer, moments, place)
        return state
    if found:
        raise ValueError(f"none of the checkpoints in {folder} is whole; remove that folder to start again")
    return None


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, and put it in `target`'s place once it is on disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        write(fresh)
    except SafetensorError as error:  # a full disk, as its writer says it
        raise OSError(
            f"{target} could not be written ({error}): free some space and run the same command again"
        ) from None
    for path in fresh.rglob("*"):
        if path.is_file():
            flush(path)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), key=lambda p: p.name, reverse=True)


def _unique(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each storage once, under its first name: tied weights are one tensor."""
    seen = set()
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        if place not in seen:
            seen.add(place)
            yield name, tensor


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in _unique(model.state_dict())}


def _restore_model(model: nn.Module, tensors: dict[str, Tensor], place: Path) -> None:
    own = dict(_unique(model.state_dict()))
    wrong = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
    if wrong:
        raise ValueError(
            f"checkpoint {place} is of another model: {', '.join(wrong[:3])} differ; choose another folder"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().contiguous() for key, tensor in _moments(model, optimizer)}


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for moment, tensor in state.items():
            yield f"{moment}/{names[parameter]}", tensor


def _restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor], place: Path
) -> None:
    own = dict(_moments(model, optimizer))
    if own.keys() != moments.keys():
        raise ValueError(f"checkpoint {place} is of another optimiser or model; choose another folder")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(moments[key])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
