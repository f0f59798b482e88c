"""Drawing what a model says of a task's examples: a page, and a picture of each example."""

import difflib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from uniter.alignment import By, chosen_layers, inner_words, word_region_maps
from uniter.drawing import (
    COLOURS,
    RIGHT,
    TRUE,
    WRONG,
    Mark,
    WordMap,
    above_even_share,
    bars,
    beside,
    escape,
    page,
    picture,
    picture_row,
    word_map,
)
from uniter.figures import Picture, Sheet, strongest_columns, write_png
from uniter.files import write_text
from uniter.modeling_uniter import UniterPreTrainedModel
from uniter.regions import Regions
from uniter.regions.extract import list_pictures
from uniter.regions.pictures import open_picture
from uniter.tasks.base import Task
from uniter.tasks.reading import by_stem, name_finder, stem
from uniter.tasks.refcoco import overlaps
from uniter.tasks.views import Panel, View, region_names
from uniter.training.saving import write_folder

LABELLED = 10  # regions with a number on the picture; the others stand faint behind
MOST_COLUMNS = 40  # regions of a map on the page
CANVAS = 640  # longest side of the empty canvas where a picture's size is not known
STYLE = "main { max-width: 1280px; }"
BLANK = (233, 236, 242)


@dataclass(frozen=True)
class Drawing:
    """What to draw, and where.

    Args:
        folder: new, or empty.
        images: folder of the pictures; None: boxes on an empty canvas.
        count: so many examples, evenly spread over the split.
        ids: instead, the examples of these ids.
        layers: whose attention is drawn, from 1; None: all.
    """

    folder: Path
    images: Path | None = None
    count: int = 12
    ids: Sequence[str] = ()
    layers: Sequence[int] | None = None

    def check(self) -> None:
        """Refuse a folder that holds something, before any work.

        Raises:
            ValueError: it does, or is no folder.
        """
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ValueError(f"{self.folder} exists already: remove it or draw into another folder")


def draw_examples(
    task: Task,
    model: UniterPreTrainedModel,
    split: str,
    examples: Sequence[Any],
    drawing: Drawing,
    progress: bool = False,
) -> Path:
    """Draw examples of a task with what a model says of them: `index.html` and a PNG file of each, all or none.

    Args:
        task: with regions and a processor.
        model: with the task's head.
        split: what the examples are called together.
        examples: all of the split.
        drawing: what to draw, and where.
        progress: show a progress bar.

    Returns:
        The page.

    Raises:
        ValueError: the folder holds something, there is no such example or layer, a picture is missing.
    """
    drawing.check()
    chosen_layers(drawing.layers, model.config.num_hidden_layers)
    chosen = choose(task, split, examples, drawing)
    pictures = _Pictures(task, drawing.images)
    task.adopt(model)
    task.fit_into(model)
    for number in chosen:
        for panel in task.panels(examples[number]):
            pictures.path(panel.image)  # a missing one is said now, not after an hour's work

    def write(folder: Path) -> None:
        parts = []
        for number in tqdm(chosen, desc="drawing", unit="example", disable=not progress):
            name = task.example_id(examples[number], number)
            view = task.view(model, examples[number], examples)
            sheet = _sheet(task, model, f"{task.name} · {name}", view, pictures, drawing.layers)
            file = f"{number:06d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:60]}.png"
            write_png(sheet, folder / file)
            parts.append((sheet.title, "", _article(sheet, file)))
        layers = "all layers" if drawing.layers is None else f"layers {', '.join(map(str, drawing.layers))}"
        lead = (
            f"{len(chosen)} of {len(examples)} examples of {split}. A tick marks what is right. The maps say which word goes with which "
            "region: by the transport plan of the last layer (what pre-training with word-region alignment trains, and fine-tuning does not), "
            "how much more than its even share a region gets of a word; by attention, "
            f"how much of a word's attention a region gets (mean over heads and {layers}). Point at a word, or go to it by the keyboard, "
            "to light its regions up."
        )
        write_text(folder / "index.html", page(f"What the model says: {task.name}, {split}", lead, parts, STYLE))

    def write_or_nothing(folder: Path) -> None:
        try:
            write(folder)
        except BaseException:  # nobody goes on with half a page, as a run does with its checkpoints
            shutil.rmtree(folder, ignore_errors=True)
            raise

    write_folder(drawing.folder, write_or_nothing)
    return drawing.folder / "index.html"


def choose(task: Task, split: str, examples: Sequence[Any], drawing: Drawing) -> list[int]:
    """The places of the examples to draw, from 0.

    Raises:
        ValueError: an id is that of no example.
    """
    if not drawing.ids:
        count = min(drawing.count, len(examples))
        return [int(place) for place in np.linspace(0, len(examples) - 1, count).round()] if count else []
    places: dict[str, int] = {}
    for number, example in enumerate(examples):
        places.setdefault(task.example_id(example, number), number)
    for name in drawing.ids:
        if name not in places:
            near = difflib.get_close_matches(name, list(places)[:20_000], n=1)
            hint = f"did you mean {near[0]}?" if near else f"they are called {', '.join(list(places)[:3])}, ..."
            raise ValueError(f"{task.name} has no example {name!r} in split {split}; {hint}")
    return list(dict.fromkeys(places[name] for name in drawing.ids))


