"""Pre-training as a job for the loop: captions of images, objectives, and the model that learns from them."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniter import draws
from uniter.captions import Choice, public_captions
from uniter.exclusion import Excluded
from uniter.flat_texts import FlatTexts
from uniter.modeling_uniter import UniterForPreTraining
from uniter.objectives import (
    Draws,
    MaskedWords,
    Masking,
    Matching,
    Objective,
    RegionClasses,
    RegionClassesKL,
    RegionFeatures,
)
from uniter.processing_uniter import REGION_TYPE, TEXT_TYPE, Tokens, UniterProcessor, Vocabulary
from uniter.regions import Regions
from uniter.regions.formats import open_regions
from uniter.regions.packed import Buffers, PackedRegions
from uniter.regions.source import RegionSource
from uniter.remote import local
from uniter.tasks.nlvr import NLVR
from uniter.tasks.reading import name_finder, shards_of
from uniter.tasks.retrieval import open_captions
from uniter.tasks.text_database import TextDatabase
from uniter.tasks.vcr import VCR
from uniter.training.batching import evaluation_batches

log = logging.getLogger(__name__)

AT_ONCE = 2**16  # captions that are cut into pieces at once
Room = Callable[[int, int, np.dtype], np.ndarray]  # an array of so many rows, so wide, of this type
DATABASES = ("pretrain_*", "conceptual_caption", "sbu_caption")


class StoredTexts:
    """Captions in text databases as CLS pieces SEP, each read when it is asked for.

    Args:
        captions: the database and the id of each.
        processor: the vocabulary's owner.
    """

    def __init__(self, captions: Sequence[tuple[TextDatabase, str]], processor: UniterProcessor):
        self.captions, self.processor = captions, processor

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> np.ndarray:
        database, name = self.captions[index]
        return self.processor.wrap(database.pieces(name, database.record(name)))

    def take(self, rows: Sequence[int]) -> "StoredTexts":
        """Those of some rows."""
        return StoredTexts([self.captions[row] for row in rows], self.processor)

    def padded(self, rows: np.ndarray, pad: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """As that of `FlatTexts`."""
        return FlatTexts.of([self[row] for row in rows]).padded(np.arange(len(rows)), pad, most)

    def lengths(self) -> np.ndarray:
        """(captions,) pieces of each with CLS and SEP, from the databases' lists: nothing is read."""
        return 2 + np.array([database.id2len[name] for database, name in self.captions], dtype=np.int64)


