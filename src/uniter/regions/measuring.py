"""How well a detector finds things: COCO's average precision, and the share of things found.

Average precision as the published evaluation of COCO (Lin et al. 2014) computes it, for boxes of all sizes: of each
class at most 100 boxes a picture, each matched to the free thing that it overlaps most, most confident first; the
precision at 101 values of recall, made to fall, is averaged. Boxes on a crowd count neither for nor against.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OVERLAPS = np.linspace(0.5, 0.95, 10)
_MOST = 100
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Things:
    """What is in one picture, or what was found in it.

    Args:
        boxes: (N, 4) pixels x1 y1 x2 y2.
        classes: (N,) whole numbers.
        scores: (N,) confidences of what was found. Or None.
        crowd: (N,) bool, boxes around many things of a class. Or None.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M) areas in common, in square pixels."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(2)


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """(N, M) intersection over union; over the box's own area where the other is a crowd."""
    boxes, others = boxes.astype(np.float64), others.astype(np.float64)
    both = intersections(boxes, others)
    area = lambda b: (b[:, 2:] - b[:, :2]).prod(1)
    union = area(boxes)[:, None] + area(others)[None] - both
    if crowd is not None:
        union = np.where(crowd[None], area(boxes)[:, None], union)
    return both / np.maximum(union, 1e-12)


def average_precision(
    truths: Sequence[Things], founds: Sequence[Things], classes: int, at: np.ndarray = OVERLAPS
) -> np.ndarray:
    """Average precision of each class at each overlap.

    Args:
        truths: of each picture what is in it.
        founds: of each picture what was found, with scores.
        classes: how many there are, numbered from 0.
        at: (T,) intersections over union from which a thing is found.

    Returns:
        (classes, T) between 0 and 1; NaN for a class of which there is nothing.
    """
    found = np.full((classes, len(at)), np.nan)
    for kind in range(classes):
        scores, right, ignored, things = [], [], [], 0
        for truth, seen in zip(truths, founds, strict=True):
            assert seen.scores is not None
            wanted, boxes = truth.classes == kind, seen.classes == kind
            crowd = np.zeros(len(truth.classes), bool) if truth.crowd is None else truth.crowd
            order = np.argsort(-seen.scores[boxes], kind="stable")[:_MOST]
            hit, skip = _match(seen.boxes[boxes][order], truth.boxes[wanted], crowd[wanted], at)
            scores.append(seen.scores[boxes][order])
            right.append(hit)
            ignored.append(skip)
            things += int((~crowd[wanted]).sum())
        if things:
            order = np.argsort(-np.concatenate(scores), kind="stable")
            found[kind] = _area(np.concatenate(right, 1)[:, order], np.concatenate(ignored, 1)[:, order], things)
    return found


def _match(boxes: np.ndarray, wanted: np.ndarray, crowd: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each overlap which boxes, most confident first, are on a thing (T, N), and which are on a crowd (T, N)."""
    hit, skip = np.zeros((len(at), len(boxes)), bool), np.zeros((len(at), len(boxes)), bool)
    if not len(boxes) or not len(wanted):
        return hit, skip
    shared = overlaps(boxes, wanted, crowd)
    for row, least in enumerate(at):
        free = ~crowd
        for place, share in enumerate(shared):
            # the last of equals, as in the published code
            best = len(share) - 1 - int(np.argmax(np.where(free, share, -1.0)[::-1]))
            if free[best] and share[best] >= min(least, 1 - 1e-10):
                free[best], hit[row, place] = False, True
            elif bool((share[crowd] >= least).any()):
                skip[row, place] = True
    return hit, skip


def _area(right: np.ndarray, ignored: np.ndarray, things: int) -> np.ndarray:
    """Average precision (T,) of boxes (T, N) in the order of their confidence."""
    found = np.zeros(len(right))
    for row, (hit, skip) in enumerate(zip(right, ignored, strict=True)):
        hit = hit[~skip]
        if not len(hit):
            continue
        true = np.cumsum(hit)
        precision = true / np.arange(1, len(hit) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]  # never rising with recall
        place = np.searchsorted(true / things, _RECALLS, side="left")
        found[row] = np.where(place < len(hit), precision[np.minimum(place, len(hit) - 1)], 0.0).mean()
    return found


def found_share(truths: Sequence[Things], founds: Sequence[Things], least: float = 0.5) -> tuple[int, int]:
    """How many things some box overlaps with by `least` or more, whatever its class, and how many things there are."""
    found = things = 0
    for truth, seen in zip(truths, founds, strict=True):
        boxes = truth.boxes if truth.crowd is None else truth.boxes[~truth.crowd]
        things += len(boxes)
        if len(boxes) and len(seen.boxes):
            found += int((overlaps(boxes, seen.boxes).max(1) >= least).sum())
    return found, things
