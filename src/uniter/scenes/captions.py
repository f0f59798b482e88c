"""Captions: a sentence about two or three things of a scene, exact enough to find the picture by."""

from collections.abc import Callable

import numpy as np

from uniter.scenes.claims import counts
from uniter.scenes.phrasing import EXTREME_WORDS, PLACE_WORDS, RELATION_WORDS, phrase
from uniter.scenes.relations import DIRECTIONS, EXTREMES, PLACES, extreme, holds, place
from uniter.scenes.words import NUMBERS, describe, one_of
from uniter.scenes.world import Scene

_NAMINGS = (
    ("shape", "colour", "texture"),
    ("shape", "colour", "size"),
    ("shape", "colour", "size", "texture"),
    ("shape", "colour", "size", "texture"),
    ("shape", "colour", "size", "texture"),
)
_SHORT_NAMINGS = (
    ("shape", "colour", "texture"),
    ("shape", "colour", "size"),
    ("shape", "colour", "texture"),
    ("shape", "colour", "size"),
    ("shape", "colour"),
)


def caption(scene: Scene, random: np.random.Generator, order: np.ndarray) -> str:
    """A true sentence without capital and full stop.

    Args:
        scene: the picture.
        random: draws form and words.
        order: positions of the scene's things, those to speak of first in front.
    """
    while True:
        text = one_of(random, _FORMS)(scene, random, [int(number) for number in order])
        if text is not None:
            return text


def _a(scene: Scene, random: np.random.Generator, number: int, short: bool = False) -> str:
    fields = one_of(random, _SHORT_NAMINGS if short else _NAMINGS)
    return phrase(random, describe(scene.things[number], fields), "a")


def _list(scene: Scene, random: np.random.Generator, order: list[int]) -> str:
    first, second, third = (_a(scene, random, number, short=True) for number in order[:3])
    template = one_of(
        random,
        (
            "{0}, {1} and {2}",
            "a picture of {0}, {1} and {2}",
            "there is {0}, {1} and {2}",
            "{0} together with {1} and {2}",
            "this image shows {0}, {1} and {2}",
            "one can see {0}, {1} and also {2}",
        ),
    )
    return template.format(first, second, third)


def _two(scene: Scene, random: np.random.Generator, order: list[int]) -> str:
    template = one_of(
        random,
        (
            "{0} and {1}",
            "a picture with {0} and {1}",
            "there is {0} and {1}",
            "{0} can be seen, and also {1}",
            "{N} things, one of them {0}, another one {1}",
            "among {N} things there is {0} and {1}",
            "an image of {N} things, with {0} and {1}",
        ),
    )
    first, second = (_a(scene, random, number) for number in order[:2])
    return template.format(first, second, N=NUMBERS[len(scene.things)])


def _related(scene: Scene, random: np.random.Generator, order: list[int]) -> str | None:
    first, second = order[0], order[1]
    relations = [
        relation
        for relation in (*DIRECTIONS, "near")
        if holds(scene, relation, scene.things[first], scene.things[second])
    ]
    if not relations:
        return None
    relation = one_of(random, relations)
    words = one_of(random, RELATION_WORDS[relation])
    template = one_of(
        random,
        (
            "{0} {rel} {1}",
            "{0} is {rel} {1}",
            "there is {0} {rel} {1}",
            "{rel} {1} there is {0}",
            "a picture of {0} {rel} {1}",
            "one can see {0} that is {rel} {1}",
            "{0} {rel} {1}, and {2}",
            "there is {0} {rel} {1}, and also {2}",
            "{2}, and {0} {rel} {1}",
        ),
    )
    short = "{2}" in template
    things = [_a(scene, random, number, short) for number in order[:3]]
    return template.format(*things, rel=words)


def _placed(scene: Scene, random: np.random.Generator, order: list[int]) -> str | None:
    places = [(number, where) for number in order[:2] for where in PLACES if place(scene, where, scene.things[number])]
    if not places:
        return None
    number, where = one_of(random, places)
    other = next(other for other in order[:2] if other != number)
    template = one_of(
        random,
        (
            "{side} there is {0}, and somewhere else {1}",
            "{0} {side}, and {1}",
            "{side} is {0}; there is also {1}",
            "{1}, and {side} {0}",
            "a picture with {0} {side} and {1}",
        ),
    )
    words = one_of(random, PLACE_WORDS[where])
    return template.format(_a(scene, random, number), _a(scene, random, other), side=words)


def _counted(scene: Scene, random: np.random.Generator, order: list[int]) -> str | None:
    fields = one_of(random, (("shape",), ("colour",), ("shape", "colour"), ("shape", "texture")))
    groups = [(what, times) for what, times in counts(scene, fields).items() if 2 <= times <= 6]
    if not groups:
        return None
    what, times = one_of(random, groups)
    inside, outside = ([n for n in order if what.fits(scene.things[n]) == fits] for fits in (True, False))
    if not outside:
        return None
    group = f"{NUMBERS[times]} {phrase(random, what, 'many')}"
    template = one_of(
        random,
        (
            "{group} and {0}",
            "there are {group} and {0}",
            "{0} and {group}",
            "a picture of {group}, with {0}",
            "{group}, one of them {1}, and {0}",
            "next to other things one sees {group}; {1} is one of them",
        ),
    )
    return template.format(_a(scene, random, outside[0]), _a(scene, random, inside[0]), group=group)


def _extreme(scene: Scene, random: np.random.Generator, order: list[int]) -> str | None:
    which = one_of(random, EXTREMES)
    number = extreme(scene, which, scene.things)
    if number is None:
        return None
    other = next(other for other in order if other != number)
    template = one_of(
        random,
        (
            "the {which} thing is {0}, and there is {1}",
            "{0} is the {which} of {N} things; another one is {1}",
            "of {N} things the {which} one is {0}, and one is {1}",
            "{1}, while the {which} thing is {0}",
        ),
    )
    words = one_of(random, EXTREME_WORDS[which])
    things = (_a(scene, random, number), _a(scene, random, other, short=True))
    return template.format(*things, which=words, N=NUMBERS[len(scene.things)])


_FORMS: tuple[Callable[[Scene, np.random.Generator, list[int]], str | None], ...] = (
    _list,
    _two,
    _related,
    _related,
    _related,
    _placed,
    _counted,
    _counted,
    _extreme,
)
