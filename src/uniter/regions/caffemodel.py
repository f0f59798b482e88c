"""The arrays in a `.caffemodel`: the few fields of Caffe's protocol buffers that hold weights, and nothing else.

A message is fields behind each other: a number that says which field and how it is written, then its value. Fields
that are not named here are stepped over.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Of a network: the field of a layer -> the layer's fields of its name and its arrays; first today's, then the oldest.
_LAYERS = {100: (1, 7), 2: (4, 6)}
_SHAPE, _OLD_SHAPE = 7, (1, 2, 3, 4)  # of an array
_NUMBERS = {5: np.dtype("<f4"), 8: np.dtype("<f8")}  # of an array: single and double precision
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # how a value is written


class _DamagedError(Exception):
    """The file ends too soon, or is something else."""


def read_caffemodel(path: str | Path) -> dict[str, list[np.ndarray]]:
    """The arrays of each layer that has some, by the layer's name.

    Raises:
        ValueError: no such file, cut off, or something else.
    """
    path = Path(path)
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): check the path") from None
    layers: dict[str, list[np.ndarray]] = {}
    try:
        for field, value in _fields(content):
            if field in _LAYERS and isinstance(value, memoryview):
                name, arrays = _layer(value, *_LAYERS[field])
                if arrays:
                    layers[name] = arrays
        if not layers:
            raise _DamagedError("no layer in it has weights")
    except _DamagedError as error:
        raise ValueError(f"{path}: not a whole .caffemodel ({error}): download it again") from None
    return layers


def _layer(message: memoryview, name_field: int, array_field: int) -> tuple[str, list[np.ndarray]]:
    name, arrays = "", []
    for field, value in _fields(message):
        if field == name_field and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8", "replace")
        elif field == array_field and isinstance(value, memoryview):
            arrays.append(_array(value, name))
    return name, arrays


def _array(message: memoryview, layer: str) -> np.ndarray:
    shape: list[int] = []
    old_shape: dict[int, int] = {}
    parts: dict[int, list[memoryview]] = {}
    for field, value in _fields(message):
        if field in _NUMBERS and isinstance(value, memoryview):  # packed behind each other, or each by itself
            parts.setdefault(field, []).append(value)
        elif field == _SHAPE and isinstance(value, memoryview):
            shape = _shape(value)
        elif field in _OLD_SHAPE and isinstance(value, int):
            old_shape[field] = value
    if not shape and old_shape:
        shape = [old_shape.get(field, 1) for field in _OLD_SHAPE]
    field = next(iter(parts), 5)
    data = b"".join(parts.get(field, []))
    if len(data) != math.prod(shape) * _NUMBERS[field].itemsize:
        raise _DamagedError(f"layer {layer!r} has {len(data)} bytes for an array of shape {tuple(shape)}")
    return np.frombuffer(data, _NUMBERS[field]).reshape(shape)


def _shape(message: memoryview) -> list[int]:
    sides: list[int] = []
    for field, value in _fields(message):
        if field != 1:
            continue
        if isinstance(value, int):
            sides.append(value)
        else:  # packed
            at = 0
            while at < len(value):
                side, at = _varint(value, at)
                sides.append(side)
    return sides


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field's number and value: a whole number, or the bytes of anything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, written = key >> 3, key & 7
        if written == _VARINT:
            value, at = _varint(message, at)
            yield field, value
            continue
        if written == _BYTES:
            length, at = _varint(message, at)
        elif written in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if written == _EIGHT_BYTES else 4
        else:
            raise _DamagedError(f"field {field} is written in a way of its own, {written}")
        if field == 0 or length > len(message) - at:
            raise _DamagedError(f"field {field} is {length} bytes long where {len(message) - at} are left")
        yield field, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _DamagedError("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _DamagedError("a number is longer than ten bytes")
