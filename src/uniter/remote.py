"""Files behind URLs, read through fsspec: tried again when they fail, and kept in a bounded folder of the node.

A leaf that everyone may import. What is read whole goes through a `Cache`: a folder that all processes of a node
share, from which the longest unused files go when there is no more room.

    KEY/shard-00000.safetensors     a file under its own name; KEY is its sha256, or what tells its version
    .KEY.PID.BYTES/                 what a process is downloading, counted by its size to be
    .locks/                         the system's locks: those of a killed process are gone
"""

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from uniter import draws
from uniter.files import flush, size_of

T = TypeVar("T")
LOCKS = 64  # files that locks are taken on; two downloads wait for each other if they share one
MOST_SECONDS = 30.0  # between two tries
SHARE = 0.5  # of the free disk, where nobody says how large the cache may be
_LASTING = {  # errors that no further try mends
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EMFILE),
}


def is_url(place: str | os.PathLike) -> bool:
    """Whether fsspec has to read it."""
    return "://" in str(place)


def needed(module: str, extra: str = "scale") -> Any:
    """A module that an extra brings.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ValueError(f"this needs {module} ({error}): pip install 'uniter[{extra}]'") from None


def system_of(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it.

    Raises:
        ValueError: there is no such kind of address, or what reads it is not installed.
    """
    try:
        return needed("fsspec").core.url_to_fs(url)
    except ImportError as error:
        kind = url.partition("://")[0]
        extra = "s3" if kind in ("s3", "s3a") else "scale"
        raise ValueError(f"{url} cannot be read ({error}): pip install 'uniter[{extra}]'") from None
    except ValueError as error:  # a kind of address that nobody knows
        if str(error).startswith("this needs"):
            raise
        raise ValueError(f"{url} cannot be read ({error}): check the address") from None


def cache_folder() -> Path:
    """Where is kept what can be made or fetched again: $UNITER_CACHE, or `uniter` in the user's cache folder."""
    if found := os.environ.get("UNITER_CACHE"):
        return Path(found)
    home = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "uniter"


# ---------------------------------------------------------------- tries


def tries() -> int:
    """How often something is tried before giving up: $UNITER_TRIES, or 8."""
    said = os.environ.get("UNITER_TRIES", "8")
    if not said.isdecimal() or int(said) < 1:
        raise ValueError(f"UNITER_TRIES is {said!r}: give a number of 1 or more")
    return int(said)


def wait_before(url: str, attempt: int, rank: int = 0) -> float:
    """Seconds to wait before a further try: doubled each time, and spread so that processes do not come all at once.

    Args:
        url: what is read.
        attempt: the tries so far, from 1.
        rank: of the process among all that read.
    """
    first = float(os.environ.get("UNITER_WAIT", "0.5"))
    return min(MOST_SECONDS, first * 2 ** (attempt - 1)) * (0.5 + 0.5 * float(draws.uniform(rank, url, attempt)))


def tried(url: str, read: Callable[[], T]) -> T:
    """What `read` gives, tried again after errors that may pass.

    Raises:
        FileNotFoundError: there is nothing at the URL.
        ConnectionError: it failed too often; the text says how to go on.
    """
    most, rank = tries(), int(os.environ.get("RANK", "0"))
    for attempt in range(1, most + 1):
        try:
            return read()
        except Exception as error:
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(2, "there is nothing", url) from None
            if not _may_pass(error):
                raise
            if attempt == most:
                raise ConnectionError(
                    f"{url} could not be read in {most} tries ({type(error).__name__}: {error}): look at the network "
                    "and the address, then run the same command again"
                ) from error
        time.sleep(wait_before(url, attempt, rank))
    raise AssertionError("the last try returns or raises")


def _may_pass(error: Exception) -> bool:
    """Whether another try may do: not where we are not let in, this disk is full, or the program is wrong."""
    name = type(error).__name__
    if "Credentials" in name or isinstance(error, ValueError | NotImplementedError | ImportError | TypeError):
        return False
    return not (isinstance(error, OSError) and error.errno in _LASTING)


class Damaged(OSError):  # noqa: N818 - what it is, not what it does
    """What came is not what was written; it may be another time."""


# ---------------------------------------------------------------- reading


