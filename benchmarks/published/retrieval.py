"""Retrieval's evaluation: one text after the other, every image read from the database again for each of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .data import ImageDatabase, TextDatabase, gather_index, padded


def image_batch(images: ImageDatabase, names: Sequence[str], text: Tensor) -> dict[str, Any]:
    """One text with so many images."""
    features, places = zip(*(images[name] for name in names), strict=True)
    things = [len(one) for one in features]
    ids = text.unsqueeze(0).expand(len(names), -1).clone()
    width = len(text) + max(things)
    masks = torch.zeros(len(names), width, dtype=torch.long)
    for row, count in zip(masks, things, strict=True):
        row[: len(text) + count] = 1
    return {
        "input_ids": ids,
        "position_ids": torch.arange(len(text)).unsqueeze(0),
        "img_feat": padded(features),
        "img_pos_feat": padded(places),
        "attn_masks": masks,
        "gather_index": gather_index([len(text)] * len(names), things, len(text), width),
    }


def batches(texts: TextDatabase, images: ImageDatabase, text: str, names: Sequence[str], size: int) -> Iterator[Any]:
    """The batches of a text: spans of the images, which are sorted by their number of regions."""
    ids = texts.wrapped(texts[text]["input_ids"])
    for start in range(0, len(names), size):
        yield image_batch(images, names[start : start + size], ids)


@torch.no_grad()
def score_matrix(
    model: nn.Module,
    texts: TextDatabase,
    images: ImageDatabase,
    ids: Sequence[str],
    names: Sequence[str],
    size: int = 400,
) -> np.ndarray:
    """(texts, images) float16, as published.

    Args:
        model: `Rank`, in evaluation mode.
        texts: captions.
        images: regions.
        ids: the captions to score.
        names: the images, by their number of regions.
        size: images a batch.
    """
    scores = torch.zeros(len(ids), len(names), dtype=torch.half)
    for row, text in enumerate(ids):
        at = 0
        for batch in batches(texts, images, text, names, size):
            found = model(batch).squeeze(1)
            scores[row, at : at + len(found)] = found.half()
            at += len(found)
    return scores.numpy()
