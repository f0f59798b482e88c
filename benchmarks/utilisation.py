"""What a model has to compute for real tokens, and how much of a time something was running. Imports nothing heavy."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

H100 = 989e12  # dense bfloat16 operations a second on the data sheet of the SXM module
USUAL = 790e12  # what a product of 8192 x 8192 bfloat16 matrices reached on one: the targets are shares of this
FORWARD_AND_BACKWARD = 3  # a product's two gradients are two more products


def forward_flops(
    config: Mapping[str, Any], words: np.ndarray, things: np.ndarray, feature_size: int = 2048
) -> np.ndarray:
    """Floating-point operations of the trunk's matrix products for each pair, two for a multiplication and addition.

    A layer, D wide with I between, of L = words + regions: 8 L D^2 (query, key, value, output) + 4 L D I (the block)
    + 4 L^2 D (scores and what they weigh). And 2 D (feature_size + 7) for each region, 2 D^2 for the pooler. Padding,
    recomputation, look-ups, LayerNorm, softmax and GELU count nothing.

    Args:
        config: hidden_size, intermediate_size, num_hidden_layers.
        words: (pairs,) tokens of each text, CLS and SEP included.
        things: (pairs,) regions.
        feature_size: of a region.
    """
    wide, between, layers = (config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    length = (words + things).astype(np.float64)
    layer = length * (8 * wide**2 + 4 * wide * between) + 4 * length**2 * wide
    return layers * layer + 2 * wide * (feature_size + 7) * things + 2 * wide**2


def head_flops(config: Mapping[str, Any], targets: int, outputs: int) -> float:
    """Of a masking objective's head: a transform and its last product, at masked places alone."""
    wide = config["hidden_size"]
    return 2.0 * targets * (wide**2 + wide * outputs)


def busy_share(spans: Iterable[tuple[float, float]], skipped: float = 0.4) -> float:
    """How much of the time any of these (start, end) was running.

    Args:
        spans: in any order; they may overlap.
        skipped: the first part of the whole time, not looked at.

    Returns:
        Between 0 and 1; 0 of no spans.
    """
    ordered = sorted(spans)
    if not ordered:
        return 0.0
    begin, end = ordered[0][0], max(stop for _, stop in ordered)
    begin += skipped * (end - begin)
    busy, reached = 0.0, begin
    for start, stop in ordered:
        busy += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return busy / (end - begin) if end > begin else 0.0
