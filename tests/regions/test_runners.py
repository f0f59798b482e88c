"""Processes, ranks and Ray make the store that one process makes, to the byte, and a kill costs one shard at most."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from working import Broken, Dying, KilledOnce, Plain, Spoilt

from uniter import draws
from uniter.regions import extract as front
from uniter.regions.extract import extract, finish
from uniter.regions.runners import local_rank, rank_from
from uniter.regions.store import PLAN, UNFINISHED, Store


def draw(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (8 + number % 4, 9), (number, 0, 0)).save(folder / f"{number:03d}.png")
    (folder / "text.png").write_text("no picture")
    return folder


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


@pytest.fixture
def folder(tmp_path):
    return draw(tmp_path / "in", 22)


@pytest.fixture
def whole(folder, tmp_path):
    """What one process makes, in shards of three; two pictures in four fail."""
    extract(folder, tmp_path / "whole", Spoilt(), progress=False, shard_images=3)
    found = contents(tmp_path / "whole")
    assert {"index.json", "failures.jsonl", "shard-00007.safetensors"} <= set(found)
    return found


def test_processes(folder, whole, tmp_path):
    report = extract(folder, tmp_path / "out", Spoilt(), progress=False, shard_images=3, workers=2)
    assert contents(tmp_path / "out") == whole
    assert report.images == report.added == len(Store(tmp_path / "out")) and len(report.failures) == 23 - report.images


def test_what_goes_wrong_in_a_process_is_said_as_it_is(folder, tmp_path):
    with pytest.raises(ImportError, match="does not fit"):
        extract(folder, tmp_path / "out", Broken(), progress=False, shard_images=3, workers=2)


def test_threads_change_no_bit(tmp_path, world):
    """The shipped detector's sums come out otherwise in their last bits if several threads share them."""
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            extract(world.data / "images", tmp_path / str(threads), progress=False)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_ranks(order, folder, whole, tmp_path):
    out = tmp_path / "out"
    reports = [extract(folder, out, Spoilt(), progress=False, shard_images=3, rank=(rank, 3)) for rank in order]
    assert contents(out) == whole
    assert [report.left for report in reports][-1] == 0 and all(report.left for report in reports[:-1])
    assert sum(report.added for report in reports) == reports[-1].images == len(Store(out))
    assert "left to other ranks" in str(reports[0])
    again = extract(folder, out, Spoilt(), progress=False, shard_images=3, rank=(1, 3))  # started once too often
    assert again.added == 0 and len(again.failures) == len(reports[-1].failures)
    assert {name: data for name, data in contents(out).items() if name != ".lock"} == whole


def test_more_ranks_than_shards_and_ranks_that_ask_for_something_else(folder, tmp_path):
    out = tmp_path / "out"
    assert extract(folder, out, Plain(), progress=False, shard_images=20, rank=(5, 9)).added == 0
    with pytest.raises(ValueError, match="another shard_images"):
        extract(folder, out, Plain(), progress=False, shard_images=21, rank=(0, 9))
    for rank in (0, 1):
        extract(folder, out, Plain(), progress=False, shard_images=20, rank=(rank, 9))
    assert len(Store(out)) == 22


