"""The paper's rows on drawn scenes: every task fine-tuned from scratch and from a pre-training, side by side."""

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from uniter.files import write_json
from uniter.pipeline import SHIPPED
from uniter.recipe import Recipe, parse_recipe
from uniter.regions.extract import extract
from uniter.run import evaluate, run
from uniter.scenes.write import make

T = TypeVar("T")

STARTS = {"scratch": "from scratch", "pretrained": "pre-trained"}
SPLITS = {"test": "held-out pictures", "novel": "new pairs"}


@dataclass(frozen=True)
class Benchmark:
    """One of the benchmarks that the world writes files of; each is fine-tuned on for itself.

    Args:
        task: that reads it.
        folder: of its files in the world's; empty: the world's own.
        options: what the task is told, whether it learns or is measured.
        test: its split of the held-out pictures.
        zero_shot: measure the pre-training as it is, too.
    """

    task: str
    folder: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    test: str = "test"
    zero_shot: bool = False


BENCHMARKS = {
    "vqa": Benchmark("vqa"),
    "vcr": Benchmark("vcr", options={"boxes": "detected"}),
    "nlvr2": Benchmark("nlvr2", options={"form": "paired"}),
    "snli_ve": Benchmark("snli_ve"),
    "flickr30k": Benchmark("retrieval", "flickr30k", zero_shot=True),
    "coco": Benchmark("retrieval", "coco"),
    "refcoco": Benchmark("refcoco"),
    "refcoco+": Benchmark("refcoco", "refcoco+", test="testA+testB"),
    "refcocog": Benchmark("refcoco", "refcocog"),
    "captions": Benchmark("retrieval", zero_shot=True),  # in the style of pre-training; none of the paper's
}
PAPER = tuple(name for name in BENCHMARKS if name != "captions")
GROUPS = {"retrieval": ("flickr30k", "coco"), "expressions": ("refcoco", "refcoco+", "refcocog")}
UPDATES = {"retrieval": 300, "refcoco": 300, "vcr": 500, "vqa": 2000}  # of fine-tuning; 1,000 elsewhere
RATES = {"refcoco": 1.0e-3, "retrieval": 3.0e-4}  # learning rates; 5e-4 elsewhere


@dataclass(frozen=True)
class Line:
    """A line of the table: its name, whose number it is, which, and whether without fine-tuning."""

    name: str
    benchmark: str
    number: str
    zero_shot: bool = False


LINES = (
    Line("VQA, accuracy", "vqa", "accuracy"),
    Line("VCR, Q->A", "vcr", "Q->A"),
    Line("VCR, QA->R", "vcr", "QA->R"),
    Line("VCR, Q->AR", "vcr", "Q->AR"),
    Line("NLVR2, accuracy", "nlvr2", "accuracy"),
    Line("SNLI-VE, accuracy", "snli_ve", "accuracy"),
    Line("Zero-shot image retrieval, Flickr30K, R@1", "flickr30k", "image_recall_at_1", zero_shot=True),
    Line("Zero-shot text retrieval, Flickr30K, R@1", "flickr30k", "text_recall_at_1", zero_shot=True),
    Line("Image retrieval, Flickr30K, R@1", "flickr30k", "image_recall_at_1"),
    Line("Text retrieval, Flickr30K, R@1", "flickr30k", "text_recall_at_1"),
    Line("Image retrieval, COCO, R@1", "coco", "image_recall_at_1"),
    Line("Text retrieval, COCO, R@1", "coco", "text_recall_at_1"),
    Line("RefCOCO, accuracy", "refcoco", "accuracy"),
    Line("RefCOCO+, accuracy", "refcoco+", "accuracy"),
    Line("RefCOCOg, accuracy", "refcocog", "accuracy"),
    Line("Zero-shot image retrieval, captions of pre-training, R@1", "captions", "image_recall_at_1", zero_shot=True),
    Line("Zero-shot text retrieval, captions of pre-training, R@1", "captions", "text_recall_at_1", zero_shot=True),
    Line("Image retrieval, captions of pre-training, R@1", "captions", "image_recall_at_1"),
    Line("Text retrieval, captions of pre-training, R@1", "captions", "text_recall_at_1"),
)
"""The first fifteen are the thirteen rows of the paper's table 3: the three of VCR are one row there."""

Numbers = dict[str, dict[str, dict[str, dict[str, float]]]]  # benchmark, split, start -> the task's numbers


