"""UniterProcessor: words and Regions -> tensors; the only collate there is.

The vocabulary is cased BERT's WordPiece (28,996 pieces) or one of your own; it lives as `vocab.txt`, a piece a line, in
the checkpoint's folder.
"""

import json
import logging
import os
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor

from uniter.regions import Regions

log = logging.getLogger(__name__)

SPECIAL_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT_TYPE, REGION_TYPE = 0, 1


@dataclass(frozen=True, slots=True)
class Pair:
    """What the encoder is shown once: a text and the regions of an image.

    Args:
        text: a sentence.
        regions: the image's regions.
        region_type: segment type of the regions (NLVR2 tells left from right by it).
    """

    text: str
    regions: Regions
    region_type: int = REGION_TYPE


@dataclass(frozen=True, slots=True)
class Encoded:
    """One pair as arrays without padding.

    input_ids, text_types (T,), features (R, F), locations (R, 7), region_types (R,), class_probs (R, C) or None.
    """

    input_ids: np.ndarray
    text_types: np.ndarray
    features: np.ndarray
    locations: np.ndarray
    region_types: np.ndarray
    class_probs: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids) + len(self.features)


@dataclass(frozen=True)
class Vocabulary:
    """Word pieces by number, and the special ones by name.

    Args:
        pieces: all pieces in order.

    Raises:
        ValueError: a special piece is missing.
    """

    pieces: tuple[str, ...]
    numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", {piece: number for number, piece in enumerate(self.pieces)})
        missing = [piece for piece in SPECIAL_PIECES if piece not in self.numbers]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}: is it a WordPiece vocab.txt?")

    def __len__(self) -> int:
        return len(self.pieces)

    pad = property(lambda self: self.numbers["[PAD]"])
    cls = property(lambda self: self.numbers["[CLS]"])
    sep = property(lambda self: self.numbers["[SEP]"])
    mask = property(lambda self: self.numbers["[MASK]"])

    @cached_property
    def first_ordinary(self) -> int:
        """The first piece that may replace a masked word at random: "!" in BERT's vocabularies (published)."""
        return self.numbers.get("!", max(self.numbers[piece] for piece in SPECIAL_PIECES) + 1)

    @classmethod
    def find(cls, *places: str | Path | None) -> "Vocabulary":
        """Read `vocab.txt` from the first place that has one: a file or folder given, $UNITER_VOCAB, the hub's cache.

        Raises:
            ValueError: none has.
        """
        for place in [*places, os.environ.get("UNITER_VOCAB"), _cached_bert_vocabulary()]:
            if place is None:
                continue
            path = Path(place)
            path = path / "vocab.txt" if path.is_dir() else path
            if path.is_file():
                return cls._read(path)
        tried = ", ".join(str(place) for place in places if place) or "no folder"
        raise ValueError(
            f"no vocabulary found (tried {tried}): give the path of a vocab.txt, set UNITER_VOCAB to one, or put one "
            "into the checkpoint's folder"
        )

    @classmethod
    def _read(cls, path: Path) -> "Vocabulary":
        try:
            return cls(tuple(path.read_text(encoding="utf-8").rstrip("\n").split("\n")))
        except ValueError as error:  # not UTF-8, or without special pieces
            raise ValueError(f"{path}: {error}; give the vocab.txt that the model was trained with") from None

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> "Vocabulary":
        """A cased WordPiece vocabulary of at most `size` pieces, learned from texts; all of ASCII is in it."""
        tokenizer = _wordpiece({"[UNK]": 0})
        trainer = WordPieceTrainer(
            vocab_size=size,
            special_tokens=SPECIAL_PIECES,
            initial_alphabet=[*string.ascii_letters, *string.digits, *string.punctuation],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        numbers = tokenizer.get_vocab()
        return cls(tuple(sorted(numbers, key=numbers.__getitem__)))


def _cached_bert_vocabulary() -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache("bert-base-cased", "vocab.txt")
    return found if isinstance(found, str) else None


def _wordpiece(numbers: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


class UniterProcessor:
    """Makes tensors of sentences and Regions.

    Args:
        vocabulary: the word pieces.
        max_text: longest text in pieces, CLS and SEP not counted (published: 60); longer ones are cut, SEP is kept.
    """

    def __init__(self, vocabulary: Vocabulary, max_text: int = 60):
        self.vocabulary = vocabulary
        self.max_text = max_text
        self._tokenizer = _wordpiece(vocabulary.numbers)
        self._said_truncated = False

    # ------------------------------------------------------------ text

    def pieces(self, text: str) -> list[int]:
        """The word pieces of a text, without CLS and SEP, cut to `max_text` (said once).

        Raises:
            ValueError: the text holds no word.
        """
        return self.pieces_of([text])[0]

    def pieces_of(self, texts: Sequence[str]) -> list[list[int]]:
        """`pieces` of many texts at once."""
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"a text must hold at least one word, got {text!r}")
        numbers = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        for text, ids in zip(texts, numbers, strict=True):
            if not ids:
                raise ValueError(f"a text must hold at least one word, got {text!r}")
            if len(ids) > self.max_text and not self._said_truncated:
                log.warning("a text of %d pieces was cut to %d (said once): %.60s...", len(ids), self.max_text, text)
                self._said_truncated = True
        return [ids[: self.max_text] for ids in numbers]

    def count(self, text: str) -> int:
        """How many pieces a text has before it is cut, without CLS and SEP."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def wrap(self, ids: Sequence[int]) -> np.ndarray:
        """CLS ids SEP, int64."""
        return np.array([self.vocabulary.cls, *ids, self.vocabulary.sep], dtype=np.int64)

    def words(self, ids: Iterable[int]) -> list[str]:
        """The pieces as strings, for people to read."""
        return [self.vocabulary.pieces[number] for number in ids]

    # ------------------------------------------------------------ pairs

    def encode(self, pair: Pair, with_class_probs: bool = False) -> Encoded:
        """One pair as arrays.

        Raises:
            ValueError: empty text, or class probabilities asked of regions that have none.
        """
        return self.join(self.wrap(self.pieces(pair.text)), pair.regions, pair.region_type, with_class_probs)

    def join(
        self, input_ids: np.ndarray, regions: Regions, region_type: int = REGION_TYPE, with_class_probs: bool = False
    ) -> Encoded:
        """Ready-made pieces (CLS ... SEP) and regions as arrays."""
        if with_class_probs and regions.class_probs is None:
            raise ValueError(
                "these regions have no class probabilities; extract them again, or leave MRC and MRC-kl out"
            )
        return Encoded(
            input_ids=input_ids,
            text_types=np.full(len(input_ids), TEXT_TYPE, dtype=np.int64),
            features=regions.features,
            locations=regions.fractions(),
            region_types=np.full(len(regions), region_type, dtype=np.int64),
            class_probs=regions.class_probs if with_class_probs else None,
        )

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Rows of a batch as padded tensors; keys, shapes and types are in `docs/design.md`.

        Raises:
            ValueError: rows of different feature sizes.
        """
        sizes = {row.features.shape[1] for row in rows}
        if len(sizes) > 1:
            raise ValueError(f"regions of different detectors in one batch: feature sizes {sorted(sizes)}")
        batch = {
            "input_ids": _pad([row.input_ids for row in rows], np.int64, self.vocabulary.pad),
            "text_mask": _real([len(row.input_ids) for row in rows]),
            "text_types": _pad([row.text_types for row in rows], np.int64),
            "regions": _pad([row.features for row in rows], np.float32),
            "locations": _pad([row.locations for row in rows], np.float32),
            "region_mask": _real([len(row.features) for row in rows]),
            "region_types": _pad([row.region_types for row in rows], np.int64),
        }
        class_probs = [row.class_probs for row in rows if row.class_probs is not None]
        if len(class_probs) == len(rows):
            batch["class_probs"] = _pad(class_probs, np.float32)
        return batch

    def __call__(self, texts: str | Sequence[str], regions: Regions | Sequence[Regions]) -> dict[str, Tensor]:
        """Sentences and the regions of their images -> a batch; one `Regions` serves all sentences.

        Raises:
            ValueError: different numbers of texts and images, or an empty text.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        images = [regions] * len(texts) if isinstance(regions, Regions) else list(regions)
        if len(texts) != len(images):
            raise ValueError(f"{len(texts)} texts for {len(images)} images")
        return self.collate([self.encode(Pair(text, image)) for text, image in zip(texts, images, strict=True)])

    # ------------------------------------------------------------ folder

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `vocab.txt` and `processor_config.json` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_text("\n".join(self.vocabulary.pieces) + "\n", encoding="utf-8")
        settings = {"processor_class": "UniterProcessor", "max_text": self.max_text}
        (folder / "processor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **settings) -> "UniterProcessor":
        """Read what `save_pretrained` wrote; a folder without `vocab.txt` falls back as `Vocabulary.find` says.

        Raises:
            ValueError: no vocabulary anywhere.
        """
        path = Path(folder) / "processor_config.json"
        try:
            saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            known = {"max_text": saved["max_text"]} if "max_text" in saved else {}
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): copy the model's folder again") from None
        return cls(Vocabulary.find(folder), **{**known, **settings})


def _pad(rows: Sequence[np.ndarray], dtype, value=0) -> Tensor:
    """Arrays of one row each, padded at the end along the first axis to (B, longest, ...)."""
    longest = max(len(row) for row in rows)
    out = np.full((len(rows), longest, *rows[0].shape[1:]), value, dtype=dtype)
    for slot, row in zip(out, rows, strict=True):
        if row.dtype == np.float16:  # torch widens halves ten times as fast as NumPy
            torch.from_numpy(slot[: len(row)]).copy_(torch.from_numpy(np.require(row, requirements=["C", "W"])))
        else:
            slot[: len(row)] = row
    return torch.from_numpy(out)


def _real(lengths: Sequence[int]) -> Tensor:
    """(B, longest) bool, True where a row has something."""
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
