"""Regions drawn on their picture, to be looked at: numbered boxes, and beside them what each one is."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from uniter.files import replacing
from uniter.regions.detectors import load_detector
from uniter.regions.formats import open_regions
from uniter.regions.pictures import open_picture
from uniter.regions.regions import Regions

COLOURS = ("#2457d6", "#d6452b", "#127a4b", "#8a3ffc", "#b7791f", "#0b7285", "#c2255c", "#5c940d")
_INK, _PAPER = "#1d2433", "#ffffff"
_LONG, _MOST_ENLARGED = 900, 4  # pixels of the longer side of what is drawn; at most so many times the picture's own
_TEXT, _LINE = 17, 25


def region_names(regions: Regions, class_names: Sequence[str] | None) -> list[str]:
    """What each region is: its most probable class but background, by name or by number; nothing if nobody said."""
    if regions.class_probs is None:
        return [""] * len(regions)
    kinds = regions.class_probs[:, 1:].argmax(1) + 1
    return [class_names[kind] if class_names else f"class {kind}" for kind in kinds.tolist()]


def draw_regions(image: Image.Image, regions: Regions, names: Sequence[str], top: int = 36) -> Image.Image:
    """A picture with numbered boxes, and the boxes' names and confidences beside it.

    Args:
        image: the picture, or a blank one of its proportions.
        regions: as stored; a size other than the image's is scaled to it.
        names: of each region what it is.
        top: draw so many, the first ones.
    """
    zoom = min(_MOST_ENLARGED, _LONG / max(image.size))
    drawn = image.convert("RGB").resize([max(1, round(side * zoom)) for side in image.size], Image.Resampling.LANCZOS)
    count = min(top, len(regions))
    lines = []
    for number in range(count):
        score = "" if regions.scores is None else f"  {regions.scores[number]:.2f}"
        lines.append(f"{number + 1}  {names[number]}{score}")
    if count < len(regions):
        lines.append(f"and {len(regions) - count} more")
    font, small = _font(_TEXT), _font(_TEXT - 3)
    wide = max(int(font.getlength(line)) for line in lines) + _LINE
    sheet = Image.new("RGB", (drawn.width + wide, max(drawn.height, _LINE * (len(lines) + 1))), _PAPER)
    sheet.paste(drawn, (0, 0))
    pen = ImageDraw.Draw(sheet)
    scale = np.array([drawn.width / regions.width, drawn.height / regions.height] * 2)
    tags: list[tuple[float, float, float, float]] = []
    boxes = [(regions.boxes[number] * scale).tolist() for number in range(count)]
    for number in reversed(range(count)):  # the most confident last, above the others
        pen.rectangle(_inside(boxes[number], drawn.size), outline=COLOURS[number % len(COLOURS)], width=2)
    for number, box in enumerate(boxes):
        tag = _free_place(box, small.getlength(str(number + 1)) + 6, _TEXT, drawn.size, tags)
        tags.append(tag)
        pen.rectangle(tag, fill=COLOURS[number % len(COLOURS)])
        pen.text((tag[0] + 3, tag[1]), str(number + 1), fill=_PAPER, font=small)
    for number, line in enumerate(lines):
        ink = COLOURS[number % len(COLOURS)] if number < count else _INK
        pen.text((drawn.width + _LINE // 2, _LINE * number + _LINE // 2), line, fill=ink, font=font)
    return sheet


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box whose edge can be seen: within the picture, its ends in order."""
    x1, y1 = (min(max(value, 0), end - 2) for value, end in zip(box[:2], size, strict=True))
    x2, y2 = (min(max(value - 1, low + 1), end - 1) for value, low, end in zip(box[2:], (x1, y1), size, strict=True))
    return x1, y1, x2, y2


def _free_place(
    box: Sequence[float], width: float, height: float, size: tuple[int, int], taken: Sequence[Sequence[float]]
) -> tuple[float, float, float, float]:
    """Where a box's number stands: at the first of its corners that holds no other number, or at the first.

    Outside of a small box, which it would hide.
    """
    x1, y1, x2, y2 = _inside(box, size)
    places = [(x1, y1), (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height), (x1, y1 - height)]
    places += [((x1 + x2 - width) / 2, (y1 + y2 - height) / 2)]
    if x2 - x1 < 3 * width or y2 - y1 < 3 * height:
        places = [(x1, y1 - height), (x2, y1), (x1 - width, y1), (x1, y2), *places]
    found = []
    for left, top in places:
        left, top = min(max(left, 0), max(size[0] - width, 0)), min(max(top, 0), max(size[1] - height, 0))
        place = (left, top, left + width, top + height)
        found.append(place)
        if all(place[2] <= t[0] or t[2] <= place[0] or place[3] <= t[1] or t[3] <= place[1] for t in taken):
            return place
    return found[0]


def _font(size: int) -> Any:
    """A font that has more than English letters; it comes with matplotlib."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def show(
    store: str | os.PathLike,
    image: str,
    out: str | os.PathLike,
    images: str | os.PathLike | None = None,
    detector: str | None = None,
    top: int = 36,
) -> int:
    """Draw the regions that a store has of an image into a PNG file.

    Args:
        store: a store of regions, or whatever `open_regions` reads.
        image: the image's name in it.
        out: the PNG file, a new one.
        images: the folder that names begin in; without it the boxes are drawn on white.
        detector: name or folder of what made the store: it is asked again for what a store does not keep, attributes.
        top: draw so many.

    Returns:
        How many regions the image has.

    Raises:
        ValueError: the image is not in the store, the file exists, or picture or detector are others.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"{out} is no name of a PNG file: let it end in .png")
    if out.exists():
        raise ValueError(f"{out} exists already: remove it or write to another name")
    if top < 1:
        raise ValueError(f"top must be 1 or more, got {top}")
    if detector is not None and images is None:
        raise ValueError("a detector looks at pictures: give their folder (--images) too")
    with open_regions(store) as source:
        regions, names, fingerprint = source[image], region_names(source[image], source.class_names), source.detector
        if images is None:
            unknown = regions.width <= 1 and regions.height <= 1
            picture = Image.new("RGB", (600, 600) if unknown else (round(regions.width), round(regions.height)), _PAPER)
        else:
            picture = open_picture(Path(images) / image)
            _check_size(picture, regions, image, store)
        if detector is not None:
            regions, names = _asked_again(detector, fingerprint, picture, regions, names, store)
        drawn = draw_regions(picture, regions, names, top)
        with replacing(out, wait=False) as temporary:
            drawn.save(temporary, "PNG")
        return len(regions)


def _check_size(picture: Image.Image, regions: Regions, image: str, store: str | os.PathLike) -> None:
    if regions.width <= 1 and regions.height <= 1:
        return  # fractions
    shape = (picture.width / regions.width) / (picture.height / regions.height)
    if not 0.97 < shape < 1.03:
        raise ValueError(
            f"{image} is {picture.width} x {picture.height} pixels, {store} has regions of one of "
            f"{regions.width:.0f} x {regions.height:.0f}: give the folder of the pictures that they were found in"
        )


def _asked_again(
    name: str, fingerprint: str | None, picture: Image.Image, regions: Regions, names: list[str], store: Any
) -> tuple[Regions, list[str]]:
    """The regions and their names with attributes, of a detector that has some."""
    found: Any = load_detector(name)
    if found.fingerprint != fingerprint:
        raise ValueError(f"{store} holds regions of detector {fingerprint}, {name} is {found.fingerprint}")
    if not hasattr(found, "detect_with_attributes"):
        return regions, names
    regions, attributes = found.detect_with_attributes([picture])[0]
    return regions, found.words(regions, attributes)
