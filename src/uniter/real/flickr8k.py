"""Flickr8k: pre-training on its captions, retrieval and phrase grounding from it and from scratch, beside a floor."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uniter.files import read_json
from uniter.real import recipes
from uniter.real.files import CAPTIONS, VOCABULARY, needed, write_captions, write_vocabulary
from uniter.real.floor import ridge_recalls
from uniter.real.recipes import RATES, fine_tuning, models
from uniter.recipe import Recipe
from uniter.run import evaluate
from uniter.stages import Found, Stages, cell, check_names

STARTS = {"pretrained": "pre-trained", "scratch": "from scratch"}
# Alignment without CLS and SEP, and heavier than published: so matching learns in a small run (docs/design.md).
OBJECTIVES: Mapping[str, Any] = {
    "mlm": 3,
    "itm": 3,
    "mrfr": 1,
    "mrckl": 1,
    "itm_swap": "image",
    "transport_weight": 0.5,
    "transport_include_special": False,
}


@dataclass(frozen=True)
class Budget:
    """How much is learnt and measured.

    Args:
        size: of the model.
        pretraining: updates of pre-training on the captions.
        retrieval, phrases: updates of fine-tuning.
        tokens: budget of a batch.
        measured: pictures of a split that retrieval is measured among; 0: all.
        captions_per_image: captions of each that it is measured with; 0: all.
        rows: which of `STARTS` fine-tuning begins from.
    """

    size: str = "small"
    pretraining: int = 20_000
    retrieval: int = 2000
    phrases: int = 1000
    tokens: int = 2560
    measured: int = 0
    captions_per_image: int = 0
    rows: Sequence[str] = field(default_factory=lambda: tuple(STARTS))


def flickr8k(
    data: Path,
    out: Path,
    seeds: Sequence[int] = (0,),
    budget: Budget | None = None,
    split: Path | None = None,
    progress: bool = True,
) -> list[Found]:
    """Pre-train on the captions, fine-tune on retrieval and phrases, measure on dev, and on another split if given.

    Args:
        data: folder with `flickr8k`.
        out: folder of the bench; each seed has one in it, and their data is in `data`.
        seeds: of weights and order.
        budget: how much.
        split: another file like `dev.jsonl`, with `regions-<its name>.npz` beside it, to measure on too.
        progress: show progress lines.

    Returns:
        What was found with each seed; "dev" or the file's name, then start and task.

    Raises:
        ValueError: a file is missing or foreign, or the folder holds something else.
    """
    budget = budget or Budget()
    check_names("row", budget.rows, STARTS)
    check_names("size", [budget.size], RATES)
    splits = {"dev": data / "flickr8k" / "dev.jsonl"} | ({} if split is None else {split.stem: split})
    prepare(data, out / "data")
    return [_one_seed(data, out, seed, budget, splits, progress) for seed in seeds]


def prepare(data: Path, out: Path) -> None:
    """Write captions and vocabulary of the training split, once.

    Args:
        data: folder with `flickr8k`.
        out: folder to write into.
    """
    if not (out / VOCABULARY).is_file():
        files = {name: data / "flickr8k" / f"{name}.jsonl" for name in ("train", "dev")}
        images = read_json(write_captions(files, out))["images"]
        texts = (sentence["raw"] for image in images if image["split"] == "train" for sentence in image["sentences"])
        write_vocabulary(texts, out)


def regions_of(file: Path) -> Path:
    """The regions beside a split's file."""
    return needed(file.with_name(f"regions-{file.stem}.npz"))


def pretraining(
    data: Path, prepared: Path, budget: Any, seed: int, objectives: Mapping[str, Any] = OBJECTIVES
) -> Recipe:
    """Pre-training on the captions of the training split, watched on dev.

    Args:
        data: folder with `flickr8k`.
        prepared: what `prepare` wrote.
        budget: with `size`, `pretraining`, `tokens`.
        seed: of weights and order.
        objectives: of the recipe.
    """
    place = lambda split: {
        "captions": prepared / CAPTIONS,
        "regions": regions_of(data / "flickr8k" / f"{split}.jsonl"),
        "split": split,
    }
    return recipes.pretraining(place("train"), place("dev"), prepared / VOCABULARY, budget, seed, objectives)


