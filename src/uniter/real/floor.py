"""The floor of retrieval: ridge regression from a picture's regions to the words of its captions."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from uniter.regions.formats import open_regions
from uniter.regions.source import RegionSource
from uniter.tasks.reading import field, json_lines
from uniter.tasks.retrieval import recalls

Model = Callable[[np.ndarray, list[str]], np.ndarray]  # pictures, texts -> scores (texts, pictures)
WORDS = 3000  # the most frequent of the training captions
PENALTIES = (10.0, 100.0, 1000.0, 10_000.0)  # chosen among by a tenth of the training pictures


def ridge_recalls(train: Path, test: Path, measured: int = 0, captions_per_image: int = 0) -> dict[str, float]:
    """Recall of the cosine between a caption's words and those that ridge regression expects of a picture.

    A picture is the mean and the largest of its regions' features and class probabilities and its first region, a
    caption the tf-idf of its words. The penalty is chosen on training pictures alone.

    Args:
        train: JSON lines with `file` and `captions`, and `regions-<name>.npz` beside it.
        test: what to measure on, likewise.
        measured: among the first so many pictures; 0: all.
        captions_per_image: with the first so many captions of each; 0: all.

    Returns:
        The numbers of `tasks.retrieval.recalls`.
    """
    files, captions = _read(train)
    counts = Counter(word for texts in captions for text in texts for word in set(_words(text)))
    number = {word: place for place, (word, _) in enumerate(counts.most_common(WORDS))}
    total = sum(map(len, captions))
    weight = np.log(total / np.array([counts[word] for word in number], np.float64)).astype(np.float32)
    vectors = lambda texts: _unit(_counted(texts, number) * weight)
    seen = _pictures(open_regions(train.with_name(f"regions-{train.stem}.npz")), files)
    middle, spread = seen.mean(0), seen.std(0) + 1e-6
    seen = (seen - middle) / spread
    said = np.stack([vectors(texts).mean(0) for texts in captions])
    held = np.arange(len(files)) % 10 == 0 if len(files) >= 20 else np.zeros(len(files), bool)

    def expect(rows: np.ndarray, penalty: float) -> Model:
        inside = seen[rows]
        usual = said[rows].mean(0)
        square = inside.T @ inside + penalty * np.eye(inside.shape[1], dtype=np.float32)
        slope = np.linalg.solve(square, inside.T @ (said[rows] - usual))
        return lambda pictures, texts: _unit(vectors(texts) - usual) @ _unit(pictures @ slope).T

    def measure(model: Model, pictures: np.ndarray, texts_of: list[list[str]]) -> dict[str, float]:
        own = np.repeat(np.arange(len(texts_of)), [len(texts) for texts in texts_of])
        return recalls(model(pictures, [text for texts in texts_of for text in texts]), own)

    best = PENALTIES[0]
    if held.any():
        rated = {
            penalty: measure(expect(~held, penalty), seen[held], [captions[i] for i in np.flatnonzero(held)])
            for penalty in PENALTIES
        }
        best = max(rated, key=lambda penalty: rated[penalty]["mean_recall"])
    files, captions = _read(test)
    files, captions = files[: measured or None], [texts[: captions_per_image or None] for texts in captions]
    pictures = (_pictures(open_regions(test.with_name(f"regions-{test.stem}.npz")), files) - middle) / spread
    return measure(expect(np.ones(len(seen), bool), best), pictures, captions[: len(files)])


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    records = list(json_lines(path))
    return [field(r, "file", path, str) for r in records], [field(r, "captions", path, list) for r in records]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _counted(texts: list[str], number: dict[str, int]) -> np.ndarray:
    found = np.zeros((len(texts), len(number)), np.float32)
    for row, text in enumerate(texts):
        for word in set(_words(text)) & number.keys():
            found[row, number[word]] = 1.0
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _pictures(regions: RegionSource, files: list[str]) -> np.ndarray:
    rows = []
    for name in files:
        found = regions[name]
        said = np.zeros((len(found), 0), np.float32) if found.class_probs is None else found.class_probs
        whole = np.concatenate([found.features.astype(np.float32), said], 1)
        rows.append(np.concatenate([whole.mean(0), whole.max(0), whole[0]]))
    return np.stack(rows)
