"""How the benchmarks call `uniter`: all of it is here, so that a change of the library changes this file alone."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import workload
from uniter.checkpoints import import_weights
from uniter.configuration_uniter import UniterConfig
from uniter.inference import Prepared, prepare
from uniter.modeling_uniter import UniterForPreTraining, UniterPreTrainedModel
from uniter.objectives import MaskedWords, Masking, Matching, Objective, RegionClassesKL, RegionFeatures
from uniter.pretraining import Captioned, Pretraining
from uniter.processing_uniter import Encoded, UniterProcessor, Vocabulary
from uniter.recipe import Training
from uniter.regions import Regions
from uniter.regions.store import Store, StoreWriter
from uniter.tasks.base import Precision, measuring
from uniter.tasks.retrieval import Retrieval
from uniter.training import batching, loop
from uniter.training.optimizer import build_optimizer

TOKENS = 2048  # of a batch in inference: what fits into a processor's caches
INFERENCE: tuple[Prepared, ...] = ("float32", "bfloat16", "int8")  # the precisions that the library offers
TRAINING: tuple[Precision, ...] = ("float32", "bfloat16")


# ---------------------------------------------------------------- models and pairs


def load(weights: Path, config: dict[str, Any]) -> Any:
    """A model of a published file of weights, in evaluation mode."""
    return import_weights(weights, config).model.eval()


@cache
def processor() -> UniterProcessor:
    """With a vocabulary as large as cased BERT's, special pieces where it has them."""
    pieces = [f"w{number}" for number in range(workload.VOCABULARY)]
    special = {workload.UNK: "[UNK]", workload.CLS: "[CLS]", workload.SEP: "[SEP]", workload.MASK: "[MASK]"}
    for number, piece in {**special, 0: "[PAD]", workload.FIRST_WORD: "!"}.items():
        pieces[number] = piece
    return UniterProcessor(Vocabulary(tuple(pieces)))


def regions(image: workload.Image) -> Regions:
    """An image of the workload."""
    boxes = image.boxes.astype(np.float32)
    return Regions(image.features, boxes[:, :4], 1, 1, locations=boxes)


def encoded(examples: Sequence[workload.Example]) -> list[Encoded]:
    """Pairs as arrays."""
    made = processor()
    return [made.join(made.wrap(example.pieces), regions(example.image)) for example in examples]


def row(ids: np.ndarray, features: np.ndarray, places: np.ndarray) -> Encoded:
    """A pair of which the ids are known, CLS and SEP and hidden words in them, and the (R, 7) places."""
    made = Regions(features, places[:, :4], 1, 1, locations=places[:, :6])
    return processor().join(ids, made)


# ---------------------------------------------------------------- inference and training


def prepared(model: UniterPreTrainedModel, precision: Any) -> tuple[UniterPreTrainedModel, Precision]:
    """The model made ready for inference in one of `INFERENCE`, and the precision to compute in."""
    return prepare(model, precision), "float32"  # its weights are of the precision: no autocast


def inference(
    model: UniterPreTrainedModel, rows: Sequence[Encoded], precision: str = "float32", tokens: int = TOKENS
) -> Callable[[], Tensor]:
    """Logits of all pairs in their order, whenever it is called; batches are made beforehand."""
    model, computed = prepared(model, precision)
    device = next(model.parameters()).device
    order = batching.evaluation_batches(np.array([len(row) for row in rows]), tokens)
    batches = [on(processor().collate([rows[i] for i in batch]), device) for batch in order]

    def run() -> Tensor:
        with measuring(model, computed):
            logits = torch.cat([model(**batch).logits.float() for batch in batches])
        found = torch.empty_like(logits)
        found[torch.from_numpy(np.concatenate(order)).to(device)] = logits
        return found

    return run


def objective(name: str) -> Objective:
    """An objective as published, ITM with its transport."""
    masking = Masking(processor().vocabulary)
    made = [MaskedWords(masking), Matching(), RegionFeatures(masking), RegionClassesKL(masking)]
    return {one.name: one for one in made}[name]


def without_transport() -> Objective:
    """ITM alone."""
    return Matching(transport_weight=0.0)


def training_batch(rows: Sequence[Encoded], labels: Sequence[Tensor]) -> dict[str, Tensor]:
    """Rows whose words are hidden already, with (T,) labels each, as one batch."""
    padded = torch.nn.utils.rnn.pad_sequence(list(labels), batch_first=True, padding_value=-1)
    return {**processor().collate(rows), "labels": padded}


