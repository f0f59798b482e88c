"""Pickles of plain data, which is all of a pickle that is ever opened. A leaf that everyone may import."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np


class _WantsCodeError(Exception):
    """A pickle asked for something that is not plain data."""


class _DataOnly(pickle.Unpickler):
    """Reads plain containers, strings and numbers, and refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return {"set": set, "frozenset": frozenset}[name]
        raise _WantsCodeError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _WantsCodeError(f"persistent object {pid!r}")


class _Kind:
    """What stands for an array's dtype: NumPy's own would believe whatever a hostile file says about it."""

    def __init__(self, name: Any, *flags: Any) -> None:
        self.dtype = np.dtype(name) if isinstance(name, str) else np.dtype("O")
        if self.dtype.kind not in "biuf":
            raise _WantsCodeError(f"an array of {name!r}")

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """What stands for an array until its numbers are there."""

    def __init__(self, *_: Any) -> None:
        self.value = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, data = state
        self.value = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if columns_first else "C")

    @classmethod
    def of_buffer(cls, data: Any, kind: Any, shape: Any, order: Any) -> "_Array":
        array = cls()
        array.__setstate__((1, shape, kind, order == "F", data))
        return array


def _latin(text: Any, codec: Any) -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise _WantsCodeError(f"the codec {codec!r}")
    return text.encode("latin1")


# How NumPy writes an array: these names, with `_core` from its second edition on; the codec is that of old protocols.
_ARRAYS = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Kind,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.numeric._frombuffer": _Array.of_buffer,
    "_codecs.encode": _latin,
}


class _DataAndArrays(_DataOnly):
    """Reads NumPy arrays of numbers too."""

    def find_class(self, module: str, name: str) -> Any:
        known = _ARRAYS.get(f"{module}.{name}".replace("numpy._core.", "numpy.core."))
        return known or super().find_class(module, name)


def _with_arrays(data: Any) -> Any:
    """Plain data with the arrays where they were stood for."""
    if isinstance(data, _Array):
        return data.value
    if isinstance(data, dict):
        return {key: _with_arrays(value) for key, value in data.items()}
    return type(data)(map(_with_arrays, data)) if isinstance(data, list | tuple) else data


def read_pickle(path: Path, arrays: bool = False) -> Any:
    """The plain data in a pickle.

    Args:
        path: the file.
        arrays: whether NumPy arrays of numbers are plain data too.

    Raises:
        ValueError: missing, damaged, or holding anything but containers, strings and numbers.
    """
    opened = _DataAndArrays if arrays else _DataOnly
    try:
        return _with_arrays(opened(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except _WantsCodeError as error:
        raise ValueError(
            f"{path}: not opened: it wants {error}, and only plain data is opened; get the file from its makers"
        ) from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path}: not a pickle, or damaged ({error}); download or write it again") from None
