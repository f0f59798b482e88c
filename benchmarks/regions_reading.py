"""How fast regions are read: the published code's LMDBs against our store. `python benchmarks/regions_reading.py`.

Makes its own images in the published layout (about 1 GB in a temporary folder), imports them, reads them in random order
in batches into one packed float32 buffer, on one core, and writes docs/results/regions_reading.md. Needs
`pip install "uniter[formats]"`. Run it with nothing else running.
"""

import argparse
import io
import json
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import torch
from tqdm import tqdm

from machine import processor
from uniter.regions.importing import import_regions
from uniter.regions.packed import PackedRegions
from uniter.regions.store import Store

FEATURES, CLASSES, BATCH = 2048, 1601, 64
AHEAD = 3  # so many batches before it is read the store is told of one
RESULT = Path(__file__).parents[1] / "docs" / "results" / "regions_reading.md"
CHOICE = "th0.2_max100_min10"


def image(number: int) -> dict[str, np.ndarray]:
    """An image like the published ones: 10 to 100 regions, features an average of rectified values, peaked classes."""
    draw = np.random.default_rng(number)
    rows = int(np.clip(10 + draw.gamma(2.2, 13.2), 10, 100))
    logits = draw.normal(0, 2, (rows, CLASSES))
    logits[np.arange(rows), draw.integers(1, CLASSES, rows)] += 12
    probs = np.exp(logits - logits.max(1, keepdims=True))
    corners = np.sort(draw.uniform(0, 1, (rows, 2, 2)), axis=1).reshape(rows, 4)
    return {
        "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1).astype(np.float16),
        "features": draw.gamma(0.4, 1.2, (rows, FEATURES)).astype(np.float16),
        "conf": np.sort(draw.uniform(0.2, 1, (rows, 1)), axis=0)[::-1].astype(np.float16),
        "soft_labels": (probs / probs.sum(1, keepdims=True)).astype(np.float16),
    }


def make(folder: Path, images: int) -> dict[str, int]:
    """Both flavours as the published conversion writes them, with the count file; file name -> regions."""
    packed = lmdb.open(str(folder / f"feat_{CHOICE}"), map_size=1 << 40)
    zipped = lmdb.open(str(folder / f"feat_{CHOICE}_compressed"), map_size=1 << 40)
    counts = {}
    with packed.begin(write=True) as plain, zipped.begin(write=True) as small:
        for number in tqdm(range(images), desc="making images"):
            name, arrays = f"coco_train2014_{number:012}.npz", image(number)
            counts[name] = len(arrays["features"])
            encoded = {
                key: {b"nd": True, b"type": a.dtype.str, b"kind": b"", b"shape": a.shape, b"data": a.tobytes()}
                for key, a in arrays.items()
            }
            plain.put(name.encode(), msgpack.packb(encoded, use_bin_type=True))
            data = io.BytesIO()
            np.savez_compressed(data, allow_pickle=np.array(True), **arrays)
            small.put(name.encode(), data.getvalue())
        for transaction in (plain, small):
            transaction.put(b"__keys__", json.dumps(list(counts)).encode())
    packed.close()
    zipped.close()
    (folder / f"nbb_{CHOICE}.json").write_text(json.dumps(counts))
    return counts


class Packed:
    """What a batch is read into: all its regions behind each other, as the model takes them."""

    def __init__(self, regions: int) -> None:
        self.features = torch.zeros(regions, FEATURES)
        self.halves = torch.zeros(regions, FEATURES, dtype=torch.float16)
        self.locations = torch.zeros(regions, 7)
        self.probs = torch.zeros(regions, CLASSES)


def open_lmdb(folder: Path) -> lmdb.Environment:
    """As the published code opens it."""
    return lmdb.open(str(folder), readonly=True, lock=False)


