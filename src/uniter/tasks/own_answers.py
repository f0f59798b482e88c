"""One's own questions: a file of image, text and answer, learnt and scored as VQA is."""

from collections import Counter
from types import MappingProxyType

from uniter.tasks.own_file import Line, OwnFile, as_text
from uniter.tasks.vqa import VQA, Answered, Question, normalise

PEOPLE = 10  # VQA asks so many; one answer stands for all of them


class OwnAnswers(OwnFile, VQA):
    """Answers to questions about images (docs/your_data.md): one answer a line, or in JSON a list of ten people's.

    A prediction is the number of its line and an answer. Options:

        file: name of the file in the folder; the only one if left out.
        least: how often an answer has to be given in the split `train` to be learnt.
        answers_from: splits whose answers are learnt, joined by "+".
        answers: the answers themselves, as in VQA.
    """

    name = "own_answers"
    column = "answer"
    options = MappingProxyType({"file": "", "least": 1, "answers_from": "train", "answers": None})

    def examples(self, split: str) -> list[Question]:
        """The questions of a split ("all" for every line).

        Raises:
            ValueError: the file is missing or wrong.
        """
        return [Question(line.number, line.text, line.image, self._people(line)) for line in self.chosen(split)]

    def _people(self, line: Line) -> tuple[str, ...]:
        """What ten people answered, normalised as the answers learnt are; nothing where nobody says."""
        if line.said is None:
            return ()
        said = line.said if isinstance(line.said, list) else [line.said] * PEOPLE
        answers = tuple(answer for answer in map(as_text, said) if answer is not None)
        if len(answers) != PEOPLE or len(said) != PEOPLE:
            raise self.wrong(
                line.number, f"answer {line.said!r:.60} is neither a text nor a list of {PEOPLE}: write one"
            )
        if not any(people := tuple(map(normalise, answers))):
            raise self.wrong(
                line.number,
                f"answer {line.said!r:.60} is nothing by the rules of VQA, where articles do not count: write another, "
                "or learn it as a `label`",
            )
        return people

    def _numbered_answers(self) -> list[str]:
        return []

    def _annotations(self, split: str) -> dict[int, Answered]:
        said = {line.number: self._people(line) for line in self.lines() if line.split == split}
        return {
            number: Answered(Counter(people).most_common(1)[0][0], people, "")
            for number, people in said.items()
            if people
        }
