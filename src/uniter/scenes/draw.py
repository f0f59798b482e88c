"""Pixels of a scene."""

import numpy as np
from PIL import Image

from uniter import draws
from uniter.scenes.shapes import SUPERSAMPLING, coverage, fine_mask
from uniter.scenes.world import Background, Scene, Thing


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, anti-aliased, with noise; the same scene always gives the same pixels.

    Returns:
        An RGB image of the scene's width and height.
    """
    canvas = _behind(scene.background, scene.width, scene.height)
    for thing in scene.things:
        colours, alpha = _patch(thing)
        x, y = thing.corner
        under = canvas[y : y + alpha.shape[0], x : x + alpha.shape[1]]
        under += alpha[..., None] * (colours - under)
    random = draws.generator(scene.background.seed, "grain")
    noise = random.standard_normal((scene.height, scene.width, 1), dtype=np.float32) * np.float32(
        scene.background.grain
    )
    return Image.fromarray(np.clip(canvas + noise, 0, 255).round().astype(np.uint8))


def _behind(background: Background, width: int, height: int) -> np.ndarray:
    """The background, (height, width, 3) float32: a mixture of its two colours by a field in 0..1."""
    first, second = (np.array(colour, dtype=np.float32) for colour in background.colours)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    turn = np.float32(np.deg2rad(background.angle))
    along = columns * np.cos(turn) + rows * np.sin(turn)
    random = draws.generator(background.seed, "background")
    if background.kind == "flat":
        field = np.zeros((height, width), dtype=np.float32)
    elif background.kind == "gradient":
        field = (along - along.min()) / (along.max() - along.min())
    elif background.kind == "stripes":
        field = 0.5 + 0.5 * np.sin(along * np.float32(2 * np.pi / random.uniform(18, 60)))
    elif background.kind == "noise":
        coarse = Image.fromarray(random.integers(0, 256, (9, 12)).astype(np.uint8))
        field = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    else:
        field = np.zeros((height, width), dtype=np.float32)
        for _ in range(6):
            x, y, radius = random.uniform(0, width), random.uniform(0, height), random.uniform(20, 60)
            field = np.maximum(field, np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / np.float32(radius**2)))
    return first + field[..., None] * (second - first)


def _patch(thing: Thing) -> tuple[np.ndarray, np.ndarray]:
    """The thing's colours (h, w, 3) and how much of each pixel it covers (h, w), both float32."""
    fine = fine_mask(thing.shape, thing.diameter, thing.angle)
    alpha = coverage(fine)
    paint = np.array(thing.paint, dtype=np.float32)
    turn, phase, light = thing.pattern
    contrast = paint + (np.float32(252) - paint) * np.float32(0.9) if light else paint * np.float32(0.16)
    second = coverage(_second_colour(thing.texture, fine.shape, thing.diameter, turn, phase))
    colours = paint + second[..., None] * (contrast - paint)
    height, width = alpha.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    shade = 1.06 - 0.14 * (rows / height + columns / width) / 2
    rim = coverage(fine & ~_eroded(fine, SUPERSAMPLING))
    colours = colours * shade[..., None].astype(np.float32)
    outline = rim / np.maximum(alpha, np.float32(1e-3))
    return colours + outline[..., None] * (paint * np.float32(0.55) - colours), alpha


def _second_colour(texture: str, shape: tuple[int, ...], diameter: float, turn: float, phase: float) -> np.ndarray:
    """Where a texture shows its second colour, a bool array on the supersampled grid."""
    if texture == "plain":
        return np.zeros(shape, dtype=bool)
    pitch = np.float32(np.clip(0.2 * diameter, 6.0, 13.0) * SUPERSAMPLING)
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    angle = np.float32(np.deg2rad(turn if texture == "striped" else turn % 30 - 15))
    across = (columns * np.cos(angle) + rows * np.sin(angle)) / pitch + np.float32(phase)
    along = (rows * np.cos(angle) - columns * np.sin(angle)) / pitch + np.float32(phase)
    if texture == "striped":
        return across % 1 < 0.42
    if texture == "dotted":
        return (across % 1 - 0.5) ** 2 + (along % 1 - 0.5) ** 2 < 0.31**2
    return (np.floor(across * 1.5) + np.floor(along * 1.5)) % 2 == 0


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask without the pixels nearer than `steps` to its outside, along rows and columns."""
    padded = np.pad(mask, steps)
    height, width = mask.shape
    inner = mask.copy()
    for k in (-steps, steps):
        inner &= padded[steps + k : steps + k + height, steps : steps + width]
        inner &= padded[steps : steps + height, steps + k : steps + k + width]
    return inner
