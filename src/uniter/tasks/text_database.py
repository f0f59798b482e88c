"""Text databases of the published code: LMDB folders of ready-made word pieces, with JSON files beside them."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

from uniter.databases import needs, open_database
from uniter.files import read_json
from uniter.processing_uniter import Vocabulary
from uniter.tasks.reading import field

log = logging.getLogger(__name__)

SPECIAL = {"CLS": "[CLS]", "SEP": "[SEP]", "MASK": "[MASK]"}  # name in meta.json -> piece
NAMED = re.compile(r"(.+)_([^_]+)\.db")  # <name>_<split>.db
AGAIN = "copy or make the whole database folder again"


class TextDatabase:
    """A text database, opened for reading; it may be pickled, each process opens its own environment.

    Args:
        path: folder with `data.mdb`, `meta.json` and the lengths.
        lengths: file of the lengths; VCR has `id2len_qa.json` and `id2len_qar.json`.
        vocabulary: of the model; None: not compared with the database's.

    Attributes:
        ids: the examples, in the order of the lengths' file.
        id2len: word pieces of each example, CLS and SEP not counted.
        meta: what `meta.json` holds: CLS, SEP, MASK, UNK, v_range among others.

    Raises:
        ValueError: a file is missing or damaged, or the database was made with another vocabulary.
    """

    def __init__(self, path: str | Path, lengths: str = "id2len.json", vocabulary: Vocabulary | None = None):
        self.path = Path(path)
        if not (self.path / "data.mdb").is_file():
            raise ValueError(f"{path}: no text database, it has no data.mdb; give a folder such as vqa_train.db")
        self.id2len: dict[str, int] = self.beside(lengths)
        for name, length in self.id2len.items():
            if not isinstance(length, int):
                raise ValueError(f"{self.path / lengths}: {name} has a length of {length!r:.40}; {AGAIN}")
        self.ids = list(self.id2len)
        self.meta: dict[str, Any] = self.beside("meta.json")
        for name in SPECIAL:
            field(self.meta, name, self.path / "meta.json", int)
        self.vocabulary = vocabulary
        if vocabulary is not None:
            self._check(vocabulary)
        self._folder = self.path.resolve()
        open_database(self._folder)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: str) -> bool:
        return name in self.id2len

    @cached_property
    def txt2img(self) -> dict[str, Any]:
        """Example -> image name (NLVR2, VCR: a list of two)."""
        return self.beside("txt2img.json")

    @cached_property
    def img2txts(self) -> dict[str, list[str]]:
        """Image name -> its examples."""
        return self.beside("img2txts.json")

    def record(self, name: str) -> dict[str, Any]:
        """The record of an example.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        with open_database(self._folder).begin() as transaction:
            value = transaction.get(name.encode())
        if value is None:
            raise ValueError(f"{self.path}: data.mdb has no record {name!r}, which its JSON files name; {AGAIN}")
        try:
            found = needs("msgpack").unpackb(needs("lz4.frame").decompress(value), raw=False, strict_map_key=False)
        except Exception as error:  # foreign bytes raise nearly anything
            said = " ".join(str(error).split())
            raise ValueError(
                f"{self.path}: record {name!r} is not lz4 and msgpack ({type(error).__name__}: {said}); {AGAIN}"
            ) from None
        if not isinstance(found, dict):
            raise ValueError(f"{self.path}: record {name!r} is a {type(found).__name__}, not a mapping; {AGAIN}")
        return found

    def place(self, name: str) -> str:
        """How messages name a record."""
        return f"{self.path}, record {name}"

    def pieces(self, name: str, record: Mapping[str, Any]) -> tuple[int, ...]:
        """A record's word pieces, without CLS and SEP.

        Raises:
            ValueError: they are missing, no numbers, or not in the vocabulary.
        """
        ids = field(record, "input_ids", self.place(name), list)
        if not all(isinstance(i, int) and i >= 0 for i in ids):
            raise ValueError(f"{self.place(name)}: input_ids are not numbers of word pieces: {ids!r:.80}; {AGAIN}")
        if self.vocabulary is not None and ids and max(ids) >= len(self.vocabulary):
            raise ValueError(
                f"{self.place(name)}: word piece {max(ids)} is beyond the vocabulary's {len(self.vocabulary)}: use the "
                "vocabulary that the database was made with"
            )
        return tuple(ids)

    def image(self, name: str) -> str:
        """The image of an example.

        Raises:
            ValueError: `txt2img.json` is missing or does not name one.
        """
        return field(self.txt2img, name, self.path / "txt2img.json", str)

    def target(self, name: str, record: Mapping[str, Any]) -> tuple[tuple[int, float], ...] | None:
        """A record's labels, each with its score; None where it has no target (test).

        Raises:
            ValueError: the target is malformed.
        """
        if record.get("target") is None:
            return None
        place = self.place(name)
        target = field(record, "target", place, dict)
        labels, scores = field(target, "labels", place, list), field(target, "scores", place, list)
        whole = all(isinstance(label, int) and label >= 0 for label in labels)
        if len(labels) != len(scores) or not whole or not all(isinstance(score, int | float) for score in scores):
            raise ValueError(f"{place}: labels and scores do not go together: {target!r:.80}; {AGAIN}")
        return tuple(zip(labels, map(float, scores), strict=True))

    def labelled(self) -> Iterator[tuple[str, tuple[int, ...], str, tuple[tuple[int, float], ...] | None]]:
        """Id, word pieces, image and target of every example, in order."""
        for name in self.ids:
            record = self.record(name)
            yield name, self.pieces(name, record), self.image(name), self.target(name, record)

    def beside(self, name: str, kind: type = dict) -> Any:
        """A JSON file of the folder, whose outermost value is a `kind`.

        Raises:
            ValueError: it is missing, malformed or of another kind.
        """
        if not (self.path / name).is_file():
            raise ValueError(f"{self.path}: no {name} beside data.mdb; {AGAIN}")
        return read_json(self.path / name, kind, AGAIN)

    def _check(self, vocabulary: Vocabulary) -> None:
        """Refuse a vocabulary whose special pieces have other numbers, or that is too short."""
        for name, piece in SPECIAL.items():
            if self.meta[name] != vocabulary.numbers[piece]:
                raise ValueError(
                    f"{self.path}: {piece} is {self.meta[name]} here (meta.json) and {vocabulary.numbers[piece]} in "
                    "the model's vocabulary: the database was made with another; use a model with its vocabulary, or "
                    "make the database again"
                )
        ordinary = self.meta.get("v_range")
        if isinstance(ordinary, list) and len(ordinary) == 2 and ordinary[1] > len(vocabulary):
            raise ValueError(
                f"{self.path}: made with {ordinary[1]} word pieces (meta.json, v_range), the model's vocabulary has "
                f"{len(vocabulary)}: use a model with its vocabulary, or make the database again"
            )


