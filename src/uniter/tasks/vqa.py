"""VQA v2: open questions about pictures, answers from a vocabulary. Paper section 4; official evaluation rules."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from uniter.files import read_json
from uniter.modeling_uniter import UniterForAnswers, UniterPreTrainedModel
from uniter.processing_uniter import Text
from uniter.tasks.base import Batch, Predictions, Task
from uniter.tasks.intervals import with_interval
from uniter.tasks.reading import field, images_by_id, name_finder
from uniter.tasks.text_database import TextDatabase, open_split

log = logging.getLogger(__name__)

SOFT = (0.0, 0.3, 0.6, 0.9, 1.0)  # score of an answer that 0, 1, 2, 3, 4 or more of ten people gave (published)
PEOPLE_NEEDED = 3  # so many others have to say the same for the full official accuracy

# Tables of the official evaluation, its quirks included ("shes" is left alone, "somebody'd" loses its apostrophe).
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_OF = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
    why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {short: word for word in CONTRACTED.split() for short in _without_one_apostrophe(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Args:
        question_id: its number.
        text: its words, or its word pieces.
        image: its image's name in the store.
        answers: what ten people answered, as the file has it; none on test.
        kind: "yes/no", "number" or "other".
        labels: of a text database: numbers of answers, each with its score; None on test and without a database.
    """

    question_id: int | str
    text: Text
    image: str
    answers: tuple[str, ...] = ()
    kind: str = ""
    labels: tuple[tuple[int, float], ...] | None = None


class Answered(NamedTuple):
    """What people answered to a question: the most frequent answer, all ten, and the kind of answer."""

    majority: str
    answers: tuple[str, ...]
    kind: str


NOT_ANSWERED = Answered("", (), "")


def read_answers(path: Path) -> list[str]:
    """An answer vocabulary from a JSON list, or from a JSON mapping of answer to number (`ans2label.json`).

    Raises:
        ValueError: the file is missing or foreign, or its numbers are not 0, 1, 2, ...
    """
    if not path.is_file():
        raise ValueError(f"option answers: there is no file {path}; give the list or ans2label.json, or leave it out")
    found = read_json(path, object)
    pairs = (
        found.items() if isinstance(found, dict) else zip(found, range(len(found))) if isinstance(found, list) else ()
    )
    by_number = {number: answer for answer, number in pairs if isinstance(number, int) and isinstance(answer, str)}
    if not by_number or len(by_number) != len(found) or sorted(by_number) != list(range(len(found))):
        raise ValueError(f"{path}: not a list of answers, nor of answers and their numbers from 0; write it again")
    return [by_number[number] for number in range(len(found))]


