"""Files behind URLs: tried again, checked, and kept within bounds by any number of processes."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from uniter import remote
from uniter.remote import Cache

SIZE = 1000


def put(name: str, size: int = SIZE) -> tuple[str, str, int]:
    """A file of `memory://`: its URL, sha256 and size."""
    data = hashlib.sha256(name.encode()).digest() * (size // 32) + bytes(size % 32)
    fsspec.filesystem("memory").pipe_file(f"/remote/{name}", data)
    return f"memory://remote/{name}", hashlib.sha256(data).hexdigest(), size


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("UNITER_WAIT", "0.001")
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path / "node"))


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache", 3 * SIZE + 10)


def files(cache: Cache) -> set[str]:
    return {file.name for file in cache.folder.glob("[!.]*/*")}


def test_the_longest_unused_goes_first(cache):
    places = {name: put(name) for name in "abcde"}
    for name in "abc":
        assert cache.fetch(*places[name]).read_bytes() == fsspec.filesystem("memory").cat_file(f"/remote/{name}")
    cache.fetch(*places["a"])  # used again
    cache.fetch(*places["d"])
    assert files(cache) == {"a", "c", "d"} and cache.used() == 3 * SIZE
    cache.fetch(*places["e"])
    assert files(cache) == {"a", "d", "e"}


def test_what_is_there_is_not_fetched_again(cache, monkeypatch):
    url, sha256, size = put("once")
    path = cache.fetch(url, sha256, size)
    fsspec.filesystem("memory").rm_file("/remote/once")
    assert cache.fetch(url, sha256, size) == path
    path.write_bytes(b"cut")  # a file that is not whole does not count
    with pytest.raises(FileNotFoundError) as error:
        cache.fetch(url, sha256, size)
    assert error.value.filename == url


def test_larger_than_the_cache_is_refused(cache):
    with pytest.raises(ValueError, match=r"has 4000 bytes.*may hold 3010.*UNITER_CACHE_SIZE"):
        cache.fetch(*put("large", 4 * SIZE))


def fails(monkeypatch, kind: str, errors: list) -> list:
    """Let a call of memory:// raise these errors first; gives the calls."""
    system, calls = type(fsspec.filesystem("memory")), []
    whole = getattr(system, kind)

    def call(self, *arguments, **more):
        calls.append(arguments)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]
        return whole(self, *arguments, **more)

    monkeypatch.setattr(system, kind, call)
    return calls


def test_errors_that_may_pass_are_tried_again(cache, monkeypatch):
    url, sha256, size = put("shy")
    calls = fails(monkeypatch, "get_file", [TimeoutError("slow"), OSError("reset"), RuntimeError("whatever")])
    cache.fetch(url, sha256, size)
    assert len(calls) == 4
    calls = fails(monkeypatch, "cat_file", [ConnectionResetError()] * 2)
    assert len(remote.read_bytes(url, 10, 20)) == 10 and len(calls) == 3


def test_too_many_errors_name_the_url_and_the_mend(monkeypatch):
    url, *_ = put("gone")
    monkeypatch.setenv("UNITER_TRIES", "3")
    calls = fails(monkeypatch, "cat_file", [OSError("no route")] * 9)
    with pytest.raises(ConnectionError, match=f"{url} could not be read in 3 tries .*no route.*run the same command"):
        remote.read_bytes(url)
    assert len(calls) == 3


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(28, "full"), ImportError("no s3fs")])
def test_errors_that_last_are_raised_at_once(monkeypatch, error):
    url, *_ = put("closed")
    calls = fails(monkeypatch, "cat_file", [error])
    with pytest.raises(type(error)):
        remote.read_bytes(url)
    assert len(calls) == 1


def test_a_full_disk_names_the_file(cache, monkeypatch):
    place = put("heavy")
    fails(monkeypatch, "get_file", [OSError(28, "No space left on device")])
    with pytest.raises(OSError, match="No space") as error:
        cache.fetch(*place)
    assert str(error.value.filename).startswith(str(cache.folder))
    assert cache.used() == 0


def test_what_is_damaged_is_fetched_again_and_refused_in_the_end(cache, monkeypatch):
    url, sha256, size = put("spoilt")
    good = fsspec.filesystem("memory").cat_file("/remote/spoilt")
    system, whole = type(fsspec.filesystem("memory")), type(fsspec.filesystem("memory")).get_file
    spoilt = [b"x" * size, b"short"]

    def get(self, remote_path, local_path, **more):
        whole(self, remote_path, local_path, **more)
        if spoilt:
            Path(local_path).write_bytes(spoilt.pop())

    monkeypatch.setattr(system, "get_file", get)
    assert cache.fetch(url, sha256, size).read_bytes() == good
    monkeypatch.setenv("UNITER_TRIES", "2")
    with pytest.raises(ValueError, match=f"{url} is damaged .*sha256 differs.*copy it there again"):
        cache.fetch(url, "0" * 64, size)
    assert files(cache) == {"spoilt"}, "nothing that is damaged stays"


