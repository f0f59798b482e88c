"""What a benchmark is: examples -> pairs -> target -> decode -> score, write; and where it is found."""

import difflib
import logging
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from uniter.files import read_json, write_json
from uniter.modeling_uniter import UniterForGrounding, UniterPreTrainedModel
from uniter.processing_uniter import (
    REGION_TYPE,
    Encoded,
    Pair,
    Text,
    Tokens,
    UniterProcessor,
    Vocabulary,
    ready_made,
    ready_made_pieces,
)
from uniter.regions import Regions, concatenate
from uniter.regions.source import RegionSource
from uniter.tasks.reading import Names, opened
from uniter.tasks.views import Panel, View, head_outcomes, readable
from uniter.training.batching import evaluation_batches, in_order

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]
Precision = Literal["float32", "bfloat16"]
Predictions = Sequence[Any] | np.ndarray  # one an example
Image = str | tuple[str, ...]  # a name; of several, whose regions become one, all names


class Task:
    """A benchmark: its own public files in, its own prediction file out.

    A subclass gives `examples`, `target`, `decode` and `score`; `shown` where an example is not one text and one image;
    `write` and `read` where a prediction is not JSON.

    Args:
        data: folder of the benchmark's public files.
        regions: the pictures' regions, or a path that `open_regions` reads; not needed to read examples or to score.
        processor: the vocabulary's owner; not needed to read examples or to score.
        seed: of whatever the task samples.
        options: the task's own; unknown ones are refused.

    Raises:
        ValueError: the folder is missing, or an option is unknown.
    """

    name: ClassVar[str]
    model: ClassVar[type[UniterPreTrainedModel]]
    monitor: ClassVar[str]  # the number of `score` to keep the best model by
    options: ClassVar[Mapping[str, Any]] = {}  # the task's options and their values if left out
    defaults: ClassVar[Mapping[str, Any]] = {}  # published settings of fine-tuning, base size
    max_text: ClassVar[int] = 60  # pieces of a text where a recipe leaves it out (published)
    words: ClassVar[Sequence[str]] = ()  # that the texts need beyond the ordinary vocabulary (the people of VCR)
    # For people to read (`view`): the field of an example that is its id ("": its number in the split), what its text
    # is, and what tells its pictures apart.
    id_field: ClassVar[str] = ""
    text_kind: ClassVar[str] = "text"
    picture_titles: ClassVar[Sequence[str]] = ()
    # What `parity: official` puts into a recipe's `train` and `options` where they are left out.
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(
        self,
        data: str | Path,
        regions: Names | str | Path | list[Path] | None = None,
        processor: UniterProcessor | None = None,
        seed: int = 0,
        **options: Any,
    ):
        self.data = Path(data)
        if not self.data.is_dir():
            raise ValueError(f"{data}: no such folder; give the folder of the benchmark's public files")
        self.regions = opened(regions)
        self.processor = None if processor is None else processor.with_words(self.words)
        self.seed = seed
        for key in options:
            if key not in self.options:
                near = difflib.get_close_matches(key, self.options, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(self.options) or 'none'}"
                raise ValueError(f"task {self.name} has no option {key!r}; {hint}")
            check_kind(self.name, key, options[key], self.options[key])
        self.settings: dict[str, Any] = {**self.options, **options}
        self._tokens: dict[str, Tokens] = {}  # of sentences
        self._counts: dict[str, int] = {}  # image -> number of regions
        self._positions = sys.maxsize  # that the model has, CLS and SEP counted

    # ------------------------------------------------------------ what a benchmark gives

    def examples(self, split: str) -> list[Any]:
        """The examples of a split, in the files' order."""
        raise NotImplementedError

    def shown(self, example: Any) -> Sequence[tuple[Text, Image]]:
        """What the encoder is shown for an example, by name: (text, image) of each pair."""
        return [(example.text, example.image)]

    def region_types(self, example: Any) -> Sequence[int | np.ndarray]:
        """The segment type of the regions of each pair, as `Pair.region_type` (NLVR2 tells left from right)."""
        return [REGION_TYPE] * len(self.shown(example))

    def pairs(self, example: Any) -> list[Pair]:
        """What the encoder is shown for an example.

        Raises:
            ValueError: an image has no regions in the store.
        """
        shown, types = self.shown(example), self.region_types(example)
        return [Pair(text, self.seen(image), kind) for (text, image), kind in zip(shown, types, strict=True)]

    def target(self, examples: Sequence[Any]) -> Tensor:
        """The labels that the head named by `model` expects for these examples."""
        raise NotImplementedError

    def decode(self, output: Any, examples: Sequence[Any], batch: Batch) -> list[Any]:
        """One prediction an example, from the head's output; a prediction is what JSON can hold."""
        raise NotImplementedError

    def score(self, predictions: Predictions, examples: Sequence[Any]) -> dict[str, float]:
        """The benchmark's numbers, in percent; needs no model."""
        raise NotImplementedError

    def breakdown(self, predictions: Predictions, examples: Sequence[Any]) -> dict[str, float]:
        """Further numbers, too many to watch in training; `score` has found the predictions to be in order."""
        return {}

    def perfect(self, examples: Sequence[Any]) -> Predictions:
        """The predictions that score 100 (contract tests use them)."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Settings that a fresh head of this task needs (number of labels and their names)."""
        return {}

    @property
    def num_labels(self) -> int | None:
        """How many labels the head tells apart; None where it scores regions or pairs."""
        return self.config().get("num_labels")

    def adopt(self, model: UniterPreTrainedModel) -> None:
        """Take from a trained model what decoding needs (the answers of VQA)."""

    def write(self, predictions: Predictions, path: str | Path, examples: Sequence[Any] | None = None) -> None:
        """The benchmark's prediction file, all of it or none.

        Args:
            predictions: as `predict` gives them.
            path: the file; its folder is made.
            examples: what was predicted, for formats that name it beside the predictions (retrieval).
        """
        write_json(path, list(predictions))

    def read(self, path: str | Path, examples: Sequence[Any] | None = None) -> Predictions:
        """What `write` wrote.

        Args:
            path: the file.
            examples: what was predicted, for formats that can tell whether it was these (retrieval).

        Raises:
            ValueError: the file is missing or foreign, or of other examples.
        """
        return read_json(Path(path), list)

    # ------------------------------------------------------------ what is worth drawing of an example

    def example_id(self, example: Any, number: int) -> str:
        """What people call an example of a split.

        Args:
            example: the example.
            number: its place in the split, from 0.
        """
        return str(getattr(example, self.id_field) if self.id_field else number)

    def picture_name(self, image: str) -> str:
        """What an image's picture is called, where the store calls its regions otherwise."""
        return image

    def true_box(self, example: Any) -> Sequence[float] | None:
        """The box that an example means, pixels x1 y1 x2 y2; None: it means none."""
        return None

    def panels(self, example: Any) -> list[Panel]:
        """The pictures of an example, each once; several that the encoder is shown as one are taken apart."""
        found: dict[str, Panel] = {}
        for row, (_, image) in enumerate(self.shown(example)):
            first = 0
            for name in image if isinstance(image, tuple) else (image,):
                regions = self.seen(name)
                found.setdefault(name, Panel(name, regions, row, first, true_box=self.true_box(example)))
                first += len(regions)
        titles = [*self.picture_titles, *[""] * len(found)]
        return [replace(panel, title=title) for panel, title in zip(found.values(), titles, strict=False)]

    def view(self, model: UniterPreTrainedModel, example: Any, examples: Sequence[Any]) -> View:
        """What is worth drawing of an example: by default its texts, its pictures, and what the head says of it.

        Args:
            model: with this task's head; `adopt` and `fit_into` have seen it.
            example: one of `examples`.
            examples: all of the split (retrieval looks for a picture among theirs).
        """
        with measuring(model) as device:
            batch = {key: value.to(device) for key, value in self.batch([example], labels=False).items()}
            output = model(**batch)
            (prediction,) = self.decode(output, [example], batch)
        try:
            target = self.target([example])
        except ValueError:  # nobody says
            target = None
        panels = self.panels(example)
        logits = output.logits.float().cpu()
        if issubclass(self.model, UniterForGrounding):
            panels = [replace(panels[0], chosen=int(logits[0].argmax())), *panels[1:]]
        texts = [(self.text_kind, readable(self.shown(example)[0][0], self.processor))]
        return View(batch, prediction, texts, head_outcomes(self, logits, target, example, panels), panels)

    @property
    def class_names(self) -> Sequence[str] | None:
        """What the detector tells apart; None where nobody says."""
        return self.regions.class_names if isinstance(self.regions, RegionSource) else None

    # ------------------------------------------------------------ what follows from it

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The processor's word pieces."""
        return None if self.processor is None else self.processor.vocabulary

    def training_examples(self, split: str) -> list[Any]:
        """The examples of a split to learn from.

        Of those with ready-made word pieces the longer ones than `most_pieces` are left out (published), and it is
        said; sentences are cut instead.
        """
        examples = self.lessons(split)
        kept = [example for example in examples if self.stored_length(example) <= self.most_pieces]
        if len(kept) < len(examples):
            log.warning(
                "%s, split %s: %d of %d examples have more than %d word pieces and are left out of training",
                *(self.data, split, len(examples) - len(kept), len(examples), self.most_pieces),
            )
        return kept

    def lessons(self, split: str) -> list[Any]:
        """What there is to learn in a split, of any length: its examples (VCR learns from each in two ways)."""
        return self.examples(split)

    def stored_length(self, example: Any) -> int:
        """Ready-made pieces of an example's longest text, CLS and SEP not counted."""
        return max(ready_made_pieces(text) for text, _ in self.shown(example))

    @property
    def most_pieces(self) -> int:
        """Longest ready-made text to train on, CLS and SEP not counted: the processor's `max_text`."""
        assert self.processor is not None, "a task that trains needs a processor"
        return self.processor.max_text

    def fit_into(self, model: UniterPreTrainedModel) -> None:
        """Cut ready-made texts to what the model has positions for."""
        self._positions = model.config.max_position_embeddings

    def encode(self, examples: Sequence[Any]) -> list[Encoded]:
        """All pairs of these examples as arrays."""
        return self.encode_pairs([pair for example in examples for pair in self.pairs(example)])

    def encode_pairs(self, pairs: Sequence[Pair]) -> list[Encoded]:
        """Ready-made pairs as arrays."""
        assert self.processor is not None, "a task that encodes needs a processor"
        join = self.processor.join
        texts = self.tokens([pair.text for pair in pairs])
        return [
            join(text.input_ids, pair.regions, pair.region_type, text_types=text.types)
            for text, pair in zip(texts, pairs, strict=True)
        ]

    def tokens(self, texts: Sequence[Text]) -> list[Tokens]:
        """Each text as tokens; a sentence is cut into pieces once in the task's life, new ones in bulk.

        Ready-made pieces stay as they are, up to the model's positions.
        """
        assert self.processor is not None, "a task that encodes needs a processor"
        new = list({text for text in texts if isinstance(text, str) and text not in self._tokens})
        if new:
            self._tokens.update(zip(new, self.processor.tokens(new), strict=True))
        others = [text for text in texts if not isinstance(text, str)]
        stored = iter(self.processor.tokens([t for t in others if ready_made(t)], positions=self._positions))
        parted = iter(self.processor.tokens([t for t in others if not ready_made(t)]))
        return [
            self._tokens[text] if isinstance(text, str) else next(stored if ready_made(text) else parted)
            for text in texts
        ]

    def pieces(self, texts: Sequence[Text]) -> list[np.ndarray]:
        """CLS pieces SEP of each text, int64."""
        return [text.input_ids for text in self.tokens(texts)]

    def batch(self, examples: Sequence[Any], labels: bool = True) -> Batch:
        """These examples as tensors, with `labels` from `target`."""
        assert self.processor is not None, "a task that batches needs a processor"
        batch = self.processor.collate(self.encode(examples))
        return {**batch, "labels": self.target(examples)} if labels else batch

    def training_batch(self, examples: Sequence[Any], indices: np.ndarray, epoch: int) -> Batch:
        """The batch of one step: these rows of the training examples (retrieval adds negatives)."""
        return self.batch([examples[i] for i in indices])

    def step(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """The loss on a training batch."""
        return model(**batch).loss

    def count(self, batch: Batch) -> int | None:
        """How many targets `step`'s loss on a training batch is the MEAN of; None where it is their SUM (grounding).

        A batch that is cut for several processes, or for want of memory, is put together again by it.
        """
        return None if issubclass(self.model, UniterForGrounding) else len(batch["labels"])

    def lengths(self, examples: Sequence[Any]) -> np.ndarray:
        """(examples,) int64 tokens of each example, over all its pairs: texts with CLS and SEP, and regions."""
        if type(self).pairs is not Task.pairs:  # a task with pairs of its own: look at them
            return np.array([sum(map(len, self.encode([example]))) for example in examples], dtype=np.int64)
        shown = [self.shown(example) for example in examples]
        texts = iter(self.pieces([text for pairs in shown for text, _ in pairs]))
        return np.array(
            [sum(len(next(texts)) + self.num_regions(image) for _, image in pairs) for pairs in shown], dtype=np.int64
        )

    def predict(
        self,
        model: UniterPreTrainedModel,
        examples: Sequence[Any],
        tokens: int = 8192,
        progress: bool = False,
        precision: Precision = "float32",
    ) -> Predictions:
        """One prediction an example, in the examples' order; batches are made by length, which changes no prediction.

        Args:
            model: a model with this task's head.
            examples: as `examples` gives them.
            tokens: budget of a batch; an example that is longer goes alone.
            progress: show a progress bar.
            precision: bfloat16 is quicker on a GPU and rounds scores to 3 digits.
        """
        if not len(examples):
            return []
        self.adopt(model)
        self.fit_into(model)
        lengths = self.lengths(examples)
        batches = evaluation_batches(lengths, max(tokens, int(lengths.max(initial=1))))
        results = []
        with measuring(model, precision) as device:
            for rows in tqdm(batches, desc=self.name, unit="batch", disable=not progress):
                chosen = [examples[i] for i in rows]
                batch = {key: value.to(device) for key, value in self.batch(chosen, labels=False).items()}
                results.append(self.decode(model(**batch), chosen, batch))
        return in_order(batches, results)

    def evaluate(
        self, model: UniterPreTrainedModel, examples: Sequence[Any], detailed: bool = False, **settings: Any
    ) -> dict[str, float]:
        """Predict and score.

        Args:
            model: as in `predict`.
            examples: likewise.
            detailed: give the `breakdown` too.
            settings: of `predict`.
        """
        said = self.predict(model, self.to_measure(examples), **settings)
        return self.score(said, examples) | (self.breakdown(said, examples) if detailed else {})

    def to_measure(self, examples: Sequence[Any]) -> Sequence[Any]:
        """What has to be predicted of these examples to score them (VCR can do with less than a submission)."""
        return examples

    # ------------------------------------------------------------ parts for subclasses

    def file(self, *names: str) -> Path:
        """The first of these files (or glob patterns) that the data folder has.

        Raises:
            ValueError: none is there.
        """
        for name in names:
            found = [self.data / name] if (self.data / name).is_file() else sorted(self.data.glob(name))
            if found:
                return found[0]
        raise ValueError(
            f"{self.data}: none of {', '.join(names)} is there; put the benchmark's public files into this folder"
        )

    def only_file(self, option: str, pattern: str) -> Path:
        """The file that an option names, or else the only one that fits a pattern.

        Raises:
            ValueError: none is there, or several are.
        """
        given = self.settings[option]
        found = sorted(self.data.glob(pattern), key=lambda path: path.name)
        if given or not found:
            return self.file(given or pattern)
        if len(found) > 1:
            several = ", ".join(path.name for path in found)
            raise ValueError(f"{self.data}: {several} are all there; say which by the option `{option}`")
        return found[0]

    def seen(self, image: Image) -> Regions:
        """The regions of an image, or of several as one.

        Raises:
            ValueError: they are not in the store.
        """
        if isinstance(image, tuple):
            return concatenate([self.seen(name) for name in image])
        held, name = self._holding(image)
        return held[name]

    def num_regions(self, image: Image) -> int:
        """How many regions an image has, or several together; of a store without reading them."""
        if isinstance(image, tuple):
            return sum(self.num_regions(name) for name in image)
        if image not in self._counts:
            held, name = self._holding(image)
            self._counts[image] = held.num_regions(name) if isinstance(held, RegionSource) else len(held[name])
        return self._counts[image]

    def home(self, image: str) -> tuple[Names | None, str]:
        """Where an image's regions are, and under what name (VCR may have two stores)."""
        return self.regions, image

    def _holding(self, image: str) -> tuple[Names, str]:
        """`home` of an image whose regions are sure to be there."""
        held, name = self.home(image)
        if held is None:
            raise ValueError(f"task {self.name} was given no regions: give the store of the pictures' regions")
        if name not in held:
            place = held.path if isinstance(held, RegionSource) else "the regions given"
            raise ValueError(
                f"{place} ({len(held)} images): no image {name!r}, which {self.data} speaks of; extract its regions"
            )
        return held, name

    def unknown_split(self, path: Path, split: str, known: Iterable[str]) -> ValueError:
        """The error for a split that a file does not have."""
        return ValueError(f"{path}: nothing in split {split!r}; it has {', '.join(sorted(set(known))) or 'no split'}")


@contextmanager
def measuring(model: torch.nn.Module, precision: Precision = "float32") -> Iterator[torch.device]:
    """Eval mode without gradients, in a precision; gives the model's device, and its mode back at the end."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield device
    finally:
        model.train(was_training)


def check_kind(task: str, option: str, value: Any, usual: Any) -> None:
    """Refuse an option's value that is of another kind than the one it has if left out (None: anything goes)."""
    number = isinstance(usual, int | float) and not isinstance(usual, bool)
    wanted = (int, float) if isinstance(usual, float) else type(usual)
    if usual is None or (isinstance(value, wanted) and not (number and isinstance(value, bool))):
        return
    raise ValueError(f"option {option} of task {task} is a {type(usual).__name__} like {usual!r}, got {value!r}")


# ---------------------------------------------------------------- finding tasks


def names() -> list[str]:
    """The tasks that the package has."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return [module.name for module in modules if _task_in(f"uniter.tasks.{module.name}")]


def load(name: str) -> type[Task]:
    """The task of a name ("vqa") or of a module of your own ("mine.gqa").

    Raises:
        ValueError: there is no such module, or no task in it.
    """
    path = name if "." in name and not name.startswith(".") else f"uniter.tasks.{name}"
    try:
        found = _task_in(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):  # it is there, and wants what is not
            raise
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise ValueError(f"no task {name!r}; {hint}") from None
    if found is None:
        raise ValueError(f"module {path} holds no Task: define a class derived from uniter.tasks.base.Task in it")
    return found


def _task_in(path: str) -> type[Task] | None:
    """The first class of a module that is a task with a name of its own (a helper base class has none)."""
    module = import_module(path)
    for value in vars(module).values():
        ours = isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
        if ours and "name" in vars(value):
            return value
    return None
