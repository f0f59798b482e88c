"""Checkpoints: written beside the training, whole or not at all, checked when read; nothing in them is ever unpickled.

They are those of `torch.distributed.checkpoint` in safetensors files, so that any number of processes reads what any
other number wrote.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from ..files import flush
from .engine import Ranks

STATE = "state.json"
# It says so at every save and load of a process that is alone, though it was told (no_dist).
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


class Checkpoints:
    """The checkpoints of a run, `step-00000500` and so on below a folder.

    Each is staged in memory and written by a thread while the training goes on, under another name, which is changed
    once everything is on disk and its digests are written down; a crash leaves either the whole or nothing.

    Args:
        folder: where they lie; all processes have to see it.
        ranks: the processes of the run, each of which writes its share.
        keep: how many to keep, the newest ones.
        kept: says the step of one to keep besides (the best), or None.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks | None = None,
        keep: int = 2,
        kept: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.folder, self.ranks, self.keep, self.kept = folder, ranks or Ranks(), keep, kept
        # Its own group: it speaks from a thread while the training speaks in another.
        group: Any = None if self.ranks.alone else dist.new_group(backend="gloo")
        self._group: dist.ProcessGroup | None = group
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take the tensors as they are now, and write them while others go on.

        Args:
            step: updates done.
            tensors: by name, whole or sharded.
            state: JSON values to get back with them.

        Raises:
            OSError: the one before could not be written.
        """
        self.wait()
        target = self.folder / f"step-{step:08d}"
        fresh = _fresh(target)
        if self.ranks.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            _clear(target)
        written = dcp.async_save(
            dict(tensors),
            storage_writer=dcp.HuggingFaceStorageWriter(str(fresh), save_distributed=True),
            process_group=self._group,
            no_dist=self.ranks.alone,
        )
        assert isinstance(written, Future)
        text = json.dumps(state)  # as it is now
        self._pending = self._thread.submit(self._finish, written, target, step, text, self.kept())

    def wait(self) -> None:
        """Wait until the last one is on disk; raises the OSError that kept it from it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def load(self, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
        """Read the newest whole checkpoint into these tensors.

        A torn or altered one is passed over with a warning, and the one before it is taken.

        Returns:
            The saved state with `step`; None if there is no checkpoint.

        Raises:
            ValueError: there are checkpoints, and none is whole; or one does not belong to this model and optimiser.
        """
        place, state = self.ranks.told(_newest(self.folder)) if self.ranks.is_first else self.ranks.told((None, None))
        if place is None:
            return None
        if not place:
            raise ValueError(f"none of the checkpoints in {self.folder} is whole; remove that folder to start again")
        place = self.folder / place
        reader = dcp.HuggingFaceStorageReader(str(place))
        own = {name: tensor.detach() for name, tensor in tensors.items()}
        _check(own, reader, place)
        dcp.load(own, storage_reader=reader, process_group=self._group, no_dist=self.ranks.alone)
        return state

    def _finish(self, written: Future, target: Path, step: int, state: str, kept: int | None) -> None:
        try:
            written.result()
        except CheckpointException as error:
            first = next(iter(error.failures.values()))[0]
            raise OSError(f"checkpoint {target} could not be written: {first}") from error
        if not self.ranks.is_first:
            return
        fresh = _fresh(target)
        sums = {path.name: _digest(path) for path in sorted(fresh.glob("*.safetensors"))}
        content = {"step": step, "sha256": sums, **json.loads(state)}
        (fresh / STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")
        _settle(target)
        # Later ones were damaged when the run resumed from an earlier one: they are not among those to keep.
        later = [place for place in _checkpoints(self.folder) if place.name > target.name]
        own = _checkpoints(self.folder)[len(later) :]
        for old in [*later, *(place for place in own[self.keep :] if place.name != f"step-{kept or 0:08d}")]:
            shutil.rmtree(old)


def training_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that a run goes on from: parameters, buffers and the optimiser's moments, by name; tied weights once."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[f"model/{name}"] = tensor.detach()
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for moment, tensor in state.items():
            found[f"optimizer/{moment}/{names[parameter]}"] = tensor
    return found


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, and put it in `target`'s place once it is on disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear(target)
    fresh = _fresh(target)
    fresh.mkdir()
    try:
        write(fresh)
    except SafetensorError as error:  # a full disk, as its writer says it
        raise OSError(
            f"{target} could not be written ({error}): free some space and run the same command again"
        ) from None
    _settle(target)


def _fresh(target: Path) -> Path:
    return target.with_name(f".{target.name}.new")


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _clear(target: Path) -> None:
    """Remove what a crash left beside it."""
    for leftover in (_fresh(target), _old(target)):
        shutil.rmtree(leftover, ignore_errors=True)


def _settle(target: Path) -> None:
    """Put the fresh folder in `target`'s place once it is on disk."""
    fresh, old = _fresh(target), _old(target)
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


def _newest(folder: Path) -> tuple[str | None, dict[str, Any] | None]:
    """Name and state of the newest whole checkpoint; an empty name: none of them is; None: there are none."""
    found = _checkpoints(folder)
    for place in found:
        try:
            state = json.loads((place / STATE).read_text(encoding="utf-8"))
            for name, digest in state["sha256"].items():
                if _digest(place / name) != digest:
                    raise ValueError(f"{name} is not what was written")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"checkpoint {place} is damaged ({error}); taking the one before it", stacklevel=3)
            continue
        return place.name, state
    return ("", None) if found else (None, None)


def _check(own: dict[str, Tensor], reader: dcp.HuggingFaceStorageReader, place: Path) -> None:
    """Refuse a checkpoint of something else before anything is overwritten."""
    try:
        there: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    except SafetensorError as error:
        raise ValueError(f"checkpoint {place} is no safetensors file ({error}); remove it") from error
    wrong = sorted(own.keys() ^ there.keys()) or [n for n in own if own[n].shape != there[n].size]
    if wrong:
        what = "model" if any(name.startswith("model/") for name in wrong) else "optimiser or model"
        few = ", ".join(name.partition("/")[2] for name in wrong[:3])
        raise ValueError(f"checkpoint {place} is of another {what}: {few} differ; choose another folder")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
