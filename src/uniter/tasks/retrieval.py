"""Image and text retrieval (Flickr30K, COCO, scenes): Karpathy's files, negatives, recall. Paper section 4."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from uniter import draws
from uniter.files import read_json, replacing, write_json
from uniter.modeling_uniter import UniterForMatching, UniterPreTrainedModel
from uniter.packing import select_rows
from uniter.pair_scoring import ScoreFile, made_of, score_all
from uniter.processing_uniter import Pair, Text, Vocabulary
from uniter.tasks.base import Batch, Precision, Predictions, Task, measuring
from uniter.tasks.intervals import with_interval
from uniter.tasks.reading import Names, field, name_finder
from uniter.tasks.text_database import TextDatabase, open_split
from uniter.tasks.views import MOST, Found, View, best_first

KS = (1, 5, 10)
TRAINING_SPLITS = {"train", "restval"}  # COCO trains on both


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption: its text (or word pieces), its image's name in the store, and both numbers of the file."""

    text: Text
    image: str
    sentid: int | str
    imgid: int


def read_captions(path: str | Path, split: str, stored: Names | None = None) -> list[Caption]:
    """The captions of a split in Karpathy's JSON layout, in the file's order.

    Args:
        path: `dataset_*.json`.
        split: "train", "val", "test" or COCO's "restval"; several joined by "+".
        stored: what knows the images there are. An image goes by `filename`, or `filepath/filename` (COCO), or a name
            that ends in the same number (`coco_val2014_000000000042.npz`), whichever is there; `filename` if left out.

    Raises:
        ValueError: the file is missing or foreign, or has no such split.
    """
    path = Path(path)
    return [
        Caption(
            field(sentence, "raw", path, str),
            name,
            field(sentence, "sentid", path, int),
            field(image, "imgid", path, int),
        )
        for image, name, sentence in karpathy_sentences(path, read_json(path, dict), split, stored)
    ]


def karpathy_sentences(
    path: Path, content: Any, split: str, stored: Names | None = None
) -> Iterator[tuple[Any, str, Any]]:
    """Image's record, image's name and sentence's record of each sentence with words; the rest as in `read_captions`.

    Args:
        path: for messages.
        content: of the file.
        split: several joined by "+".
        stored: what knows the images there are.
    """
    images = field(content, "images", path, list)
    splits = [field(image, "split", path, str) for image in images]
    wanted = split.split("+")
    if absent := set(wanted) - set(splits):
        known = ", ".join(sorted(set(splits)))
        raise ValueError(f"{path}: nothing in split {sorted(absent)[0]!r}; it has {known or 'no image'}")
    name_of = name_finder(stored)
    empty = True
    for image, part in zip(images, splits, strict=True):
        if part in wanted:
            name = name_of(field(image, "filename", path, str), str(image.get("filepath", "")))
            for sentence in field(image, "sentences", path, list):
                if field(sentence, "raw", path, str).strip():
                    empty = False
                    yield image, name, sentence
    if empty:
        raise ValueError(f"{path}: split {split!r} holds no captions; download or write the file again")


def open_captions(
    place: str | Path, split: str, names: Sequence[str], vocabulary: Vocabulary | None = None
) -> list[TextDatabase]:
    """The text databases of splits joined by "+"; none where the place has none. Arguments as in `open_split`."""
    found = [open_split(place, part, names, vocabulary) for part in split.split("+")]
    return [database for database in found if database is not None]


def stored_captions(databases: Sequence[TextDatabase], stored: Names | None = None) -> list[Caption]:
    """The captions of text databases, in their order; images are numbered by first appearance.

    Args:
        databases: opened.
        stored: what knows the images there are, by the databases' names or by names that end in the same number.
    """
    name_of = name_finder(stored)
    numbers: dict[str, int] = {}
    found = []
    for database in databases:
        for name in database.ids:
            image = name_of(database.image(name))
            imgid = numbers.setdefault(image, len(numbers))
            found.append(Caption(database.pieces(name, database.record(name)), image, name, imgid))
    return found


