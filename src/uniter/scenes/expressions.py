"""Expressions that single out one thing, as RefCOCO has them: by attributes, places, relations and order."""

from collections.abc import Callable, Iterator

import numpy as np

from uniter import draws
from uniter.scenes.claims import NAMINGS, unique
from uniter.scenes.phrasing import EXTREME_WORDS, RELATION_WORDS, phrase
from uniter.scenes.relations import DIRECTIONS, EXTREMES, extreme, holds, middle
from uniter.scenes.words import Description, describe, finish, one_of
from uniter.scenes.world import Scene

Found = Iterator[tuple[int, str]]
"""The position of a thing in `scene.things`, and words that fit no other; nothing where a form finds no such thing."""


def referring(scene: Scene, seed: int, count: int) -> list[tuple[str, int]]:
    """Expressions that fit exactly one thing, with the position of that thing in `scene.things`.

    About half of them need a relation or a comparison; things that resemble others are preferred.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many at most; a scene of things that are all alike may have fewer.
    """
    return gathered(scene, seed, count, "referring", _anyhow)


def gathered(
    scene: Scene, seed: int, count: int, purpose: str, find: Callable[[Scene, np.random.Generator], Found]
) -> list[tuple[str, int]]:
    """Different expressions of a kind, each with the position of its thing.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many at most.
        purpose: names the kind's random numbers.
        find: tries to make one.
    """
    found: dict[str, int] = {}
    for number in range(count * 12):
        random = draws.generator(seed, purpose, scene.image_id, number)
        for thing, words in find(scene, random):
            found.setdefault(words, thing)
            break
        if len(found) == count:
            break
    return list(found.items())


def typed(random: np.random.Generator, words: str) -> str:
    """An expression as somebody typed it, often without its article."""
    return finish(random, words if random.random() < 0.6 else words.removeprefix("the "))


def _anyhow(scene: Scene, random: np.random.Generator) -> Found:
    choices = (by_attributes, by_attributes, _by_relation, _by_extreme, _by_distance, _by_order)
    choice = one_of(random, choices[:2] if random.random() < 0.45 else choices[2:])
    for thing, words in choice(scene, random):
        yield thing, typed(random, words)


def likely(scene: Scene, random: np.random.Generator) -> int:
    """A thing, preferably one that shares its shape or colour with another."""
    numbers = [int(number) for number in random.permutation(len(scene.things))]
    for number in numbers[:3]:
        thing = scene.things[number]
        if any(other is not thing and thing.shape == other.shape for other in scene.things):
            return number
    return numbers[0]


def by_attributes(scene: Scene, random: np.random.Generator) -> Found:
    """A thing by what it looks like, mostly in as few words as do."""
    target = likely(scene, random)
    namings = [("shape",), *NAMINGS, ("colour",)]
    fitting = [
        what
        for what in (describe(scene.things[target], naming) for naming in dict.fromkeys(namings))
        if len(what.among(scene.things)) == 1
    ]
    if fitting:
        fitting.sort(key=lambda what: len(what.fields()))
        shortest = [what for what in fitting if len(what.fields()) <= len(fitting[0].fields())]
        yield target, phrase(random, one_of(random, shortest if random.random() < 0.7 else fitting), "the")


def partial(scene: Scene, random: np.random.Generator, least: int = 2) -> Description:
    """A description of a thing that fits others too, if there is one."""
    thing = scene.things[likely(scene, random)]
    namings = [("shape",), ("shape",), ("colour",), ("texture",), ("shape", "colour"), ("shape", "texture"), ()]
    for number in random.permutation(len(namings)):
        what = describe(thing, namings[number])
        if len(what.among(scene.things)) >= least:
            return what
    return Description()


def _by_relation(scene: Scene, random: np.random.Generator) -> Found:
    yield from related(scene, random, partial(scene, random))


def _by_extreme(scene: Scene, random: np.random.Generator) -> Found:
    yield from extremes(scene, random, partial(scene, random), one_of(random, EXTREMES))


def _by_distance(scene: Scene, random: np.random.Generator) -> Found:
    """The star that is closest to the ring."""
    what = partial(scene, random)
    side = min(scene.width, scene.height)
    for anchor, other in unique(random, scene):
        x, y = middle(scene.things[anchor])
        away = sorted(
            (float(np.hypot(middle(scene.things[n])[0] - x, middle(scene.things[n])[1] - y)), n)
            for n in what.among(scene.things)
            if n != anchor
        )
        if len(away) > 1 and away[1][0] - away[0][0] >= 0.12 * side:
            words = one_of(random, ("closest to", "nearest to", "nearest"))
            yield away[0][1], f"the {phrase(random, what, 'bare')} {words} {phrase(random, other, 'the')}"


def _by_order(scene: Scene, random: np.random.Generator) -> Found:
    """The second star from the left."""
    what = partial(scene, random, least=3)
    members = what.among(scene.things)
    if len(members) < 3:
        return
    side, axis, sign = (("left", 0, 1), ("right", 0, -1), ("top", 1, 1), ("bottom", 1, -1))[int(random.integers(4))]
    order = sorted((sign * middle(scene.things[number])[axis], number) for number in members)
    least = 0.06 * min(scene.width, scene.height)
    place = int(random.integers(1, min(3, len(order) - 1)))
    if all(order[k + 1][0] - order[k][0] >= least for k in (place - 1, place)):
        ordinal = ("first", "second", "third")[place]
        yield order[place][1], f"the {ordinal} {phrase(random, what, 'bare')} from the {side}"


def extremes(scene: Scene, random: np.random.Generator, what: Description, which: str) -> Found:
    """The leftmost (...) of the things that fit, if that is clear.

    Args:
        scene: the picture.
        random: draws the words.
        what: fits several things.
        which: one of `EXTREMES`.
    """
    members = what.among(scene.things)
    number = extreme(scene, which, [scene.things[member] for member in members])
    if number is not None:
        yield members[number], f"the {one_of(random, EXTREME_WORDS[which])} {phrase(random, what, 'bare')}"


def related(
    scene: Scene, random: np.random.Generator, what: Description, without: str = "", relations: tuple[str, ...] = ()
) -> Found:
    """The one thing that fits and is in a relation to an anchor, all others that fit clearly not being so.

    Args:
        scene: the picture.
        random: draws the relation and the words.
        what: fits the thing, and others too.
        without: an attribute that must not be named.
        relations: those to choose from, all if left out.
    """
    sizes = () if without == "size" else ("larger", "smaller")
    relation = one_of(random, relations or (*DIRECTIONS, "near", *sizes))
    unnamed = without or ("size" if relation in ("larger", "smaller") else "")
    for anchor, other in unique(random, scene, without=unnamed):
        answers = {
            number: holds(scene, relation, scene.things[number], scene.things[anchor])
            for number in what.among(scene.things)
            if number != anchor
        }
        if list(answers.values()).count(True) == 1 and None not in answers.values():
            number = next(number for number, answer in answers.items() if answer)
            joint = one_of(random, (" ", " ", " that is "))
            words = one_of(random, RELATION_WORDS[relation])
            first = phrase(random, what, "bare")
            yield number, f"the {first}{joint}{words} {phrase(random, other, 'the')}"
