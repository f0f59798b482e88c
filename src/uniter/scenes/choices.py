"""Questions with four answers and four rationales to choose from, with references to things (as VCR's).

A reference stands for a thing by its number and is read as its shape: "the small [3]" is "the small star"; what is said
about it singles it out. The four answers of a question are of one form, and so are the four rationales; one of each is
true of the picture, and each false one would be true of another picture. A rationale gives what shows that the answer
is right, by a witness: "because it has the same colour as the [5]".
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from uniter import draws
from uniter.scenes.claims import allowed, conjunction, shuffled, unique
from uniter.scenes.phrasing import ATTRIBUTE_WORDS, RELATION_WORDS
from uniter.scenes.relations import DIRECTIONS, holds
from uniter.scenes.words import VALUES, Description, one_of, word
from uniter.scenes.world import Scene

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


def _split(text: str, **things: Words) -> Words:
    """A template as words, things in their places."""
    found: list[str | tuple[int]] = []
    for part in text.split():
        found += things.get(part.strip("{}"), (part,)) if part.startswith("{") else (part,)
    return tuple(found)


def _mixed(random: np.random.Generator, right: Words, wrong: list[Words]) -> tuple[tuple[Words, ...], int]:
    """The right text among the wrong ones, and its position."""
    position = int(random.integers(CHOICES))
    texts = wrong[: CHOICES - 1]
    return (*texts[:position], right, *texts[position:]), position


def _value(scene: Scene, random: np.random.Generator) -> Choice | None:
    """What colour is the [3]? It is red, because it has the same colour as the [5]."""
    stated = one_of(random, _STATED)
    targets, witnesses = _named(scene, random, stated), _named(scene, random, stated)
    for target, what in shuffled(random, list(targets.items())):
        value = getattr(scene.things[target], stated)
        others = [n for n in witnesses if n != target and scene.things[n].shape != what.shape]
        same = [n for n in others if getattr(scene.things[n], stated) == value]
        different = [n for n in others if getattr(scene.things[n], stated) != value]
        values = [v for v in VALUES[stated] if v != value and allowed(scene, conjunction(what, stated, v))]
        if not same or len(different) < CHOICES - 1 or len(values) < CHOICES - 1:
            continue
        attribute = one_of(random, ATTRIBUTE_WORDS[stated])
        it = _call(random, target, what)
        ask = one_of(
            random,
            (
                f"what {attribute} is {{it}} ?",
                f"which {attribute} does {{it}} have ?",
                f"what is the {attribute} of {{it}} ?",
            ),
        )
        say = one_of(random, ("{it} is {value} .", "it is {value} .", "{value} ."))
        reason = one_of(
            random,
            (
                f"because it has the {attribute} of {{w}} .",
                f"{{w}} has the same {attribute} .",
                f"it matches {{w}} in {attribute} .",
            ),
        )
        tell = lambda v: _split(say, it=it, value=(word(random, v),))
        show = lambda n: _split(reason, w=_call(random, n, witnesses[n]))
        answers, answer = _mixed(random, tell(value), [tell(v) for v in shuffled(random, values)])
        wrong = [show(n) for n in shuffled(random, different)]
        rationales, rationale = _mixed(random, show(one_of(random, same)), wrong)
        return Choice(_split(ask, it=it), answers, rationales, answer, rationale, "value")
    return None


def _same(scene: Scene, random: np.random.Generator) -> Choice | None:
    """What has the same colour as the [3]? The [5], because both are red."""
    stated = one_of(random, _STATED)
    targets, offered = _named(scene, random, stated), _named(scene, random, stated)
    for target, what in shuffled(random, list(targets.items())):
        value = getattr(scene.things[target], stated)
        others = [n for n in offered if n != target and scene.things[n].shape != what.shape]
        same = [n for n in others if getattr(scene.things[n], stated) == value]
        different = [n for n in others if getattr(scene.things[n], stated) != value]
        if not same or len(different) < CHOICES - 1:
            continue
        right = one_of(random, same)
        fits = lambda v: allowed(scene, conjunction(what, stated, v), conjunction(offered[right], stated, v))
        values = [v for v in VALUES[stated] if v != value and fits(v)]
        if len(values) < CHOICES - 1:
            continue
        attribute = one_of(random, ATTRIBUTE_WORDS[stated])
        it = _call(random, target, what)
        ask = one_of(
            random,
            (
                f"what has the same {attribute} as {{it}} ?",
                f"which thing matches {{it}} in {attribute} ?",
                f"what shares its {attribute} with {{it}} ?",
            ),
        )
        say = one_of(random, ("{thing} does .", "{thing} .", "it is {thing} ."))
        reason = one_of(
            random, ("because both are {value} .", "{thing} and {it} are {value} .", "the two are {value} .")
        )
        tell = lambda n: _split(say, thing=_call(random, n, offered[n]))
        called = _call(random, right, offered[right])
        show = lambda v: _split(reason, it=it, thing=called, value=(word(random, v),))
        answers, answer = _mixed(random, tell(right), [tell(n) for n in shuffled(random, different)])
        rationales, rationale = _mixed(random, show(value), [show(v) for v in shuffled(random, values)])
        return Choice(_split(ask, it=it), answers, rationales, answer, rationale, "same")
    return None


def _relation(scene: Scene, random: np.random.Generator) -> Choice | None:
    """What is left of the [3]? The [5], because it is left of the [7], and the [7] is left of the [3]."""
    relation = one_of(random, DIRECTIONS)
    anchors, offered, witnesses = (_named(scene, random, "size") for _ in range(3))
    related = lambda a, b: holds(scene, relation, scene.things[a], scene.things[b])
    for anchor, what in shuffled(random, list(anchors.items())):
        true = [n for n in offered if n != anchor and related(n, anchor)]
        false = [n for n in offered if n != anchor and related(n, anchor) is False]
        if len(false) < CHOICES - 1:
            continue
        for right in shuffled(random, true):
            chain = {n: (related(right, n), related(n, anchor)) for n in witnesses if n not in (right, anchor)}
            between = [n for n, answers in chain.items() if all(answers)]
            outside = [n for n, answers in chain.items() if False in answers]
            if not between or len(outside) < CHOICES - 1:
                continue
            words = one_of(random, RELATION_WORDS[relation])
            it, called = _call(random, anchor, what), _call(random, right, offered[right])
            ask = one_of(random, (f"what is {words} {{it}} ?", f"which thing is {words} {{it}} ?"))
            say = one_of(random, ("{thing} is .", "{thing} .", "it is {thing} ."))
            reason = one_of(
                random,
                (
                    f"because it is {words} {{w}} , which is {words} {{it}} .",
                    f"{{w}} is {words} {{it}} , and {{thing}} is {words} {{w}} .",
                ),
            )
            tell = lambda n: _split(say, thing=_call(random, n, offered[n]))
            show = lambda n: _split(reason, it=it, thing=called, w=_call(random, n, witnesses[n]))
            answers, answer = _mixed(random, tell(right), [tell(n) for n in shuffled(random, false)])
            wrong = [show(n) for n in shuffled(random, outside)]
            rationales, rationale = _mixed(random, show(one_of(random, between)), wrong)
            return Choice(_split(ask, it=it), answers, rationales, answer, rationale, "relation")
    return None


_FORMS: tuple[Callable[[Scene, np.random.Generator], Choice | None], ...] = (_value, _same, _relation)
