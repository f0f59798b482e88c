"""Hypotheses that a picture entails, contradicts or leaves open (as SNLI-VE's), whose words do not tell which.

What a picture leaves open must be said in the same words as what it decides. Hence every form of sentence has all
three labels, by one of two means:

- Somebody has picked one of the stars, and nobody says which: "it is red" is entailed if all of them are red,
  contradicted if none is, and open if some are.
- Half of a sentence speaks of what lies beyond the picture's edge too: "there is a red star, and here or outside the
  picture there is a blue ring". If the first half is false the sentence is contradicted; if the blue ring is there it
  is entailed; else it is open. The same with "or", and at most so many, the other way round.
"""

from collections.abc import Sequence

import numpy as np

from uniter import draws
from uniter.scenes.claims import (
    FAMILIES,
    NAMINGS,
    Claim,
    allowed,
    conjunction,
    counts,
    is_true,
    shuffled,
    unique,
)
from uniter.scenes.phrasing import DENY, PLACE_WORDS, RELATION_WORDS, SAY, Slots, phrase, predicate, put
from uniter.scenes.relations import DIRECTIONS, PLACES, holds, place
from uniter.scenes.words import VALUES, Description, finish, one_of
from uniter.scenes.world import Scene

LABELS = ("entailment", "contradiction", "neutral")

Sentences = dict[str, str]  # label -> a sentence of it, all of one form

_PLAIN = ("exists", "both", "attribute", "place", "relation", "somewhere", "same", "more", "all", "extreme")

_PICKED = (
    "one of the {many} has been picked, and it is {not}{said}",
    "somebody picked one of the {many}: it is {not}{said}",
    "I am thinking of one of the {many}, which is {not}{said}",
    "of the {many} in the picture, the one that was picked is {not}{said}",
    "the {bare} that I am thinking of is {not}{said}",
    "somebody has chosen one of the {many} here, and that one is {not}{said}",
)
_BEYOND = ("here or outside the picture", "in the picture or beyond its edge", "in view or out of view")
_COUNTED = ("counting those outside the picture", "with those beyond the edge", "together with those out of view")


def hypotheses(scene: Scene, seed: int, count: int) -> list[tuple[str, str]]:
    """Sentences about a scene with their labels, of `LABELS`; the words do not give the label away.

    Args:
        scene: the picture.
        seed: the world's seed.
        count: how many at most; pictures of few things that are all alike, or all different, may have fewer.
    """
    found: dict[str, str] = {}
    for number in range(count):
        form = one_of(draws.generator(seed, "hypothesis form", scene.image_id, number), _FORMS)
        for attempt in range(12):
            random = draws.generator(seed, "hypothesis", scene.image_id, number, attempt)
            sentences = form(scene, random)
            if sentences is not None:
                label = one_of(random, LABELS)
                found.setdefault(finish(random, sentences[label]), label)
                break
    return list(found.items())


def _picked(scene: Scene, random: np.random.Generator) -> Sentences | None:
    """Something said of one of several alike things, which one is left open."""
    say = one_of(random, (*(_value,) * 6, _place, _relation))
    choices = [(), *(("shape",),) * 4, ("colour",), ("colour",), ("texture",), ("shape", "texture")]
    fields = one_of(random, choices)
    kinds = [what for what, times in counts(scene, fields).items() if times >= 2]
    denied = random.random() < 0.2
    template = one_of(random, _PICKED)
    said = say(scene, random, kinds)
    if said is None:
        return None
    if denied:
        said["entailment"], said["contradiction"] = said["contradiction"], said["entailment"]
    return {
        label: template.format_map(
            {
                "many": phrase(random, what, "many"),
                "bare": phrase(random, what, "bare"),
                "not": "not " if denied else "",
                "said": words,
            }
        )
        for label, (what, words) in said.items()
    }


Said = dict[str, tuple[Description, str]]  # label -> the things picked from, and what is said of the one


def _label(answers: Sequence[bool | None]) -> str | None:
    """What all of some answers amount to for one of them that nobody knows."""
    if True in answers and False in answers:
        return "neutral"
    if None in answers or not answers:
        return None
    return "entailment" if answers[0] else "contradiction"


def _value(scene: Scene, random: np.random.Generator, kinds: list[Description]) -> Said | None:
    stated = one_of(random, tuple(VALUES))
    found: Said = {}
    for what in shuffled(random, kinds):
        if stated in what.fields():
            return None
        members = [scene.things[number] for number in what.among(scene.things)]
        for value in shuffled(random, sorted({getattr(thing, stated) for thing in scene.things})):
            label = _label([getattr(thing, stated) == value for thing in members])
            if label is not None and allowed(scene, conjunction(what, stated, value)):
                found.setdefault(label, (what, predicate(random, value)))
    return found if len(found) == len(LABELS) else None


def _place(scene: Scene, random: np.random.Generator, kinds: list[Description]) -> Said | None:
    found: Said = {}
    for where in shuffled(random, list(PLACES)):
        for what in shuffled(random, kinds):
            label = _label([place(scene, where, scene.things[number]) for number in what.among(scene.things)])
            if label is not None:
                found.setdefault(label, (what, one_of(random, PLACE_WORDS[where])))
    return found if len(found) == len(LABELS) else None