class Retrieval(Task):
    """Text finds image and image finds text; from Karpathy's JSON or text databases `itm_<data set>_<split>.db`.

    A prediction is one text's row of scores over all images of the examples, in order of first appearance. Trained with
    sampled negatives, or with hard ones: of many candidates those that the model scores highest. Options:

        captions: file name of the captions (`dataset_flickr30k.json`); the only `dataset_*.json` if left out.
        negatives: sampled images, and as many sampled texts, for each true pair (published: 1).
        hard_negatives: instead, so many images and texts each, the hardest of `candidates` (published: 31); 0: off.
        candidates: so many images and texts each to choose the hard ones from (published: 399).
        margin: of the hinge (published: 0.2).
        max_images: measure among the first so many images; 0: all.
        captions_per_image: measure with the first so many captions of each; 0: all.
        published_recall: give the published code's count of image retrieval too, which is too high by up to k / texts.
        fold: where there are several times so many images, give recall within folds of so many too, in the images'
            order, as the mean over the folds (COCO's 5,000 test images are usually also measured as five times 1,000);
            0: off.
        scores: a file .npy to keep the score matrix in while measuring, in the place of memory: a run that was stopped
            goes on where it was, one that is repeated is done at once; "": none.
    """

    name = "retrieval"
    id_field, text_kind = "sentid", "caption"
    model = UniterForMatching
    monitor = "mean_recall"
    options = MappingProxyType(
        {"captions": "", "negatives": 1, "hard_negatives": 0, "candidates": 20, "margin": 0.2}
        | {"max_images": 0, "captions_per_image": 0, "published_recall": False, "fold": 1000, "scores": ""}
    )
    published = MappingProxyType({"train": {"batching": "examples"}, "options": {"published_recall": True}})
    # spec 4.4, train-itm-flickr-base-8gpu: 40 texts (x 3 pairs) x 4 x 8 GPUs an update
    defaults = MappingProxyType(
        {"learning_rate": 5e-5, "steps": 20_000, "warmup": 2000, "examples": 40, "accumulate": 32}
        | {"clip": 2.0, "weight_decay": 0.01}
    )

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        for key, least in (("negatives", 1), ("hard_negatives", 0), ("candidates", 1), ("fold", 0)):
            if self.settings[key] < least:
                raise ValueError(f"option {key} of task {self.name} must be {least} or more, got {self.settings[key]}")
        self._pool: tuple[Sequence[Caption], list[str], np.ndarray] | None = None

    def examples(self, split: str) -> list[Caption]:
        """The captions of a split; if not for training, of `max_images` images with `captions_per_image` each at most.

        Raises:
            ValueError: the file is missing or foreign, or has no such split.
        """
        captions = self.captions(split)
        if TRAINING_SPLITS.issuperset(split.split("+")):
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

    def captions(self, split: str) -> list[Caption]:
        """All captions of a split."""
        if databases := open_captions(self.data, split, ("itm_*",), self.vocabulary):
            return stored_captions(databases, self.regions)
        return read_captions(self.only_file("captions", "dataset_*.json"), split, self.regions)

    def target(self, examples: Sequence[Caption]) -> Tensor:
        """(examples,) -1: as shown, all are true pairs; `training_batch` adds false ones."""
        return torch.full((len(examples),), -1)

    # ------------------------------------------------------------ training

    @property
    def each_side(self) -> int:
        """Negative images, and negative texts, of each true pair in a training batch."""
        return self.settings["candidates" if self.settings["hard_negatives"] else "negatives"]

    def lengths(self, examples: Sequence[Caption]) -> np.ndarray:
        """(examples,) int64 tokens of each example with all the pairs that come with it in a training batch."""
        if self.settings["scores"]:
            raise ValueError(
                f"option scores of task {self.name}: a model in training has new scores each time; leave it out of the "
                "recipe, and give it to `uniter evaluate`"
            )
        return super().lengths(examples) * (1 + 2 * self.each_side)

    def training_batch(self, examples: Sequence[Caption], indices: np.ndarray, epoch: int) -> Batch:
        """Each true pair, then its negatives: other images for its text, then other texts for its image.

        `labels`: the row of each negative's true pair, and -1 for true pairs. A negative is never of the same image.
        """
        assert self.processor is not None, "a task that trains needs a processor"
        images, image_of = self._images(examples)
        count = self.each_side
        other_images = self._sampled("negative-image", np.arange(len(images)), image_of, indices, epoch)
        other_texts = self._sampled("negative-text", image_of, image_of, indices, epoch)
        pairs, labels = [], []
        for index, image_rows, text_rows in zip(indices, other_images, other_texts, strict=True):
            text, own = examples[index].text, self.seen(examples[index].image)
            labels += [-1] + [len(pairs)] * (2 * count)
            pairs.append(Pair(text, own))
            pairs += [Pair(text, self.seen(images[row])) for row in image_rows]
            pairs += [Pair(examples[row].text, own) for row in text_rows]
        return {**self.processor.collate(self.encode_pairs(pairs)), "labels": torch.tensor(labels)}

    def _images(self, examples: Sequence[Caption]) -> tuple[list[str], np.ndarray]:
        """Distinct images, and the number of each example's."""
        if self._pool is None or self._pool[0] is not examples:
            numbers = {image: i for i, image in enumerate(dict.fromkeys(example.image for example in examples))}
            self._pool = (examples, list(numbers), np.array([numbers[example.image] for example in examples]))
        return self._pool[1], self._pool[2]

    def _sampled(
        self, purpose: str, image_of_pool: np.ndarray, image_of: np.ndarray, indices: np.ndarray, epoch: int
    ) -> list[list[int]]:
        """For each example, distinct members of a pool that show another image; pure in (seed, epoch, example)."""
        count, size = self.each_side, len(image_of_pool)
        drawn = draws.integers(self.seed, purpose, size, epoch, np.asarray(indices)[:, None], np.arange(2 * count + 16))
        chosen = []
        for index, row in zip(indices, drawn, strict=True):
            own = image_of[index]
            found = [x for x in dict.fromkeys(row.tolist()) if image_of_pool[x] != own]
            if len(found) < count:  # a small pool: go through all of it
                order = draws.permutation(self.seed, purpose, size, epoch, int(index))
                found = [x for x in order.tolist() if image_of_pool[x] != own]
            if len(found) < count:
                raise ValueError(
                    f"{self.data}: {count} negatives cannot be drawn from {len(found)} that show another image; lower "
                    f"the option {'candidates' if self.settings['hard_negatives'] else 'negatives'}"
                )
            chosen.append(found[:count])
        return chosen

    def step(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """The hinge loss; with hard negatives, over those that the model scores highest."""
        if hard := self.settings["hard_negatives"]:
            batch = hardest(model, batch, hard)
        return model(**batch, margin=self.settings["margin"]).loss

    def count(self, batch: Batch) -> int:
        """True pairs: each has as many negatives."""
        return int((batch["labels"] < 0).sum())

    # ------------------------------------------------------------ measuring

    def predict(
        self,
        model: UniterPreTrainedModel,
        examples: Sequence[Caption],
        tokens: int = 8192,
        progress: bool = False,
        precision: Precision = "float32",
    ) -> np.ndarray:
        """(texts, images) float32: each text's scores over all images of `examples`, in order of first appearance."""
        if not len(examples):
            return np.empty((0, 0), dtype=np.float32)
        texts = [example.text for example in examples]
        kept = self.settings["scores"] or None
        return self.score_matrix(model, texts, self._columns(examples), tokens, progress, precision, kept)

    def decode(self, output: Any, examples: Sequence[Caption], batch: Batch) -> list[float]:
        """The score of each caption with its own image alone; `predict` asks for those with all images."""
        return output.logits.tolist()

    def view(self, model: UniterPreTrainedModel, example: Caption, examples: Sequence[Caption]) -> View:
        """The caption with its own picture, and the pictures of all examples that fit it best."""
        images = self._columns(examples)
        logits = self.score_matrix(model, [example.text], images)[0]
        scores = torch.sigmoid(torch.from_numpy(logits)).tolist()
        best = [Found(images[i], f"{logits[i]:+.2f}", images[i] == example.image) for i in np.argsort(-logits)[:MOST]]
        kind = f"picture (the best of {len(images)})"
        outcomes = best_first(images, scores, [image == example.image for image in images])
        return replace(super().view(model, example, examples), outcomes=[(kind, outcomes)], found=best)

    def _columns(self, examples: Sequence[Caption]) -> list[str]:
        return list(dict.fromkeys(example.image for example in examples))

    def score_matrix(
        self,
        model: UniterPreTrainedModel,
        texts: Sequence[Text],
        images: Sequence[str],
        tokens: int = 8192,
        progress: bool = False,
        precision: Precision = "float32",
        kept: str | Path | None = None,
    ) -> np.ndarray:
        """Score every text with every image.

        Each text and each image's regions are read and embedded once (`uniter.pair_scoring`).

        Args:
            model: scores pairs.
            texts: sentences, or their word pieces.
            images: names in the store.
            tokens: budget of a batch.
            progress: show a progress bar.
            precision: bfloat16 is quicker on a GPU and rounds scores to 3 digits.
            kept: a file .npy that takes the scores, and that a run goes on with if it was stopped; None: in memory.

        Returns:
            (texts, images) float32 rank scores, higher = better; of a file its read-only mapping.

        Raises:
            ValueError: the file is of another model, other texts or other images.
        """
        self.fit_into(model)
        ids = self.pieces(texts)
        sizes = np.array([self.num_regions(image) for image in images], dtype=np.int64)
        read = lambda image: self.seen(images[image])
        file = None
        if kept is not None:
            file = ScoreFile(kept, (len(ids), len(sizes)), made_of(model, ids, sizes, read, precision))
        assert isinstance(model, UniterForMatching), "retrieval scores with the matching head"
        with measuring(model, precision):
            return score_all(model, ids, sizes, read, tokens, self.name if progress else None, file)

    def score(
        self, predictions: Sequence[Sequence[float]] | np.ndarray, examples: Sequence[Caption]
    ) -> dict[str, float]:
        """Recall at 1, 5, 10 both ways and their mean, with 95% intervals; of many images also within folds.

        Raises:
            ValueError: the scores are not a row for each text and a column for each image, or not finite.
        """
        number = {image: i for i, image in enumerate(self._columns(examples))}
        own = np.array([number[example.image] for example in examples])
        scores = np.asarray(predictions, dtype=np.float32)
        if scores.shape != (len(own), len(number)):
            raise ValueError(
                f"scores are {scores.shape}, the split has {len(own)} texts and {len(number)} images: predict this "
                "split, with the same options"
            )
        if not np.isfinite(scores).all():
            raise ValueError("a score is not finite: the model that made it is broken, use an earlier checkpoint")
        fold = self.settings["fold"]
        found = recalls(scores, own, self.settings["published_recall"])
        return found | (folded_recalls(scores, own, fold) if fold and len(number) >= 2 * fold else {})

    def perfect(self, examples: Sequence[Caption]) -> np.ndarray:
        """1 for the own image, 0 for others."""
        images = self._columns(examples)
        return np.array([[float(image == example.image) for image in images] for example in examples], dtype=np.float32)

    def write(self, predictions: Predictions, path: str | Path, examples: Sequence[Caption] | None = None) -> None:
        """The score matrix as safetensors (`scores`, texts x images).

        With `examples`, beside it a file with `.ids.json` behind its name: `texts` (sentids), `images` (names).
        """
        path = Path(path)
        if examples is not None:
            ids = {"texts": [example.sentid for example in examples], "images": self._columns(examples)}
            write_json(ids_beside(path), ids)
        with replacing(path) as temporary:
            save_file({"scores": np.ascontiguousarray(predictions, dtype=np.float32)}, temporary)

    def read(self, path: str | Path, examples: Sequence[Caption] | None = None) -> np.ndarray:
        """What `write` wrote, or another's matrix in a file .npy; (texts, images), both in the files' order.

        Raises:
            ValueError: the file is missing or foreign, or the file of names beside it is of other texts than examples.
        """
        path, mend = Path(path), "write it with `uniter predict retrieval`"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; {mend}")
        beside = ids_beside(path)
        if examples is not None and beside.is_file():
            texts = field(read_json(beside, dict), "texts", beside, list)
            if texts != [example.sentid for example in examples]:
                raise ValueError(
                    f"{beside}: the scores are of {len(texts)} other texts, or in another order, than the "
                    f"{len(examples)} of this split: give the split and the options that they were made with"
                )
        try:
            return np.load(path, allow_pickle=False) if path.suffix == ".npy" else load_file(path)["scores"]
        except Exception as error:  # a foreign file raises nearly anything
            raise ValueError(f"{path}: no score matrix ({error}); {mend}, or NumPy's .npy") from None


def ids_beside(path: str | Path) -> Path:
    """The file that says which texts and images a score matrix is of."""
    return Path(path).with_name(Path(path).name + ".ids.json")


def hardest(model: torch.nn.Module, batch: Batch, keep: int) -> Batch:
    """Of each true pair's negatives the `keep` that the model scores highest, of images and of texts each.

    Args:
        model: scores pairs; asked in evaluation mode without gradient, as published.
        batch: as `Retrieval.training_batch` makes it: P true pairs, each followed by its C images and its C texts.
        keep: at most so many of the C.

    Returns:
        The batch of the P * (1 + 2 * keep) rows that are left, in the same layout.
    """
    labels = batch["labels"]
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        scores = model(**inputs).logits
    model.train(was_training)
    true = torch.nonzero(labels < 0)  # (P, 1) rows
    negatives = torch.nonzero(labels >= 0).view(len(true), 2, -1)  # (P, images or texts, C) rows
    best = scores[negatives].topk(min(keep, negatives.shape[2]), dim=2).indices
    rows = torch.cat([true, negatives.gather(2, best).flatten(1)], 1)  # (P, 1 + 2 * keep)
    place = torch.arange(len(true), device=labels.device)[:, None] * rows.shape[1]
    left = place.repeat(1, rows.shape[1])
    left[:, 0] = -1
    return {**select_rows(inputs, rows.flatten()), "labels": left.flatten()}


def ranks(scores: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many wrong images come before each text's own, and wrong texts before the best own text of each image.

    Ties count against the model.

    Args:
        scores: (texts, images), higher = better.
        own: (texts,) the column of each text's image; every image has a text.
    """
    image_rank = (scores >= scores[np.arange(len(own)), own][:, None]).sum(1) - 1
    text_rank = np.empty(scores.shape[1], dtype=np.int64)
    for image in range(scores.shape[1]):
        column, mine = scores[:, image], own == image
        text_rank[image] = (column[~mine] >= column[mine].max()).sum()
    return image_rank, text_rank


def recalls(scores: np.ndarray, own: np.ndarray, published: bool = False) -> dict[str, float]:
    """Recall of a score matrix, in percent. Ties count against the model.

    Args:
        scores: (texts, images), higher = better.
        own: (texts,) the column of each text's image.
        published: give beside the right numbers those that the published code counts: it holds both row and rank of
            each hit of image retrieval among the first ten against k, which adds up to k hits.

    Returns:
        image_recall_at_1, 5, 10 (text finds image), text_recall_at_1, 5, 10 (image finds a text of its own) and their
        mean_recall, with 95% intervals: images are drawn anew, each with its texts, for these are not independent.
    """
    image_rank, text_rank = ranks(scores, own)
    texts_of = np.bincount(own, minlength=scores.shape[1])
    found: dict[str, float] = {}
    together = np.zeros(scores.shape[1])  # what each image adds to the mean over images of all six
    for k in KS:
        hits = 100.0 * np.bincount(own, weights=image_rank < k, minlength=scores.shape[1])
        found |= with_interval(f"image_recall_at_{k}", hits, texts_of)
        found |= with_interval(f"text_recall_at_{k}", 100.0 * (text_rank < k))
        together += (hits * scores.shape[1] / len(own) + 100.0 * (text_rank < k)) / (2 * len(KS))
    found |= with_interval("mean_recall", together)
    found["mean_recall"] = sum(found[f"{side}_recall_at_{k}"] for side in ("image", "text") for k in KS) / (2 * len(KS))
    if published:
        too_many = {k: 100.0 * float((image_rank[:k] < 10).sum()) / len(own) for k in KS}
        for k, extra in too_many.items():
            found[f"published_image_recall_at_{k}"] = found[f"image_recall_at_{k}"] + extra
        found["published_mean_recall"] = found["mean_recall"] + sum(too_many.values()) / (2 * len(KS))
    return found


def folded_recalls(scores: np.ndarray, own: np.ndarray, fold: int) -> dict[str, float]:
    """Recall within folds of so many images, in the columns' order, as the mean over the folds; a rest is left out.

    Args:
        scores: as in `recalls`.
        own: likewise.
        fold: images of a fold.

    Returns:
        The names of `recalls` behind `folds_of_<fold>_`, with 95% intervals (images are drawn anew).
    """
    columns = [np.arange(start, start + fold) for start in range(0, scores.shape[1] - fold + 1, fold)]
    rows = [np.flatnonzero((own >= images[0]) & (own <= images[-1])) for images in columns]
    parts = [ranks(scores[np.ix_(r, c)], own[r] - c[0]) for r, c in zip(rows, columns, strict=True)]
    found: dict[str, float] = {}
    means = []
    for k in KS:
        # A fold's share of its own texts, so that folds count alike, however many texts they have.
        values = [
            np.bincount(own[r] - c[0], weights=part[0] < k, minlength=fold) * (100.0 * fold / len(r))
            for r, c, part in zip(rows, columns, parts, strict=True)
        ]
        found |= with_interval(f"folds_of_{fold}_image_recall_at_{k}", np.concatenate(values))
        found |= with_interval(f"folds_of_{fold}_text_recall_at_{k}", 100.0 * np.concatenate([p[1] < k for p in parts]))
        means += [found[f"folds_of_{fold}_{side}_recall_at_{k}"] for side in ("image", "text")]
    return found | {f"folds_of_{fold}_mean_recall": sum(means) / len(means)}
