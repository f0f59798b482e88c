"""Faults by kind, each done to a run or an extraction that is started again afterwards, until it ends."""

import hashlib
import json
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    Outcome,
    Victims,
    checkpoints,
    digest,
    final,
    kept,
    log,
    newest,
    steps,
)
from PIL import Image
from safetensors.numpy import load_file, save
from tiny import make_data, recipe_text

from uniter import draws

TORN = "newest checkpoint truncated"
STEPS, SAVE_EVERY, IMAGES = 40, 4, 40
SHARD_IMAGES, PICTURES = 3, 15


@dataclass
class Fault:
    """One fault and what became of it.

    Args:
        kind: which.
        hit: whether it struck; the run may have ended before.
        lost: updates that were done again because of it; None until the run went on.
        note: what was seen.
    """

    kind: str
    hit: bool
    lost: int | None = None
    note: str = ""


class Trial:
    """A run that streams from a store behind a URL into a cache of a tenth of it, and is hit again and again.

    Args:
        victims: who launch it.
        data: the data, which are copied.
        folder: a new one, for all of it.
        seed: of where faults strike.
    """

    def __init__(self, victims: Victims, data: Path, folder: Path, seed: int) -> None:
        self.victims, self.data, self.folder, self.seed = victims, data, folder, seed
        shutil.copytree(data, folder / "data")
        self.store, self.run, self.recipe = folder / "data" / "store", folder / "run", folder / "recipe.yaml"
        text = recipe_text(f"faulty://{folder}/data/captions.json", f"faulty://{self.store}", STEPS)
        self.recipe.write_text(text.replace("train: {", "train: {shard_window: 1, "), encoding="utf-8")
        size = sum(file.stat().st_size for file in self.store.glob("shard-*"))
        self.environment = {
            "UNITER_CACHE": str(folder / "cache"),
            "UNITER_CACHE_SIZE": str(size // 10),
            "UNITER_WAIT": "0.002",
        }
        self.faults: list[Fault] = []
        self.before: list[str] = []  # the log as the last launch left it
        self.newest = 0  # update of the newest checkpoint then
        self.told = ""  # what the next launch has to say
        self.cut: dict[Path, int] = {}  # files of checkpoints that were truncated, and to how many bytes

    def draw(self, purpose: str, low: int, high: int) -> int:
        """An integer of low..high."""
        return low + int(draws.integers(self.seed, purpose, high - low + 1, len(self.faults)))

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to do."""
        return (self.run / "result.json").exists()

    def launch(self, plan: dict[str, Any] | None = None, tries: int = 20, kill_after: float | None = None) -> Outcome:
        """Run or resume it; what the fault before this launch cost is noted."""
        environment = {**self.environment, "UNITER_TRIES": str(tries)}
        arguments = ("pretrain", self.recipe, "--out", self.run, "--quiet")
        outcome = self.victims.run(*arguments, plan=plan, environment=environment, kill_after=kill_after)
        now = log(self.run)
        if outcome.killed and now == self.before:
            return outcome  # before it could go on: what was lost is still to be seen
        self._account(kept(self.before, now))
        self.before, self.newest = now, newest(self.run, self._torn_places())
        assert self.told in outcome.output, f"{self.told!r} was not said: {outcome.output}"
        self.told = ""
        return outcome

    def _torn_places(self) -> set[Path]:
        """The checkpoints that are truncated; one that was written again is whole."""
        return {file.parent for file, size in self.cut.items() if file.exists() and file.stat().st_size == size}

    def _account(self, resumed: int) -> None:
        """Note what faults cost, now that the run has gone on after this update."""
        reached, torn = steps(self.before), False
        for fault in [fault for fault in self.faults if fault.lost is None]:
            torn = torn or fault.kind == TORN
            assert self.told or resumed >= self.newest, f"{fault}: more is lost than since the last checkpoint"
            came_to = self.newest if self.told and not torn else resumed  # what a tear costs is not the kill's fault
            fault.lost = reached - came_to
            reached = came_to

    def strike(self, kind: str) -> Fault:
        """Let a fault of this kind strike."""
        fault = getattr(self, f"_{kind}")()
        self.faults.append(fault)
        return fault

    def finish(self) -> str:
        """Let it end; gives the digest of its weights."""
        if not self.ended:
            outcome = self.launch()
            assert outcome.status == 0, outcome
        assert not self.told, f"{self.told!r} was never said"
        for fault in self.faults:
            fault.lost = fault.lost or 0
        return final(self.run)

    # ------------------------------------------------------------ kinds

    def _killed(self, kind: str, plan: dict[str, Any] | None = None, kill_after: float | None = None) -> Fault:
        outcome = self.launch(plan, kill_after=kill_after)
        assert outcome.killed or outcome.status == 0, outcome
        return Fault(kind, outcome.killed, None if outcome.killed else 0)

    def _step(self) -> Fault:
        return self._killed("killed in a step", {"die_at_loss": self.draw("step", 2, 12)})

    def _anywhere(self) -> Fault:
        return self._killed("killed at any time", kill_after=0.05 + 0.02 * self.draw("time", 0, 70))

    def _checkpoint(self) -> Fault:
        plan = {"die_at_file": [str(self.run / "checkpoints"), self.draw("checkpoint", 2, 25)]}
        return self._killed("killed in a checkpoint", plan)

    def _download(self) -> Fault:
        plan = {"store": {"die_at": self.draw("download", 2, 14)}}
        return self._killed("killed in a shard's download", plan)

    def _stopped(self, kind: str, plan: dict[str, Any], say: str, tries: int = 20) -> Fault:
        """It ends by itself, and says why."""
        outcome = self.launch(plan, tries)
        if outcome.status == 0:
            return Fault(kind, False, 0)
        assert outcome.status == 2 and say in outcome.output and "Traceback" not in outcome.output, outcome
        return Fault(kind, True, note=outcome.output.strip()[-300:])

    def _full_disk(self) -> Fault:
        plan = {"full_at_file": [str(self.run / "checkpoints"), self.draw("full", 2, 16)]}
        return self._stopped("disk full in a checkpoint", plan, "space")

    def _full_cache(self) -> Fault:
        plan = {"full_at_file": [str(self.folder / "cache" / "remote"), self.draw("full cache", 2, 40)]}
        return self._stopped("disk full in a download", plan, "space")

    def _large_file(self) -> Fault:
        assert self.run  # only where files can be kept from growing
        return self._stopped("a write of a checkpoint fails", {"largest_file": 20_000}, "checkpoints")

    def _torn(self) -> Fault:
        while len(set(checkpoints(self.run)) - self._torn_places()) < 2:
            if not self.launch({"die_at_loss": 2 * SAVE_EVERY + 2}).killed:
                return Fault(TORN, False, 0)
        place = max(set(checkpoints(self.run)) - self._torn_places())
        files = sorted(file for file in place.iterdir() if file.is_file())
        file = files[self.draw("torn", 0, len(files) - 1)]
        data = file.read_bytes()
        self.cut[file] = self.draw("cut", 0, len(data) - 1)
        file.write_bytes(data[: self.cut[file]])
        self.told = place.name
        return Fault(TORN, True)

    def _with_data(self, change: Callable[[Path, int], None], does: Callable[[], Fault]) -> Fault:
        """With some of the shards changed, which are put back afterwards."""
        for number, shard in enumerate(sorted(self.store.glob("shard-*"))):
            if draws.uniform(self.seed, "spoilt", len(self.faults), number) < 0.6:
                change(shard, number)
        try:
            return does()
        finally:
            shutil.rmtree(self.store)
            shutil.copytree(self.data / "store", self.store)

    def _poisoned(self) -> Fault:
        def flip(shard: Path, number: int) -> None:
            data = bytearray(shard.read_bytes())
            data[-1 - int(draws.integers(self.seed, "flip", len(data) // 2, number))] ^= 1
            shard.write_bytes(data)

        return self._with_data(flip, lambda: self._stopped("poisoned shard", {}, "is damaged (", tries=2))

    def _nan(self) -> Fault:
        def spoil(shard: Path, number: int) -> None:
            tensors = load_file(shard)
            tensors["features"][2, 3] = np.nan
            data = save(tensors)
            shard.write_bytes(data)
            index = json.loads((self.store / "index.json").read_text())
            index["shards"][number]["sha256"] = hashlib.sha256(data).hexdigest()
            (self.store / "index.json").write_text(json.dumps(index))

        def does() -> Fault:
            fault = self._stopped("NaN features", {}, "uniter replay")
            return self._replayed(fault, "batch: regions: ")

        return self._with_data(spoil, does)

    def _infinite(self) -> Fault:
        fault = self._stopped("infinite loss", {"infinite_loss": self.draw("infinite", 2, 12)}, "uniter replay")
        return self._replayed(fault, "everything is finite this time")

    def _replayed(self, fault: Fault, say: str) -> Fault:
        if fault.hit:
            place = max(self.run.glob("incident-*"), key=lambda place: place.stat().st_mtime_ns)
            outcome = self.victims.run("replay", place, environment=self.environment)
            assert outcome.status == 0 and say in outcome.output, outcome
        return fault

    def _failing(self) -> Fault:
        """The run ends under it."""
        plan = {"store": {"seed": self.seed, "fails": 0.25, "flips": 0.1, "slow": 0.002}}
        outcome = self.launch(plan)
        assert outcome.status == 0, outcome
        return Fault("slow and failing store", "the store failed" in outcome.output, 0, outcome.output.strip()[-300:])


KINDS = ["step", "anywhere", "checkpoint", "download", "full_disk", "full_cache", "large_file", "torn"]
KINDS += ["poisoned", "nan", "infinite"]
if sys.platform == "win32":
    KINDS.remove("large_file")


class Extraction:
    """An extraction that is hit again and again.

    Args:
        victims: who launch it.
        pictures: folder of pictures.
        folder: a new one.
        seed: of where faults strike.
    """

    def __init__(self, victims: Victims, pictures: Path, folder: Path, seed: int) -> None:
        self.victims, self.pictures, self.folder, self.seed = victims, pictures, folder, seed
        self.store = folder / "regions"
        self.faults: list[Fault] = []

    def launch(self, *more: object, **how: Any) -> Outcome:
        """Do it, or go on."""
        done = {
            file: file.stat().st_mtime_ns
            for file in self.store.glob("shard-*")
            if (self.store / ".extraction" / f"{file.name[6:11]}.json").exists()
        }
        arguments = ("extract", self.pictures, "--out", self.store, "--shard-images", SHARD_IMAGES, "--quiet", *more)
        outcome = self.victims.run(*arguments, **how)
        if self.faults and self.faults[-1].lost is None:
            again = sum(not file.exists() or file.stat().st_mtime_ns != time for file, time in done.items())
            self.faults[-1].lost = again * SHARD_IMAGES
        return outcome

    def strike(self, kind: str) -> Fault:
        """Let a fault of this kind strike."""
        place = draws.integers(self.seed, kind, 30, len(self.faults))
        if kind == "file":
            outcome = self.launch(plan={"die_at_file": [str(self.store), 1 + int(place)]})
            fault = Fault("killed in an extraction", outcome.killed)
        elif kind == "anywhere":
            outcome = self.launch(kill_after=0.1 + 0.02 * float(place))
            fault = Fault("killed in an extraction", outcome.killed)
        elif kind == "worker":
            outcome = self.launch("--workers", 2, kill_worker_after=0.3 * float(place))
            assert outcome.status == 0 or "a worker ended with exit code -9" in outcome.output, outcome
            fault = Fault("worker of an extraction killed", outcome.status == 2)
        else:
            outcome = self.launch(plan={"full_at_file": [str(self.store), 2 + int(place)]})
            assert outcome.status == 0 or (outcome.status == 2 and "space" in outcome.output), outcome
            fault = Fault("disk full in an extraction", outcome.status == 2)
        fault.lost = None if fault.hit else 0
        self.faults.append(fault)
        return fault

    def finish(self) -> str:
        """Let it end; gives the digest of the store."""
        outcome = self.launch()
        assert outcome.status == 0, outcome
        left = [path.name for path in self.store.iterdir() if path.name.startswith(".")]
        assert not left, f"left behind: {left}"
        return digest(self.store)


def draw_pictures(folder: Path) -> Path:
    """A few small pictures."""
    folder.mkdir()
    for number in range(PICTURES):
        picture = Image.new("RGB", (64, 48), (9 * number, 200 - 9 * number, 120))
        picture.paste((250, 30, 30), (5 + number, 5, 25 + number, 25))
        picture.save(folder / f"{number:03d}.png")
    return folder


def tiny_data(folder: Path) -> Path:
    """The data of a trial."""
    return make_data(folder, IMAGES)


class Ranks:
    """A run of two processes, of which one is killed again and again; both are started again, as torchrun does it.

    Args:
        victims: who launch a process each.
        data: the data.
        folder: a new one.
        seed: of where faults strike.
    """

    def __init__(self, victims: Sequence[Victims], data: Path, folder: Path, seed: int) -> None:
        self.victims, self.folder, self.seed, self.run = victims, folder, seed, folder / "run"
        self.recipe = folder / "recipe.yaml"
        text = recipe_text(f"faulty://{data}/captions.json", f"faulty://{data}/store", STEPS)
        text = text.replace("train: {", "train: {shard_window: 1, accumulate: 2, ")
        self.recipe.write_text(text, encoding="utf-8")
        self.faults: list[Fault] = []

    def launch(self, plan: dict[str, Any] | None = None, of: int = 0) -> list[Outcome]:
        """Run it, with a plan for one of the two; when one has died the other is ended."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        before, least = log(self.run), newest(self.run)

        def one(rank: int) -> Outcome:
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "UNITER_CACHE": str(self.folder / "cache"),
                "UNITER_WAIT": "0.002",
            }
            arguments = ("pretrain", self.recipe, "--out", self.run, "--quiet")
            return self.victims[rank].run(*arguments, plan=plan if rank == of else {}, environment=environment)

        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(one, rank) for rank in (0, 1)]
            wait(running, return_when=FIRST_COMPLETED)
            wait(running, timeout=10)
            for victim, future in zip(self.victims, running, strict=True):
                if not future.done():
                    victim.kill()
        if self.faults and self.faults[-1].lost is None:
            resumed = kept(before, log(self.run))
            assert resumed >= least, "more is lost than since the last checkpoint"
            self.faults[-1].lost = steps(before) - resumed
        return [future.result() for future in running]

    def strike(self) -> Fault:
        """Kill one of the two in the middle of an update."""
        number = len(self.faults)
        plan = {"die_at_loss": 4 + int(draws.integers(self.seed, "rank", 10, number))}
        outcomes = self.launch(plan, of=number % 2)
        hit = outcomes[number % 2].killed
        self.faults.append(Fault("one of two processes of a run killed", hit, None if hit else 0))
        return self.faults[-1]

    def finish(self) -> str:
        """Let it end; gives the digest of its weights."""
        outcomes = self.launch()
        assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
        return final(self.run)
