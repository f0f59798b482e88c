"""Pictures of a run: loss of each stream, validation numbers, learning rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def draw_plots(log: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw loss.png, validation.png and learning_rate.png from the lines of metrics.jsonl."""
    updates = [line for line in log if "loss" in line]
    validations = [line for line in log if "validation" in line]
    folder.mkdir(parents=True, exist_ok=True)
    if updates:
        streams = sorted({line["stream"] for line in updates})
        losses = {
            name: [(line["step"], line["loss"]) for line in updates if line["stream"] == name] for name in streams
        }
        _draw(folder / "loss.png", "loss (running mean)", {name: _smooth(points) for name, points in losses.items()})
        rates = [(line["step"], line["lr"]) for line in updates]
        _draw(folder / "learning_rate.png", "learning rate", {"learning rate": rates})
    if validations:
        names = sorted({name for line in validations for name in line["validation"]})
        curves = {n: [(line["step"], line["validation"].get(n, np.nan)) for line in validations] for n in names}
        _draw(folder / "validation.png", "validation", curves, marker="o")


def _smooth(points: Sequence[tuple[int, float]], memory: float = 0.95) -> list[tuple[int, float]]:
    """Exponential running mean without the bias towards its start."""
    total = weight = 0.0
    smoothed = []
    for step, value in points:
        total, weight = memory * total + (1 - memory) * value, memory * weight + (1 - memory)
        smoothed.append((step, total / weight))
    return smoothed


def _draw(path: Path, title: str, curves: Mapping[str, Sequence[tuple[int, float]]], marker: str | None = None) -> None:
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
    figure.savefig(path, dpi=100)
