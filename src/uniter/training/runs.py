"""Runs below a folder, and how each stands."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..recipe import read_yaml

TAIL = 65536  # bytes of a log that are looked at

State = Literal["finished", "running", "failed", "stopped"]


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    Args:
        path: its folder.
        state: stopped: nobody trains in it and it is not at its end, interrupted or killed.
        step: of its last update.
        steps: updates in all, if its settings say so.
        loss: of its last update.
        best: the best value of its validations so far, where it had one.
        idle: seconds since it last wrote to its log.
        error: what a failed one ended with.
    """

    path: Path
    state: State
    step: int
    steps: int | None
    loss: float | None
    best: float | None
    idle: float | None
    error: str = ""


def runs_below(folder: str | Path) -> list[Standing]:
    """The runs in a folder and the folders in it, by path.

    Raises:
        ValueError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give one that runs were written into")
    found = [path.parent for path in folder.rglob("config.yaml") if _is_run(path.parent)]
    return [standing(path) for path in sorted(found)]


def standing(path: Path) -> Standing:
    """How the run in a folder stands; nothing of it is changed."""
    updates, validations = [], []
    for line in _last_lines(path / "metrics.jsonl"):
        (validations if "validation" in line else updates).append(line)
    last = updates[-1] if updates else {}
    result, failure = _json(path / "result.json"), _json(path / "failed.json")
    state: State = "finished" if result else "running" if _is_locked(path) else "failed" if failure else "stopped"
    steps, best = None, result.get("best")
    with suppress(ValueError, OSError, TypeError, KeyError):
        steps = int(read_yaml((path / "config.yaml").read_text(encoding="utf-8"))["train"]["steps"])
    if best is None and validations:
        best = validations[-1].get("best")
    idle = None
    with suppress(OSError):
        idle = time.time() - (path / "metrics.jsonl").stat().st_mtime
    error = failure.get("error", "") if state == "failed" else ""
    return Standing(path, state, result.get("steps", last.get("step", 0)), steps, last.get("loss"), best, idle, error)


def table(runs: list[Standing]) -> str:
    """The runs as lines of text."""
    rows = [("run", "state", "step", "loss", "best", "last wrote")]
    for run in runs:
        step = f"{run.step}/{run.steps}" if run.steps else str(run.step)
        loss, best = ("-" if value is None else f"{value:.4g}" for value in (run.loss, run.best))
        rows.append((str(run.path), run.state, step, loss, best, _ago(run.idle)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], *(f"{line}  {run.error}".rstrip() for line, run in zip(lines[1:], runs))])


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in (".lock", "env.json", "metrics.jsonl", "checkpoints"))


def _is_locked(path: Path) -> bool:
    """Whether a process trains in it."""
    if not (path / ".lock").exists():
        return False
    lock = FileLock(path / ".lock")
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # of somebody else, or on a disk that cannot be written to
        return False


def _last_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines at the end of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            texts = file.read().splitlines()
    except OSError:
        return []
    lines = []
    for text in texts:
        with suppress(ValueError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict)]


def _json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return {}


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for length, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {name} ago"
    return f"{seconds:.0f} s ago"
