"""One's own data in one file: a line for each text about an image, maybe with its label, answer or box."""

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from uniter.tasks.base import Task
from uniter.tasks.reading import IMAGE_ENDING, Names, numbered_json_lines, stem

TASK_OF = {"label": "own_labels", "answer": "own_answers", "box": "own_boxes"}  # column -> the task that learns it
COLUMNS = ("image", "text", *TASK_OF, "split")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
SPOKEN = {",": "commas", "\t": "tabs", ";": "semicolons"}
ALL = "all"  # the split that every line is in


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file.

    Args:
        number: where it stands, from 1.
        image: as the file calls it.
        text: its words.
        split: "train" where the file has none.
        said: its label, answer or box as it stands there; None where it has none.
    """

    number: int
    image: str
    text: str
    split: str
    said: Any = None


class OwnFile(Task):
    """What the tasks on one's own data share: their file. Each derives from this and from a task that it reads for.

    The file is the `data`, or the only `*.jsonl`, `*.csv` or `*.tsv` in that folder, or the one that the option `file`
    names. Whatever is wrong with it is a `ValueError` that names file, line and mend.
    """

    column: ClassVar[str] = ""  # what the task learns; "" for nothing but image and text

    def __init__(self, data: str | Path, *args: Any, **options: Any):
        data = Path(data)
        if data.is_file():
            data, options = data.parent, {"file": data.name, **options}
        super().__init__(data, *args, **options)

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            ValueError: there is none, or several and the option `file` says nothing, or it is of another kind.
        """
        if self.settings["file"]:
            found = [self.file(self.settings["file"])]
        else:
            kinds = (".jsonl", *SEPARATORS)
            found = sorted(path for path in self.data.iterdir() if path.suffix.lower() in kinds)
        if not found:
            raise ValueError(f"{self.data}: no .jsonl, .csv or .tsv file is there; put yours into this folder")
        if len(found) > 1:
            several = ", ".join(path.name for path in found)
            raise ValueError(f"{self.data}: {several} are all there; say which by the option `file`")
        return found[0]

    def wrong(self, number: int, message: str) -> ValueError:
        """The error for a line."""
        return ValueError(f"{self.path}, line {number}: {message}")

    def lines(self) -> list[Line]:
        """All lines of the file, in order; images are not looked for."""
        path, found = self.path, []
        kind, has_split = self.column, None
        for number, record in _records(path):
            for key in ("image", "text"):
                if not isinstance(record.get(key), str) or not record[key].strip():
                    raise self.wrong(number, f"no `{key}`: give each line the name of an image and a text about it")
            said = {key: record[key] for key in TASK_OF if record.get(key) not in (None, "")}
            if len(said) > 1:
                raise self.wrong(number, f"both {' and '.join(said)}: a file is of one kind, make two files of it")
            if strange := said.keys() - {kind}:
                (other,) = strange
                raise self.wrong(
                    number,
                    f"a {other}, where task {self.name} wants {kind or 'image and text only'}: such files are for "
                    f"{TASK_OF[other]}; of lines of both kinds make two files",
                )
            split = record.get("split")
            if split in (None, ""):
                split = None
            elif not isinstance(split, str):
                raise self.wrong(number, f"split {split!r:.40} is no text: write train, val or test")
            if has_split not in (None, split is not None):
                raise self.wrong(number, "some lines have a `split` and some have none: give every line one, or none")
            has_split = split is not None
            found.append(Line(number, record["image"].strip(), record["text"], split or "train", said.get(kind)))
        if not found:
            raise ValueError(f"{path}: no lines; give each an image and a text")
        return found

    def chosen(self, split: str) -> list[Line]:
        """The lines of a split ("all" for every line), their images called as the regions call them.

        Raises:
            ValueError: the split is not there, some of its lines have what is learnt and some have not, or an image has
                no regions.
        """
        lines = self.lines()
        chosen = [line for line in lines if split in (line.split, ALL)]
        if not chosen:
            raise ValueError(
                f"{self.path}: nothing in split {split!r}; it has {', '.join(sorted({line.split for line in lines}))}: "
                f"give the lines a `split`, ask for {ALL!r}, or for no validation by validation_split=null"
            )
        with_it = next((line for line in chosen if line.said is not None), None)
        without = next((line for line in chosen if line.said is None), None)
        if with_it and without:
            raise self.wrong(
                without.number,
                f"no {self.column}, though line {with_it.number} of the same split has one: give all of a split one",
            )
        name_of = _finder(self.regions)
        return [Line(line.number, name_of(line, self.wrong), line.text, line.split, line.said) for line in chosen]


