"""The paper's ablation of pre-training (table 2) on real data: which objectives are worth what on three tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from uniter.real import entailment, flickr8k, nlvr
from uniter.real.files import write_entailment
from uniter.real.recipes import RATES
from uniter.run import evaluate
from uniter.stages import Found, Stages, cell, check_names

_ALIGNED = {"transport_weight": 0.5, "transport_include_special": False}
_BOTH = {"mlm": 1, "itm": 1, "transport_weight": 0}
ROWS: Mapping[str, Mapping[str, Any] | None] = {
    "none": None,
    "MLM": {"mlm": 1, "itm": 0, "mrfr": 0, "mrckl": 0},
    "ITM": {"mlm": 0, "itm": 1, "mrfr": 0, "mrckl": 0, "transport_weight": 0},
    "MLM + ITM": {**_BOTH, "mrfr": 0, "mrckl": 0},
    "MLM + ITM + MRC": {**_BOTH, "mrfr": 0, "mrckl": 0, "mrc": 1},
    "MLM + ITM + MRFR": {**_BOTH, "mrfr": 1, "mrckl": 0},
    "MLM + ITM + MRC-kl": {**_BOTH, "mrfr": 0, "mrckl": 1},
    "MLM + ITM + MRC-kl + MRFR": {**_BOTH, "mrfr": 1, "mrckl": 1},
    "MLM + ITM + MRC-kl + MRFR + WRA": {**_BOTH, "mrfr": 1, "mrckl": 1, **_ALIGNED},
    "the last, words and regions masked at once": {**_BOTH, "mrfr": 1, "mrckl": 1, **_ALIGNED, "masking": "joint"},
}
"""What each row is pre-trained by; None: nothing. Each objective of a row is drawn as often as the others."""

TASKS = {"retrieval": "mean_recall", "entailment": "accuracy", "nlvr": "accuracy"}


@dataclass(frozen=True)
class Budget:
    """How much is learnt and measured, in each row.

    Args:
        size: of the model.
        pretraining: updates of pre-training, on Flickr8k and on NLVR each.
        retrieval, entailment, nlvr: updates of fine-tuning.
        tokens: budget of a batch.
        measured: pictures that retrieval is measured among; 0: all.
        captions_per_image: captions of each that it is measured with; 0: all.
        detector, boxes, orders: of NLVR, as in `nlvr.Budget`.
        rows: which of `ROWS`.
    """

    size: str = "tiny"
    pretraining: int = 5000
    retrieval: int = 600
    entailment: int = 400
    nlvr: int = 1500
    tokens: int = 2560
    measured: int = 500
    captions_per_image: int = 1
    detector: int = 800
    boxes: int = 6000
    orders: int = 1
    rows: Sequence[str] = field(default_factory=lambda: tuple(ROWS))

    @property
    def updates(self) -> int:
        """Of fine-tuning on NLVR."""
        return self.nlvr


def ablation(
    data: Path,
    out: Path,
    seeds: Sequence[int] = (0, 1, 2),
    budget: Budget | None = None,
    detector: Path | None = None,
    progress: bool = True,
) -> list[dict[str, Found]]:
    """Pre-train by each row's objectives on Flickr8k and on NLVR, fine-tune on the three tasks, and measure.

    Entailment begins from the pre-training on Flickr8k and is measured on the pictures held out; retrieval and NLVR on
    dev.

    Args:
        data: folder with `nlvr`, `flickr8k` and `snli_ve`.
        out: folder of the bench; data and NLVR's regions in it are those of the other benches.
        seeds: of weights and order.
        budget: how much.
        detector: of NLVR's things, instead of training one.
        progress: show progress lines.

    Returns:
        For each seed what each row came to.

    Raises:
        ValueError: no such row, a file is missing or foreign, or the folder holds something else.
    """
    budget = budget or Budget()
    check_names("row", budget.rows, ROWS)
    check_names("size", [budget.size], RATES)
    flickr8k.prepare(data, out / "data")
    write_entailment(data / "snli_ve" / "train.jsonl", out / "data" / "entailment")
    nlvr.prepare(data, out / "nlvr", budget, {"dev": data / "nlvr" / "dev.jsonl"}, detector, progress)
    return [{row: _one_row(data, out, seed, budget, row, progress) for row in budget.rows} for seed in seeds]


def _one_row(data: Path, out: Path, seed: int, budget: Budget, row: str, progress: bool) -> Found:
    folder = out / f"seed-{seed}" / f"ablation-{list(ROWS).index(row)}"
    stages, objectives = Stages(folder, {"row": row, **asdict(budget)}, progress), ROWS[row]
    prepared, place, files = out / "data", out / "nlvr", data / "flickr8k"
    begun: dict[str, Mapping[str, Any]] = {"flickr8k": {"size": budget.size}, "nlvr": {"size": budget.size}}
    if objectives is not None:
        recipes = {
            "flickr8k": flickr8k.pretraining(data, prepared, budget, seed, objectives),
            "nlvr": nlvr.pretraining(place, budget, seed, objectives),
        }
        for name, recipe in recipes.items():
            begun[name] = {"from": stages.learn(f"pre-training, {name}", recipe, f"pretraining-{name}") / "last"}
    recipe = flickr8k.retrieval_tuning(data, prepared, begun["flickr8k"], budget, seed)
    tuned = stages.learn("retrieval", recipe, "retrieval") / "last"
    options = flickr8k.measured(budget)
    dev = flickr8k.regions_of(files / "dev.jsonl")
    stages.measure(
        "retrieval", "retrieval, measuring", evaluate, "retrieval", prepared, dev, "dev", tuned, options, progress
    )
    known = [flickr8k.regions_of(files / f"{name}.jsonl") for name in ("train", "dev")]
    rows = entailment.Place("test", prepared / "entailment", known, known[0])
    tuned = stages.learn("entailment", entailment.tuning(rows, prepared, begun["flickr8k"], budget, seed), "entailment")
    stages.measure(
        *("entailment", "entailment, measuring", evaluate, "snli_ve", rows.rows, known),
        *("test", tuned / "best", (), progress),
    )
    tuned = stages.learn("nlvr", nlvr.tuning(place, place / "regions", begun["nlvr"], budget, seed), "nlvr")
    stages.measure(
        *("nlvr", "nlvr, measuring", evaluate, "nlvr", place, place / "regions", "dev", tuned / "best", (), progress)
    )
    return stages.found


def table(found: Sequence[Mapping[str, Found]]) -> str:
    """The three numbers of each row and their sum as Markdown.

    Args:
        found: as `ablation` gives it.
    """
    lines = [
        "| pre-trained by | meta-sum | Flickr8k dev, mean recall | entailment, held-out | NLVR dev |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in found[0]:
        numbers = [seed[row].numbers for seed in found]
        sums = [{"sum": sum(one[task][key] for task, key in TASKS.items())} for one in numbers]
        cells = [cell([one[task] for one in numbers], key) for task, key in TASKS.items()]
        lines.append(f"| {row} | {' | '.join([cell(sums, 'sum', 300.0), *cells])} |")
    return "\n".join(lines)
