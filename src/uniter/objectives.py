"""What the model learns from in pre-training: MLM, MRFR, MRC, MRC-kl, ITM (with WRA). Paper section 3.2.

An objective chooses which text meets which image (`choose`), spoils a batch (`spoil`) and holds its loss (`loss`).
Masking is conditional by default: words are masked while all regions are seen, regions while all words are seen. Every
draw is a pure function of (seed, purpose, epoch, example), so that a batch's make-up changes no example's masks.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uniter import draws, transport
from uniter.modeling_uniter import UniterForPreTraining
from uniter.packing import flat
from uniter.processing_uniter import Vocabulary

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch's rows.

    Args:
        seed: of the run.
        epoch: how often the examples were seen before.
        indices: (B,) number of each row's example.
    """

    seed: int
    epoch: int
    indices: np.ndarray

    def uniform(self, purpose: str, columns: int | None = None) -> np.ndarray:
        """Uniform numbers in [0, 1): (B,), or (B, columns)."""
        if columns is None:
            return draws.uniform(self.seed, purpose, self.epoch, self.indices)
        return draws.uniform(self.seed, purpose, self.epoch, self.indices[:, None], np.arange(columns)[None, :])


@dataclass(frozen=True)
class Measured:
    """An objective's answer for a batch.

    Args:
        loss: scalar, to go backward from.
        numbers: means over `count` targets, to look at.
        count: how many targets the batch had.
    """

    loss: Tensor
    numbers: dict[str, Tensor]
    count: int


