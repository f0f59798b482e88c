"""Claims about a scene, each found together with a false one of the same form.

Whoever reads only the words must not be able to tell which of the two is true. Hence a claim is made only where the
scene has both a true and a false one that name the same attributes, and both are drawn in the same way; a false claim
names what is in the picture, only not together.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from uniter.scenes.relations import DIRECTIONS, EXTREMES, PLACES, extreme, holds, place
from uniter.scenes.words import VALUES, Description, describe, one_of
from uniter.scenes.world import Scene, Thing

TRIES = 30


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a scene makes true or false.

    Args:
        kind: a key of `FAMILIES`.
        whats: the descriptions it is about, in order.
        relation: a relation, extreme, place, comparison or attribute, as the kind needs it.
        value: the value of an attribute that it states.
        number: the number that it states.
    """

    kind: str
    whats: tuple[Description, ...]
    relation: str = ""
    value: str = ""
    number: int = 0


Pair = tuple[Claim, Claim]

NAMINGS = (
    ("shape", "colour"),
    ("shape", "colour"),
    ("shape", "size"),
    ("shape", "texture"),
    ("shape", "colour", "size"),
    ("shape", "colour", "texture"),
    ("shape", "size", "texture"),
    ("shape", "colour", "size", "texture"),
    ("colour", "texture"),
    ("colour", "size"),
)
"""Which attributes a description names."""


def field_of(value: str) -> str:
    """The attribute that a value belongs to."""
    return next(field for field, values in VALUES.items() if value in values)


def unique(
    random: np.random.Generator, scene: Scene, without: str = "", fields: tuple = ()
) -> list[tuple[int, Description]]:
    """Each thing that a description singles out, with the description.

    Args:
        random: draws which attributes to name, unless `fields` says it.
        scene: the picture.
        without: an attribute that must not be named.
        fields: the attributes to name.
    """
    choices = [naming for naming in (*NAMINGS, ("shape",), ("shape",)) if without not in naming]
    fields = fields or one_of(random, choices)
    found = [(number, describe(thing, fields)) for number, thing in enumerate(scene.things)]
    return [(number, what) for number, what in found if len(what.among(scene.things)) == 1]


def allowed(scene: Scene, *whats: Description) -> bool:
    """Whether these may be spoken of: held-out colour-shape pairs are for the split `novel` alone."""
    return scene.split == "novel" or not any(what.held_out() for what in whats)


def _exists(scene: Scene, random: np.random.Generator) -> Pair | None:
    fields = one_of(random, NAMINGS)
    real = describe(one_of(random, scene.things), fields)
    for _ in range(TRIES):
        values = {field: getattr(one_of(random, scene.things), field) for field in fields}
        false = Description(**values)
        if not false.among(scene.things) and allowed(scene, false):
            return Claim("exists", (real,)), Claim("exists", (false,))
    return None


def _both(scene: Scene, random: np.random.Generator) -> Pair | None:
    other = one_of(random, ("colour", "colour", "size", "texture"))
    fields = ("shape", other)
    found: dict[bool, Claim] = {}
    for _ in range(TRIES):
        first, second = (describe(one_of(random, scene.things), fields) for _ in range(2))
        if first.shape == second.shape or getattr(first, other) == getattr(second, other):
            continue
        swapped = (
            Description(**{"shape": first.shape, other: getattr(second, other)}),
            Description(**{"shape": second.shape, other: getattr(first, other)}),
        )
        found.setdefault(True, Claim("both", (first, second)))
        if not all(what.among(scene.things) for what in swapped) and allowed(scene, *swapped):
            found.setdefault(False, Claim("both", swapped))
    return _pair(found)


def _attribute(scene: Scene, random: np.random.Generator) -> Pair | None:
    field = one_of(random, tuple(VALUES))
    named = unique(random, scene, without=field)
    if not named:
        return None
    number, what = one_of(random, named)
    real = Claim("attribute", (what,), field, getattr(scene.things[number], field))
    for _ in range(TRIES):
        number, what = one_of(random, named)
        value = getattr(one_of(random, scene.things), field)
        if value != getattr(scene.things[number], field) and allowed(scene, conjunction(what, field, value)):
            return real, Claim("attribute", (what,), field, value)
    return None


