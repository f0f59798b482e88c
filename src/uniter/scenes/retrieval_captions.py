"""Captions of two more styles, for retrieval to be measured on sentences that are not those of pre-training.

As Flickr30K has them: a sentence about how a few things stand to each other. As COCO has them: what there is, kind by
kind, and how many. Both are exact: a number is that of all things of the kind.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from uniter import draws
from uniter.scenes.claims import counts
from uniter.scenes.phrasing import RELATION_WORDS, phrase
from uniter.scenes.relations import DIRECTIONS, holds
from uniter.scenes.words import NUMBERS, VALUES, Description, describe, one_of, with_article
from uniter.scenes.world import Scene, Thing

_WORDS = {
    relation: [words for words in RELATION_WORDS[relation] if not words.endswith("than")]
    for relation in (*DIRECTIONS, "near")
}
_NAMINGS = (
    ("shape", "colour", "texture"),
    ("shape", "colour", "size"),
    ("shape", "colour", "size"),
    ("shape", "colour", "size", "texture"),
)
_KINDS = (("shape", "colour"), ("shape", "colour"), ("shape", "texture"), ("shape", "colour", "texture"))
"""What tells the kinds of an enumeration apart."""


def flickr_captions(scene: Scene, seed: int, count: int) -> list[str]:
    """Different true sentences about two or three things and their relations.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many.
    """
    return _different(scene, seed, count, "flickr-caption", _sentence)


def coco_captions(scene: Scene, seed: int, count: int) -> list[str]:
    """Different true enumerations of what is there. Arguments as above."""
    return _different(scene, seed, count, "coco-caption", _enumeration)


def _different(
    scene: Scene, seed: int, count: int, purpose: str, write: Callable[[Scene, np.random.Generator], str | None]
) -> list[str]:
    found: list[str] = []
    number = 0
    while len(found) < count:
        text = write(scene, draws.generator(seed, purpose, scene.image_id, number))
        if text is not None and text not in found:
            found.append(text)
        number += 1
    return found


def _sentence(scene: Scene, random: np.random.Generator) -> str | None:
    """A sentence of Flickr30K's style, with capital and full stop; None if the things drawn do not stand so."""
    order = [int(number) for number in random.permutation(len(scene.things))[:3]]
    said = one_of(random, (_chain, _chain, _around, _around, _both, _in_a_row))(scene, random, order)
    return None if said is None else said[0].upper() + said[1:] + "."


def _a(scene: Scene, random: np.random.Generator, number: int) -> str:
    return with_article(phrase(random, describe(scene.things[number], one_of(random, _NAMINGS)), "bare"))


def _relation(scene: Scene, random: np.random.Generator, first: int, second: int) -> str:
    """Words for one of the relations in which a thing is to another; there is one, boxes of one middle being near."""
    true = [relation for relation in _WORDS if holds(scene, relation, scene.things[first], scene.things[second])]
    return one_of(random, _WORDS[one_of(random, true)])


def _look_the_same(first: Thing, second: Thing) -> bool:
    """Whether it would be odd to name one after the other."""
    return first.shape == second.shape and first.colour == second.colour


def _chain(scene: Scene, random: np.random.Generator, order: list[int]) -> str:
    """A star is above a ring, which is next to a cup."""
    a, b, c = order
    one, two = _relation(scene, random, a, b), _relation(scene, random, b, c)
    template = one_of(
        random,
        (
            "{0} {is_} {one} {1}, which is {two} {2}",
            "{0} {is_} {one} {1} that is {two} {2}",
            "{one} {1}, which is {two} {2}, there is {0}",
        ),
    )
    things = [_a(scene, random, number) for number in order]
    return template.format(*things, one=one, two=two, is_=one_of(random, ("is", "is", "sits", "lies")))


