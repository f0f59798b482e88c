"""How fast batches are made and a checkpoint is loaded, on one core. `python benchmarks/loader.py`.

Drawn images (37 regions on average, 2,048 numbers a region) and texts; warm: a first round reads the store once. Times
are processor time, medians over rounds. Writes docs/results/loader.md. The functions serve other benchmarks too.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import processor
from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import UniterForPreTraining
from uniter.objectives import MaskedWords, Masking
from uniter.pretraining import Captioned, Pretraining
from uniter.processing_uniter import SPECIAL_PIECES, UniterProcessor, Vocabulary
from uniter.regions import Regions
from uniter.regions.store import Store, StoreWriter

FEATURES = 2048
RESULT = Path(__file__).parents[1] / "docs" / "results" / "loader.md"


def drawn_store(folder: Path, images: int) -> Store:
    """A store of drawn images: 11 to 100 regions, mean 37, features of which 27% are 0."""
    draw = np.random.default_rng(0)
    with StoreWriter(folder, detector="drawn") as writer:
        for number in range(images):
            regions = int(np.clip(np.exp(draw.normal(3.51, 0.46)), 11, 100))
            features = np.maximum(draw.standard_normal((regions, FEATURES), np.float32) + 0.61, 0).astype(np.float16)
            corners = draw.uniform(0, 300, (regions, 2))
            boxes = np.concatenate([corners, corners + draw.uniform(20, 200, (regions, 2))], 1).astype(np.float32)
            writer.add(f"{number:06}.jpg", Regions(features, boxes, 640, 480))
    return Store(folder)


def packed_reading(store: Store, batch: int = 256, rounds: int = 5) -> float:
    """Microseconds of processor time an image, read in random order into one flat float16 batch."""
    order = np.random.default_rng(1).permutation(store.names)
    batches = [order[at : at + batch].tolist() for at in range(0, len(order), batch)]
    room = np.ones((max(int(store.counts_of(names).sum()) for names in batches), store.feature_size), np.float16)
    return 1e6 * _median(lambda: [store.read_packed(names, room) for names in batches], rounds) / len(order)


def mlm_job(store: Store) -> Pretraining:
    """Masked words over a store, a drawn caption of 6 to 24 pieces for each image."""
    pieces = (*SPECIAL_PIECES, "!", *(f"w{number}" for number in range(28_990)))
    draw = np.random.default_rng(2)
    made = UniterProcessor(Vocabulary(pieces))
    texts = [made.wrap(draw.integers(6, len(pieces), int(length))) for length in draw.integers(6, 25, len(store))]
    source = Captioned(texts, np.arange(len(store)), store.names, store)
    config = UniterConfig.of_size("tiny", num_hidden_layers=1, vocab_size=len(pieces), region_feature_size=8)
    model = UniterForPreTraining(config)  # only its number of positions is asked for
    return Pretraining(model, made, [source], [], {MaskedWords(Masking(made.vocabulary)): 1.0})


def example_path(job: Pretraining, batch: int = 256, rounds: int = 5) -> float:
    """Microseconds of processor time an example: text, masks, regions, all the way to a batch of tensors."""
    (stream,) = job.mixture
    order = np.random.default_rng(3).permutation(len(job.lengths(stream)))
    batches = [order[at : at + batch] for at in range(0, len(order), batch)]
    epochs = iter(range(rounds + 1))

    def run() -> None:
        epoch = next(epochs)
        for rows in batches:
            job.prepare(stream, rows, epoch)

    return 1e6 * _median(run, rounds) / len(order)


LOADING = """
import sys, time
from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import UniterForPreTraining

def resident():
    try:
        return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
    except OSError:
        return float("nan")

UniterForPreTraining(UniterConfig.of_size("tiny", vocab_size=8))  # whatever is imported late
before, began = resident(), time.process_time()
model = UniterForPreTraining.from_pretrained(sys.argv[1])
print(time.process_time() - began, resident() - before)
"""


def loading(folder: Path) -> tuple[float, float]:
    """Seconds of processor time that loading a checkpoint takes in a process that has imported, and MB it adds."""
    command = [sys.executable, "-c", LOADING, str(folder)]
    seconds, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), float(megabytes)


def _median(run: Any, rounds: int) -> float:
    run()
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        store = drawn_store(Path(place) / "store", options.images)
        reading, path = (
            packed_reading(store, rounds=options.rounds),
            example_path(mlm_job(store), rounds=options.rounds),
        )
        regions = store.counts().mean()
        store.close()
        UniterForPreTraining(UniterConfig.of_size("base")).save_pretrained(Path(place) / "base")
        loads = [loading(Path(place) / "base") for _ in range(options.rounds)]
    seconds, megabytes = (statistics.median(values) for values in zip(*loads, strict=True))
    text = f"""# How fast batches are made

`python benchmarks/loader.py` wrote this: {options.images:,} drawn images of {regions:.1f} regions on average, warm, one core;
processor time, medians of {options.rounds} rounds.

| | | |
|---|---:|---:|
| regions into one flat float16 batch, an image | {reading:.0f} us | {1e6 / reading:,.0f} images/s |
| masked words, an example: text, masks, regions, batch | {path:.0f} us | {1e6 / path:,.0f} examples/s |
| loading a checkpoint of base size, before its first use | {seconds:.3f} s | {megabytes:.0f} MB |

{platform.machine()}, {processor()}, Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}.
"""
    print(text)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
