"""Visual entailment on Flickr8k's pictures, from its pre-training, from scratch, and from the words alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uniter.real import flickr8k, recipes
from uniter.real.files import VOCABULARY, write_blank, write_entailment
from uniter.recipe import Recipe
from uniter.run import evaluate
from uniter.stages import Found, Stages, cell, check_names
from uniter.tasks.base import load

# How a model begins, and whether it sees the pictures.
ROWS = {
    "pretrained": ("pretrained", True, "pre-trained"),
    "scratch": ("scratch", True, "from scratch"),
    "blind": ("pretrained", False, "pre-trained, hypothesis only"),
}


@dataclass(frozen=True)
class Budget:
    """How much is learnt.

    Args:
        size: of the model.
        pretraining: updates of pre-training on Flickr8k's captions.
        entailment: updates of fine-tuning.
        tokens: budget of a batch.
        rows: which of `ROWS`.
    """

    size: str = "small"
    pretraining: int = 20_000
    entailment: int = 600
    tokens: int = 2560
    rows: Sequence[str] = field(default_factory=lambda: tuple(ROWS))


def entailment(
    data: Path,
    out: Path,
    seeds: Sequence[int] = (0,),
    budget: Budget | None = None,
    split: Path | None = None,
    regions: Path | None = None,
    progress: bool = True,
) -> list[Found]:
    """Fine-tune on the rows of most pictures, choose the update by those of some, and measure on those of others.

    Which picture is what follows from its name (`files.part_of`). The control is shown one region of zeros.

    Args:
        data: folder with `flickr8k` and `snli_ve`.
        out: folder of the bench; in that of `flickr8k` its pre-training is used.
        seeds: of weights and order.
        budget: how much.
        split: another file like `train.jsonl`, to measure on too.
        regions: of that file's pictures.
        progress: show progress lines.

    Returns:
        What was found with each seed; "held-out" or the file's name, then the row.

    Raises:
        ValueError: a file is missing or foreign, or the folder holds something else.
    """
    if (split is None) != (regions is None):
        raise ValueError("--split and --regions go together: the rows, and the regions of their pictures")
    budget = budget or Budget()
    check_names("row", budget.rows, ROWS)
    check_names("size", [budget.size], recipes.RATES)
    flickr8k.prepare(data, out / "data")
    rows = write_entailment(data / "snli_ve" / "train.jsonl", out / "data" / "entailment")
    known = [flickr8k.regions_of(data / "flickr8k" / f"{name}.jsonl") for name in ("train", "dev")]
    places = {"held-out": Place("test", rows, known, write_blank(known, out / "data" / "blank"))}
    if split is not None and regions is not None:
        folder = write_entailment(split, out / "data" / f"entailment-{split.stem}", "test")
        places[split.stem] = Place(
            "test", folder, [regions], write_blank(regions, out / "data" / f"blank-{split.stem}")
        )
    return [_one_seed(data, out, seed, budget, places, progress) for seed in seeds]


@dataclass(frozen=True)
class Place:
    """A split: its name, the folder of its file, the regions of its pictures, and the store with nothing to see."""

    split: str
    rows: Path
    regions: list[Path]
    blank: Path

    def shown(self, sees: bool) -> list[Path]:
        """The regions that a model is shown."""
        return self.regions if sees else [self.blank]


def tuning(data: Place, prepared: Path, model: Mapping[str, Any], budget: Any, seed: int, sees: bool = True) -> Recipe:
    """Fine-tuning on entailment.

    Args:
        data: what it is learnt from.
        prepared: what `flickr8k.prepare` wrote.
        model: the recipe's `model`.
        budget: with `size`, `entailment`, `tokens`.
        seed: of weights and order.
        sees: the pictures, or nothing.
    """
    return recipes.fine_tuning(
        *("snli_ve", data.rows, data.shown(sees), model, prepared / VOCABULARY, seed),
        validation_split="val",
        validate_every=max(1, budget.entailment // 6),
        steps=budget.entailment,
        tokens=budget.tokens,
        learning_rate=recipes.RATES[budget.size] / 3,
    )


def _one_seed(data: Path, out: Path, seed: int, budget: Budget, places: Mapping[str, Place], progress: bool) -> Found:
    stages, prepared = Stages(out / f"seed-{seed}", asdict(budget), progress, "entailment"), out / "data"
    begun = stages.learn("pre-training", flickr8k.pretraining(data, prepared, budget, seed), "pretraining") / "last"
    for name, place in places.items():
        stages.measure(f"{name}, majority", "majority", majority, places["held-out"], place)
        for row in budget.rows:
            start, sees, said = ROWS[row]
            recipe = tuning(places["held-out"], prepared, recipes.models(budget.size, begun)[start], budget, seed, sees)
            model = stages.learn(said, recipe, f"entailment-{row}") / "best"
            shown: Any = place.shown(sees)
            stages.measure(
                f"{name}, {row}", "measuring", evaluate, "snli_ve", place.rows, shown, place.split, model, (), progress
            )
    return stages.found


def majority(learnt: Place, place: Place) -> dict[str, float]:
    """The accuracy of always saying the label that is most frequent among what is learnt from."""
    usual = Counter(example.label for example in load("snli_ve")(learnt.rows).examples("train")).most_common(1)[0][0]
    labels = [example.label for example in load("snli_ve")(place.rows).examples(place.split)]
    return {"accuracy": 100 * labels.count(usual) / len(labels), "examples": len(labels)}


def table(found: Sequence[Found]) -> str:
    """Accuracy of each row and split as Markdown.

    Args:
        found: of each seed.
    """
    splits = list(dict.fromkeys(name.split(", ")[0] for name in found[0].numbers))
    labels = ("accuracy contradiction", "accuracy entailment", "accuracy neutral")
    lines = []
    for split in splits:
        count = found[0].numbers[f"{split}, majority"]["examples"]
        lines += [
            f"| {split} ({count:.0f} rows) | accuracy | contradiction | entailment | neutral |",
            "|---|" + "---:|" * 4,
        ]
        lines.append(f"| majority | {found[0].numbers[f'{split}, majority']['accuracy']:.1f} | | | |")
        for row, (_, _, said) in ROWS.items():
            numbers = [one.numbers[f"{split}, {row}"] for one in found if f"{split}, {row}" in one.numbers]
            if numbers:
                lines.append(f"| {said} | {' | '.join(cell(numbers, key) for key in ('accuracy', *labels))} |")
        lines.append("")
    return "\n".join(lines).rstrip()
