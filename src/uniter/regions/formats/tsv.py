"""TSV of bottom-up attention and of LXMERT: a line an image, arrays in base64, read in place by an index of lines."""

import base64
import binascii
import contextlib
import json
import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from uniter.files import write_json
from uniter.regions.formats.foreign import ForeignRegions, Record

log = logging.getLogger(__name__)

BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
LXMERT_CLASSES = 1601  # background, and the 1,600 classes of Visual Genome that objects_id counts from 0


class TsvRegions(ForeignRegions):
    """A TSV of bottom-up attention (six columns) or of LXMERT (ten).

    The index of lines is built once and kept beside the file (`NAME.tsv.index.json`), or in memory where that folder
    cannot be written to. An image's name is the id in the first column.

    LXMERT's lines have an object class and its confidence, no distribution: `class_probs` puts the confidence on that
    class and the rest on background. That is what MRC reads; to MRC-kl it is a distribution of two classes.
    """

    format = "TSV"

    def _open(self) -> None:
        with self.path.open("rb") as file:
            line = file.readline()
        columns = line.count(b"\t") + 1
        known = {len(columns): columns for columns in (BOTTOM_UP, LXMERT)}
        if columns not in known:
            raise ValueError(
                f"{self.path}: line 1 has {columns} columns, not the 6 of bottom-up attention ({', '.join(BOTTOM_UP)}) "
                f"nor the 10 of LXMERT ({', '.join(LXMERT)})"
            )
        self.columns = known[columns]
        index = self._kept_index() or self._build_index()
        self._offsets = np.array(index["offsets"], np.int64)
        self._regions_of = index["regions"]
        self._name_all(index["names"])

    @property
    def _index_file(self) -> Path:
        return self.path.with_name(self.path.name + ".index.json")

    def _stamp(self) -> list[int]:
        status = self.path.stat()
        return [status.st_size, status.st_mtime_ns]

    def _kept_index(self) -> dict | None:
        try:
            index = json.loads(self._index_file.read_text(encoding="utf-8"))
            same = index["file"] == self._stamp()
            return index if same and len(index["names"]) == len(index["offsets"]) == len(index["regions"]) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # built again

    def _build_index(self) -> dict:
        names: list[str] = []
        offsets: list[int] = []
        regions: list[int] = []
        seen: set[str] = set()
        size, offset, again = None, 0, 0
        total = self.path.stat().st_size
        with (
            self.path.open("rb") as file,
            tqdm(
                total=total,
                unit="B",
                unit_scale=True,
                desc="index",
                disable=None if self.progress is None else not self.progress,
            ) as bar,
        ):
            for number, line in enumerate(file, 1):
                begin, offset = offset, offset + len(line)
                bar.update(len(line))
                fields = line.rstrip(b"\r\n").split(b"\t")
                if not line.strip() or (number == 1 and fields[0].decode(errors="replace") == self.columns[0]):
                    continue
                name, rows, wide = self._checked(number, fields)
                if size is not None and wide != size:
                    raise ValueError(
                        f"{self.path}: line {number} (image {name!r}) has features of {wide} numbers, the lines before "
                        f"of {size}: one file holds the regions of one detector"
                    )
                size = wide
                if name in seen:  # the published files hold a few images twice
                    again += 1
                    continue
                seen.add(name)
                names.append(name)
                offsets.append(begin)
                regions.append(rows)
        if again:
            log.warning("%s: %d lines speak of an image that an earlier line has, and are left out", self.path, again)
        index = {"file": self._stamp(), "names": names, "offsets": offsets, "regions": regions}
        with contextlib.suppress(OSError):  # read-only: the index lives in memory
            write_json(self._index_file, index)
        return index

    def _checked(self, number: int, fields: list[bytes]) -> tuple[str, int, int]:
        """Name, regions and feature size of a line, of which the arrays' lengths are sure to fit."""
        if len(fields) != len(self.columns):
            raise ValueError(
                f"{self.path}: line {number} has {len(fields)} columns, not {len(self.columns)}: the file is cut short "
                "or damaged there, copy it again"
            )
        line = dict(zip(self.columns, fields, strict=True))
        try:
            rows = int(line["num_boxes"])
            int(line[self.columns[1]]), int(line[self.columns[2]])
            name = fields[0].decode()
        except ValueError as error:
            raise ValueError(f"{self.path}: line {number} is damaged ({error}): copy the file again") from None
        numbers, left = divmod(_decoded_bytes(line["features"]), 4 * max(rows, 1))
        if rows < 1 or left or not numbers or _decoded_bytes(line["boxes"]) != 16 * rows:
            raise ValueError(
                f"{self.path}: line {number} (image {name!r}) says {rows} regions, which its boxes or features do not "
                "fit: the file is cut short or damaged there, copy it again"
            )
        return name, rows, numbers

    def _rows(self, name: str) -> int:
        return self._regions_of[self._position[name]]

    def _record(self, name: str) -> Record:
        with self.path.open("rb") as file:
            file.seek(int(self._offsets[self._position[name]]))
            fields = file.readline().rstrip(b"\r\n").split(b"\t")
        line = dict(zip(self.columns, fields, strict=True))
        rows = int(line["num_boxes"])
        array = lambda column, dtype: np.frombuffer(_decoded(line[column], column), dtype)
        size = (float(line["img_w"]), float(line["img_h"])) if "img_w" in line else None
        if size is None:
            size = float(line["image_w"]), float(line["image_h"])
        scores = array("objects_conf", np.float32) if "objects_conf" in line else None
        return Record(
            features=array("features", np.float32).reshape(rows, -1),
            boxes=array("boxes", np.float32).reshape(rows, 4),
            size=size,
            scores=scores,
            class_probs=None if scores is None else lambda: _two_classes(array("objects_id", np.int64), scores),
        )


def _two_classes(classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    if len(classes) != len(scores) or classes.min() < 0 or classes.max() >= LXMERT_CLASSES - 1:
        raise ValueError(f"objects_id must be {len(scores)} numbers from 0 to {LXMERT_CLASSES - 2}")
    probs = np.zeros((len(classes), LXMERT_CLASSES), np.float32)
    rows = np.arange(len(classes))
    probs[rows, classes + 1] = scores
    probs[:, 0] = 1 - scores
    return probs


def _decoded(text: bytes, column: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"column {column} is no base64 ({error})") from None


def _decoded_bytes(text: bytes) -> int:
    """How many bytes a base64 text stands for, without decoding it."""
    return len(text) // 4 * 3 - text[-2:].count(b"=") if len(text) % 4 == 0 else -1
