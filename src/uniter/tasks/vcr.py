"""VCR: questions about a scene, four answers to choose from, four reasons. Paper section 4; published text layout."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniter.files import write_text
from uniter.modeling_uniter import UniterForChoice, UniterPreTrainedModel
from uniter.processing_uniter import (
    PERSONS,
    TEXT_TYPE,
    Pieces,
    Segment,
    Text,
    Tokens,
    Vocabulary,
    ready_made,
)
from uniter.regions.source import RegionSource
from uniter.tasks.base import Batch, Image, Predictions, Task
from uniter.tasks.intervals import with_interval
from uniter.tasks.reading import Names, by_stem, field, json_lines, opened, read_csv, said_of, stem
from uniter.tasks.text_database import AGAIN, TextDatabase, open_split
from uniter.tasks.views import Panel, View, in_order, readable

CHOICES = 4
ANSWER_TYPE, RATIONALE_TYPE = 2, 3  # segment types; the question has 0, regions have 1
SECOND = "gt_regions:"  # stands before the name of an image whose regions are in the second store
OFFICIAL = re.compile(r"vcr_(?:gt_)?(train|val|test)_(.+)")  # the published code's names of regions
ANNOTATED_COUNT = 100  # what the published code takes for the number of an image's annotated regions
HEADER = [
    "annot_id",
    *(f"answer_{a}" for a in range(CHOICES)),
    *(f"rationale_conditioned_on_a{a}_{r}" for a in range(CHOICES) for r in range(CHOICES)),
]
# Shown of a question: its answers; the rationales under the true answer; both; the answers and all they may be under;
# the true answer with the true rationale (second stage of pre-training).
FORMS = ("answers", "rationales", "measured", "submission", "story")


@dataclass(frozen=True, slots=True)
class Question:
    """One question, its answers and its rationales.

    Args:
        annot_id: its id.
        question: its words, or its word pieces; people are `person_<number>`.
        answers: four.
        rationales: four.
        image: names in the store: of the annotated and of the detected regions.
        answer: number of the true answer; None where nobody says (test).
        rationale: number of the true rationale.
        form: what is shown of it, one of `FORMS`.
        stored_lengths: of a text database: the lengths that the published code goes by, for answers and rationales.
    """

    annot_id: str
    question: str | Pieces
    answers: tuple[str | Pieces, ...]
    rationales: tuple[str | Pieces, ...]
    image: Image
    answer: int | None
    rationale: int | None
    form: str = "submission"
    stored_lengths: tuple[int, int] | None = None


class VCR(Task):
    """Which of four answers is right (Q->A), and which of four rationales under the true answer (QA->R).

    From the public files `train.jsonl`, `val.jsonl`, `test.jsonl` or text databases `vcr_<split>.db`. The regions of an
    image are those of its annotated boxes and then the detected ones. Learnt from each question twice, from its answers
    and from its rationales (published). Options:

        boxes: "both" kinds of regions (published), only "annotated" or only "detected" ones.
        gt_regions: a second store with the annotated regions; if left out they are in the one store under the published
            names, `vcr_gt_<split>_<picture>.npz`.
        lengths: "plain": tokens as they are; "published": by the published code's lists, which count the text of all
            four answers, the image once and 100 annotated regions; what is longer than `max_text` is left out.
    """

    name = "vcr"
    id_field, text_kind = "annot_id", "question"
    model = UniterForChoice
    monitor = "Q->AR"
    max_text = 220
    words = PERSONS
    options = MappingProxyType({"boxes": "both", "gt_regions": "", "lengths": "plain"})
    published = MappingProxyType({"options": {"lengths": "published"}})
    # spec 4.4, train-vcr-base-4gpu: 5 x 4 batches of 4000 tokens, 160 questions an update
    defaults = MappingProxyType(
        {"learning_rate": 6e-5, "steps": 8000, "warmup": 800, "tokens": 4000, "accumulate": 20}
        | {"clip": 2.0, "weight_decay": 0.01, "max_text": 220}
    )

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        for option, known in (("boxes", ("both", "annotated", "detected")), ("lengths", ("plain", "published"))):
            if self.settings[option] not in known:
                raise ValueError(
                    f"option {option} of task {self.name} is one of {', '.join(known)}, got {self.settings[option]!r}"
                )
        given = self.settings["gt_regions"]
        self.annotated = opened(given) if given and self.regions is not None else self.regions
        detectors = [held.detector for held in (self.regions, self.annotated) if isinstance(held, RegionSource)]
        if len(set(detectors)) > 1:
            raise ValueError(f"{given}: regions of detector {detectors[1]}, the detected ones are of {detectors[0]}")

    # ------------------------------------------------------------ files

    def examples(self, split: str) -> list[Question]:
        """The questions of a split (train, val, test, ... as in the files' names) in the file's order.

        Raises:
            ValueError: the split's file is missing or foreign.
        """
        names = _RegionNames(self.regions, self.annotated, self.settings["boxes"])
        if database := open_split(self.data, split, ("vcr",), self.vocabulary, "id2len_qar.json"):
            return list(self._stored(database, split, names))
        path = self.file(f"{split}.jsonl")
        found = [self._public(record, path, split, names) for record in json_lines(path)]
        if not found:
            raise ValueError(f"{path}: no questions; download or write it again")
        return found

    @staticmethod
    def _public(record: Any, path: Path, split: str, names: "_RegionNames") -> Question:
        annot_id, picture = field(record, "annot_id", path, str), field(record, "img_fn", path, str)
        objects = field(record, "objects", path, list)
        texts = [[field(record, "question", path, list)]]
        texts += [_four(record, key, path) for key in ("answer_choices", "rationale_choices")]
        (question,), answers, rationales = (tuple(_sentence(t, objects, path) for t in group) for group in texts)
        answer, rationale = (
            _label(record.get(key), f"{path}: {key} of {annot_id}") for key in ("answer_label", "rationale_label")
        )
        image = names.of(split, stem(picture), picture)
        return Question(annot_id, question, answers, rationales, image, answer, rationale)

    @staticmethod
    def _stored(database: TextDatabase, split: str, names: "_RegionNames") -> Iterator[Question]:
        of_answers = database.beside("id2len_qa.json")
        for name in database.ids:
            record, place = database.record(name), database.place(name)
            question = database.pieces(name, record)
            answers, rationales = (
                tuple(database.pieces(name, {"input_ids": ids}) for ids in _four(record, key, place))
                for key in ("input_ids_as", "input_ids_rs")
            )
            answer, rationale = (_label(record.get(key), f"{place}: {key}") for key in ("qa_target", "qar_target"))
            named = database.txt2img.get(name)
            if not isinstance(named, list) or not named or not all(isinstance(image, str) for image in named):
                raise ValueError(f"{database.path}: txt2img.json has no list of images for {name!r}; {AGAIN}")
            official = OFFICIAL.fullmatch(stem(named[-1]))
            part, picture = (official[1], official[2]) if official else (split, stem(named[-1]))
            image = names.of(part, picture, named[-1])
            lengths = (field(of_answers, name, database.path / "id2len_qa.json", int), database.id2len[name])
            yield Question(name, question, answers, rationales, image, answer, rationale, stored_lengths=lengths)

    # ------------------------------------------------------------ what the model sees

    def rows(self, example: Question) -> list[tuple[int, int | None]]:
        """The rows of an example: (answer, rationale), no rationale where the answers are chosen from."""
        under = lambda answer: [(answer, rationale) for rationale in range(CHOICES)]
        if example.form == "story":
            return [self._known(example)]
        found: list[tuple[int, int | None]] = []
        if example.form != "rationales":
            found += [(answer, None) for answer in range(CHOICES)]
        if example.form in ("rationales", "measured"):
            found += under(self._known(example)[0])
        if example.form == "submission":
            found += [row for answer in range(CHOICES) for row in under(answer)]
        return found

    def shown(self, example: Question) -> list[tuple[Text, Image]]:
        """Question and answer, or question, answer and rationale, each with the whole image."""
        found: list[tuple[Text, Image]] = []
        for answer, rationale in self.rows(example):
            parts = [Segment(example.question, TEXT_TYPE), Segment(example.answers[answer], ANSWER_TYPE)]
            if rationale is not None:
                parts.append(Segment(example.rationales[rationale], RATIONALE_TYPE))
            found.append((tuple(parts), example.image))
        return found

    def stories(self, split: str) -> list[Question]:
        """Each question with its true answer and rationale: all that the second stage of pre-training reads.

        Raises:
            ValueError: a question has no labels, among others.
        """
        examples = self.examples(split)
        for example in examples:
            self._known(example)
        return [replace(example, form="story") for example in examples]

    def story_tokens(self, story: Text) -> Tokens:
        """A story as the second stage reads it: each SEP has the type of the part before it (published)."""
        assert self.processor is not None, "a task that encodes needs a processor"
        return self.processor.tokens([story], "preceding", self._positions if ready_made(story) else None)[0]

    def lessons(self, split: str) -> list[Question]:
        """Each question twice: its answers, and its rationales under the true answer."""
        examples = self.examples(split)
        for example in examples:
            self._known(example)
        return [replace(example, form=form) for example in examples for form in ("answers", "rationales")]

    def lengths(self, examples: Sequence[Question]) -> np.ndarray:
        """(examples,) int64 tokens; the published code's count where the option `lengths` says so, for training."""
        if self.settings["lengths"] == "plain" or any(e.form in ("measured", "submission") for e in examples):
            few = range(0, len(examples), 1000)  # the texts of all questions at once would be gigabytes
            parts = [super(VCR, self).lengths(examples[first : first + 1000]) for first in few]
            return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        return np.array([self.published_length(e) + self._published_regions(e.image) for e in examples], dtype=np.int64)

    def published_length(self, example: Question) -> int:
        """Pieces of an example's texts as the published lists count them.

        Of answers: four times the question and the longest answer; of rationales and of stories: the longest rationale
        on top.
        """
        if example.stored_lengths is not None:
            return example.stored_lengths[example.form != "answers"]
        longest = lambda texts: max(map(self._count, texts))
        of_answers = CHOICES * (self._count(example.question) + longest(example.answers))
        return of_answers + (longest(example.rationales) if example.form != "answers" else 0)

    def _count(self, text: str | Pieces) -> int:
        assert self.processor is not None, "a task that counts pieces needs a processor"
        return self.processor.count(text) if isinstance(text, str) else len(text)

    def _published_regions(self, image: Image) -> int:
        annotated = 0 if self.settings["boxes"] == "detected" else ANNOTATED_COUNT
        return annotated + (0 if self.settings["boxes"] == "annotated" else self.num_regions(image[-1]))

    def stored_length(self, example: Question) -> int:
        """What is compared with `max_text` in training."""
        if self.settings["lengths"] == "published":
            return self.published_length(example)
        return super().stored_length(example)

    def home(self, image: str) -> tuple[Names | None, str]:
        """Annotated regions may be in a second store."""
        if image.startswith(SECOND):
            return self.annotated, image.removeprefix(SECOND)
        return self.regions, image

    def _holding(self, image: str) -> tuple[Names, str]:
        try:
            return super()._holding(image)
        except ValueError as error:
            if self.regions is None or not image.startswith("vcr_gt_"):
                raise
            raise ValueError(
                f"{error}, or give the store of annotated boxes by the option gt_regions, or do without: boxes=detected"
            ) from None

    def config(self) -> dict[str, Any]:
        """Four segment types, and a vocabulary that has words for people."""
        return vcr_config(self.vocabulary)

    def target(self, examples: Sequence[Question]) -> Tensor:
        """(rows,) 1 for the right answer, or the right rationale under it."""
        found = []
        for example in examples:
            answer, rationale = self._known(example)
            found += [int(a == answer and r in (None, rationale)) for a, r in self.rows(example)]
        return torch.tensor(found)

    def _known(self, example: Question) -> tuple[int, int]:
        if example.answer is None or example.rationale is None:
            raise ValueError(f"{self.data}: {example.annot_id} has no labels; use a split with public labels")
        return example.answer, example.rationale

    # ------------------------------------------------------------ what is worth drawing

    def picture_name(self, image: str) -> str:
        """Without what the published code puts before the names of regions."""
        name = image.removeprefix(SECOND)
        official = OFFICIAL.fullmatch(stem(name))
        return official[2] if official else name

    def panels(self, example: Question) -> list[Panel]:
        """One picture, whichever of its regions are shown."""
        return [Panel(example.image[-1], self.seen(example.image))]

    def view(self, model: UniterPreTrainedModel, example: Question, examples: Sequence[Question]) -> View:
        """The four answers and the four rationales under the true one, or under the best where nobody says."""
        known = example.answer is not None and example.rationale is not None
        view = super().view(model, replace(example, form="measured" if known else "submission"), examples)
        answers, rationales = (view.prediction[key] for key in ("answers", "rationales"))
        best = int(np.argmax(answers))
        under = best if example.answer is None else example.answer
        texts = lambda group: [readable(text, self.processor) for text in group]
        outcomes = [
            ("answer", in_order(texts(example.answers), answers, example.answer)),
            (
                f"rationale of answer {under + 1}",
                in_order(texts(example.rationales), rationales[under], example.rationale),
            ),
        ]
        asked = [(self.text_kind, readable(example.question, self.processor))]
        return replace(
            view,
            texts=asked,
            outcomes=outcomes,
            panels=[replace(view.panels[0], row=best, title=f"with answer {best + 1}")],
        )

    # ------------------------------------------------------------ predictions

    def decode(self, output: Any, examples: Sequence[Question], batch: Batch) -> list[dict[str, Any]]:
        """The score of each answer, and of each rationale under each answer; None under answers that were not shown."""
        scores = iter(output.logits[:, 1].tolist())
        found = []
        for example in examples:
            answers: list[float | None] = [None] * CHOICES
            rationales: list[list[float] | None] = [None] * CHOICES
            for answer, rationale in self.rows(example):
                if rationale is None:
                    answers[answer] = next(scores)
                else:
                    rationales[answer] = [*(rationales[answer] or []), next(scores)]
            found.append({"annot_id": example.annot_id, "answers": answers, "rationales": rationales})
        return found

    def to_measure(self, examples: Sequence[Question]) -> list[Question]:
        """Only the rationales under the true answer are asked for."""
        return [replace(example, form="measured") for example in examples]

    def score(self, predictions: Predictions, examples: Sequence[Question]) -> dict[str, float]:
        """The shares of right answers (Q->A), of right rationales under the true answer (QA->R), and of both (Q->AR).

        Raises:
            ValueError: a question has no prediction, or no public labels.
        """
        said = said_of([example.annot_id for example in examples], predictions, "annot_id", self.name, str)
        answered, reasoned = [], []
        for example, prediction in zip(examples, said, strict=True):
            answer, rationale = self._known(example)
            answers, rationales = _numbers(prediction)
            under = rationales[answer]
            if under is None:
                raise ValueError(
                    f"a prediction of vcr: {example.annot_id} has no scores of rationales under answer {answer}"
                )
            answered.append(int(np.argmax(answers)) == answer)
            reasoned.append(int(np.argmax(under)) == rationale)
        both = np.array(answered, dtype=bool) & np.array(reasoned, dtype=bool)
        named = {"Q->A": answered, "QA->R": reasoned, "Q->AR": both}
        return {k: v for name, right in named.items() for k, v in with_interval(name, 100.0 * np.array(right)).items()}

    def perfect(self, examples: Sequence[Question]) -> list[dict[str, Any]]:
        """1 for the true answer and the true rationale, 0 elsewhere."""
        found = []
        for example in examples:
            answer, rationale = self._known(example)
            answers, rationales = (np.eye(CHOICES)[label].tolist() for label in (answer, rationale))
            found.append({"annot_id": example.annot_id, "answers": answers, "rationales": [rationales] * CHOICES})
        return found

    def write(self, predictions: Predictions, path: str | Path, examples: Sequence[Question] | None = None) -> None:
        """The submission: CSV of 20 scores (raw logits) a question, sorted by the number in its id (published).

        Raises:
            ValueError: a prediction lacks scores.
        """
        lines = [",".join(HEADER)]
        for said in sorted(predictions, key=lambda said: _number(said["annot_id"])):
            answers, rationales = _numbers(said)
            if None in rationales:
                raise ValueError(f"a prediction of vcr: {said['annot_id']} lacks rationales under some of its answers")
            scores = [*answers, *(score for four in rationales for score in four or ())]
            lines.append(",".join([said["annot_id"], *map(repr, scores)]))
        write_text(path, "\n".join(lines) + "\n")

    def read(self, path: str | Path, examples: Sequence[Question] | None = None) -> list[dict[str, Any]]:
        """What `write` wrote."""
        path = Path(path)
        rows = read_csv(path)
        if not rows or rows[0] != HEADER:
            raise ValueError(f"{path}: not the {len(HEADER)} columns {', '.join(HEADER[:3])}, ...; give a submission")
        found = []
        for number, (annot_id, *fields) in enumerate(rows[1:], 2):
            try:
                scores = [float(value) for value in fields]
            except ValueError:
                scores = []
            if len(scores) != len(HEADER) - 1:
                raise ValueError(f"{path}, line {number}: not an id and {len(HEADER) - 1} numbers; write it again")
            rationales = [scores[first : first + CHOICES] for first in range(CHOICES, len(scores), CHOICES)]
            found.append({"annot_id": annot_id, "answers": scores[:CHOICES], "rationales": rationales})
        return found


def vcr_config(vocabulary: Vocabulary | None) -> dict[str, Any]:
    """What a model of VCR has: four segment types, and a vocabulary with words for people."""
    words = {} if vocabulary is None else {"vocab_size": len(vocabulary)}
    return {"type_vocab_size": RATIONALE_TYPE + 1, **words}


class _RegionNames:
    """What a picture's regions are called in the store or stores.

    Args:
        detected: store of the detected regions.
        annotated: store of the annotated ones; the same one, or a second.
        boxes: which of them are wanted, as the option.
    """

    def __init__(self, detected: Names | None, annotated: Names | None, boxes: str):
        self.boxes, self.second = boxes, annotated is not detected
        self._detected = by_stem(detected)
        self._annotated = by_stem(annotated) if self.second else self._detected

    def of(self, split: str, picture: str, file_name: str) -> tuple[str, ...]:
        """The names of a picture's annotated and detected regions.

        Args:
            split: as in the published names.
            picture: its file name without folder and ending.
            file_name: what a message names where nothing fits.
        """
        published, found = f"vcr_gt_{split}_{picture}", []
        if self.boxes != "detected":
            name = self._annotated.get(published)
            if name is None and (self.second or self.boxes == "annotated"):  # there are no others to mistake for them
                name = self._annotated.get(picture, file_name)
            found.append(f"{SECOND if self.second else ''}{name or published + '.npz'}")
        if self.boxes != "annotated":
            found.append(self._detected.get(f"vcr_{split}_{picture}") or self._detected.get(picture, file_name))
        return tuple(found)


def _four(record: Any, key: str, place: Path | str) -> list[Any]:
    found = field(record, key, place, list)
    if len(found) != CHOICES:
        raise ValueError(f"{place}: {len(found)} {key}, not {CHOICES}; download or write it again")
    return found


def _label(value: Any, place: str) -> int | None:
    """A label of 0 to 3, or None where there is none (absent, or the databases' -1)."""
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < CHOICES:
        raise ValueError(f"{place}: {value!r:.40} is not a number from 0 to {CHOICES - 1}; download or write it again")
    return value


def _sentence(tokens: Any, objects: Sequence[Any], place: Path) -> str:
    """Words joined by spaces; a reference to objects becomes `person_<number>` or the category's word (published).

    People beyond the vocabulary's are just "person".
    """
    words: list[Any] = []
    for token in tokens if isinstance(tokens, list) else [None]:
        known = isinstance(token, list) and all(isinstance(i, int) and 0 <= i < len(objects) for i in token)
        words += [_object(i, objects) for i in token] if known else [token]
    if not all(isinstance(word, str) for word in words):
        raise ValueError(
            f"{place}: {tokens!r:.80} is not a list of words and of lists of numbers of the {len(objects)} objects; "
            "download or write it again"
        )
    if not "".join(words).strip():
        raise ValueError(f"{place}: a text without words: {tokens!r:.80}; download or write it again")
    return " ".join(words)


def _object(number: int, objects: Sequence[Any]) -> Any:
    return PERSONS[number] if objects[number] == "person" and number < len(PERSONS) else objects[number]


def _numbers(said: Any) -> tuple[list[float], list[list[float] | None]]:
    """The scores in a prediction.

    Raises:
        ValueError: they are not numbers, or not four times four.
    """
    answers, rationales = (field(said, key, "a prediction of vcr", list) for key in ("answers", "rationales"))
    for four in (answers, *(row for row in rationales if row is not None)):
        scores = four if isinstance(four, list) else [None]
        if len(scores) != CHOICES or not all(isinstance(x, int | float) and np.isfinite(x) for x in scores):
            raise ValueError(f"a prediction of vcr: {four!r:.80} are not {CHOICES} numbers; predict again")
    if len(rationales) != CHOICES:
        raise ValueError(f"a prediction of vcr: rationales under {len(rationales)} answers, not {CHOICES}")
    return answers, rationales


def _number(annot_id: str) -> tuple[int, str]:
    """The number in an id such as val-12, to sort by."""
    number = annot_id.split("-")[1] if "-" in annot_id else ""
    return (int(number) if number.isdecimal() else -1, annot_id)
