"""Scores of every text with every image: each is embedded once, pairs go through the encoder by falling length.

In an encoder that reads text and image together, what two pairs share is their embeddings; all else depends on the
pair. So those are kept, and the pairs are put in an order in which those of one length follow each other: a batch then
holds no padding, but where the length changes. The order is a pure function of the lengths, so that one number, how
many pairs are done, is all that a run which was stopped needs to go on (`ScoreFile`).
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from uniter.files import read_json, write_json
from uniter.modeling_uniter import UniterForMatching, UniterModel
from uniter.packing import sequences
from uniter.regions import Regions

HELD = 2**18  # tokens of embedded texts, and as many of embedded regions, that are held at once
AT_ONCE = 2**13  # tokens that are embedded at once
SAVE_EVERY = 30.0  # seconds
FORMAT = "uniter-scores"

Read = Callable[[int], Regions]  # the regions of an image by its number


def score_all(
    model: UniterForMatching,
    texts: Sequence[np.ndarray],
    sizes: np.ndarray,
    read: Read,
    tokens: int = 8192,
    progress: str | None = None,
    file: "ScoreFile | None" = None,
) -> np.ndarray:
    """Score every text with every image, in the caller's mode, precision and without gradients if the caller says so.

    Args:
        model: scores pairs; its device is used.
        texts: (T,) int64 pieces of each text, CLS and SEP included.
        sizes: (images,) how many regions each has.
        read: gives the regions of an image.
        tokens: budget of a batch.
        progress: what a progress line is called; None: without.
        file: where scores are kept, and those at hand are taken from; None: in memory.

    Returns:
        (texts, images) float32, higher = better; of a file its read-only mapping.

    Raises:
        ValueError: a text is longer than the model's positions, or regions have another feature size.
    """
    lengths, sizes = np.array([len(text) for text in texts], dtype=np.int64), np.asarray(sizes, dtype=np.int64)
    scores = np.empty((len(lengths), len(sizes)), np.float32) if file is None else file.scores
    done = 0 if file is None else file.done
    total = int(lengths.sum()) * len(sizes) + int(sizes.sum()) * len(lengths)
    bar = tqdm(total=total, desc=progress, unit="token", unit_scale=True, disable=progress is None)
    begun = 0  # pairs of the parts before this one
    with bar, closing(file) if file is not None else nullcontext():
        for image_rows in parts(sizes, HELD):
            regions = None
            for text_rows in parts(lengths, HELD):
                order = PairOrder(lengths[text_rows], sizes[image_rows])
                first, begun = max(0, done - begun), begun + len(order)
                bar.update(order.tokens_before(min(first, len(order))))
                if first >= len(order):
                    continue
                if regions is None:
                    regions = embed_regions(model.uniter, read, image_rows, sizes[image_rows])
                embedded = Embedded(embed_texts(model.uniter, [texts[row] for row in text_rows]), regions, order)
                for text, image, found in embedded.scores(model, tokens, first):
                    scores[text_rows[text], image_rows[image]] = found
                    done += len(found)
                    bar.update(int((order.lengths[text] + order.sizes[image]).sum()))
                    bar.set_postfix_str(f"{done:,} of {scores.size:,} pairs", refresh=False)
                    if file is not None:
                        file.keep(done)
    if file is None:
        return scores
    del scores  # the mapping's last use but the file's own
    return file.finish()


# ---------------------------------------------------------------- order


class PairOrder:
    """All pairs of some texts and images, those of most tokens first; pairs have numbers, and no list of them is made.

    Args:
        lengths: (texts,) tokens of each text.
        sizes: (images,) regions of each image.
    """

    def __init__(self, lengths: np.ndarray, sizes: np.ndarray) -> None:
        self.lengths, self.sizes = lengths, sizes
        texts = {int(length): np.flatnonzero(lengths == length) for length in np.unique(lengths)}
        images = {int(size): np.flatnonzero(sizes == size) for size in np.unique(sizes)}
        # A block: the texts of one length with the images of one size; of equal sums the longer text first.
        blocks = sorted(((length + size, length, size) for length in texts for size in images), reverse=True)
        self._blocks = [(texts[length], images[size]) for _, length, size in blocks]
        self._tokens = np.array([both for both, _, _ in blocks], dtype=np.int64)  # of a pair
        pairs = np.array([len(some) * len(others) for some, others in self._blocks], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(pairs)])
        self._before = np.concatenate([[0], np.cumsum(pairs * self._tokens)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _block(self, pair: Any) -> Any:
        return np.searchsorted(self._starts, pair, side="right") - 1

    def tokens(self, pair: int) -> int:
        """Tokens of the pair of this number."""
        return int(self._tokens[self._block(pair)])

    def tokens_before(self, pair: int) -> int:
        """Tokens of all pairs before the one of this number."""
        if pair >= len(self):
            return int(self._before[-1])
        block = self._block(pair)
        return int(self._before[block] + (pair - self._starts[block]) * self._tokens[block])

    def take(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """(pairs,) texts and (pairs,) images of the pairs first..last-1."""
        numbers = np.arange(first, last)
        texts, images = np.empty_like(numbers), np.empty_like(numbers)
        of_block = self._block(numbers)
        for block in np.unique(of_block):
            rows = of_block == block
            some, others = self._blocks[block]
            text, image = np.divmod(numbers[rows] - self._starts[block], len(others))
            texts[rows], images[rows] = some[text], others[image]
        return texts, images

    def batches(self, tokens: int, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Texts and images of batches of at most so many tokens (or one pair), from the pair number `first` on."""
        while first < len(self):
            last = min(len(self), first + max(1, tokens // self.tokens(first)))
            yield self.take(first, last)
            first = last


def parts(lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """Numbers of things, the longest first, cut into parts of about `most` tokens."""
    order = np.argsort(-lengths, kind="stable")
    return _cut(order, lengths[order], most)


def _cut(rows: np.ndarray, lengths: np.ndarray, most: int) -> list[np.ndarray]:
    return np.split(rows, np.flatnonzero(np.diff((np.cumsum(lengths) - 1) // most)) + 1)


# ---------------------------------------------------------------- model


def embed_texts(trunk: UniterModel, texts: Sequence[np.ndarray]) -> Tensor:
    """Texts as the encoder reads them, one after the other: (sum of their lengths, D)."""
    lengths = np.array([len(text) for text in texts])
    most = trunk.config.max_position_embeddings
    if lengths.max() > most:
        raise ValueError(f"a text of {lengths.max()} pieces is longer than the {most} that the model has positions for")
    found = []
    for rows in _cut(np.arange(len(texts)), lengths, AT_ONCE):
        pieces = torch.from_numpy(np.concatenate([texts[row] for row in rows])).to(trunk.device)
        positions = torch.from_numpy(np.concatenate([np.arange(lengths[row]) for row in rows])).to(trunk.device)
        found.append(trunk.embeddings(pieces, torch.zeros_like(pieces), positions))
    return torch.cat(found)


def embed_regions(trunk: UniterModel, read: Read, images: np.ndarray, sizes: np.ndarray) -> Tensor:
    """The regions of images as the encoder reads them, one image after the other: (sum of sizes, D)."""
    found = []
    for rows in _cut(images, sizes, AT_ONCE):
        seen = [read(int(row)) for row in rows]
        features = torch.from_numpy(np.concatenate([regions.features for regions in seen])).to(trunk.device).float()
        if features.shape[1] != (known := trunk.config.region_feature_size):
            raise ValueError(
                f"regions have {features.shape[1]} features, the model was built for {known}: use the detector that "
                "the model was trained with"
            )
        locations = torch.from_numpy(np.concatenate([regions.fractions() for regions in seen])).to(trunk.device)
        kinds = torch.ones(len(features), dtype=torch.long, device=trunk.device)
        types = trunk.embeddings.token_type_embeddings(kinds)
        found.append(trunk.img_embeddings(features, locations, types, None))
    return torch.cat(found)


class Embedded:
    """Texts and images side by side on the model's device, from which pairs are put together.

    Args:
        texts: (text tokens, D) as `embed_texts` gives them.
        regions: (regions, D) as `embed_regions` gives them.
        order: of their pairs.
    """

    def __init__(self, texts: Tensor, regions: Tensor, order: PairOrder) -> None:
        self.states, self.order = torch.cat([texts, regions]), order
        self._text_starts = np.cumsum(order.lengths) - order.lengths
        self._image_starts = len(texts) + np.cumsum(order.sizes) - order.sizes

    def scores(
        self, model: UniterForMatching, tokens: int, first: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Texts, images and scores of batches of pairs, in order, from the pair number `first` on.

        A batch's scores are fetched when the next batch is on its way, so that a GPU does not wait for it.
        """
        waiting: tuple[np.ndarray, np.ndarray, Tensor] | None = None
        for texts, images in self.order.batches(tokens, first):
            texts, images = texts[::-1], images[::-1]  # the shortest first
            found = encode(model, *self.joined(texts, images))
            if waiting is not None:
                yield *waiting[:2], waiting[2].cpu().numpy()
            waiting = texts, images, found
        if waiting is not None:
            yield *waiting[:2], waiting[2].cpu().numpy()

    def joined(self, texts: np.ndarray, images: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The embeddings of pairs behind each other, (sum of lengths, D), and their (pairs,) lengths."""
        words = self.order.lengths[texts, None]
        lengths = words[:, 0] + self.order.sizes[images]
        place = np.arange(lengths.max())
        rows = place + np.where(place < words, self._text_starts[texts, None], self._image_starts[images, None] - words)
        return self.states[torch.from_numpy(rows[place < lengths[:, None]]).to(self.states.device)], lengths


def encode(model: UniterForMatching, states: Tensor, lengths: np.ndarray) -> Tensor:
    """Scores of pairs from their embeddings.

    Args:
        model: scores pairs.
        states: (sum of lengths, D), text and regions of each pair behind each other.
        lengths: (pairs,) rising.

    Returns:
        (pairs,) float32, higher = better.
    """
    everyone, first = sequences(torch.from_numpy(lengths), states.device)
    last = model.uniter.encoder(states, everyone, first)[-1]
    return model.rank_output(model.uniter.pooler(last)).squeeze(-1).float()


# ---------------------------------------------------------------- file


class ScoreFile:
    """A matrix of scores in a file .npy that a run fills, and that a later one goes on with if it was stopped.

    While it is filled it has `.unfinished` behind its name and NaN where nothing was scored; a file `.json` beside it
    says what the scores are of, and how many pairs are done. What is done is on the disk before that is said, so that a
    killed run loses at most `SAVE_EVERY` seconds of work.

    Args:
        path: ends in .npy.
        shape: texts, images.
        made_of: what the scores depend on, by name: fingerprints of the model, the texts, the images, and so on.

    Raises:
        ValueError: the name ends otherwise, or the file holds other scores, or nobody says which.
    """

    def __init__(self, path: str | Path, shape: tuple[int, int], made_of: Mapping[str, str]) -> None:
        self.path = Path(path)
        if self.path.suffix != ".npy":
            raise ValueError(f"{path}: scores are kept in a file of NumPy's: give a name that ends in .npy")
        self.unfinished = self.path.with_name(f"{self.path.name}.unfinished")
        self._note = self.path.with_name(f"{self.path.name}.json")
        self._said = {"format": FORMAT, "shape": list(shape), **made_of}
        self._saved = time.monotonic()
        self.done = self._reached = self._found()
        if self.done == 0:
            self._blank(shape)
        place = self.unfinished if self.unfinished.exists() else self.path
        try:
            self.scores: np.ndarray = np.lib.format.open_memmap(place, mode="r+" if place != self.path else "r")
        except (ValueError, OSError) as error:
            raise ValueError(f"{place} is damaged ({error}): remove it and score again") from None
        if self.scores.shape != shape or self.scores.dtype != np.float32:
            raise ValueError(f"{place} is damaged (of another shape than {self._note} says): remove both")

    def _found(self) -> int:
        """How many pairs are done."""
        if not self._note.exists():
            if self.path.exists():
                raise ValueError(f"{self.path} exists already, and no {self._note.name} says of what: write elsewhere")
            return 0
        note = read_json(self._note, dict, "remove it and the scores beside it, and score again")
        for name, value in self._said.items():
            if note.get(name) != value:
                raise ValueError(
                    f"{self.path} holds scores of another {name} than is asked for now: give another file, or remove "
                    f"this one and {self._note.name}"
                )
        done = note.get("done")
        if not isinstance(done, int) or not (self.unfinished.exists() or self.path.exists()):
            raise ValueError(f"{self._note} is damaged or alone: remove it and score again")
        return done

    def _blank(self, shape: tuple[int, int]) -> None:
        """All NaN, written and not mapped, so that a full disk is an error and not the end of the process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        row = np.full(shape[1], np.nan, "<f4").tobytes()
        with self.unfinished.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(shape[0]):
                file.write(row)
        self._say(0)

    def _say(self, done: int) -> None:
        write_json(self._note, {**self._said, "done": done}, indent=1)
        self.done, self._saved = done, time.monotonic()

    def keep(self, done: int) -> None:
        """That so many pairs are done; brought to the disk every `SAVE_EVERY` seconds."""
        self._reached = done
        if time.monotonic() - self._saved >= SAVE_EVERY:
            self.close()

    def close(self) -> None:
        """Bring to the disk what was done; the file can be gone on with."""
        if self._reached > self.done:
            self.scores.flush()  # pyrefly: ignore[missing-attribute]  # a mapping
            self._say(self._reached)

    def finish(self) -> np.ndarray:
        """All is done: give the file its name. Returns its read-only mapping."""
        self.close()
        assert self.done == self.scores.size, f"{self.done} of {self.scores.size} pairs are done"
        del self.scores
        if self.unfinished.exists():
            self.unfinished.replace(self.path)
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


def made_of(
    model: torch.nn.Module, texts: Sequence[np.ndarray], sizes: np.ndarray, read: Read, precision: str
) -> dict[str, str]:
    """What scores depend on, for `ScoreFile`: fingerprints of the weights, the texts and the regions; the precision."""
    weights = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    words = hashlib.blake2b(digest_size=16)
    for text in texts:
        words.update(np.asarray([len(text), *text], dtype="<i8").data)
    images = hashlib.blake2b(digest_size=16)
    for image in range(len(sizes)):
        regions = read(image)
        for part in (np.asarray([len(regions)], dtype="<i8"), regions.features, regions.fractions()):
            images.update(np.ascontiguousarray(part).data)
    return {
        "model": weights.hexdigest(),
        "texts": words.hexdigest(),
        "images": images.hexdigest(),
        "precision": precision,
    }