def read_lmdb(
    environment: lmdb.Environment, batches: list[list[str]], counts: dict[str, int], into: Packed, probs: bool
) -> None:
    """Read an LMDB as the published code does: decode, cut, widen, append the area."""
    compressed = environment.path().endswith("_compressed")
    with environment.begin(buffers=True) as transaction:
        for batch in batches:
            row = 0
            for name in batch:
                value, count = transaction.get(name.encode()), counts[name]
                if compressed:
                    fields = np.load(io.BytesIO(value), allow_pickle=False)
                else:
                    members = msgpack.unpackb(value, raw=False, strict_map_key=False)
                    fields = {
                        key: np.ndarray(m[b"shape"], m[b"type"], bytearray(m[b"data"]))
                        for key, m in members.items()
                        if probs or key in ("features", "norm_bb")
                    }
                rows = slice(row, row + count)
                into.features[rows] = torch.from_numpy(fields["features"][:count])
                boxes = torch.from_numpy(fields["norm_bb"][:count]).float()
                into.locations[rows] = torch.cat([boxes, boxes[:, 4:5] * boxes[:, 5:]], 1)
                if probs:
                    into.probs[rows] = torch.from_numpy(fields["soft_labels"][:count])
                row += count


def read_store(store: Store, batches: list[list[str]], counts: dict[str, int], into: Packed, probs: bool) -> None:
    """Read the same from our store, which is told of each batch some batches ahead."""
    for batch in batches[:AHEAD]:
        store.prefetch(batch)
    for number, batch in enumerate(batches):
        for ahead in batches[number + AHEAD : number + AHEAD + 1]:
            store.prefetch(ahead)
        sizes = np.array([counts[name] for name in batch])
        rows = int(sizes.sum())
        class_probs = into.probs.numpy()[:rows] if probs else None
        features = (into.halves if store.feature_type == np.float16 else into.features).numpy()[:rows]
        packed = PackedRegions(features, into.locations.numpy()[:rows], sizes, class_probs)
        store.fill(batch, packed, packed.starts())


