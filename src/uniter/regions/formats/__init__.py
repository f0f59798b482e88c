"""The door for foreign region files: `open_regions` looks at what lies at a path and gives what reads it.

`official` reads the image LMDBs of the published code, `tsv` the files of bottom-up attention and LXMERT, `hdf5` and
`npz` what their names say; `foreign` is what they share.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uniter.regions.source import RegionSource
from uniter.remote import is_url

Place = str | os.PathLike


def open_regions(path: Place | Sequence[Place], **options: Any) -> RegionSource:
    """The regions at a path, whatever their format; `docs/formats.md` says what is read.

    Args:
        path: a store, its URL, or a file or folder in a format of somebody else; of several their images together.
        options: of foreign formats: `detector`, the name of what made the regions; `conf_threshold`, `max_regions`,
            `min_regions`, which of an image's regions to take; `progress`, show a bar where an index of lines is built
            (by default on a terminal).

    Raises:
        ValueError: there is nothing that can be read, or it is damaged; the text says what was found.
    """
    from uniter.regions.store import INDEX, Store

    if not isinstance(path, str | os.PathLike):
        from uniter.regions.joined import JoinedRegions

        parts = [open_regions(part, **options) for part in path]
        return parts[0] if len(parts) == 1 else JoinedRegions(parts)
    if is_url(path):
        from uniter.regions.remote_store import RemoteStore

        if given := [name for name, value in options.items() if value is not None and name != "progress"]:
            raise ValueError(f"{path} is a store, which is read as it is: leave {', '.join(given)} out")
        return RemoteStore(str(path))
    path = Path(path)
    kind = _kind(path)
    if kind is None:
        given = [name for name, value in options.items() if value is not None and name != "progress"]
        if (path / INDEX).exists() and given:
            raise ValueError(f"{path} is a store, which is read as it is: leave {', '.join(given)} out")
        try:
            return Store(path)
        except ValueError as error:
            if not path.exists() or (path / INDEX).exists():
                raise
            raise ValueError(f"{error}; {_found(path)}, and docs/formats.md says what else is read") from None
    return kind(path, **options)


def _kind(path: Path) -> type | None:
    """The reader for what lies there; None: a store, or nothing known."""
    if path.is_dir():
        if (path / "index.json").exists():
            return None
        from uniter.regions.formats.npz import NpzFolder, npz_files
        from uniter.regions.formats.official import OfficialRegions, lmdb_folders

        if lmdb_folders(path):
            return OfficialRegions
        return NpzFolder if next(npz_files(path), None) else None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        from uniter.regions.formats.hdf5 import Hdf5Regions

        return Hdf5Regions
    if head.startswith(b"PK"):
        from uniter.regions.formats.npz import FlatNpz

        return FlatNpz
    if path.name == "data.mdb":
        from uniter.regions.formats.official import OfficialRegions

        return OfficialRegions
    if b"\t" in head and b"\0" not in head:
        from uniter.regions.formats.tsv import TsvRegions

        return TsvRegions
    return None


def _found(path: Path) -> str:
    if path.is_file():
        return "it is a file, neither TSV nor HDF5 nor npz"
    inside = sorted(entry.name for entry in path.iterdir())
    return f"in it: {', '.join(inside[:3])}{', ...' if len(inside) > 3 else ''}" if inside else "it is empty"
