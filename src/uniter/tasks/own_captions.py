"""One's own captions: a file of image and text, learnt and measured as retrieval is."""

from types import MappingProxyType

from uniter.tasks.own_file import OwnFile
from uniter.tasks.retrieval import Caption, Retrieval


class OwnCaptions(OwnFile, Retrieval):
    """Text finds image and image finds text (docs/your_data.md). Options are those of retrieval, but for:

    file: name of the file in the folder; the only one if left out.
    """

    name = "own_captions"
    options = MappingProxyType(
        {"file": ""} | {key: value for key, value in Retrieval.options.items() if key != "captions"}
    )

    def captions(self, split: str) -> list[Caption]:
        """The lines of a split ("all" for every line).

        Raises:
            ValueError: the file is missing or wrong.
        """
        lines = self.chosen(split)
        numbers = {image: i for i, image in enumerate(dict.fromkeys(line.image for line in lines))}
        return [Caption(line.text, line.image, line.number, numbers[line.image]) for line in lines]