@dataclass
class Found:
    """What a seed came to.

    Args:
        numbers: of each benchmark, split and start.
        seconds: that each stage took, over all sessions.
    """

    numbers: Numbers = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """How much is drawn, learnt and measured.

    Args:
        train, val, test, novel: pictures of each split.
        tokens: budget of a batch.
        updates: of fine-tuning, the same from both starts, by benchmark.
        measured: pictures that retrieval is measured among.
        pretraining: updates of a pre-training of one's own on the train pictures; 0: the one that ships.
    """

    train: int = 1000
    val: int = 40
    test: int = 120
    novel: int = 120
    tokens: int = 2560
    updates: Mapping[str, int] = field(
        default_factory=lambda: {name: UPDATES.get(benchmark.task, 1000) for name, benchmark in BENCHMARKS.items()}
    )
    measured: int = 100
    pretraining: int = 0


class Clock:
    """How long each stage took, over all sessions.

    Args:
        seconds: of the sessions before, by stage; counted up.
        keep: writes them down.
    """

    def __init__(self, seconds: dict[str, float], keep: Callable[[], Any]):
        self.seconds, self.keep = seconds, keep

    def time(self, stage: str, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work` with the arguments and count its time, also if it is stopped."""
        began = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - began, 1)
            self.keep()


def fine_tuning(
    place: Path, benchmark: str, model: str, updates: int, tokens: int, seed: int, options: Mapping[str, Any]
) -> Recipe:
    """Fine-tuning of the tiny model on one of `BENCHMARKS`.

    Args:
        place: holds the `world` and its `regions`.
        benchmark: which.
        model: the recipe's `model`, as YAML.
        updates: of fine-tuning.
        tokens: budget of a batch.
        seed: of weights and order.
        options: of the task, beside those that the benchmark has.
    """
    about = BENCHMARKS[benchmark]
    training = {"seed": seed, "steps": updates, "tokens": tokens, "learning_rate": RATES.get(about.task, 5.0e-4)}
    training |= {"dropout": 0.0, "precision": "auto", "validate_every": max(1, updates // 3), "save_every": 250}
    return parse_recipe(
        f"""
kind: finetune
task: {about.task}
model: {model}
vocabulary: scenes
data: {json.dumps((place / "world" / about.folder).as_posix())}
regions: {json.dumps((place / "regions").as_posix())}
options: {json.dumps({**about.options, **options})}
train: {json.dumps(training)}
""",
        name=benchmark,
    )


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The benchmarks that names of `BENCHMARKS` and `GROUPS` stand for, each once.

    Raises:
        ValueError: a name is neither.
    """
    for name in names:
        if name not in BENCHMARKS and name not in GROUPS:
            raise ValueError(f"the scenes have no task {name!r}: choose among {', '.join((*BENCHMARKS, *GROUPS))}")
    return tuple(dict.fromkeys(member for name in names for member in GROUPS.get(name, (name,))))


def scenes(
    out: str | Path,
    seeds: Sequence[int] = (0,),
    tasks: Sequence[str] = PAPER,
    budget: Budget | None = None,
    progress: bool = True,
) -> list[Found]:
    """Draw a world for each seed, fine-tune on every benchmark from both starts, and measure.

    Every stage goes on where it was stopped; what is measured is kept. All benchmarks of a seed start from one
    pre-training.

    Args:
        out: folder of the bench; each seed has one in it.
        seeds: of pictures, weights and order.
        tasks: which of `BENCHMARKS` or `GROUPS`.
        budget: how much.
        progress: show progress lines.

    Returns:
        What was found with each seed.

    Raises:
        ValueError: no such task, or the folder holds something else.
    """
    names, budget = chosen(tasks), budget or Budget()
    return [_one_seed(Path(out) / f"seed-{seed}", seed, names, budget, progress) for seed in seeds]


def _one_seed(out: Path, seed: int, names: Sequence[str], budget: Budget, progress: bool) -> Found:
    _claim(out / "budget.json", asdict(budget))
    path = out / "numbers.json"
    found = Found(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Found()
    left = [name for name in names if name not in found.numbers]
    if not left:
        return found
    clock = Clock(found.seconds, lambda: write_json(path, asdict(found)))
    pictures = {split: getattr(budget, split) for split in ("train", "val", *SPLITS)}
    clock.time("drawing", lambda: make(out / "world", pictures, seed=seed, progress=progress))
    clock.time("regions", lambda: extract(out / "world" / "images", out / "regions", progress=progress))
    begun = SHIPPED / "pretrained"
    if budget.pretraining:
        begun = out / "runs" / "pretraining" / "last"
        recipe = _pretraining(out, budget, seed)
        clock.time("pre-training", _finish, recipe, out / "runs" / "pretraining", progress)
    models = {"scratch": "{size: tiny}", "pretrained": f"{{from: {json.dumps(begun.as_posix())}}}"}
    for name in left:
        benchmark = BENCHMARKS[name]
        folders = {"zero-shot": begun} if benchmark.zero_shot else {}
        for start, model in models.items():
            narrow = {"captions_per_image": 1, "max_images": 30}
            options = narrow if benchmark.task == "retrieval" else {"validation_examples": 150}
            recipe = fine_tuning(out, name, model, budget.updates[name], budget.tokens, seed, options)
            clock.time(f"{name}, {STARTS[start]}", _finish, recipe, out / "runs" / f"{name}-{start}", progress)
            folders[start] = out / "runs" / f"{name}-{start}" / "last"
        found.numbers[name] = clock.time(f"{name}, measuring", _measured, out, benchmark, folders, budget, progress)
        write_json(path, asdict(found))
    return found


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
    out: Path, benchmark: Benchmark, folders: Mapping[str, Path], budget: Budget, progress: bool
) -> dict[str, dict[str, dict[str, float]]]:
    options = dict(benchmark.options)
    if benchmark.task == "retrieval":
        options |= {"max_images": budget.measured, "captions_per_image": 1}
    given = [f"{key}={value}" for key, value in options.items()]
    data, regions = out / "world" / benchmark.folder, out / "regions"
    return {
        split: {
            start: evaluate(benchmark.task, data, regions, part, folder, given, progress=progress)
            for start, folder in folders.items()
        }
        for split, part in {"test": benchmark.test, "novel": "novel"}.items()
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


def table(found: Sequence[Found]) -> str:
    """The lines as Markdown: for each split, from scratch and pre-trained.

    The thirteen rows of the paper are the first fifteen of `LINES`, the three of VCR being one row. Of several seeds a
    cell says the mean ± the standard deviation over seeds, and the 95% interval of the mean by Student's t over seeds:
    every seed has pictures, weights and order of its own, so that this holds what examples and training make of it.
    Of one seed it says the number and its bootstrap 95% interval over examples, where the task gives one.

    Args:
        found: of each seed.
    """
    columns = [(split, start) for split in SPLITS for start in STARTS]
    lines = [
        f"| | {' | '.join(f'{SPLITS[split]}, {STARTS[start]}' for split, start in columns)} |",
        "|---|" + "---:|" * len(columns),
    ]
    for line in LINES:
        measured = [one.numbers[line.benchmark] for one in found if line.benchmark in one.numbers]
        if measured:
            starts = {"pretrained": "zero-shot"} if line.zero_shot else {start: start for start in STARTS}
            cells = [
                _cell([numbers[split][starts[start]] for numbers in measured], line.number) if start in starts else "–"
                for split, start in columns
            ]
            lines.append(f"| {line.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# Student's t, 97.5%, of 1 to 9 degrees of freedom; with more the last is taken, which is a little too wide
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def _cell(numbers: Sequence[Mapping[str, float]], key: str) -> str:
    values = [found[key] for found in numbers]
    if len(values) > 1:
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        half = _STUDENT[min(len(values) - 2, len(_STUDENT) - 1)] * deviation / math.sqrt(len(values))
        return f"{mean:.1f} ± {deviation:.1f} ({max(0.0, mean - half):.1f}–{min(100.0, mean + half):.1f})"
    low, high = (numbers[0].get(f"{key}_{side}") for side in ("low", "high"))
    return f"{values[0]:.1f}" + (f" ({low:.1f}–{high:.1f})" if low is not None else "")


def times(found: Sequence[Found]) -> str:
    """The minutes of each stage as Markdown, all seeds together, and their sum.

    Args:
        found: of each seed.
    """
    minutes: dict[str, float] = {}
    for one in found:
        for stage, seconds in one.seconds.items():
            minutes[stage] = minutes.get(stage, 0.0) + seconds / 60
    lines = [f"| {stage} | {spent:.1f} |" for stage, spent in minutes.items()]
    return "\n".join(["| stage | minutes |", "|---|---:|", *lines, f"| all | {sum(minutes.values()):.1f} |"])
