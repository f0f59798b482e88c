"""What runs lose by faults, of every kind, a hundred and more; writes docs/results/faults.md.

python benchmarks/faults.py [--faults 100] [--seed 0]
"""

import argparse
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from harness import Victims
from trials import (
    IMAGES,
    KINDS,
    SAVE_EVERY,
    SHARD_IMAGES,
    STEPS,
    Extraction,
    Fault,
    Ranks,
    Trial,
    draw_pictures,
    tiny_data,
)

from machine import processor
from uniter import draws

STRIKES = 4  # in a run, before it is let to end
RANKS = 2  # runs of two processes
WORKERS = 3  # extractions of which a worker is killed: slow, since their workers start from nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began, faults, ends = time.perf_counter(), [], Counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data, pictures = tiny_data(folder / "data"), draw_pictures(folder / "pictures")
        with Victims(folder, {}) as victims:
            (folder / "whole").mkdir()
            whole = Trial(victims, data, folder / "whole", 0).finish()
            store = Extraction(victims, pictures, folder / "whole", 0).finish()
            number = 0
            while sum(fault.hit for fault in faults) < asked.faults:
                spot, seed = folder / str(number), asked.seed + number
                spot.mkdir()
                if number % 5 == 4:
                    extraction = Extraction(victims, pictures, spot, seed)
                    kinds = ["file", "anywhere", "full", *["worker"] * (number // 5 < WORKERS)]
                    for kind in kinds:
                        report(extraction.strike(kind), began)
                    ends["extraction", extraction.finish() == store] += 1
                    faults += extraction.faults
                else:
                    trial = Trial(victims, data, spot, seed)
                    order = draws.permutation(asked.seed, "kinds", len(KINDS), number // len(KINDS))
                    for turn in range(STRIKES):
                        kind = KINDS[order[(number * STRIKES + turn) % len(KINDS)]]
                        if not trial.ended:
                            report(trial.strike(kind), began)
                    if number % 3 == 0 and not trial.ended:
                        report(trial.strike("failing"), began)
                    ends["run", trial.finish() == whole] += 1
                    faults += trial.faults
                number += 1
            (folder / "second").mkdir()
            with Victims(folder / "second", {}) as second:
                both = [victims, second]
                (folder / "together").mkdir()
                together = Ranks(both, data, folder / "together", 0).finish()
                for seed in range(RANKS):
                    (folder / f"ranks-{seed}").mkdir()
                    ranks = Ranks(both, data, folder / f"ranks-{seed}", asked.seed + seed)
                    for _ in range(STRIKES):
                        report(ranks.strike(), began)
                    ends["run", ranks.finish() == together] += 1
                    faults += ranks.faults
    text = page(faults, ends, whole, store, asked, time.perf_counter() - began)
    (Path(__file__).parents[1] / "docs" / "results" / "faults.md").write_text(text, encoding="utf-8")
    print(text)


def report(fault: Fault, began: float) -> None:
    print(f"{time.perf_counter() - began:6.1f} s  {fault.kind}{'' if fault.hit else ': came too late'}", flush=True)


def page(faults: list[Fault], ends: Counter, whole: str, store: str, asked: argparse.Namespace, seconds: float) -> str:
    rows = []
    for kind in sorted({fault.kind for fault in faults}):
        hit = [fault for fault in faults if fault.kind == kind and fault.hit]
        if not hit:
            continue
        lost = [fault.lost for fault in hit if fault.lost is not None]
        unit = "" if "extraction" not in kind else " pictures of finished shards"
        rows.append(f"| {kind} | {len(hit)} | {len(lost)} | {sum(lost) / len(lost):.1f}{unit} | {max(lost)} |")
    hits = sum(fault.hit for fault in faults)
    survived = sum(fault.hit and fault.lost is not None for fault in faults)
    updates = [fault.lost or 0 for fault in faults if fault.hit and "extraction" not in fault.kind]
    return f"""# Faults

`python benchmarks/faults.py --faults {asked.faults} --seed {asked.seed}`: the command line is launched, hit by a fault
that was drawn for it, and launched again, until it ends. A run has {STEPS} updates with a checkpoint every {SAVE_EVERY},
and streams {IMAGES} shards from a store behind a URL through a cache of a tenth of them; an extraction makes shards of
{SHARD_IMAGES} pictures. "Survived": the same command went on afterwards. "Lost": updates that were done again.

| fault | injected | survived | lost, on average | at most |
|---|---:|---:|---:|---:|
{chr(10).join(rows)}
| **all** | **{hits}** | **{survived}** | | |

| | ended | with the digest of the uninterrupted one |
|---|---:|---:|
| runs | {ends["run", True] + ends["run", False]} | {ends["run", True]} |
| extractions | {ends["extraction", True] + ends["extraction", False]} | {ends["extraction", True]} |

sha256 of the final weights without a fault: `{whole}`; of the store: `{store}`.
Updates lost in all: {sum(updates)} by {len(updates)} faults. NaN and infinite losses ended the launch with a report, each of which
`uniter replay` ran again. A truncated newest checkpoint costs the updates since the one before it.

{seconds:.0f} s in all on {processor()} ({platform.system()}), Python {platform.python_version()}, PyTorch {torch.__version__}; a launch is a process
forked from one that has loaded PyTorch, workers of an extraction start from nothing.
"""


if __name__ == "__main__":
    main()
