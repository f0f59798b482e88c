"""How full batches are: the published sampler against ours, on lengths like VQA's. `python benchmarks/batch_fill.py`.

Writes docs/results/batch_fill.md. The lengths are drawn, not read: about 10 pieces and 10 to 100 regions an example.
"""

import time
from pathlib import Path

import numpy as np

from uniter.training.batching import training_batches

EXAMPLES = 200_000
RESULT = Path(__file__).parents[1] / "docs" / "results" / "batch_fill.md"


def vqa_like_lengths(examples: int) -> np.ndarray:
    """Lengths with mean 47 and maximum 114, as those of VQA."""
    draw = np.random.default_rng(0)
    text = np.clip(draw.normal(10, 3, examples).round(), 4, 24)
    regions = np.clip(10 + draw.gamma(2.2, 12.5, examples), 10, 100).round()
    return np.minimum(text + regions, 114).astype(np.int64)


def measured(lengths: np.ndarray, tokens: int, mode: str) -> tuple[float, float, float, float, float]:
    """An epoch's batches by a budget.

    Returns:
        Examples a batch; the share of the budget that is used, padding counted where it is computed; the share of that
        which is real; the share of the examples that is seen; seconds.
    """
    began = time.perf_counter()
    batches = training_batches(lengths, tokens, mode=mode)
    seconds = time.perf_counter() - began
    sizes = np.array([len(batch) for batch in batches])
    real = np.array([lengths[batch].sum() for batch in batches])
    used = sizes * [lengths[batch].max() for batch in batches] if mode == "published" else real
    return sizes.mean(), (used / tokens).mean(), (real / used).mean(), sizes.sum() / len(lengths), seconds


def main() -> None:
    lengths = vqa_like_lengths(EXAMPLES)
    lines = [
        "# How full batches are",
        "",
        "`python benchmarks/batch_fill.py` wrote this: shares are means over the batches of an epoch.",
        f"{EXAMPLES:,} drawn examples, lengths like VQA's: mean {lengths.mean():.1f} tokens, longest {lengths.max()}.",
        "The published sampler never resets its running maximum: the longest of a window of 8,192 sizes all its",
        "batches, and it drops what is left of each window; its model computes the padding. Ours takes every example once",
        "an epoch, and no padding is computed. `filled` (the default) makes batches of like length, `packed` takes the",
        "examples as they come.",
        "",
        "| budget | batching | examples a batch | budget used | of it real | examples seen | seconds |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for tokens in (2048, 5120, 10240, 16384, 32768):
        for mode in ("published", "filled", "packed"):
            size, used, real, seen, seconds = measured(lengths, tokens, mode)
            lines.append(
                f"| {tokens} | {mode} | {size:.0f} | {100 * used:.1f}% | {100 * real:.1f}% | {100 * seen:.1f}% | "
                f"{seconds:.2f} |"
            )
    text = "\n".join(lines) + "\n"
    print(text)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
