"""The folder of a run: its settings, its log, its plots, and the rule that no other run writes into it."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from ..files import write_json, write_text
from ..recipe import read_yaml
from .plots import draw_plots, open_board, show_scalars

# Settings that a run may change when it goes on, since what it computes stays the same (but for the order of sums).
FREE = tuple(
    f"train.{name}" for name in ("engine", "activation_checkpointing", "threads", "keep", "save_every", "tensorboard")
)
PACKAGES = ("uniter", "torch", "transformers", "safetensors", "numpy", "pydantic")


class RunFolder:
    """Where a run lives: config.yaml, env.json, metrics.jsonl, plots/, checkpoints/, best/, last/, result.json.

    Args:
        path: the folder; new, empty, or that of the same run.
        config: the settings of the run, as a mapping or as YAML.
        resume: whether a run that is there already may go on.

    One process at a time may hold it, from here to `close`; the lock is the system's, so that of a killed one is gone.

    Raises:
        ValueError: the folder holds something else, or a run with other settings; the message names the first. Or
            another process trains in it.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any] | str, resume: bool = True) -> None:
        self._name_places(Path(path))
        text = (
            config if isinstance(config, str) else yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)
        )
        try:
            if self._config.is_file():  # before anything in it is touched
                self._take_lock()
            self._claim(text, resume)
            self._take_lock()
        except ValueError:
            self._lock.release(force=True)
            raise

    @classmethod
    def elsewhere(cls, path: str | Path) -> "RunFolder":
        """The folder as a process sees it that is not the first of its run: nothing is written."""
        folder = cls.__new__(cls)
        folder._name_places(Path(path))
        folder.writes = False
        return folder

    def _name_places(self, path: Path) -> None:
        self.path = path
        self.checkpoints, self.best, self.last = path / "checkpoints", path / "best", path / "last"
        self._metrics, self._config = path / "metrics.jsonl", path / "config.yaml"
        self._file: Any = None
        self._lock = FileLock(path / ".lock")
        self._plot_next = 0.0
        self._board: Any = None
        self.writes = True

    def _take_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0.2, poll_interval=0.05)  # `uniter runs` holds it for a moment to see
        except Timeout:
            raise ValueError(f"another process trains in {self.path}: wait for it, or choose another folder") from None

    def _claim(self, text: str, resume: bool) -> None:
        if self._config.is_file():
            if not resume:
                raise ValueError(f"{self.path} holds a run already; choose another folder, or let it resume")
            before = read_yaml(self._config.read_text(encoding="utf-8"), str(self._config))
            difference = _difference(before, read_yaml(text, "config"))
            if difference and not (self._metrics.exists() or self.checkpoints.exists()):
                write_text(self._config, text)  # that run failed before its first update: there is nothing to lose
            elif difference:
                key, old, new = difference
                raise ValueError(
                    f"{self.path} holds a run with another setting: {key} is {old!r} there and {new!r} here; "
                    "choose another folder, or the old setting to resume"
                )
            return
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"{self.path} is not empty and holds no run; choose a new or empty folder")
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self._config, text)

    def log_environment(self) -> None:
        """Add to env.json what this session runs with; a resumed run has several entries."""
        if not self.writes:
            return
        (self.path / "failed.json").unlink(missing_ok=True)
        path = self.path / "env.json"
        sessions = []
        if path.is_file():
            with contextlib.suppress(ValueError):
                sessions = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, [*sessions, environment()], indent=1)

    @property
    def result(self) -> dict[str, Any] | None:
        """What a finished run left; None while it is not finished."""
        path = self.path / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def finish(self, result: dict[str, Any]) -> None:
        """Mark the run as finished."""
        if not self.writes:
            return
        write_json(self.path / "result.json", result, indent=1)

    def cut_log(self, step: int) -> None:
        """Drop the log's lines after `step`: those updates will be done again."""
        if not self.writes:
            return
        self._close_log()
        if self._metrics.is_file():
            kept = [json.dumps(line) + "\n" for line in self.log() if line["step"] <= step]
            write_text(self._metrics, "".join(kept))

    def write_log(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        if not self.writes:
            return
        if self._file is None:
            self._file = self._metrics.open("a", encoding="utf-8")
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None:
            show_scalars(self._board, line)

    def log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one torn by a crash is left out."""
        lines = []
        if self._metrics.is_file():
            for text in self._metrics.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(text))
        return lines

    def plot(self) -> None:
        """Draw plots/*.png from the log."""
        if not self.writes:
            return
        draw_plots(self.log(), self.path / "plots")

    def refresh(self) -> None:
        """Draw the plots anew, if they are a minute old and drawing them takes no more than a fiftieth of the time."""
        if self.writes and time.monotonic() >= self._plot_next:
            began = time.monotonic()
            if self._plot_next:  # not at the first update
                self.plot()
            self._plot_next = time.monotonic() + max(60.0, 50 * (time.monotonic() - began))

    def show_on_board(self, step: int) -> None:
        """Write what is logged for TensorBoard too, into tensorboard/, from after `step` on.

        Raises:
            ValueError: TensorBoard is not installed.
        """
        if self.writes:
            self._board = open_board(self.path / "tensorboard", step)

    def write_failure(self, error: BaseException) -> None:
        """Write down what ended this session."""
        if self.writes:
            with contextlib.suppress(OSError):  # the disk may be what failed
                text = f"{type(error).__name__}: {error}".splitlines()[0]
                write_json(self.path / "failed.json", {"error": text, "process": os.getpid()}, indent=1)

    def close(self) -> None:
        """Close the log and let others have the folder."""
        if self._board is not None:
            self._board.close()
        self._close_log()
        self._lock.release(force=True)

    def _close_log(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def environment() -> dict[str, Any]:
    """Versions, machine, git commit of the working folder (if it is one) and command."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions,
        "machine": {"system": platform.platform(), "processors": os.cpu_count(), "gpus": gpus},
        "git": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": sys.argv,
        "process": os.getpid(),
        "processes": int(os.environ.get("WORLD_SIZE") or 1),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _plain(value: Any) -> Any:
    """Mappings, sequences and paths as YAML knows them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first dotted key in which two settings differ, with both values."""
    if key in FREE:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(n for n in new if n not in old)]:
            found = _difference(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
            if found:
                return found
        return None
    return None if old == new else (key or "the whole", old, new)
