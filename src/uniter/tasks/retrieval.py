"""Image and text retrieval (Flickr30K, COCO, scenes): Karpathy's files, negatives, recall. Paper section 4, spec of the published code."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from uniter import draws
from uniter.modeling_uniter import UniterForMatching, UniterPreTrainedModel
from uniter.processing_uniter import Pair
from uniter.tasks.base import Batch, Task, field, read_json, with_interval, write_json


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption: its text, its image's name and both numbers."""

    text: str
    image: str
    sentid: int
    imgid: int


def read_captions(path: str | Path, split: str) -> list[Caption]:
    """The captions of a split in Karpathy's JSON layout, in the file's order.

    Args:
        path: `dataset_*.json`.
        split: "train", "val", "test", or "restval" of COCO.

    Raises:
        ValueError: the file is missing or foreign, or has no such split.
    """
    path = Path(path)
    images = field(read_json(path, dict), "images", path)
    found = [
        Caption(sentence["raw"], field(image, "filename", path), int(sentence["sentid"]), int(image["imgid"]))
        for image in images
        if field(image, "split", path) == split
        for sentence in field(image, "sentences", path)
        if sentence["raw"].strip()
    ]
    if not found:
        known = sorted({image["split"] for image in images})
        raise ValueError(f"{path}: no captions in split {split!r}; it has {', '.join(known)}")
    return found


