"""What a benchmark is: examples -> pairs -> target -> decode -> score, write. And fine-tuning on one, as a job for the loop."""

import difflib
import json
import os
import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from uniter import draws
from uniter.modeling_uniter import UniterPreTrainedModel
from uniter.processing_uniter import Encoded, Pair, UniterProcessor
from uniter.regions import Regions
from uniter.regions.store import Store
from uniter.training.batching import evaluation_batches, in_order

Batch = dict[str, Tensor]


class Task:
    """A benchmark: its own public files in, its own prediction file out.

    A subclass gives `examples`, `pairs`, `target`, `decode`, `score` and, where a prediction is not JSON, `write` and `read`.

    Args:
        data: folder of the benchmark's public files.
        regions: store of the pictures' regions; not needed to read examples or to score.
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

    def __init__(
        self,
        data: str | Path,
        regions: Store | Mapping[str, Regions] | str | Path | None = None,
        processor: UniterProcessor | None = None,
        seed: int = 0,
        **options: Any,
    ):
        self.data = Path(data)
        if not self.data.is_dir():
            raise ValueError(f"{data}: no such folder; give the folder of the benchmark's public files")
        self.regions = Store(regions) if isinstance(regions, str | Path) else regions
        self.processor, self.seed = processor, seed
        for key in options:
            if key not in self.options:
                near = difflib.get_close_matches(key, self.options, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(self.options) or 'none'}"
                raise ValueError(f"task {self.name} has no option {key!r}; {hint}")
        self.settings: dict[str, Any] = {**self.options, **options}
        self._pieces: dict[str, np.ndarray] = {}

    # ------------------------------------------------------------ what a benchmark gives

    def examples(self, split: str) -> list[Any]:
        """The examples of a split, in the files' order."""
        raise NotImplementedError

    def pairs(self, example: Any) -> list[Pair]:
        """What the encoder is shown for an example."""
        raise NotImplementedError

    def target(self, examples: Sequence[Any]) -> Tensor:
        """The labels that the head named by `model` expects for these examples."""
        raise NotImplementedError

    def decode(self, output: Any, examples: Sequence[Any], batch: Batch) -> list[Any]:
        """One prediction an example, from the head's output; a prediction is what JSON can hold."""
        raise NotImplementedError

    def score(self, predictions: Sequence[Any], examples: Sequence[Any]) -> dict[str, float]:
        """The benchmark's numbers, in percent; needs no model."""
        raise NotImplementedError

    def perfect(self, examples: Sequence[Any]) -> list[Any]:
        """The predictions that score 100 (contract tests use them)."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Settings that a fresh head of this task needs (number of labels and their names)."""
        return {}

    def adopt(self, model: UniterPreTrainedModel) -> None:
        """Take from a trained model what decoding needs (the answers of VQA)."""

    def write(self, predictions: Sequence[Any], path: str | Path) -> None:
        """The benchmark's prediction file, written atomically."""
        write_json(path, list(predictions))

    def read(self, path: str | Path) -> list[Any]:
        """What `write` wrote."""
        return read_json(Path(path), list)

    # ------------------------------------------------------------ what follows from it

    def encode(self, examples: Sequence[Any]) -> list[Encoded]:
        """All pairs of these examples as arrays; each text is cut into pieces once."""
        assert self.processor is not None, "a task that encodes needs a processor"
        pairs = [pair for example in examples for pair in self.pairs(example)]
        new = list({pair.text for pair in pairs} - self._pieces.keys())
        if new:
            self._pieces.update(zip(new, map(self.processor.wrap, self.processor.pieces_of(new)), strict=True))
        return [self.processor.join(self._pieces[pair.text], pair.regions, pair.region_type) for pair in pairs]

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

    def lengths(self, examples: Sequence[Any]) -> np.ndarray:
        """(examples,) tokens of each example, over all its pairs."""
        lengths = []
        for start in range(0, len(examples), 1024):
            rows = [len(row) for row in self.encode(examples[start : start + 1024])]
            counts = [len(self.pairs(example)) for example in examples[start : start + 1024]]
            lengths += [sum(part) for part in np.split(np.array(rows), np.cumsum(counts)[:-1])]
        return np.array(lengths, dtype=np.int64)

    def predict(
        self, model: UniterPreTrainedModel, examples: Sequence[Any], tokens: int = 8192, progress: bool = False
    ) -> list[Any]:
        """One prediction an example, in the examples' order; batches are made by length, which changes no prediction.

        Args:
            model: a model with this task's head.
            examples: as `examples` gives them.
            tokens: budget of a batch.
            progress: show a progress bar.
        """
        self.adopt(model)
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        batches = evaluation_batches(
            self.lengths(examples), max(tokens, int(self.lengths(examples[:1]).max(initial=1)))
        )
        results = []
        with torch.inference_mode():
            for rows in tqdm(batches, desc=self.name, unit="batch", disable=not progress):
                chosen = [examples[i] for i in rows]
                batch = {key: value.to(device) for key, value in self.batch(chosen, labels=False).items()}
                results.append(self.decode(model(**batch), chosen, batch))
        model.train(was_training)
        return in_order(batches, results)

    def evaluate(self, model: UniterPreTrainedModel, examples: Sequence[Any], **settings: Any) -> dict[str, float]:
        """Predict and score."""
        return self.score(self.predict(model, examples, **settings), examples)

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

    def seen(self, image: str) -> Regions:
        """The regions of an image.

        Raises:
            ValueError: they are not in the store.
        """
        assert self.regions is not None, "a task that shows pictures needs their regions"
        return self.regions[image]


