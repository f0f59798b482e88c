"""Where things are to each other: True, False, or None where people might disagree.

Directions compare the middles of the visible boxes: `left` holds if one middle is at least `MARGIN` of the picture's
shorter side further left than the other, whatever their heights. `near` holds if at most `NEAR` of the shorter side is
between the boxes, and fails from `FAR` on. `larger` holds from a ratio of `RATIO` between the longer sides on.
"""

import math
from collections.abc import Sequence

from uniter.scenes.world import Scene, Thing

MARGIN, NEAR, FAR, RATIO = 0.1, 0.07, 0.22, 1.2

DIRECTIONS = ("left", "right", "above", "below")
EXTREMES = ("leftmost", "rightmost", "topmost", "bottommost", "largest", "smallest")
PLACES = ("left", "right", "top", "bottom")


def middle(thing: Thing) -> tuple[float, float]:
    """The middle of the visible box, pixels x y."""
    return (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2


def gap(first: Thing, second: Thing) -> float:
    """Pixels between two boxes, 0 where they overlap."""
    across = max(first.box[0] - second.box[2], second.box[0] - first.box[2], 0.0)
    down = max(first.box[1] - second.box[3], second.box[1] - first.box[3], 0.0)
    return math.hypot(across, down)


def holds(scene: Scene, relation: str, first: Thing, second: Thing) -> bool | None:
    """Whether `first` is in a relation to `second`, None if that is not clear.

    Args:
        scene: the picture, whose shorter side is the measure of distances.
        relation: left, right, above, below, near, larger or smaller.
        first: the thing that is left of the other, for instance.
        second: the other thing.
    """
    side = min(scene.width, scene.height)
    if relation == "near":
        distance = gap(first, second) / side
        return True if distance <= NEAR else (False if distance >= FAR else None)
    if relation in ("larger", "smaller"):
        ratio = first.diameter / second.diameter
        ratio = ratio if relation == "larger" else 1 / ratio
        return True if ratio >= RATIO else (False if ratio <= 1 / RATIO else None)
    axis = 0 if relation in ("left", "right") else 1
    distance = (middle(second)[axis] - middle(first)[axis]) / side
    distance = distance if relation in ("left", "above") else -distance
    return True if distance >= MARGIN else (False if distance <= -MARGIN else None)


def extreme(scene: Scene, which: str, things: Sequence[Thing]) -> int | None:
    """The position of the leftmost (...) of some things, None if it is not clear or there are fewer than two.

    Args:
        scene: the picture.
        which: one of `EXTREMES`.
        things: those to choose from.
    """
    relation = dict(zip(EXTREMES, (*DIRECTIONS, "larger", "smaller")))[which]
    for number, thing in enumerate(things):
        others = [other for other in things if other is not thing]
        if others and all(holds(scene, relation, thing, other) for other in others):
            return number
    return None


def place(scene: Scene, where: str, thing: Thing) -> bool | None:
    """Whether a thing is in the left, right, top or bottom half, None if its middle is near the line between."""
    axis = 0 if where in ("left", "right") else 1
    share = middle(thing)[axis] / (scene.width, scene.height)[axis]
    share = share if where in ("left", "top") else 1 - share
    return True if share <= 0.4 else (False if share >= 0.6 else None)