def test_the_last_step_alone(folder, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no extraction goes on"):
        finish(out)
    extract(folder, out, Spoilt(), progress=False, shard_images=3, rank=(0, 2))
    with pytest.raises(ValueError, match=r"4 of the 8 shards in .* are not done"):
        finish(out)
    with monkeypatch.context() as patched:  # killed before the last step

        def killed(self):
            raise KeyboardInterrupt

        patched.setattr(front.Work, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            extract(folder, out, Spoilt(), progress=False, shard_images=3, rank=(1, 2))
    assert not (out / "index.json").exists()
    report = finish(out)
    assert contents(out) == whole and report.added == report.images
    assert finish(out).added == 0


def test_one_process_goes_on_with_what_ranks_left(folder, whole, tmp_path):
    out = tmp_path / "out"
    extract(folder, out, Spoilt(), progress=False, shard_images=3, rank=(1, 2))
    extract(folder, out, Spoilt(), progress=False, shard_images=3)
    assert contents(out) == whole


def test_two_that_finish_at_once(folder, whole, tmp_path, monkeypatch):
    """One is done between the other's look at the shards and its end."""
    out = tmp_path / "out"
    merge, times = front.Work.merge, []

    def merging(self, gaps=False):
        if not times:
            times.append(1)
            finish(out)
        merge(self, gaps)

    extract(folder, out, Spoilt(), progress=False, shard_images=3, rank=(0, 2))
    monkeypatch.setattr(front.Work, "merge", merging)
    report = extract(folder, out, Spoilt(), progress=False, shard_images=3, rank=(1, 2))
    assert times and contents(out) == whole and report.images == len(Store(out))


def test_ranks_that_begin_at_once(folder, whole, tmp_path):
    """For real, as torchrun would start them: without a process group."""
    out = tmp_path / "out"
    code = (
        "import os, sys; from working import Spoilt; from uniter.regions.extract import extract; "
        "from uniter.regions.runners import rank_from; "
        "extract(sys.argv[1], sys.argv[2], Spoilt(), progress=False, shard_images=3, rank=rank_from(os.environ))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(out)],
            env=os.environ | {"PYTHONPATH": path, "RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert contents(out) == whole


def test_ranks_are_read_from_the_environment():
    assert rank_from({}) is None and rank_from({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert rank_from({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}) == (3, 8)
    assert rank_from({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}) == (1, 2)
    with pytest.raises(ValueError, match="begin at 0"):
        rank_from({"RANK": "2", "WORLD_SIZE": "2"})
    assert (local_rank({}), local_rank({"LOCAL_RANK": "2"}), local_rank({"SLURM_LOCALID": "1"})) == (0, 2, 1)


# ---------------------------------------------------------------- kills


def begun(source: Path, out: Path, *options) -> subprocess.Popen:
    command = [sys.executable, "-m", "uniter", "extract", source, "--out", out, "--shard-images", "2", *options]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def done(out: Path) -> dict[str, int]:
    """The shards that are done, and when they were written."""
    notes = [path.stem for path in (out / UNFINISHED).glob("0*.json")]
    return {note: (out / f"shard-{note}.safetensors").stat().st_mtime_ns for note in notes}


def alive(process: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_and_started_again(workers, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(36):
        Image.new("RGB", (300, 200), (7 * number, 0, 0)).save(folder / f"{number}.png")
    out, options = tmp_path / "out", ["--workers", workers]
    kills = 2
    for kill in range(kills):
        before = done(out)
        process = begun(folder, out, *options)
        waited = time.monotonic()
        while len(done(out)) <= len(before) + 1 and process.poll() is None and time.monotonic() - waited < 120:
            time.sleep(0.01)
        time.sleep(0.05 * float(draws.uniform(workers, "kill", kill)))
        started = children(process.pid)
        assert process.poll() is None, "ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        waited = time.monotonic()
        while any(map(alive, started)):
            assert time.monotonic() - waited < 60, "a worker outlived the process that started it"
            time.sleep(0.05)
        after = done(out)
        assert len(after) > len(before) and before.items() <= after.items(), "a shard that was done was done again"
    assert (out / UNFINISHED / PLAN).exists() and len(done(out)) < 18
    process = begun(folder, out, *options)
    said = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 0 and "36 images" in said
    extract(folder, tmp_path / "whole", progress=False, shard_images=2)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_worker_that_is_killed_ends_the_run_with_a_word(folder, whole, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="killed, perhaps for want of memory"):
        extract(folder, out, Dying(), progress=False, shard_images=3, workers=2)
    extract(folder, out, Spoilt(), progress=False, shard_images=3)
    assert contents(out) == whole


# ---------------------------------------------------------------- Ray


@pytest.mark.slow
def test_ray(folder, whole, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for out, workers in ((tmp_path / "one", 1), (tmp_path / "two", 2)):
            extract(folder, out, Spoilt(), progress=False, shard_images=3, ray=True, workers=workers)
            assert contents(out) == whole
        with pytest.raises(ImportError, match="does not fit"):
            extract(folder, tmp_path / "none", Broken(), progress=False, shard_images=3, ray=True, workers=2)
        extract(folder, tmp_path / "killed", KilledOnce(tmp_path / "mark"), progress=False, shard_images=3, ray=True)
        assert (tmp_path / "mark").exists() and contents(tmp_path / "killed") == whole
    finally:
        ray.shutdown()