def optimizer(model: UniterForPreTraining) -> torch.optim.Optimizer:
    """The published form, by the library."""
    return build_optimizer(model, Training(learning_rate=5e-5, optimizer="adamw-published", decayed="names"))


def training_step(
    model: UniterForPreTraining,
    batches: Sequence[dict[str, Tensor]],
    precision: Precision,
    mover: torch.optim.Optimizer,
    chosen: Objective | None = None,
) -> Callable[[], Tensor]:
    """An update over the batches whenever it is called: forward, backward, clip, AdamW. Returns the last loss.

    Steps that take turns may share what `optimizer` gave.
    """
    chosen, device = chosen or objective("mlm"), next(model.parameters()).device

    def run() -> Tensor:
        model.train()
        mover.zero_grad(set_to_none=True)
        for batch in batches:
            loss = loss_of(model, batch, precision, chosen)
            (loss / len(batches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        mover.step()
        return loss.detach()

    assert all(value.device.type == device.type for batch in batches for value in batch.values())
    return run


def loss_of(
    model: UniterForPreTraining, batch: dict[str, Tensor], precision: Precision, chosen: Objective | None = None
) -> Tensor:
    """The loss of a batch, in a precision, as the training loop computes it."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        return (chosen or objective("mlm")).loss(model, batch).loss


def on(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch on a device."""
    return {key: value.to(device) for key, value in batch.items()}


# ---------------------------------------------------------------- stores, examples, pairs


def write_store(folder: Path, images: Sequence[workload.Image], class_probs: bool = False) -> Store:
    """The images as a store, with the detector's distributions or without."""
    with StoreWriter(folder, "drawn") as writer:
        for image in images:
            found = regions(image)
            writer.add(image.name, replace(found, class_probs=workload.class_probs(image)) if class_probs else found)
    return Store(folder)


def packed_features(store: Store, names: Sequence[str], out: np.ndarray) -> int:
    """Fill one flat float16 batch with the features of images, one behind the other; returns how many rows."""
    return int(store.read_packed(names, out).counts.sum())


def example_path(store: Store, examples: Sequence[workload.Example]) -> Callable[[np.ndarray, int], Any]:
    """Makes the MLM batch of some examples in an epoch: text, mask, regions, all the way to tensors."""
    tiny = UniterConfig.of_size("tiny", num_hidden_layers=1, vocab_size=8, region_feature_size=8)
    model = UniterForPreTraining(tiny)  # only its number of positions is asked for
    job = pretraining_job(model, store, examples, {"mlm": 1.0})
    return lambda indices, epoch: job.prepare(stream("mlm"), indices, epoch)


def pretraining_job(
    model: UniterForPreTraining, store: Store, examples: Sequence[workload.Example], shares: dict[str, float]
) -> Pretraining:
    """Pre-training with these objectives and their shares, for the loop or for single batches of a `stream`."""
    names = [example.image.name for example in examples]
    texts = [processor().wrap(example.pieces) for example in examples]
    source = Captioned(texts, np.arange(len(names)), names, store)
    return Pretraining(model, processor(), [source], [], {objective(n): s for n, s in shares.items()}, names=["drawn"])


def stream(name: str) -> str:
    """What the job calls an objective's examples."""
    return f"{name}/drawn"


def train(job: Pretraining, folder: Path, updates: int, tokens: int, device: str) -> list[dict[str, Any]]:
    """So many updates of a job by the library's own loop, in bfloat16; what its log says of each."""
    settings = Training(
        steps=updates, tokens=tokens, batching="packed", clip=5.0, precision="bfloat16", device=device, validate_every=10**6, save_every=10**6
    )  # fmt: skip
    loop.train(job, settings, folder, progress=False)
    return [line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "seconds" in line]


def pair_scores(
    model: Any, store: Store, folder: Path, texts: Sequence[tuple[int, ...]], names: Sequence[str], precision: str
) -> Callable[[], np.ndarray]:
    """(texts, images) scores of every text with every image, whenever it is called."""
    task, (model, computed) = Retrieval(folder, store, processor()), prepared(model, precision)
    return lambda: task.score_matrix(model, list(texts), list(names), TOKENS, precision=computed)


def batches(lengths: np.ndarray, tokens: int) -> tuple[list[np.ndarray], bool]:
    """The batches of an epoch by a budget, and whether they are packed: without padding."""
    return batching.training_batches(lengths, tokens, mode="packed"), True
