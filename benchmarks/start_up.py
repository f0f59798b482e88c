"""How long `import uniter` and `uniter --help` take; writes docs/results/start_up.md.

python benchmarks/start_up.py
"""

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


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds of the whole process, of each command in each round."""
    times: dict[str, list[float]] = {name: [] for name in WHAT}
    for _ in range(rounds):  # side by side, round by round
        for name, arguments in WHAT.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times[name].append(time.perf_counter() - began)
    return times


def main() -> None:
    times = measure(10)
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