class Retrieval(Task):
    """Text finds image and image finds text.

    A prediction is one text's row of scores over all images; targets are the true pairs. Trained with sampled negatives, or with
    hard ones: of many candidates those that the model scores highest. Options:

        negatives: sampled images and as many sampled texts a positive pair (published: 1).
        hard_negatives: instead, so many hard ones out of `candidates`, half images, half texts (published: 31 of 399 each); 0: off.
        candidates: to choose the hard ones from.
        margin: of the hinge (published: 0.2).
        max_images: measure among so many images at most; 0: all.
        captions_per_image: measure with so many captions of each; 0: all.
        published_recall: count image retrieval as the published code does, which is too high by up to k / texts.
    """

    name = "retrieval"
    model = UniterForMatching
    monitor = "mean_recall"
    options = {  # noqa: RUF012
        "negatives": 1,
        "hard_negatives": 0,
        "candidates": 20,
        "margin": 0.2,
        "max_images": 0,
        "captions_per_image": 0,
        "published_recall": False,
    }

    def examples(self, split: str) -> list[Caption]:
        """The captions of a split; for measuring, of at most `max_images` images with `captions_per_image` each."""
        captions = read_captions(self.file("dataset_*.json"), split)
        if split == "train":
            return captions
        most, each = self.settings["max_images"], self.settings["captions_per_image"]
        kept: dict[str, int] = {}
        chosen = []
        for caption in captions:
            if caption.image not in kept and most and len(kept) == most:
                continue
            kept[caption.image] = kept.get(caption.image, 0) + 1
            if not each or kept[caption.image] <= each:
                chosen.append(caption)
        return chosen

    def pairs(self, example: Caption) -> list[Pair]:
        """The caption and its own image."""
        return [Pair(example.text, self.seen(example.image))]

    def target(self, examples: Sequence[Caption]) -> Tensor:
        """All positives."""
        return torch.full((len(examples),), -1)

    # ------------------------------------------------------------ training

    def lengths(self, examples: Sequence[Caption]) -> np.ndarray:
        """Tokens of each example with all pairs that come with it in a step."""
        hard = self.settings["hard_negatives"]
        pairs = 1 + (2 * self.settings["candidates"] if hard else 2 * self.settings["negatives"])
        return super().lengths(examples) * pairs

    def training_batch(self, examples: Sequence[Caption], indices: np.ndarray, epoch: int) -> Batch:
        """Each positive, then its negatives: other images for its text, other texts for its image (never of the same image)."""
        hard = self.settings["hard_negatives"]
        each = self.settings["candidates"] if hard else self.settings["negatives"]
        rows, labels, pairs = [], [], []
        for index in indices:
            positive = examples[index]
            labels.append(-1)
            rows.append(len(rows))
            pairs.append(Pair(positive.text, self.seen(positive.image)))
            place = len(pairs) - 1
            for other in self._others(examples, int(index), epoch, "negative-image", each):
                pairs.append(Pair(positive.text, self.seen(examples[other].image)))
                labels.append(place)
            for other in self._others(examples, int(index), epoch, "negative-text", each):
                pairs.append(Pair(examples[other].text, self.seen(positive.image)))
                labels.append(place)
        assert self.processor is not None
        batch = self.processor.collate(self.encode_pairs(pairs))
        batch["labels"] = torch.tensor(labels)
        return batch

    def encode_pairs(self, pairs: Sequence[Pair]) -> list:
        """Ready-made pairs as arrays, each text cut into pieces once."""
        assert self.processor is not None
        new = list({pair.text for pair in pairs} - self._pieces.keys())
        if new:
            self._pieces.update(zip(new, map(self.processor.wrap, self.processor.pieces_of(new)), strict=True))
        return [self.processor.join(self._pieces[pair.text], pair.regions) for pair in pairs]

    def _others(self, examples: Sequence[Caption], index: int, epoch: int, purpose: str, count: int) -> list[int]:
        """Distinct examples of other images."""
        found: list[int] = []
        drawn = draws.integers(self.seed, purpose, len(examples), epoch, index, np.arange(8 * count + 32))
        for other in drawn.tolist():
            if examples[other].image != examples[index].image and other not in found:
                found.append(other)
                if len(found) == count:
                    return found
        raise ValueError(f"{self.data}: too few images to draw {count} negatives from; lower the task's option")

    def step(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """The hinge loss; with hard negatives over those that the model scores highest."""
        hard = self.settings["hard_negatives"]
        if hard:
            batch = hardest(model, batch, hard)
        return model(**batch, margin=self.settings["margin"]).loss

    # ------------------------------------------------------------ measuring

    def predict(
        self, model: UniterPreTrainedModel, examples: Sequence[Caption], tokens: int = 8192, progress: bool = False
    ) -> list[list[float]]:
        """Each text's scores over all images of `examples`, in order of their first appearance."""
        images = list(dict.fromkeys(example.image for example in examples))
        return self.score_matrix(model, [example.text for example in examples], images, tokens, progress).tolist()

    def score_matrix(
        self,
        model: UniterPreTrainedModel,
        texts: Sequence[str],
        images: Sequence[str],
        tokens: int = 8192,
        progress: bool = False,
    ) -> np.ndarray:
        """(texts, images) float32 rank scores, every pair scored; images of like size together, so little is padding."""
        from tqdm import tqdm

        assert self.processor is not None
        regions = [self.seen(image) for image in images]
        sizes = np.array([len(r) for r in regions])
        order = np.argsort(-sizes, kind="stable")
        text_ids = [self.processor.wrap(ids) for ids in self.processor.pieces_of(texts)]
        features = [self.processor.join(text_ids[0], regions[i]) for i in order]
        device, was_training = next(model.parameters()).device, model.training
        model.eval()
        blank = np.zeros(1, dtype=np.int64)
        scores = np.empty((len(texts), len(images)), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(text_ids[i]))
        image_side = {
            k: v.to(device)
            for k, v in self.processor.collate([_bare(f, blank) for f in features]).items()
            if "text" not in k and k != "input_ids"
        }
        with torch.inference_mode():
            for row in tqdm(by_length, desc="pairs", unit="text", disable=not progress):
                ids = torch.from_numpy(text_ids[row]).to(device)
                start = 0
                while start < len(order):
                    widest = int(sizes[order[start]])
                    stop = min(len(order), start + max(1, tokens // (widest + len(ids))))
                    part = {key: value[start:stop, :widest] for key, value in image_side.items()}
                    logits = model(input_ids=ids.expand(stop - start, -1), **part).logits
                    scores[row, order[start:stop]] = logits.float().cpu().numpy()
                    start = stop
        model.train(was_training)
        return scores

    def score(self, predictions: Sequence[Sequence[float]], examples: Sequence[Caption]) -> dict[str, float]:
        """Recall at 1, 5, 10 both ways, their mean, and the 95% interval of recall at 1."""
        images = list(dict.fromkeys(example.image for example in examples))
        number = {image: i for i, image in enumerate(images)}
        own = np.array([number[example.image] for example in examples])
        return recalls(np.asarray(predictions, dtype=np.float64), own, self.settings["published_recall"])

    def perfect(self, examples: Sequence[Caption]) -> list[list[float]]:
        """1 for the own image, 0 for others."""
        images = list(dict.fromkeys(example.image for example in examples))
        return [[float(image == example.image) for image in images] for example in examples]

    def write(self, predictions: Sequence[Any], path: str | Path) -> None:
        """The score matrix as safetensors (`scores`, texts x images)."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        save_file({"scores": np.asarray(predictions, dtype=np.float32)}, temporary)
        temporary.replace(path)

    def read(self, path: str | Path) -> list[list[float]]:
        """What `write` wrote."""
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file")
        try:
            return load_file(path)["scores"].tolist()
        except Exception as error:
            raise ValueError(
                f"{path}: not a score matrix ({error}); write it with `uniter predict retrieval`"
            ) from None


def _bare(row, blank: np.ndarray):
    from dataclasses import replace

    return replace(row, input_ids=blank, text_types=blank)


def hardest(model: torch.nn.Module, batch: Batch, keep: int) -> Batch:
    """Of each positive's negatives the `keep` that the model scores highest, images and texts counted separately.

    Scored in evaluation mode without gradient, as published.
    """
    labels = batch["labels"]
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        scores = model(**inputs).logits
    model.train(was_training)
    rows: list[int] = []
    new_labels: list[int] = []
    for positive in torch.nonzero(labels < 0).flatten().tolist():
        negatives = torch.nonzero(labels == positive).flatten()
        place = len(rows)
        rows.append(positive)
        new_labels.append(-1)
        for side in negatives.chunk(2):  # images first, then texts
            best = side[scores[side].topk(min(keep, len(side))).indices]
            rows += best.tolist()
            new_labels += [place] * len(best)
    index = torch.tensor(rows, device=labels.device)
    return {
        **{key: value[index] for key, value in inputs.items()},
        "labels": torch.tensor(new_labels, device=labels.device),
    }


def recalls(scores: np.ndarray, own: np.ndarray, published: bool = False) -> dict[str, float]:
    """Recall of a score matrix, in percent.

    Args:
        scores: (texts, images), higher = better.
        own: (texts,) the column of each text's image.
        published: count image-retrieval hits as the published code does (of each hit both its row and its rank are compared
            with k, which adds up to k hits).

    Returns:
        image_recall_at_1, 5, 10 (text finds image), text_recall_at_1, 5, 10 (image finds one of its texts), mean_recall, and
        95% intervals of recall at 1. Ties count against the model.
    """
    true = scores[np.arange(len(own)), own][:, None]
    image_rank = (scores >= true).sum(1) - 1
    text_rank = np.empty(scores.shape[1], dtype=np.int64)
    for image in range(scores.shape[1]):
        column, mine = scores[:, image], own == image
        text_rank[image] = (column[~mine] >= column[mine].max()).sum() if mine.any() else len(column)
    found: dict[str, float] = {}
    for k in (1, 5, 10):
        hits = image_rank < k
        extra = int((image_rank[:k] < 10).sum()) if published else 0
        found[f"image_recall_at_{k}"] = 100.0 * (hits.sum() + extra) / len(own)
        found[f"text_recall_at_{k}"] = 100.0 * (text_rank < k).mean()
    found["mean_recall"] = sum(found.values()) / 6
    for side, ranks in (("image", image_rank), ("text", text_rank)):
        bounds = with_interval(f"{side}_recall_at_1", 100.0 * (ranks < 1))
        found.update({key: value for key, value in bounds.items() if key.endswith(("_low", "_high"))})
    return found


__all__ = ["Caption", "Retrieval", "hardest", "read_captions", "recalls", "write_json"]
