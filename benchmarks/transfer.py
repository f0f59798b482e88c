"""Does pre-training help on drawn scenes? Seeds side by side, equal fine-tuning budget; writes docs/results/transfer.md.

    python benchmarks/transfer.py --out runs/transfer --seeds 0 1 2

Each seed draws pictures of its own, finds their regions, and fine-tunes on three tasks twice, from scratch and from the
pre-training that ships, with the same updates, rate and order. Every stage is resumed where it was stopped. The rows of
all tasks: `uniter bench scenes`.
"""

import argparse
import platform
from pathlib import Path

import torch

from uniter.bench import Budget, scenes, table

BUDGET = Budget()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = table(scenes(options.out, options.seeds, ("captions", "refcoco", "vqa"), BUDGET))
    text = f"""# Pre-training against none, on drawn scenes

`python benchmarks/transfer.py --seeds {" ".join(map(str, options.seeds))}`: mean over {len(options.seeds)} seeds ± standard deviation (95% interval of the mean by Student's t), percent.
A seed has its own {BUDGET.train:,} training and {BUDGET.test} + {BUDGET.novel} held-out pictures, fresh weights and order. Both columns have the same fine-tuning: {BUDGET.updates["vqa"]:,} updates
for questions, {BUDGET.updates["refcoco"]} for expressions, {BUDGET.updates["captions"]} for retrieval, {BUDGET.tokens:,} tokens each. "Pre-trained" starts from the one pre-training that ships
(20,000 updates on other pictures, `docs/results/shipped.md`). Retrieval among {BUDGET.measured} pictures, chance {100 / BUDGET.measured:.1f}. "New pairs": every picture shows
colours and shapes that never occur together in training.

{rows}

Machine: {platform.machine()}, {platform.system()}, {options.threads} threads, torch {torch.__version__}.
"""
    (Path(__file__).parents[1] / "docs" / "results" / "transfer.md").write_text(text, encoding="utf-8")
    print(rows)


if __name__ == "__main__":
    main()