class Objective:
    """What every objective has in common; by itself it spoils nothing."""

    name: str
    needs_class_probs = False

    def choose(
        self, rows: Draws, images: np.ndarray, number_of_images: int | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which image each row's text meets: its own.

        Args:
            rows: the draws of the batch.
            images: (B,) the number of each row's own image.
            number_of_images: distinct images to choose from, for all rows or for each (B,).

        Returns:
            (B,) numbers of images, and (B,) labels, 1 = they belong together.
        """
        return images, np.ones(len(images), dtype=np.int64)

    def spoil(self, batch: Batch, rows: Draws) -> Batch:
        """A batch with targets in it and, for masking objectives, holes."""
        raise AssertionError("an objective spoils batches in its own way")

    def loss(self, model: UniterForPreTraining, batch: Batch) -> Measured:
        """The loss on a spoiled batch."""
        raise AssertionError("an objective has a loss of its own")

    def targets(self, batch: Batch) -> int:
        """How many targets of a spoiled batch the loss is the mean of."""
        raise AssertionError("an objective knows its targets")


# ---------------------------------------------------------------- masking


@dataclass(frozen=True)
class Masking:
    """How much is masked, shared by the masking objectives.

    Args:
        vocabulary: the word pieces.
        probability: share of words or regions that are chosen.
        joint: mask words and regions at once (the paper's ablation) instead of one side while the other is whole.
    """

    vocabulary: Vocabulary
    probability: float = 0.15
    joint: bool = False


def mask_words(batch: Batch, rows: Draws, masking: Masking) -> Batch:
    """Choose words and hide them, as published.

    Each piece but CLS and SEP is chosen on its own with the masking probability; of the chosen 80% become [MASK], 10% a
    random ordinary piece and 10% stay. If none of a segment was chosen, its first piece becomes [MASK] (a text's pieces
    of one type are a segment: VCR's question, answer and rationale). Adds `labels` (B, T): the original piece where one
    was chosen, -1 elsewhere.
    """
    vocabulary = masking.vocabulary
    ids = batch["input_ids"].numpy()
    width = ids.shape[1]
    candidates = batch["text_mask"].numpy() & (ids != vocabulary.cls) & (ids != vocabulary.sep)
    chosen = candidates & (rows.uniform("mlm-choose", width) < masking.probability)
    fate = rows.uniform("mlm-fate", width)
    types = batch["text_types"].numpy() if "text_types" in batch else np.zeros_like(ids)
    for kind in np.unique(types[candidates]):
        segment = candidates & (types == kind)
        (forced,) = np.nonzero(segment.any(1) & ~(segment & chosen).any(1))
        first = segment.argmax(1)[forced]
        chosen[forced, first] = True
        fate[forced, first] = 0.0

    low, high = vocabulary.first_ordinary, vocabulary.end_ordinary
    other = low + np.floor(rows.uniform("mlm-word", width) * (high - low)).astype(np.int64)
    hidden = np.where(chosen & (fate < 0.8), vocabulary.mask, np.where(chosen & (fate >= 0.9), other, ids))
    labels = np.where(chosen, ids, -1)
    return {**batch, "input_ids": torch.from_numpy(hidden), "labels": torch.from_numpy(labels)}


def mask_regions(batch: Batch, rows: Draws, masking: Masking) -> Batch:
    """Choose regions and hide their features, as published; their places stay.

    Each region is chosen on its own with the masking probability; if none was, one at random. Adds `masked_regions` (B,
    R).
    """
    real = batch["region_mask"].numpy()
    draw = rows.uniform("region-choose", real.shape[1])
    chosen = real & (draw < masking.probability)
    none = ~chosen.any(1)
    one = np.floor(rows.uniform("region-force") * real.sum(1)).astype(np.int64)  # real regions come first in a row
    chosen[none, one[none]] = True
    return {**batch, "masked_regions": torch.from_numpy(chosen)}


class MaskedWords(Objective):
    """MLM: say the hidden words from the words around and the regions.

    Loss: -log P(word | other words, regions), MEAN over the batch's chosen words. Paper equation 1; masks as published.
    """

    name = "mlm"

    def __init__(self, masking: Masking):
        self.masking = masking

    def spoil(self, batch: Batch, rows: Draws) -> Batch:
        """Adds `labels` (B, T), -1 where nothing is asked."""
        batch = mask_words(batch, rows, self.masking)
        return mask_regions(batch, rows, self.masking) if self.masking.joint else batch

    def loss(self, model: UniterForPreTraining, batch: Batch) -> Measured:
        """Mean cross-entropy over chosen words."""
        asked = batch["labels"] >= 0
        labels = batch["labels"][asked]
        scores = model.words(model(**batch, asked_text=asked).text[asked]).float()
        loss = F.cross_entropy(scores, labels)
        return Measured(loss, {"accuracy": (scores.argmax(1) == labels).float().mean()}, len(labels))

    def targets(self, batch: Batch) -> int:
        """Chosen words."""
        return int((batch["labels"] >= 0).sum())


class MaskedRegions(Objective):
    """What MRFR, MRC and MRC-kl share: which regions are hidden, and their states."""

    def __init__(self, masking: Masking):
        self.masking = masking

    def spoil(self, batch: Batch, rows: Draws) -> Batch:
        """Adds `masked_regions` (B, R)."""
        batch = mask_regions(batch, rows, self.masking)
        if self.masking.joint:
            batch = mask_words(batch, rows, self.masking)
            batch.pop("labels")
        return batch

    def states(self, model: UniterForPreTraining, batch: Batch) -> tuple[Tensor, Tensor]:
        """(M, D) states of the hidden regions and the (B, R) map they came from."""
        masked = batch["masked_regions"]
        return model(**batch, asked_regions=masked).regions[masked], masked

    def truth(self, key: str, batch: Batch) -> Tensor:
        """(M, ...) float32: the hidden regions' own rows of "regions" or "class_probs"."""
        real = batch["region_mask"]
        return flat(batch[key], real)[batch["masked_regions"][real]].float()

    def targets(self, batch: Batch) -> int:
        """Hidden regions."""
        return int(batch["masked_regions"].sum())


class RegionFeatures(MaskedRegions):
    """MRFR: draw the hidden regions' features from what is around.

    Loss: (predicted - true feature)^2, MEAN over every number of every hidden region (published: the paper's sum over
    dimensions divided by their number). Paper section 3.2, MRFR.
    """

    name = "mrfr"

    def loss(self, model: UniterForPreTraining, batch: Batch) -> Measured:
        """Mean squared error over hidden regions and feature dimensions."""
        states, _ = self.states(model, batch)
        loss = F.mse_loss(model.features(states).float(), self.truth("regions", batch))
        return Measured(loss, {}, len(states))


class RegionClasses(MaskedRegions):
    """MRC: name the detector's best class of the hidden regions.

    Loss: cross-entropy with the detector's most probable class, background left out of the choice but kept as a column,
    MEAN over hidden regions. Paper section 3.2, MRC.
    """

    name = "mrc"
    needs_class_probs = True

    def loss(self, model: UniterForPreTraining, batch: Batch) -> Measured:
        """Mean cross-entropy over hidden regions."""
        states, _ = self.states(model, batch)
        labels = 1 + self.truth("class_probs", batch)[:, 1:].argmax(1)
        scores = model.classes(states).float()
        loss = F.cross_entropy(scores, labels)
        return Measured(loss, {"accuracy": (scores.argmax(1) == labels).float().mean()}, len(states))


class RegionClassesKL(MaskedRegions):
    """MRC-kl: give the hidden regions the detector's whole class distribution.

    Loss: KL(detector || model) over all classes, background too, MEAN over every class of every hidden region
    (published: the divergence divided by the number of classes). Paper section 3.2, MRC-kl.
    """

    name = "mrckl"
    needs_class_probs = True

    def loss(self, model: UniterForPreTraining, batch: Batch) -> Measured:
        """Mean element of the divergence over hidden regions and classes."""
        states, _ = self.states(model, batch)
        target = self.truth("class_probs", batch)
        scores = F.log_softmax(model.classes(states).float(), dim=-1)
        loss = F.kl_div(scores, target, reduction="none").mean()
        agree = (scores.argmax(1) == target.argmax(1)).float().mean()
        return Measured(loss, {"accuracy": agree, "divergence": loss.detach() * target.shape[1]}, len(states))


# ---------------------------------------------------------------- matching


class Matching(Objective):
    """ITM with WRA: do text and image belong together, and which word is which region.

    Loss: two-way cross-entropy on the pooled state, MEAN over the batch, + transport_weight * (sum of transport
    distances of matching pairs - sum over the others) / pairs. Distance: `transport.alignment`, in float32, without
    gradient through the plan. Paper section 3.2 (ITM, WRA); that negatives are pushed apart is the published code's
    choice.

    Args:
        negative_probability: share of pairs that are spoiled.
        swap: "image" replaces the image (published code), "either" the image or, half of the time, the text (paper: the
            same as pairing another text's image and this image's text; drawn as the image of another example).
        transport_weight: of WRA; 0 leaves it out.
        include_special: let CLS and SEP take part in the transport (published).
    """

    name = "itm"

    def __init__(
        self,
        negative_probability: float = 0.5,
        swap: str = "image",
        transport_weight: float = 0.1,
        include_special: bool = True,
    ):
        if swap not in ("image", "either"):
            raise ValueError(f"itm_swap must be 'image' or 'either', got {swap!r}")
        self.negative_probability = negative_probability
        self.swap = swap
        self.transport_weight = transport_weight
        self.include_special = include_special

    def choose(
        self, rows: Draws, images: np.ndarray, number_of_images: int | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Another image, evenly among the others, for about `negative_probability` of the rows; of one image none."""
        labels = (rows.uniform("itm-label") >= self.negative_probability).astype(np.int64)
        labels = np.where(np.asarray(number_of_images) < 2, 1, labels)
        step = 1 + np.floor(rows.uniform("itm-image") * (number_of_images - 1)).astype(np.int64)
        return np.where(labels == 1, images, (images + step) % number_of_images), labels

    def swaps_text(self, rows: Draws) -> np.ndarray:
        """(B,) True where a negative is made by replacing the text instead of the image."""
        if self.swap == "image":
            return np.zeros(len(rows.indices), dtype=bool)
        return rows.uniform("itm-side") < 0.5

    def spoil(self, batch: Batch, rows: Draws) -> Batch:
        """Nothing is hidden: `labels` (B,) come with the chosen images."""
        return batch

    def loss(self, model: UniterForPreTraining, batch: Batch) -> Measured:
        """Mean cross-entropy plus the weighted transport term."""
        labels = batch["labels"]
        out = model(**batch, pooled_only=self.transport_weight == 0)
        scores = model.match(out.pooled).float()
        loss = F.cross_entropy(scores, labels)
        numbers = {"accuracy": (scores.argmax(1) == labels).float().mean()}
        if self.transport_weight > 0:
            distance, _ = transport.alignment(out.text, out.regions, self.words(batch), batch["region_mask"])
            wra = torch.where(labels == 1, distance, -distance).sum() / len(labels)
            loss = loss + self.transport_weight * wra
            numbers["transport"] = wra.detach()
        return Measured(loss, numbers, len(labels))

    def targets(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["labels"])

    def words(self, batch: Batch) -> Tensor:
        """(B, T) which text positions take part in the transport."""
        mask = batch["text_mask"]
        if self.include_special:
            return mask
        place = torch.arange(mask.shape[1], device=mask.device)
        return mask & (place > 0) & (place < mask.sum(1, keepdim=True) - 1)
