"""Launches that are hit by faults, and what a run lost by them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VICTIM = Path(__file__).parent / "victim.py"
SOURCE = Path(__file__).parents[2] / "src"


@dataclass(frozen=True)
class Outcome:
    """How a launch ended.

    Args:
        status: exit status; below zero the signal that ended it.
        output: what it printed, and complained of.
        seconds: how long it took.
    """

    status: int
    output: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether it was killed."""
        return self.status in (-9, signal.SIGTERM)


class Victims:
    """Launches of the command line, each a process of its own.

    Args:
        folder: for what they print.
        environment: of all of them.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.output = folder / "output.txt"
        self.environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **environment}
        self.server: Any = None
        self.pid = 0  # of what runs
        if hasattr(os, "fork"):
            self.server = subprocess.Popen(
                [sys.executable, str(VICTIM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self.environment,
                text=True,
            )
            assert self._said("ready")

    def __enter__(self) -> "Victims":
        return self

    def __exit__(self, *_: object) -> None:
        if self.server is not None:
            self.server.stdin.close()
            self.server.wait(60)
            self.server.stdout.close()

    def run(
        self,
        *arguments: object,
        plan: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        kill_after: float | None = None,
        kill_worker_after: float | None = None,
    ) -> Outcome:
        """Launch `uniter ARGUMENTS` and wait for its end.

        Args:
            arguments: of the command line.
            plan: the fault, as `victim.py` says.
            environment: of this launch.
            kill_after: so many seconds the whole job is killed.
            kill_worker_after: so many seconds after it has started one, a worker of it is killed (Linux).
        """
        self.output.write_bytes(b"")
        order = {
            "arguments": [str(argument) for argument in arguments],
            "output": str(self.output),
            "plan": dict(plan or {}),
            "environment": dict(environment or {}),
        }
        began = time.perf_counter()
        if self.server is None:
            process = subprocess.Popen([sys.executable, str(VICTIM), json.dumps(order)], env=self.environment)
            timer = threading.Timer(kill_after or 600, process.kill)
            timer.start()
            status = process.wait()
            timer.cancel()
        else:
            self.server.stdin.write(json.dumps(order) + "\n")
            self.server.stdin.flush()
            self.pid = pid = self._said("pid")
            timer = threading.Timer(kill_after or 600, _kill_all, (pid,))
            timer.start()
            if kill_worker_after is not None:
                threading.Thread(target=_kill_worker, args=(pid, kill_worker_after), daemon=True).start()
            status = self._said("status")
            timer.cancel()
            _kill_all(pid)  # workers that outlived it
        return Outcome(status, self.output.read_text(errors="replace"), time.perf_counter() - began)

    def kill(self) -> None:
        """Kill what runs."""
        if self.pid:
            _kill_all(self.pid)

    def _said(self, key: str) -> Any:
        line = self.server.stdout.readline()
        assert line, "the server of victims died"
        return json.loads(line)[key]


def _kill_all(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _kill_worker(pid: int, seconds: float) -> None:
    """Kill the first worker of a process, some time after it was started."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for child in children(pid):
            if b"spawn_main" in command_line(child):
                time.sleep(seconds)
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                return
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """The processes that a process started (Linux)."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def command_line(pid: int) -> bytes:
    """What a process was started with (Linux)."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def digest(place: Path) -> str:
    """sha256 of a file, or of all files in a folder with their names; hidden ones are left out."""
    found = hashlib.sha256()
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if file.is_file() and not file.name.startswith("."):
            found.update(file.relative_to(place).as_posix().encode() + file.read_bytes())
    return found.hexdigest()


def final(run: Path) -> str:
    """The digest of a finished run's weights."""
    return digest(run / "last" / "model.safetensors")


def log(run: Path) -> list[str]:
    """The lines of a run's log that are whole."""
    file = run / "metrics.jsonl"
    return [line for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []


def steps(lines: list[str]) -> int:
    """The last update that a log tells of."""
    return max((json.loads(line)["step"] for line in lines), default=0)


def kept(before: list[str], after: list[str]) -> int:
    """The last update of a log that was not done again afterwards: lines have the seconds that an update took."""
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    return steps(before[:same])


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, the newest first."""
    return sorted((run / "checkpoints").glob("step-*"), reverse=True)


def newest(run: Path, torn: Collection[Path] = ()) -> int:
    """The update of a run's newest checkpoint that is not torn, 0 without one."""
    whole = [place for place in checkpoints(run) if place not in torn]
    return max((int(place.name.removeprefix("step-")) for place in whole), default=0)