def test_the_wait_is_a_pure_function_that_grows_and_differs(monkeypatch):
    monkeypatch.setenv("UNITER_WAIT", "0.5")
    waits = [remote.wait_before("s3://a/b", attempt) for attempt in range(1, 12)]
    assert waits == [remote.wait_before("s3://a/b", attempt) for attempt in range(1, 12)]
    for attempt, wait in enumerate(waits, 1):
        most = min(remote.MOST_SECONDS, 0.5 * 2 ** (attempt - 1))
        assert most / 2 <= wait <= most
    assert len({remote.wait_before("s3://a/b", 3, rank) for rank in range(20)}) == 20


def test_what_killed_processes_left_is_removed_and_what_others_download_is_counted(cache):
    place = put("a")
    key = place[1][:40]
    left = cache.folder / f".{key}.99999.{SIZE}"
    left.mkdir()
    (left / "a").write_bytes(b"half")
    other = cache.folder / f".{'f' * 40}.99999.{2 * SIZE}"
    other.mkdir()
    with cache._lock(remote._stripe("f" * 40)):  # somebody is at it
        assert cache.used() == 2 * SIZE
        cache.fetch(*place)
        assert not left.exists() and other.exists()
        assert cache.used() == 3 * SIZE
    assert cache.used() == SIZE and not other.exists()


def test_threads_that_want_the_same_download_it_once(cache, monkeypatch):
    calls = fails(monkeypatch, "get_file", [])
    places = [put(name) for name in "ab"] * 4
    threads = [threading.Thread(target=cache.fetch, args=place) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 2 and files(cache) == {"a", "b"}


WORK = """
import sys
from pathlib import Path
from uniter.remote import Cache
folder, most, *names = sys.argv[1:]
cache = Cache(Path(folder), int(most))
import hashlib
for turn in range(12):
    for name in names:
        data = Path(name).read_bytes()
        path = cache.fetch(Path(name).as_uri(), hashlib.sha256(data).hexdigest(), len(data))
        try:
            assert path.read_bytes() == data
        except FileNotFoundError:
            pass  # thrown out between: there is less room than files that are wanted at once
        assert cache.used() <= cache.most
"""


def test_processes_share_it_within_its_bound(tmp_path):
    names = []
    for number in range(6):
        file = tmp_path / f"file-{number}"
        file.write_bytes(os.urandom(SIZE))
        names.append(str(file))
    environment = {**os.environ, "PYTHONPATH": str(Path(remote.__file__).parents[1])}
    processes = [
        subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path / "cache"), str(4 * SIZE), *order], env=environment)
        for order in (names, names[::-1])
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert Cache(tmp_path / "cache", 0).used() <= 4 * SIZE


def test_a_file_or_a_folder_is_copied_to_the_node_under_its_own_name(monkeypatch, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/texts/captions.tsv", b"a\tb")
    memory.pipe_file("/texts/base.db/data.mdb", b"data")
    memory.pipe_file("/texts/base.db/meta.json", b"{}")
    assert remote.local(tmp_path) == tmp_path
    first = remote.local("memory://texts/captions.tsv")
    assert first.name == "captions.tsv" and first.read_bytes() == b"a\tb"
    folder = remote.local("memory://texts/base.db")
    assert folder.name == "base.db" and sorted(file.name for file in folder.iterdir()) == ["data.mdb", "meta.json"]
    memory.pipe_file("/texts/captions.tsv", b"c\td")  # another version
    assert remote.local("memory://texts/captions.tsv").read_bytes() == b"c\td"
    with pytest.raises(FileNotFoundError):
        remote.local("memory://texts/none.json")


@pytest.mark.parametrize(
    ("text", "size"), [("50GB", 50 * 10**9), ("500 MB", 5 * 10**8), ("2e9", 2 * 10**9), ("10GiB", 10 * 2**30), ("7", 7)]
)
def test_sizes(text, size):
    assert remote.read_size(text) == size


def test_wrong_settings_are_refused(monkeypatch):
    monkeypatch.setenv("UNITER_CACHE_SIZE", "much")
    with pytest.raises(ValueError, match=r"UNITER_CACHE_SIZE is 'much'.*50GB"):
        remote.node_cache()
    monkeypatch.setenv("UNITER_TRIES", "0")
    with pytest.raises(ValueError, match=r"UNITER_TRIES is '0'"):
        remote.tries()
    with pytest.raises(ValueError, match="nosuch://x"):
        remote.read_bytes("nosuch://x")
