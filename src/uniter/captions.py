"""Captions to pre-train on, from the data sets' own public files: COCO, Visual Genome, Conceptual Captions, SBU."""

import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as field_of
from pathlib import Path
from typing import Any

from uniter.exclusion import Excluded, Rule, addresses_in, flickr_numbers
from uniter.files import read_json
from uniter.tasks.pictures import (
    Numbers,
    coco_number,
    flickr_number,
    genome_finder,
    genome_numbers,
    karpathy_splits,
    leading_number,
    list_items,
)
from uniter.tasks.reading import Names, field, name_finder, stem
from uniter.tasks.retrieval import karpathy_sentences

log = logging.getLogger(__name__)

NO_NUMBERS = Numbers()
OF_WHOLE_FILES = ("train", "restval", "val", "test")  # splits that a file without any is parted into, or is all train
LAYOUTS = (
    "Karpathy's dataset_*.json, COCO's captions_*.json, Visual Genome's region_descriptions.json, Conceptual Captions' "
    "*.tsv, SBU's sbu-captions-all.json or *_captions.txt"
)


@dataclass(frozen=True, slots=True)
class PublicCaption:
    """A caption, its picture's name in the store, and the photograph's numbers in COCO and at Flickr."""

    text: str
    image: str
    numbers: Numbers = NO_NUMBERS


@dataclass(frozen=True)
class Choice:
    """Which captions of a public file are taken.

    Args:
        split: several are joined by "+".
        splits: Karpathy's file, by whose splits the pictures of a file without any are parted, by COCO's number.
        exclude: what is left out, as `exclusion.Excluded`.
        addresses: COCO's files that say where its photographs are at Flickr.
        pictures: file with the name of each picture's address (Conceptual Captions, SBU).
    """

    split: str = "train"
    splits: Path | None = None
    exclude: Sequence[Excluded] = ()
    addresses: Sequence[Path] = ()
    pictures: Path | None = None

    @property
    def by_number(self) -> bool:
        """Whether pictures have to be told by their numbers."""
        return bool(self.splits or self.exclude)


def public_captions(path: str | Path, choice: Choice, stored: Names | None = None) -> list[PublicCaption]:
    """The captions of a public file in its order, without blank ones; how many each rule leaves out is said.

    Args:
        path: see `LAYOUTS`.
        choice: which of them.
        stored: what knows the images there are.

    Raises:
        ValueError: a file is missing or foreign, has no such split, or a rule cannot be held against this file's
            pictures for want of their numbers.
    """
    path = Path(path)
    file = _read(path, choice, stored)
    if choice.splits and file.has_splits:
        raise ValueError(f"{path} has splits of its own: leave `splits` out")
    if choice.pictures and not file.by_address:
        raise ValueError(f"{path} names its pictures: leave `pictures` out")
    found = list(file.captions if file.has_splits else _parted(path, file.captions, choice))
    if not found:
        raise ValueError(f"{path}: no captions in split {choice.split!r}; download the file again, or ask for another")
    return _without_excluded(path, found, choice, file.addresses) if choice.exclude else found


def _without_excluded(
    path: Path, captions: list[PublicCaption], choice: Choice, addresses: Mapping[int, int]
) -> list[PublicCaption]:
    """The captions of pictures that no rule excludes; each rule's count is said, a picture's at the first that fits."""
    known = dict(addresses)
    for file in choice.addresses:
        known |= addresses_in(file)
    captions = [_with_flickr(caption, known) for caption in captions]
    rules = [Rule.read(excluded, known) for excluded in choice.exclude]
    has_coco, has_flickr = (any(c.numbers[kind] is not None for c in captions) for kind in (0, 1))
    for rule in rules:
        if not (rule.coco and has_coco) and not (rule.flickr and has_flickr):
            raise ValueError(
                f"{rule.file} cannot be held against the pictures of {path}: it has {rule.kinds}, they have "
                f"{' and '.join(['COCO'] * has_coco + ['Flickr'] * has_flickr) or 'no'} numbers; name COCO's files "
                "that have both, such as captions_train2014.json and captions_val2014.json, in `addresses`"
            )
    kept, pictures, texts = [], [set() for _ in rules], [0] * len(rules)
    for caption in captions:
        place = next((place for place, rule in enumerate(rules) if rule.fits(caption.numbers)), None)
        if place is None:
            kept.append(caption)
        else:
            pictures[place].add(caption.image)
            texts[place] += 1
    for rule, images, count in zip(rules, pictures, texts, strict=True):
        log.warning(
            "%s, split %s: %s leaves out %d pictures, %d captions", path, choice.split, rule.file, len(images), count
        )
    if not kept:
        raise ValueError(f"{path}: every caption of split {choice.split!r} is excluded; look at `exclude`")
    return kept


