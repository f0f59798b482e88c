"""What the small detector learns from: the losses of its two stages."""

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from uniter import draws
from uniter.regions.coco import Targets
from uniter.regions.detectors import vision_ops
from uniter.regions.pictures import upright_rgb
from uniter.regions.small import SmallDetector, SmallDetectorConfig, SmallNetwork, fit, mend, places, to_pixels
from uniter.regions.training import Pictures, feature_statistics

_ROIS = 48  # looked at by the second stage, of each picture


class SmallLearner:
    """Trains a `SmallDetector`.

    Both stages learn together: quality focal loss (Li et al. 2020) and GIoU for the proposals; cross-entropy, smooth L1
    and one cross-entropy an attribute for the boxes that are looked at. Objectness is
    summed and divided by the number of positive places; all other losses are means over places or boxes.

    Args:
        config: the detector.
        seed: of the weights.
        mixed: compute convolutions in bfloat16.
        device: where to compute.
    """

    def __init__(self, config: SmallDetectorConfig, seed: int = 0, mixed: bool = True, device: str = "cpu") -> None:
        torch.manual_seed(draws.number(seed, "detector-weights") % 2**31)
        self.network: SmallNetwork = SmallNetwork(config)
        self.network.to(device=device, memory_format=torch.channels_last)  # pyrefly: ignore
        self.mixed, self.device = mixed, device

    def losses(self, batch: list[tuple[Image.Image, Targets]]) -> dict[str, Tensor]:
        """Of one batch the losses, each a mean, weighted."""
        scaled = [_scaled(*entry, self.network) for entry in batch]
        return _losses(self.network.train(), scaled, self.mixed, self.device)

    def save(self, out: str | os.PathLike) -> None:
        """Write the detector as it is now."""
        copy = SmallNetwork(self.network.config)
        copy.load_state_dict(self.network.state_dict())
        SmallDetector(copy, "in training").save(out)

    def finish(self, pictures: Pictures, out: str | os.PathLike) -> SmallDetector:
        """Set what features are standardised by, write the detector, and load it."""
        return calibrate(SmallDetector.load(out, self.device), pictures, out)


def _scaled(image: Image.Image, targets: Targets, network: SmallNetwork) -> tuple[Image.Image, Targets]:
    """A picture as the detector looks at it, and its boxes there."""
    image = upright_rgb(image)
    scaled = fit(image, network.config.long_side)
    if scaled.size == image.size:
        return image, targets
    scale = np.array([scaled.width / image.width, scaled.height / image.height] * 2, np.float32)
    return scaled, {**targets, "boxes": targets["boxes"] * scale}


def calibrate(detector: SmallDetector, pictures: Pictures, out: str | os.PathLike, count: int = 300) -> SmallDetector:
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
    mean, scale = feature_statistics(detector, pictures, count)
    detector.standard_limit = limit
    network.feature_mean.copy_(mean)
    network.feature_scale.copy_(scale)
    detector.save(out)
    return SmallDetector.load(out, detector.device)


def _losses(network: SmallNetwork, batch: list, mixed: bool, device: str) -> dict[str, Tensor]:
    """Of one batch the losses, each a mean, weighted."""
    images = [image for image, _ in batch]
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
    classes = torch.zeros_like(match)
    classes[positive] = things["classes"][match[positive]]
    losses["class"] = F.cross_entropy(described.classes, classes)
    if bool(positive.any()):
        boxes_in, boxes_out = torch.cat(looked)[positive], things["boxes"][match[positive]]
        side_in, side_out = boxes_in[:, 2:] - boxes_in[:, :2], boxes_out[:, 2:] - boxes_out[:, :2]
        shift = (boxes_out[:, :2] + side_out / 2 - boxes_in[:, :2] - side_in / 2) / side_in
        wanted = torch.cat([shift, (side_out / side_in).log()], dim=1)
        losses["box"] = 5 * F.smooth_l1_loss(described.deltas[positive], wanted, beta=0.1)
        for name, scores in described.attributes.items():
            values = things[name][match[positive]]
            if bool((values >= 0).any()):  # -1: nobody said
                losses[name] = F.cross_entropy(scores[positive], values, ignore_index=-1)
    return losses


def _proposal_losses(logits: Tensor, boxes: Tensor, targets: list, shape: torch.Size) -> dict[str, Tensor]:
    """Quality focal loss and GIoU of the dense stage."""
    ops = vision_ops()
    centres = places(shape[0], shape[1], logits.device)
    quality = torch.zeros_like(logits)
    apart = []
    for row, target in enumerate(targets):
        wanted = target["boxes"]
        if len(wanted) == 0:
            continue
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
    if len(wanted) == 0:
        every = every[torch.randperm(len(every), device=boxes.device)[:_ROIS]]
        return every, torch.full((len(every),), -1, device=boxes.device)
    overlap, thing = ops.box_iou(every, wanted).max(1)
    positive = torch.nonzero(overlap >= 0.5)[:, 0]
    negative = torch.nonzero(overlap < 0.5)[:, 0]
    positive = positive[torch.randperm(len(positive), device=boxes.device)[: _ROIS * 2 // 3]]
    negative = negative[torch.randperm(len(negative), device=boxes.device)[: _ROIS - len(positive)]]
    chosen = torch.cat([positive, negative])
    return every[chosen], torch.where(overlap[chosen] >= 0.5, thing[chosen], -1)
