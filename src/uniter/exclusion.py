"""Pictures that must not be learnt from, since benchmarks measure on them: by the benchmarks' own files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from uniter.files import read_json
from uniter.tasks.pictures import Numbers, coco_number, flickr_number, leading_number
from uniter.tasks.reading import field, json_lines
from uniter.tasks.refcoco import read_pickle
from uniter.tasks.snli_ve import picture_of

LEARNT_FROM = {"train", "restval"}  # splits that nobody measures on


class Excluded(NamedTuple):
    """A benchmark's file, and the splits of it whose pictures are left out, joined by "+"; None: the usual ones."""

    file: Path
    splits: str | None = None


@dataclass(frozen=True)
class Rule:
    """The photographs that a file excludes, by their numbers in COCO and at Flickr."""

    file: Path
    coco: frozenset[int]
    flickr: frozenset[int]

    @classmethod
    def read(cls, excluded: Excluded, addresses: Mapping[int, int]) -> "Rule":
        """The rule of a file.

        `refs(*).p` excludes its pictures but those of split train, Karpathy's `dataset_coco.json` all but train and
        restval, his `dataset_flickr30k.json` and `dataset_flickr8k.json` all (published: for zero-shot retrieval), and
        `v2_OpenEnded_*_questions.json` and `snli_ve_*.jsonl` all that they name.

        Args:
            excluded: the file, and which of its splits.
            addresses: COCO's number -> number at Flickr.

        Raises:
            ValueError: the file is missing or foreign, or has no such split.
        """
        found = _numbers(excluded.file)
        if excluded.splits is not None:
            wanted, known = set(excluded.splits.split("+")), {part for part, _ in found}
            if strange := sorted(wanted - {part for part in known if part is not None}):
                parts = ", ".join(sorted(part for part in known if part)) or "none"
                raise ValueError(f"{excluded.file}: nothing in split {strange[0]!r}; it has {parts}")
            chosen = [numbers for part, numbers in found if part in wanted]
        else:
            of_flickr = all(numbers.coco is None for _, numbers in found)
            chosen = [numbers for part, numbers in found if of_flickr or part not in LEARNT_FROM]
        coco = frozenset(numbers.coco for numbers in chosen if numbers.coco is not None)
        flickr = {numbers.flickr for numbers in chosen if numbers.flickr is not None}
        if not coco and not flickr:
            raise ValueError(f"{excluded.file}: names no picture to leave out; is it the right file?")
        return cls(excluded.file, coco, frozenset(flickr | {addresses[number] for number in coco & addresses.keys()}))

    def fits(self, numbers: Numbers) -> bool:
        """Whether a photograph is left out."""
        return numbers.coco in self.coco or numbers.flickr in self.flickr

    @property
    def kinds(self) -> str:
        """Which numbers it has, for messages."""
        return " and ".join(["COCO"] * bool(self.coco) + ["Flickr"] * bool(self.flickr)) + " numbers"


def _numbers(path: Path) -> list[tuple[str | None, Numbers]]:
    """Split (None: there are none) and numbers of each picture that a benchmark's file names."""
    if path.suffix == ".p":
        refs = read_pickle(path)
        if not isinstance(refs, list):
            raise ValueError(
                f"{path}: expected a list of references, got a {type(refs).__name__}; is it a refs(...).p?"
            )
        return [(field(ref, "split", path, str), Numbers(field(ref, "image_id", path, int))) for ref in refs]
    if path.suffix == ".jsonl":
        if not path.is_file():
            raise ValueError(f"{path}: no such file; give a benchmark's, or take it off `exclude`")
        return [(None, Numbers(flickr=leading_number(picture_of(record, path)))) for record in json_lines(path)]
    content = read_json(path, dict, "give a benchmark's file, or take it off `exclude`")
    if "questions" in content:
        records = field(content, "questions", path, list)
        return [(None, Numbers(field(record, "image_id", path, int))) for record in records]
    if "images" not in content or "annotations" in content:
        raise ValueError(
            f"{path}: not a benchmark's file of a known layout: give refs(...).p, Karpathy's dataset_*.json, "
            "v2_OpenEnded_*_questions.json or snli_ve_*.jsonl"
        )
    found = []
    for image in field(content, "images", path, list):
        split, coco = field(image, "split", path, str), coco_number(image)
        name = field(image, "filename", path, str)
        found.append((split, Numbers(coco, leading_number(name) if coco is None else None)))
    return found


def addresses_in(path: Path) -> dict[int, int]:
    """COCO's number -> number at Flickr, as a file of COCO's says (`captions_*.json`, `instances_*.json`).

    Raises:
        ValueError: the file is missing or foreign, or says of no image where it was.
    """
    found = flickr_numbers(path, read_json(path, dict, "give COCO's captions_*.json or instances_*.json"))
    if not found:
        raise ValueError(f"{path}: no image has a `flickr_url`; give COCO's captions_*.json or instances_*.json")
    return found


def flickr_numbers(path: Path, content: Any) -> dict[int, int]:
    """`addresses_in` what has been read, none if it says none."""
    images = field(content, "images", path, list)
    found = {field(image, "id", path, int): flickr_number(image.get("flickr_url")) for image in images}
    return {coco: flickr for coco, flickr in found.items() if flickr is not None}
