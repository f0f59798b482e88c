"""A sheet about one example as one picture (PNG), by matplotlib; places are reckoned in inches, so nothing overlaps."""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uniter.drawing import RIGHT, Mark, WordMap, label_places

WIDTH, MARGIN, LEFT = 13.0, 0.3, 4.6  # inches: of the page, around it, of its left column
LINE, CELL = 0.21, 0.23  # inches: height of a line of text, of a word's row in a map
MOST_COLUMNS = 16  # regions of a map that a page has room for


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a sheet: pixels, boxes in them, what stands above it, and the maps beside it."""

    image: Image.Image
    marks: Sequence[Mark]
    title: str
    alt: str
    maps: Sequence[WordMap] = ()
    names: Sequence[str] = ()  # of all its regions, by number


@dataclass(frozen=True, eq=False)
class Sheet:
    """What is drawn of an example.

    Args:
        title: heading.
        texts: each with what it is ("question").
        outcomes: of each kind ("answer") text, score between 0 and 1, and whether it is right.
        pictures: those shown to the encoder.
        found: pictures found, best first: pixels, what stands below, whether it is the right one, alt text.
    """

    title: str
    texts: Sequence[tuple[str, str]]
    outcomes: Sequence[tuple[str, Sequence[tuple[str, float, bool | None]]]]
    pictures: Sequence[Picture]
    found: Sequence[tuple[Image.Image, str, bool, str]] = ()


def write_png(sheet: Sheet, path: Path) -> None:
    """Write a sheet as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a script that the font does not have
        page = _Page()
        page.sheet(sheet)
        figure = Figure(figsize=(WIDTH, page.height + MARGIN))
        FigureCanvasAgg(figure)
        page.draw(figure)
        figure.savefig(path, dpi=100)


