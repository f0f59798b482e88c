"""True and false statements about a scene, questions with answers, and expressions that single out one thing."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from uniter import draws
from uniter.scenes.captions import caption
from uniter.scenes.claims import FAMILIES, NAMINGS, counts, unique
from uniter.scenes.phrasing import ASK, ATTRIBUTE_WORDS, DENY, DOUBT, EXTREME_WORDS, RELATION_WORDS, SAY, phrase, put
from uniter.scenes.relations import DIRECTIONS, EXTREMES, extreme, holds, middle
from uniter.scenes.words import VALUES, Description, describe, finish, one_of
from uniter.scenes.world import Scene

ANSWERS = ("yes", "no", *(value for values in VALUES.values() for value in values), *(str(n) for n in range(7)))
"""Every answer there is."""

CHANCE = {"colour": 9, "shape": 14, "size": 3, "texture": 4, "count": 7} | dict.fromkeys(FAMILIES, 2)
"""Of each kind of question, the number of its answers."""

_STATEMENTS = ("exists", "both", "attribute", "place", "relation", "relation", "somewhere", "same", "number", "more")
_STATEMENTS += ("all", "extreme")
_QUERIES = ("colour", "colour", "shape", "shape", "size", "texture", *("count",) * 8)

# The share of scenes in which something named by these attributes occurs 0, 1, .. 6 times. A count that few scenes have
# is looked for more often, so that each is found equally often. `benchmarks/scenes_text_only.py --counts` prints them.
_FREQUENCY = {
    ("shape",): (1.0, 0.684, 0.592, 0.420, 0.249, 0.130, 0.078),
    ("colour",): (0.999, 0.666, 0.576, 0.411, 0.257, 0.146, 0.080),
    ("texture",): (0.838, 0.458, 0.485, 0.412, 0.304, 0.179, 0.120),
    ("size",): (0.240, 0.506, 0.593, 0.494, 0.332, 0.204, 0.088),
    ("shape", "colour"): (0.711, 0.942, 0.645, 0.255, 0.086, 0.034, 0.016),
    ("shape", "texture"): (0.676, 0.933, 0.674, 0.294, 0.105, 0.037, 0.019),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene.

    Args:
        text: the question.
        answer: one of `ANSWERS`.
        kind: a key of `CHANCE`.
    """

    text: str
    answer: str
    kind: str


def captions(scene: Scene, seed: int, count: int = 5) -> list[str]:
    """True descriptions, each of other things of the picture, so that each finds the picture among others.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many.
    """
    order = draws.permutation(seed, "caption-order", len(scene.things), scene.image_id)
    found: list[str] = []
    for number in range(count * 4):
        random = draws.generator(seed, "caption", scene.image_id, number)
        text = finish(random, caption(scene, random, np.roll(order, -2 * number)))
        if text not in found and len(found) < count:
            found.append(text)
    return found


def statement(scene: Scene, seed: int, k: int) -> tuple[str, bool]:
    """The k-th statement about a scene and whether it is true; its words do not give that away.

    Args:
        scene: the picture.
        seed: the world's seed.
        k: 0, 1, ...
    """
    random = draws.generator(seed, "statement", scene.image_id, k)
    while True:
        pair = FAMILIES[one_of(random, _STATEMENTS)](scene, random)
        if pair is None:
            continue
        holds_true, denied = random.random() < 0.5, random.random() < 0.3
        text = put(random, pair[0] if holds_true else pair[1], DENY if denied else SAY)
        if text is not None:
            return finish(random, text), holds_true != denied


def questions(scene: Scene, seed: int, count: int) -> list[Question]:
    """Questions with answers of one word; the words alone leave each answer of a kind as likely as the others.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many; half of them ask for yes or no.
    """
    found: dict[str, Question] = {}
    for number in range(count * 12):
        random = draws.generator(seed, "question", scene.image_id, number)
        kind = one_of(random, _STATEMENTS if random.random() < 0.5 else _QUERIES)
        question = _yes_no(scene, random, kind) if kind in FAMILIES else _query(scene, random, kind)
        if question is not None and question.text.lower() not in found:
            found[question.text.lower()] = question
        if len(found) == count:
            break
    return list(found.values())


def _yes_no(scene: Scene, random: np.random.Generator, kind: str) -> Question | None:
    pair = FAMILIES[kind](scene, random)
    if pair is None:
        return None
    yes, doubt = random.random() < 0.5, random.random() < 0.12
    text = put(random, pair[0] if yes != doubt else pair[1], DOUBT if doubt else ASK)
    return None if text is None else Question(finish(random, text), "yes" if yes else "no", kind)


def _query(scene: Scene, random: np.random.Generator, kind: str) -> Question | None:
    return _how_many(scene, random) if kind == "count" else _which_value(scene, random, kind)


def _how_many(scene: Scene, random: np.random.Generator) -> Question | None:
    fields = one_of(random, tuple(_FREQUENCY))
    rarity = 1 / np.array(_FREQUENCY[fields])
    number = int(random.choice(7, p=rarity / rarity.sum()))
    present = counts(scene, fields)
    if number:
        kinds = [what for what, times in present.items() if times == number]
    else:
        kinds = _absent(scene, random, fields)
    if not kinds:
        return None
    what = one_of(random, kinds)
    template = one_of(
        random,
        (
            "how many {many} are there?",
            "how many {many} are in the picture?",
            "how many {many} can you see?",
            "how many {many} does the picture show?",
            "what is the number of {many}?",
            "count the {many}: how many are there?",
            "how many of the things are {many}?",
        ),
    )
    return Question(finish(random, template.format(many=phrase(random, what, "many"))), str(number), "count")