def forget(folder: Path) -> None:
    """Drop a folder's pages from the system's cache."""
    for file in sorted(folder.iterdir()):
        descriptor = os.open(file, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def disk(folder: Path) -> float:
    """MB/s at which the disk gives a folder's files in order to four threads, in pieces of 1 MB that are thrown away."""
    forget(folder)
    local, size = threading.local(), 1 << 20
    files = [os.open(file, os.O_RDONLY) for file in sorted(folder.iterdir())]

    def piece(file: int, begin: int) -> int:
        if not hasattr(local, "room"):
            local.room = bytearray(size)
        return os.preadv(file, [local.room], begin)

    with ThreadPoolExecutor(4) as pool:
        began = time.perf_counter()
        pieces = [(file, begin) for file in files for begin in range(0, os.fstat(file).st_size, size)]
        done = sum(pool.map(piece, *zip(*pieces, strict=True)))
        seconds = time.perf_counter() - began
    for file in files:
        os.close(file)
    return done / 1e6 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--folder", type=Path, help="where to make the images and leave them; a temporary one if left out"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder or Path(tempfile.mkdtemp())
    try:
        measure(folder, options.images, options.rounds)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def measure(folder: Path, images: int, rounds: int) -> None:
    db = folder / "coco_train2014"
    if not (folder / "store").exists():
        db.mkdir(parents=True)
        make(db, images)
        import_regions(db, folder / "store", progress=False)
    if not (folder / "compact").exists():
        import_regions(db, folder / "compact", progress=False, compact=True)
    counts = json.loads((db / f"nbb_{CHOICE}.json").read_text())
    order = np.random.default_rng(0).permutation(list(counts)).tolist()
    batches = [order[begin : begin + BATCH] for begin in range(0, len(order), BATCH)]
    into = Packed(max(sum(counts[name] for name in batch) for batch in batches))
    ways = {
        "official LMDB, compressed": (open_lmdb, read_lmdb, db / f"feat_{CHOICE}_compressed"),
        "official LMDB, uncompressed": (open_lmdb, read_lmdb, db / f"feat_{CHOICE}"),
        "our store": (Store, read_store, folder / "store"),
        "our store, --compact": (Store, read_store, folder / "compact"),
    }
    seconds: dict[tuple, list[float]] = {}
    disk_speeds = []
    for _ in tqdm(range(rounds), desc="rounds"):
        disk_speeds.append(disk(folder / "store"))
        for probs in (False, True):
            for way, (open_, read, place) in ways.items():
                source = open_(place)
                forget(place)  # also what opening read
                for cache in ("cold", "warm"):
                    began = time.perf_counter()
                    read(source, batches, counts, into, probs)
                    seconds.setdefault((probs, way, cache), []).append(time.perf_counter() - began)
                source.close()
    speed = {key: len(counts) / statistics.median(values) for key, values in seconds.items()}
    size = {way: sum(file.stat().st_size for file in place.iterdir()) / 1e6 for way, (_, _, place) in ways.items()}
    lines = [
        "# How fast regions are read",
        "",
        "`python benchmarks/regions_reading.py` wrote this.",
        f"{len(counts):,} made-up images in the published layout, {np.mean(list(counts.values())):.1f} regions an image, "
        f"{FEATURES} numbers and {CLASSES} soft labels a region,",
        f"in random order in batches of {BATCH}. One core; medians of {rounds} interleaved rounds.",
        "Into one packed buffer of float32, as the published model takes it; the store's float16 into one of float16, as ours",
        "does, and the compact store's bytes into one of float32.",
        "Cold: the files' pages were dropped from the system's cache once the files were open. Warm: the same images "
        "again, by the same reader.",
        "The LMDBs are read in the published way (decode, cut, widen, append the area), the store by `Store`.",
        "Times are those of the first line over the others'; the spread is the slowest and the fastest round.",
        "",
        f"{platform.machine()}, {processor()}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"PyTorch {torch.__version__}, lmdb {lmdb.__version__}.",
        "",
    ]
    base = next(iter(ways))
    for probs, title in ((False, "Features and boxes"), (True, "Features, boxes and soft labels")):
        lines += [f"## {title}", "", "| | MB | warm, images/s | times | spread | cold, images/s | times | spread |"]
        lines += ["|---|---:|---:|---:|---|---:|---:|---|"]
        for way in ways:
            cells = []
            for cache in ("warm", "cold"):
                took = [len(counts) / s for s in seconds[probs, way, cache]]
                ratio = speed[probs, way, cache] / speed[probs, base, cache]
                cells += [f"{speed[probs, way, cache]:,.0f}", f"{ratio:.1f}", f"{min(took):,.0f} to {max(took):,.0f}"]
            lines.append(f"| {way} | {size[way]:.0f} | {' | '.join(cells)} |")
        lines.append("")
    per_image = size["our store"] / len(counts)
    fast = max(disk_speeds)
    reach = [fast / per_image / speed[probs, base, "cold"] for probs in (False, True)]
    lines += [
        "The first line waits for the processor, also cold. The store is told of each batch "
        f"{AHEAD} batches ahead (`prefetch`), so that the disk works while",
        "batches are made. Four threads that read the store's files in order and threw them away got "
        f"{statistics.median(disk_speeds):,.0f} MB/s from the disk ({min(disk_speeds):,.0f} to {fast:,.0f}).",
        f"The fastest of these is {fast / per_image:,.0f} images/s at the store's {per_image * 1000:.0f} KB an image, "
        f"{reach[0]:.1f} times the first line cold without and {reach[1]:.1f} times with",
        "soft labels: what a reader would reach that had nothing to do but wait for this disk.",
        "",
        "The store keeps of the soft labels the 32 largest and the rest's mass, and makes whole rows of them when they",
        "are asked for; the LMDBs hold all. `uniter import-regions --full` keeps all. The compact store rounds each region's",
        "features to 255 steps of their range; the other keeps them to the bit.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
