"""The main job, once, offline, in minutes: pictures and sentences in, a pre-trained and fine-tuned model and a page about it out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniter.bench import fine_tuning
from uniter.demo.report import Numbers, write_report
from uniter.files import write_json
from uniter.pipeline import SHIPPED
from uniter.recipe import Recipe, parse_recipe
from uniter.regions.extract import extract
from uniter.run import evaluate, run
from uniter.scenes.write import make
from uniter.stages import Clock

TASKS = ("vqa", "refcoco", "retrieval")
STARTS = ("scratch", "pretrained", "shipped")
SPLITS = ("test", "novel")


@dataclass(frozen=True)
class Sizes:
    """How much the demo does.

    Args:
        pictures: drawn for each split.
        pretraining: updates of pre-training.
        vqa, refcoco, retrieval: updates of fine-tuning on each task, from each start.
        measured: pictures that retrieval is measured among.
        tokens: budget of a batch in pre-training; fine-tuning has twice as much.
    """

    train: int = 500
    val: int = 30
    test: int = 80
    novel: int = 60
    pretraining: int = 900
    vqa: int = 80
    refcoco: int = 120
    retrieval: int = 50
    measured: int = 40
    tokens: int = 1280


def pretraining_recipe(out: Path, sizes: Sizes, seed: int) -> Recipe:
    """Pre-training of the tiny model on the demo's own pictures: the paper's objectives, words most often.

    Words find their regions within a thousand updates; matching needs several thousand more than minutes allow, which the
    shipped pre-training had.
    """
    source = (
        f"{{captions: {_quoted(out / 'world' / 'dataset_scenes.json')}, regions: {_quoted(out / 'regions')}, split: "
    )
    return parse_recipe(
        f"""
kind: pretrain
model: {{size: tiny}}
vocabulary: scenes
sources: [{source}train}}]
validation: [{source}val}}]
objectives: {{mlm: 8, itm: 1, mrfr: 0.5, mrckl: 0.5}}
train: {{seed: {seed}, steps: {sizes.pretraining}, tokens: {sizes.tokens}, learning_rate: 1.5e-3, schedule: cosine, dropout: 0.0,
  precision: auto, validate_every: {max(1, sizes.pretraining // 4)}, save_every: 250}}
""",
        name="demo",
    )


def finetuning_recipe(out: Path, sizes: Sizes, seed: int, task: str, start: str) -> Recipe:
    """Fine-tuning on a task: the same budget and settings from scratch, from the demo's pre-training and from the shipped one."""
    model = {
        "scratch": "{size: tiny}",
        "pretrained": f"{{from: {_quoted(out / 'runs' / 'pretrain' / 'last')}}}",
        "shipped": "{from: shipped}",
    }[start]
    options = {"captions_per_image": 1, "max_images": 30} if task == "retrieval" else {"validation_examples": 150}
    benchmark = "captions" if task == "retrieval" else task
    return fine_tuning(out, benchmark, model, getattr(sizes, task), 2 * sizes.tokens, seed, options)


def _quoted(path: Path) -> str:
    return json.dumps(path.as_posix())


def run_demo(out: str | Path, seed: int = 0, progress: bool = True, sizes: Sizes | None = None) -> Path:
    """Draw, find regions, pre-train, fine-tune, measure, and write the page.

    Every stage resumes where it was stopped; a finished demo only writes its page again.

    Args:
        out: folder of the demo; new, or of a demo with the same settings.
        seed: of pictures, weights and order.
        progress: show progress lines.
        sizes: how much to do.

    Returns:
        The page, `index.html` in the folder.

    Raises:
        ValueError: the folder holds something else.
    """
    out, sizes = Path(out), sizes or Sizes()
    _claim(out, {"demo": 1, "seed": seed, **vars(sizes)})
    path = out / "seconds.json"
    spent: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    seconds = Clock(spent, lambda: write_json(path, spent))
    pictures = {"train": sizes.train, "val": sizes.val, "test": sizes.test, "novel": sizes.novel}
    seconds.time("draw", lambda: make(out / "world", pictures, seed=seed, workers=2, progress=progress))
    seconds.time("regions", lambda: extract(out / "world" / "images", out / "regions", progress=progress))
    recipe = pretraining_recipe(out, sizes, seed)
    seconds.time("pre-train", _finished, recipe, out / "runs" / "pretrain", progress)
    for task in TASKS:
        for start in STARTS:
            recipe = finetuning_recipe(out, sizes, seed, task, start)
            folder = out / "runs" / f"{task}-{start}"
            seconds.time(f"fine-tune ({start})", _finished, recipe, folder, progress)
    numbers = seconds.time("measure", lambda: measure(out, sizes, progress))
    return seconds.time("page", lambda: write_report(out, numbers, spent))


def _finished(recipe: Recipe, folder: Path, progress: bool) -> None:
    if not run(recipe, folder, progress).finished:
        raise KeyboardInterrupt


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Take the folder for this demo, or refuse it."""
    path = out / "demo.json"
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        for key, value in settings.items():
            if old.get(key) != value:
                raise ValueError(f"{out} holds a demo with {key} {old.get(key)}, not {value}: choose another --out")
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} holds something that is no demo: choose another --out")
    else:
        write_json(path, settings)


def measure(out: Path, sizes: Sizes, progress: bool = True) -> Numbers:
    """The numbers of every model on held-out pictures: task -> split -> start -> number; kept in numbers.json."""
    path = out / "numbers.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    among = [f"max_images={sizes.measured}", "captions_per_image=1"]
    folders = {
        "zero-shot": {"pretrained": out / "runs" / "pretrain" / "last", "shipped": SHIPPED / "pretrained"},
        **{
            task: {**{start: out / "runs" / f"{task}-{start}" / "last" for start in STARTS}, "longer": SHIPPED / task}
            for task in TASKS
        },
    }
    numbers: Numbers = {}
    for task, models in folders.items():
        name = "retrieval" if task == "zero-shot" else task
        for split in SPLITS:
            for start, folder in models.items():
                found = evaluate(
                    name,
                    out / "world",
                    out / "regions",
                    split,
                    folder,
                    among if name == "retrieval" else [],
                    progress=progress,
                )
                numbers.setdefault(task, {}).setdefault(split, {})[start] = found
    write_json(path, numbers)
    return numbers
