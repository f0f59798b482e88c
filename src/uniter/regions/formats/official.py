"""The image LMDBs of the published code: `feat_th0.2_max100_min10`, `feat_numbb100`, `all`, each also `_compressed`.

Values are msgpack maps of arrays, or the bytes of an npz; keys are file names. How many of an image's rows count is
said by the count file beside the folder (`nbb_th0.2_max100_min10.json`).
"""

import io
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from uniter.databases import close_database, look_again, needs, open_database
from uniter.regions.formats.foreign import SCORES, Choice, ForeignRegions, Record, first, plain_npz, record_of

KEYS = b"__keys__"
PUBLISHED = Choice(0.2, 100, 10)  # what `all` is cut by if nothing is asked for
_ADAPTIVE = re.compile(r"feat_(th[^_]+_max\d+_min(\d+))(_compressed)?")
_FIXED = re.compile(r"feat_numbb(\d+)(_compressed)?")
_ALL = re.compile(r"all(_compressed)?")


def lmdb_folders(path: Path) -> list[Path]:
    """The LMDB environments that a path may mean: itself, or those one level below."""
    if (path / "data.mdb").exists():
        return [path]
    return sorted(file.parent for file in path.glob("*/data.mdb"))


class OfficialRegions(ForeignRegions):
    """An image LMDB of the published code.

    The files hold fractions of the image and no sizes: `width` and `height` are 1, `boxes` are fractions, and the six
    stored numbers are kept as `locations`, since the stored width and height are rounded by themselves.

    Args:
        path: the folder with `data.mdb`, or the one above if it holds one choice of regions (of two flavours of the
            same the uncompressed one is read).
        conf_threshold: take another choice than the files were made with: counted from the stored confidences, never
            more than is stored. Left out, `feat_th*` goes by its count file, `feat_numbb*` takes its number, and `all`
            takes 0.2, 100, 10. As max_regions, min_regions.
    """

    format = "official LMDB"

    def _open(self) -> None:
        self.folder = _inner(self.path)
        self._numbers: dict[str, int] | None = None
        self._fewest = 0
        name = self.folder.name
        asked = self.choice != Choice()
        if (adaptive := _ADAPTIVE.fullmatch(name)) and not asked:
            self._numbers = self._count_file(self.folder.parent / f"nbb_{adaptive[1]}.json")
            self._fewest = int(adaptive[2])
        elif (fixed := _FIXED.fullmatch(name)) and not asked:
            self.choice = Choice(max_regions=int(fixed[1]))
        elif _ALL.fullmatch(name) and not asked:
            self.choice = PUBLISHED
        self._name_all(self._read_names())
        if self._numbers is not None:
            lacking = [name for name in self.names if name not in self._numbers]
            if lacking:
                raise ValueError(
                    f"the count file of {self.folder} lacks {len(lacking)} of its {len(self.names)} images, such as "
                    f"{lacking[0]!r}: copy both again"
                )
        self._worded(self.names[0], lambda: self._record(self.names[0]))

    def _count_file(self, file: Path) -> dict[str, int]:
        if not file.is_file():
            raise ValueError(
                f"{file} is missing, which says how many regions each image of {self.folder} has: copy it, too, or "
                "give conf_threshold, max_regions and min_regions to count them anew"
            )
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return {str(name): int(number) for name, number in found.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is damaged ({error}): copy it again") from None

    def _read_names(self) -> list[str]:
        look_again(self.folder)
        environment = open_database(self.folder)
        with environment.begin(buffers=True) as transaction:
            value = transaction.get(KEYS)
            if value is None:
                keys = transaction.cursor().iternext(keys=True, values=False)
                return [bytes(key).decode() for key in keys]
            try:
                names = [str(name) for name in json.loads(bytes(value).decode())]
            except ValueError as error:
                raise ValueError(f"{self.folder}: its list of names is damaged ({error}): copy it again") from None
        if len(names) != (entries := environment.stat()["entries"] - 1):
            raise ValueError(f"{self.folder} holds {entries} images, its list names {len(names)}: copy it again")
        return names

    def _fields(self, name: str) -> dict[str, Any]:
        with open_database(self.folder).begin(buffers=True) as transaction:
            value = transaction.get(name.encode())
            if value is None:
                raise ValueError("its list of names has it, but there is no record: copy the folder again")
            if bytes(value[:2]) == b"PK":
                return plain_npz(io.BytesIO(value))
            return _unpacked(value)

    def _record(self, name: str) -> Record:
        record = record_of(self._fields(name))
        if record.locations is None:
            raise ValueError("there is no norm_bb: this is not an LMDB of images")
        probs = record.class_probs  # keeps the value's bytes alive only as long as the regions are
        return Record(record.features, None, record.locations, None, record.scores, probs)

    def _rows(self, name: str) -> int:
        if self._numbers is not None and self._numbers[name] > self._fewest:
            return self._numbers[name]  # rows can be fewer only where the minimum was filled up
        with open_database(self.folder).begin(buffers=True) as transaction:
            value = transaction.get(name.encode())
            if value is not None and bytes(value[:2]) != b"PK":
                return _packed_rows(bytes(value[:4096]))
        return len(self._fields(name)["norm_bb"])

    def _confidences(self, name: str) -> np.ndarray | None:
        fields = self._fields(name)
        return first(fields, SCORES)

    def _taken(self, name: str, rows: int, confidences) -> int:
        if self._numbers is not None:
            return min(self._numbers[name], rows)
        return super()._taken(name, rows, confidences)

    def close(self) -> None:
        """Let go of the environment, for all who read this folder in this process; the next read opens it again."""
        close_database(self.folder)


def _inner(path: Path) -> Path:
    if path.name == "data.mdb":
        path = path.parent
    found = lmdb_folders(path)
    plain = [folder for folder in found if not folder.name.endswith("_compressed")]
    whole = {folder.name.removesuffix("_compressed") for folder in found}
    if len(whole) > 1:
        raise ValueError(f"{path} holds {', '.join(folder.name for folder in found)}: give one of them")
    return (plain or found)[0]


def _unpacked(value: Any) -> dict[str, np.ndarray]:
    """The arrays of a msgpack map in the encoding of the msgpack-numpy package; others of its members are left out."""
    msgpack = needs("msgpack")
    if bytes(value[:4]) == b"\x04\x22\x4d\x18":  # an lz4 frame
        raise ValueError("it is a text, not regions: give an LMDB of images")
    try:
        members = msgpack.unpackb(value, raw=False, strict_map_key=False)
    except Exception as error:  # msgpack has a dozen of its own
        raise ValueError(f"it is no msgpack ({type(error).__name__}): copy the folder again") from None
    if not isinstance(members, dict):
        raise ValueError("it is no map of arrays: this is not an LMDB of images")
    arrays = {}
    for name, member in members.items():
        if isinstance(member, dict) and (member.get(b"nd") or member.get("nd")):
            arrays[_text(name)] = _array({_text(key): value for key, value in member.items()})
    return arrays


def _array(member: dict[str, Any]) -> np.ndarray:
    dtype = _dtype(_text(member["type"]), _text(member.get("kind", b"")))
    return np.frombuffer(member["data"], dtype).reshape(member["shape"])


@lru_cache
def _dtype(text: str, kind: str) -> np.dtype:
    if kind or np.dtype(text).kind not in "biuf":
        raise ValueError(f"an array of kind {kind or text!r} is not plain numbers, and is never opened")
    return np.dtype(text)


def _packed_rows(head: bytes) -> int:
    """How many rows the first array of a msgpack map has; its shape stands before its data."""
    unpacker = needs("msgpack").Unpacker(raw=False, strict_map_key=False)
    unpacker.feed(head)
    try:
        unpacker.read_map_header()
        unpacker.unpack()
        for _ in range(unpacker.read_map_header()):
            if _text(unpacker.unpack()) == "shape":
                return int(unpacker.unpack()[0])
            unpacker.skip()
    except Exception as error:
        raise ValueError(f"it is no map of arrays ({type(error).__name__}): copy the folder again") from None
    raise ValueError("its first array has no shape: copy the folder again")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
