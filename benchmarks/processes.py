"""Throughput of training by one and by two processes of this machine; writes docs/results/processes.md.

python benchmarks/processes.py [--steps 40] [--size small]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from machine import processor

WAYS = {
    "1 process, 1 thread": (1, 1, "ddp"),
    "1 process, 2 threads": (1, 2, "ddp"),
    "2 processes, DDP": (2, 1, "ddp"),
    "2 processes, FSDP2": (2, 1, "fsdp"),
}


def say(*command: str, threads: int = 1) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, *command], check=True, env=environment, stdout=subprocess.DEVNULL)


def examples_a_second(run: Path) -> float:
    """The median over updates, the first three left out."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if "loss" in line][3:]
    return statistics.median(line["examples"] / line["seconds"] for line in updates)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", default="small")
    asked = parser.parse_args()
    rows, load = [], []
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        pictures = ("--train", "60", "--val", "0", "--test", "0", "--novel", "0", "--quiet")
        say("-m", "uniter", "scenes", "make", "--out", str(world / "data"), *pictures)
        say("-m", "uniter", "extract", str(world / "data" / "images"), "--out", str(world / "regions"), "--quiet")
        source = f"{{captions: {world / 'data' / 'dataset_scenes.json'}, regions: {world / 'regions'}, split: train}}"
        settings = [
            *(f"model.size={asked.size}", f"sources=[{source}]", "validation=[]", f"train.steps={asked.steps}"),
            *("train.tokens=2560", "train.accumulate=2", "train.warmup=0", "train.precision=float32"),
        ]
        for name, (processes, threads, engine) in WAYS.items():
            run = world / name.replace(" ", "-")
            launch = ("-m", "torch.distributed.run", "--nproc-per-node", str(processes)) if processes > 1 else ()
            if launch:
                launch = (*launch, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
            command = ("-m", "uniter", "pretrain", "scenes-pretrain", "--out", str(run), "--quiet")
            if hasattr(os, "getloadavg"):
                load.append(os.getloadavg()[0])
            say(*launch, *command, *settings, f"train.engine={engine}", f"train.threads={threads}", threads=threads)
            rows.append((name, examples_a_second(run)))
            print(rows[-1], flush=True)
    first = rows[0][1]
    table = "\n".join(f"| {name} | {rate:.0f} | {rate / first:.2f} |" for name, rate in rows)
    before = f"{min(load):.1f} to {max(load):.1f}" if load else "unknown"
    text = f"""# Throughput of one and of two processes

`python benchmarks/processes.py --steps {asked.steps} --size {asked.size}`: pre-training on drawn scenes, float32, updates of two micro-batches
of 2,560 tokens, the median over updates. A process has one thread unless said otherwise.

| | examples a second | times one process |
|---|---:|---:|
{table}

{processor()}, {os.cpu_count()} cores, PyTorch {torch.__version__}, Python {platform.python_version()}. Load of the machine before each
(1-minute average of what else was running): {before}.
"""
    (Path(__file__).parents[1] / "docs" / "results" / "processes.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
