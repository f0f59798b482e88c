"""What training takes of memory, by size and settings; writes docs/results/training_memory.md.

python benchmarks/training_memory.py [--size base] [--precision float32] [--check]
"""

import argparse
import platform
import resource
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from machine import processor
from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import UniterForPreTraining
from uniter.objectives import Draws, MaskedWords, Masking, Matching, Objective, RegionClassesKL, RegionFeatures
from uniter.recipe import Training
from uniter.training.loop import train
from uniter.training.memory import Need, measured

TEXT, REGIONS = 14, 36  # an average pair of the published data has 49 to 50 tokens
LONGEST = 62 + 100
TOKENS = 10240
CARD = 15e9  # of 16 GB, CUDA's context aside


@dataclass
class Pairs:
    """Pre-training on pairs of random numbers in the published shapes: 2,048 features, 1,601 classes, BERT's words."""

    model: UniterForPreTraining
    mixture: dict[str, float]
    objectives: dict[str, Objective]
    monitor = "score"

    def lengths(self, stream: str) -> np.ndarray:
        return np.array([TEXT + REGIONS] * 200 + [LONGEST] * 2)

    def prepare(self, stream: str, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        long = int(max(indices)) >= 200
        text, regions, rows = (62, 100, len(indices)) if long else (TEXT, REGIONS, len(indices))
        random = torch.Generator().manual_seed(int(indices[0]))
        batch = {
            "input_ids": torch.randint(1000, 28000, (rows, text), generator=random),
            "text_mask": torch.ones(rows, text, dtype=torch.bool),
            "text_types": torch.zeros(rows, text, dtype=torch.int64),
            "regions": torch.randn(rows, regions, 2048, generator=random),
            "locations": torch.rand(rows, regions, 7, generator=random),
            "region_mask": torch.ones(rows, regions, dtype=torch.bool),
            "region_types": torch.ones(rows, regions, dtype=torch.int64),
            "class_probs": torch.rand(rows, regions, 1601, generator=random).softmax(-1),
            "labels": torch.randint(0, 2, (rows,), generator=random),
        }
        return self.objectives[stream].spoil(batch, Draws(0, epoch, np.asarray(indices)))

    def loss(self, stream: str, batch: dict[str, Any]):
        found = self.objectives[stream].loss(self.model, batch)
        return found.loss, found.numbers

    def count(self, stream: str, batch: dict[str, Any]) -> int:
        return self.objectives[stream].targets(batch)

    def validate(self) -> dict[str, float]:
        return {}

    def save(self, folder: Path) -> None:
        pass


def pairs(size: str) -> Pairs:
    words: Any = SimpleNamespace(cls=101, sep=102, mask=103, first_ordinary=1000, end_ordinary=28996)
    masking = Masking(words)
    objectives = [MaskedWords(masking), Matching(), RegionFeatures(masking), RegionClassesKL(masking)]
    config = UniterConfig.of_size(size, vocab_size=28996, region_feature_size=2048, num_region_classes=1601)
    named = {objective.name: objective for objective in objectives}
    return Pairs(UniterForPreTraining(config), dict.fromkeys(named, 1.0), named)


def need_of(job: Pairs, training: Training, device: str) -> Need:
    lengths = {name: job.lengths(name) for name in job.mixture}
    # As on a card: no copy of a checkpoint in the same memory. The pass itself runs here.
    need = measured(job, training, lengths, torch.device("cpu"), lambda batch: batch)
    weights = sum(parameter.numel() for parameter in job.model.parameters()) * 4
    return need if device == "cpu" else Need(need.fixed - 3 * weights, need.token, need.longest)


def peak() -> float:
    """Largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def one_update(size: str, tokens: int) -> tuple[float, float]:
    """Estimated and really used bytes of updates on this processor, in the parent process only once."""
    import tempfile

    before = peak()
    job = pairs(size)
    training = Training(steps=4, tokens=tokens, max_examples=tokens // (TEXT + REGIONS), device="cpu", save_every=100)
    estimated = need_of(job, training, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        train(job, training, Path(folder) / "run", progress=False)
    return estimated.of(tokens), peak() - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", nargs="+", default=["base", "large"])
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--check", action="store_true", help="Hold the estimate against real updates (minutes).")
    asked = parser.parse_args()
    rows = []
    for size in asked.size:
        job = pairs(size)
        for precision, forgets in product(asked.precision, (False, True)):
            training = Training(tokens=TOKENS, precision=precision, activation_checkpointing=forgets)
            need = need_of(job, training, "card")
            parts = need.parts(TOKENS, int(CARD))
            rows.append(
                f"| {size} | {precision} | {'yes' if forgets else 'no'} | {need.fixed / 1e9:.2f} | {need.token / 1e6:.2f} | "
                f"{need.of(TOKENS) / 1e9:.1f} | {parts} | {need.of(TOKENS, parts) / 1e9:.1f} |"
            )
            print(rows[-1], flush=True)
    checked = "Not held against a real update in this run (`--check` does)."
    if asked.check:
        estimated, used = one_update("base", tokens := 1024)
        checked = (
            f"How good the estimate is: four updates of base with {tokens:,} tokens on this processor and a checkpoint at "
            f"the end were reckoned to take {estimated / 1e9:.2f} GB, and the process grew by {used / 1e9:.2f} GB."
        )
    table = "\n".join(rows)
    text = f"""# Memory of training

`python benchmarks/training_memory.py {" ".join(sys.argv[1:])}`. Pre-training on pairs in the published shapes (2,048 features, 1,601 classes, 28,996 words, up to
{LONGEST} tokens), micro-batches of {TOKENS:,} tokens as published, AdamW. Sizes in GB are 1e9 bytes.

What the forward pass keeps for the backward one was **measured** by counting the tensors that PyTorch saves, on this processor, with a few
examples of each objective; weights, gradients and the optimiser's state were counted; "in one" adds a quarter, and is what `--max-memory`
reckons with. **No card was at hand: nothing here was read off a GPU**, where the fused attention kernel keeps less than the plain products
that train on a processor.

| model | precision | activation checkpointing | weights, gradients, optimiser: GB | kept a token: MB | in one: GB | parts for `--max-memory 15GB` | GB then |
|---|---|---|---:|---:|---:|---:|---:|
{table}

{checked}

{processor()}, PyTorch {torch.__version__}, Python {platform.python_version()}.
"""
    (Path(__file__).parents[1] / "docs" / "results" / "training_memory.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
