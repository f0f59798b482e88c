"""NLVR from pixels: a detector of its things, pre-training on its sentences, and what they are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uniter.real import recipes
from uniter.real.files import VOCABULARY, write_blank, write_vocabulary
from uniter.real.nlvr_files import MODEL, ORDERS, is_held_out, write_boxes, write_parts
from uniter.real.recipes import RATES, fine_tuning, models
from uniter.recipe import Recipe
from uniter.regions.extract import extract
from uniter.regions.own_detector import train_own
from uniter.regions.training import DetectorTraining
from uniter.run import evaluate
from uniter.stages import Found, Stages, cell, check_names
from uniter.tasks.reading import json_lines

# How a model begins, and whether it sees the pictures.
ROWS = {
    "pretrained": ("pretrained", True, "pre-trained"),
    "scratch": ("scratch", True, "from scratch"),
    "blind": ("scratch", False, "from scratch, sentence only"),
}
PIECES = 1000  # of the vocabulary
OBJECTIVES: Mapping[str, Any] = {"mlm": 3, "itm": 3, "mrfr": 1, "mrckl": 1}


@dataclass(frozen=True)
class Budget:
    """How much is learnt.

    Args:
        size: of the model.
        detector: updates of the detector.
        boxes: training pictures that it learns from.
        orders: of the six, that are learnt from; dev and other splits are measured over all.
        pretraining: updates of pre-training.
        updates: of fine-tuning.
        tokens: budget of a batch.
        rows: which of `ROWS`.
    """

    size: str = "small"
    detector: int = 800
    boxes: int = 6000
    orders: int = ORDERS
    pretraining: int = 10_000
    updates: int = 4000
    tokens: int = 2560
    rows: Sequence[str] = field(default_factory=lambda: tuple(ROWS))


def nlvr(
    data: Path,
    out: Path,
    seeds: Sequence[int] = (0,),
    budget: Budget | None = None,
    split: Path | None = None,
    detector: Path | None = None,
    progress: bool = True,
) -> list[Found]:
    """Train a detector, extract regions, pre-train, fine-tune, and measure on dev over all six orders.

    Every tenth folder of the training split is held out: neither the detector nor the model learns from it, and the
    best update is chosen by it.

    Args:
        data: folder with `nlvr`.
        out: folder of the bench.
        seeds: of weights and order; they share detector and regions.
        budget: how much.
        split: another file like `dev.jsonl`, with `images-<its name>.zip` beside it, to measure on too.
        detector: a trained one, instead of training one.
        progress: show progress lines.

    Returns:
        What was found with each seed; "dev" or the file's name, then the row.

    Raises:
        ValueError: a file is missing or foreign, or the folder holds something else.
    """
    budget, place = budget or Budget(), out / "nlvr"
    check_names("row", budget.rows, ROWS)
    check_names("size", [budget.size], RATES)
    splits = {"dev": data / "nlvr" / "dev.jsonl"} | ({} if split is None else {split.stem: split})
    seconds = prepare(data, place, budget, splits, detector, progress)
    found = [_one_seed(place, out, seed, budget, list(splits), progress) for seed in seeds]
    found[0].seconds = {**seconds, **found[0].seconds}
    return found


def prepare(
    data: Path, place: Path, budget: Any, splits: Mapping[str, Path], detector: Path | None, progress: bool
) -> dict[str, float]:
    """Detector, pictures, regions, vocabulary and the store with nothing to see, once for all seeds.

    Args:
        data: folder with `nlvr`.
        place: folder to write into.
        budget: with `detector`, `boxes`, `orders`.
        splits: the files that are measured on, by name.
        detector: a trained one, instead of training one.
        progress: show progress lines.

    Returns:
        The seconds of each stage.
    """
    kept = {"detector": budget.detector, "boxes": budget.boxes, "orders": budget.orders}
    stages = Stages(place, kept, progress)
    if detector is None:
        detector = stages.do("detector", train_detector, data / "nlvr", place, budget, progress)
    stages.do("pictures", write_parts, data / "nlvr" / "train.jsonl", "train", budget.orders, place)
    for name, file in splits.items():
        stages.do("pictures", write_parts, file, name, ORDERS, place)
    stages.do("regions", lambda: extract(place / "images", place / "regions", detector, progress=progress))
    if not (place / VOCABULARY).is_file():
        write_vocabulary((record["sentence"] for record in json_lines(place / "train.jsonl")), place, PIECES)
    stages.do("regions", write_blank, place / "regions", place / "blank")
    return stages.found.seconds


def train_detector(data: Path, place: Path, budget: Any, progress: bool = True) -> Path:
    """The small detector of NLVR's things, from training folders that are not held out; returns its folder."""
    folders = {str(record["directory"]) for record in json_lines(data / "train.jsonl")}
    held = {folder for folder in folders if is_held_out(folder)}
    coco = place / "coco"
    boxes = write_boxes(data, "train", budget.boxes, coco, folders - held)
    measured = write_boxes(data, "train", max(1, budget.boxes // 10), coco, held, "held")
    tell = lambda text: print(text, flush=True) if progress else None
    training = DetectorTraining(budget.detector, batch=8, save_every=200)
    pictures = coco / "images"
    return train_own(boxes, pictures, place / "detector", MODEL, measured, training=training, tell=tell).folder


def pretraining(place: Path, budget: Any, seed: int, objectives: Mapping[str, Any] = OBJECTIVES) -> Recipe:
    """Pre-training on the sentences, whose labels are what matching learns; watched on the folders held out.

    Args:
        place: what `nlvr` prepared.
        budget: with `size`, `pretraining`, `tokens`.
        seed: of weights and order.
        objectives: of the recipe.
    """
    source = {"kind": "nlvr", "captions": place, "regions": place / "regions"}
    learnt, watched = source | {"split": "train"}, source | {"split": "held"}
    return recipes.pretraining(learnt, watched, place / VOCABULARY, budget, seed, objectives)


def tuning(place: Path, regions: Path, model: Mapping[str, Any], budget: Any, seed: int) -> Recipe:
    """Fine-tuning on the sentences; the best update is chosen by the folders held out. Arguments as above."""
    return fine_tuning(
        *("nlvr", place, [regions], model, place / VOCABULARY, seed),
        validation_split="held",
        options={"orders": budget.orders},
        validate_every=max(1, budget.updates // 8),
        steps=budget.updates,
        tokens=budget.tokens,
        learning_rate=RATES[budget.size] / 2,
    )


def _one_seed(place: Path, out: Path, seed: int, budget: Budget, splits: Sequence[str], progress: bool) -> Found:
    stages = Stages(out / f"seed-{seed}", asdict(budget), progress, "nlvr")
    begun = stages.learn("pre-training", pretraining(place, budget, seed), "nlvr-pretraining") / "last"
    for row in budget.rows:
        start, sees, said = ROWS[row]
        regions = place / ("regions" if sees else "blank")
        recipe = tuning(place, regions, models(budget.size, begun)[start], budget, seed)
        model = stages.learn(said, recipe, f"nlvr-{row}") / "best"
        for split in splits:
            stages.measure(f"{split}, {row}", "measuring", evaluate, "nlvr", place, regions, split, model, (), progress)
    return stages.found


def table(found: Sequence[Found]) -> str:
    """Accuracy of each row and split as Markdown.

    Args:
        found: of each seed.
    """
    splits = list(dict.fromkeys(name.split(", ")[0] for name in found[0].numbers))
    titles = {
        "accuracy": "pictures right",
        "examples_most_right": "examples right in most orders",
        "consistency": "sentences right of all pictures",
        "accuracy true": "true ones right",
        "accuracy false": "false ones right",
    }
    lines = []
    for split in splits:
        lines += [f"| {split} | {' | '.join(titles.values())} |", "|---|" + "---:|" * len(titles)]
        for row, (_, _, said) in ROWS.items():
            if numbers := [one.numbers[f"{split}, {row}"] for one in found if f"{split}, {row}" in one.numbers]:
                lines.append(f"| {said} | {' | '.join(cell(numbers, key) for key in titles)} |")
        lines.append("")
    return "\n".join(lines).rstrip()
