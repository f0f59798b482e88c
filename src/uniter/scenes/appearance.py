"""Expressions that single out one thing by its looks alone, as RefCOCO+ has them: no word says where it is."""

import numpy as np

from uniter.scenes.claims import unique
from uniter.scenes.expressions import Found, by_attributes, extremes, gathered, partial, related, typed
from uniter.scenes.phrasing import ATTRIBUTE_WORDS, phrase, predicate
from uniter.scenes.words import VALUES, one_of
from uniter.scenes.world import Scene


def by_looks(scene: Scene, seed: int, count: int) -> list[tuple[str, int]]:
    """Expressions that fit exactly one thing and name colours, shapes, sizes and patterns only.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many at most; a scene of things that are all alike may have fewer.

    Returns:
        Each with the position of its thing in `scene.things`.
    """
    return gathered(scene, seed, count, "referring-by-looks", _anyhow)


def _anyhow(scene: Scene, random: np.random.Generator) -> Found:
    for thing, words in one_of(random, _FORMS)(scene, random):
        yield thing, typed(random, words)


def _only(scene: Scene, random: np.random.Generator) -> Found:
    """The only one that is dotted."""
    field = one_of(random, tuple(VALUES))
    named = unique(random, scene, fields=(field,))
    if named:
        number, _ = one_of(random, named)
        value = predicate(random, getattr(scene.things[number], field))
        template = one_of(random, ("the only one that is {}", "the only thing that is {}", "the one that is {}"))
        yield number, template.format(value)


def _by_size(scene: Scene, random: np.random.Generator) -> Found:
    """The largest star."""
    yield from extremes(scene, random, partial(scene, random), one_of(random, ("largest", "smallest")))


def _by_comparison(scene: Scene, random: np.random.Generator) -> Found:
    """The star that is larger than the red heart."""
    yield from related(scene, random, partial(scene, random), relations=("larger", "smaller"))


def _unlike(scene: Scene, random: np.random.Generator) -> Found:
    """The star that is not red, all other stars being so."""
    what = partial(scene, random)
    members = what.among(scene.things)
    field = one_of(random, [field for field in VALUES if field not in what.fields()])
    values = [getattr(scene.things[number], field) for number in members]
    common = max(sorted(set(values)), key=values.count)
    others = [number for number, value in zip(members, values, strict=True) if value != common]
    if len(members) > 2 and len(others) == 1:
        template = one_of(random, ("the {} that is not {}", "the only {} that is not {}", "the one {} that is not {}"))
        yield others[0], template.format(phrase(random, what, "bare"), predicate(random, common))


def _alike(scene: Scene, random: np.random.Generator) -> Found:
    """The star of the same colour as the large heart."""
    what = partial(scene, random)
    field = one_of(random, [field for field in VALUES if field not in what.fields()])
    for anchor, other in unique(random, scene, without=field):
        value = getattr(scene.things[anchor], field)
        same = [
            number
            for number in what.among(scene.things)
            if number != anchor and getattr(scene.things[number], field) == value
        ]
        if len(same) == 1:
            attribute, joint = one_of(random, ATTRIBUTE_WORDS[field]), one_of(random, ("of", "with", "that has"))
            first, second = phrase(random, what, "bare"), phrase(random, other, "the")
            yield same[0], f"the {first} {joint} the same {attribute} as {second}"


_FORMS = (by_attributes, by_attributes, by_attributes, _only, _by_size, _by_comparison, _unlike, _alike, _alike)
