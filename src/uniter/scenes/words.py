"""Descriptions of things and the words for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uniter.scenes.shapes import SHAPES
from uniter.scenes.world import COLOURS, HELD_OUT, SIZES, TEXTURES, Thing

VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "texture": TEXTURES,
}
"""Of each attribute, the names of its values: the words that answers use."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "disc"),
    "ring": ("ring", "ring", "hoop"),
    "moon": ("moon", "moon", "crescent"),
    "cup": ("cup", "cup", "mug"),
    "diamond": ("diamond", "diamond", "rhombus"),
    "grey": ("grey", "grey", "gray"),
    "purple": ("purple", "purple", "violet"),
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium-sized", "mid-sized", "medium"),
    "large": ("large", "large", "big"),
    "plain": ("plain", "solid"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chequered"),
}
"""Words for a value where there are several, repeated by how often they are used."""

NOUNS = ("thing", "thing", "object", "item")
"""Words for a thing of any shape."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

_PATTERNS = {"plain": "without a pattern", "striped": "with stripes", "dotted": "with dots", "checked": "with checks"}


@dataclass(frozen=True, slots=True)
class Description:
    """Some attributes of a thing; those that are None are left open."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether the thing has all these attributes."""
        return (
            self.shape in (None, thing.shape)
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
            and self.texture in (None, thing.texture)
        )

    def among(self, things: Sequence[Thing]) -> list[int]:
        """The positions of the things that fit."""
        return [number for number, thing in enumerate(things) if self.fits(thing)]

    def fields(self) -> tuple[str, ...]:
        """The attributes it names."""
        return tuple(field for field in VALUES if getattr(self, field) is not None)

    def held_out(self) -> bool:
        """Whether it names a colour-shape pair that only the split `novel` shows."""
        return (self.colour, self.shape) in HELD_OUT


def describe(thing: Thing, fields: Sequence[str]) -> Description:
    """What these attributes of a thing are.

    Args:
        thing: a thing of a scene.
        fields: some of `shape`, `colour`, `size`, `texture`.
    """
    return Description(**{field: getattr(thing, field) for field in fields})


def one_of(random: np.random.Generator, choices: Sequence):
    """One element, each equally likely."""
    return choices[int(random.integers(len(choices)))]


def word(random: np.random.Generator, value: str) -> str:
    """A word for a value of an attribute."""
    return one_of(random, SYNONYMS.get(value, (value,)))


def plural(noun: str) -> str:
    """The plural of a noun of this world."""
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")


def with_article(phrase: str) -> str:
    """The phrase after `a` or `an`."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def noun_phrase(random: np.random.Generator, what: Description, many: bool = False, short: bool = False) -> str:
    """Words for a description, without an article.

    Args:
        random: draws the synonyms, the order of the adjectives and what is said behind the noun.
        what: the attributes to name.
        many: plural.
        short: say nothing behind the noun.
    """
    noun = word(random, what.shape) if what.shape else one_of(random, NOUNS)
    before = {field: word(random, getattr(what, field)) for field in what.fields() if field != "shape"}
    behind = ""
    where = random.random()
    if what.texture and where < 0.12 and not short:
        del before["texture"]
        behind = f" {_PATTERNS[what.texture]}"
    elif what.colour and where > 0.93 and not short:
        behind = f" that {'are' if many else 'is'} {before.pop('colour')}"
    elif what.size and 0.90 < where < 0.93 and not short:
        behind = f" of {before.pop('size').replace('medium-sized', 'medium').replace('mid-sized', 'medium')} size"
    order = ("size", "texture", "colour") if random.random() < 0.7 else ("size", "colour", "texture")
    adjectives = [before[field] for field in order if field in before]
    return " ".join([*adjectives, plural(noun) if many else noun]) + behind


def finish(random: np.random.Generator, text: str) -> str:
    """A sentence or phrase as somebody typed it: often lower-case, at times with a capital; full stops come and go."""
    style = random.random()
    if style < 0.3:
        text = text[0].upper() + text[1:]
    if style < 0.25 and not text.endswith("?"):
        text += "."
    return text


def tokens(text: str) -> list[str]:
    """A sentence as Karpathy's files have it: lower-case words without punctuation."""
    return "".join(c if c.isalnum() or c == "-" else " " for c in text.lower()).split()