@lru_cache(maxsize=1 << 18)
def normalise(answer: str) -> str:
    """An answer as the official evaluation compares it: lower case, no articles, digits for numbers, apostrophes."""
    given = answer.replace("\n", " ").replace("\t", " ").strip()
    thousands = re.search(r"\d,\d", given) is not None
    text = given
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in given or f" {mark}" in given
        text = text.replace(mark, "" if beside_space or thousands else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [NUMBER_OF.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_accuracy(answer: str, people: Sequence[str]) -> float:
    """The official accuracy of an answer, between 0 and 1.

    The mean, over the ways of leaving one person out, of min(1, others who said the same / 3). Answers are normalised
    unless all people agree to the letter; then the official evaluation compares letters.
    """
    if len(set(people)) > 1:
        answer, people = normalise(answer), [normalise(person) for person in people]
    total = sum(person == answer for person in people)
    shares = [min(1.0, (total - (person == answer)) / PEOPLE_NEEDED) for person in people]
    return sum(shares) / len(shares)


class VQA(Task):
    """Answers to questions, scored softly against ten people's answers.

    Target: for each answer of the vocabulary 0, 0.3, 0.6, 0.9 or 1 by how many of ten gave it (published). From the
    official JSON files or from text databases `vqa_<split>.db`, whose stored targets are then learnt and scored by: the
    labels of `answers`, or if that is left out the model's, or else the numbers themselves. Options:

        least: how often an answer has to be a question's majority answer to enter the vocabulary (published: 9).
        answers_from: splits whose annotations it is built from, joined by "+" (published: train+val, 3,129 answers).
        answers: the vocabulary itself, a list or a JSON file of one (or of answer -> number, the published
            `ans2label.json`); if left out it is built, or taken from the model.
    """

    name = "vqa"
    id_field, text_kind = "question_id", "question"
    model = UniterForAnswers
    monitor = "accuracy"
    options = MappingProxyType({"least": 9, "answers_from": "train", "answers": None})
    # spec 4.4, train-vqa-base-4gpu: 5 x 4 batches of 5120 tokens, 800-960 questions an update
    defaults = MappingProxyType(
        {"learning_rate": 8e-5, "head_multiplier": 10, "steps": 6000, "warmup": 600, "tokens": 5120, "accumulate": 20}
        | {"clip": 2.0, "weight_decay": 0.01}
    )

    _numbered: list[str] | None = None  # the answers that `_numbers` numbers
    _numbers: dict[str, int]
    _by_number = False  # whether examples came from a text database, whose labels are numbers

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        given = self.settings["answers"]
        if isinstance(given, str | Path):
            given = self.settings["answers"] = read_answers(Path(given))
        self._stored: list[str] | None = given  # what a database's labels number; None: the model's answers

    def examples(self, split: str) -> list[Question]:
        """The questions of a split (train, val, test, devval, ... as in the files' names) in the file's order.

        Raises:
            ValueError: the split's files are missing or foreign.
        """
        if database := self._database(split):
            self._by_number = True
            return self._stored_questions(database)
        path = self._file("v2_OpenEnded_", split, "questions")
        content = read_json(path, dict)
        annotations = self._annotations(split)
        subset = str(content.get("data_subtype", ""))
        names = images_by_id(self.regions, subset) if self.regions is not None else {}
        found = []
        for record in field(content, "questions", path, list):
            number, image_id = field(record, "question_id", path, int), field(record, "image_id", path, int)
            answered = annotations.get(number, NOT_ANSWERED)
            text, image = field(record, "question", path, str), names.get(image_id)
            image = image or f"COCO_{subset}_{image_id:012d}.jpg"
            found.append(Question(number, text, image, answered.answers, answered.kind))
        if not found:
            raise ValueError(f"{path}: no questions; download or write it again")
        return found

    def _database(self, split: str) -> TextDatabase | None:
        return open_split(self.data, split, ("vqa",), self.vocabulary)

    def _stored_questions(self, database: TextDatabase) -> list[Question]:
        name_of = name_finder(self.regions)
        return [
            Question(int(name) if name.isdecimal() else name, text, name_of(image), labels=labels)
            for name, text, image, labels in database.labelled()
        ]

    def _file(self, start: str, split: str, kind: str) -> Path:
        """The file of a split; the official names hold a year behind it (val2014)."""
        for path in sorted(self.data.glob(f"{start}*_{kind}.json")):
            if re.fullmatch(rf"{re.escape(start)}[^_]+_{re.escape(split)}(20\d\d)?_{kind}\.json", path.name):
                return path
        known = sorted(path.name for path in self.data.glob("v2_*.json"))
        raise ValueError(
            f"{self.data}: no {start}*_{split}_{kind}.json for split {split!r}; it has "
            f"{', '.join(known) or 'no v2_ file'}; put the official files into this folder"
        )

    def _annotations(self, split: str) -> dict[int, Answered]:
        """What people answered, by question id; nothing where the split has no annotations."""
        try:
            path = self._file("v2_", split, "annotations")
        except ValueError:
            return {}  # test questions have no public answers
        return {
            field(record, "question_id", path, int): Answered(
                field(record, "multiple_choice_answer", path, str),
                tuple(field(person, "answer", path, str) for person in field(record, "answers", path, list)),
                field(record, "answer_type", path, str),
            )
            for record in field(read_json(path, dict), "annotations", path, list)
        }

    @property
    def answers(self) -> list[str]:
        """The answer vocabulary; of a built one the most frequent answers come first.

        Raises:
            ValueError: there are no annotations to build it from, no answer is frequent enough, or its file is foreign.
        """
        if self.settings["answers"] is None:
            self.settings["answers"] = self._numbered_answers() or self._frequent_answers()
        return self.settings["answers"]

    def _numbered_answers(self) -> list[str]:
        """The label numbers of text databases, as the names that nobody gave; none where there is no database."""
        databases = [self._database(split) for split in self.settings["answers_from"].split("+")]
        targets = [labels for base in databases if base is not None for *_, labels in base.labelled()]
        return [str(i) for i in range(1 + max((i for labels in targets for i, _ in labels or ()), default=-1))]

    def _frequent_answers(self) -> list[str]:
        splits, least = self.settings["answers_from"], self.settings["least"]
        answered = [record for split in splits.split("+") for record in self._annotations(split).values()]
        if not answered:
            raise ValueError(
                f"{self.data}: no annotations of {splits} to build the answers from; give the option `answers`"
            )
        majority = Counter(normalise(record.majority) for record in answered)
        often = [answer for answer, count in majority.items() if count >= least and answer]
        if not often:
            raise ValueError(
                f"{self.data}: no answer is that of {least} questions of {splits}; lower the option `least`"
            )
        return sorted(often, key=lambda answer: (-majority[answer], answer))

    def config(self) -> dict[str, Any]:
        """As many labels as answers, by name, so that a checkpoint can answer alone."""
        names = dict(enumerate(self.answers))
        return {"num_labels": len(names), "id2label": names, "label2id": {answer: i for i, answer in names.items()}}

    def adopt(self, model: UniterPreTrainedModel) -> None:
        """The answers that the model was trained with.

        A model that names none (published weights) has those of the option `answers`, as many; measured on a text
        database, whose labels are numbers, it needs no names.

        Raises:
            ValueError: the model does not name its answers, and the option gives none or another number of them.
        """
        labels = {int(number): label for number, label in (model.config.id2label or {}).items()}
        if labels and not all(label == f"LABEL_{number}" for number, label in labels.items()):
            self.settings["answers"] = [labels[number] for number in range(len(labels))]
        elif self.settings["answers"] is None and self._by_number:
            self.settings["answers"] = [str(number) for number in range(len(labels))]
        elif self.settings["answers"] is None or len(labels) != len(self.answers):
            known = "none are given" if self.settings["answers"] is None else f"the task {len(self.answers)}"
            raise ValueError(
                f"the model has {len(labels)} answers without names, {known}: give the option `answers`, the list (or "
                "ans2label.json) that it was trained with"
            )

    def target(self, examples: Sequence[Question]) -> Tensor:
        """(examples, answers) soft scores.

        Raises:
            ValueError: nobody answered a question.
        """
        if self._numbered is not self.answers:
            self._numbered, self._numbers = self.answers, {answer: i for i, answer in enumerate(self.answers)}
        target = torch.zeros(len(examples), len(self._numbers))
        rows, columns, scores = [], [], []
        for row, example in enumerate(examples):
            for answer, score in self._soft(example).items():
                if answer in self._numbers:
                    rows.append(row)
                    columns.append(self._numbers[answer])
                    scores.append(score)
        target[rows, columns] = torch.tensor(scores)
        return target

    def _soft(self, example: Question) -> dict[str, float]:
        """The answers that count for a question, and their scores.

        Raises:
            ValueError: it has none (test), or labels that the names given do not reach to.
        """
        if example.labels is None:
            if not example.answers:
                raise ValueError(
                    f"{self.data}: question {example.question_id} has no public answers; put the split's "
                    "annotations into this folder, or use a split that has some"
                )
            counts = Counter(map(normalise, example.answers))
            return {answer: SOFT[min(count, len(SOFT) - 1)] for answer, count in counts.items()}
        names = self._stored or self.settings["answers"]
        if names is None:
            return {str(label): score for label, score in example.labels}
        beyond = [label for label, _ in example.labels if label >= len(names)]
        if beyond:
            raise ValueError(
                f"{self.data}: question {example.question_id} has label {beyond[0]} of {len(names)} answers: give the "
                "option `answers`, the ans2label.json that the database was made with, or another model"
            )
        return {names[label]: score for label, score in example.labels}

    def decode(self, output: Any, examples: Sequence[Question], batch: Batch) -> list[dict[str, Any]]:
        """The highest answer of each question."""
        best = output.logits.argmax(1).tolist()
        return [{"question_id": e.question_id, "answer": self.answers[i]} for e, i in zip(examples, best, strict=True)]

    def score(self, predictions: Predictions, examples: Sequence[Question]) -> dict[str, float]:
        """Official accuracy with its 95% interval, and by the kind of answer; of databases, the stored scores.

        Raises:
            ValueError: a question has no prediction, or no public answers.
        """
        place = "a prediction of vqa"
        said = {field(p, "question_id", place, (int, str)): field(p, "answer", place, str) for p in predictions}
        scores: dict[str, list[float]] = {}
        for example in examples:
            soft = self._soft(example)
            if example.question_id not in said:
                raise ValueError(f"question {example.question_id} has no prediction: predict the whole split")
            answer = said[example.question_id]
            stored = example.labels is not None
            value = 100.0 * (soft.get(answer, 0.0) if stored else soft_accuracy(answer, example.answers))
            scores.setdefault(example.kind, []).append(value)
        found = with_interval("accuracy", [value for values in scores.values() for value in values])
        found.update({f"accuracy {kind}": float(np.mean(values)) for kind, values in sorted(scores.items()) if kind})
        return found

    def perfect(self, examples: Sequence[Question]) -> list[dict[str, Any]]:
        """Each question's most frequent answer."""
        best = [max(soft, key=soft.__getitem__, default="") for soft in map(self._soft, examples)]
        return [
            {"question_id": e.question_id, "answer": next((a for a in e.answers if normalise(a) == answer), answer)}
            for e, answer in zip(examples, best, strict=True)
        ]

    def write(self, predictions: Predictions, path: str | Path, examples: Sequence[Question] | None = None) -> None:
        """The submission: a JSON list of question_id and answer."""
        answers = self.settings["answers"] or ()
        if self._by_number and list(answers) == [str(number) for number in range(len(answers))]:
            log.warning("%s: answers are numbers; to name them give the option answers=ans2label.json", path)
        super().write(predictions, path, examples)
