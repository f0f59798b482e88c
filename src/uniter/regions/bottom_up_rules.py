"""What the makers of bottom-up features did around the network: how a picture is scaled, and which boxes are kept.

`official` is what the features were made with that UNITER was published with; `port` is the public PyTorch port.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from uniter.regions.detectors import vision_ops

MEAN = (102.9801, 115.9465, 122.7717)  # of blue, green and red
FINAL_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # that the final boxes' deltas are divided by; those of proposals are not
_LARGEST = math.log(1000 / 16)  # the growth of a box's side is held below the exponential of this


@dataclass(frozen=True)
class Mode:
    """How pictures are scaled and regions chosen.

    Args:
        sides: pixels that the shorter side is scaled to, unless the longer side would pass the second number.
        resize: "caffe": bilinear, one factor for both sides; "float": bilinear to whole sides; "pillow": Pillow's
            bilinear, which smooths, to the same sides.
        inclusive: whether a box's last pixel is a part of it: its width is x2 - x1 + 1 and it ends within the picture.
        least_side: pixels of the unscaled picture that a proposal's sides have at least.
        proposals: best boxes looked at, and of those left of them, best boxes kept.
        proposal_overlap: intersection over union above which the worse of two proposals is dropped.
        choose: "official": proposals by the classes they survive in; "port": mended boxes by their best class.
        overlaps: the same of regions; tried in turn until the least number is left ("official": the first).
        threshold: confidence above which a region is kept beyond the least number ("official").
        regions: least and largest number of regions of a picture.
    """

    sides: tuple[int, int]
    resize: str
    inclusive: bool
    least_side: float
    choose: str
    overlaps: tuple[float, ...]
    regions: tuple[int, int]
    threshold: float = 0.2
    proposals: tuple[int, int] = (6000, 300)
    proposal_overlap: float = 0.7


MODES = {
    "official": Mode((600, 1000), "caffe", True, 16.0, "official", (0.3,), (10, 100)),
    "port": Mode((800, 1333), "float", False, 0.0, "port", (0.5, 0.6, 0.7), (36, 36)),
}


@dataclass(frozen=True)
class Scaled:
    """A picture as the network wants it.

    Args:
        pixels: (3, H, W) float32, blue green red, the mean taken off.
        back: factors (2,) from scaled pixels to the picture's own, of x and of y.
    """

    pixels: Tensor
    back: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in scaled pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]


def scale(image: Image.Image, mode: Mode, device: torch.device | str = "cpu") -> Scaled:
    """Scale an upright RGB picture as this mode does."""
    factor = mode.sides[0] / min(image.size)
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    if mode.resize == "caffe":
        if round(factor * max(image.size)) > mode.sides[1]:
            factor = mode.sides[1] / max(image.size)
        return Scaled(_resample(_pixels(image, device) - mean, factor), (1 / factor, 1 / factor))
    sides = [factor * side for side in image.size]
    if max(sides) > mode.sides[1]:
        sides = [side * (mode.sides[1] / max(sides)) for side in sides]
    width, height = (max(1, int(side + 0.5)) for side in sides)
    if mode.resize == "pillow":
        pixels = _pixels(image.resize((width, height), Image.Resampling.BILINEAR), device)
    else:
        pixels = F.interpolate(_pixels(image, device)[None], size=(height, width), mode="bilinear")[0]
    return Scaled(pixels - mean, (image.width / width, image.height / height))


def _pixels(image: Image.Image, device: torch.device | str) -> Tensor:
    array = np.array(image, dtype=np.uint8)[:, :, ::-1].transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device).float()


def _resample(pixels: Tensor, factor: float) -> Tensor:
    """Bilinear, as OpenCV does it by a factor: the sampling step is 1 / factor, not old size / new size."""
    for axis in (1, 2):
        old = pixels.shape[axis]
        new = max(1, round(old * factor))
        at = ((torch.arange(new, dtype=torch.float64) + 0.5) / factor - 0.5).clamp(0, old - 1)
        low = at.floor().long().to(pixels.device)
        share = (at - at.floor()).float().to(pixels.device).view((-1, 1) if axis == 1 else (-1,))
        below = pixels.index_select(axis, low)
        pixels = below + (pixels.index_select(axis, (low + 1).clamp(max=old - 1)) - below) * share
    return pixels


def moved(boxes: Tensor, deltas: Tensor, inclusive: bool) -> Tensor:
    """Boxes (N, 4) changed by deltas (N, 4): shifts of the centre in box sides, logarithms of the sides' growth."""
    sides = boxes[:, 2:] - boxes[:, :2] + float(inclusive)
    centres = boxes[:, :2] + 0.5 * sides + deltas[:, :2] * sides
    sides = deltas[:, 2:].clamp(max=_LARGEST).exp() * sides
    return torch.cat([centres - 0.5 * sides, centres + 0.5 * sides], dim=1)


def clipped(boxes: Tensor, size: tuple[int, int], inclusive: bool) -> Tensor:
    """Boxes (N, 4) within a picture of this height and width."""
    ends = boxes.new_tensor([size[1], size[0]] * 2) - float(inclusive)
    return torch.minimum(boxes.clamp(min=0), ends)