def as_text(value: Any) -> str | None:
    """A label or an answer as text: numbers and yes or no may stand as such in JSON; None: it is something else."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return value.strip() if isinstance(value, str) and value.strip() else None


def _finder(stored: Names | None) -> Callable[[Line, Callable[[int, str], ValueError]], str]:
    """What finds the stored image that a line means: by its name, or by the end of it, with or without its ending."""
    by_stem: dict[str, list[str]] = {}
    for name in stored or ():
        by_stem.setdefault(stem(name), []).append(name)

    def name_of(line: Line, wrong: Callable[[int, str], ValueError]) -> str:
        if stored is None or line.image in stored:
            return line.image
        bare = f"/{IMAGE_ENDING.sub('', line.image)}"
        found = [n for n in by_stem.get(stem(line.image), []) if f"/{IMAGE_ENDING.sub('', n)}".endswith(bare)]
        if len(found) > 1:
            raise wrong(line.number, f"image {line.image!r} may be {found[0]} or {found[1]}: write its folder too")
        if not found:
            near = difflib.get_close_matches(stem(line.image), list(by_stem)[:20_000], n=1)
            hint = f"; did you mean {by_stem[near[0]][0]}?" if near else ""
            raise wrong(
                line.number,
                f"no image {line.image!r} among the {len(stored)} with regions{hint}: extract its regions, or correct "
                "the name",
            )
        return found[0]

    return name_of


# ---------------------------------------------------------------- what stands in the file


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each line's number and what it says by column."""
    if path.suffix.lower() == ".jsonl":
        for number, record in numbered_json_lines(path):
            if not isinstance(record, dict):
                raise ValueError(
                    f'{path}, line {number}: a {type(record).__name__}: write {{"image": ..., "text": ...}} in each'
                )
            _check_columns(record, f"{path}, line {number}")
            yield number, record
    elif path.suffix.lower() in SEPARATORS:
        yield from _rows(path, SEPARATORS[path.suffix.lower()])
    else:
        raise ValueError(f"{path}: neither .jsonl, .csv nor .tsv; name it as what it is")


def _rows(path: Path, separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before the first line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as CSV in UTF-8") from None
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    number = 1
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                pass
            elif not header:
                header = [name.strip().lower() for name in row]
                _check_header(header, separator, f"{path}, line {number}")
            elif len(row) != len(header):
                raise ValueError(
                    f"{path}, line {number}: {len(row)} columns, the first line names {len(header)}: put texts with "
                    f"{SPOKEN[separator]} into double quotes"
                )
            else:
                yield number, dict(zip(header, row, strict=True))
            number = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {number}: not {path.suffix[1:].upper()} ({error}); write it again") from None


def _check_header(header: list[str], separator: str, place: str) -> None:
    for other in SPOKEN:
        if other != separator and len(header) == 1 and other in header[0]:
            right = "name the file .tsv" if other == "\t" else "name it .csv" if other == "," else "save it with commas"
            raise ValueError(f"{place}: columns are parted by {SPOKEN[other]}, not by {SPOKEN[separator]}: {right}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"{place}: column {twice[0]!r:.40} is there twice: leave one out")
    _check_columns(header, place)
    if missing := [key for key in ("image", "text") if key not in header]:
        raise ValueError(
            f"{place}: no column `{missing[0]}` among {', '.join(header):.80}: the first line names columns, image, "
            "text, and maybe label, answer or box, and split"
        )


def _check_columns(names: Any, place: str) -> None:
    """Refuse a column that nobody reads and that is called nearly like one that is not there."""
    absent = [column for column in COLUMNS if column not in names]
    for name in names:
        near = [] if name in COLUMNS else difflib.get_close_matches(str(name).lower(), absent, n=1, cutoff=0.75)
        if near:
            raise ValueError(f"{place}: column {name!r:.40}: did you mean {near[0]}? rename or remove it")
