"""Training of the small detector, from pictures whose things are known."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from uniter import draws
from uniter.files import replacing
from uniter.regions.detectors import vision_ops
from uniter.regions.pictures import upright_rgb
from uniter.regions.small import SmallDetector, SmallDetectorConfig, SmallNetwork, mend, places, to_pixels

Targets = dict[str, np.ndarray]
"""`boxes` (N, 4) pixels, `classes` (N,) from 1, and of each attribute (N,) value numbers."""

_ROIS = 48  # looked at by the second stage, of each picture
_WINDOW = 16  # batches among whose pictures those of like size are put together


@dataclass(frozen=True)
class DetectorTraining:
    """How a `SmallDetector` is trained.

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


def train_detector(
    pictures: Sequence[tuple[Image.Image, Targets]],
    config: SmallDetectorConfig,
    training: DetectorTraining,
    out: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    log: Callable[[str], None] = print,
    log_every: int = 50,
    device: str = "cpu",
) -> SmallDetector:
    """Train a small detector and write it to a folder.

    Both stages learn together: quality focal loss (Li et al. 2020) and GIoU for the proposals; cross-entropy, smooth L1
    and one cross-entropy an attribute for the boxes that are looked at. Objectness is
    summed and divided by the number of positive places; all other losses are means over places or boxes.

    Args:
        pictures: anything with a length and an index; sizes within `config.long_side`.
        config: the detector.
        training: the settings.
        out: the folder to write the detector to, now and then and at the end.
        checkpoint: a file to continue from if it is there. Or None.
        log: is told of the progress, with the mean losses since it was told last.
        log_every: steps from one telling to the next.
        device: where to compute.

    Raises:
        ValueError: there are no pictures.
    """
    if len(pictures) == 0:
        raise ValueError("there are no pictures to train on: give at least one")
    torch.manual_seed(draws.number(training.seed, "detector-weights") % 2**31)
    network = SmallNetwork(config).to(device=device, memory_format=torch.channels_last)  # pyrefly: ignore
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=training.rate, weight_decay=training.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.rate, training.steps, pct_start=0.1, div_factor=20, final_div_factor=500
    )
    begin = 0
    if checkpoint is not None and Path(checkpoint).exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        begin = state["step"]
    started, sums, since = time.time(), {}, 0
    for step, batch in zip(range(begin, training.steps), _batches(pictures, training, begin), strict=False):
        torch.manual_seed(draws.number(training.seed, "detector-step", step) % 2**31)
        losses = _losses(network.train(), batch, training.mixed, device)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        since += 1
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if (step + 1) % log_every == 0 or step + 1 == training.steps:
            text = " ".join(f"{name} {value / since:.3f}" for name, value in sums.items())
            log(f"step {step + 1} of {training.steps}, {time.time() - started:.0f} s: {text}")
            sums, since = {}, 0
        if (step + 1) % training.save_every == 0 or step + 1 == training.steps:
            _finished(network).save(out)
            if checkpoint is not None:
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
                state |= {"schedule": schedule.state_dict(), "step": step + 1}
                with replacing(Path(checkpoint)) as temporary:
                    torch.save(state, temporary)
    return calibrate(SmallDetector.load(out), pictures, out)


def calibrate(
    detector: SmallDetector, pictures: Sequence[tuple[Image.Image, Targets]], out: str | os.PathLike, count: int = 300
) -> SmallDetector:
    """Set the mean and deviation that features are standardised by, and write the detector.

    Args:
        detector: a trained one.
        pictures: training pictures; the first `count` are looked at.
        out: the folder to write to.
        count: pictures to look at.
    """
    network = detector.network
    network.feature_mean.zero_()
    network.feature_scale.fill_(1.0)
    limit, detector.standard_limit = detector.standard_limit, float("inf")
    seen = [detector.detect([pictures[i][0]])[0].features for i in range(min(count, len(pictures)))]
    detector.standard_limit = limit
    features = torch.from_numpy(np.concatenate(seen)).float()
    deviation = features.std(0)
    network.feature_mean.copy_(features.mean(0))
    network.feature_scale.copy_(torch.where(deviation > 1e-3, 1 / deviation.clamp(min=1e-3), 0.0))
    detector.save(out)
    return SmallDetector.load(out)


def _finished(network: SmallNetwork) -> SmallDetector:
    copy = SmallNetwork(network.config)
    copy.load_state_dict(network.state_dict())
    return SmallDetector(copy, "in training")


def _batches(pictures: Sequence[tuple[Image.Image, Targets]], training: DetectorTraining, begin: int) -> Iterator[list]:
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


