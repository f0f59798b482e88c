"""Tensors by name, read from a file of weights; nothing in it is unpickled freely. A leaf that everyone may import."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

WRAPPERS = ("model_state", "state_dict", "model", "model_state_dict", "model_dict")


def few(names: Sequence[str], most: int = 8) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, as precise as they are stored.

    Args:
        path: `.safetensors`, or what `torch.save` wrote; read with `weights_only=True`.

    Raises:
        ValueError: no such file, damaged, more than tensors in it, and as `named_tensors`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file" if not path.exists() else f"{path}: a folder, give a file")
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except Exception as error:  # damaged bytes are read as anything: no list of exceptions is complete
        if running := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path}: holds more than tensors, {running[1]}, which could run code: save its state dict alone "
                "where you trust it"
            ) from None
        reason = str(error).split("\n")[0].split(". ")[0]
        if reason.startswith("Weights only"):  # goes on with how to run the file's code
            reason = "its content is not that of a state dict"
        raise ValueError(f"{path}: not opened ({reason}); damaged or no checkpoint: get a clean copy") from None
    return named_tensors(path, found)


def named_tensors(path: Path, found: Any) -> dict[str, Tensor]:
    """The tensors by name in what a file held; a wrapper such as `model` is taken off.

    Raises:
        ValueError: no tensors at all, or numbers that are not finite.
    """
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    named = found.items() if isinstance(found, dict) else ()
    tensors = {str(key): value for key, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds no tensors by name; give a state dict as the published code saves it")
    spoiled = [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if spoiled:
        raise ValueError(
            f"{path}: {len(spoiled)} tensors have numbers that are not finite: {few(spoiled)}; its training has "
            "failed or the file is damaged: take another checkpoint"
        )
    return tensors


def _load(path: Path) -> Any:
    # Files of before PyTorch 1.6, the published ones among them, are no zip and cannot be mapped.
    return torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
