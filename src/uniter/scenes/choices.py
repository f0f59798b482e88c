"""Questions with four answers and four rationales to choose from, with references to things (as VCR's).

A reference stands for a thing by its number and is read as its shape: "the small [3]" is "the small star"; what is said
about it singles it out. The four answers of a question are of one form, and so are the four rationales; one of each is
true of the picture, and each false one would be true of another picture. A rationale gives what shows that the answer
is right, by a witness: "because it has the same colour as the [5]".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from uniter import draws
from uniter.scenes.claims import allowed, conjunction, shuffled, unique
from uniter.scenes.phrasing import ATTRIBUTE_WORDS, RELATION_WORDS
from uniter.scenes.relations import DIRECTIONS, holds
from uniter.scenes.words import VALUES, Description, one_of, word
from uniter.scenes.world import Scene, Thing

CHOICES = 4

Words = tuple[str | tuple[int], ...]
"""A text: words, and references (positions in `scene.things`)."""

_NAMINGS = tuple(
    ("shape", *more) for number in range(4) for more in combinations(("colour", "texture", "size"), number)
)
_STATED = ("colour", "colour", "texture")  # attributes of at least four values


@dataclass(frozen=True, slots=True)
class Choice:
    """A question, its four answers and four rationales.

    Args:
        question: the question.
        answers: four, of which `answer` is right.
        rationales: four, of which `rationale` is right under the right answer.
        answer: 0..3.
        rationale: 0..3.
        kind: value, same or relation.
    """

    question: Words
    answers: tuple[Words, ...]
    rationales: tuple[Words, ...]
    answer: int
    rationale: int
    kind: str


def choices(scene: Scene, seed: int, count: int) -> list[Choice]:
    """Questions about a scene, each with four answers and four rationales; the words alone favour none of them.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many at most; pictures of few things have fewer or none.
    """
    found: dict[Words, Choice] = {}
    for number in range(count * 30 if len(scene.things) > CHOICES else 0):
        random = draws.generator(seed, "choice", scene.image_id, number)
        choice = one_of(random, _FORMS)(scene, random)
        if choice is not None:
            found.setdefault(choice.question, choice)
        if len(found) == count:
            break
    return list(found.values())


def _named(scene: Scene, random: np.random.Generator, without: str = "") -> dict[int, Description]:
    """The things that one way of naming singles out; all that can be chosen between are named in one way."""
    fields = one_of(random, [naming for naming in _NAMINGS if without not in naming])
    return dict(unique(random, scene, fields=fields))


def _call(random: np.random.Generator, number: int, what: Description) -> Words:
    adjectives = [word(random, getattr(what, field)) for field in ("size", "texture", "colour") if getattr(what, field)]
    return ("the", *adjectives, (number,))


def _put(text: str, **things: Words) -> Words:
    """A template as words, things in their places."""
    found: list[str | tuple[int]] = []
    for part in text.split():
        found += things.get(part.strip("{}"), (part,)) if part.startswith("{") else (part,)
    return tuple(found)


def _choice(
    random: np.random.Generator, kind: str, question: Words, answers: list[Words], rationales: list[Words]
) -> Choice:
    """Of answers and rationales the first one is right; only as many as are chosen from are kept, and mixed."""
    (mixed, answer), (reasons, rationale) = (_mixed(random, texts) for texts in (answers, rationales))
    return Choice(question, mixed, reasons, answer, rationale, kind)


def _mixed(random: np.random.Generator, texts: list[Words]) -> tuple[tuple[Words, ...], int]:
    right, *wrong = texts[:CHOICES]
    position = int(random.integers(CHOICES))
    return (*wrong[:position], right, *wrong[position:]), position


def _value(scene: Scene, random: np.random.Generator) -> Choice | None:
    """What colour is the [3]? It is red, because it has the same colour as the [5]."""
    stated = one_of(random, _STATED)
    targets, witnesses = _named(scene, random, stated), _named(scene, random, stated)
    found = next(_alike(scene, random, stated, targets, witnesses), None)
    if found is None:
        return None
    target, same, different = found
    values = _values(scene, random, stated, scene.things[target], targets[target])
    attribute = one_of(random, ATTRIBUTE_WORDS[stated])
    it = _call(random, target, targets[target])
    questions = (
        f"what {attribute} is {{it}} ?",
        f"which {attribute} does {{it}} have ?",
        f"what is the {attribute} of {{it}} ?",
    )
    answer = one_of(random, ("{it} is {value} .", "it is {value} .", "{value} ."))
    reasons = (
        f"because it has the {attribute} of {{thing}} .",
        f"{{thing}} has the same {attribute} .",
        f"it matches {{thing}} in {attribute} .",
    )
    reason = one_of(random, reasons)
    question = _put(one_of(random, questions), it=it)
    answers = [_put(answer, it=it, value=(word(random, value),)) for value in values]
    shown = [same, *different]
    rationales = [_put(reason, thing=_call(random, number, witnesses[number])) for number in shown]
    return _choice(random, "value", question, answers, rationales)


def _same(scene: Scene, random: np.random.Generator) -> Choice | None:
    """What has the same colour as the [3]? The [5], because both are red."""
    stated = one_of(random, _STATED)
    targets, offered = _named(scene, random, stated), _named(scene, random, stated)
    found = next(_alike(scene, random, stated, targets, offered), None)
    if found is None:
        return None
    target, right, different = found
    values = _values(scene, random, stated, scene.things[target], targets[target], offered[right])
    attribute = one_of(random, ATTRIBUTE_WORDS[stated])
    it, thing = _call(random, target, targets[target]), _call(random, right, offered[right])
    questions = (
        f"what has the same {attribute} as {{it}} ?",
        f"which thing matches {{it}} in {attribute} ?",
        f"what shares its {attribute} with {{it}} ?",
    )
    answer = one_of(random, ("{thing} does .", "{thing} .", "it is {thing} ."))
    reason = one_of(random, ("because both are {value} .", "{thing} and {it} are {value} .", "the two are {value} ."))
    question = _put(one_of(random, questions), it=it)
    answers = [_put(answer, thing=_call(random, number, offered[number])) for number in (right, *different)]
    rationales = [_put(reason, it=it, thing=thing, value=(word(random, value),)) for value in values]
    return _choice(random, "same", question, answers, rationales)


def _alike(
    scene: Scene,
    random: np.random.Generator,
    stated: str,
    targets: dict[int, Description],
    others: dict[int, Description],
) -> Iterator[tuple[int, int, list[int]]]:
    """A thing, another of the same colour (...), and those of other colours; all are of another shape than the first.

    Things of one shape are often of one colour: those of the first one's shape would give the answer away.
    """
    for target in shuffled(random, list(targets)):
        thing = scene.things[target]
        apart = [n for n in shuffled(random, list(others)) if scene.things[n].shape != thing.shape]
        same = [n for n in apart if getattr(scene.things[n], stated) == getattr(thing, stated)]
        different = [n for n in apart if n not in same]
        if same and len(different) >= CHOICES - 1:
            yield target, same[0], different


def _values(scene: Scene, random: np.random.Generator, stated: str, thing: Thing, *whats: Description) -> list[str]:
    """The thing's own colour (...) and then others that may be said of these descriptions."""
    true = getattr(thing, stated)
    fits = lambda value: allowed(scene, *(conjunction(what, stated, value) for what in whats))
    return [true, *(v for v in shuffled(random, list(VALUES[stated])) if v != true and fits(v))]