class _Pictures:
    """A task's pictures: pixels from a folder, or an empty canvas of the picture's size."""

    def __init__(self, task: Task, folder: Path | None):
        self.task, self.folder = task, folder
        if folder is not None and not folder.is_dir():
            raise ValueError(f"there is no folder of pictures {folder}: check the path, or leave --images out")
        self._files: Any = {} if folder is None else dict(list_pictures(folder))
        self._by_stem, self._by_number = by_stem(self._files), name_finder(self._files)

    def path(self, image: str) -> Path | None:
        """The file of an image: of the same name, or the same but for folder and ending, or with its number at the end.

        Raises:
            ValueError: there is none.
        """
        if self.folder is None:
            return None
        name = self.task.picture_name(image)
        for known in (image, name, self._by_stem.get(stem(name)), self._by_number(name)):
            if known in self._files:
                return self._files[known]
        raise ValueError(
            f"{self.folder}: no picture {name!r} among {len(self._files)} files; put it there, or leave --images out to draw "
            "boxes alone"
        )

    def open(self, image: str, regions: Regions | None = None) -> Image.Image:
        """The picture, or a canvas."""
        path = self.path(image)
        if path is not None:
            return open_picture(path)
        if regions is None:
            regions = self.task.seen(image)
        width, height = (4, 3) if (regions.width, regions.height) == (1, 1) else (regions.width, regions.height)
        scale = CANVAS / max(width, height)
        return Image.new("RGB", (max(1, round(width * scale)), max(1, round(height * scale))), BLANK)


# ---------------------------------------------------------------- a view as a sheet


def _sheet(
    task: Task, model: UniterPreTrainedModel, title: str, view: View, pictures: _Pictures, layers: Sequence[int] | None
) -> Sheet:
    """What is drawn of a view: pixels, marks and maps."""
    assert task.processor is not None, "a task that draws needs a processor"
    inner = inner_words(view.batch, task.processor.vocabulary)
    plans = {
        by: word_region_maps(model, view.batch, inner, by, layers if by == "attention" else None).plans for by in _WAYS
    }
    drawn = []
    for panel in view.panels:
        ids = view.batch["input_ids"][panel.row][inner[panel.row]].tolist()
        words = task.processor.words(ids)
        own = slice(panel.first, panel.first + len(panel.regions))
        names = region_names(panel.regions, task.class_names)
        maps = []
        for by, (called, say) in _WAYS.items():
            plan = plans[by][panel.row]
            values = (above_even_share(plan) if by == "transport" else plan)[:, own]
            least = 0.3 if by == "transport" else 0.0
            whole = WordMap(called, words, range(len(panel.regions)), values, say, least)
            maps.append(strongest_columns(whole, MOST_COLUMNS))
        image = pictures.open(panel.image, panel.regions)
        shown = pictures.task.picture_name(panel.image)
        about = f"{panel.title}: {shown}" if panel.title else shown
        alt = f"{shown} with {len(panel.regions)} regions, the strongest {', '.join(names[i] for i in _strongest(maps[0]))}"
        drawn.append(Picture(image, _marks(panel, image, names, _strongest(maps[0])), about, alt, maps, names))
    found = [
        (pictures.open(one.image), f"{one.title}\n{one.image}", one.true, f"found: {one.image}, score {one.title}")
        for one in view.found
    ]
    outcomes = view.outcomes or [(f"prediction: {view.prediction}", ())]
    return Sheet(title, view.texts, outcomes, drawn, found)


_WAYS: dict[By, tuple[str, str]] = {
    "transport": ("by transport", "# times above its even share"),
    "attention": ("by attention", "# of the word's attention"),
}


def _strongest(shown: WordMap) -> list[int]:
    """The regions that get the most of some word, in the order of their numbers."""
    return list(strongest_columns(shown, LABELLED).columns)


def _marks(panel: Panel, image: Image.Image, names: Sequence[str], strongest: Sequence[int]) -> list[Mark]:
    """All regions, faint but for the strongest, which have their numbers; above them the chosen one and the true box."""
    scale = np.array([image.width / panel.regions.width, image.height / panel.regions.height] * 2)
    marks = []
    for i in sorted(range(len(panel.regions)), key=lambda i: i in strongest):
        if i != panel.chosen:
            known = i in strongest
            label = str(i + 1) if known else ""
            marks.append(
                Mark(
                    panel.regions.boxes[i] * scale,
                    COLOURS[i % len(COLOURS)],
                    names[i],
                    label,
                    region=i,
                    faint=not known,
                )
            )
    if (i := panel.chosen) is not None:
        right = panel.true_box is None or overlaps(panel.regions.boxes[i : i + 1], panel.true_box)[0] > 0.5
        colour = RIGHT if right else WRONG
        marks.append(Mark(panel.regions.boxes[i] * scale, colour, f"chosen: {names[i]}", f"{i + 1} chosen", region=i))
    if panel.true_box is not None:
        marks.append(Mark((np.array(panel.true_box) * scale).tolist(), TRUE, "the true box", dashed=True))
    return marks


def _article(sheet: Sheet, file: str) -> str:
    """A sheet as HTML."""
    texts = "".join(
        f'<p><span class="quiet">{escape(kind)}:</span> <strong>{escape(text)}</strong></p>'
        for kind, text in sheet.texts
    )
    said = "".join(f"<h3>{escape(kind)}</h3>{bars(rows)}" for kind, rows in sheet.outcomes)
    blocks = []
    for number, shown in enumerate(sheet.pictures):
        drawn = f"<figure>{picture(shown.image, shown.marks, shown.alt, longest=480)}<figcaption>{escape(shown.title)}</figcaption></figure>"
        heads = [[str(column + 1) for column in one.columns] for one in shown.maps]
        names = [[shown.names[column] for column in one.columns] for one in shown.maps]
        maps = [word_map(*one) for one in zip(shown.maps, heads, names, strict=True)]
        blocks.append(beside(drawn + (said if number == 0 else ""), maps))
    found = f"<h3>found, best first</h3>{picture_row(sheet.found)}" if sheet.found else ""
    return f'{texts}{"".join(blocks)}{found}<p class="quiet"><a href="{escape(file)}">as one picture</a></p>'
