"""A store behind a URL: its names are read once, its shards when they are needed, through the node's cache."""

import hashlib
import json
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

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
        entries = self.index["shards"][first : first + TOGETHER]
        files = [entry["file"] for entry in entries]
        heads = remote.read_ranges(self.path, files, [0] * len(files), [min(HEADS, e["bytes"]) for e in entries])
        found = []
        try:
            ends = [header_end(head) for head in heads]
            for place, (end, entry) in enumerate(zip(ends, entries, strict=True)):
                if not 8 < end <= entry["bytes"]:
                    raise ValueError("its header is none")
                if end > len(heads[place]):  # more tensors than we write
                    heads[place] = remote.read_bytes(f"{self.path}/{files[place]}", 0, end)
            headers = [read_header(head) for head in heads]
            asked = [(place, name) for place in range(len(entries)) for name in HELD]
            spans = [headers[place][name][2:] for place, name in asked]
            here = [end <= len(heads[place]) for (place, _), (_, end) in zip(asked, spans, strict=True)]
            far = [number for number, is_here in enumerate(here) if not is_here]
            read = remote.read_ranges(
                self.path,
                [files[asked[number][0]] for number in far],
                [spans[number][0] for number in far],
                [spans[number][1] for number in far],
            )
            data = dict(zip(far, read, strict=True))
            for place in range(len(entries)):
                arrays = []
                for number in range(place * len(HELD), (place + 1) * len(HELD)):
                    begin, end = spans[number]
                    raw = heads[place][begin:end] if here[number] else data[number]
                    arrays.append(np.frombuffer(raw, headers[place][asked[number][1]][0]))
                found.append(Held.of(*arrays))
        except (ValueError, KeyError, TypeError, struct.error) as error:
            place = len(found) if len(found) < len(files) else 0
            raise ValueError(
                f"a shard of {self.path}, such as {files[place]}, is damaged ({error}): copy it there again"
            ) from None
        return found

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
