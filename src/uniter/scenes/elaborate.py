"""Expressions that single out one thing in a whole sentence's words, as RefCOCOg has them."""

from collections.abc import Callable

import numpy as np

from uniter.scenes.claims import NAMINGS, shuffled, unique
from uniter.scenes.expressions import Found, gathered, likely, partial
from uniter.scenes.phrasing import EXTREME_WORDS, PLACE_WORDS, RELATION_WORDS, phrase
from uniter.scenes.relations import DIRECTIONS, EXTREMES, PLACES, extreme, holds, place
from uniter.scenes.words import NUMBERS, Description, describe, finish, one_of
from uniter.scenes.world import Scene

Condition = tuple[str, Callable[[int], bool | None]]
"""What is said of a thing, and whether it is so of the thing at a position; None where that is not clear."""


def elaborate(scene: Scene, seed: int, count: int) -> list[tuple[str, int]]:
    """Expressions that fit exactly one thing: what it looks like, and how it stands to others or where.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many at most; a scene of things that are all alike may have fewer.

    Returns:
        Each with the position of its thing in `scene.things`.
    """
    return gathered(scene, seed, count, "referring-elaborately", _anyhow)


def _anyhow(scene: Scene, random: np.random.Generator) -> Found:
    form = one_of(random, (_conditioned, _conditioned, _conditioned, _of_a_group))
    for thing, words in form(scene, random):
        yield thing, finish(random, words)


def _conditioned(scene: Scene, random: np.random.Generator) -> Found:
    """The striped star that is above the red ring and to the left of the small cup."""
    number = likely(scene, random)
    what = _description(scene, random, number)
    relations = _relations(scene, random, number)
    places = [condition for condition in _places(scene, random) if condition[1](number)]
    kinds, templates = one_of(random, _TEMPLATES if places else _TEMPLATES[:2])
    chosen = [*relations[: kinds.count("relation")], *places[: kinds.count("place")]]
    if len(chosen) < len(kinds):
        return
    others = [other for other in what.among(scene.things) if other != number]
    if all(any(fits(other) is False for _, fits in chosen) for other in others):
        words = one_of(random, templates).format(phrase(random, what, "bare"), *(said for said, _ in chosen))
        yield number, words if others or random.random() < 0.5 else _indefinite(words)


def _indefinite(words: str) -> str:
    """`a star` in the place of `the star` at the beginning."""
    rest = words.removeprefix("the ")
    return words if rest == words else ("an " if rest[0] in "aeiou" else "a ") + rest


def _description(scene: Scene, random: np.random.Generator, number: int) -> Description:
    """Of a thing: one that fits others too, if there is one, or all that it looks like."""
    named = [describe(scene.things[number], fields) for fields in (("shape",), *NAMINGS[:8])]
    shared = [what for what in named if len(what.among(scene.things)) > 1]
    return one_of(random, shared if shared and random.random() < 0.75 else named[1:])


def _relations(scene: Scene, random: np.random.Generator, number: int) -> list[Condition]:
    """Relations of a thing to different others, each called by what singles it out."""
    found: list[Condition] = []
    for anchor, other in shuffled(random, unique(random, scene)):
        sizes = () if other.size else ("larger", "smaller")
        true = [
            relation
            for relation in (*DIRECTIONS, "near", *sizes)
            if anchor != number and holds(scene, relation, scene.things[number], scene.things[anchor])
        ]
        if true:
            relation = one_of(random, true)
            words = f"{one_of(random, RELATION_WORDS[relation])} the {phrase(random, other, 'bare')}"

            def fits(candidate: int, relation: str = relation, anchor: int = anchor) -> bool | None:
                return candidate != anchor and holds(scene, relation, scene.things[candidate], scene.things[anchor])

            found.append((words, fits))
    return found


def _places(scene: Scene, random: np.random.Generator) -> list[Condition]:
    """Every half of the picture, in a random order."""
    return [
        (
            one_of(random, PLACE_WORDS[where]),
            lambda candidate, where=where: place(scene, where, scene.things[candidate]),
        )
        for where in shuffled(random, list(PLACES))
    ]


_TEMPLATES = (
    (
        ("relation",),
        (
            "the {} that is {}",
            "the {} which is {}",
            "the {} that you see {}",
            "the {} in this picture that is {}",
        ),
    ),
    (
        ("relation", "relation"),
        (
            "the {} that is {} and {}",
            "the {} which is {} and also {}",
            "the {} that is both {} and {}",
            "the {} that you see {} and {}",
        ),
    ),
    (
        ("relation", "place"),
        (
            "the {0} {2}, {1}",
            "the {0} that is {1} and {2}",
            "{2}, the {0} that is {1}",
            "the {0} {2}, the one {1}",
        ),
    ),
)


_OF_SEVERAL = {which: [word for word in words if " " not in word] for which, words in EXTREME_WORDS.items()}
_OF_TWO = {
    "leftmost": ("left", "leftmost"),
    "rightmost": ("right", "rightmost"),
    "topmost": ("upper", "higher"),
    "bottommost": ("lower",),
    "largest": ("larger", "bigger"),
    "smallest": ("smaller",),
}


def _of_a_group(scene: Scene, random: np.random.Generator) -> Found:
    """Of the three stars the one that is next to the red ring."""
    what = partial(scene, random)
    members = what.among(scene.things)
    if not 2 <= len(members) < len(NUMBERS):
        return
    group = f"the {NUMBERS[len(members)]} {phrase(random, what, 'many')}"
    if random.random() < 0.5:
        which = one_of(random, EXTREMES)
        number = extreme(scene, which, [scene.things[member] for member in members])
        if number is not None:
            templates = (
                "the {which} one of {group} in the picture",
                "of {group} in this picture the {which} one",
                "the {which} one among {group}",
            )
            known = _OF_TWO if len(members) == 2 else _OF_SEVERAL
            yield members[number], one_of(random, templates).format(which=one_of(random, known[which]), group=group)
        return
    number = one_of(random, members)
    for said, fits in _relations(scene, random, number):
        if all(fits(other) is False for other in members if other != number):
            templates = (
                "the one of {group} that is {said}",
                "of {group} the one that is {said}",
                "among {group}, the one {said}",
            )
            yield number, one_of(random, templates).format(group=group, said=said)
