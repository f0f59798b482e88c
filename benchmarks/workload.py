"""The work that speed is measured on: drawn pairs with the lengths of VQA's, and folders of them in every layout.

Of 256 pairs: texts of 8 to 26 tokens with CLS and SEP (mean 12.6), images of 11 to 100 regions (mean 36.6, one in
twenty has 69 or more), 49.2 tokens a pair, the longest 117. Features are 2,048 numbers of which 27% are 0, as
bottom-up attention's are; all of it is a pure function of a seed.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED = 1839  # of the first few thousand, the one whose 256 pairs are nearest to the numbers above
PAIRS = 256
FEATURE_SIZE, CLASSES, ANSWERS = 2048, 1601, 3129
VOCABULARY, UNK, CLS, SEP, MASK, FIRST_WORD = 28996, 100, 101, 102, 103, 106  # cased BERT's
ZEROS = 0.61  # so many standard deviations below its mean a normal number is in 27% of draws


def lengths(pairs: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """(pairs,) tokens of each text with CLS and SEP, and (pairs,) regions of each image."""
    draw = np.random.default_rng(seed)
    words = np.clip(8 + np.floor(draw.gamma(1.9, 2.65, pairs)), 8, 26).astype(np.int64)
    return words, np.clip(np.floor(np.exp(draw.normal(3.51, 0.46, pairs))), 11, 100).astype(np.int64)


@dataclass(frozen=True)
class Image:
    """(R, F) float16 features, and (R, 6) float16 x1 y1 x2 y2 w h as fractions, as published files hold them."""

    name: str
    features: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Example:
    """A text's pieces without CLS and SEP, and its image."""

    name: str
    pieces: tuple[int, ...]
    image: Image


def image(number: int, regions: int, feature_size: int = FEATURE_SIZE) -> Image:
    """The image of a number, with so many regions."""
    draw = np.random.default_rng((SEED, 1, number))
    features = np.maximum(draw.standard_normal((regions, feature_size), np.float32) + ZEROS, 0)
    corners = np.sort(draw.random((regions, 2, 2), np.float32), 1)  # (R, first and last, x and y)
    boxes = np.concatenate([corners[:, 0], corners[:, 1], corners[:, 1] - corners[:, 0]], 1)
    return Image(f"coco_train2014_{number:012}.npz", features.astype(np.float16), boxes.astype(np.float16))


def class_probs(one: Image) -> np.ndarray:
    """(R, 1601) float32 distributions of an image's regions."""
    drawn = (
        np.random.default_rng((SEED, 2, int(one.name[-16:-4])))
        .exponential(size=(len(one.features), CLASSES))
        .astype(np.float32)
        ** 8
    )
    return drawn / drawn.sum(1, keepdims=True)


def examples(pairs: int = PAIRS, feature_size: int = FEATURE_SIZE, vocabulary: int = VOCABULARY) -> list[Example]:
    """The pairs, each with an image of its own."""
    words, things = lengths(max(pairs, PAIRS))
    found = []
    for i in range(pairs):
        draw = np.random.default_rng((SEED, 0, i))
        pieces = tuple(draw.integers(FIRST_WORD, vocabulary, words[i] - 2).tolist())
        found.append(Example(str(i), pieces, image(i, int(things[i]), feature_size)))
    return found


def quantile_images(count: int, of: int = 1000, feature_size: int = FEATURE_SIZE) -> list[Image]:
    """So many images as a slice of a larger set: their numbers of regions are evenly spaced among the sorted ones."""
    things = np.sort(lengths(of)[1])
    chosen = things[np.floor((np.arange(count) + 0.5) * of / count).astype(int)]
    return [image(100_000 + i, int(regions), feature_size) for i, regions in enumerate(chosen)]


# ---------------------------------------------------------------- folders, as published


def write_texts(folder: Path, pairs: Sequence[Example]) -> None:
    """A text database: LMDB of packed msgpack, and its JSON files."""
    import lmdb
    import lz4.frame
    import msgpack

    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 28, lock=False) as environment, environment.begin(write=True) as put:
        for pair in pairs:
            record = {"input_ids": list(pair.pieces), "img_fname": pair.image.name}
            put.put(pair.name.encode(), lz4.frame.compress(msgpack.packb(record, use_bin_type=True)))
    files = {
        "id2len": {pair.name: len(pair.pieces) for pair in pairs},
        "txt2img": {pair.name: pair.image.name for pair in pairs},
        "meta": {"UNK": UNK, "CLS": CLS, "SEP": SEP, "MASK": MASK, "v_range": [FIRST_WORD, VOCABULARY]},
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def write_images(folder: Path, images: Sequence[Image]) -> None:
    """A database of images: LMDB of compressed npz with confidences and class probabilities, and their counts."""
    import lmdb

    draw = np.random.default_rng(SEED)
    folder.mkdir(parents=True)
    place, counts = folder / "feat_th0.2_max100_min10_compressed", {}
    with lmdb.open(str(place), map_size=1 << 32, lock=False) as environment, environment.begin(write=True) as put:
        for one in images:
            regions = len(one.features)
            labels = draw.dirichlet(np.full(CLASSES, 0.05), regions).astype(np.float16)
            arrays = {"features": one.features, "norm_bb": one.boxes, "soft_labels": labels}
            file = io.BytesIO()
            np.savez_compressed(file, **arrays, conf=draw.random((regions, 1)).astype(np.float16))
            put.put(one.name.encode(), file.getvalue())
            counts[one.name] = regions
    (folder / "nbb_th0.2_max100_min10.json").write_text(json.dumps(counts))
