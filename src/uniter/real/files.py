"""The files of the real data sets, written as the public layouts that tasks and pre-training read."""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uniter.files import write_json, write_text
from uniter.processing_uniter import Vocabulary
from uniter.regions import Regions
from uniter.regions.formats import open_regions
from uniter.regions.store import StoreWriter
from uniter.tasks.reading import field, json_lines, stem

CAPTIONS, VOCABULARY = "dataset_flickr8k.json", "vocab.txt"
PIECES = 4000  # of a vocabulary
PARTS = 10  # that pictures of entailment are cut into, by their names
VALIDATION, TEST = {7}, {8, 9}  # which of them; the others are learnt from


def needed(path: Path) -> Path:
    """A file of the data, which has to be there.

    Raises:
        ValueError: it is not.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; `--data` is a folder with nlvr, flickr8k and snli_ve (docs/real_data.md)"
        )
    return path


def write_captions(files: Mapping[str, Path], out: Path) -> Path:
    """Write the captions of splits as Karpathy's JSON.

    Args:
        files: JSON lines of each split; a line has `file` and `captions`.
        out: folder to write into.

    Returns:
        The file `dataset_flickr8k.json`.

    Raises:
        ValueError: a file is missing or foreign.
    """
    images: list[dict[str, Any]] = []
    sentences = 0
    for split, path in files.items():
        for record in json_lines(needed(path)):
            texts = [str(text) for text in field(record, "captions", path, list) if str(text).strip()]
            raw = [{"raw": text, "sentid": sentences + number} for number, text in enumerate(texts)]
            sentences += len(raw)
            name = field(record, "file", path, str)
            images.append({"filename": name, "imgid": len(images), "split": split, "sentences": raw})
    write_json(out / CAPTIONS, {"dataset": "flickr8k", "images": images})
    return out / CAPTIONS


def write_vocabulary(texts: Iterable[str], out: Path, pieces: int = PIECES) -> Path:
    """Write the word pieces learnt from texts, cased, as `vocab.txt`; returns the file."""
    learnt = Vocabulary.train(texts, pieces)
    write_text(out / VOCABULARY, "\n".join(learnt.pieces) + "\n")
    return out / VOCABULARY


def part_of(picture: str) -> str:
    """The split that a picture of entailment is in: a pure function of its name, the same for all its sentences."""
    part = zlib.crc32(stem(picture).encode()) % PARTS
    return "test" if part in TEST else "dev" if part in VALIDATION else "train"


def write_entailment(path: Path, out: Path, split: str | None = None) -> Path:
    """Write rows of entailment as SNLI-VE's `snli_ve_<split>.jsonl`; returns their folder.

    Args:
        path: JSON lines of `pairID`, `file`, `hypothesis`, `label`.
        out: folder to write into.
        split: that all rows go into; None: train, dev or test, by `part_of` their picture.

    Raises:
        ValueError: the file is missing or foreign.
    """
    lines: dict[str, list[str]] = {}
    for record in json_lines(needed(path)):
        picture = field(record, "file", path, str)
        row = {"Flickr30K_ID": stem(picture), "sentence2": field(record, "hypothesis", path, str)}
        row |= {"pairID": field(record, "pairID", path, str), "gold_label": field(record, "label", path, str)}
        lines.setdefault(split or part_of(picture), []).append(_line(row))
    for name, rows in lines.items():
        write_text(out / f"snli_ve_{name}.jsonl", "".join(rows))
    return out


def _line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_blank(regions: Path | list[Path], out: Path) -> Path:
    """Write a store of the same pictures with nothing to see: one region each, the whole picture, all zeros.

    What a model learns from it, it learns from the words alone.

    Args:
        regions: what `open_regions` reads.
        out: the store.
    """
    source = open_regions(regions)
    writer = StoreWriter(out, source.detector)
    probs = np.zeros((1, source.num_classes), np.float32) if source.num_classes else None
    if probs is not None:
        probs[0, 0] = 1.0  # background
    blank = np.zeros((1, source.feature_size), np.float32)
    for name in source.names:
        if not writer.has(name):
            writer.add(name, Regions(blank, np.array([[0, 0, 1, 1]], np.float32), 1, 1, probs))
    writer.close()
    return out
