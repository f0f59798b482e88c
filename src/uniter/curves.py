"""Curves over updates, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def smooth(points: Sequence[tuple[int, float]], memory: float = 0.95) -> list[tuple[int, float]]:
    """Exponential running mean without the bias towards its start."""
    total = weight = 0.0
    smoothed = []
    for step, value in points:
        total, weight = memory * total + (1 - memory) * value, memory * weight + (1 - memory)
        smoothed.append((step, total / weight))
    return smoothed


def draw_curves(
    path: Path, title: str, curves: Mapping[str, Sequence[tuple[int, float]]], marker: str | None = None
) -> None:
    """Draw curves of (update, value) points by name into one PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, and only a run that draws needs it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in curves.items():
        steps, values = zip(*points)
        axes.plot(steps, values, label=name, marker=marker, linewidth=1.2)
    axes.set_xlabel("update")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100, format="png")
