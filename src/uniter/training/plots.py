"""Pictures of a run: loss of each stream, validation numbers, learning rate; the same for TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniter.curves import draw_curves, draw_panels, smooth


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
        draw_panels(folder / "validation.png", curves)


def open_board(folder: Path, step: int) -> Any:
    """A writer of TensorBoard's files; what was written there for later updates is hidden.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError('train.tensorboard needs TensorBoard: pip install "uniter[watch]"') from None
    return SummaryWriter(str(folder), purge_step=step + 1)


def show_scalars(board: Any, line: dict[str, Any]) -> None:
    """One line of metrics.jsonl for TensorBoard; losses and a stream's own numbers by stream."""
    step, stream = line["step"], line.get("stream")
    for name, value in line.get("validation", {}).items():
        board.add_scalar(f"validation/{name}", value, step)
    if stream is not None:
        general = ("lr", "grad_norm", "tokens", "examples", "fill", "seconds")
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                board.add_scalar(f"training/{name}" if name in general else f"{name}/{stream}", value, step)
