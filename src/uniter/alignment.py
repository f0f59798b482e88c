"""Which word of a text goes with which region, read off a trained model: by optimal transport or by attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from uniter import transport
from uniter.modeling_uniter import UniterModel, UniterPreTrainedModel
from uniter.processing_uniter import Vocabulary
from uniter.regions import Regions

By = Literal["transport", "attention"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which word goes with which region.

    Args:
        words: the text's pieces, CLS and SEP left out.
        plan: (words, regions) by transport: the plan, each row sums to 1; by attention: the share of a word's attention
            that goes to each region, a row sums to at most 1, the rest goes to words.
        regions: what the columns are.
        distance: the transport distance of the pair, lower = better aligned; None by attention.
        by: "transport" or "attention".
    """

    words: list[str]
    plan: np.ndarray
    regions: Regions
    distance: float | None
    by: By = "transport"


class Maps(NamedTuple):
    """Of each pair of a batch the (words, regions) plan and the distance, as in `Alignment`."""

    plans: list[np.ndarray]
    distances: list[float | None]


def inner_words(batch: dict[str, Tensor], vocabulary: Vocabulary) -> Tensor:
    """(B, T) bool, True at the words of a batch that are neither CLS nor SEP."""
    ids = batch["input_ids"]
    return batch["text_mask"] & (ids != vocabulary.cls) & (ids != vocabulary.sep)


@torch.inference_mode()
def word_region_maps(
    model: UniterPreTrainedModel,
    batch: dict[str, Tensor],
    words_BT: Tensor,
    by: By = "transport",
    layers: Sequence[int] | None = None,
    **settings: Any,
) -> Maps:
    """Which words go with which regions, for each pair of a batch.

    Args:
        model: in evaluation mode, with any head; its trunk is asked.
        batch: text and regions, on the model's device.
        words_BT: (B, T) bool, the words that take part.
        by: "transport": the plan of the last layer's states, rows divided by their sum; "attention": the mean over
            heads and layers of how much each word reads of each region.
        layers: whose attention, from 1; all if left out.
        settings: `beta` and `iterations` of `transport.transport_plan`.

    Raises:
        ValueError: neither of both, no such layer, or a setting of the one for the other.
    """
    trunk: Any = model if isinstance(model, UniterModel) else model.uniter
    if by == "transport":
        if layers is not None:
            raise ValueError('layers are those of attention: say by="attention", or leave them out')
        out = trunk(**batch)
        distances, plans = transport.alignment(out.text, out.regions, words_BT, batch["region_mask"], **settings)
        plans = plans / plans.sum(2, keepdim=True).clamp(min=1e-12)
        found: list[float | None] = list(distances.tolist())
    elif by == "attention":
        if settings:
            raise ValueError(
                f'{", ".join(settings)}: of transport, not of attention: say by="transport", or leave it out'
            )
        chosen = chosen_layers(layers, trunk.config.num_hidden_layers)
        attentions, length = trunk(**batch, output_attentions=True).attentions, words_BT.shape[1]
        read = [attentions[layer - 1][:, :, :length, length:].float().mean(1) for layer in chosen]
        plans, found = torch.stack(read).mean(0), []
    else:
        raise ValueError(f"words and regions are aligned by transport or by attention, got {by!r}")
    rows = zip(plans, words_BT, batch["region_mask"], strict=True)
    return Maps([plan[words][:, real].cpu().numpy() for plan, words, real in rows], found or [None] * len(plans))


def chosen_layers(layers: Sequence[int] | None, count: int) -> list[int]:
    """These layers of a model of `count`, from 1; all if left out.

    Raises:
        ValueError: none is given, or one is not there.
    """
    chosen = list(range(1, count + 1)) if layers is None else list(layers)
    wrong = [layer for layer in chosen if isinstance(layer, bool) or not 1 <= layer <= count]
    if wrong or not chosen:
        raise ValueError(f"layer {wrong[0] if wrong else 'none'}: the model has layers 1 to {count}")
    return chosen
