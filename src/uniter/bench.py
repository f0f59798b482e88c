"""The paper's rows on drawn scenes: every task fine-tuned from scratch and from a pre-training, side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uniter.pipeline import SHIPPED
from uniter.recipe import Recipe, parse_recipe
from uniter.regions.extract import extract
from uniter.run import evaluate
from uniter.scenes.write import make
from uniter.stages import Found, Stages, cell

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
    stages = Stages(out, asdict(budget), progress)
    left = [name for name in names if name not in stages.found.numbers]
    if not left:
        return stages.found
    pictures = {split: getattr(budget, split) for split in ("train", "val", *SPLITS)}
    stages.do("drawing", lambda: make(out / "world", pictures, seed=seed, progress=progress))
    stages.do("regions", lambda: extract(out / "world" / "images", out / "regions", progress=progress))
    begun = SHIPPED / "pretrained"
    if budget.pretraining:
        begun = stages.learn("pre-training", _pretraining(out, budget, seed), "runs/pretraining") / "last"
    models = {"scratch": "{size: tiny}", "pretrained": f"{{from: {json.dumps(begun.as_posix())}}}"}
    for name in left:
        benchmark = BENCHMARKS[name]
        folders = {"zero-shot": begun} if benchmark.zero_shot else {}
        for start, model in models.items():
            narrow = {"captions_per_image": 1, "max_images": 30}
            options = narrow if benchmark.task == "retrieval" else {"validation_examples": 150}
            recipe = fine_tuning(out, name, model, budget.updates[name], budget.tokens, seed, options)
            folders[start] = stages.learn(f"{name}, {STARTS[start]}", recipe, f"runs/{name}-{start}") / "last"
        stages.measure(name, f"{name}, measuring", _measured, out, benchmark, folders, budget, progress)
    return stages.found


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
                cell([numbers[split][starts[start]] for numbers in measured], line.number) if start in starts else "–"
                for split, start in columns
            ]
            lines.append(f"| {line.name} | {' | '.join(cells)} |")
    return "\n".join(lines)
