"""The loop that trains everything. It knows neither words nor pictures: it is handed a `Job`."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
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
from .ahead import ahead, to_device
from .average import Average
from .engine import Engine, Piece, Ranks, forgetting, full, joined_ranks, rounds
from .folder import RunFolder
from .incidents import stop
from .job import Job
from .memory import parts_that_fit
from .optimizer import build_optimizer, learning_rate, set_learning_rate
from .order import Stream, plan
from .saving import Checkpoints, training_tensors, write_folder

PREPARED_AHEAD = 4  # micro-batches held ready

Prepared = tuple[Piece, dict[str, Any]]


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
    max_memory: int | None = None,
) -> Result:
    """Train a job to the end, from where its folder says it stands.

    Nothing random depends on what was done before, so a resumed run equals an uninterrupted one to the bit.
    The gradient of an update is the mean over its micro-batches (`accumulation: sum`: their sum, as published; with
    Adam only clipping and eps tell the difference), then clipped by its global norm. The first Ctrl-C or SIGTERM ends
    the run after the update in progress, with a checkpoint; the second one ends it at once. Under torchrun the
    processes share each update (`uniter.training.engine`), and the first of them alone writes the folder.

    Args:
        job: what to train; its model is trained in place.
        training: how.
        out: folder of the run: new, empty, or holding the same run, which is resumed. A finished run is returned as it
            is, without touching `job.model`.
        config: settings of the whole run, written to config.yaml and compared on resuming; None: `training` alone.
        resume: False refuses a folder that holds a run.
        progress: whether to show a progress line.
        max_memory: bytes; micro-batches are cut into parts so that training takes about so many at most
            (`uniter.training.memory`). The result is the same but for the order of sums, and for what dropout draws.

    Raises:
        ValueError: the folder holds something else or a run with other settings; an example exceeds the token budget;
            the job's monitor is not among the numbers of its validation; another process trains in the folder.
        FloatingPointError: the loss or the gradient is not finite; `incident-...` in the folder keeps the step.
    """
    config = {"train": training.model_dump(mode="json")} if config is None else config
    with joined_ranks(training) as ranks:
        opened = ranks.first(lambda: RunFolder(out, config, resume))
        with closing(opened or RunFolder.elsewhere(out)) as folder:
            if result := ranks.told(folder.result):
                return Result(**result, folder=folder.path)
            try:
                return _train(job, training, folder, ranks, progress and ranks.is_first, max_memory)
            except Exception as error:
                folder.write_failure(error)
                raise


def _train(
    job: Job, training: Training, folder: RunFolder, ranks: Ranks, progress: bool, max_memory: int | None
) -> Result:
    """Train in a folder that is ours."""
    folder.log_environment()
    device = _set_up(job.model, training, ranks)
    by_shards = training.order == "shards"
    streams = {
        name: Stream(name, job.lengths(name), training, job.shards(name) if by_shards else None)
        for name, weight in job.mixture.items()
        if weight
    }
    parts = _parts(job, training, streams, ranks, device, max_memory)
    engine = Engine(job, training, ranks, device, parts)
    optimizer = build_optimizer(job.model, training)
    average = Average(job.model, training.ema)
    state = Progress()
    with closing(Checkpoints(folder.checkpoints, ranks, training.keep, lambda: state.best_step)) as checkpoints:
        tensors = {**training_tensors(job.model, optimizer), **average.tensors()}
        if saved := checkpoints.load(tensors):
            state = Progress(**saved["progress"])
        folder.cut_log(state.step)
        if training.tensorboard:
            folder.show_on_board(state.step)
        planned = engine.divide(plan(streams, job.mixture, training, state.step + 1))
        prepare = lambda piece: job.prepare(piece.stream, piece.indices, piece.epoch)
        done = stopping = _is_done(state, training)
        with (
            _interruptible() as interrupted,
            ahead(planned, prepare, device, PREPARED_AHEAD) as prepared,
            _line(state, training, progress) as line,
            forgetting(job.model, training.activation_checkpointing),
        ):
            job.model.train()
            while not stopping:
                began = time.perf_counter()
                numbers, stopping = _update(job, engine, optimizer, training, folder, prepared, streams, interrupted)
                state.step += 1
                average.update(state.step)
                folder.write_log({**numbers, "seconds": round(time.perf_counter() - began, 4)})
                line.show(numbers)
                folder.refresh()
                if state.step % training.validate_every == 0 or state.step == training.steps:
                    with average.used():
                        _validate(job, engine, state, folder)
                done = _is_done(state, training)
                stopping = stopping or done or (ranks.alone and interrupted.is_set())
                if stopping or state.step % training.save_every == 0:
                    checkpoints.save(state.step, tensors, {"progress": asdict(state)})
    result = {"steps": state.step, "best": state.best, "best_step": state.best_step, "history": state.history}
    if done:
        with average.used():
            _save(job, engine, folder.last)
        folder.plot()
        folder.finish(result)
    ranks.wait()
    return Result(**result, folder=folder.path, finished=done)


def _parts(
    job: Job,
    training: Training,
    streams: Mapping[str, Stream],
    ranks: Ranks,
    device: torch.device,
    max_memory: int | None,
) -> int:
    """Into how many parts micro-batches are cut for want of memory; the same in all processes."""
    if max_memory is None:
        return 1
    lengths = {name: stream.lengths for name, stream in streams.items()}
    move = lambda batch: to_device(batch, device)
    return ranks.told(parts_that_fit(job, training, lengths, device, move, max_memory, ranks.world))


def _update(
    job: Job,
    engine: Engine,
    optimizer: torch.optim.Optimizer,
    training: Training,
    folder: RunFolder,
    prepared: Iterator[Prepared],
    streams: Mapping[str, Stream],
    interrupted: threading.Event,
) -> tuple[dict[str, Any], bool]:
    """One update: forward and backward over this process's pieces of it, clip, step.

    Returns the log's numbers, which are those of the whole update, and whether a process was interrupted.
    """
    optimizer.zero_grad(set_to_none=True)
    device, micros = engine.device, ()
    losses = torch.zeros(training.accumulate, dtype=torch.float64, device=device)
    extras: dict[str, Tensor] = {}
    for number, (piece, batch, share) in enumerate(engine.shares(islice(prepared, engine.passes)), start=1):
        part = (piece.part,) if piece.parts > 1 else ()
        torch.manual_seed(draws.number(training.seed, "dropout", piece.update, piece.micro, *part))
        with engine.passing(last=number == engine.passes):
            with torch.autocast(device.type, torch.bfloat16, enabled=rounds(training.precision, device)):
                loss, extra = engine.loss(piece.stream, batch)
            loss = loss * share
            weight = engine.ranks.world  # over which the engines take the mean
            ((loss if training.accumulation == "sum" else loss / training.accumulate) * weight).backward()
        losses[piece.micro] += loss.detach()
        for name, value in extra.items():
            value = torch.as_tensor(value, dtype=torch.float64, device=device).detach()
            extras[name] = extras.get(name, 0.0) + value * share
        micros = piece.micros
    norm = full(_clip(optimizer, training.clip)).double()
    flag = torch.tensor(float(interrupted.is_set()), dtype=torch.float64, device=device)
    told = engine.summed(torch.stack([*losses, *(extras[name] for name in sorted(extras)), flag]))
    *told, norm_value = torch.cat([told, norm[None]]).tolist()  # one wait for the device
    values = told[: len(micros)]
    if not all(map(math.isfinite, [*values, norm_value])):
        stop(job, training, folder, micros, values, norm_value, lambda place: _save(job, engine, place))
    update, stream = micros[0].update, micros[0].stream
    rate = learning_rate(update, training)
    set_learning_rate(optimizer, rate)
    optimizer.step()
    tokens = sum(int(streams[stream].lengths[micro.indices].sum()) for micro in micros)
    numbers = {
        "step": update,
        "stream": stream,
        "loss": sum(values) / len(values),
        "lr": rate,
        "grad_norm": norm_value,
        "tokens": tokens,
        "examples": sum(len(micro.indices) for micro in micros),
        "fill": round(tokens / (training.tokens * len(micros)), 4),
        **{name: value / len(micros) for name, value in zip(sorted(extras), told[len(micros) : -1], strict=True)},
    }
    return numbers, told[-1] > 0


def _validate(job: Job, engine: Engine, state: Progress, folder: RunFolder) -> None:
    """Validate, keep the model if it is the best so far, draw the plots."""
    job.model.eval()
    with engine.measuring(), torch.no_grad():
        numbers = {name: float(value) for name, value in job.validate().items()}
    job.model.train()
    numbers = engine.ranks.told(numbers)
    if not numbers:
        return
    if job.monitor not in numbers:
        raise ValueError(f"the job monitors {job.monitor!r}, and its validation gives {', '.join(numbers)}")
    state.history.append({"step": state.step, **numbers})
    state.since_best += 1
    value = numbers[job.monitor]
    if math.isfinite(value) and (state.best is None or value > state.best):
        _save(job, engine, folder.best)
        state.best, state.best_step, state.since_best = value, state.step, 0
    folder.write_log({"step": state.step, "validation": numbers, "best": state.best})
    folder.plot()


def _is_done(state: Progress, training: Training) -> bool:
    out_of_patience = training.patience is not None and state.since_best >= training.patience
    return state.step >= training.steps or out_of_patience


def _save(job: Job, engine: Engine, target: Path) -> None:
    """Write the model for users."""
    with engine.saving():
        engine.ranks.first(lambda: write_folder(target, job.save))


def _set_up(model: nn.Module, training: Training, ranks: Ranks) -> torch.device:
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
    device = torch.device("cpu")
    if has_cuda and training.device != "cpu":
        device = torch.device("cuda", ranks.local % torch.cuda.device_count())
    model.to(device)
    return device


def _clip(optimizer: torch.optim.Optimizer, clip: float | None) -> Tensor:
    """Clip the gradients by their global norm; returns the norm before."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if clip is None:
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return torch.nn.utils.clip_grad_norm_(parameters, clip)