def retrieval_tuning(data: Path, prepared: Path, model: Mapping[str, Any], budget: Any, seed: int) -> Recipe:
    """Fine-tuning of retrieval with the two hardest of eight pictures and of eight captions; arguments as above."""
    return fine_tuning(
        "retrieval",
        prepared,
        [regions_of(data / "flickr8k" / "train.jsonl")],
        model,
        prepared / VOCABULARY,
        seed,
        options={"hard_negatives": 2, "candidates": 8},
        steps=budget.retrieval,
        tokens=3 * budget.tokens,
        learning_rate=RATES[budget.size] / 5,
    )


def _one_seed(data: Path, out: Path, seed: int, budget: Budget, splits: Mapping[str, Path], progress: bool) -> Found:
    stages = Stages(out / f"seed-{seed}", asdict(budget), progress, "flickr8k")
    prepared, train = out / "data", data / "flickr8k" / "train.jsonl"
    begun = stages.learn("pre-training", pretraining(data, prepared, budget, seed), "pretraining") / "last"
    for name, file in splits.items():
        captions = _captions_of(data, prepared, name, file)
        measure = lambda model, file=file, captions=captions, name=name: evaluate(
            "retrieval", captions, regions_of(file), name, model, measured(budget), progress
        )
        stages.measure(f"{name}, floor, retrieval", "floor", ridge_recalls, train, file, *_among(budget))
        stages.measure(f"{name}, zero-shot, retrieval", "zero-shot retrieval, measuring", measure, begun)
        for start in budget.rows:
            model = models(budget.size, begun)[start]
            recipe = retrieval_tuning(data, prepared, model, budget, seed)
            tuned = stages.learn(f"retrieval, {STARTS[start]}", recipe, f"retrieval-{start}") / "last"
            stages.measure(f"{name}, {start}, retrieval", "retrieval, measuring", measure, tuned)
            recipe = fine_tuning(
                *("phrases", train.parent, [regions_of(train)], model, prepared / VOCABULARY, seed),
                steps=budget.phrases,
                tokens=budget.tokens,
                learning_rate=RATES[budget.size] / 2,
            )
            tuned = stages.learn(f"phrases, {STARTS[start]}", recipe, f"phrases-{start}") / "last"
            for protocol in ("any", "merged"):
                stages.measure(
                    *(f"{name}, {start}, phrases {protocol}", "phrases, measuring", evaluate, "phrases"),
                    *(file.parent, regions_of(file), file.stem, tuned, [f"protocol={protocol}"], progress),
                )
    return stages.found


def _captions_of(data: Path, prepared: Path, name: str, file: Path) -> Path:
    """The folder with the captions of a split: of dev the one that there is, of another one of its own."""
    if file == data / "flickr8k" / "dev.jsonl":
        return prepared
    if not (prepared / name / CAPTIONS).is_file():
        write_captions({name: file}, prepared / name)
    return prepared / name


def _among(budget: Budget) -> tuple[int, int]:
    return budget.measured, budget.captions_per_image


def measured(budget: Any) -> list[str]:
    """The options of the task for a budget with `measured` and `captions_per_image`."""
    return [f"max_images={budget.measured}", f"captions_per_image={budget.captions_per_image}"]


def table(found: Sequence[Found]) -> str:
    """Recall and grounding of each split as Markdown.

    Args:
        found: of each seed.
    """
    names = list(found[0].numbers)
    splits = list(dict.fromkeys(name.split(", ")[0] for name in names))
    columns = [f"{side}_recall_at_{k}" for side in ("text", "image") for k in (1, 5, 10)]
    titles = [f"{side} R@{k}" for side in ("image to text", "text to image") for k in (1, 5, 10)]
    parts = []
    for split in splits:
        lines = [f"| retrieval, {split} | {' | '.join(titles)} |", "|---|" + "---:|" * len(titles)]
        rows = {"floor": "ridge regression (floor)", "zero-shot": "zero-shot", **STARTS}
        for start, said in rows.items():
            numbers = [
                one.numbers[f"{split}, {start}, retrieval"]
                for one in found
                if f"{split}, {start}, retrieval" in one.numbers
            ]
            if numbers:
                lines.append(f"| {said} | {' | '.join(cell(numbers, column) for column in columns)} |")
        lines += ["", f"| phrases, {split} | accuracy | best that the regions allow |", "|---|---:|---:|"]
        for start, said in STARTS.items():
            for protocol in ("any", "merged"):
                name = f"{split}, {start}, phrases {protocol}"
                if numbers := [one.numbers[name] for one in found if name in one.numbers]:
                    cells = [cell(numbers, key) for key in ("accuracy", "upper_bound")]
                    lines.append(f"| {said}, {protocol} box | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
