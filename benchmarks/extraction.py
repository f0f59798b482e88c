"""Images a second of extraction, by one and two processes, beside a plain loop over the detector.

    python benchmarks/extraction.py

Writes docs/results/extraction.md. Linux, two processor cores: under two minutes.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision

from detector import processor
from uniter.files import read_json
from uniter.regions.detectors import load_detector
from uniter.regions.extract import extract
from uniter.regions.pictures import open_picture
from uniter.scenes.write import make

ROUNDS = 2
LINES = 500_000
LISTING = """
import re, sys, time
from pathlib import Path
from types import SimpleNamespace
from uniter.regions.shard_work import begin
detector = SimpleNamespace(fingerprint="none", class_names=["background"])
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before, began = peak(), time.perf_counter()
begin(sys.argv[1], Path(sys.argv[2]), detector, 512, None, False, [], False)
print(time.perf_counter() - began, peak() - before)
"""


def plain(files: list[Path], out: Path) -> None:
    """What one would write without a store: nothing is kept."""
    detector = load_detector("scenes", "cpu")
    for file in files:
        detector.detect([open_picture(file)])


def extraction(workers: int):
    def run(files: list[Path], out: Path) -> None:
        extract(files, out, progress=False, shard_images=16, workers=workers)

    return run


WAYS = {
    "a plain loop, nothing kept": plain,
    "`uniter extract`": extraction(1),
    "`uniter extract --workers 2`": extraction(2),
}


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and of processors' time, with that of processes that have ended."""
    return time.perf_counter(), sum(os.times()[:4])


def listing(folder: Path) -> tuple[float, float]:
    """Seconds and bytes of memory that it takes to cut the work of a list of pictures."""
    lines = (f"/data/pictures/{number // 1000:05d}/{number:09d}.jpg\n" for number in range(LINES))
    (folder / "list.txt").write_text("".join(lines))
    command = [sys.executable, "-c", LISTING, folder / "list.txt", folder / "listed"]
    seconds, size = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), float(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=32)
    parser.add_argument("--many", type=int, default=160)
    parser.add_argument("--out", type=Path, default=Path("docs/results/extraction.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    torch.cuda.is_available = lambda: False  # type: ignore[method-assign]  # a processor is measured
    seconds: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make(folder / "world", {"train": options.many}, workers=2, progress=False)
        files = sorted(path for path in (folder / "world" / "images").iterdir() if path.suffix != ".json")
        plain(files[:4], folder)  # the first pictures pay for set-up
        kept = {}
        for number in range(ROUNDS):
            for name, way in WAYS.items():  # side by side, round by round
                for count in (options.few, options.many):
                    out = folder / f"{number} {count} {len(kept)} {name.strip('`').replace(' ', '-')}"
                    began = clocks()
                    way(files[:count], out)
                    taken = tuple(after - before for after, before in zip(clocks(), began, strict=True))
                    seconds.setdefault((name, count), []).append(taken)
                    if out.exists():
                        kept[name, number, count] = read_json(out / "index.json")["shards"]
        listed = listing(folder)
        shards = kept["`uniter extract`", 0, options.many]
        same = all(found == shards for (_, _, count), found in kept.items() if count == options.many)
        if not same:
            raise ValueError("the stores differ")
        size = sum(shard["bytes"] for shard in shards) / options.many
        regions = sum(shard["regions"] for shard in shards) / options.many
    rows = []
    for name in WAYS:
        # the quickest of each clock: what other work on the machine disturbed least
        few, many = (tuple(map(min, *seconds[name, count])) for count in (options.few, options.many))
        wall, work = ((large - small) / (options.many - options.few) for small, large in zip(few, many, strict=True))
        rows.append(f"| {name} | {1 / wall:.1f} | {1000 * work:.1f} | {max(0.0, few[0] - options.few * wall):.1f} |")
    text = f"""# Extraction

Images a second of the shipped detector, one torch thread a process, from JPEG to store. Start: what a run takes apart from its
pictures (loading the detector; with workers, starting them). Both follow from runs of {options.few} and of {options.many} drawn pictures,
the quickest of {ROUNDS} rounds side by side. The stores were the same to the byte.

| | images a second | processor ms an image | start, seconds |
|---|---:|---:|---:|
{chr(10).join(rows)}

A picture has {regions:.1f} regions and takes {size:,.0f} bytes in the store. To cut the work of a list of {LINES:,} pictures, once, takes
{listed[0]:.0f} s and {listed[1] / 1e9:.2f} GB of memory.

- command: `python benchmarks/extraction.py`
- machine: {processor()}, {platform.system()}; {os.cpu_count()} cores, at the start of it {load:.1f} other
  processes wanted one (load average): with fewer free cores than workers, these are no quicker than one
- versions: Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}
"""
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