def _with_flickr(caption: PublicCaption, known: Mapping[int, int]) -> PublicCaption:
    coco, flickr = caption.numbers
    if flickr is not None or coco is None or coco not in known:
        return caption
    return replace(caption, numbers=Numbers(coco, known[coco]))


def _parted(path: Path, captions: Iterable[PublicCaption], choice: Choice) -> Iterator[PublicCaption]:
    """The captions of the splits asked for; all of a file is "train" if Karpathy does not part it.

    What he does not know is train, and so is, under either name, his restval.
    """
    wanted = set(choice.split.split("+"))
    if strange := sorted(wanted - set(OF_WHOLE_FILES)):
        raise ValueError(f"{path}: no split {strange[0]!r}; it is parted into train, val and test")
    if choice.splits is None:
        if "train" not in wanted:
            raise ValueError(
                f"{path} has no splits: name Karpathy's dataset_coco.json in `splits`, or take the whole as split train"
            )
        yield from captions
        return
    part_of = karpathy_splits(choice.splits)
    for caption in captions:
        part = part_of.get(caption.numbers.coco, "train") if caption.numbers.coco is not None else "train"
        if part in wanted or (part == "restval" and "train" in wanted):
            yield caption


# ---------------------------------------------------------------- layouts


@dataclass(frozen=True)
class _File:
    """What a file holds, not yet chosen from.

    Args:
        captions: read when they are asked for.
        has_splits: whether the captions are those of the splits asked for.
        by_address: whether the file says where its pictures were, not what they are called.
        addresses: COCO's number -> number at Flickr, as far as the file says.
    """

    captions: Iterable[PublicCaption]
    has_splits: bool = False
    by_address: bool = False
    addresses: Mapping[int, int] = field_of(default_factory=dict)


def _read(path: Path, choice: Choice, stored: Names | None) -> _File:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give {LAYOUTS}, or a text database")
    if path.suffix == ".tsv":
        return _File(_conceptual(path, choice, stored), by_address=True)
    if path.suffix == ".txt":
        return _File(_sbu(path, *_line_pair(path), choice, stored), by_address=True)
    if _first_letter(path) == "[":
        return _File(_genome(path, choice, stored))
    content = read_json(path, dict)
    if "annotations" in content:
        return _File(_coco(path, content, stored), addresses=flickr_numbers(path, content))
    if "image_urls" in content:
        addresses, texts = (field(content, key, path, list) for key in ("image_urls", "captions"))
        return _File(_sbu(path, texts, addresses, choice, stored), by_address=True)
    if "images" in content:
        return _File(_karpathy(path, content, choice, stored), has_splits=True)
    raise ValueError(f"{path}: captions in no known layout; known are {LAYOUTS}")


def _first_letter(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return next((letter for line in file for letter in line.strip()[:1]), "")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); download it again") from None


def _karpathy(path: Path, content: Any, choice: Choice, stored: Names | None) -> Iterator[PublicCaption]:
    for image, name, sentence in karpathy_sentences(path, content, choice.split, stored):
        coco = coco_number(image)
        flickr = None if coco is not None else leading_number(field(image, "filename", path, str))
        yield PublicCaption(field(sentence, "raw", path, str), name, Numbers(coco, flickr))


def _coco(path: Path, content: Any, stored: Names | None) -> Iterator[PublicCaption]:
    name_of = name_finder(stored)
    pictures = {}
    for image in field(content, "images", path, list):
        number, name = field(image, "id", path, int), field(image, "file_name", path, str)
        pictures[number] = name_of(name)
    for record in field(content, "annotations", path, list):
        number, text = field(record, "image_id", path, int), field(record, "caption", path, str)
        if number not in pictures:
            raise ValueError(f"{path}: a caption of image {number}, which is not among its images; download it again")
        if text.strip():
            yield PublicCaption(text, pictures[number], Numbers(number))


def _genome(path: Path, choice: Choice, stored: Names | None) -> Iterator[PublicCaption]:
    name_of, numbers = genome_finder(stored), genome_numbers(path.parent) if choice.by_number else None
    for image in list_items(path):
        number = field(image, "id", path, int)
        if numbers is not None and number not in numbers:
            raise ValueError(f"{path}: image {number} is not in image_data.json beside it; take both from one release")
        for region in field(image, "regions", path, list):
            text = field(region, "phrase", path, str)
            if text.strip():
                yield PublicCaption(text, name_of(number), numbers[number] if numbers else NO_NUMBERS)


