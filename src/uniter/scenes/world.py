"""What is in a picture of the embedded world: things with a shape, a colour, a size, a texture and a place.

The world is compositional: the colour-shape pairs in `HELD_OUT` occur in no picture of train, val and test, although
each colour and each shape does; every picture of the split `novel` shows at least two of them.
"""

from dataclasses import dataclass, replace

import numpy as np

from uniter import draws
from uniter.scenes.shapes import SHAPES, coverage, fine_mask

COLOURS = {
    "red": (208, 32, 38),
    "green": (40, 152, 62),
    "blue": (38, 84, 205),
    "yellow": (242, 214, 38),
    "orange": (243, 130, 20),
    "purple": (122, 46, 160),
    "pink": (246, 142, 194),
    "brown": (126, 76, 38),
    "grey": (132, 134, 138),
}
"""The mean colour of each colour name, red green blue 0..255."""

SIZES = {"small": (0.115, 0.14), "medium": (0.175, 0.21), "large": (0.27, 0.32)}
"""Of each size name, the range of a thing's longer side as a fraction of the picture's shorter side."""

TEXTURES = ("plain", "striped", "dotted", "checked")
BACKGROUNDS = ("flat", "gradient", "noise", "stripes", "blobs")
SPLITS = ("train", "val", "test", "novel")

HELD_OUT = frozenset((tuple(COLOURS)[(4 * number + 1) % len(COLOURS)], shape) for number, shape in enumerate(SHAPES))
"""Colour-shape pairs that only the split `novel` shows: one of each shape, one or two of each colour."""

VISIBLE = 0.62
"""The least share of a thing's pixels that things before it leave visible."""

_PER_SPLIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a picture.

    Args:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: one of `SIZES`.
        texture: one of `TEXTURES`.
        box: the visible part, pixels x1 y1 x2 y2.
        corner: left and top pixel of the patch that it is drawn in.
        diameter: its longer side in pixels.
        angle: its rotation in degrees, clockwise.
        paint: its own colour, red green blue 0..255.
        pattern: angle in degrees, phase 0..1 and lightness (0 dark, 1 light) of the texture's second colour.
    """

    shape: str
    colour: str
    size: str
    texture: str
    box: tuple[float, float, float, float]
    corner: tuple[int, int]
    diameter: float
    angle: float
    paint: tuple[int, int, int]
    pattern: tuple[float, float, int]


@dataclass(frozen=True, slots=True)
class Background:
    """What is behind the things.

    Args:
        kind: one of `BACKGROUNDS`.
        colours: two colours, red green blue 0..255.
        angle: direction in degrees.
        seed: what its details are drawn from.
        grain: standard deviation of the picture's noise, in grey levels.
    """

    kind: str
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    angle: float
    seed: int
    grain: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, described completely: `uniter.scenes.draw.draw` makes the pixels.

    Args:
        index: its number within the split.
        split: one of `SPLITS`.
        width: picture width in pixels.
        height: picture height in pixels.
        things: back to front.
        file_name: without a folder; ends in the image's id.
        background: what is behind the things.
    """

    index: int
    split: str
    width: int
    height: int
    things: tuple[Thing, ...]
    file_name: str
    background: Background

    @property
    def image_id(self) -> int:
        """A number unique over all splits, the one in `file_name`."""
        return image_id(self.split, self.index)


