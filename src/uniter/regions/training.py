"""Training of detectors, from pictures whose things are known: the loop, whatever the network is."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from uniter import draws
from uniter.curves import draw_curves, smooth
from uniter.files import replacing, write_text
from uniter.regions.coco import Targets
from uniter.regions.detectors import Detector

Pictures = Sequence[tuple[Image.Image, Targets]]
METRICS, CURVES = "metrics.jsonl", "loss.png"
_WINDOW = 16  # batches among whose pictures those of like size are put together


@dataclass(frozen=True)
class DetectorTraining:
    """How a detector is trained.

    Args:
        steps: updates.
        batch: pictures an update.
        rate: the highest learning rate; it rises for a tenth of the steps and falls to nothing.
        decay: weight decay.
        seed: of the order of the pictures, the weights and the sampled boxes.
        mixed: compute convolutions in bfloat16.
        save_every: steps between two writes of `out` and of the checkpoint that a killed run continues from.
    """

    steps: int = 5000
    batch: int = 8
    rate: float = 2e-3
    decay: float = 0.02
    seed: int = 0
    mixed: bool = True
    save_every: int = 1000


class Learner(Protocol):
    """What the loop trains: a network, what it is wrong by, and how it becomes a detector."""

    @property
    def network(self) -> nn.Module: ...  # noqa: D102

    def losses(self, batch: list[tuple[Image.Image, Targets]]) -> dict[str, Tensor]:
        """Of one batch the losses, weighted, to be summed; random only by torch's own generator."""
        ...

    def save(self, out: str | os.PathLike) -> None:
        """Write the detector as it is now to a folder that `load_detector` reads."""
        ...

    def finish(self, pictures: Pictures, out: str | os.PathLike) -> Detector:
        """Do what remains after the last update, such as measuring the features' spread; write and give back."""
        ...


def train_detector(
    pictures: Pictures,
    learner: Learner,
    training: DetectorTraining,
    out: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    log: Callable[[str], None] = print,
    log_every: int = 50,
    settings: Mapping[str, Any] | None = None,
) -> Detector:
    """Train a detector and write it to a folder.

    A killed run that is started again continues from its checkpoint and comes out with the same weights.

    Args:
        pictures: anything with a length and an index.
        learner: what is trained.
        training: the settings.
        out: the folder to write the detector to, now and then and at the end; also the losses and their curves.
        checkpoint: a file to continue from if it is there. Or None.
        log: is told of the progress, with the mean losses since it was told last.
        log_every: steps from one telling to the next.
        settings: what a checkpoint must have been written with to be continued from; any JSON.

    Raises:
        ValueError: there are no pictures, or the checkpoint is of another run.
    """
    if len(pictures) == 0:
        raise ValueError("there are no pictures to train on: give at least one")
    network, out = learner.network, Path(out)
    learnt = [p for p in network.parameters() if p.requires_grad]
    decayed, plain = [p for p in learnt if p.ndim > 1], [p for p in learnt if p.ndim <= 1]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=training.rate, weight_decay=training.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.rate, training.steps, pct_start=0.1, div_factor=20, final_div_factor=500
    )
    said = json.dumps(settings or {}, sort_keys=True)
    begin, history = 0, {}
    if checkpoint is not None and Path(checkpoint).exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != said:
            raise ValueError(f"{checkpoint} is of a training with other settings: remove it, or train elsewhere")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        begin, history = state["step"], state["history"]
    started, since = time.time(), begin
    for step, batch in zip(range(begin, training.steps), _batches(pictures, training, begin), strict=False):
        torch.manual_seed(draws.number(training.seed, "detector-step", step) % 2**31)
        losses = learner.losses(batch)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(learnt, 5.0)
        optimizer.step()
        schedule.step()
        for name, value in losses.items():
            history.setdefault(name, {})[step] = float(value.detach())
        last = step + 1 == training.steps
        if (step + 1) % log_every == 0 or last:
            recent = {name: [v for k, v in values.items() if k >= since] for name, values in history.items()}
            text = " ".join(f"{name} {np.mean(values):.3f}" for name, values in recent.items() if values)
            log(f"step {step + 1} of {training.steps}, {time.time() - started:.0f} s: {text}")
            since = step + 1
        if (step + 1) % training.save_every == 0 or last:
            if not all(np.isfinite(list(values.values())[-1]) for values in history.values()):
                raise ValueError(f"the loss is not finite at step {step + 1}: train with a lower rate")
            learner.save(out)
            _write_losses(history, out)
            if checkpoint is not None:
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
                state |= {"schedule": schedule.state_dict(), "step": step + 1, "settings": said}
                with replacing(Path(checkpoint)) as temporary:
                    torch.save(state, temporary)
    return learner.finish(pictures, out)


def _write_losses(history: dict[str, dict[int, float]], out: Path) -> None:
    """A line a step into metrics.jsonl, and the curves."""
    steps = sorted({step for values in history.values() for step in values})
    lines = [
        {"step": step + 1, **{name: values[step] for name, values in history.items() if step in values}}
        for step in steps
    ]
    write_text(out / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
    curves = {name: smooth([(step + 1, values[step]) for step in sorted(values)]) for name, values in history.items()}
    with replacing(out / CURVES, wait=False) as temporary:
        draw_curves(temporary, "loss (running mean)", curves)


def feature_statistics(detector: Detector, pictures: Pictures, count: int = 300) -> tuple[Tensor, Tensor]:
    """Mean (F,) and one over the deviation (F,) of a detector's features; 0 for a number that never changes.

    Args:
        detector: whose features are not standardised yet.
        pictures: training pictures; the first `count` are looked at.
        count: pictures to look at.
    """
    seen = [detector.detect([pictures[i][0]])[0].features for i in range(min(count, len(pictures)))]
    features = torch.from_numpy(np.concatenate(seen)).float()
    deviation = features.std(0)
    return features.mean(0), torch.where(deviation > 1e-3, 1 / deviation.clamp(min=1e-3), 0.0)


def _batches(pictures: Pictures, training: DetectorTraining, begin: int) -> Iterator[list]:
    """The batches of the steps from `begin` on: each picture once an epoch, in an order of that epoch's own.

    Among the pictures of every few batches, those of like size share a batch, so that little of it is padding.
    """
    window = _WINDOW * training.batch
    for number in range(begin // _WINDOW, -(-training.steps // _WINDOW)):
        epochs, positions = np.divmod(np.arange(number * window, (number + 1) * window), len(pictures))
        order = {
            epoch: draws.permutation(training.seed, "detector-order", len(pictures), epoch)
            for epoch in set(epochs.tolist())
        }
        drawn = [
            pictures[int(order[epoch][position])] for epoch, position in zip(epochs.tolist(), positions, strict=True)
        ]
        drawn.sort(key=lambda entry: _size_order(*entry[0].size))
        for k in draws.permutation(training.seed, "detector-window", _WINDOW, number):
            if begin % _WINDOW == 0:
                yield drawn[k * training.batch : (k + 1) * training.batch]
            else:
                begin -= 1  # made before the run was killed


def _size_order(width: int, height: int) -> tuple[int, int, int]:
    """Upright, square and lying pictures apart, each by size."""
    return round(2 * np.log2(width / height)), max(width, height), min(width, height)
