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
from typing import Literal, NamedTuple

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor

from uniter.regions import Regions
from uniter.regions.regions import ByteFeatures, TopProbs

log = logging.getLogger(__name__)

SPECIAL_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT_TYPE, REGION_TYPE = 0, 1
# VCR's words for the people in a picture, behind the ordinary vocabulary (published); each is one piece of a text.
PERSONS = tuple(f"person_{number}" for number in range(81))

Pieces = tuple[int, ...]  # word pieces by number, without CLS and SEP
SepType = Literal["following", "preceding"]  # whose type a SEP between two segments has


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a text that has a segment type of its own (VCR: question 0, answer 2, rationale 3).

    Args:
        text: a sentence or ready-made pieces.
        type: segment type of its pieces.
    """

    text: str | Pieces
    type: int = TEXT_TYPE


Text = str | Pieces | tuple[Segment, ...]


def ready_made(text: Text) -> bool:
    """Whether a text is word pieces already (of a text database), all of it."""
    parts = text if isinstance(text, tuple) else (text,)
    return not any(isinstance(part.text if isinstance(part, Segment) else part, str) for part in parts)


def ready_made_pieces(text: Text) -> int:
    """How many ready-made pieces a text has, CLS and SEP not counted; 0 of a sentence."""
    if isinstance(text, str):
        return 0
    segments = [part.text for part in text if isinstance(part, Segment)]
    return sum(len(part) for part in segments if not isinstance(part, str)) if segments else len(text)


class Tokens(NamedTuple):
    """A text as the encoder reads it: CLS, pieces, SEP after each segment; (T,) int64 both."""

    input_ids: np.ndarray
    types: np.ndarray


@dataclass(frozen=True, slots=True)
class Pair:
    """What the encoder is shown once: a text and the regions of an image.

    Args:
        text: a sentence, ready-made pieces (a tuple of ints), or a tuple of `Segment`.
        regions: the image's regions; `regions.regions.concatenate` makes one of several images.
        region_type: segment type of the regions, one for all or (R,) (NLVR2 tells left from right by it).
    """

    text: Text
    regions: Regions
    region_type: int | np.ndarray = REGION_TYPE


@dataclass(frozen=True, slots=True)
class Encoded:
    """One pair as arrays without padding.

    input_ids, text_types (T,), features (R, F), locations (R, 7), region_types (R,), class_probs (R, C), the largest of
    them, or None.
    """

    input_ids: np.ndarray
    text_types: np.ndarray
    features: np.ndarray | ByteFeatures
    locations: np.ndarray
    region_types: np.ndarray
    class_probs: np.ndarray | TopProbs | None = None

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

    @cached_property
    def uncased(self) -> bool:
        """No capital letter is known, as in uncased BERT: texts are read in lower case and without accents."""
        capitals = set(string.ascii_uppercase)
        return not any(capitals.intersection(piece) for piece in self.pieces if not piece.startswith("["))

    @cached_property
    def end_ordinary(self) -> int:
        """One more than the last piece that may replace a masked word: people do not (published)."""
        return min([len(self), *(self.numbers[word] for word in PERSONS if word in self.numbers)])

    def with_words(self, words: Sequence[str]) -> "Vocabulary":
        """With these words behind the others; as it is where it has the first of them."""
        return self if not words or words[0] in self.numbers else Vocabulary((*self.pieces, *words))

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


def _wordpiece(numbers: dict[str, int], uncased: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=uncased, strip_accents=uncased)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    whole = [word for word in PERSONS if word in numbers]  # punctuation would fall apart
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in whole])
    return tokenizer


class UniterProcessor:
    """Makes tensors of sentences and Regions.

    Args:
        vocabulary: the word pieces.
        max_text: longest text in pieces, CLS and SEP not counted (published: 60); longer ones are cut, every SEP is
            kept. Of several segments the longest is cut first (of equal ones the last), and each keeps a piece.
    """

    def __init__(self, vocabulary: Vocabulary, max_text: int = 60):
        self.vocabulary = vocabulary
        self.max_text = max_text
        self._tokenizer = _wordpiece(vocabulary.numbers, vocabulary.uncased)
        self._said_truncated = False

    def with_words(self, words: Sequence[str]) -> "UniterProcessor":
        """With these words in its vocabulary (`Vocabulary.with_words`); the same one where they are there."""
        vocabulary = self.vocabulary.with_words(words)
        return self if vocabulary is self.vocabulary else UniterProcessor(vocabulary, self.max_text)

    # ------------------------------------------------------------ text

    def pieces(self, text: str) -> list[int]:
        """The word pieces of a text, without CLS and SEP, cut to `max_text` (said once).

        Raises:
            ValueError: the text holds no word.
        """
        return self.pieces_of([text])[0]

    def pieces_of(self, texts: Sequence[str | Pieces]) -> list[list[int]]:
        """`pieces` of many texts at once."""
        return [self._cut([ids], text, self.max_text)[0] for ids, text in zip(self._split(texts), texts, strict=True)]

    def tokens(
        self, texts: Sequence[Text], sep_type: SepType = "following", positions: int | None = None
    ) -> list[Tokens]:
        """CLS s1 SEP s2 SEP ... of each text, and the types; strings of all texts are cut into pieces in bulk.

        Args:
            texts: of one segment (a string or pieces) or of several; CLS has the type of the first one.
            sep_type: a SEP between two segments has the type of the one it opens ("following": VCR fine-tuning) or of
                the one it closes ("preceding": VCR second-stage pre-training); the last SEP that of the last segment.
            positions: longest text with CLS and every SEP, in the place of `max_text`.

        Raises:
            ValueError: a segment holds no word, or a piece that the vocabulary does not have.
        """
        if sep_type not in ("following", "preceding"):
            raise ValueError(f"sep_type must be 'following' or 'preceding', got {sep_type!r}")
        split = [_segments(text) for text in texts]
        ids = iter(self._split([segment.text for segments in split for segment in segments]))
        found = []
        for text, segments in zip(texts, split, strict=True):
            most = self.max_text if positions is None else positions - 1 - len(segments)
            parts = self._cut([next(ids) for _ in segments], text, most)
            found.append(self._joined(parts, segments, sep_type == "following"))
        return found

    def _joined(self, parts: Sequence[Sequence[int]], segments: Sequence[Segment], following: bool) -> Tokens:
        ids, types = [self.vocabulary.cls], [segments[0].type]
        for i, (part, segment) in enumerate(zip(parts, segments, strict=True)):
            sep_owner = segments[min(i + 1, len(segments) - 1)] if following else segment
            ids += [*part, self.vocabulary.sep]
            types += [segment.type] * len(part) + [sep_owner.type]
        return Tokens(np.array(ids, dtype=np.int64), np.array(types, dtype=np.int64))

    def _split(self, texts: Sequence[str | Pieces]) -> list[list[int]]:
        """The pieces of each text, uncut; ready-made ones as they are."""
        strings = [text for text in texts if isinstance(text, str)]
        found = iter(self._tokenizer.encode_batch(strings, add_special_tokens=False))
        numbers = [next(found).ids if isinstance(text, str) else self._checked(text) for text in texts]
        for text, ids in zip(texts, numbers, strict=True):
            if not ids:
                raise ValueError(f"a text must hold at least one word, got {text!r}")
        return numbers

    def _checked(self, pieces: Pieces) -> list[int]:
        """Ready-made pieces, or an error where they cannot be ones."""
        if not isinstance(pieces, tuple) or not all(isinstance(piece, int | np.integer) for piece in pieces):
            raise ValueError(
                "a text must hold at least one word, as a string, a tuple of pieces or a tuple of Segments; "
                f"got {pieces!r}"
            )
        if pieces and not 0 <= min(pieces) <= max(pieces) < len(self.vocabulary):
            raise ValueError(
                f"pieces {min(pieces)} to {max(pieces)} are not all in the vocabulary of {len(self.vocabulary)}: use "
                "the one that they were made with"
            )
        return [int(piece) for piece in pieces]

    def _cut(self, parts: Sequence[list[int]], text: Text, most: int) -> list[list[int]]:
        """The parts of one text, cut to `most` pieces together: the longest first."""
        lengths = [len(part) for part in parts]
        keep = [min(length, most) for length in lengths]
        while sum(keep) > max(most, len(keep)):
            longest = max(range(len(keep)), key=lambda i: (keep[i], i))
            keep[longest] -= 1
        if keep != lengths and not self._said_truncated:
            log.warning("a text of %d pieces was cut to %d (said once): %.60s...", sum(lengths), sum(keep), text)
            self._said_truncated = True
        return [part[:length] for part, length in zip(parts, keep, strict=True)]

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

    def encode(self, pair: Pair, with_class_probs: bool = False, sep_type: SepType = "following") -> Encoded:
        """One pair as arrays; `sep_type` as in `tokens`.

        Raises:
            ValueError: empty text, class probabilities asked of regions that have none, or as many region types as
                there are not regions.
        """
        (tokens,) = self.tokens([pair.text], sep_type)
        return self.join(tokens.input_ids, pair.regions, pair.region_type, with_class_probs, tokens.types)

    def join(
        self,
        input_ids: np.ndarray,
        regions: Regions,
        region_type: int | np.ndarray = REGION_TYPE,
        with_class_probs: bool = False,
        text_types: np.ndarray | None = None,
    ) -> Encoded:
        """Tokens (CLS ... SEP, their types 0 if left out) and regions as arrays."""
        if np.ndim(region_type) and np.shape(region_type) != (len(regions),):
            raise ValueError(f"region types of shape {np.shape(region_type)} for {len(regions)} regions")
        class_probs = regions.kept_class_probs if with_class_probs else None
        if with_class_probs and class_probs is None:
            raise ValueError(
                "these regions have no class probabilities; extract them again, or leave MRC and MRC-kl out"
            )
        return Encoded(
            input_ids=input_ids,
            text_types=np.full(len(input_ids), TEXT_TYPE, dtype=np.int64) if text_types is None else text_types,
            features=regions.kept_features,
            locations=regions.fractions(),
            region_types=np.full(len(regions), region_type, dtype=np.int64),
            class_probs=class_probs,
        )

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Rows of a batch as tensors; keys, shapes and types are in `docs/design.md`.

        What is wide, features, places and class probabilities, is not padded: the regions of all rows lie behind each
        other.

        Raises:
            ValueError: rows of different feature sizes or numbers of classes.
        """
        sizes = {row.features.shape[1] for row in rows}
        if len(sizes) > 1:
            raise ValueError(f"regions of different detectors in one batch: feature sizes {sorted(sizes)}")
        batch = {
            "input_ids": _pad([row.input_ids for row in rows], np.int64, self.vocabulary.pad),
            "text_mask": _real([len(row.input_ids) for row in rows]),
            "text_types": _pad([row.text_types for row in rows], np.int64),
            "regions": _flat([row.features for row in rows], np.float32),
            "locations": _flat([row.locations for row in rows], np.float32),
            "region_mask": _real([len(row.features) for row in rows]),
            "region_types": _pad([row.region_types for row in rows], np.int64),
        }
        class_probs = [row.class_probs for row in rows if row.class_probs is not None]
        if len(classes := {probs.shape[1] for probs in class_probs}) > 1:
            raise ValueError(f"regions of different detectors in one batch: {sorted(classes)} classes")
        if len(class_probs) == len(rows):
            batch["class_probs"] = _flat(class_probs, np.float32)
        return batch

    def __call__(self, texts: str | Sequence[Text], regions: Regions | Sequence[Regions]) -> dict[str, Tensor]:
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