@dataclass
class Captioned:
    """Texts and their images, ready to be paired.

    Args:
        texts: the captions' pieces, CLS and SEP included; a list is laid flat.
        image_of: (captions,) the number of each caption's image.
        images: distinct image names, in order of first appearance.
        store: their regions.
    """

    texts: FlatTexts | StoredTexts | Sequence[np.ndarray]
    image_of: np.ndarray
    images: list[Any]
    store: RegionSource

    @classmethod
    def read(
        cls,
        captions: str | Path,
        regions: str | Path | Sequence[str | Path],
        split: str,
        processor: UniterProcessor,
        training: bool = True,
        choice: Choice | None = None,
        missing: str = "refuse",
    ) -> "Captioned":
        """Captions of a split, and the store with their images' regions.

        Args:
            captions: a data set's public file (`uniter.captions`); or a text database `pretrain_<data set>_<split>.db`,
                or a folder with one for this split.
            regions: where their regions are, one place or several.
            split: several are joined by "+".
            processor: the vocabulary's owner.
            training: leave captions of a text database out that have more than `max_text` pieces (published).
            choice: which captions of a public file; None: those of the split.
            missing: "refuse" images that are not in the store, or "skip" them and say how many.

        Raises:
            ValueError: a file is missing or foreign, the split is empty, or an image is not in the store.
        """
        store, captions = open_regions(regions), local(captions)
        choice = replace(choice or Choice(), split=split)
        if Path(captions).is_dir():
            if choice != Choice(split):
                raise ValueError(
                    f"{captions}: splits, exclude, addresses and pictures are for public files; a text database is "
                    "chosen already: leave them out"
                )
            texts, shown = cls._stored(
                Path(captions), split, processor, store, processor.max_text if training else None
            )
        else:
            found = public_captions(captions, choice, store)
            shown = [caption.image for caption in found]
            texts = FlatTexts.of(
                processor.wrap(ids)
                for start in range(0, len(found), AT_ONCE)
                for ids in processor.pieces_of([caption.text for caption in found[start : start + AT_ONCE]])
            )
        if missing == "skip":
            texts, shown = cls._with_regions(texts, shown, captions, store)
        numbers: dict[str, int] = {}
        for image in shown:
            numbers.setdefault(image, len(numbers))
        absent = [name for name in numbers if name not in store]
        if absent:
            raise ValueError(
                f"{regions}: {len(absent)} of the {len(numbers)} images of split {split!r} in {captions} are not in "
                f"the store, the first is {absent[0]!r}; extract the missing pictures into it, or do without them by "
                "`missing: skip`"
            )
        return cls(texts, np.array([numbers[image] for image in shown]), list(numbers), store)

    @staticmethod
    def _with_regions(
        texts: FlatTexts | StoredTexts, shown: list[str], place: str | Path, store: RegionSource
    ) -> tuple[FlatTexts | StoredTexts, list[str]]:
        """The captions whose image is in the store, and their images; how many are left out is said."""
        kept = [row for row, image in enumerate(shown) if image in store]
        if not kept:
            raise ValueError(
                f"{place}: none of its pictures is in {store.path}, the first is {shown[0]!r}; are these its regions, "
                "and are the pictures called as docs/pretraining_data.md says?"
            )
        images = [shown[row] for row in kept]
        if len(kept) < len(shown):
            log.warning(
                "%s: %d pictures, %d of %d captions are left out: no regions in %s",
                *(place, len(set(shown)) - len(set(images)), len(shown) - len(kept), len(shown), store.path),
            )
        return texts.take(kept), images

    @staticmethod
    def _stored(
        place: Path, split: str, processor: UniterProcessor, store: RegionSource, most: int | None
    ) -> tuple[StoredTexts, list[str]]:
        """Captions in text databases of at most so many pieces, and the image of each."""
        databases = open_captions(place, split, DATABASES, processor.vocabulary)
        if not databases:
            raise ValueError(
                f"{place}: no text database {' or '.join(f'{name}_{split}.db' for name in DATABASES)} is there; give a "
                "text database, a folder with one, or a JSON file of captions"
            )
        captions = [(database, name) for database in databases for name in database.ids]
        kept = [(base, name) for base, name in captions if most is None or base.id2len[name] <= most]
        if len(kept) < len(captions):
            log.warning(
                "%s, split %s: %d of %d captions have more than %d word pieces and are left out of training",
                *(place, split, len(captions) - len(kept), len(captions), most),
            )
        if not kept:
            raise ValueError(f"{place}: split {split!r} holds no captions; copy or make the whole folder again")
        name_of = name_finder(store)
        return StoredTexts(kept, processor), [name_of(database.image(name)) for database, name in kept]

    def __post_init__(self) -> None:
        if not isinstance(self.texts, FlatTexts | StoredTexts):
            self.texts = FlatTexts.of(self.texts)
        self._by_image = np.argsort(self.image_of, kind="stable")
        self._count = np.bincount(self.image_of, minlength=len(self.images))
        self._start = np.cumsum(self._count) - self._count
        self._shard_places: np.ndarray | None = None  # made when asked for

    def seen_by(self, objective: Objective) -> "Captioned":
        """The pairs that an objective learns from: all of them."""
        return self

    def tokens(self, index: int) -> Tokens:
        """A text and its segment types."""
        return Tokens(self.texts[index], np.full(len(self.texts[index]), TEXT_TYPE, dtype=np.int64))

    def text_batch(self, rows: np.ndarray, pad: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pieces and types of some texts, (B, T) int64 padded at the end, and (B,) their lengths.

        Args:
            rows: (B,) which.
            pad: the piece to pad with.
            most: longer texts are cut to so many pieces, SEP kept.
        """
        assert isinstance(self.texts, FlatTexts | StoredTexts)
        pieces, lengths = self.texts.padded(rows, pad, most)
        return pieces, np.full_like(pieces, TEXT_TYPE), lengths

    def packed(self, images: Iterable[int], class_probs: bool, room: Room) -> PackedRegions:
        """The regions of images by their numbers, behind each other.

        Args:
            images: their numbers.
            class_probs: read them too.
            room: gives the array that takes the features.
        """
        names = [self.images[image] for image in images]
        rows = int(self.store.counts_of(names).sum())
        return self.store.read_packed(names, room(rows, self.store.feature_size, self.store.feature_type), class_probs)

    def num_regions(self, image: int) -> int:
        """How many they are, without reading them."""
        return self.store.num_regions(self.images[image])

    def text_of(self, images: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """(B,) a caption of each image, picked by a (B,) draw in [0, 1)."""
        return self._by_image[self._start[images] + np.floor(draw * self._count[images]).astype(np.int64)]

    def image_shards(self) -> np.ndarray:
        """(images,) the shard of the store that each image's regions lie in."""
        return shards_of(self.images, self.store)

    def near(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each image its place among those of its shard, how many they are, and where they begin in `by_shard`."""
        if self._shard_places is None:
            shards = self.image_shards()
            self.by_shard = np.argsort(shards, kind="stable")
            _, first, number, count = np.unique(
                shards[self.by_shard], return_index=True, return_inverse=True, return_counts=True
            )
            places = np.empty((3, len(shards)), np.int64)
            places[:, self.by_shard] = np.arange(len(shards)) - first[number], count[number], first[number]
            self._shard_places = places
        place, count, first = self._shard_places[:, images]
        return place, count, first

    def lengths(self) -> np.ndarray:
        """(captions,) tokens of each pair: text with CLS and SEP, and regions."""
        assert isinstance(self.texts, FlatTexts | StoredTexts)
        regions = np.array([self.num_regions(number) for number in range(len(self.images))])
        return self.texts.lengths() + regions[self.image_of]


@dataclass
class Stories(Captioned):
    """VCR's questions with their true answers and rationales, for the second stage of pre-training.

    The text's three parts have segment types of their own, and a SEP has that of the part before it (published).

    Args:
        types: segment types of each text's pieces.
        task: knows the regions of annotated and of detected boxes.
        counted: (texts,) lengths as the published code counts them; None: tokens as they are.
    """

    types: FlatTexts
    task: VCR
    counted: np.ndarray | None = None

    @classmethod
    def read_vcr(
        cls,
        data: str | Path,
        regions: str | Path,
        gt_regions: str | Path | None,
        split: str,
        processor: UniterProcessor,
        training: bool = True,
        lengths: str = "plain",
    ) -> "Stories":
        """Questions of a split that has labels.

        Args:
            data: folder of VCR's files or of text databases.
            regions: folder of the store.
            gt_regions: of a second one, for the annotated boxes; None: they are in the first one.
            split: several are joined by "+".
            processor: the vocabulary's owner.
            training: leave texts of a database out that have more than `max_text` pieces.
            lengths: in training, as the option of the task.

        Raises:
            ValueError: a file is missing or foreign, a question has no labels, or an image is not in the store.
        """
        store = open_regions(regions)
        lengths = lengths if training else "plain"
        task = VCR(data, store, processor, gt_regions=str(gt_regions or ""), lengths=lengths)
        found = [story for part in split.split("+") for story in task.stories(part)]
        kept = [story for story in found if not training or task.stored_length(story) <= task.most_pieces]
        if len(kept) < len(found):
            log.warning(
                "%s, split %s: %d of %d questions have more than %d word pieces and are left out of training",
                *(data, split, len(found) - len(kept), len(found), processor.max_text),
            )
        if not kept:
            raise ValueError(f"{data}: split {split!r} holds no questions that are short enough; raise max_text")
        numbers: dict[Any, int] = {}
        for story in kept:
            if story.image not in numbers:
                task.num_regions(story.image)  # raises where it is not there
                numbers[story.image] = len(numbers)
        tokens = [task.story_tokens(text) for story in kept for text, _ in task.shown(story)]
        ids, types = [text.input_ids for text in tokens], [text.types for text in tokens]
        image_of = np.array([numbers[story.image] for story in kept])
        counted = task.lengths(kept) if lengths == "published" else None
        return cls(FlatTexts.of(ids), image_of, list(numbers), store, FlatTexts.of(types), task, counted)

    def tokens(self, index: int) -> Tokens:
        """A text and its types."""
        return Tokens(self.texts[index], self.types[index])

    def text_batch(self, rows: np.ndarray, pad: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pieces and types of some texts; as that of `Captioned`."""
        pieces, _, lengths = super().text_batch(rows, pad, most)
        return pieces, self.types.padded(rows, TEXT_TYPE, most)[0], lengths

    def regions(self, images: Iterable[int]) -> list[Regions]:
        """Of each image those of the annotated boxes, then the detected ones."""
        return [self.task.seen(self.images[image]) for image in images]

    def packed(self, images: Iterable[int], class_probs: bool, room: Room) -> PackedRegions:
        """The regions of images behind each other; as that of `Captioned`."""
        return PackedRegions.of(self.regions(images), class_probs)

    def num_regions(self, image: int) -> int:
        """How many they are together."""
        return self.task.num_regions(self.images[image])

    def lengths(self) -> np.ndarray:
        """(texts,) tokens of each pair, or what the published code takes for them."""
        return super().lengths() if self.counted is None else self.counted


@dataclass
class Judged(Captioned):
    """Sentences of which people said whether they are true of their pictures (NLVR).

    Matching learns what they said instead of swapping; words and regions are masked in true pairs only, where each side
    says what the other one hides.

    Args:
        labels: (texts,) int64, 1 = true.
        true: the true pairs by themselves.
    """

    labels: np.ndarray
    true: Captioned

    @classmethod
    def read_nlvr(cls, data: str | Path, regions: Any, split: str, processor: UniterProcessor) -> "Judged":
        """NLVR's sentences of a split, each with those orders of its picture that have regions.

        Raises:
            ValueError: a file is missing or foreign, a sentence has no label, or none has regions, or none is true.
        """
        store = open_regions(regions)
        task = NLVR(data, store, processor)
        pairs = [pair for part in split.split("+") for pair in task.examples(part) if pair.image in store]
        if not pairs:
            raise ValueError(f"{regions}: none of the pictures of split {split!r} in {data} is there; extract them")
        texts = [text.input_ids for text in task.tokens([pair.text for pair in pairs])]
        labels = np.array([task.known(pair) == "true" for pair in pairs], dtype=np.int64)
        if not labels.any():
            raise ValueError(f"{data}: no sentence of split {split!r} is true of its picture: nothing to mask in")
        numbers = {image: number for number, image in enumerate(dict.fromkeys(pair.image for pair in pairs))}
        image_of = np.array([numbers[pair.image] for pair in pairs])
        true = np.flatnonzero(labels)
        names: list[Any] = list(numbers)
        return cls(
            texts, image_of, names, store, labels, Captioned([texts[i] for i in true], image_of[true], names, store)
        )

    def seen_by(self, objective: Objective) -> Captioned:
        """All pairs for matching, the true ones for what masks."""
        return self if isinstance(objective, Matching) else self.true


def read_source(source, processor: UniterProcessor, training: bool = True) -> Captioned:
    """A source of a recipe; arguments as in `Captioned.read`."""
    excluded = tuple(Excluded(one.file, one.splits) for one in source.exclude)
    chosen = excluded or source.splits or source.addresses or source.pictures or source.missing != "refuse"
    if source.kind != "captions" and chosen:
        raise ValueError(
            f"{source.captions}: splits, exclude, addresses, pictures and missing are for captions, not for "
            f"sources of kind {source.kind}; leave them out"
        )
    if source.kind == "vcr":
        place = (source.captions, source.regions, source.gt_regions, source.split)
        return Stories.read_vcr(*place, processor, training, source.lengths)
    if source.gt_regions is not None or source.lengths != "plain":
        raise ValueError(f"{source.captions}: gt_regions and lengths are for sources of kind vcr; leave them out")
    if source.kind == "nlvr":
        return Judged.read_nlvr(source.captions, source.regions, source.split, processor)
    choice = Choice(source.split, source.splits, excluded, tuple(source.addresses), source.pictures)
    return Captioned.read(source.captions, source.regions, source.split, processor, training, choice, source.missing)


def make_objectives(settings, vocabulary: Vocabulary) -> dict[Objective, float]:
    """The objectives of a recipe's `objectives` section and their shares of the mixture (0 = left out)."""
    masking = Masking(vocabulary, settings.mask_probability, settings.masking == "joint")
    matching = Matching(
        settings.itm_negative_probability,
        settings.itm_swap,
        settings.transport_weight,
        settings.transport_include_special,
    )
    shares = {
        MaskedWords(masking): settings.mlm,
        matching: settings.itm,
        RegionFeatures(masking): settings.mrfr,
        RegionClasses(masking): settings.mrc,
        RegionClassesKL(masking): settings.mrckl,
    }
    return {objective: share for objective, share in shares.items() if share > 0}


class Pretraining:
    """The job: one stream for each objective and source, named "objective/source".

    Args:
        model: trunk and pre-training heads.
        processor: the vocabulary's owner.
        sources: training captions.
        validation: captions to validate on; nothing is validated without.
        objectives: and their shares.
        seed: of masks, labels and swaps.
        weights: each source's part of the mixture; left out, its number of captions.
        validation_pairs: how many pairs of each validation source are looked at.
        names: of the sources, for streams and logs; left out, their numbers.
        near: replace an image by one of the same shard of the store, so that no other shard is needed.
    """

    monitor = "score"

    def __init__(
        self,
        model: UniterForPreTraining,
        processor: UniterProcessor,
        sources: Sequence[Captioned],
        validation: Sequence[Captioned],
        objectives: dict[Objective, float],
        seed: int = 0,
        weights: Sequence[float] | None = None,
        validation_pairs: int = 1000,
        names: Sequence[str] | None = None,
        near: bool = False,
    ):
        if not sources:
            raise ValueError(
                "pre-training needs at least one source of captions: add one under `sources` in the recipe"
            )
        if not objectives:
            raise ValueError("every objective has weight 0: give at least one of mlm, itm, mrfr, mrc, mrckl a weight")
        self.model, self.processor, self.seed, self.near = model, processor, seed, near
        self._buffers = Buffers()
        self.sources, self.validation, self.validation_pairs = list(sources), list(validation), validation_pairs
        self.objectives = {objective.name: objective for objective in objectives}
        self.named = dict(zip(names or map(str, range(len(self.sources))), self.sources))
        if len(self.named) < len(self.sources):
            raise ValueError(f"two sources have one name among {', '.join(names or ())}: give each its own `name`")
        weights = weights or [len(source.texts) for source in self.sources]
        if not sum(weights):
            raise ValueError("every source has weight 0: give at least one under `sources` a weight")
        self.mixture = {
            f"{objective.name}/{name}": share * weight / sum(weights)
            for objective, share in objectives.items()
            for name, weight in zip(self.named, weights, strict=True)
        }

    def lengths(self, stream: str) -> np.ndarray:
        """(examples,) tokens of each example of a stream."""
        return self._parts(stream)[1].lengths()

    def shards(self, stream: str) -> np.ndarray:
        """(examples,) the shard of the store that each example's image lies in."""
        source = self._parts(stream)[1]
        return source.image_shards()[source.image_of]

    def describe(self, stream: str, indices: np.ndarray) -> list[str]:
        """Each example's image, and the number of its caption in the source."""
        source = self._parts(stream)[1]
        return [f"{source.images[source.image_of[index]]} (text {index})" for index in indices]

    def prepare(self, stream: str, indices: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """A spoiled batch of these examples, on the CPU."""
        objective, source = self._parts(stream)
        return self._batch(objective, source, Draws(self.seed, epoch, np.asarray(indices)))

    def loss(self, stream: str, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective's loss, and numbers to look at."""
        measured = self._parts(stream)[0].loss(self.model, batch)
        return measured.loss, measured.numbers

    def count(self, stream: str, batch: dict[str, Tensor]) -> int:
        """How many targets the loss is the mean of."""
        return self._parts(stream)[0].targets(batch)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Each objective's numbers over the validation captions, with the same masks and swaps every time.

        `score` is the mean accuracy, in percent, of those objectives that have one, or else minus the sum of the
        losses. Empty without validation captions: the last model is then the one to use.
        """
        if not self.validation:
            return {}
        device = next(self.model.parameters()).device
        found: dict[str, float] = {}
        for name, objective in self.objectives.items():
            totals: dict[str, float] = {}
            count = 0
            for source in (source.seen_by(objective) for source in self.validation):
                chosen = draws.permutation(self.seed, "validation", len(source.texts))[: self.validation_pairs]
                for rows in evaluation_batches(source.lengths()[chosen], 8192):
                    batch = self._batch(objective, source, Draws(self.seed, -1, chosen[rows]))
                    measured = objective.loss(self.model, {key: value.to(device) for key, value in batch.items()})
                    for key, value in {"loss": measured.loss, **measured.numbers}.items():
                        totals[key] = totals.get(key, 0.0) + float(value) * measured.count
                    count += measured.count
            found.update({f"{name}_{key}": value / count for key, value in totals.items()})
        accuracies = [value for key, value in found.items() if key.endswith("_accuracy")]
        found["score"] = 100 * sum(accuracies) / len(accuracies) if accuracies else -sum(found.values())
        return found

    def save(self, folder: str | Path) -> None:
        """Write model and vocabulary; `from_pretrained` of any head reads the folder."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    # ------------------------------------------------------------ parts

    def _parts(self, stream: str) -> tuple[Objective, Captioned]:
        name, _, source = stream.partition("/")
        objective = self.objectives[name]
        return objective, self.named[source].seen_by(objective)

    def _batch(self, objective: Objective, source: Captioned, rows: Draws) -> dict[str, Tensor]:
        own = source.image_of[rows.indices]
        if self.near:
            places, count, first = source.near(own)
            chosen, labels = objective.choose(rows, places, count)
            images = source.by_shard[first + chosen]
        else:
            images, labels = objective.choose(rows, own, len(source.images))
        texts = rows.indices
        if isinstance(source, Judged):  # what masks is shown the true ones by themselves, which are not judged
            images, labels = own, source.labels[rows.indices]
        elif isinstance(objective, Matching):
            # The other way round: this image stays and gets a text of the image that was drawn.
            swapped = objective.swaps_text(rows) & (labels == 0)
            texts = np.where(swapped, source.text_of(images, rows.uniform("itm-text")), texts)
            images = np.where(swapped, own, images)
        batch = self._joined(source, texts, images, objective.needs_class_probs)
        if isinstance(objective, Matching):
            batch["labels"] = torch.from_numpy(labels)
        return objective.spoil(batch, rows)

    def _joined(self, source: Captioned, texts: np.ndarray, images: np.ndarray, probs: bool) -> dict[str, Tensor]:
        """What `UniterProcessor.collate` would make of these pairs, without an object for each of them."""
        most = self.model.config.max_position_embeddings
        pieces, types, lengths = source.text_batch(texts, self.processor.vocabulary.pad, most)
        packed = source.packed(images, probs, self._room)
        seen = np.arange(packed.counts.max()) < packed.counts[:, None]
        batch = {
            "input_ids": pieces,
            "text_mask": np.arange(pieces.shape[1]) < lengths[:, None],
            "text_types": types,
            "regions": packed.features,
            "locations": packed.locations,
            "region_mask": seen,
            "region_types": np.where(seen, REGION_TYPE, 0),
        }
        if packed.class_probs is not None:
            batch["class_probs"] = packed.class_probs
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def _room(self, rows: int, width: int, dtype: np.dtype) -> np.ndarray:
        """An array for features: of a GPU's batches pinned, so that they are not copied once more on their way."""
        if next(self.model.parameters()).is_cuda:
            kind = torch.float16 if dtype == np.float16 else torch.float32
            return torch.empty(rows, width, dtype=kind, pin_memory=True).numpy()
        return self._buffers.rows(rows, width, dtype)