def _conceptual(path: Path, choice: Choice, stored: Names | None) -> Iterator[PublicCaption]:
    """A line `caption<TAB>address` for each picture; rows are counted from 0, a line of headings is none."""
    part = "val" if "val" in path.name.lower() else "train"
    by_stem, by_row = _stored_names(stored, f"gcc_{part}_")
    named = _given_names(choice.pictures)
    row = 0
    for number, line in enumerate(_lines(path), 1):
        if number == 1 and line.lower().split("\t") == ["caption", "url"]:
            continue
        text, tab, address = line.partition("\t")
        if not tab or "\t" in address or not address.strip():
            raise ValueError(f"{path}, line {number}: not `caption<TAB>address`: {line!r:.80}; download it again")
        address = address.strip()
        found = named(address) or by_stem.get(f"{row}_{zlib.crc32(address.encode())}") or by_row.get(row)
        if text.strip():
            name = found or f"gcc_{part}_{row:012d}.npz"
            yield PublicCaption(text, name, Numbers(flickr=flickr_number(address)))
        row += 1


def _sbu(
    path: Path, texts: Sequence[Any], addresses: Sequence[Any], choice: Choice, stored: Names | None
) -> Iterator[PublicCaption]:
    """A caption and an address at Flickr for each picture; rows are counted from 0."""
    if len(texts) != len(addresses) or not all(isinstance(value, str) for value in (*texts, *addresses)):
        raise ValueError(
            f"{path}: {len(texts)} captions and {len(addresses)} addresses, or no texts; download it again"
        )
    by_stem, by_row = _stored_names(stored)
    numbered = {
        int(found[1]): name for one, name in by_stem.items() if (found := re.fullmatch(r"sbu_(?:.*_)?(\d+)", one))
    }
    named = _given_names(choice.pictures)
    for row, (text, address) in enumerate(zip(texts, addresses, strict=True)):
        *_, folder, file = ("/" + address.strip()).split("/")
        flickr = flickr_number(address)
        found = named(address) or by_stem.get(stem(file)) or by_stem.get(f"{folder}_{stem(file)}")
        found = found or (numbered.get(flickr) if flickr is not None else None) or by_row.get(row)
        if text.strip():
            yield PublicCaption(text, found or file, Numbers(flickr=flickr))


def _line_pair(path: Path) -> tuple[list[str], list[str]]:
    """SBU's older form: captions and addresses in two files, a line each."""
    if "captions" not in path.name:
        raise ValueError(f"{path}: a text file that is not called ..._captions.txt; known are {LAYOUTS}")
    beside = path.with_name("urls".join(path.name.rsplit("captions", 1)))
    if not beside.is_file():
        raise ValueError(f"{beside}: no such file, which has the addresses of {path.name}; put it beside")
    return list(_lines(path)), list(_lines(beside))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file without their ends; other separators of Unicode may stand within."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); download it again") from None


def _stored_names(stored: Names | None, before: str = "") -> tuple[dict[str, str], dict[int, str]]:
    """Stored images by what they are called without folder and ending, and by a number: bare, or behind `before`."""
    by_stem: dict[str, str] = {}
    by_row: dict[int, str] = {}
    for name in stored or ():
        bare = stem(name)
        by_stem.setdefault(bare, name)
        number = bare.removeprefix(before)
        if number.isdecimal():
            by_row.setdefault(int(number), name)
    return by_stem, by_row


def _given_names(path: Path | None) -> Callable[[str], str | None]:
    """What knows the picture of an address by a file of `address<TAB>name` lines, or a JSON mapping."""
    if path is None:
        return lambda address: None
    if path.suffix == ".json":
        named = read_json(path, dict)
        if not all(isinstance(name, str) for name in named.values()):
            raise ValueError(f"{path}: not a mapping of addresses to names; write it again")
        return named.get
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; give `address<TAB>name` lines or a JSON mapping, or leave `pictures` out"
        )
    found = {}
    for number, line in enumerate(_lines(path), 1):
        address, tab, name = line.partition("\t")
        if not tab or "\t" in name or not name.strip():
            raise ValueError(f"{path}, line {number}: not `address<TAB>name`: {line!r:.80}; write it again")
        found[address.strip()] = name.strip()
    return found.get