class _Page:
    """Puts parts below each other: what is drawn is kept until the height of the page is known."""

    def __init__(self) -> None:
        self.height = MARGIN
        self._parts: list[tuple[float, float, float, float, Any]] = []  # left, top, width, height, what draws it

    def draw(self, figure: Any) -> None:
        """Draw all parts."""
        whole = figure.get_figheight()
        for left, top, width, height, paint in self._parts:
            axes = figure.add_axes((left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole))
            axes.set_axis_off()
            paint(axes)

    def _put(self, left: float, top: float, width: float, height: float, paint: Any) -> float:
        """Keep a part; gives where it ends."""
        self._parts.append((left, top, width, height, paint))
        self.height = max(self.height, top + height)
        return top + height

    def text(
        self, text: str, top: float, left: float = MARGIN, width: float = WIDTH - 2 * MARGIN, **style: Any
    ) -> float:
        """Lines of text; gives where they end."""
        size = style.setdefault("fontsize", 11)
        lines = wrapped(text, width, size)
        scale = LINE * size / 11

        def paint(axes: Any) -> None:
            axes.set(xlim=(0, 1), ylim=(len(lines), 0))
            for row, line in enumerate(lines):
                axes.text(0, row + 0.5, line, va="center", parse_math=False, **style)

        return self._put(left, top, width, scale * len(lines), paint)

    def sheet(self, sheet: Sheet) -> None:
        """All of a sheet."""
        top = self.text(sheet.title, MARGIN, fontsize=14, fontweight="bold") + 0.05
        for kind, text in sheet.texts:
            top = self.text(f"{kind}: {text}", top, fontsize=12)
        top += 0.15
        for number, picture in enumerate(sheet.pictures):
            below = self._picture(picture, top)
            if number == 0:
                for kind, rows in sheet.outcomes:
                    below = self._bars(kind, rows, below + 0.1)
            beside = [self._map(shown, picture.names, place, top) for place, shown in enumerate(picture.maps)]
            top = max([below, *beside]) + 0.25
        if sheet.found:
            top = self.text("found, best first", top, fontsize=11, fontweight="bold") + 0.05
            width = (WIDTH - 2 * MARGIN) / len(sheet.found) - 0.1
            for number, (image, below, true, _) in enumerate(sheet.found):
                left = MARGIN + number * (width + 0.1)
                tick = " ✓" if true else ""
                end = self._image(image, [], left, top, width)
                self.text(f"{below}{tick}", end + 0.03, left, width, fontsize=9, color=RIGHT if true else "#333333")

    def _picture(self, picture: Picture, top: float) -> float:
        if picture.title:
            top = self.text(picture.title, top, width=LEFT, fontsize=10, color="#5b6576") + 0.03
        return self._image(picture.image, picture.marks, MARGIN, top, LEFT)

    def _image(self, image: Image.Image, marks: Sequence[Mark], left: float, top: float, width: float) -> float:
        wide, high = image.size
        height = min(width * high / wide, 1.6 * width)

        def paint(axes: Any) -> None:
            from matplotlib.patches import Rectangle

            axes.imshow(np.asarray(image.convert("RGB")), aspect="equal")
            axes.set(xlim=(0, wide), ylim=(high, 0))
            for mark in marks:
                x1, y1, x2, y2 = mark.box
                edges = [("white", "-"), (mark.colour, "--")] if mark.dashed else [(mark.colour, "-")]
                style = {"linewidth": 1 if mark.faint else 2.2, "alpha": 0.35 if mark.faint else 1, "fill": False}
                for colour, line in edges:  # dashes on white, to be seen on dark pictures too
                    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, edgecolor=colour, linestyle=line, **style))
            labelled = [mark for mark in marks if mark.label]
            size = 0.17 * max(wide / width, high / height)  # pixels that a label of 0.17 inches covers
            for mark, (x, y) in zip(labelled, label_places(labelled, wide, high, size), strict=True):
                box = {"facecolor": mark.colour, "edgecolor": "none", "pad": 1.2}
                place = {"va": "center", "ha": "center", "fontsize": 8.5, "fontweight": "bold", "color": "white"}
                wide_label = size * (0.4 + 0.7 * len(mark.label))
                axes.text(x + wide_label / 2, y + size / 2, mark.label, bbox=box, parse_math=False, **place)

        return self._put(left, top, width, height, paint)

    def _bars(self, kind: str, rows: Sequence[tuple[str, float, bool | None]], top: float) -> float:
        top = self.text(kind, top, width=LEFT, fontsize=11, fontweight="bold") + 0.03
        longest = max((len(text) for text, _, _ in rows), default=0)
        label = min(2.6, 0.35 + 0.095 * longest)
        for text, share, true in rows:
            colour = RIGHT if true else "#1d2433"
            end = self.text(f"{text} ✓" if true else text, top, width=label, fontsize=10, color=colour)

            def paint(axes: Any, share: float = share, true: bool | None = true) -> None:
                axes.set(xlim=(0, 1), ylim=(0, 1))
                axes.barh(0.5, 1, 0.55, color="#eceff4")
                axes.barh(0.5, share, 0.55, color=RIGHT if true else "#2457d6")

            width = LEFT - label - 0.7
            self._put(MARGIN + label, top, width, LINE * 0.95, paint)
            self.text(f"{share:.1%}", top, MARGIN + label + width + 0.08, 0.6, fontsize=10)
            top = end + 0.05
        return top

    def _map(self, shown: WordMap, names: Sequence[str], place: int, top: float) -> float:
        """A map; words stand before the first of them only."""
        shown = strongest_columns(shown, MOST_COLUMNS)
        words = 1.15
        width = (WIDTH - 2 * MARGIN - LEFT - 0.3 - words) / 2 - 0.15
        left = MARGIN + LEFT + 0.3 + words + place * (width + 0.3)
        heads = [names[column].removeprefix("region ") for column in shown.columns]
        above = 0.12 + 0.085 * max(map(len, heads), default=0)  # turned by a right angle
        top = self.text(shown.title, top, left, width, fontsize=10.5, fontweight="bold") + 0.03
        rows, columns = shown.values.shape
        strongest = float(shown.values.max(initial=0.0)) or 1.0

        def paint(axes: Any) -> None:
            from matplotlib.colors import LinearSegmentedColormap

            blue = LinearSegmentedColormap.from_list("share", ["#f1f4fb", "#2457d6"])
            axes.imshow(shown.values / strongest, cmap=blue, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            axes.set_axis_on()
            axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
            axes.set_xticks(range(columns), heads, rotation=90, fontsize=9, parse_math=False)
            axes.set_yticks(range(rows), shown.words if place == 0 else [""] * rows, fontsize=10, parse_math=False)
            axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
            axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
            axes.grid(which="minor", color="white", linewidth=1.5)
            axes.tick_params(which="minor", length=0)
            axes.spines[:].set_visible(False)

        end = self._put(left, top + above, width, CELL * rows, paint)
        return self.text(
            f"darkest: {shown.say.replace('#', f'{strongest:.2f}')}",
            end + 0.04,
            left,
            width,
            fontsize=8.5,
            color="#5b6576",
        )


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Lines of a text, at most `width` inches wide in a font of `size` points; at least one."""
    letters = max(8, int(width / (size * 0.0086)))  # DejaVu Sans: a letter is 0.6 of its height wide on average
    return [line for part in text.splitlines() for line in textwrap.wrap(part, letters)] or [""]


def strongest_columns(shown: WordMap, count: int) -> WordMap:
    """A map with the columns that hold its largest values, in their order."""
    if len(shown.columns) <= count:
        return shown
    kept = np.sort(np.argsort(-shown.values.max(0, initial=0.0), kind="stable")[:count])
    return replace(shown, columns=[shown.columns[i] for i in kept], values=shown.values[:, kept])
