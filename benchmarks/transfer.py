"""Does pre-training help on drawn scenes? Seeds side by side, equal fine-tuning budget; writes docs/results/transfer.md.

    python benchmarks/transfer.py --out runs/transfer --seeds 0 1 2

Each seed is a demo (`uniter demo`) with its own pictures, weights and order.
"""

import argparse
import json
import platform
import statistics
from pathlib import Path

import torch

from uniter.demo import Sizes, run_demo
from uniter.demo.report import ROWS

STARTS = ("scratch", "pretrained", "shipped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--sizes", type=json.loads, default={}, help='JSON of demo sizes to change, as {"pretraining": 4000}'
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = Sizes(**options.sizes)
    found = []
    for seed in options.seeds:
        run_demo(options.out / f"seed-{seed}", seed, sizes=sizes)
        found.append(json.loads((options.out / f"seed-{seed}" / "numbers.json").read_text()))
    table = "\n".join(rows(found))
    asked = f" --sizes '{json.dumps(options.sizes)}'" if options.sizes else ""
    text = f"""# Pre-training against none, on drawn scenes

`python benchmarks/transfer.py --seeds {" ".join(map(str, options.seeds))}{asked}`: mean over {len(found)} seeds ± standard deviation,
percent. All columns have the same fine-tuning budget and settings ({sizes.vqa}, {sizes.refcoco} and {sizes.retrieval} updates of {2 * sizes.tokens} tokens). "Pre-trained
here": {sizes.pretraining} updates on the seed's own {sizes.train} pictures. "Shipped pre-training": one pre-training for all seeds (20,000 updates on
other pictures, `docs/results/shipped.md`); seeds differ in fine-tuning and pictures. Retrieval among {sizes.measured} pictures, chance {100 / sizes.measured:.1f}.
"New pairs": every picture shows colours and shapes that never occur together in training.

{table}

Machine: {platform.machine()}, {platform.system()}, {options.threads} threads, torch {torch.__version__}.
"""
    (Path(__file__).parents[1] / "docs" / "results" / "transfer.md").write_text(text, encoding="utf-8")
    print(table)


def rows(found: list[dict]) -> list[str]:
    """The table's lines: a row a number, columns from scratch and pre-trained, held-out pictures and new pairs."""
    kinds = ("from scratch", "pre-trained here", "shipped pre-training")
    lines = [f"| | {' | '.join(kinds)} | new pairs: {' | new pairs: '.join(kinds)} |", "|---|" + "---:|" * 6]
    for name, task, key in ROWS:
        cells = []
        for split in ("test", "novel"):
            for start in STARTS:
                values = [numbers[task][split][start][key] for numbers in found if start in numbers[task][split]]
                cells.append(spread(values))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def spread(values: list[float]) -> str:
    """Mean and standard deviation, or a dash."""
    if not values:
        return "–"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    main()
