"""True and false statements about a scene, and questions with answers."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from uniter import draws
from uniter.scenes.captions import caption
from uniter.scenes.claims import FAMILIES, counts, unique
from uniter.scenes.expressions import extremes, related
from uniter.scenes.phrasing import ASK, ATTRIBUTE_WORDS, DENY, DOUBT, SAY, phrase, put
from uniter.scenes.relations import EXTREMES
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
        yield from extremes(scene, random, what, which)
    else:
        yield from related(scene, random, what, without)
