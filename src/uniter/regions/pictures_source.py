"""Where pictures come from: a folder, a glob, a list, WebDataset tars or Parquet files, here or behind a URL.

`find_pictures` gives an ordered list of `Picture`s, which say where their bytes are; `read_bytes` gets them. A URL
(`s3://...`, `gs://...`, `https://...`) is read through fsspec.
"""

import glob
import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import takewhile
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

from uniter import remote
from uniter.remote import is_url as is_url
from uniter.remote import needed as needed
from uniter.remote import system_of

ENDINGS = ("jpg", "jpeg", "jpe", "png", "webp", "bmp", "dib", "gif", "tif", "tiff", "ppm", "pgm", "avif")
"""What a tar's member has to end in to be a picture: the others of its key say something about it."""

NAME_COLUMNS = ("name", "file_name", "filename", "path", "image_path", "key", "__key__", "image_id", "id", "url")
"""Where the name of a Parquet file's picture is looked for, in this order."""

_MAGIC = re.compile(r"[*?[]")

Source = str | os.PathLike | Sequence[str | os.PathLike]


class Place(NamedTuple):
    """Where bytes are: a file, `size` bytes of a tar from `first` on, or row `first` of a Parquet file's row group."""

    path: str
    first: int = 0
    size: int = -1
    column: str = ""
    group: int = 0


class Picture(NamedTuple):
    """A picture's name, where its bytes are, and where in a tar its JSON is."""

    name: str
    place: Place
    json: Place | None = None

    def beside(self) -> Place | None:
        """Where its JSON with boxes would be (VCR's metadata); None in a tar without, and in a Parquet file."""
        path, _, size, column, _ = self.place
        if size >= 0 or column:
            return self.json
        return Place(path[: len(path) - len(PurePosixPath(path.replace(os.sep, "/")).suffix)] + ".json")


@dataclass(frozen=True)
class Failure:
    """A picture that gave no regions: its name and why."""

    name: str
    reason: str


def find_pictures(
    source: Source, out: Path | None = None, root: str | os.PathLike | None = None
) -> tuple[list[Picture], list[Failure]]:
    """The pictures of a source, in an order that depends on the source alone.

    A file's name is its path below the folder, the glob's fixed part, or the common folder of the list, with `/`; a
    tar's picture is named as in the tar; a Parquet file's as its name column says. Files are taken by name, what is in
    a tar or Parquet file as it lies there. Hidden files are left out, and so is a JSON file named as a file beside it.

    Args:
        source: a folder, searched with all folders in it; a glob; a list of paths, one a line (`@list` or `*.txt`;
            relative ones begin at the list's folder); a tar, Parquet file or picture; a URL of one of these; or paths.
        out: a folder to leave out. Or None.
        root: the folder that names begin below, if not the above.

    Returns:
        The pictures, and what was found wrong: names that came twice, tars that end in the middle.

    Raises:
        ValueError: there is no such source, or nothing in it.
    """
    found: dict[str, Picture] = {}
    failures: list[Failure] = []
    for name, path in _files(source, out, root):
        inside = {".tar": _in_tar, ".parquet": _in_parquet}.get(PurePosixPath(path).suffix.lower())
        pictures = inside(path, failures) if inside else [Picture(name, Place(path))]
        for picture in pictures:
            try:
                picture.name.encode()
            except UnicodeEncodeError:
                name = picture.name.encode(errors="replace").decode()
                failures.append(Failure(name, "the file's name is not valid UTF-8: rename it"))
                continue
            if picture.name in found:
                first = found[picture.name].place.path
                failures.append(Failure(picture.name, f"the name is there twice, in {first} (taken) and {path}"))
                continue
            found[picture.name] = picture
    if not found and not failures:
        raise ValueError(f"there are no pictures in {source}: give a folder with JPEG, PNG, WebP, BMP or GIF files")
    return list(found.values()), failures


def list_pictures(
    source: Source, out: Path | None = None, root: str | os.PathLike | None = None
) -> list[tuple[str, Path]]:
    """Names and paths of local picture files, as `find_pictures` finds them."""
    return [(picture.name, Path(picture.place.path)) for picture in find_pictures(source, out, root)[0]]