def read_bytes(url: str, begin: int = 0, end: int | None = None) -> bytes:
    """The bytes of a file from `begin` up to `end`.

    Raises:
        FileNotFoundError: there is nothing at the URL.
        ConnectionError: it failed too often.
    """
    system, path = system_of(url)
    span = {} if begin == 0 and end is None else {"start": begin, "end": end}
    return tried(url, lambda: system.cat_file(path, **span))


def read_ranges(url: str, names: Sequence[str], begins: Sequence[int], ends: Sequence[int]) -> list[bytes]:
    """The bytes of several files below a URL, at once where its system can; arguments as in `read_bytes`."""
    system, base = system_of(url)
    paths = [f"{base}/{name}" for name in names]
    found: list[Any] = system.cat_ranges(paths, list(begins), list(ends), on_error="return") if paths else []
    for place, data in enumerate(found):
        if not isinstance(data, bytes | bytearray | memoryview):
            found[place] = read_bytes(f"{url}/{names[place]}", begins[place], ends[place])
    return [bytes(data) for data in found]


def local(place: str | os.PathLike) -> Path:
    """A path as it is, or of a URL the path of the node's copy: a file, or a folder with all that is in it.

    Raises:
        FileNotFoundError: there is nothing at the URL.
        ConnectionError: it failed too often.
    """
    return node_cache().fetch(str(place)) if is_url(place) else Path(place)


# ---------------------------------------------------------------- the cache


def node_cache() -> "Cache":
    """The cache of this node: in `cache_folder()`, of $UNITER_CACHE_SIZE bytes ("50GB"), or half of the free disk."""
    return _cache(cache_folder() / "remote", os.environ.get("UNITER_CACHE_SIZE"))


@lru_cache(maxsize=8)
def _cache(folder: Path, size: str | None) -> "Cache":
    folder.mkdir(parents=True, exist_ok=True)
    if size is None:
        cache = Cache(folder, 0)
        cache.most = int(SHARE * (shutil.disk_usage(folder).free + cache.used()))
        return cache
    return Cache(folder, read_size(size))


def read_size(text: str) -> int:
    """Bytes, from "50GB", "500 MiB", "2e9"."""
    if re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?(e[0-9]+)?\s*", text, re.IGNORECASE):
        return int(float(text))
    try:
        return size_of(text)
    except ValueError:
        raise ValueError(f"UNITER_CACHE_SIZE is {text!r}: give a size such as 50GB or 500MB") from None