def conjunction(what: Description, field: str, value: str) -> Description:
    """A description that names one more attribute."""
    return Description(**{name: getattr(what, name) for name in what.fields()} | {field: value})


def _place(scene: Scene, random: np.random.Generator) -> Pair | None:
    where = one_of(random, PLACES)
    found: dict[bool, Claim] = {}
    for number, what in shuffled(random, unique(random, scene)):
        answer = place(scene, where, scene.things[number])
        if answer is not None:
            found.setdefault(answer, Claim("place", (what,), where))
    return _pair(found)


def _relation(scene: Scene, random: np.random.Generator) -> Pair | None:
    relation = one_of(random, (*DIRECTIONS, "near", "near", "larger", "smaller"))
    without = "size" if relation in ("larger", "smaller") else ""
    first, second = unique(random, scene, without), unique(random, scene, without)
    found: dict[bool, Claim] = {}
    for a, what in shuffled(random, first):
        for b, other in shuffled(random, second):
            answer = holds(scene, relation, scene.things[a], scene.things[b]) if a != b else None
            if answer is not None:
                found.setdefault(answer, Claim("relation", (what, other), relation))
    return _pair(found)


def _somewhere(scene: Scene, random: np.random.Generator) -> Pair | None:
    relation = one_of(random, (*DIRECTIONS, "near"))
    fields = [one_of(random, NAMINGS[:6]) for _ in range(2)]
    found: dict[bool, Claim] = {}
    for _ in range(TRIES):
        what, other = (describe(one_of(random, scene.things), naming) for naming in fields)
        if what.shape == other.shape:
            continue
        answers = [
            holds(scene, relation, scene.things[a], scene.things[b])
            for a in what.among(scene.things)
            for b in other.among(scene.things)
        ]
        if True in answers or None not in answers:
            found.setdefault(True in answers, Claim("somewhere", (what, other), relation))
    return _pair(found)


def _same(scene: Scene, random: np.random.Generator) -> Pair | None:
    field = one_of(random, tuple(VALUES))
    first, second = unique(random, scene, without=field), unique(random, scene, without=field)
    found: dict[bool, Claim] = {}
    for a, what in shuffled(random, first):
        for b, other in shuffled(random, second):
            if a != b:
                answer = getattr(scene.things[a], field) == getattr(scene.things[b], field)
                found.setdefault(answer, Claim("same", (what, other), field))
    return _pair(found)


def counts(scene: Scene, fields: tuple[str, ...]) -> Counter[Description]:
    """How many things of each kind there are, kinds being told apart by these attributes."""
    return Counter(describe(thing, fields) for thing in scene.things)


def compare(count: int, relation: str, number: int) -> bool:
    """Whether a count is exactly, at least, at most, more than or fewer than a number."""
    return {
        "exactly": count == number,
        "at least": count >= number,
        "at most": count <= number,
        "more than": count > number,
        "fewer than": count < number,
    }[relation]


def _number(scene: Scene, random: np.random.Generator) -> Pair | None:
    relation = one_of(random, ("exactly", "exactly", "at least", "at most", "more than", "fewer than"))
    number = int(random.integers(1, 6)) + (relation == "at least") + (relation == "fewer than")
    fields = one_of(
        random, (("shape",), ("colour",), ("size",), ("texture",), ("shape", "colour"), ("shape", "texture"))
    )
    found: dict[bool, Claim] = {}
    for what, count in shuffled(random, list(counts(scene, fields).items())):
        answer = compare(count, relation, number)
        if abs(count - number) <= 2:
            found.setdefault(answer, Claim("number", (what,), relation, number=number))
    return _pair(found)


def _more(scene: Scene, random: np.random.Generator) -> Pair | None:
    relation = one_of(random, ("more", "fewer", "equal"))
    fields = one_of(random, (("shape",), ("colour",), ("size",), ("texture",), ("shape",), ("colour",)))
    found: dict[bool, Claim] = {}
    kinds = list(counts(scene, fields).items())
    for what, count in shuffled(random, kinds):
        for other, than in shuffled(random, kinds):
            if what == other or (count == than and relation != "equal"):
                continue
            answer = {"more": count > than, "fewer": count < than, "equal": count == than}[relation]
            found.setdefault(answer, Claim("more", (what, other), relation))
    return _pair(found)