def image_id(split: str, index: int) -> int:
    """The number of picture `index` of a split, unique over all splits.

    Args:
        split: one of `SPLITS`.
        index: 0..999999.

    Raises:
        ValueError: there is no such split or index.
    """
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}: choose one of {', '.join(SPLITS)}")
    if not 0 <= index < _PER_SPLIT:
        raise ValueError(f"a picture's index is 0..{_PER_SPLIT - 1}, got {index}")
    return SPLITS.index(split) * _PER_SPLIT + index


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Picture `index` of a split; the same arguments always give the same scene.

    Args:
        seed: the world's seed.
        split: one of `SPLITS`.
        index: 0..999999.

    Returns:
        A scene of 3 to 12 things.

    Raises:
        ValueError: there is no such split or index.
    """
    number = image_id(split, index)
    random = draws.generator(seed, "scene", number)
    width, height = _picture_size(random)
    background = _background(random)
    dark = max(background.colours[0]) < 128
    things: list[Thing] = []
    while not things:
        things = _place(random, _kinds(random, split == "novel"), width, height, dark)
    ending = "jpg" if random.random() < 0.6 else "png"
    name = f"scenes_{split}_{number:012d}.{ending}"
    return Scene(index, split, width, height, tuple(things), name, background)


def scene_truth(scene: Scene) -> dict[str, np.ndarray]:
    """What a detector should find: one row a thing, numbers by position in `SHAPES`, `COLOURS`, `SIZES` and `TEXTURES`.

    Returns:
        `boxes` (N, 4) float32 pixels x1 y1 x2 y2; `shapes`, `colours`, `sizes`, `textures` (N,) int64.
    """
    names = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "texture": TEXTURES}
    truth: dict[str, np.ndarray] = {"boxes": np.array([thing.box for thing in scene.things], dtype=np.float32)}
    for field, known in names.items():
        numbers = [known.index(getattr(thing, field)) for thing in scene.things]
        truth[f"{field}s"] = np.array(numbers, dtype=np.int64)
    return truth


def _picture_size(random: np.random.Generator) -> tuple[int, int]:
    aspect = (1.0, 1.25, 4 / 3, 1.5, 1.6)[random.integers(5)]
    long = int(random.integers(max(208, round(176 * aspect)), 321))
    short = round(long / aspect)
    return (long, short) if random.random() < 0.6 else (short, long)


def _kinds(random: np.random.Generator, novel: bool) -> list[tuple[str, str, str, str]]:
    """Shape, colour, size, texture of each thing to be placed, from a small palette so that they look alike."""
    count = int(random.integers(3, 13))
    palette = [
        [list(names)[k] for k in random.permutation(len(names))[: random.integers(2, most + 1)]]
        for names, most in ((SHAPES, 6), (COLOURS, 6), (TEXTURES, 4))
    ]
    crowd: dict[int, str] = {}
    if random.random() < 0.4:  # several of one kind: high counts must not be rare
        fields = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))[random.integers(6)]
        crowd = {field: palette[field][0] for field in fields}
        if (crowd.get(1), crowd.get(0)) in HELD_OUT:
            del crowd[1]
    crowded = int(random.integers(3, 8)) if crowd else 0
    strange = int(random.integers(2, 5)) if novel else 0
    held_out = sorted(HELD_OUT)
    kinds = []
    for place in range(count):
        while True:
            shape, colour, texture = (names[random.integers(len(names))] for names in palette)
            if place < crowded:
                shape, colour, texture = (crowd.get(k, value) for k, value in enumerate((shape, colour, texture)))
            if place < strange:
                colour, shape = held_out[random.integers(len(held_out))]
                break
            if (colour, shape) not in HELD_OUT:
                break
            palette[0].append(SHAPES[random.integers(len(SHAPES))])  # a palette may hold no pair that is allowed
            palette[1].append(tuple(COLOURS)[random.integers(len(COLOURS))])
        size = tuple(SIZES)[random.integers(3)]
        kinds.append((shape, colour, size, texture))
    return kinds


def _place(random: np.random.Generator, kinds: list, width: int, height: int, dark: bool) -> list[Thing]:
    """Things at places where each stays visible enough, large ones behind; none if there is no room for all."""
    owner = np.full((height, width), -1, dtype=np.int64)
    areas: list[int] = []
    things: list[Thing] = []
    for shape, colour, size, texture in sorted(kinds, key=lambda kind: -list(SIZES).index(kind[2])):
        low, high = SIZES[size]
        diameter = float(np.round(random.uniform(low, high) * min(width, height), 2))
        angle = float(np.round(random.uniform(-12, 12), 1))
        solid = coverage(fine_mask(shape, diameter, angle)) >= 0.5
        apart = random.random() < 0.75
        for attempt in range(60):
            x = int(random.integers(1, width - solid.shape[1]))
            y = int(random.integers(1, height - solid.shape[0]))
            if _fits(owner, areas, solid, x, y, apart and attempt < 40):
                break
        else:
            return []
        owner[y : y + solid.shape[0], x : x + solid.shape[1]][solid] = len(things)
        areas.append(int(solid.sum()))
        paint = _rgb(np.array(COLOURS[colour]) + random.integers(-13, 14, 3))
        pattern = (
            float(random.integers(0, 180)),
            float(np.round(random.random(), 3)),
            int(dark or random.random() < 0.5),
        )
        nowhere = (0.0, 0.0, 0.0, 0.0)  # until all things are placed
        things.append(Thing(shape, colour, size, texture, nowhere, (x, y), diameter, angle, paint, pattern))
    return [_with_box(thing, owner == number) for number, thing in enumerate(things)]


def _fits(owner: np.ndarray, areas: list[int], solid: np.ndarray, x: int, y: int, apart: bool) -> bool:
    height, width = solid.shape
    if apart:
        around = owner[max(0, y - 3) : y + height + 3, max(0, x - 3) : x + width + 3]
        return bool((around < 0).all())
    hidden = owner[y : y + height, x : x + width][solid]
    lost = np.bincount(hidden[hidden >= 0], minlength=len(areas))
    left = np.bincount(owner[owner >= 0], minlength=len(areas)) - lost
    return all(rest >= VISIBLE * area for rest, area in zip(left, areas))


def _with_box(thing: Thing, seen: np.ndarray) -> Thing:
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return replace(thing, box=box)


def _background(random: np.random.Generator) -> Background:
    """Colours that no thing has: very light or very dark, hardly tinted, so that grey and pink things stand out."""
    level = random.uniform(208, 250) if random.random() < 0.8 else random.uniform(12, 32)
    other = np.clip(level + random.uniform(-22, 22), 8, 252)
    tint = random.uniform(-14, 14, 3)
    return Background(
        kind=BACKGROUNDS[random.integers(len(BACKGROUNDS))],
        colours=(_rgb(level + tint), _rgb(other + tint + random.uniform(-5, 5, 3))),
        angle=float(random.integers(0, 360)),
        seed=int(random.integers(2**31)),
        grain=float(np.round(random.uniform(1, 6), 2)),
    )


def _rgb(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(values, 0, 255).round())
    return red, green, blue
