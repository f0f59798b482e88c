"""The paper's rows on drawn scenes: every task fine-tuned from scratch and from a pre-training, side by side."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uniter.files import write_json
from uniter.pipeline import SHIPPED
from uniter.recipe import Recipe, parse_recipe
from uniter.regions.extract import extract
from uniter.run import evaluate, run
from uniter.scenes.write import make

STARTS = {"scratch": "from scratch", "pretrained": "pre-trained"}
SPLITS = {"test": "held-out pictures", "novel": "new pairs"}
# name of the row as in the paper's tables, the task that gives it, its number
ROWS = (
    ("VQA, accuracy", "vqa", "accuracy"),
    ("VCR, Q->A", "vcr", "Q->A"),
    ("VCR, QA->R", "vcr", "QA->R"),
    ("VCR, Q->AR", "vcr", "Q->AR"),
    ("NLVR2, accuracy", "nlvr2", "accuracy"),
    ("SNLI-VE, accuracy", "snli_ve", "accuracy"),
    ("Zero-shot image retrieval, R@1", "zero-shot", "image_recall_at_1"),
    ("Zero-shot text retrieval, R@1", "zero-shot", "text_recall_at_1"),
    ("Image retrieval, R@1", "retrieval", "image_recall_at_1"),
    ("Text retrieval, R@1", "retrieval", "text_recall_at_1"),
    ("RefCOCO, accuracy", "refcoco", "accuracy"),
)
TASKS = ("retrieval", "refcoco", "vqa", "snli_ve", "nlvr2", "vcr")
# What a task needs to be told about the world's files, whether it learns or is measured.
OPTIONS: dict[str, dict[str, Any]] = {"nlvr2": {"form": "paired"}, "vcr": {"boxes": "detected"}}
RATES = {"refcoco": 1.0e-3, "retrieval": 3.0e-4}  # learning rates; 5e-4 elsewhere

Numbers = dict[str, dict[str, dict[str, dict[str, float]]]]  # task, split, start -> the task's numbers


@dataclass(frozen=True)
class Budget:
    """How much is drawn, learnt and measured.

    Args:
        train, val, test, novel: pictures of each split.
        tokens: budget of a batch.
        updates: of fine-tuning, the same from both starts, by task.
        measured: pictures that retrieval is measured among.
        pretraining: updates of a pre-training of one's own on the train pictures; 0: the one that ships.
    """

    train: int = 1000
    val: int = 40
    test: int = 120
    novel: int = 120
    tokens: int = 2560
    updates: Mapping[str, int] = field(
        default_factory=lambda: dict.fromkeys(TASKS, 2000) | {"retrieval": 300, "refcoco": 300}
    )
    measured: int = 100
    pretraining: int = 0


def fine_tuning(
    place: Path, task: str, model: str, updates: int, tokens: int, seed: int, options: Mapping[str, Any]
) -> Recipe:
    """Fine-tuning of the tiny model on one of the world's tasks.

    Args:
        place: holds the `world` and its `regions`.
        task: a task that the world writes files of.
        model: the recipe's `model`, as YAML.
        updates: of fine-tuning.
        tokens: budget of a batch.
        seed: of weights and order.
        options: of the task.
    """
    training = {"seed": seed, "steps": updates, "tokens": tokens, "learning_rate": RATES.get(task, 5.0e-4)}
    training |= {"dropout": 0.0, "precision": "auto", "validate_every": max(1, updates // 3), "save_every": 250}
    return parse_recipe(
        f"""
