"""A process that runs the command line and is hit by a fault that was planned for it.

Without arguments it serves: it loads what is slow to load once, and forks a process for each line on stdin (where the
system can), so that a hundred launches take minutes. With a line as its argument it runs that.

A line: {"arguments": [...], "output": FILE, "environment": {...}, "plan": {...}}. A plan may have

    die_at_file: [PART, N]    SIGKILL at the Nth time that a path with PART in it is opened, renamed, made or removed
    full_at_file: [PART, N]   from the Nth such time on the disk is full
    largest_file: BYTES       no file may grow beyond it
    die_at_loss: N            SIGKILL in the middle of the Nth forward pass
    infinite_loss: N          the Nth loss is infinite
    store: {seed, fails, slow, flips, die_at}    how `faulty://` treats who reads: chances, seconds, SIGKILL within
                              the Nth download
"""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from uniter import draws

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows this is as sudden


def die() -> None:
    os.kill(os.getpid(), KILL)
    time.sleep(60)  # until it comes


class FaultyFileSystem(AbstractFileSystem):
    """Local files behind a server that fails, dawdles and spoils, by the plan."""

    protocol = "faulty"
    cachable = False
    plan: dict = {}  # noqa: RUF012
    calls = downloads = failures = 0

    @classmethod
    def _strip_protocol(cls, path):
        return str(path).removeprefix("faulty://").rstrip("/")

    def _suffer(self, what: str) -> None:
        cls = FaultyFileSystem
        cls.calls += 1
        chance = draws.uniform(cls.plan.get("seed", 0), what, cls.calls)
        time.sleep(cls.plan.get("slow", 0.0))
        if chance < cls.plan.get("fails", 0.0):
            cls.failures += 1
            raise (TimeoutError, OSError, ConnectionResetError)[cls.calls % 3](errno.EIO, "the store is not well")

    def info(self, path, **_):
        self._suffer("info")
        return LocalFileSystem().info(self._strip_protocol(path))

    def ls(self, path, detail=True, **_):
        return LocalFileSystem().ls(self._strip_protocol(path), detail=detail)

    def cat_file(self, path, start=None, end=None, **_):
        self._suffer("read")
        return LocalFileSystem().cat_file(self._strip_protocol(path), start=start, end=end)

    def get_file(self, rpath, lpath, **_):
        cls = FaultyFileSystem
        cls.downloads += 1
        self._suffer("download")
        data = bytearray(Path(self._strip_protocol(rpath)).read_bytes())
        if draws.uniform(cls.plan.get("seed", 0), "flip", cls.downloads) < cls.plan.get("flips", 0.0):
            cls.failures += 1
            data[len(data) // 2] ^= 255
        with open(lpath, "wb") as file:  # noqa: PTH123
            file.write(data[: len(data) // 2])
            file.flush()
            if cls.downloads == cls.plan.get("die_at"):
                die()
            file.write(data[len(data) // 2 :])


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


def at_files(part: str, first: int, act) -> None:
    """Call `act` with the path from the `first` time on that a path with this part is opened, renamed, made, removed."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            path = next((str(one) for one in arguments if isinstance(one, str | Path) and part in str(one)), None)
            if path is not None:
                seen += 1
                if seen >= first:
                    act(event, path)

    sys.addaudithook(hook)


def full(event: str, path: str) -> None:
    if event in ("open", "os.mkdir"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def spoil_losses(plan: dict) -> None:
    from uniter.pretraining import Pretraining

    whole, calls = Pretraining.loss, 0

    def loss(self, stream, batch):
        nonlocal calls
        calls += 1
        if calls == plan.get("die_at_loss"):
            die()
        found, numbers = whole(self, stream, batch)
        return (found * float("inf") if calls == plan.get("infinite_loss") else found), numbers

    Pretraining.loss = loss


def run(order: dict) -> None:
    """Do what a line says, in this process, and end it."""
    plan = order.get("plan") or {}
    os.environ.update(order.get("environment") or {})
    with open(order["output"], "ab") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from uniter import cli
    from uniter.training import folder

    folder.draw_plots = lambda log, place: None  # which takes longer than such a run
    FaultyFileSystem.plan = plan.get("store") or {}
    if "die_at_loss" in plan or "infinite_loss" in plan:
        spoil_losses(plan)
    if "die_at_file" in plan:
        at_files(*plan["die_at_file"], lambda event, path: die())
    if "full_at_file" in plan:
        at_files(*plan["full_at_file"], full)
    if "largest_file" in plan:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan["largest_file"], plan["largest_file"]))
    sys.argv = ["uniter", *order["arguments"]]
    status = 1
    try:
        cli.main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        if FaultyFileSystem.failures:
            print(f"the store failed {FaultyFileSystem.failures} times")
        sys.stdout.flush()
        sys.stderr.flush()
        if not sys.exc_info()[0] or sys.exc_info()[0] is SystemExit:
            os._exit(status)


def serve() -> None:
    """Fork a process for each line on stdin, one after the other; say its id, then how it ended."""
    import torch

    import uniter.regions.extract
    import uniter.regions.remote_store
    import uniter.regions.small
    import uniter.run  # noqa: F401

    torch.set_num_threads(1)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            run(json.loads(line))
            os._exit(1)
        print(json.dumps({"pid": pid}), flush=True)
        _, said = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(said)}), flush=True)
    os._exit(0)  # nothing to tidy up


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(json.loads(sys.argv[1]))
    else:
        serve()