def _segments(text: Text) -> tuple[Segment, ...]:
    """The segments of a text; a string or pieces are one of type 0."""
    if isinstance(text, tuple) and text and all(isinstance(part, Segment) for part in text):
        return text  # pyrefly: ignore[bad-return]
    return (Segment(text),)  # pyrefly: ignore[bad-argument-type]  # whatever else it is, `_checked` refuses it


def _pad(rows: Sequence[np.ndarray], dtype, value=0) -> Tensor:
    """Arrays of one row each, padded at the end along the first axis to (B, longest)."""
    out = np.full((len(rows), max(len(row) for row in rows)), value, dtype=dtype)
    for slot, row in zip(out, rows, strict=True):
        slot[: len(row)] = row
    return torch.from_numpy(out)


def _flat(rows: Sequence[np.ndarray | TopProbs | ByteFeatures], dtype) -> Tensor:
    """Arrays of one row each behind each other along the first axis."""
    out = np.empty((sum(len(row) for row in rows), *rows[0].shape[1:]), dtype=dtype)
    at = 0
    for row in rows:
        slot = out[at : at + len(row)]
        if isinstance(row, TopProbs | ByteFeatures):
            row.write(slot)
        elif row.dtype == np.float16:  # torch widens halves ten times as fast as NumPy
            torch.from_numpy(slot).copy_(torch.from_numpy(np.require(row, requirements=["C", "W"])))
        else:
            slot[:] = row
        at += len(row)
    return torch.from_numpy(out)


def _real(lengths: Sequence[int]) -> Tensor:
    """(B, longest) bool, True where a row has something."""
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
