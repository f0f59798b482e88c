"""One's own expressions: a file of image, text and box, learnt as referring expressions are."""

import math
from types import MappingProxyType
from typing import Any

from uniter.tasks.own_file import Line, OwnFile
from uniter.tasks.refcoco import Box, Expression, RefCOCO

EDGE = 1.0  # pixels that a box may reach out of its picture: rounding


class OwnBoxes(OwnFile, RefCOCO):
    """Which region a text means (docs/your_data.md): a box is four numbers x1 y1 x2 y2 in pixels.

    A prediction is the number of its line and two boxes, as in RefCOCO. Options:

        file: name of the file in the folder; the only one if left out.
        overlap: as in RefCOCO.
    """

    name = "own_boxes"
    column = "box"
    options = MappingProxyType({"file": "", "overlap": "plain"})

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._seen_sizes: dict[str, tuple[float, float]] = {}  # image -> width and height of its regions' picture

    def examples(self, split: str) -> list[Expression]:
        """The expressions of a split ("all" for every line).

        Raises:
            ValueError: the file is missing or wrong, or a box lies outside its picture.
        """
        return [Expression(line.number, line.text, line.image, self._box(line)) for line in self.chosen(split)]

    def _box(self, line: Line) -> Box:
        if line.said is None:
            raise self.wrong(line.number, "no `box`: give each line one, x1 y1 x2 y2 in pixels")
        said = line.said.replace(",", " ").split() if isinstance(line.said, str) else line.said
        try:
            numbers = [float(value) for value in said if not isinstance(value, bool)]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != 4 or len(said) != 4 or not all(map(math.isfinite, numbers)):
            raise self.wrong(line.number, f"box {line.said!r:.60} is not four numbers: write x1 y1 x2 y2 in pixels")
        x1, y1, x2, y2 = numbers
        if not (x1 < x2 and y1 < y2):
            raise self.wrong(
                line.number,
                f"box {line.said!r:.60} has no inside: write x1 y1 x2 y2, two corners, not width and height",
            )
        width, height = self._size(line.image)
        if min(x1, y1) < -EDGE or x2 > width + EDGE or y2 > height + EDGE:
            size = f"{width:g} x {height:g}" if math.isfinite(width) else "from 0 on"
            raise self.wrong(
                line.number,
                f"box {line.said!r:.60} reaches out of its picture ({size} pixels): write x1 y1 x2 y2 in pixels of the "
                "picture as a viewer shows it",
            )
        return x1, y1, x2, y2

    def _size(self, image: str) -> tuple[float, float]:
        """Width and height in pixels; endless where nobody says."""
        if self.regions is None:
            return math.inf, math.inf
        if image not in self._seen_sizes:
            seen = self.seen(image)
            fractions = (seen.width, seen.height) == (1, 1)
            self._seen_sizes[image] = (math.inf, math.inf) if fractions else (seen.width, seen.height)
        return self._seen_sizes[image]
