"""Files: written whole or not at all, JSON read or refused by name. A leaf that everyone may import."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def size_of(text: str) -> int:
    """Bytes of a size such as 16GB or 512MiB.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([KMGT]i?B)", text.strip(), flags=re.IGNORECASE)
    if not found or not float(found[1]):
        raise ValueError(f"{text!r} is no size: write it as 16GB or 512MiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


@contextmanager
def replacing(path: str | Path, wait: bool = True) -> Iterator[Path]:
    """A temporary file's path to write to, which takes the place of `path` afterwards, or is removed after an error.

    Args:
        path: the file; its folder is made.
        wait: until it is on disk; without, a crash of the machine (not of the process) may leave it empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        yield temporary
        if wait:
            flush(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # writing says that the disk is full, but not to which file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: str | Path, kind: type = dict, mend: str = "download or write it again") -> Any:
    """A JSON file whose outermost value is a `kind`.

    Args:
        path: the file.
        kind: dict, list or whatever is expected.
        mend: what a user can do about a file that is not there or no JSON.

    Raises:
        ValueError: missing, malformed or of another kind; names the file.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {mend}") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: a folder, not a JSON file; {mend}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); {mend}") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path}: expected a JSON {kind.__name__}, got a {type(found).__name__}; {mend}")
    return found


def flush(path: Path) -> None:
    """Ask the system to put a file or folder on disk now (folders cannot be asked on Windows)."""
    with suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):
                os.fsync(handle)
        finally:
            os.close(handle)
