"""VQA v2: open questions about pictures, answers from a vocabulary. Paper section 4; official evaluation rules."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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
from uniter.tasks.pictures import genome_finder, genome_numbers, karpathy_splits, list_items, of_genome
from uniter.tasks.reading import field, images_by_id, name_finder, said_of
from uniter.tasks.text_database import TextDatabase, open_split

log = logging.getLogger(__name__)

SOFT = (0.0, 0.3, 0.6, 0.9, 1.0)  # score of an answer that 0, 1, 2, 3, 4 or more of ten people gave (published)
PEOPLE_ASKED = 10
PEOPLE_NEEDED = 3  # so many others have to say the same for the full official accuracy

GENOME = "vg"  # the split of Visual Genome's questions, as the published databases call it
PARTS_OF_VAL = {"devval": True, "trainval": False}  # published splits; whether they are about Karpathy's test images

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
        question_type: how the question begins, as the files sort them ("what color is the").
    """

    question_id: int | str
    text: Text
    image: str
    answers: tuple[str, ...] = ()
    kind: str = ""
    labels: tuple[tuple[int, float], ...] | None = None
    question_type: str = ""


class Answered(NamedTuple):
    """What people answered to a question: the most frequent answer, all ten, the kind of answer and of question."""

    majority: str
    answers: tuple[str, ...]
    kind: str
    question_type: str = ""


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