class Cache:
    """A folder of at most so many bytes, of copies of files behind URLs.

    Any number of processes may share it, and be killed at any time. A file that is in use while it is thrown out stays
    readable to those who have it open; on Windows it stays in the folder.

    Args:
        folder: made if missing.
        most: bytes that the files may have together, those included that are on their way.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        (folder / ".locks").mkdir(parents=True, exist_ok=True)

    def fetch(self, url: str, sha256: str | None = None, size: int | None = None) -> Path:
        """The copy of a file or folder, downloaded if it is not there.

        Args:
            url: of it.
            sha256: of a file's contents, if it is known; what differs is downloaded again, and refused in the end.
            size: of the file, if it is known.

        Raises:
            FileNotFoundError: there is nothing at the URL.
            ConnectionError: it failed too often.
            ValueError: it is not what it should be, or larger than the cache.
        """
        if sha256 is None:
            files, key = _listing(url)
        else:
            assert size is not None, "who knows the contents knows the size"
            files, key = {"": size}, sha256[:40]
        path = self.folder / key / _last(url)
        if self._use(path, files):
            return path
        with self._lock(_stripe(key)):
            if not self._use(path, files):  # nobody was quicker
                self._download(url, key, files, sha256)
        return path

    def used(self) -> int:
        """Bytes of all that is there or on its way."""
        with self._lock("room"):
            return sum(size for _, size, _ in self._entries())

    def _use(self, path: Path, files: dict[str, int]) -> bool:
        """Note that it is used, if it is there as a whole."""
        try:
            whole = all((path / name if name else path).stat().st_size == size for name, size in files.items())
            os.utime(path.parent)
        except OSError:
            return False
        return whole

    def _download(self, url: str, key: str, files: dict[str, int], sha256: str | None) -> None:
        """Download what is locked."""
        total = sum(files.values())
        if total > self.most:
            raise ValueError(
                f"{url} has {total} bytes, and the cache {self.folder} may hold {self.most}: set UNITER_CACHE_SIZE to "
                "several times of it"
            )
        for left in [*self.folder.glob(f".{key}.*"), self.folder / key]:  # of a killed one, or not whole
            shutil.rmtree(left, ignore_errors=True)
        fresh = self.folder / f".{key}.{os.getpid()}.{total}"
        with self._lock("room"):
            self._make_room(total)
            fresh.mkdir()
        try:
            for name, size in files.items():
                target = fresh / _last(url) / name if name else fresh / _last(url)
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(f"{url}/{name}" if name else url, target, size, sha256)
            with self._lock("room"):  # who counts sees it once
                fresh.rename(self.folder / key)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _make_room(self, bytes_needed: int) -> None:
        """Throw out what was not used for longest, until so much fits."""
        entries = sorted(self._entries())
        used = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if used + bytes_needed <= self.most:
                return
            if path.name.startswith("."):
                continue
            gone = self.folder / f".gone.{os.getpid()}.0"
            with suppress(OSError):  # Windows keeps what somebody has open
                path.rename(gone)  # at once, so that nobody finds half of it
                used -= size
            shutil.rmtree(gone, ignore_errors=True)

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """When it was used, bytes, and path of all that is there; what killed processes left is removed."""
        for path in self.folder.iterdir():
            with suppress(OSError):  # it was thrown out meanwhile
                if not path.name.startswith("."):
                    yield path.stat().st_mtime_ns, sum(f.stat().st_size for f in path.rglob("*") if f.is_file()), path
                elif path.name != ".locks" and path.is_dir():
                    _, key, _, size = path.name.split(".")
                    if not self._is_left(key, path):
                        yield path.stat().st_mtime_ns, int(size), path

    def _is_left(self, key: str, path: Path) -> bool:
        """Whether nobody works on it any more; then it is removed."""
        if key != "gone":
            try:
                with self._lock(_stripe(key), wait=0):
                    shutil.rmtree(path, ignore_errors=True)
                return True
            except Timeout:
                return False
        shutil.rmtree(path, ignore_errors=True)
        return True

    @contextmanager
    def _lock(self, name: str, wait: float = -1) -> Iterator[None]:
        with FileLock(self.folder / ".locks" / name, timeout=wait):
            yield


def _copy(url: str, target: Path, size: int, sha256: str | None) -> None:
    """Download one file, and look whether it is what it should be."""
    system, path = system_of(url)

    def once() -> None:
        system.get_file(path, str(target))
        if target.stat().st_size != size:
            raise Damaged(f"{target.stat().st_size} bytes came, it should be {size}")
        if sha256 is not None:
            with target.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise Damaged("its sha256 differs from what was written")

    try:
        tried(url, once)
    except ConnectionError as error:
        if isinstance(error.__cause__, Damaged):
            raise ValueError(f"{url} is damaged ({error.__cause__}): copy it there again") from None
        raise
    except OSError as error:
        if error.errno in _LASTING and error.filename is None:  # a write that failed does not say where
            raise OSError(error.errno, error.strerror, str(target)) from None
        raise
    flush(target)


def _listing(url: str) -> tuple[dict[str, int], str]:
    """The files at a URL and their sizes ("" for the URL itself), and what tells this version of them."""
    system, path = system_of(url)

    def once() -> tuple[dict[str, int], str]:
        said = system.info(path)
        if said["type"] != "directory":
            if said["size"] is None:
                raise ValueError(f"{url}: its server does not say how large it is; copy it here, or to another server")
            return {"": said["size"]}, str(system.ukey(path))
        base = path.rstrip("/") + "/"
        found = {name[len(base) :]: one for name, one in system.find(path, detail=True).items()}
        version = [(name, found[name]["size"], str(system.ukey(base + name))) for name in sorted(found)]
        return {name: one["size"] for name, one in found.items()}, str(version)

    files, version = tried(url, once)
    return files, hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:40]


def _last(url: str) -> str:
    """The last part of a URL's path."""
    return url.rstrip("/").rpartition("/")[2]


def _stripe(key: str) -> str:
    return str(int(key[:8], 16) % LOCKS)
