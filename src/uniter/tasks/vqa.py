"""VQA v2: open questions about pictures, answers from a vocabulary. Paper section 4; official evaluation rules."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniter.modeling_uniter import UniterForAnswers, UniterPreTrainedModel
from uniter.processing_uniter import Pair
from uniter.tasks.base import Batch, Task, field, images_by_id, read_json, with_interval

SOFT = (0.0, 0.3, 0.6, 0.9, 1.0)  # score of an answer that 0, 1, 2, 3, 4 or more of ten people gave (published)
NUMBERS = "none zero one two three four five six seven eight nine ten".split()
NUMBER_OF = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS[1:])}}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
CONTRACTIONS = {
    word.replace("'", ""): word
    for word in (
        "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's I'd I'm "
        "I've isn't it'd it'll might've mightn't must've mustn't needn't o'clock oughtn't shan't she'd she's should've shouldn't "
        "somebody'd someone'd something's that'd that's there'd there're there's they'd they'll they're they've wasn't we'd we've "
        "weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've why'd why'll why's won't "
        "would've wouldn't y'all you'd you'll you're you've"
    ).split()
    if word.replace("'", "").lower() not in ("id", "ill", "its", "were", "well", "shell", "hell", "wont", "cant")
    or word in ("can't", "won't")
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question: its text, its image's name, its ten normalised answers (none on test) and the kind of its answer."""

    question_id: int
    text: str
    image: str
    answers: tuple[str, ...] = ()
    kind: str = ""


def normalise(answer: str) -> str:
    """An answer as the official evaluation compares it: lower case, no articles, digits for numbers, apostrophes back in."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    spaced = re.search(r"\d,\d", text) is not None
    for mark in PUNCTUATION:
        if f"{mark} " in text or f" {mark}" in text or spaced:
            text = text.replace(mark, "")
        else:
            text = text.replace(mark, " ")
    text = re.sub(r"(?<!\d)\.(?!\d)", "", text)
    words = [NUMBER_OF.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


class VQA(Task):
    """Answers to questions, scored softly against ten people's answers.

    Target: for each answer of the vocabulary 0, 0.3, 0.6, 0.9 or 1 by how many of ten gave it (published). Options:

        least: how often an answer has to be a question's majority answer to enter the vocabulary (published: 9).
        answers: the vocabulary itself; built from the training annotations if left out.
    """

    name = "vqa"
    model = UniterForAnswers
    monitor = "accuracy"
    options = {"least": 9, "answers": None}  # noqa: RUF012

    def examples(self, split: str) -> list[Question]:
        """The questions of a split (train, val, test, ... as in the files' names) in the file's order."""
        questions_path = self.file(
            f"v2_OpenEnded_*_{split}_questions.json", f"v2_OpenEnded_*_{split}20*_questions.json"
        )
        content = read_json(questions_path, dict)
        asked = field(content, "questions", questions_path)
        annotations = self._annotations(split)
        subset = str(content.get("data_subtype", ""))
        names = images_by_id(list(self.regions), subset) if self.regions is not None else {}
        found = []
        for record in asked:
            number = field(record, "question_id", questions_path)
            image_id = field(record, "image_id", questions_path)
            answered = annotations.get(number, {})
            found.append(
                Question(
                    question_id=number,
                    text=field(record, "question", questions_path),
                    image=names.get(image_id, f"COCO_{subset}_{image_id:012d}.jpg"),
                    answers=tuple(normalise(a["answer"]) for a in answered.get("answers", [])),
                    kind=answered.get("answer_type", ""),
                )
            )
        if not found:
            raise ValueError(f"{questions_path}: no questions")
        return found

    def _annotations(self, split: str) -> dict[int, dict[str, Any]]:
        try:
            path = self.file(f"v2_*_{split}_annotations.json", f"v2_*_{split}20*_annotations.json")
        except ValueError:
            return {}  # test questions have no public answers
        return {field(a, "question_id", path): a for a in field(read_json(path, dict), "annotations", path)}

    @property
    def answers(self) -> list[str]:
        """The answer vocabulary: majority answers of the training questions that occur often enough, most frequent first."""
        if self.settings["answers"] is None:
            training = self._annotations("train")
            if not training:
                raise ValueError(
                    f"{self.data}: no training annotations to build the answer vocabulary from; give the option `answers`"
                )
            majority = Counter(normalise(a["multiple_choice_answer"]) for a in training.values())
            often = [answer for answer, count in majority.items() if count >= self.settings["least"]]
            self.settings["answers"] = sorted(often, key=lambda answer: (-majority[answer], answer))
        return self.settings["answers"]

    def config(self) -> dict[str, Any]:
        """As many labels as answers, by name, so that a checkpoint can answer alone."""
        names = dict(enumerate(self.answers))
        return {"num_labels": len(names), "id2label": names, "label2id": {answer: i for i, answer in names.items()}}

    def adopt(self, model: UniterPreTrainedModel) -> None:
        """The answers that the model was trained with."""
        labels = model.config.id2label or {}
        if labels and not str(labels.get(0, labels.get("0", ""))).startswith("LABEL_"):
            self.settings["answers"] = [labels[i] if i in labels else labels[str(i)] for i in range(len(labels))]

    def pairs(self, example: Question) -> list[Pair]:
        """The question and its image's regions."""
        return [Pair(example.text, self.seen(example.image))]

    def target(self, examples: Sequence[Question]) -> Tensor:
        """(examples, answers) soft scores."""
        number = {answer: i for i, answer in enumerate(self.answers)}
        target = torch.zeros(len(examples), len(number))
        for row, example in zip(target, examples, strict=True):
            for answer, count in Counter(example.answers).items():
                if answer in number:
                    row[number[answer]] = SOFT[min(count, 4)]
        return target

    def decode(self, output: Any, examples: Sequence[Question], batch: Batch) -> list[dict[str, Any]]:
        """The highest answer of each question."""
        best = output.logits.argmax(1).tolist()
        return [{"question_id": e.question_id, "answer": self.answers[i]} for e, i in zip(examples, best, strict=True)]

    def score(self, predictions: Sequence[dict[str, Any]], examples: Sequence[Question]) -> dict[str, float]:
        """Official accuracy with its 95% interval, and by the kind of answer.

        Of one question: the mean over the ten ways of leaving one person out of min(1, people who agree / 3).
        """
        said = {prediction["question_id"]: normalise(prediction["answer"]) for prediction in predictions}
        scores: dict[str, list[float]] = {"all": []}
        for example in examples:
            if not example.answers:
                raise ValueError(
                    f"question {example.question_id} has no annotated answers: this split can only be scored by its server"
                )
            if example.question_id not in said:
                raise ValueError(f"question {example.question_id} has no prediction: predict the whole split")
            value = 100.0 * soft_accuracy(said[example.question_id], example.answers)
            scores["all"].append(value)
            scores.setdefault(example.kind, []).append(value)
        found = with_interval("accuracy", scores.pop("all"))
        found.update({f"accuracy {kind}": float(np.mean(values)) for kind, values in sorted(scores.items()) if kind})
        return found

    def perfect(self, examples: Sequence[Question]) -> list[dict[str, Any]]:
        """Each question's most frequent answer."""
        return [{"question_id": e.question_id, "answer": Counter(e.answers).most_common(1)[0][0]} for e in examples]


def soft_accuracy(answer: str, people: Sequence[str]) -> float:
    """The official accuracy of an answer against what people said, between 0 and 1."""
    agree = [person == answer for person in people]
    total = sum(agree)
    return float(np.mean([min(1.0, (total - one) / 3) for one in agree]))
