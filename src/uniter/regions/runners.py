"""Who does the shards of an extraction: this process, processes that it starts, ranks of a cluster's job, or Ray.

All of them call `Labour.process(shard)`, and a store comes out the same to the byte whoever made it.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from uniter.regions.detectors import Detector, load_detector
from uniter.regions.pictures_source import needed
from uniter.regions.shard_work import Work, process


@dataclass(frozen=True)
class How:
    """How shards are done; can be sent to another process.

    Args:
        out: the store's folder, absolute.
        detector: what finds the regions, or its name or folder.
        batch: pictures handed to it at a time.
        threads: that decode; by default 1, or 8 beside a GPU.
    """

    out: Path
    detector: Detector | str | os.PathLike
    batch: int
    threads: int | None

    def load(self, worker: int = 0) -> Detector:
        """The detector; of several GPUs each worker gets its own."""
        if not isinstance(self.detector, str | os.PathLike):
            return self.detector
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return load_detector(self.detector, f"cuda:{worker % gpus}" if gpus else None)


class Labour:
    """A detector at work.

    Args:
        how: how shards are done.
        worker: its number on this machine.
        detector: loaded already. Or None.
    """

    def __init__(self, how: How, worker: int = 0, detector: Detector | None = None) -> None:
        self.work = Work(how.out)
        self.how = how
        self.detector = detector or how.load(worker)
        if self.detector.fingerprint != self.work.plan["detector"]:
            raise ValueError(
                f"the detector is {self.detector.fingerprint!r} in this process and was {self.work.plan['detector']!r} "
                "when the work was begun: give all processes the same kind of device"
            )
        on_gpu = str(getattr(self.detector, "device", "cpu")).startswith("cuda")
        self.threads = how.threads or (8 if on_gpu else 1)

    def process(self, shard: int, step: Callable[[int], object] = lambda count: None) -> int:
        """Do a shard if it is not done; gives its number.

        With one thread of torch's, since the last bits of a sum depend on how many share it: cores are for workers.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            process(self.work, shard, self.detector, self.how.batch, self.threads, step)
        finally:
            torch.set_num_threads(before)
        return shard


def progress_bar(work: Work, shards: list[int], shown: bool) -> tqdm:
    """Pictures a second and the time to go, of these shards and those done before."""
    mine = sum(map(work.images_of, shards))
    waits = 0.1 if sys.stderr.isatty() else 30  # a log gets a line now and then
    total = work.images if len(shards) == len(work.left()) else mine
    return tqdm(total=total, initial=total - mine, unit="picture", disable=not shown, mininterval=waits, smoothing=0.05)


def run_here(work: Work, shards: list[int], how: How, detector: Detector | None, shown: bool, merge: bool) -> None:
    """Do shards in this process."""
    labour = Labour(how, local_rank(os.environ), detector)
    with progress_bar(work, shards, shown) as bar:
        for shard in shards:
            labour.process(shard, bar.update)
            if merge:
                work.merge()


# ---------------------------------------------------------------- processes that it starts


def run_pool(work: Work, shards: list[int], how: How, workers: int, shown: bool, merge: bool) -> None:
    """Do shards in processes on this machine, each with a detector of its own.

    Raises:
        ValueError: a process was killed; what it was at is done again by the next run.
    """
    workers = max(1, min(workers, len(shards)))
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch may hang
    taken, pictures, errors = context.Value("q", 0), context.Value("q", 0), context.SimpleQueue()
    first = local_rank(os.environ) * workers  # ranks of one machine that have workers
    arguments = [(how, first + number, shards, taken, pictures, errors) for number in range(workers)]
    processes = [context.Process(target=_work_in_pool, args=given, daemon=True) for given in arguments]
    try:
        for one in processes:
            one.start()
        with progress_bar(work, shards, shown) as bar:
            begun, busy = bar.n, True
            while busy:
                for one in processes:
                    one.join(0.2 / len(processes))
                busy = any(one.is_alive() for one in processes)
                bar.update(begun + pictures.value - bar.n)
                if merge:
                    work.merge()
                if not errors.empty():
                    raise errors.get()
                for one in processes:
                    if one.exitcode:
                        raise ValueError(
                            f"a worker ended with exit code {one.exitcode} (-9: killed, perhaps for want of memory): "
                            "run again to go on, with fewer workers if memory was short"
                        )
    finally:
        for one in processes:
            if one.is_alive():
                one.terminate()


def _work_in_pool(how: How, number: int, shards: list[int], taken: Any, pictures: Any, errors: Any) -> None:
    """One process of the pool: takes the next shard until there is none."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def step(count: int) -> None:
        with pictures.get_lock():
            pictures.value += count

    try:
        labour = Labour(how, number)
        while True:
            with taken.get_lock():
                place = taken.value
                taken.value += 1
            if place >= len(shards):
                return
            labour.process(shards[place], step)
    except (ValueError, OSError, ImportError) as error:
        errors.put(error)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its children: they look after it themselves."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# ---------------------------------------------------------------- ranks of torchrun or SLURM


def rank_from(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Rank and number of ranks, as torchrun or `srun` say them; None if this process is alone."""
    for rank, ranks in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if environment.get(rank, "").isdigit() and environment.get(ranks, "").isdigit():
            found = int(environment[rank]), int(environment[ranks])
            if found[0] >= found[1]:
                raise ValueError(f"{rank} is {found[0]}, but {ranks} is {found[1]}: ranks begin at 0")
            return found if found[1] > 1 else None
    return None


def local_rank(environment: Mapping[str, str]) -> int:
    """The number that a process has on its machine."""
    said = environment.get("LOCAL_RANK") or environment.get("SLURM_LOCALID") or "0"
    return int(said) if said.isdigit() else 0


# ---------------------------------------------------------------- Ray


def run_ray(work: Work, shards: list[int], how: How, workers: int | None, shown: bool, merge: bool) -> None:
    """Do shards in Ray actors, with a GPU each where the cluster has some; an actor that dies is started again.

    Args:
        work: the work; its folder and the pictures have to be where all machines see them.
        shards: to be done.
        how: how.
        workers: actors; by default one a GPU, or else one a core.
        shown: show a progress bar.
        merge: put into the index what is done as it comes.

    Raises:
        ValueError: Ray is not installed.
    """
    ray = needed("ray", "ray")
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="warning")
    try:
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        kind = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=3, max_task_retries=3)(Labour)
        actors = [kind.remote(how) for _ in range(min(workers or gpus or int(there["CPU"]), len(shards)))]
        remaining = iter(shards)
        with progress_bar(work, shards, shown) as bar:
            busy = {actor.process.remote(shard): actor for actor, shard in zip(actors, remaining)}
            while busy:
                (done,), _ = ray.wait(list(busy), num_returns=1)
                actor = busy.pop(done)
                try:
                    bar.update(work.images_of(ray.get(done)))
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None  # as it was raised over there
                if (shard := next(remaining, None)) is not None:
                    busy[actor.process.remote(shard)] = actor
                if merge:
                    work.merge()
        for actor in actors:
            ray.kill(actor)
    finally:
        if started:
            ray.shutdown()