def widened(boxes: Tensor, inclusive: bool) -> Tensor:
    """Boxes whose plain area and overlap count the last pixel."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] + float(inclusive)], dim=1)


def propose(logits: Tensor, deltas: Tensor, anchors: Tensor, scaled: Scaled, mode: Mode) -> tuple[Tensor, Tensor]:
    """The proposals of one picture, best first.

    Args:
        logits: (A, h, w) objectness.
        deltas: (4 A, h, w).
        anchors: (h * w * A, 4).
        scaled: the picture.
        mode: how many, and which may be near each other.

    Returns:
        (R, 4) boxes in scaled pixels, and (R,) their objectness. Where nothing may stay, the whole picture.
    """
    objectness = logits.permute(1, 2, 0).flatten()
    deltas = deltas.unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
    boxes = clipped(moved(anchors, deltas, mode.inclusive), scaled.size, mode.inclusive)
    sides = widened(boxes, mode.inclusive)
    sides = sides[:, 2:] - sides[:, :2]
    large = (sides > 0).all(1) & (sides >= mode.least_side / min(scaled.back)).all(1)
    order = objectness.argsort(descending=True, stable=True)
    many, kept = mode.proposals
    if mode.inclusive:  # here small ones make room for others
        order = order[large[order]][:many]
    else:
        order = order[:many]
        order = order[large[order]]
    order = order[vision_ops().nms(widened(boxes[order], mode.inclusive), objectness[order], mode.proposal_overlap)]
    order = order[:kept]
    if len(order) == 0:
        height, width = scaled.size
        whole = boxes.new_tensor([[0, 0, width - float(mode.inclusive), height - float(mode.inclusive)]])
        return whole, objectness.new_zeros(1)
    return boxes[order], objectness[order]


@dataclass(frozen=True)
class Chosen:
    """The regions of a picture among its proposals, most confident first.

    Args:
        rows: (N,) which proposals.
        boxes: (N, 4) in the picture's own pixels.
        scores: (N,) confidences.
        overlap: the intersection over union that regions were held apart by.
    """

    rows: Tensor
    boxes: Tensor
    scores: Tensor
    overlap: float


def confidences(boxes: Tensor, probs: Tensor, overlap: float) -> Tensor:
    """How sure it is that each box is something: the largest probability among the classes in which it survives.

    In every class by itself, the less probable of two boxes that overlap is dropped (the last pixel counts). All
    classes are walked through together, since they share the boxes.

    Args:
        boxes: (R, 4) in the picture's own pixels.
        probs: (R, classes + 1), background last.
        overlap: intersection over union above which a box is dropped.
    """
    scores = probs[:, :-1]
    boxes = widened(boxes, True)
    near = vision_ops().box_iou(boxes, boxes) > overlap
    near.fill_diagonal_(False)
    alive = torch.ones(scores.shape[1], len(boxes), dtype=torch.bool, device=boxes.device)
    for row in scores.argsort(dim=0, descending=True, stable=True):  # of each class the next box
        alive &= ~(near[row] & alive.gather(1, row[:, None]))
    return torch.where(alive.T, scores, 0).amax(1)


def choose_official(proposals: Tensor, probs: Tensor, scaled: Scaled, mode: Mode) -> Chosen:
    """The published rule: 10 to 100 proposals, those above the threshold if there are as many.

    Confidences are compared in half precision, in which the published files hold them.
    """
    boxes = proposals * proposals.new_tensor(scaled.back * 2)
    scores = confidences(boxes, probs, mode.overlaps[0])
    above = int((scores.half() > torch.tensor(mode.threshold).half().to(scores.device)).sum())
    rows = scores.argsort(descending=True, stable=True)[: min(max(above, mode.regions[0]), mode.regions[1])]
    return Chosen(rows, boxes[rows], scores[rows], mode.overlaps[0])


def choose_port(proposals: Tensor, probs: Tensor, deltas: Tensor, scaled: Scaled, mode: Mode) -> Chosen:
    """The port's rule: each proposal's best class mends its box, and boxes near a better one are dropped.

    Args:
        proposals: (R, 4) in scaled pixels.
        probs: (R, classes + 1), background last.
        deltas: (R, classes, 4).
        scaled: the picture.
        mode: overlaps are tried in turn until the least number of regions is left. If none leaves as many, there are
            fewer regions: the port fails there, or repeats the picture before.
    """
    scores, classes = probs[:, :-1].max(1)
    deltas = deltas[torch.arange(len(classes), device=classes.device), classes] / deltas.new_tensor(FINAL_WEIGHTS)
    boxes = clipped(moved(proposals, deltas, mode.inclusive), scaled.size, mode.inclusive)
    for overlap in mode.overlaps:
        rows = vision_ops().nms(widened(boxes, mode.inclusive), scores, overlap)[: mode.regions[1]]
        if len(rows) >= mode.regions[0]:
            break
    return Chosen(rows, boxes[rows] * boxes.new_tensor(scaled.back * 2), scores[rows], overlap)
