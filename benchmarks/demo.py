"""Time and memory of `uniter demo`, as a user runs it; writes docs/results/demo.md.

    python benchmarks/demo.py --out runs/demo

The folder has to be new: a demo that was done before would be measured for nothing.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    if options.out.exists():
        raise SystemExit(f"{options.out} exists already: remove it or choose another --out")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "uniter", "demo", "--out", str(options.out), "--quiet"], check=True)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # largest process; KiB on Linux
    stages = json.loads((options.out / "seconds.json").read_text())
    lines = "\n".join(f"| {name} | {spent:.0f} |" for name, spent in stages.items())
    text = f"""# Time and memory of the demo

`python benchmarks/demo.py`: **{seconds:.0f} s**, **{peak:.1f} GB** at most in one process. Load of the machine before it began: {load:.1f}.

| stage | seconds |
|---|---:|
{lines}

Machine: {os.cpu_count()} cores, {platform.machine()}, {platform.system()}; Python {platform.python_version()}, torch {torch.__version__}.
"""
    (Path(__file__).parents[1] / "docs" / "results" / "demo.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
