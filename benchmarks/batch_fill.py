"""How full batches are: the published sampler against ours, on lengths like VQA's. `python benchmarks/batch_fill.py`.

Writes docs/results/batch_fill.md. The lengths are drawn, not read: about 10 pieces and 10 to 100 regions an example.
"""

import time
from pathlib import Path

import numpy as np

from uniter.training.batching import fill, training_batches

EXAMPLES = 200_000
RESULT = Path(__file__).parents[1] / "docs" / "results" / "batch_fill.md"


def vqa_like_lengths(examples: int) -> np.ndarray:
    """Lengths with mean 47 and maximum 114, as those of VQA."""
    draw = np.random.default_rng(0)
    text = np.clip(draw.normal(10, 3, examples).round(), 4, 24)
    regions = np.clip(10 + draw.gamma(2.2, 12.5, examples), 10, 100).round()
    return np.minimum(text + regions, 114).astype(np.int64)


def main() -> None:
    lengths = vqa_like_lengths(EXAMPLES)
    lines = [
        "# How full batches are",
        "",
        "`python benchmarks/batch_fill.py` wrote this. Fill is real tokens over the budget,",
        "the mean over the batches of an epoch.",
        f"{EXAMPLES:,} drawn examples, lengths like VQA's: mean {lengths.mean():.1f} tokens, longest {lengths.max()}.",
        "The published sampler never resets its running maximum: the longest of a window of 8192 sizes all its",
        "batches, and it drops what is left of each window. Ours takes every example once an epoch.",
        "",
        "| budget | published: fill | examples | seen | filled: fill | examples | seen | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for tokens in (2048, 3072, 5120, 10240):
        cells = []
        for mode in ("published", "filled"):
            began = time.perf_counter()
            batches = training_batches(lengths, tokens, mode=mode)
            seconds = time.perf_counter() - began
            sizes = [len(batch) for batch in batches]
            full = 100 * fill(batches, lengths, tokens)
            cells += [f"{full:.1f}%", f"{np.mean(sizes):.0f}", f"{100 * sum(sizes) / EXAMPLES:.1f}%"]
        lines.append(f"| {tokens} | {' | '.join(cells)} | {seconds:.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