kind: finetune
task: {task}
model: {model}
vocabulary: scenes
data: {json.dumps((place / "world").as_posix())}
regions: {json.dumps((place / "regions").as_posix())}
options: {json.dumps({**OPTIONS.get(task, {}), **options})}
train: {json.dumps(training)}
""",
        name=task,
    )


def scenes(
    out: str | Path,
    seeds: Sequence[int] = (0,),
    tasks: Sequence[str] = TASKS,
    budget: Budget | None = None,
    progress: bool = True,
) -> list[Numbers]:
    """Draw a world for each seed, fine-tune on every task from both starts, and measure.

    Every stage goes on where it was stopped; what is measured is kept.

    Args:
        out: folder of the bench; each seed has one in it.
        seeds: of pictures, weights and order.
        tasks: which of `TASKS`.
        budget: how much.
        progress: show progress lines.

    Returns:
        The numbers of each seed.

    Raises:
        ValueError: no such task, or the folder holds something else.
    """
    budget = budget or Budget()
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"the scenes have no task {task!r}: choose among {', '.join(TASKS)}")
    return [_one_seed(Path(out) / f"seed-{seed}", seed, tasks, budget, progress) for seed in seeds]


def _one_seed(out: Path, seed: int, tasks: Sequence[str], budget: Budget, progress: bool) -> Numbers:
    _claim(out / "budget.json", asdict(budget))
    path = out / "numbers.json"
    numbers: Numbers = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    left = [task for task in tasks if task not in numbers]
    if not left:
        return numbers
    pictures = {split: getattr(budget, split) for split in ("train", "val", *SPLITS)}
    make(out / "world", pictures, seed=seed, progress=progress)
    extract(out / "world" / "images", out / "regions", progress=progress)
    begun = SHIPPED / "pretrained"
    if budget.pretraining:
        begun = out / "runs" / "pretraining" / "last"
        _finish(_pretraining(out, budget, seed), out / "runs" / "pretraining", progress)
    models = {"scratch": "{size: tiny}", "pretrained": f"{{from: {json.dumps(begun.as_posix())}}}"}
    if "retrieval" in left:
        numbers["zero-shot"] = _measured(out, "retrieval", {"pretrained": begun}, budget, progress)
        write_json(path, numbers)
    for task in left:
        folders = {}
        for start, model in models.items():
            updates, narrow = budget.updates[task], {"captions_per_image": 1, "max_images": 30}
            options = narrow if task == "retrieval" else {"validation_examples": 150}
            recipe = fine_tuning(out, task, model, updates, budget.tokens, seed, options)
            _finish(recipe, out / "runs" / f"{task}-{start}", progress)
            folders[start] = out / "runs" / f"{task}-{start}" / "last"
        numbers[task] = _measured(out, task, folders, budget, progress)
        write_json(path, numbers)
    return numbers


def _claim(path: Path, budget: dict[str, Any]) -> None:
    """Take a folder for this budget, or refuse it."""
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != budget:
            raise ValueError(f"{path.parent} was measured with another budget ({path.name}): choose another --out")
    elif path.parent.exists() and any(path.parent.iterdir()):
        raise ValueError(f"{path.parent} holds something that is no bench: choose another --out")
    else:
        write_json(path, budget, indent=1)


def _finish(recipe: Recipe, folder: Path, progress: bool) -> None:
    if not run(recipe, folder, progress).finished:
        raise KeyboardInterrupt


def _measured(
    out: Path, task: str, folders: Mapping[str, Path], budget: Budget, progress: bool
) -> dict[str, dict[str, dict[str, float]]]:
    options = dict(OPTIONS.get(task, {}))
    if task == "retrieval":
        options = {"max_images": budget.measured, "captions_per_image": 1}
    given = [f"{key}={value}" for key, value in options.items()]
    return {
        split: {
            start: evaluate(task, out / "world", out / "regions", split, folder, given, progress=progress)
            for start, folder in folders.items()
        }
        for split in SPLITS
    }


def _pretraining(out: Path, budget: Budget, seed: int) -> Recipe:
    source = {"captions": (out / "world" / "dataset_scenes.json").as_posix(), "regions": (out / "regions").as_posix()}
    training = {"seed": seed, "steps": budget.pretraining, "tokens": budget.tokens, "learning_rate": 1.0e-3}
    training |= {"dropout": 0.0, "precision": "auto", "save_every": 500}
    return parse_recipe(
        f"""
kind: pretrain
model: {{size: tiny}}
vocabulary: scenes
sources: [{json.dumps(source)}]
objectives: {{mlm: 3, itm: 3, mrfr: 1, mrckl: 1, itm_swap: image}}
train: {json.dumps(training)}
""",
        name="pre-training",
    )


def table(found: Sequence[Numbers]) -> str:
    """The rows as Markdown: for each split, from scratch and pre-trained.

    Of several seeds the mean ± standard deviation; of one the number and its 95% interval where the task gives one.
    """
    columns = [(split, start) for split in SPLITS for start in STARTS]
    lines = [
        f"| | {' | '.join(f'{SPLITS[split]}, {STARTS[start]}' for split, start in columns)} |",
        "|---|" + "---:|" * len(columns),
    ]
    for name, task, key in ROWS:
        if any(task in numbers for numbers in found):
            cells = [
                _cell([numbers[task][split][start] for numbers in found if start in numbers[task][split]], key)
                for split, start in columns
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(numbers: Sequence[Mapping[str, float]], key: str) -> str:
    if not numbers:
        return "–"
    values = [found[key] for found in numbers]
    if len(values) > 1:
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    low, high = (numbers[0].get(f"{key}_{side}") for side in ("low", "high"))
    return f"{values[0]:.1f}" + (f" ({low:.1f}–{high:.1f})" if low is not None else "")
