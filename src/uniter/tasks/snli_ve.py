"""Visual entailment (SNLI-VE): whether a picture entails a sentence, contradicts it or neither. Paper section 4."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from uniter.files import read_json, write_json
from uniter.tasks.base import Predictions
from uniter.tasks.classification import Classification, Labelled
from uniter.tasks.reading import field, json_lines, name_finder
from uniter.tasks.text_database import open_split

LABELS = ("contradiction", "entailment", "neutral")  # published numbers 0, 1, 2
UNDECIDED = "-"  # the label of pairs on which people did not agree; the benchmark leaves them out
IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID")  # of the public files, newer and older


class SNLIVE(Classification):
    """Whether a picture (the premise) entails a sentence; the premise's own sentence is not shown, as published.

    From the public files `snli_ve_<split>.jsonl` or text databases `ve_<split>.db`; splits are train, dev (or val) and
    test. Learnt as VQA is, with binary cross-entropy over the three labels (published).
    """

    name = "snli_ve"
    text_kind = "hypothesis"
    key = "pairID"
    # spec 4.4, train-ve-base-2gpu: 4 x 2 batches of 4096 tokens, 190-260 sentences an update
    defaults = MappingProxyType(
        {"learning_rate": 8e-5, "steps": 4000, "warmup": 400, "tokens": 4096, "accumulate": 8}
        | {"clip": 2.0, "weight_decay": 0.01}
    )

    def known_labels(self) -> Sequence[str]:
        """The three, in the published order."""
        return LABELS

    def examples(self, split: str) -> list[Labelled]:
        """The sentences of a split in the file's order, without the undecided ones.

        Raises:
            ValueError: the split's file is missing or foreign.
        """
        split, name_of = {"val": "dev"}.get(split, split), name_finder(self.regions)
        if database := open_split(self.data, split, ("ve",), self.vocabulary):
            return [
                Labelled(pair_id, text, name_of(image), self._label_of(target, database.place(pair_id)))
                for pair_id, text, image, target in database.labelled()
            ]
        path = self.file(f"snli_ve_{split}.jsonl")
        found = []
        for record in json_lines(path):
            text = field(record, "sentence2", path, str)
            label = field(record, "gold_label", path, str) if "gold_label" in record else None  # None: nobody says
            if label == UNDECIDED:
                continue
            if label not in (*LABELS, None):
                raise ValueError(
                    f"{path}: gold_label {label!r} is none of {', '.join(LABELS)}; download the file again"
                )
            image = name_of(picture_of(record, path))
            found.append(Labelled(field(record, "pairID", path, str), text, image, label))
        if not found:
            raise ValueError(f"{path}: no sentences; download or write it again")
        return found

    def _label_of(self, target: Sequence[tuple[int, float]] | None, place: str) -> str | None:
        if target is None:
            return None
        number = max(target, key=lambda entry: entry[1], default=(-1, 0.0))[0]
        if not 0 <= number < len(LABELS):
            raise ValueError(f"{place}: label {number} is none of {len(LABELS)}; is this a text database of SNLI-VE?")
        return LABELS[number]

    def write(self, predictions: Predictions, path: str | Path, examples: Sequence[Labelled] | None = None) -> None:
        """One JSON mapping of pair id to label, as the published code writes it."""
        write_json(path, {said["pairID"]: said["label"] for said in predictions})

    def read(self, path: str | Path, examples: Sequence[Labelled] | None = None) -> list[dict[str, str]]:
        """What `write` wrote."""
        return [{"pairID": pair_id, "label": label} for pair_id, label in read_json(Path(path), dict).items()]


def picture_of(record: Any, path: Path) -> str:
    """The file name of a record's image; files name it with or without .jpg, under two keys, or in captionID alone."""
    for key in IMAGE_KEYS:
        if isinstance(record, Mapping) and key in record:
            break
    else:
        key = "captionID"
    stem = field(record, key, path, str).split("#")[0].removesuffix(".jpg")
    return f"{stem}.jpg"