def _around(scene: Scene, random: np.random.Generator, order: list[int]) -> str:
    """A star with a ring above it and a cup to the left of it."""
    a, b, c = order
    one, two = _relation(scene, random, b, a), _relation(scene, random, c, a)
    template = one_of(
        random,
        (
            "{0} with {1} {one} it and {2} {two} it",
            "there is {0}, with {1} {one} it and {2} {two} it",
            "{0} has {1} {one} it, and {2} {two} it",
        ),
    )
    return template.format(*(_a(scene, random, number) for number in order), one=one, two=two)


def _both(scene: Scene, random: np.random.Generator, order: list[int]) -> str | None:
    """A star and a ring are both above a cup."""
    a, b, c = (scene.things[number] for number in order)
    true = [relation for relation in _WORDS if holds(scene, relation, a, c) and holds(scene, relation, b, c)]
    if not true or _look_the_same(a, b):
        return None
    words = one_of(random, _WORDS[one_of(random, true)])
    template = one_of(random, ("{0} and {1} are both {both} {2}", "{0} and {1}, both {both} {2}"))
    return template.format(*(_a(scene, random, number) for number in order), both=words)


def _in_a_row(scene: Scene, random: np.random.Generator, order: list[int]) -> str | None:
    """From left to right there are a star, a ring and a cup."""
    relation, words = one_of(random, (("left", "from left to right"), ("above", "from top to bottom")))
    ordered = sorted(order, key=lambda number: scene.things[number].box[0 if relation == "left" else 1])
    neighbours = [(scene.things[a], scene.things[b]) for a, b in pairwise(ordered)]
    if not all(holds(scene, relation, a, b) and not _look_the_same(a, b) for a, b in neighbours):
        return None
    template = one_of(random, ("{row} there are {0}, {1} and {2}", "{0}, {1} and {2}, seen {row}"))
    return template.format(*(_a(scene, random, number) for number in ordered), row=words)


def _enumeration(scene: Scene, random: np.random.Generator) -> str:
    """A caption of COCO's style, mostly with capital and full stop."""
    kinds = list(counts(scene, one_of(random, _KINDS)).items())
    if len(kinds) < 3:  # too little to find the picture by
        kinds = list(counts(scene, tuple(VALUES)).items())
    most = one_of(random, (3, 4, 4, 5))
    chosen = [kinds[number] for number in random.permutation(len(kinds))[:most]]
    left = len(scene.things) - sum(times for _, times in chosen)
    parts = [_kind(scene, random, what, times) for what, times in chosen]
    if left and random.random() < 0.5:
        parts.append("one other thing" if left == 1 else f"{NUMBERS[left]} other things")
    template = one_of(random, _COMPLETE if not left or "other thing" in parts[-1] else _SOME)
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    text = template.format(
        listed=listed,
        N=NUMBERS[len(scene.things)],
        are="is" if chosen[0][1] == 1 else "are",
        behind="dark" if max(scene.background.colours[0]) < 128 else "light",
    )
    style = random.random()
    text = text[0].upper() + text[1:] if style < 0.8 else text
    return text + "." if style < 0.7 else text


def _kind(scene: Scene, random: np.random.Generator, what: Description, times: int) -> str:
    """How many there are of a kind; of a single thing at times what else it looks like."""
    if times > 1:
        return f"{NUMBERS[times]} {phrase(random, what, 'many')}"
    (number,) = what.among(scene.things)
    fields = [*what.fields(), *(("size",) if random.random() < 0.4 else ())]
    return with_article(phrase(random, describe(scene.things[number], fields), "bare"))


_COMPLETE = (
    "{listed}",
    "a picture of {listed}",
    "there {are} {listed}",
    "{listed} on a {behind} background",
    "{N} things: {listed}",
    "a {behind} picture that shows {listed}",
)
_SOME = (
    "{listed}",
    "a picture of {listed}",
    "there {are} {listed} among {N} things",
    "{listed} on a {behind} background",
    "{N} things, among them {listed}",
    "a group of {N} things with {listed}",
)
