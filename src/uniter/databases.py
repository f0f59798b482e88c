"""LMDB folders of the published code, opened once a process. A leaf that everyone may import."""

import os
import threading
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

# LMDB refuses to open a folder twice in a process. Folder -> environment, and what the file was like then.
_environments: dict[str, tuple[Any, tuple]] = {}
_opening = threading.Lock()


@lru_cache(maxsize=1024)
def _key(folder: Path) -> str:
    return os.path.realpath(folder)  # slow beside reading a record


def needs(module: str) -> ModuleType:
    """A package of the extra `formats`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        name = module.split(".")[0]
        raise ImportError(f'reading this needs {name}: pip install "uniter[formats]"') from None


def open_database(folder: Path) -> Any:
    """The open LMDB environment of a folder, for reading; the same for all who ask in this process.

    Raises:
        ValueError: `data.mdb` is damaged or cut short.
        ImportError: the package lmdb is not installed.
    """
    lmdb, key, file = needs("lmdb"), _key(folder), folder / "data.mdb"
    with _opening:
        if key in _environments:
            return _environments[key][0]
        try:
            opened = lmdb.open(key, readonly=True, lock=False, readahead=True, create=False, max_dbs=0)
        except lmdb.Error as error:
            raise ValueError(f"{file} cannot be opened, it is damaged or no LMDB ({error}): copy it again") from None
        # LMDB maps the file, and the system would kill us where pages are missing.
        have, need = file.stat().st_size, (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]
        if have < need:
            opened.close()
            raise ValueError(f"{file} is cut short ({have} of {need} bytes): copy it again")
        _environments[key] = opened, _stamp(file)
        return opened


def look_again(folder: Path) -> None:
    """Close a folder's environment if its file is no longer the one that was opened."""
    with _opening:
        key = _key(folder)
        if key in _environments and _environments[key][1] != _stamp(folder / "data.mdb"):
            _environments.pop(key)[0].close()


def close_database(folder: Path) -> None:
    """Close a folder's environment, for all who read it in this process; the next read opens it again."""
    with _opening:
        opened, _ = _environments.pop(_key(folder), (None, None))
        if opened is not None:
            opened.close()


def _stamp(file: Path) -> tuple:
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _forget() -> None:
    """In a process that was forked: close what was inherited, so that it is opened anew when it is asked for."""
    global _opening
    for environment, _ in _environments.values():
        environment.close()
    _environments.clear()
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
