"""The recipes that measurements on real data share: pre-training by size, fine-tuning, and where a model begins."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uniter.recipe import Recipe
from uniter.stages import recipe_of

RATES = {"tiny": 1.0e-3, "small": 5.0e-4, "base": 1.0e-4, "large": 5.0e-5}  # of pre-training, by size


def pretraining(
    learnt: Mapping[str, Any],
    watched: Mapping[str, Any],
    vocabulary: Path,
    budget: Any,
    seed: int,
    objectives: Mapping[str, Any],
) -> Recipe:
    """Pre-training on one source, watched on another five times; nothing is chosen by it.

    Args:
        learnt: the recipe's source that is learnt from.
        watched: the one that is measured on.
        vocabulary: the word pieces.
        budget: with `size`, `pretraining` (updates), `tokens`.
        seed: of weights and order.
        objectives: of the recipe.
    """
    training = {"seed": seed, "steps": budget.pretraining, "tokens": budget.tokens}
    training |= {"learning_rate": RATES[budget.size], "dropout": 0.0, "precision": "auto", "save_every": 500}
    return recipe_of(
        "pre-training",
        kind="pretrain",
        model={"size": budget.size},
        vocabulary=vocabulary,
        sources=[learnt],
        validation=[watched],
        objectives=dict(objectives),
        train=training | {"validate_every": max(1, budget.pretraining // 5)},
    )


def fine_tuning(
    task: str,
    data: Path,
    regions: Sequence[Path],
    model: Mapping[str, Any],
    vocabulary: Path,
    seed: int,
    **settings: Any,
) -> Recipe:
    """Fine-tuning of a task.

    Args:
        task: which.
        data: folder of its files.
        regions: of its pictures.
        model: the recipe's `model`.
        vocabulary: the word pieces.
        seed: of weights and order.
        settings: `options`, `validation_split`, and those of `train`.
    """
    options, validation = settings.pop("options", {}), settings.pop("validation_split", None)
    training = {"seed": seed, "dropout": 0.0, "precision": "auto", "save_every": 500, **settings}
    return recipe_of(
        task,
        kind="finetune",
        task=task,
        data=data,
        regions=list(regions),
        model=model,
        vocabulary=vocabulary,
        validation_split=validation,
        options=options,
        train=training,
    )


def models(size: str, begun: Path) -> dict[str, Mapping[str, Any]]:
    """The recipe's `model` of each start; `begun`: the pre-trained one."""
    return {"pretrained": {"from": begun}, "scratch": {"size": size}}