def _losses(network: SmallNetwork, batch: list, mixed: bool, device: str) -> dict[str, Tensor]:
    """Of one batch the losses, each a mean, weighted."""
    images = [upright_rgb(image) for image, _ in batch]
    targets = [{key: torch.as_tensor(value, device=device) for key, value in target.items()} for _, target in batch]
    width = -(-max(image.width for image in images) // 16) * 16
    height = -(-max(image.height for image in images) // 16) * 16
    pixels = torch.stack(
        [F.pad(to_pixels(image), (0, width - image.width, 0, height - image.height)) for image in images]
    )
    pixels = pixels.to(device).contiguous(memory_format=torch.channels_last)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=mixed):
        fine, middle = network.maps(pixels)
        logits, boxes = network.dense(middle)
    losses = _proposal_losses(logits, boxes, targets, middle.shape[2:])
    looked, matched = [], []
    for row, target in enumerate(targets):
        chosen, match = _choose(logits[row].detach(), boxes[row].detach(), target["boxes"], images[row].size)
        looked.append(chosen)
        matched.append(match)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=mixed):
        described = network.describe(fine, looked, [float(min(image.size)) for image in images])
    # one table of all things of the batch, so that a box's match is a row of it
    things = {key: torch.cat([target[key] for target in targets]) for key in targets[0]}
    starts = np.cumsum([0] + [len(target["boxes"]) for target in targets])
    match = torch.cat([torch.where(m >= 0, m + int(s), m) for m, s in zip(matched, starts[:-1], strict=True)])
    positive = match >= 0
    thing = match.clamp(min=0)
    classes = torch.where(positive, things["classes"][thing], 0)
    losses["class"] = F.cross_entropy(described.classes, classes)
    if bool(positive.any()):
        boxes_in, boxes_out = torch.cat(looked)[positive], things["boxes"][thing[positive]]
        side_in, side_out = boxes_in[:, 2:] - boxes_in[:, :2], boxes_out[:, 2:] - boxes_out[:, :2]
        shift = (boxes_out[:, :2] + side_out / 2 - boxes_in[:, :2] - side_in / 2) / side_in
        wanted = torch.cat([shift, (side_out / side_in).log()], dim=1)
        losses["box"] = 5 * F.smooth_l1_loss(described.deltas[positive], wanted, beta=0.1)
        for name, scores in described.attributes.items():
            losses[name] = F.cross_entropy(scores[positive], things[name][thing[positive]])
    return losses


def _proposal_losses(logits: Tensor, boxes: Tensor, targets: list, shape: torch.Size) -> dict[str, Tensor]:
    """Quality focal loss and GIoU of the dense stage."""
    ops = vision_ops()
    centres = places(shape[0], shape[1], logits.device)
    quality = torch.zeros_like(logits)
    apart = []
    for row, target in enumerate(targets):
        wanted = target["boxes"]
        middle = (wanted[:, :2] + wanted[:, 2:]) / 2
        offset = (centres[:, None] - middle[None]).abs().amax(2)  # (P, N)
        inside = ((centres[:, None] > wanted[None, :, :2]) & (centres[:, None] < wanted[None, :, 2:])).all(2)
        area = (wanted[:, 2:] - wanted[:, :2]).prod(1)
        cost = torch.where(inside & (offset < 12.0), area[None], torch.inf)  # 12: one and a half places
        least, thing = cost.min(1)
        place = torch.nonzero(least < torch.inf)[:, 0]
        if len(place) == 0:
            continue
        guess, truth = boxes[row, place], wanted[thing[place]]
        apart.append(ops.generalized_box_iou_loss(guess, truth, reduction="none"))
        with torch.no_grad():
            quality[row, place] = ops.box_iou(guess, truth).diagonal().clamp(min=0.05)
    count = max(sum(len(part) for part in apart), 1)
    weight = (logits.sigmoid() - quality).abs() ** 2
    focal = (weight * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")).sum() / count
    near = torch.cat(apart).mean() if apart else logits.sum() * 0
    return {"objectness": focal, "distance": near}


@torch.no_grad()
def _choose(logits: Tensor, boxes: Tensor, wanted: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) for the second stage to look at and the thing (n,) that each one is on, -1 for background."""
    ops = vision_ops()
    limit = torch.tensor([*size, *size], device=boxes.device, dtype=boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    best = logits.topk(min(200, len(logits))).indices
    best = best[ops.nms(boxes[best], logits[best], 0.7)][:60]
    sides = (wanted[:, 2:] - wanted[:, :2]).repeat(3, 1)
    # things shifted and stretched, so that there are good boxes to look at from the first step
    near = mend(wanted.repeat(3, 1), torch.randn(len(sides), 4, device=boxes.device) * 0.08)
    every = torch.minimum(torch.cat([wanted, near, boxes[best]]).clamp(min=0), limit)
    every = every[((every[:, 2:] - every[:, :2]) > 2).all(1)]
    overlap, thing = ops.box_iou(every, wanted).max(1)
    positive = torch.nonzero(overlap >= 0.5)[:, 0]
    negative = torch.nonzero(overlap < 0.5)[:, 0]
    positive = positive[torch.randperm(len(positive), device=boxes.device)[: _ROIS * 2 // 3]]
    negative = negative[torch.randperm(len(negative), device=boxes.device)[: _ROIS - len(positive)]]
    chosen = torch.cat([positive, negative])
    return every[chosen], torch.where(overlap[chosen] >= 0.5, thing[chosen], -1)