def _absent(scene: Scene, random: np.random.Generator, fields: tuple[str, ...]) -> list[Description]:
    """Kinds that do not occur in the scene, though their attributes may."""
    found = []
    for _ in range(10):
        if len(fields) == 1:
            what = Description(**{fields[0]: one_of(random, VALUES[fields[0]])})
        else:
            what = Description(**{field: getattr(one_of(random, scene.things), field) for field in fields})
        if not what.among(scene.things) and (scene.split == "novel" or not what.held_out()):
            found.append(what)
    return found


def _which_value(scene: Scene, random: np.random.Generator, field: str) -> Question | None:
    """What colour (...) something has that is named without any word for a colour (...)."""
    if random.random() < 0.5:
        named = [(number, phrase(random, what, "the")) for number, what in unique(random, scene, without=field)]
    else:
        named = list(_indirect(scene, random, field))
    if not named:
        return None
    number, words = one_of(random, named)
    attribute = one_of(random, ATTRIBUTE_WORDS[field])
    templates = [
        "what {attribute} is {the}?",
        "what {attribute} does {the} have?",
        "what is the {attribute} of {the}?",
        "which {attribute} is {the}?",
        "which {attribute} does {the} have?",
        "tell me, what {attribute} is {the}?",
    ]
    if field == "size":
        templates += ["how large is {the}?", "how big is {the}?"]
    text = one_of(random, templates).format(attribute=attribute, the=words)
    return Question(finish(random, text), getattr(scene.things[number], field), field)


def _indirect(scene: Scene, random: np.random.Generator, without: str) -> Iterator[tuple[int, str]]:
    """Things singled out by a relation to another thing or by being extreme, without naming an attribute."""
    fields = one_of(random, [f for f in ((), (), ("shape",), ("colour",), ("texture",)) if without not in f])
    what = describe(one_of(random, scene.things), fields)
    if random.random() < 0.4:
        which = one_of(random, EXTREMES if without != "size" else EXTREMES[:4])
        yield from _extremes(scene, random, what, which)
    else:
        yield from _related(scene, random, what, without)


def _extremes(scene: Scene, random: np.random.Generator, what: Description, which: str) -> Iterator[tuple[int, str]]:
    members = what.among(scene.things)
    number = extreme(scene, which, [scene.things[member] for member in members])
    if number is not None:
        yield members[number], f"the {one_of(random, EXTREME_WORDS[which])} {phrase(random, what, 'bare')}"


def _related(scene: Scene, random: np.random.Generator, what: Description, without: str) -> Iterator[tuple[int, str]]:
    """The one thing that fits and is in a relation to an anchor, all others that fit clearly not being so."""
    relation = one_of(random, (*DIRECTIONS, "near", *(() if without == "size" else ("larger", "smaller"))))
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


def referring(scene: Scene, seed: int, count: int) -> list[tuple[str, int]]:
    """Expressions that fit exactly one thing, with the position of that thing in `scene.things`.

    About half of them need a relation or a comparison; things that resemble others are preferred.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many at most; a scene of things that are all alike may have fewer.
    """
    found: dict[str, int] = {}
    for number in range(count * 12):
        random = draws.generator(seed, "referring", scene.image_id, number)
        choices = (_by_attributes, _by_attributes, _by_relation, _by_extreme, _by_distance, _by_order)
        choice = one_of(random, choices[:2] if random.random() < 0.45 else choices[2:])
        for thing, words in choice(scene, random):
            text = finish(random, words if random.random() < 0.6 else words.removeprefix("the "))
            found.setdefault(text, thing)
            break
        if len(found) == count:
            break
    return list(found.items())


def _target(scene: Scene, random: np.random.Generator) -> int:
    """A thing, preferably one that shares its shape or colour with another."""
    numbers = [int(number) for number in random.permutation(len(scene.things))]
    for number in numbers[:3]:
        thing = scene.things[number]
        if any(other is not thing and thing.shape == other.shape for other in scene.things):
            return number
    return numbers[0]


def _by_attributes(scene: Scene, random: np.random.Generator) -> Iterator[tuple[int, str]]:
    target = _target(scene, random)
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


def _partial(scene: Scene, random: np.random.Generator, least: int = 2) -> Description:
    """A description of a thing that fits others too, if there is one."""
    thing = scene.things[_target(scene, random)]
    namings = [("shape",), ("shape",), ("colour",), ("texture",), ("shape", "colour"), ("shape", "texture"), ()]
    for number in random.permutation(len(namings)):
        what = describe(thing, namings[number])
        if len(what.among(scene.things)) >= least:
            return what
    return Description()


def _by_relation(scene: Scene, random: np.random.Generator) -> Iterator[tuple[int, str]]:
    yield from _related(scene, random, _partial(scene, random), "")


def _by_extreme(scene: Scene, random: np.random.Generator) -> Iterator[tuple[int, str]]:
    yield from _extremes(scene, random, _partial(scene, random), one_of(random, EXTREMES))


def _by_distance(scene: Scene, random: np.random.Generator) -> Iterator[tuple[int, str]]:
    """The star that is closest to the ring."""
    what = _partial(scene, random)
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


def _by_order(scene: Scene, random: np.random.Generator) -> Iterator[tuple[int, str]]:
    """The second star from the left."""
    what = _partial(scene, random, least=3)
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