# Interrupts and the progress line ---------------------------------------------------------------------


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; the second of a kind acts as it did before.

    Of a kind, since torchrun passes a Ctrl-C on as SIGTERM to processes that the terminal has told already.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may listen
        yield event
        return
    signals: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def hear(number: int, frame: Any) -> None:
        event.set()
        signal.signal(number, before[number])

    for number in signals:
        signal.signal(number, hear)
    try:
        yield event
    finally:
        for number in signals:
            signal.signal(number, before[number])


class _ProgressLine:
    """Step and time to go (the bar's own), each objective's running loss, examples a second, how full batches are."""

    def __init__(self, bar: tqdm) -> None:
        self.bar, self.examples, self.began = bar, 0, time.perf_counter()
        self.losses: dict[str, float] = {}
        self.fill: float | None = None

    def show(self, numbers: Mapping[str, Any]) -> None:
        mean = lambda old, new: new if old is None else 0.95 * old + 0.05 * new
        name = numbers["stream"].partition("/")[0]
        self.losses[name] = mean(self.losses.get(name), numbers["loss"])
        self.fill = mean(self.fill, numbers["fill"])
        self.examples += numbers["examples"]
        rate = self.examples / max(1e-9, time.perf_counter() - self.began)
        losses = ", ".join(f"{name} {self.losses[name]:.3g}" for name in sorted(self.losses))
        self.bar.set_postfix_str(f"loss {losses}; {rate:.0f} examples/s, {self.fill:.0%} filled", refresh=False)
        self.bar.update()


@contextmanager
def _line(state: Progress, training: Training, progress: bool) -> Iterator[_ProgressLine]:
    bar = tqdm(total=training.steps, initial=state.step, desc="train", unit="update", disable=not progress)
    with bar:
        yield _ProgressLine(bar)