def open_split(
    place: str | Path,
    split: str,
    names: Sequence[str],
    vocabulary: Vocabulary | None = None,
    lengths: str = "id2len.json",
) -> TextDatabase | None:
    """The text database of a split, or None where a place has no text database at all.

    Args:
        place: a database, or a folder of some named `<name>_<split>.db`. A database so named serves its own split, and
            for another one that beside it is opened; a database named otherwise serves every split.
        split: as the published names have it (train, devval, testA).
        names: what the databases in question are called, as glob patterns; a database given by itself is not asked.
        vocabulary: as in `TextDatabase`.
        lengths: likewise.

    Raises:
        ValueError: there are text databases, but none or several of this split.
    """
    place = Path(place)
    if (place / "data.mdb").is_file():
        named = NAMED.fullmatch(place.resolve().name)
        if named is None:
            log.warning("%s is not named <name>_<split>.db: it is taken for split %s", place, split)
            return TextDatabase(place, lengths, vocabulary)
        folder, names = place.resolve().parent, [escape(named[1])]
    else:
        folder = place
    there: dict[str, list[Path]] = {}  # split -> databases
    for path in sorted(folder.glob("*.db")):
        named = NAMED.fullmatch(path.name)
        if named and path.is_dir() and any(fnmatchcase(named[1], name) for name in names):
            there.setdefault(named[2], []).append(path)
    if not there:
        return None
    found = there.get(split, [])
    if len(found) == 1:
        return TextDatabase(found[0], lengths, vocabulary)
    if found:
        several = ", ".join(path.name for path in found)
        raise ValueError(f"{folder}: {several} are all there; say which by giving that folder itself")
    known = ", ".join(path.name for paths in there.values() for path in paths)
    raise ValueError(f"{folder}: no text database of split {split!r}; it has {known}")
