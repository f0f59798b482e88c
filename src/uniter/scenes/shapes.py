"""Outlines of the fourteen shapes and the pixels they cover."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "diamond",
    "hexagon",
    "moon",
    "arrow",
    "house",
    "tree",
    "cup",
)

SUPERSAMPLING = 3
"""Drawn pixels along one side of a picture's pixel; their mean is what is seen."""

Layer = tuple[bool, tuple[tuple[float, float], ...]]


def _around(sides: int, radius: float = 1.0, start: float = -90.0, x: float = 0.0, y: float = 0.0) -> list:
    angles = [math.radians(start + 360.0 * k / sides) for k in range(sides)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _star() -> list:
    outer, inner = _around(5), _around(5, 0.42, -54.0)
    return [point for pair in zip(outer, inner) for point in pair]


def _heart() -> list:
    steps = [2 * math.pi * k / 60 for k in range(60)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in steps
    ]


def _moon() -> list:
    outer = _around(60, start=0.0)
    kept = [point for point in outer if math.hypot(point[0] - 0.55, point[1]) > 0.85]
    upper = sorted((p for p in kept if p[1] < 0), key=lambda p: -p[0])
    lower = sorted((p for p in kept if p[1] >= 0), key=lambda p: p[0])
    inner = [p for p in _around(80, 0.85, 0.0, x=0.55) if math.hypot(*p) < 1.0]
    inner.sort(key=lambda p: -p[1])
    return upper + lower + inner


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> list:
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


@lru_cache(maxsize=1)
def _layers() -> dict[str, tuple[Layer, ...]]:
    """Of each shape, polygons to fill (True) or cut out (False), in order; within about one unit, y downwards."""
    arm = 0.36
    cross = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)]
    cross += [(arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)]
    arrow = [(-1, -0.32), (0.05, -0.32), (0.05, -0.85), (1, 0), (0.05, 0.85), (0.05, 0.32), (-1, 0.32)]
    tree = [
        (True, _rectangle(-0.18, 0.4, 0.18, 1.0)),
        (True, [(0, -0.35), (0.8, 0.5), (-0.8, 0.5)]),
        (True, [(0, -0.7), (0.66, 0.1), (-0.66, 0.1)]),
        (True, [(0, -1.0), (0.5, -0.3), (-0.5, -0.3)]),
    ]
    cup = [
        (True, _around(40, 0.5, x=0.5, y=-0.1)),
        (False, _around(40, 0.27, x=0.5, y=-0.1)),
        (True, [(-1.0, -0.75), (0.5, -0.75), (0.35, 0.75), (-0.85, 0.75)]),
    ]
    house = [
        (True, _rectangle(-0.72, -0.15, 0.72, 0.95)),
        (True, [(0, -1.0), (1.0, -0.1), (-1.0, -0.1)]),
        (True, _rectangle(0.38, -0.9, 0.62, -0.3)),
        (False, _rectangle(-0.2, 0.35, 0.2, 0.96)),
    ]
    plain = {
        "circle": _around(60),
        "square": _rectangle(-1, -1, 1, 1),
        "triangle": [(0, -0.87), (1, 0.87), (-1, 0.87)],
        "star": _star(),
        "heart": _heart(),
        "cross": cross,
        "diamond": [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)],
        "hexagon": _around(6, start=0.0),
        "moon": _moon(),
        "arrow": arrow,
    }
    layers = {name: [(True, points)] for name, points in plain.items()}
    layers["ring"] = [(True, _around(60)), (False, _around(60, 0.55))]
    layers |= {"tree": tree, "cup": cup, "house": house}
    return {name: tuple((fill, tuple(points)) for fill, points in parts) for name, parts in layers.items()}


def fine_mask(shape: str, diameter: float, angle: float) -> np.ndarray:
    """The shape as bits on the supersampled grid, in a patch that fits it closely.

    Args:
        shape: one of `SHAPES`.
        diameter: longer side of the shape's upright bounding box, in pixels of the picture.
        angle: rotation in degrees, clockwise as seen.

    Returns:
        (height * SUPERSAMPLING, width * SUPERSAMPLING) bool array for a patch of whole pixels.
    """
    turn = math.radians(angle)
    cosine, sine = math.cos(turn), math.sin(turn)
    layers = [
        (fill, np.array([(x * cosine - y * sine, x * sine + y * cosine) for x, y in points]))
        for fill, points in _layers()[shape]
    ]
    every = np.concatenate([points for fill, points in layers if fill])
    low, high = every.min(axis=0), every.max(axis=0)
    scale = diameter / float((high - low).max())
    width, height = (math.ceil(side) for side in (high - low) * scale)
    offset = (np.array([width, height]) - (high - low) * scale) / 2
    patch = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen = ImageDraw.Draw(patch)
    for fill, points in layers:
        place = ((points - low) * scale + offset) * SUPERSAMPLING - 0.5
        pen.polygon([(float(x), float(y)) for x, y in place], fill=255 if fill else 0)
    return np.asarray(patch) > 0


def coverage(fine: np.ndarray) -> np.ndarray:
    """The share of each whole pixel that a supersampled mask covers, (height, width) float32 in 0..1."""
    height, width = fine.shape[0] // SUPERSAMPLING, fine.shape[1] // SUPERSAMPLING
    return fine.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING).mean(axis=(1, 3), dtype=np.float32)
