"""One's own labels: a file of image, text and label, learnt as visual entailment is."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from uniter.tasks.classification import Classification, Labelled
from uniter.tasks.own_file import Line, OwnFile, as_text


class OwnLabels(OwnFile, Classification):
    """The label of a text and an image (docs/your_data.md); the labels are those of the split `train`, or the model's.

    A prediction is the number of its line and a label. Option:

        file: name of the file in the folder; the only one if left out.
    """

    name = "own_labels"
    column = "label"
    key = "line"
    options = MappingProxyType({"file": ""})

    _known: Sequence[str] | None = None

    def known_labels(self) -> Sequence[str]:
        """The labels of the split `train`, in the order of the alphabet; none where the file has no such split."""
        if self._known is None:
            self._known = self._of_training(self.lines())
        return self._known

    def _of_training(self, lines: Sequence[Line]) -> list[str]:
        return sorted({self._label(line) for line in lines if line.split == "train" and line.said is not None})

    def _label(self, line: Line) -> str:
        label = as_text(line.said)
        if label is None:
            raise self.wrong(line.number, f"label {line.said!r:.40} is no text: write one label's name")
        return label

    def examples(self, split: str) -> list[Labelled]:
        """The lines of a split ("all" for every line).

        Raises:
            ValueError: the file is missing or wrong, or a label is not among those of the split `train`.
        """
        lines, known = self.chosen(split), self._of_training(self.lines())
        found = []
        for line in lines:
            label = None if line.said is None else self._label(line)
            if label is not None and known and label not in known:
                raise self.wrong(
                    line.number,
                    f"label {label!r:.40} is none of those in split train ({', '.join(known):.80}): correct it, or put "
                    "lines with it into train",
                )
            found.append(Labelled(line.number, line.text, line.image, label))
        return found

    def config(self) -> dict[str, Any]:
        """As many labels, by name.

        Raises:
            ValueError: nobody says any.
        """
        if not self.labels:
            raise ValueError(f"{self.path}: no line of split train has a `label` to learn; give these lines one")
        return super().config()