def read_bytes(place: Place) -> bytes:
    """The bytes at a place.

    Raises:
        ValueError: they are not all there.
        OSError: the system or the server refuses.
    """
    if place.column:
        with _reading_rows:
            value = _rows(place.path, place.column, place.group)[place.first].as_py()
        value = value.get("bytes") if isinstance(value, dict) else value
        if value is None:
            raise ValueError(f"row {place.first} of row group {place.group} in {place.path} holds no bytes")
        return value
    if is_url(place.path):
        data = remote.read_bytes(place.path, place.first, None if place.size < 0 else place.first + place.size)
    elif place.size < 0:
        return Path(place.path).read_bytes()
    else:
        with Path(place.path).open("rb") as file:
            file.seek(place.first)
            data = file.read(place.size)
    if 0 <= place.size != len(data):
        raise ValueError(f"{place.path} ends in the middle of it")
    return data


def to_open(place: Place) -> str | BinaryIO:
    """What an image library opens: the path of a file here, so that not all of it is read, or else the bytes."""
    whole = place.size < 0 and not place.column and not is_url(place.path)
    return place.path if whole else io.BytesIO(read_bytes(place))


# ---------------------------------------------------------------- files: (name, path or URL), by name


def _files(source: Source, out: Path | None, root: str | os.PathLike | None) -> list[tuple[str, str]]:
    if not isinstance(source, str | os.PathLike):
        paths = [str(path) for path in source]
        missing = [path for path in paths if not is_url(path) and not Path(path).is_file()]
        if missing:
            raise ValueError(
                f"{len(missing)} of the {len(paths)} files do not exist, such as {missing[0]}: check the paths"
            )
        return _named(paths, root)
    text = os.fspath(source)
    if text.startswith("@") or (text.lower().endswith(".txt") and not _MAGIC.search(text)):
        return _named(_lines(text.removeprefix("@")), root)
    if is_url(text):
        return _named(*_at_url(text, root))
    path = Path(text)
    if path.is_dir():
        return _named(_walk(path, out), root or path)
    if path.is_file():
        return _named([text], root)
    if _MAGIC.search(text):
        found = [p for p in glob.glob(text, recursive=True) if Path(p).is_file()]  # noqa: PTH207
        return _named(found, root or Path(*takewhile(lambda part: not _MAGIC.search(part), path.parts)))
    raise ValueError(f"there is no folder {path}: check the path")


def _lines(file: str) -> list[str]:
    """The paths in a list file."""
    try:
        data = read_bytes(Place(file))
    except FileNotFoundError:
        raise ValueError(f"there is no list {file}: check the path") from None
    lines = [line.strip() for line in os.fsdecode(data).splitlines()]
    if is_url(file):
        return [line for line in lines if line]
    folder = str(Path(file).parent)  # and no Path for each of millions of lines
    return [line if is_url(line) else os.path.join(folder, line) for line in lines if line]  # noqa: PTH118


def _named(paths: Iterable[str], root: str | os.PathLike | None) -> list[tuple[str, str]]:
    """Each path with its name below the root, by name; paths here become absolute."""
    paths = list(paths)
    if len({is_url(path) for path in paths}) > 1:
        raise ValueError("paths and URLs are mixed: give them as two sources, one after the other")
    if not paths:
        return []
    if is_url(paths[0]):
        first, last = min(paths), max(paths)  # what these share, all share
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last)))
        base = str(root).rstrip("/") + "/" if root else first[: first.rindex("/", 0, same or None) + 1]
    else:
        paths = [os.path.abspath(path) for path in paths]  # noqa: PTH100 (resolving links would change names)
        base = os.path.abspath(root) if root else os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH100, PTH120
        base = os.path.join(base, "")  # noqa: PTH118
    if not all(path.startswith(base) for path in paths):
        raise ValueError(f"not all files lie below {base}: give their common folder as root")
    return sorted((path[len(base) :].replace(os.sep, "/"), path) for path in paths)


def _walk(folder: Path, out: Path | None) -> Iterator[str]:
    left_out = None if out is None else out.resolve()
    for parent, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and Path(parent, f).resolve() != left_out]
        yield from (os.path.join(parent, file) for file in _without_metadata(files))  # noqa: PTH118


def _without_metadata(files: Sequence[str]) -> Iterator[str]:
    """Files of one folder that are neither hidden nor a JSON named as a file beside it: a picture's metadata (VCR)."""
    stems = Counter(PurePosixPath(file).stem for file in files)
    for file in files:
        if not file.startswith(".") and not (file.endswith(".json") and stems[PurePosixPath(file).stem] > 1):
            yield file


# ---------------------------------------------------------------- URLs