def _relation(scene: Scene, random: np.random.Generator) -> Choice | None:
    """What is left of the [3]? The [5], because it is left of the [7], and the [7] is left of the [3]."""
    relation = one_of(random, DIRECTIONS)
    # not by size: what is between others is seldom at the edge, and large things seldom are
    anchors, offered, witnesses = (_named(scene, random, "size") for _ in range(3))
    found = next(_chains(scene, random, relation, anchors, (offered, witnesses)), None)
    if found is None:
        return None
    anchor, answered, shown = found
    words = one_of(random, RELATION_WORDS[relation])
    it, thing = _call(random, anchor, anchors[anchor]), _call(random, answered[0], offered[answered[0]])
    questions = (f"what is {words} {{it}} ?", f"which thing is {words} {{it}} ?")
    answer = one_of(random, ("{thing} is .", "{thing} .", "it is {thing} ."))
    reasons = (
        f"because it is {words} {{other}} , which is {words} {{it}} .",
        f"{{other}} is {words} {{it}} , and {{thing}} is {words} {{other}} .",
    )
    reason = one_of(random, reasons)
    question = _put(one_of(random, questions), it=it)
    answers = [_put(answer, thing=_call(random, number, offered[number])) for number in answered]
    rationales = [_put(reason, it=it, thing=thing, other=_call(random, number, witnesses[number])) for number in shown]
    return _choice(random, "relation", question, answers, rationales)


def _chains(
    scene: Scene,
    random: np.random.Generator,
    relation: str,
    anchors: dict[int, Description],
    others: tuple[dict[int, Description], dict[int, Description]],
) -> Iterator[tuple[int, list[int], list[int]]]:
    """An anchor, a thing left (...) of it and some that are not, a thing between the two and some that are not."""
    related = lambda a, b: holds(scene, relation, scene.things[a], scene.things[b])
    offered, witnesses = (shuffled(random, list(names)) for names in others)
    for anchor in shuffled(random, list(anchors)):
        false = [n for n in offered if n != anchor and related(n, anchor) is False]
        for right in offered:
            if right == anchor or not related(right, anchor):
                continue
            rest = {n: (related(right, n), related(n, anchor)) for n in witnesses if n not in (right, anchor)}
            between = [n for n, answers in rest.items() if all(answers)]
            outside = [n for n, answers in rest.items() if False in answers]
            if between and min(len(false), len(outside)) >= CHOICES - 1:
                yield anchor, [right, *false], [between[0], *outside]


_FORMS: tuple[Callable[[Scene, np.random.Generator], Choice | None], ...] = (_value, _same, _relation, _relation)
