"""Curves over updates, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def smooth(points: Sequence[tuple[int, float]], memory: float = 0.95) -> list[tuple[int, float]]:
    """Exponential running mean without the bias towards its start."""
    total = weight = 0.0
    smoothed = []
    for step, value in points:
        total, weight = memory * total + (1 - memory) * value, memory * weight + (1 - memory)
        smoothed.append((step, total / weight))
    return smoothed


COLUMNS = 3  # of panels


def draw_curves(path: Path, title: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Draw curves of (update, value) points by name into one PNG file."""
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    for name, points in curves.items():
        steps, values = zip(*points)
        axes.plot(steps, values, label=name, linewidth=1.2)
    axes.set_xlabel("update")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100, format="png")


def draw_panels(path: Path, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Draw each curve of (update, value) points in a panel with a scale of its own, into one PNG file.

    `NAME_low` and `NAME_high` are the interval around `NAME` and are drawn as a band in its panel.
    """
    bands = {
        name for name in curves if name.rpartition("_")[2] in ("low", "high") and name.rpartition("_")[0] in curves
    }
    shown = [name for name in curves if name not in bands]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = _figure(3.4 * columns, 2.4 * rows)
    for place, name in enumerate(shown, 1):
        axes = figure.add_subplot(rows, columns, place)
        steps, values = zip(*curves[name])
        axes.plot(steps, values, marker="o", markersize=3, linewidth=1.2)
        if {f"{name}_low", f"{name}_high"} <= bands:
            low, high = ([value for _, value in curves[f"{name}_{side}"]] for side in ("low", "high"))
            axes.fill_between(steps, low, high, alpha=0.2)
        axes.set_title(name, fontsize="small")
        axes.tick_params(labelsize="x-small")
        axes.grid(alpha=0.3)
    figure.supxlabel("update", fontsize="small")
    figure.savefig(path, dpi=100, format="png")


def _figure(width: float, height: float) -> Any:
    """A figure of so many inches that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, and only a run that draws needs it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
