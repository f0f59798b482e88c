"""A store behind a URL: its names are read once, its shards when they are needed, through the node's cache."""

import hashlib
import json
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from uniter import remote
from uniter.files import write_bytes
from uniter.regions.store import HELD, INDEX, Held, Store, _Shard, header_end, parse_index, read_header

HEADS = 16384  # bytes of a shard that are asked for first: its header, and where its images begin
DOWNLOADS = 8  # shards at once
TOGETHER = 256  # shards whose names are asked for at once


class RemoteStore(Store):
    """The regions of many images behind a URL; in all else a `Store`.

    The names come by a few small reads of each shard, and are kept on this node; shards come whole, each checked
    against its sha256, into the cache (`uniter.remote`).

    Args:
        url: the folder of a store, as fsspec reads it (`s3://bucket/store`).

    Raises:
        ValueError: there is no store, or a file of it is damaged; the text names it and the mend.
        ConnectionError: it could not be read, though tried again.
    """

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self.cache = remote.node_cache()
        file = f"{self.path}/{INDEX}"
        try:
            data = remote.read_bytes(file)
        except (FileNotFoundError, IsADirectoryError):
            raise ValueError(
                f"there is no store at {self.path} (no {INDEX}): check the address, or copy a store there"
            ) from None
        self._open(parse_index(data, file))

    def _held(self) -> list[Held]:
        """From what this node keeps, or else by reading a little of each shard."""
        shards = self.index["shards"]
        said = json.dumps([self.path, [entry["sha256"] for entry in shards]])
        file = remote.cache_folder() / "names" / f"{hashlib.sha256(said.encode()).hexdigest()[:40]}.json"
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            return [Held(names, np.array(counts, np.int64)) for names, counts in kept]
        except (OSError, ValueError, TypeError):
            found = [held for first in range(0, len(shards), TOGETHER) for held in self._read_held(first)]
            write_bytes(file, json.dumps([[held.names, held.counts.tolist()] for held in found]).encode())
            return found

    def _read_held(self, first: int) -> list[Held]:
        """Of some shards at once; what is not as it should be is read again, each shard alone."""
        entries = self.index["shards"][first : first + TOGETHER]
        files = [entry["file"] for entry in entries]
        heads = remote.read_ranges(self.path, files, [0] * len(files), [min(HEADS, e["bytes"]) for e in entries])
        found: list[Held | None] = [None] * len(entries)
        with_rest = []  # places, files and bytes of names that lie behind the head
        for place, (entry, head) in enumerate(zip(entries, heads, strict=True)):
            with suppress(*_NO_HEADER):
                begin, end = _names_lie(head)
                if len(head) < end <= entry["bytes"]:
                    with_rest.append((place, entry["file"], begin, end))
                else:
                    found[place] = _held_in(entry, head, head[begin:end])
        _, names, begins, ends = zip(*with_rest, strict=True) if with_rest else ((), (), (), ())
        rest = remote.read_ranges(self.path, names, begins, ends)
        for (place, *_), data in zip(with_rest, rest, strict=True):
            with suppress(*_NO_HEADER):
                found[place] = _held_in(entries[place], heads[place], data)
        return [held or self._read_again(entry) for held, entry in zip(found, entries, strict=True)]

    def _read_again(self, entry: dict[str, Any]) -> Held:
        url = self._place(entry)

        def once() -> Held:
            try:
                head = remote.read_bytes(url, 0, min(entry["bytes"], header_end(remote.read_bytes(url, 0, 8))))
                header = read_header(head)
                head = remote.read_bytes(url, 0, max(header[name][3] for name in HELD if name != NAMES))
                return _held_in(entry, head, remote.read_bytes(url, *_names_lie(head)))
            except _NO_HEADER as error:
                raise remote.Damaged(f"what it holds cannot be read: {error}") from None

        try:
            return remote.tried(url, once)
        except ConnectionError as error:
            if isinstance(error.__cause__, remote.Damaged):
                raise ValueError(f"{url} is damaged ({error.__cause__}): copy it there again") from None
            raise

    def _mapped(self, number: int) -> _Shard:
        entry = self.index["shards"][number]
        for _ in range(remote.tries()):
            path = self.cache.fetch(self._place(entry), entry["sha256"], entry["bytes"])
            try:
                shard = _Shard(path, entry["bytes"])
            except ValueError:
                if path.exists():
                    raise
                continue  # thrown out by another process before it was mapped
            held = Held.of(*(shard.tensors[name] for name in HELD))
            if held.names != self.names[self._starts[number] : self._starts[number + 1]]:
                raise ValueError(
                    f"{self._place(entry)} holds other images than its first bytes said: remove "
                    f"{remote.cache_folder() / 'names'} and run again"
                )
            for other, mapped in list(self._shards.items()):  # what is mapped keeps its place on the disk
                if not mapped.path.exists():
                    del self._shards[other]
            return shard
        raise ValueError(
            f"{self.cache.folder} loses what was just downloaded: set UNITER_CACHE_SIZE to more than {self.cache.most}"
        )

    def prefetch(self, names: Iterable[str]) -> None:
        """Download the shards of these images that are not here, several at once."""
        names = list(names)
        wanted = sorted({self._find(name)[0] for name in names} - self._shards.keys())
        if len(wanted) > 1:
            with ThreadPoolExecutor(min(DOWNLOADS, len(wanted))) as pool:
                entries = [self.index["shards"][number] for number in wanted]
                list(pool.map(lambda e: self.cache.fetch(self._place(e), e["sha256"], e["bytes"]), entries))
        super().prefetch(names)

    def verify(self) -> None:
        """Download every shard, which compares it with its sha256."""
        for entry in self.index["shards"]:
            self.cache.fetch(self._place(entry), entry["sha256"], entry["bytes"])


NAMES = HELD[0]  # lies far from the header, where the others are
_NO_HEADER = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, struct.error)


def _names_lie(head: bytes) -> tuple[int, int]:
    """The bytes of a shard that its names lie between."""
    *_, begin, end = read_header(head)[NAMES]
    return begin, end


def _held_in(entry: dict[str, Any], head: bytes, names: bytes) -> Held:
    """Which images a shard holds, from its first bytes and those of its names.

    Raises:
        ValueError: this is not what was written, or it is not all there.
    """
    header = read_header(head)
    raw = [names, *(head[header[name][2] : header[name][3]] for name in HELD if name != NAMES)]
    if "held_sha256" in entry and hashlib.sha256(b"".join(raw)).hexdigest() != entry["held_sha256"]:
        raise ValueError("its names differ from what was written")
    held = Held.of(*(np.frombuffer(data, header[name][0]) for name, data in zip(HELD, raw, strict=True)))
    if len(held.names) != entry["images"] or len(held.counts) != entry["images"]:
        raise ValueError(f"it does not hold the {entry['images']} images that the index says")
    return held