def _all(scene: Scene, random: np.random.Generator) -> Pair | None:
    quantity = one_of(random, ("all", "all", "any"))
    field, stated = (tuple(VALUES)[k] for k in random.permutation(4)[:2])
    if stated == "shape" and field != "shape":
        field, stated = stated, field
    found: dict[bool, Claim] = {}
    for what, count in shuffled(random, list(counts(scene, (field,)).items())):
        if count < 2:
            continue
        members = {getattr(scene.things[number], stated) for number in what.among(scene.things)}
        for value in shuffled(random, sorted({getattr(thing, stated) for thing in scene.things})):
            answer = members == {value} if quantity == "all" else value in members
            if allowed(scene, conjunction(what, stated, value)):
                found.setdefault(answer, Claim("all", (what,), quantity, value))
    return _pair(found)


def _extreme(scene: Scene, random: np.random.Generator) -> Pair | None:
    which = one_of(random, EXTREMES)
    stated = one_of(random, ("shape", "colour", "colour", "texture", "size"))
    if stated == "size" and which in ("largest", "smallest"):
        return None
    choices = [(), *[(field,) for field in ("shape", "colour", "texture") if field != stated]]
    fields = one_of(random, choices)
    found: dict[bool, Claim] = {}
    for what in shuffled(random, list(counts(scene, fields))):
        members = [scene.things[number] for number in what.among(scene.things)]
        number = extreme(scene, which, members)
        if number is None:
            continue
        for other in shuffled(random, list(scene.things)):
            value = getattr(other, stated)
            answer = getattr(members[number], stated) == value
            if allowed(scene, conjunction(what, stated, value)):
                found.setdefault(answer, Claim("extreme", (what,), which, value))
    return _pair(found)


def shuffled(random: np.random.Generator, items: list) -> list:
    """The items in a random order."""
    return [items[number] for number in random.permutation(len(items))]


def _pair(found: dict[bool, Claim]) -> Pair | None:
    return (found[True], found[False]) if len(found) == 2 else None


FAMILIES: dict[str, Callable[[Scene, np.random.Generator], Pair | None]] = {
    "exists": _exists,
    "both": _both,
    "attribute": _attribute,
    "place": _place,
    "relation": _relation,
    "somewhere": _somewhere,
    "same": _same,
    "number": _number,
    "more": _more,
    "all": _all,
    "extreme": _extreme,
}
"""Of each kind, what finds a true and a false claim in a scene, or None if this scene has not both."""


def is_true(scene: Scene, claim: Claim) -> bool | None:
    """Whether the scene makes the claim true, None if that is not clear or a description fits no single thing."""
    found = [what.among(scene.things) for what in claim.whats]
    things = [[scene.things[number] for number in numbers] for numbers in found]
    if claim.kind in ("exists", "both"):
        return all(found)
    if claim.kind == "number":
        return compare(len(found[0]), claim.relation, claim.number)
    if claim.kind == "more":
        first, second = len(found[0]), len(found[1])
        return {"more": first > second, "fewer": first < second, "equal": first == second}[claim.relation]
    if claim.kind == "all":
        values = [getattr(thing, field_of(claim.value)) == claim.value for thing in things[0]]
        return all(values) if claim.relation == "all" else any(values)
    if claim.kind == "extreme":
        number = extreme(scene, claim.relation, things[0])
        return None if number is None else getattr(things[0][number], field_of(claim.value)) == claim.value
    if claim.kind == "somewhere":
        answers = [holds(scene, claim.relation, a, b) for a in things[0] for b in things[1] if a is not b]
        return True if True in answers else (None if None in answers else False)
    if any(len(members) != 1 for members in things):
        return None
    return _of_single_things(scene, claim, [members[0] for members in things])


def _of_single_things(scene: Scene, claim: Claim, things: list[Thing]) -> bool | None:
    if claim.kind == "attribute":
        return getattr(things[0], claim.relation) == claim.value
    if claim.kind == "place":
        return place(scene, claim.relation, things[0])
    if claim.kind == "same":
        return getattr(things[0], claim.relation) == getattr(things[1], claim.relation)
    return holds(scene, claim.relation, things[0], things[1])
