"""The loop that trains everything. It knows neither words nor pictures: it is handed a `Job`."""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import draws
from ..recipe import Training
from .folder import RunFolder
from .incidents import stop
from .job import Job
from .optimizer import build_optimizer, learning_rate, set_learning_rate
from .order import MicroBatch, Stream, plan
from .saving import load_checkpoint, save_checkpoint, write_folder

PREPARED_AHEAD = 4  # micro-batches held ready

Prepared = tuple[MicroBatch, dict[str, Any]]


@dataclass
class Result:
    """What a run came to.

    Attributes:
        steps: updates done.
        best: the best value of the job's monitor; None if there was no validation.
        best_step: the update after which it was reached.
        folder: the run's folder; the best model is in its `best/`, the final one in its `last/`.
        history: one mapping per validation: step and the validation's numbers.
        finished: False if the run was interrupted; calling `train` again resumes it.
    """

    steps: int
    best: float | None
    best_step: int | None
    folder: Path
    history: list[dict[str, Any]]
    finished: bool = True

    @property
    def model(self) -> Path:
        """Folder of the model to use: the best one, or the final one where nothing was validated."""
        return self.folder / ("best" if self.best is not None else "last")


@dataclass
class Progress:
    """What a checkpoint holds besides tensors."""

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    since_best: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    job: Job,
    training: Training,
    out: str | Path,
    config: Mapping[str, Any] | str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Result:
    """Train a job to the end, from where its folder says it stands.

    Nothing random depends on what was done before, so a resumed run equals an uninterrupted one to the bit.
    The gradient of an update is the mean over its micro-batches (`accumulation: sum`: their sum, as published; with
    Adam only clipping and eps tell the difference), then clipped by its global norm. The first Ctrl-C or SIGTERM ends
    the run after the update in progress, with a checkpoint; the second one ends it at once.

    Args:
        job: what to train; its model is trained in place.
        training: how.
        out: folder of the run: new, empty, or holding the same run, which is resumed. A finished run is returned as it
            is, without touching `job.model`.
        config: settings of the whole run, written to config.yaml and compared on resuming; None: `training` alone.
        resume: False refuses a folder that holds a run.
        progress: whether to show a progress line.

    Raises:
        ValueError: the folder holds something else or a run with other settings; an example exceeds the token budget;
            the job's monitor is not among the numbers of its validation; another process trains in the folder.
        FloatingPointError: the loss or the gradient is not finite; `incident-...` in the folder keeps the step.
    """
    config = {"train": training.model_dump(mode="json")} if config is None else config
    with closing(RunFolder(out, config, resume)) as folder:
        if folder.result:
            return Result(**folder.result, folder=folder.path)
        return _train(job, training, folder, progress)


def _train(job: Job, training: Training, folder: RunFolder, progress: bool) -> Result:
    """Train in a folder that is ours."""
    folder.log_environment()
    device = _set_up(job.model, training)
    optimizer = build_optimizer(job.model, training)
    by_shards = training.order == "shards"
    streams = {
        name: Stream(name, job.lengths(name), training, job.shards(name) if by_shards else None)
        for name, weight in job.mixture.items()
        if weight
    }
    state = _resume(folder, job.model, optimizer)
    planned = plan(streams, job.mixture, training, state.step + 1)
    done = _is_done(state, training)
    with (
        _interruptible() as interrupted,
        _prepared(job, planned, device) as prepared,
        _line(state, training, progress) as line,
    ):
        job.model.train()
        while not done and not interrupted.is_set():
            began = time.perf_counter()
            numbers = _update(job, optimizer, training, folder, islice(prepared, training.accumulate), streams, device)
            state.step += 1
            folder.write_log({**numbers, "seconds": round(time.perf_counter() - began, 4)})
            line.show(numbers)
            if state.step % training.validate_every == 0 or state.step == training.steps:
                _validate(job, state, folder)
            done = _is_done(state, training)
            if done or interrupted.is_set() or state.step % training.save_every == 0:
                save_checkpoint(
                    folder.checkpoints, state.step, job.model, optimizer, {"progress": asdict(state)}, training.keep
                )
    result = {"steps": state.step, "best": state.best, "best_step": state.best_step, "history": state.history}
    if done:
        write_folder(folder.last, job.save)
        folder.plot()
        folder.finish(result)
    return Result(**result, folder=folder.path, finished=done)


def _update(
    job: Job,
    optimizer: torch.optim.Optimizer,
    training: Training,
    folder: RunFolder,
    batches: Iterable[Prepared],
    streams: Mapping[str, Stream],
    device: torch.device,
) -> dict[str, Any]:
    """One update: forward and backward over its micro-batches, clip, step. Returns the log's numbers."""
    optimizer.zero_grad(set_to_none=True)
    micros: list[MicroBatch] = []
    losses: list[Tensor] = []
    extras: list[Mapping[str, Any]] = []
    for micro, batch in batches:
        torch.manual_seed(draws.number(training.seed, "dropout", micro.update, micro.micro))
        with torch.autocast(device.type, torch.bfloat16, enabled=_rounds(training.precision, device)):
            loss, extra = job.loss(micro.stream, _to_device(batch, device))
        (loss if training.accumulation == "sum" else loss / training.accumulate).backward()
        micros.append(micro)
        losses.append(loss.detach().float())
        extras.append(extra)
    norm = _clip(optimizer, training.clip)
    *values, norm_value = torch.stack([*losses, norm.float()]).tolist()  # one wait for the device
    if not all(map(math.isfinite, [*values, norm_value])):
        stop(job, training, folder, micros, values, norm_value, lambda place: write_folder(place, job.save))
    update, stream = micros[0].update, micros[0].stream
    extra_means = _means(extras)  # read before the step is queued, while the device is idle anyway
    rate = learning_rate(update, training)
    set_learning_rate(optimizer, rate)
    optimizer.step()
    tokens = sum(int(streams[stream].lengths[micro.indices].sum()) for micro in micros)
    return {
        "step": update,
        "stream": stream,
        "loss": sum(values) / len(values),
        "lr": rate,
        "grad_norm": norm_value,
        "tokens": tokens,
        "examples": sum(len(micro.indices) for micro in micros),
        "fill": round(tokens / (training.tokens * len(micros)), 4),
        **extra_means,
    }