def _at_url(url: str, root: str | os.PathLike | None) -> tuple[list[str], str | os.PathLike | None]:
    """The files of a folder, a glob or a file at a URL, and the URL that names begin below."""
    system, path = system_of(url)
    if magic := _MAGIC.search(path):
        found = [file for file, said in system.glob(path, detail=True).items() if said["type"] == "file"]
        base = path[: magic.start()].rpartition("/")[0]
    elif system.isdir(path):
        found, base = system.find(path), path
    elif system.exists(path):
        found, base = [path], path.rpartition("/")[0]
    else:
        raise ValueError(f"there is nothing at {url}: check the address")
    base = base.rstrip("/") + "/"
    folders: dict[str, list[str]] = {}
    for file in sorted(found):
        parent, _, name = file.rpartition("/")
        below = f"{parent}/"[len(base) :]
        if not any(part.startswith(".") for part in below.split("/")):
            folders.setdefault(parent, []).append(name)
    files = [f"{parent}/{name}" for parent, names in folders.items() for name in _without_metadata(names)]
    return [system.unstrip_protocol(file) for file in files], root or system.unstrip_protocol(base)


def _opened(path: str) -> BinaryIO:
    return needed("fsspec").open(path, "rb").open() if is_url(path) else Path(path).open("rb")


# ---------------------------------------------------------------- what holds many pictures


def _in_tar(path: str, failures: list[Failure]) -> list[Picture]:
    """The pictures of an uncompressed tar in WebDataset's manner: members of one key lie together."""
    places: dict[str, Place] = {}
    found: list[tuple[str, Place]] = []
    try:
        with _opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if not member.isreg() or member.issparse() or PurePosixPath(member.name).name.startswith("."):
                    continue
                name, place = member.name.removeprefix("./"), Place(path, member.offset_data, member.size)
                places[name] = place
                if name.lower().rpartition(".")[2] in ENDINGS:
                    found.append((name, place))
    except FileNotFoundError:
        failures.append(Failure(path, "there is no such tar: check the path"))
    except (tarfile.TarError, EOFError) as error:
        failures.append(Failure(path, f"the tar is damaged, compressed or cut short ({error}): copy it again"))
    if not found and not any(failure.name == path for failure in failures):
        failures.append(Failure(path, f"no file in the tar is a picture ({', '.join(ENDINGS[:5])}, ...)"))
    return [Picture(name, place, places.get(_key(name) + ".json")) for name, place in found]


def _key(name: str) -> str:
    """A tar member's key: its name up to the first point of its last part."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _in_parquet(path: str, failures: list[Failure]) -> list[Picture]:
    """The rows of a Parquet file: the first column of bytes, or of {bytes, path}, holds the pictures."""
    parquet = needed("pyarrow.parquet")
    try:
        with _opened(path) as file, parquet.ParquetFile(file) as table:
            return list(_table_rows(path, table))
    except FileNotFoundError:
        failures.append(Failure(path, "there is no such Parquet file: check the path"))
    except (ValueError, OSError) as error:  # pyarrow's errors are these
        failures.append(Failure(path, f"cannot be read as a Parquet file of pictures: {error}"))
    return []


def _table_rows(path: str, table: Any) -> Iterator[Picture]:
    types = import_module("pyarrow").types
    schema = table.schema_arrow

    def is_bytes(kind: Any) -> bool:
        return kind is not None and (types.is_binary(kind) or types.is_large_binary(kind))

    def fields(kind: Any) -> dict[str, Any]:
        return {field.name: field.type for field in kind} if types.is_struct(kind) else {}

    columns = [field.name for field in schema if is_bytes(field.type) or is_bytes(fields(field.type).get("bytes"))]
    if not columns:
        raise ValueError(f"no column holds bytes; its columns are {', '.join(schema.names)}")
    column = columns[0]
    names = next((name for name in NAME_COLUMNS if name in schema.names and name != column), None)
    if names is None and "path" in fields(schema.field(column).type):
        names = f"{column}.path"
    row = 0
    for group in range(table.num_row_groups):
        count = table.metadata.row_group(group).num_rows
        said: list[Any] = [None] * count
        if names is not None:
            said = table.read_row_group(group, columns=[names]).column(0).to_pylist()
            said = [value.get("path") if isinstance(value, dict) else value for value in said]
        for first, name in enumerate(said):
            unnamed = f"{PurePosixPath(path.replace(os.sep, '/')).stem}/{row:08d}"
            yield Picture(unnamed if name in (None, "") else str(name), Place(path, first, -1, column, group))
            row += 1


_reading_rows = Lock()  # pictures are taken row by row, so that threads ask for the same row group


@lru_cache(maxsize=2)
def _rows(path: str, column: str, group: int) -> Any:
    """A column of a row group; the last ones are kept."""
    with _opened(path) as file, needed("pyarrow.parquet").ParquetFile(file) as table:
        return table.read_row_group(group, columns=[column]).column(0)
