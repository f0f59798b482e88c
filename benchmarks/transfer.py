"""Does pre-training help on drawn scenes? Seeds side by side, equal fine-tuning budget; writes docs/results/transfer.md.

    python benchmarks/transfer.py --out runs/transfer --seeds 0 1 2

Each seed draws pictures of its own, finds their regions, and fine-tunes on every task twice, from scratch and from the
pre-training that ships, with the same updates, rate and order. Every stage is resumed where it was stopped.
"""

import argparse
import json
import platform
import statistics
from pathlib import Path

import torch

from uniter.demo import Sizes, finetuning_recipe
from uniter.demo.report import ROWS
from uniter.files import write_json
from uniter.pipeline import SHIPPED
from uniter.regions.extract import extract
from uniter.run import evaluate, run
from uniter.scenes.write import make

STARTS = {"scratch": "from scratch", "shipped": "pre-trained"}
SPLITS = {"test": "held-out pictures", "novel": "new pairs"}
SIZES = Sizes(train=1000, val=40, test=120, novel=120, vqa=2000, refcoco=300, retrieval=300, measured=100, tokens=1280)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = [one_seed(options.out / f"seed-{seed}", seed) for seed in options.seeds]
    table = "\n".join(rows(found))
    text = f"""# Pre-training against none, on drawn scenes

`python benchmarks/transfer.py --seeds {" ".join(map(str, options.seeds))}`: mean over {len(found)} seeds ± standard deviation, percent.
A seed has its own {SIZES.train:,} training and {SIZES.test} + {SIZES.novel} held-out pictures, fresh weights and order. Both columns have the same fine-tuning: {SIZES.vqa:,} updates
for questions, {SIZES.refcoco} for expressions, {SIZES.retrieval} for retrieval, {2 * SIZES.tokens:,} tokens each. "Pre-trained" starts from the one pre-training that ships
(20,000 updates on other pictures, `docs/results/shipped.md`). Retrieval among {SIZES.measured} pictures, chance {100 / SIZES.measured:.1f}. "New pairs": every picture shows
colours and shapes that never occur together in training.

{table}

Machine: {platform.machine()}, {platform.system()}, {options.threads} threads, torch {torch.__version__}.
"""
    (Path(__file__).parents[1] / "docs" / "results" / "transfer.md").write_text(text, encoding="utf-8")
    print(table)


def one_seed(out: Path, seed: int) -> dict:
    """Numbers of a seed: task -> split -> start -> the task's numbers; kept in numbers.json."""
    path = out / "numbers.json"
    numbers = json.loads(path.read_text()) if path.is_file() else {}
    pictures = {split: getattr(SIZES, split) for split in ("train", "val", *SPLITS)}
    make(out / "world", pictures, seed=seed)
    extract(out / "world" / "images", out / "regions")
    models = [
        (task, start, out / "runs" / f"{task}-{start}") for task in ("retrieval", "refcoco", "vqa") for start in STARTS
    ]
    for task, start, folder in [("zero-shot", "shipped", SHIPPED / "pretrained"), *models]:
        if start in numbers.get(task, {}).get("test", {}):
            continue
        name = "retrieval" if task == "zero-shot" else task
        if task != "zero-shot":
            run(finetuning_recipe(out, SIZES, seed, task, start), folder)
            folder = folder / "last"
        among = [f"max_images={SIZES.measured}", "captions_per_image=1"] if name == "retrieval" else []
        for split in SPLITS:
            found = evaluate(name, out / "world", out / "regions", split, folder, among)
            numbers.setdefault(task, {}).setdefault(split, {})[start] = found
        write_json(path, numbers)
    return numbers


def rows(found: list[dict]) -> list[str]:
    """The table's lines: a row a number; for held-out pictures and for new pairs, from scratch and pre-trained."""
    columns = [(split, start) for split in SPLITS for start in STARTS]
    titles = [f"{SPLITS[split]}, {STARTS[start]}" for split, start in columns]
    lines = [f"| | {' | '.join(titles)} |", "|---|" + "---:|" * len(columns)]
    for name, task, key in ROWS:
        cells = [
            spread([numbers[task][split][start][key] for numbers in found if start in numbers[task][split]])
            for split, start in columns
        ]
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