def _validate(job: Job, state: Progress, folder: RunFolder) -> None:
    """Validate, keep the model if it is the best so far, draw the plots."""
    job.model.eval()
    with torch.no_grad():
        numbers = {name: float(value) for name, value in job.validate().items()}
    job.model.train()
    if not numbers:
        return
    if job.monitor not in numbers:
        raise ValueError(f"the job monitors {job.monitor!r}, and its validation gives {', '.join(numbers)}")
    state.history.append({"step": state.step, **numbers})
    state.since_best += 1
    value = numbers[job.monitor]
    if math.isfinite(value) and (state.best is None or value > state.best):
        write_folder(folder.best, job.save)
        state.best, state.best_step, state.since_best = value, state.step, 0
    folder.write_log({"step": state.step, "validation": numbers})
    folder.plot()


def _is_done(state: Progress, training: Training) -> bool:
    out_of_patience = training.patience is not None and state.since_best >= training.patience
    return state.step >= training.steps or out_of_patience


def _resume(folder: RunFolder, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Where the run stands, with model and optimiser as they were then, and the log cut to it."""
    saved = load_checkpoint(folder.checkpoints, model, optimizer)
    state = Progress(**saved["progress"]) if saved else Progress()
    folder.cut_log(state.step)
    return state


def _set_up(model: nn.Module, training: Training) -> torch.device:
    """Threads, dropout rates and the device; returns the device."""
    if training.threads:
        torch.set_num_threads(training.threads)
    if training.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = training.dropout
    has_cuda = torch.cuda.is_available()
    if training.device == "cuda" and not has_cuda:
        raise ValueError("train.device is cuda and PyTorch finds none here; say auto or cpu")
    device = torch.device("cuda" if has_cuda and training.device != "cpu" else "cpu")
    model.to(device)
    return device


def _rounds(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; on a CPU without tiles for it, bfloat16 is slower than float32."""
    if precision == "auto":
        return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
    return precision == "bfloat16"


def _clip(optimizer: torch.optim.Optimizer, clip: float | None) -> Tensor:
    """Clip the gradients by their global norm; returns the norm before."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if clip is None:
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return torch.nn.utils.clip_grad_norm_(parameters, clip)


def _means(extras: list[Mapping[str, Any]]) -> dict[str, float]:
    """The job's own numbers, the mean over the micro-batches that gave them."""
    sums: dict[str, list[float]] = {}
    for extra in extras:
        for name, value in extra.items():
            sums.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in sums.items()}


# Preparing batches ahead ------------------------------------------------------------------------------


@contextmanager
def _prepared(job: Job, planned: Iterable[MicroBatch], device: torch.device) -> Iterator[Iterator[Prepared]]:
    """The planned micro-batches with their tensors, which one thread makes ahead of their use."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")

    def prepare(micro: MicroBatch) -> dict[str, Any]:
        batch = job.prepare(micro.stream, micro.indices, micro.epoch)
        return _pinned(batch) if device.type == "cuda" else batch

    def ready() -> Iterator[Prepared]:
        waiting: deque[tuple[MicroBatch, Future]] = deque()
        for micro in planned:
            waiting.append((micro, pool.submit(prepare, micro)))
            if len(waiting) > PREPARED_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()

    try:
        yield ready()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pinned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {key: _pinned(inner) for key, inner in value.items()}
    return [_pinned(inner) for inner in value] if isinstance(value, list | tuple) else value


def _to_device(value: Any, device: torch.device) -> Any:
    """Tensors in mappings and lists moved to the device; from pinned memory without waiting."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _to_device(inner, device) for key, inner in value.items()}
    return [_to_device(inner, device) for inner in value] if isinstance(value, list | tuple) else value


# Interrupts and the progress line ---------------------------------------------------------------------


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; the second of them acts as it did before."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may listen
        yield event
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def hear(number: int, frame: Any) -> None:
        event.set()
        for listened in signals:
            signal.signal(listened, before[listened])

    for number in signals:
        signal.signal(number, hear)
    try:
        yield event
    finally:
        for number in signals:
            signal.signal(number, before[number])


class _ProgressLine:
    def __init__(self, bar: tqdm) -> None:
        self.bar, self.loss, self.examples, self.began = bar, None, 0, time.perf_counter()

    def show(self, numbers: Mapping[str, Any]) -> None:
        loss = numbers["loss"]
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        self.examples += numbers["examples"]
        rate = self.examples / max(1e-9, time.perf_counter() - self.began)
        self.bar.set_postfix_str(f"loss {self.loss:.4g}, {rate:.0f} examples/s", refresh=False)
        self.bar.update()


@contextmanager
def _line(state: Progress, training: Training, progress: bool) -> Iterator[_ProgressLine]:
    bar = tqdm(total=training.steps, initial=state.step, desc="train", unit="update", disable=not progress)
    with bar:
        yield _ProgressLine(bar)