class FineTuning:
    """Fine-tuning on a task, as a job for the loop.

    Args:
        task: with regions and a processor.
        model: with the task's head.
        train_split: to learn from.
        validation_split: to measure on; None: nothing is measured.
        validation_examples: measure on so many of them at most, always the same ones; None: on all.
    """

    def __init__(
        self,
        task: Task,
        model: UniterPreTrainedModel,
        train_split: str = "train",
        validation_split: str | None = "val",
        validation_examples: int | None = None,
    ):
        self.task, self.model, self.monitor = task, model, task.monitor
        self.mixture = {task.name: 1.0}
        self.examples = task.examples(train_split)
        if not self.examples:
            raise ValueError(f"{task.data}: split {train_split!r} of {task.name} has no examples")
        self.validation = task.examples(validation_split) if validation_split else []
        if validation_examples is not None and len(self.validation) > validation_examples:
            order = draws.permutation(task.seed, "validation", len(self.validation))
            self.validation = [self.validation[i] for i in sorted(order[:validation_examples])]

    def lengths(self, stream: str) -> np.ndarray:
        """(examples,) tokens of each training example."""
        return self.task.lengths(self.examples)

    def prepare(self, stream: str, indices: np.ndarray, epoch: int) -> Batch:
        """The batch of these training examples."""
        return self.task.training_batch(self.examples, indices, epoch)

    def loss(self, stream: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The task's loss."""
        return self.task.step(self.model, batch), {}

    def validate(self) -> dict[str, float]:
        """The task's numbers on the validation examples."""
        return self.task.evaluate(self.model, self.validation) if self.validation else {}

    def save(self, folder: str | Path) -> None:
        """Model, vocabulary and the task's name."""
        assert self.task.processor is not None
        self.model.save_pretrained(folder)
        self.task.processor.save_pretrained(folder)
        write_json(Path(folder) / "task.json", {"task": self.task.name, "options": self.task.settings})


# ---------------------------------------------------------------- finding tasks


def names() -> list[str]:
    """The tasks that the package has."""
    import uniter.tasks as package

    found = []
    for module in pkgutil.iter_modules(package.__path__):
        if module.name not in ("base",) and _task_in(f"uniter.tasks.{module.name}"):
            found.append(module.name)
    return found


def load(name: str) -> type[Task]:
    """The task of a name ("vqa") or of a module of your own ("mine.gqa").

    Raises:
        ValueError: there is no such module, or no task in it.
    """
    path = name if "." in name else f"uniter.tasks.{name}"
    try:
        found = _task_in(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise ValueError(f"no task {name!r}; {hint}") from None
    if found is None:
        raise ValueError(f"module {path} holds no Task: define a class derived from uniter.tasks.base.Task in it")
    return found


def _task_in(path: str) -> type[Task] | None:
    module = import_module(path)
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__:
            return value
    return None


# ---------------------------------------------------------------- files and numbers


def read_json(path: Path, kind: type) -> Any:
    """A JSON file whose outermost value is a `kind`.

    Raises:
        ValueError: missing, malformed or of another kind; names the file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); download or write it again") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path}: expected a JSON {kind.__name__}, got a {type(found).__name__}")
    return found


def field(record: Mapping[str, Any], key: str, path: Path) -> Any:
    """`record[key]`, or an error that names the file and the key."""
    try:
        return record[key]
    except (KeyError, TypeError):
        raise ValueError(
            f"{path}: a record has no {key!r}: {str(record)[:80]}; is this the benchmark's public file?"
        ) from None


def write_json(path: str | Path, value: Any) -> None:
    """JSON, written to a temporary file that then takes the name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")
    temporary.replace(path)


def interval(values: Sequence[float], seed: int = 0, draws_made: int = 1000) -> tuple[float, float]:
    """The bootstrap 95% interval of the mean of `values`."""
    array = np.asarray(values, dtype=np.float64)
    rng = draws.generator(seed, "bootstrap")
    means = [array[rng.integers(0, len(array), len(array))].mean() for _ in range(draws_made)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean of `values` (in percent already) and its 95% interval, as `name`, `name_low`, `name_high`."""
    if not len(values):
        return {name: float("nan")}
    low, high = interval(values)
    return {name: float(np.mean(values)), f"{name}_low": low, f"{name}_high": high}


def trailing_number(name: str) -> int | None:
    """The image id at the end of a file name: COCO_val2014_000000000042.jpg -> 42."""
    digits = ""
    for letter in reversed(Path(name).stem):
        if not letter.isdigit():
            break
        digits = letter + digits
    return int(digits) if digits else None


def images_by_id(names_in_store: Sequence[str], subset: str = "") -> dict[int, str]:
    """Image id -> name in a store; where two names end in the same id, the one that holds `subset` wins."""
    found: dict[int, str] = {}
    for name in names_in_store:
        number = trailing_number(name)
        if number is not None and (number not in found or (subset and subset in name)):
            found[number] = name
    return found
