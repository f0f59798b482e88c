"""What is worth drawing of an example: its texts, its pictures with regions, and what the model says of each outcome.

`Task.view` makes a `View` of any task by its head; a task that shows more overrides a part of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from uniter.modeling_uniter import (
    UniterForAnswers,
    UniterForChoice,
    UniterForGrounding,
    UniterForMatching,
    UniterForPairs,
)
from uniter.processing_uniter import Segment, Text, UniterProcessor
from uniter.regions import Regions

if TYPE_CHECKING:
    from uniter.tasks.base import Batch, Task

MOST = 5  # outcomes that are shown, and the true ones besides


class Outcome(NamedTuple):
    """Something that the model may say: its text, its score (0 to 1), and whether it is right (None: unknown)."""

    text: str
    score: float
    true: bool | None = None


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture as the encoder was shown it.

    Args:
        image: its name in the store.
        regions: its regions.
        row: the row of the view's batch that shows it.
        first: where its regions begin among those of the row.
        title: what tells it from the others ("left").
        chosen: number of the region that the model chose. Or None.
        true_box: the box meant, pixels x1 y1 x2 y2. Or None.
    """

    image: str
    regions: Regions
    row: int = 0
    first: int = 0
    title: str = ""
    chosen: int | None = None
    true_box: Sequence[float] | None = None


@dataclass(frozen=True)
class Found:
    """A picture that the model found: its name in the store, what is said of it, and whether it is the right one."""

    image: str
    title: str
    true: bool


@dataclass(frozen=True, eq=False)
class View:
    """What is worth drawing of an example.

    Args:
        batch: the rows that the encoder was shown.
        prediction: as `Task.decode` gives it.
        texts: each with what it is ("question").
        outcomes: of each kind ("answer") the outcomes, best first or in the benchmark's order.
        panels: pictures with regions, whose words and regions are aligned.
        found: pictures found, best first (retrieval).
    """

    batch: "Batch"
    prediction: Any
    texts: Sequence[tuple[str, str]]
    outcomes: Sequence[tuple[str, Sequence[Outcome]]]
    panels: Sequence[Panel]
    found: Sequence[Found] = field(default=())


def readable(text: Text, processor: UniterProcessor | None) -> str:
    """A text for people to read; word pieces are put together again."""
    if isinstance(text, str):
        return text
    if text and isinstance(text[0], Segment):
        return " / ".join(readable(part.text, processor) for part in text if isinstance(part, Segment))
    assert processor is not None, "word pieces need a processor to be read"
    return " ".join(processor.words(text)).replace(" ##", "")  # pyrefly: ignore[bad-argument-type]


def best_first(names: Sequence[str], scores: Sequence[float], true: Sequence[bool] | None) -> list[Outcome]:
    """The best outcomes, and the true ones behind them."""
    order = sorted(range(len(names)), key=lambda i: -scores[i])
    shown = order[:MOST] + [i for i in order[MOST:] if true is not None and true[i]][:MOST]
    return [Outcome(names[i], scores[i], None if true is None else true[i]) for i in shown]


def in_order(names: Sequence[str], scores: Sequence[float], true: int | None) -> list[Outcome]:
    """Choices in the benchmark's order, their raw scores as shares of 1."""
    shares = torch.tensor(scores).softmax(0).tolist()
    return [
        Outcome(name, share, None if true is None else i == true)
        for i, (name, share) in enumerate(zip(names, shares, strict=True))
    ]


def region_names(regions: Regions, class_names: Sequence[str] | None) -> list[str]:
    """What to call each region: its number, from 1, and the likeliest class where the detector says one."""
    probs = regions.class_probs if class_names else None
    if probs is None or class_names is None or probs.shape[1] != len(class_names):
        return [f"region {i}" for i in range(1, len(regions) + 1)]
    kinds = probs[:, 1:].argmax(1) + 1  # column 0 is background
    return [f"region {i} ({class_names[kind]})" for i, kind in enumerate(kinds, 1)]


def head_outcomes(
    task: "Task", logits: Tensor, target: Tensor | None, example: Any, panels: Sequence[Panel]
) -> list[tuple[str, list[Outcome]]]:
    """What the head says of one example, by the kind of head; nothing of a head that is not known here.

    Args:
        task: whose head it is.
        logits: of the example's rows, on the CPU.
        target: the example's target; None where nobody says.
        example: the example.
        panels: its pictures.
    """
    kind = task.model
    if issubclass(kind, UniterForAnswers):
        names = [str(name) for _, name in sorted(task.config()["id2label"].items())]
        scores = torch.sigmoid(logits[0]).tolist()
        if target is None:
            return [("answer", best_first(names, scores, None))]
        worth, most = target[0].tolist(), max(float(target[0].max()), 1e-9)
        names = [f"{name} (counts {w:.1f})" if 0 < w < most else name for name, w in zip(names, worth, strict=True)]
        return [("answer", best_first(names, scores, [w == most for w in worth]))]
    if issubclass(kind, UniterForPairs):
        return [("answer", in_order(("false", "true"), logits[0].tolist(), None if target is None else int(target[0])))]
    if issubclass(kind, UniterForGrounding):
        names = [name for panel in panels for name in region_names(panel.regions, task.class_names)]
        index = None if target is None else int(target[0])
        true = None if index is None else [i == index for i in range(len(names))]
        return [("region", best_first(names, logits[0].softmax(0).tolist()[: len(names)], true))]
    if issubclass(kind, UniterForChoice):
        names = [
            readable(text[-1].text if isinstance(text[-1], Segment) else text, task.processor)
            for text, _ in task.shown(example)
        ]
        return [("choice", in_order(names, logits[:, 1].tolist(), None if target is None else int(target.argmax())))]
    if issubclass(kind, UniterForMatching):
        return [("match", [Outcome("text and picture belong together", float(torch.sigmoid(logits[0])))])]
    return []
