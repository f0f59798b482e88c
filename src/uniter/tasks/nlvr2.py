"""NLVR2: whether a sentence is true of two images. Paper section 4; official evaluation (consistency)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniter.configuration_uniter import PAIR_FORMS
from uniter.files import write_text
from uniter.modeling_uniter import UniterForPairs, UniterPreTrainedModel
from uniter.processing_uniter import REGION_TYPE, Text
from uniter.tasks.base import Batch, Image, Predictions, Task
from uniter.tasks.intervals import with_interval
from uniter.tasks.reading import Names, by_stem, field, json_lines, read_csv, said_of, stem
from uniter.tasks.text_database import open_split

LEFT, RIGHT = REGION_TYPE, REGION_TYPE + 1  # segment types of the two images' regions
LABELS = {"True": True, "False": False}  # as the files and the submission write them
OTHER_NAMES = {"val": "dev", "test": "test1"}  # split -> what the benchmark calls it


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence about two images.

    Args:
        identifier: split, sentence, pair of images and number, joined by dashes.
        text: its words, or its word pieces.
        images: names of the left and of the right image in the store.
        label: whether it is true; None where nobody says (hidden test).
    """

    identifier: str
    text: Text
    images: tuple[str, str]
    label: bool | None


class NLVR2(Task):
    """Whether a sentence is true of two images.

    From the public files `train.json`, `dev.json`, `test1.json`, ... (a JSON record a line) or text databases
    `nlvr2_<split>.db`. Pictures are named after their pair, or by what `left_url` and `right_url` end in. Option:

        form: how the two images are compared (`UniterConfig.pair_form`); "paired-attn" as published.
    """

    name = "nlvr2"
    id_field, text_kind, picture_titles = "identifier", "sentence", ("left", "right")
    model = UniterForPairs
    monitor = "accuracy"
    options = MappingProxyType({"form": "paired-attn"})
    # spec 4.4, train-nlvr2-base-1gpu: 32-40 statements an update
    defaults = MappingProxyType(
        {"learning_rate": 3e-5, "steps": 8000, "warmup": 800, "tokens": 10240, "accumulate": 1}
        | {"clip": 2.0, "weight_decay": 0.01}
    )

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.settings["form"] not in PAIR_FORMS:
            raise ValueError(
                f"option form of task {self.name} is one of {', '.join(PAIR_FORMS)}, got {self.settings['form']!r}"
            )
        self._asked = options.get("form")

    def examples(self, split: str) -> list[Statement]:
        """The statements of a split (train, dev or val, test1 or test, ... as in the files' names) in the file's order.

        Raises:
            ValueError: the split's file is missing or foreign.
        """
        split, name_of = OTHER_NAMES.get(split, split), image_finder(self.regions)
        if database := open_split(self.data, split, ("nlvr2",), self.vocabulary):
            found = []
            for name in database.ids:
                record, place = database.record(name), database.place(name)
                label, images = record.get("target"), database.txt2img.get(name)
                if label not in (0, 1, None) or not isinstance(images, list) or len(images) != 2:
                    raise ValueError(f"{place}: not two images {images!r:.80} and a target {label!r:.20} of 0 or 1")
                left, right = (name_of(str(image)) for image in images)
                label = None if label is None else bool(label)
                found.append(Statement(name, database.pieces(name, record), (left, right), label))
            return found
        path = self.file(f"{split}.json")
        found = list(self._public(path, name_of))
        if not found:
            raise ValueError(f"{path}: no statements; download or write it again")
        return found

    @staticmethod
    def _public(path: Path, name_of: Callable[..., str]) -> Iterator[Statement]:
        for record in json_lines(path):
            identifier, label = field(record, "identifier", path, str), None
            if record.get("label") is not None:
                label = LABELS.get(str(record["label"]))
                if label is None:
                    raise ValueError(f"{path}: label {record['label']!r:.20} of {identifier} is neither True nor False")
            # All statements about one pair of images share all but the last part of their identifiers.
            pair = identifier.rpartition("-")[0]
            left, right = (
                name_of(f"{pair}-img{side}.png", str(record.get(url) or ""))
                for side, url in enumerate(("left_url", "right_url"))
            )
            yield Statement(identifier, field(record, "sentence", path, str), (left, right), label)

    # ------------------------------------------------------------ what the model sees

    def shown(self, example: Statement) -> list[tuple[Text, Image]]:
        """The text with the left and with the right image; as a triplet, once with both."""
        images = (example.images,) if self.settings["form"] == "triplet" else example.images
        return [(example.text, image) for image in images]

    def region_types(self, example: Statement) -> list[int | np.ndarray]:
        """Left and right."""
        if self.settings["form"] == "triplet":
            return [np.repeat([LEFT, RIGHT], [self.num_regions(image) for image in example.images])]
        return [LEFT, RIGHT]

    def picture_name(self, image: str) -> str:
        """Without the prefix of the published regions' names."""
        return stem(image).removeprefix("nlvr2_")

    def config(self) -> dict[str, Any]:
        """A third segment type, and how the images are compared."""
        return {"type_vocab_size": RIGHT + 1, "pair_form": self.settings["form"]}

    def adopt(self, model: UniterPreTrainedModel) -> None:
        """The form that the model was trained with.

        Raises:
            ValueError: the option asks for another.
        """
        if self._asked not in (None, model.config.pair_form):
            raise ValueError(
                f"the model compares two images as {model.config.pair_form}, the option form asks for {self._asked}: "
                "leave it out, or give a model that was fine-tuned so"
            )
        self.settings["form"] = model.config.pair_form

    def target(self, examples: Sequence[Statement]) -> Tensor:
        """(examples,) 1 = true."""
        return torch.tensor([int(self._known(example)) for example in examples])

    def _known(self, example: Statement) -> bool:
        if example.label is None:
            raise ValueError(f"{self.data}: {example.identifier} has no label; use a split with public labels")
        return example.label

    # ------------------------------------------------------------ predictions

    def decode(self, output: Any, examples: Sequence[Statement], batch: Batch) -> list[dict[str, Any]]:
        """Whether each statement is true."""
        best = output.logits.argmax(1).tolist()
        return [{"identifier": e.identifier, "label": bool(i)} for e, i in zip(examples, best, strict=True)]

    def score(self, predictions: Predictions, examples: Sequence[Statement]) -> dict[str, float]:
        """Accuracy, and consistency: the share of sentences that are right of all their images; with 95% intervals.

        Raises:
            ValueError: a statement has no prediction, or no public label.
        """
        right: list[bool] = []
        sentences: dict[tuple[str, ...], bool] = {}
        said = said_of([example.identifier for example in examples], predictions, "identifier", self.name, str)
        for example, prediction in zip(examples, said, strict=True):
            label = field(prediction, "label", "a prediction of nlvr2", bool)
            right.append(label == self._known(example))
            sentence = _sentence(example.identifier)
            sentences[sentence] = sentences.get(sentence, True) and right[-1]
        found = with_interval("accuracy", 100.0 * np.array(right))
        return found | with_interval("consistency", 100.0 * np.array(list(sentences.values())))

    def perfect(self, examples: Sequence[Statement]) -> list[dict[str, Any]]:
        """The true labels."""
        return [{"identifier": e.identifier, "label": self._known(e)} for e in examples]

    def write(self, predictions: Predictions, path: str | Path, examples: Sequence[Statement] | None = None) -> None:
        """The submission: a line `identifier,True` or `identifier,False` for each, without a header."""
        write_text(path, "".join(f"{said['identifier']},{said['label']}\n" for said in predictions))

    def read(self, path: str | Path, examples: Sequence[Statement] | None = None) -> list[dict[str, Any]]:
        """What `write` wrote."""
        path, found = Path(path), []
        for number, row in enumerate(read_csv(path), 1):
            if len(row) != 2 or row[1] not in LABELS:
                raise ValueError(
                    f"{path}, line {number}: not `identifier,True` or `identifier,False`: {','.join(row)!r:.80}; give "
                    "a file of predictions"
                )
            found.append({"identifier": row[0], "label": LABELS[row[1]]})
        return found


def _sentence(identifier: str) -> tuple[str, ...]:
    """What the statements of one sentence share: the identifier without its third part, the pair of images."""
    parts = identifier.split("-")
    return (*parts[:2], *parts[3:])


def image_finder(stored: Names | None) -> Callable[..., str]:
    """What finds a stored image of NLVR2 by a name like `dev-850-0-img0.png`, whatever its folder, ending and prefix.

    An image that is not there by its name is looked for by the file name that its address ends in, if one is given. A
    name that nothing fits comes back as it is.
    """
    stems = by_stem(stored)

    def name_of(name: str, address: str = "") -> str:
        bare = stem(name).removeprefix("nlvr2_")
        if stored is not None and name in stored:
            return name
        return stems.get(f"nlvr2_{bare}") or stems.get(bare) or stems.get(stem(address), name)

    return name_of