def _means(groups: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    """The mean of each named group's values."""
    found: dict[str, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        found.setdefault(group, []).append(value)
    return {group: float(np.mean(found[group])) for group in sorted(found) if group}


class VQA(Task):
    """Answers to questions, scored softly against ten people's answers.

    Target: for each answer of the vocabulary 0, 0.3, 0.6, 0.9 or 1 by how many of ten gave it (published). From the
    official JSON files or from text databases `vqa_<split>.db`, whose stored targets are then learnt and scored by: the
    labels of `answers`, or if that is left out the model's, or else the numbers themselves.

    With Karpathy's `dataset_coco.json` beside the official files the published splits are there too: `devval`, the
    questions of val about his 5,000 test images, and `trainval`, all others of val. With Visual Genome's
    `question_answers.json` and `image_data.json` there is `vg`: its questions whose answer is in the vocabulary, with
    that answer as the only and full one, but for those about the 5,000 images (published). Options:

        least: how often an answer has to be a question's majority answer to enter the vocabulary (published: 9).
        answers_from: splits whose annotations it is built from, joined by "+" (published: train+val, 3,129 answers).
        answers: the vocabulary itself, a list or a JSON file of one (or of answer -> number, the published
            `ans2label.json`); if left out it is built, or taken from the model.
        karpathy: Karpathy's file of COCO, in the folder or elsewhere, for the splits devval, trainval and vg.
        genome_images: of which images of Visual Genome the split vg asks: those that "coco" has too (published), "all".
    """

    name = "vqa"
    id_field, text_kind = "question_id", "question"
    model = UniterForAnswers
    monitor = "accuracy"
    options = MappingProxyType(
        {"least": 9, "answers_from": "train", "answers": None}
        | {"karpathy": "dataset_coco.json", "genome_images": "coco"}
    )
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
        if self.settings.get("genome_images", "coco") not in ("coco", "all"):
            raise ValueError(
                f"option genome_images of task {self.name} is coco or all, got {self.settings['genome_images']!r}"
            )

    def examples(self, split: str) -> list[Question]:
        """The questions of a split (train, val, test, devval, ... as in the files' names) in the file's order.

        Raises:
            ValueError: the split's files are missing or foreign.
        """
        if database := self._database(split):
            self._by_number = True
            return self._stored_questions(database)
        if split == GENOME:
            return self._genome_questions()
        if split in PARTS_OF_VAL:
            kept, test = PARTS_OF_VAL[split], self._test_images()
            return self._official_questions("val", lambda image_id: (image_id in test) == kept)
        return self._official_questions(split, lambda image_id: True)

    def _official_questions(self, split: str, wanted: Callable[[int], bool]) -> list[Question]:
        """The questions of a split's official file about those images whose COCO number is wanted."""
        path = self._file("v2_OpenEnded_", split, "questions")
        content = read_json(path, dict)
        annotations = self._annotations(split)
        subset = str(content.get("data_subtype", ""))
        names = images_by_id([name for name in self.regions or () if not of_genome(name)], subset)
        found = []
        for record in field(content, "questions", path, list):
            number, image_id = field(record, "question_id", path, int), field(record, "image_id", path, int)
            if not wanted(image_id):
                continue
            answered = annotations.get(number, NOT_ANSWERED)
            text, image = field(record, "question", path, str), names.get(image_id)
            image = image or f"COCO_{subset}_{image_id:012d}.jpg"
            kinds = {"kind": answered.kind, "question_type": answered.question_type}
            found.append(Question(number, text, image, answered.answers, **kinds))
        if not found:
            raise ValueError(f"{path}: no questions of split {split!r}; download or write it again")
        return found

    def _test_images(self) -> set[int]:
        """COCO's numbers of Karpathy's 5,000 test images, whose questions nobody may learn from."""
        path = self.data / self.settings["karpathy"]
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; splits {', '.join((*PARTS_OF_VAL, GENOME))} go by Karpathy's test images: "
                "put his dataset_coco.json there, or name it by the option `karpathy`"
            )
        return {number for number, part in karpathy_splits(path).items() if part == "test"}

    def _genome_questions(self) -> list[Question]:
        """Visual Genome's questions to learn from besides; how many are left out, and why, is said."""
        path = self.file("question_answers.json")
        numbers, test, answers = genome_numbers(self.data), self._test_images(), set(self.answers)
        name_of, on_coco = genome_finder(self.regions), self.settings["genome_images"] == "coco"
        left_out = dict.fromkeys(
            ("are about test images", "are about images that COCO has not", "have other answers"), 0
        )
        reasons, found = list(left_out), []
        for image in list_items(path):
            for record in field(image, "qas", path, list):
                image_id, number = field(record, "image_id", path, int), field(record, "qa_id", path, int)
                text, answer = field(record, "question", path, str), normalise(field(record, "answer", path, str))
                if image_id not in numbers:
                    raise ValueError(
                        f"{path}: image {image_id} is not in image_data.json beside it; take both from one release"
                    )
                coco = numbers[image_id].coco
                wrong = (coco in test, on_coco and coco is None, answer not in answers or not text.strip())
                if any(wrong):
                    left_out[reasons[wrong.index(True)]] += 1
                else:
                    found.append(Question(number, text, name_of(image_id), (answer,) * PEOPLE_ASKED))
        said = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        log.warning("%s: %d questions; left out: %s", path, len(found), said)
        if not found:
            raise ValueError(f"{path}: no question is left ({said}): are the options answers and answers_from right?")
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
                str(record.get("question_type", "")),
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
        values = self._accuracies(predictions, examples)
        by_kind = _means((example.kind for example in examples), values)
        return with_interval("accuracy", values) | {f"accuracy {kind}": mean for kind, mean in by_kind.items()}

    def breakdown(self, predictions: Predictions, examples: Sequence[Question]) -> dict[str, float]:
        """Accuracy by the beginning of the question, as the official evaluation prints it."""
        values = self._accuracies(predictions, examples)
        by_type = _means((example.question_type for example in examples), values)
        return {f"accuracy of {begins!r} questions": mean for begins, mean in by_type.items()}

    def _accuracies(self, predictions: Predictions, examples: Sequence[Question]) -> list[float]:
        """The accuracy of each question, in percent."""
        said = said_of([example.question_id for example in examples], predictions, "question_id", "vqa")
        answers = [field(prediction, "answer", "a prediction of vqa", str) for prediction in said]
        unnamed = any(e.labels is not None for e in examples) and (self._stored or self.settings["answers"]) is None
        if unnamed and not all(map(str.isdecimal, answers)):
            raise ValueError(
                f"{self.data}: the database's labels are numbers, the predictions words: give the option answers="
                "ans2label.json, with which it was made"
            )
        found = []
        for example, answer in zip(examples, answers, strict=True):
            soft = self._soft(example)
            stored = example.labels is not None
            found.append(100.0 * (soft.get(answer, 0.0) if stored else soft_accuracy(answer, example.answers)))
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