def _relation(scene: Scene, random: np.random.Generator, kinds: list[Description]) -> Said | None:
    relation = one_of(random, (*DIRECTIONS, "near"))
    found: Said = {}
    for anchor, other in shuffled(random, unique(random, scene)):
        for what in shuffled(random, kinds):
            members = [number for number in what.among(scene.things) if number != anchor]
            things = [scene.things[number] for number in members]
            label = _label([holds(scene, relation, thing, scene.things[anchor]) for thing in things])
            if label is not None and len(members) >= 2:
                words = f"{one_of(random, RELATION_WORDS[relation])} {phrase(random, other, 'the')}"
                found.setdefault(label, (what, words))
    return found if len(found) == len(LABELS) else None


def _plain(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    """A true and a false sentence of one form that the picture decides."""
    pair = FAMILIES[one_of(random, _PLAIN)](scene, random)
    if pair is None:
        return None
    denied = random.random() < 0.2
    true, false = (put(random, claim, DENY if denied else SAY) for claim in (pair[denied], pair[not denied]))
    return None if true is None or false is None else (true, false)


def _and(scene: Scene, random: np.random.Generator) -> Sentences | None:
    """A plain sentence, and one that what is outside the picture may make true: that there is something."""
    plain, open_ = _plain(scene, random), one_of(random, (_exists, _at_least))(scene, random)
    if plain is None or open_ is None:
        return None
    first = random.random() < 0.5
    joined = lambda a, b: f"{a}, and {b}" if first else f"{b}, and {a}"
    return {
        "entailment": joined(plain[0], open_[0]),
        "contradiction": joined(plain[1], one_of(random, open_)),
        "neutral": joined(plain[0], open_[1]),
    }


def _or(scene: Scene, random: np.random.Generator) -> Sentences | None:
    """A plain sentence, or one that what is outside the picture may make false: that there is nothing more."""
    plain, open_ = _plain(scene, random), one_of(random, (_nowhere, _at_most))(scene, random)
    if plain is None or open_ is None:
        return None
    first = random.random() < 0.5
    joined = lambda a, b: f"either {a}, or {b}" if first else f"either {b}, or {a}"
    return {
        "entailment": joined(plain[0], one_of(random, open_)),
        "contradiction": joined(plain[1], open_[1]),
        "neutral": joined(plain[1], open_[0]),
    }


def _shown_and_not(scene: Scene, random: np.random.Generator) -> tuple[Description, Description] | None:
    """Something that is in the picture and something that is not, named by the same attributes."""
    pair = FAMILIES["exists"](scene, random)
    return None if pair is None else (pair[0].whats[0], pair[1].whats[0])


def _exists(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    """Entailed, then open: that something is inside or outside the picture."""
    whats, beyond = _shown_and_not(scene, random), one_of(random, _BEYOND)
    if whats is None:
        return None
    template = one_of(random, (f"{beyond} there is {{}}", f"there is {{}} {beyond}"))
    shown, absent = (template.format(phrase(random, what, "a")) for what in whats)
    return shown, absent


def _nowhere(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    """Open, then contradicted: that something is neither inside nor outside the picture."""
    whats, beyond = _shown_and_not(scene, random), one_of(random, _BEYOND)
    if whats is None:
        return None
    template = one_of(random, (f"there is no {{}} {beyond}", f"{beyond} there is no {{}}"))
    shown, absent = (template.format(phrase(random, what, "bare")) for what in whats)
    return absent, shown


def _at_least(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    """Entailed, then open: a least number with what is outside."""
    claims = _number(scene, random, "at least")
    return None if claims is None else _said(random, claims[True], claims[False])


def _at_most(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    """Open, then contradicted: a greatest number with what is outside."""
    claims = _number(scene, random, "at most")
    return None if claims is None else _said(random, claims[True], claims[False])


def _number(scene: Scene, random: np.random.Generator, relation: str) -> dict[bool, Claim] | None:
    fields = one_of(random, (*NAMINGS[:4], ("shape",), ("colour",), ("size",), ("texture",)))
    number = int(random.integers(1, 5)) + (relation == "at least")
    found: dict[bool, Claim] = {}
    for what in shuffled(random, list(counts(scene, fields))):
        claim = Claim("number", (what,), relation, number=number)
        found.setdefault(is_true(scene, claim) is True, claim)
    return found if len(found) == 2 else None


def _said(random: np.random.Generator, first: Claim, second: Claim) -> tuple[str, str]:
    counted = one_of(random, _COUNTED)
    form = f"{counted} there {{are}} {{how}} {{number}} {{count1}}"
    said = [form.format_map(Slots(claim, random)) for claim in (first, second)]
    return said[0], said[1]


# A sentence of two halves asks for more than one about a picked thing: most are of the easier form.
_FORMS = (*(_picked,) * 18, _and, _or)
