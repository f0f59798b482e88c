"""Pictures of a run: loss of each stream, validation numbers, learning rate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniter.curves import draw_curves, smooth


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
        draw_curves(
            folder / "loss.png", "loss (running mean)", {name: smooth(points) for name, points in losses.items()}
        )
        rates = [(line["step"], line["lr"]) for line in updates]
        draw_curves(folder / "learning_rate.png", "learning rate", {"learning rate": rates})
    if validations:
        names = sorted({name for line in validations for name in line["validation"]})
        curves = {n: [(line["step"], line["validation"].get(n, np.nan)) for line in validations] for n in names}
        draw_curves(folder / "validation.png", "validation", curves, marker="o")
