"""How long `import uniter` and `uniter --help` take; writes docs/results/start_up.md.

python benchmarks/start_up.py
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

IMPORT, TORCH = "python -c 'import uniter'", "python -c 'import torch'"
WHAT = {
    IMPORT: ["-c", "import uniter"],
    TORCH: ["-c", "import torch"],
    "python -c pass": ["-c", "pass"],
    "uniter --help": ["-m", "uniter", "--help"],
}


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and of the processor by processes that have ended (0 on Windows)."""
    times = os.times()
    return time.perf_counter(), times.children_user + times.children_system


def measure(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of the whole process, on the wall and of the processor, of each command in each round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in WHAT}
    for _ in range(rounds):  # side by side, round by round
        for name, arguments in WHAT.items():
            wall, work = clocks()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times[name].append((clocks()[0] - wall, clocks()[1] - work))
    return times


def main() -> None:
    times = {name: [wall for wall, _ in taken] for name, taken in measure(10).items()}
    rows = "\n".join(f"| `{name}` | {statistics.median(t):.2f} | {max(t):.2f} |" for name, t in times.items())
    text = f"""# Start-up

`python benchmarks/start_up.py`: seconds of the whole process, 10 rounds.

| command | median | largest |
|---|---:|---:|
{rows}

Python {platform.python_version()}, {platform.machine()}, {platform.system()}.
"""
    (Path(__file__).parents[1] / "docs" / "results" / "start_up.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
