"""Sentences about two pictures (as NLVR2's), each said of several of which it is true in half.

A set is some pairs of pictures and some sentences. Each sentence is true of one half of the pairs and false of the
other, so that its words tell nothing about where it is true.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from uniter import draws
from uniter.scenes.claims import Claim, compare, is_true, shuffled
from uniter.scenes.phrasing import COMPARISON_WORDS, SAY, phrase, put
from uniter.scenes.relations import DIRECTIONS
from uniter.scenes.words import NUMBERS, Description, describe, finish, one_of
from uniter.scenes.world import Scene

PAIRS, SENTENCES = 4, 2
"""Of each set, how many pairs of pictures and sentences there are (at most)."""

_TRIES = 400
_ONE, _TWO = ("shape", "colour", "texture", "size"), (("shape", "colour"), ("shape", "texture"), ("shape", "size"))

Sides = tuple[Scene, Scene]  # the left and the right picture
Said = tuple[str, Callable[[Sides], bool | None]]  # a sentence, and whether two pictures make it true (None: unclear)


@dataclass(frozen=True, slots=True)
class ComparisonSet:
    """Sentences that are said of the same pairs of pictures.

    Args:
        pairs: the left and the right picture of each.
        sentences: each with whether it is true of each pair.
    """

    pairs: tuple[Sides, ...]
    sentences: tuple[tuple[str, tuple[bool, ...]], ...]


def comparison_set(scenes: Sequence[Scene], seed: int, number: int) -> ComparisonSet:
    """A set of pairs of different pictures, and sentences that are true of half of them.

    Args:
        scenes: at least two pictures of one split.
        seed: the world's seed.
        number: of the set: 0, 1, ...
    """
    purpose = f"comparison-{scenes[0].split}"
    count = len(scenes)
    most = count * (count - 1)  # ordered pairs; a draw names one of them
    random = draws.generator(seed, purpose, number)
    if count >= 2 * PAIRS:
        chosen = random.choice(count, 2 * PAIRS, replace=False).reshape(PAIRS, 2).tolist()
    else:
        drawn = random.choice(most, min(PAIRS, most), replace=False).tolist()
        chosen = [(one // (count - 1), (one // (count - 1) + 1 + one % (count - 1)) % count) for one in drawn]
    pairs = tuple((scenes[left], scenes[right]) for left, right in chosen)
    found: dict[str, tuple[bool, ...]] = {}
    for _ in range(_TRIES):
        said = one_of(random, _FORMS)(pairs, random)
        if said is None:
            continue
        answers = [said[1](sides) for sides in pairs]
        if answers.count(True) == answers.count(False) == len(pairs) // 2:
            found.setdefault(finish(random, said[0]), tuple(map(bool, answers)))
        if len(found) == SENTENCES:
            break
    return ComparisonSet(pairs, tuple(found.items()))


def _kind(pairs: Sequence[Sides], random: np.random.Generator, fields: Sequence[str] = ()) -> Description:
    """A description that fits something in one of the pictures."""
    scene = one_of(random, one_of(random, pairs))
    if not fields:
        fields = (one_of(random, _ONE),) if random.random() < 0.6 else one_of(random, _TWO)
    return describe(one_of(random, scene.things), fields)


def _count(scene: Scene, what: Description) -> int:
    return len(what.among(scene.things))


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _compared(pairs: Sequence[Sides], random: np.random.Generator) -> Said:
    """The left picture has more stars than the right one."""
    what = _kind(pairs, random)
    many = phrase(random, what, "many")
    side, other = shuffled(random, [0, 1])
    one, two = ("left", "right")[side], ("left", "right")[other]
    relation, words = one_of(
        random,
        (
            (1, f"the {one} picture has more {many} than the {two} one"),
            (1, f"there are more {many} in the {one} picture than in the {two} picture"),
            (1, f"compared with the {two} picture, the {one} one shows more {many}"),
            (-1, f"the {one} picture has fewer {many} than the {two} one"),
            (-1, f"there are fewer {many} in the {one} picture than in the {two} picture"),
            (0, f"both pictures have the same number of {many}"),
            (0, f"there are as many {many} in the {one} picture as in the {two} picture"),
        ),
    )
    return words, lambda sides: _sign(_count(sides[side], what) - _count(sides[other], what)) == relation


def _shown(pairs: Sequence[Sides], random: np.random.Generator) -> Said:
    """Both pictures show a red ring; exactly one does; neither does; only the left one does."""
    what = _kind(pairs, random)
    a, bare = phrase(random, what, "a"), phrase(random, what, "bare")
    side = ("left", "right")[number := int(random.integers(2))]
    wanted, words = one_of(
        random,
        (
            ("both", f"both pictures show {a}"),
            ("both", f"there is {a} in each of the two pictures"),
            ("one", f"exactly one of the pictures shows {a}"),
            ("one", f"{a} is in one picture, but not in the other"),
            ("none", f"neither picture shows {a}"),
            ("none", f"there is no {bare} in either picture"),
            ("any", f"at least one of the pictures shows {a}"),
            ("only", f"only the {side} picture shows {a}"),
            ("only", f"there is {a} in the {side} picture alone"),
        ),
    )

    def answer(sides: Sides) -> bool:
        shown = [_count(scene, what) > 0 for scene in sides]
        if wanted == "only":
            return shown[number] and not shown[1 - number]
        return {"both": all(shown), "one": sum(shown) == 1, "none": not any(shown), "any": any(shown)}[wanted]

    return words, answer


def _total(pairs: Sequence[Sides], random: np.random.Generator) -> Said:
    """There are at least five stars in the two pictures together, or in each of them."""
    what, relation = _kind(pairs, random), one_of(random, tuple(COMPARISON_WORDS))
    together = random.random() < 0.6
    number = int(random.integers(1, 9 if together else 5))
    how, written = one_of(random, COMPARISON_WORDS[relation]), NUMBERS[number] if random.random() < 0.8 else number
    group = f"{how} {written} {phrase(random, what, 'count', number)}"
    are = "is" if number == 1 else "are"
    templates = (
        (
            f"there {are} {group} in the two pictures together",
            f"the pictures show {group} in total",
            f"counting both pictures there {are} {group}",
        )
        if together
        else (
            f"there {are} {group} in each picture",
            f"each of the two pictures shows {group}",
            f"both pictures have {group}",
        )
    )

    def answer(sides: Sides) -> bool:
        numbers = [_count(scene, what) for scene in sides]
        return all(compare(count, relation, number) for count in ([sum(numbers)] if together else numbers))

    return one_of(random, templates), answer


def _one_side(pairs: Sequence[Sides], random: np.random.Generator) -> Said | None:
    """In the left picture there is a star left of a ring; the same of both, or of at least one."""
    relation = one_of(random, (*DIRECTIONS, "near"))
    first, second = (_kind(pairs, random, one_of(random, (("shape",), ("colour",)))) for _ in range(2))
    if first == second:
        return None
    claim = Claim("somewhere", (first, second), relation)
    said = put(random, claim, SAY)
    number = int(random.integers(3))
    where = one_of(
        random,
        (
            ("in the left picture", "on the left-hand picture", "looking at the left picture,"),
            ("in the right picture", "on the right-hand picture", "looking at the right picture,"),
            ("in both pictures", "in each of the pictures", "in either of the two pictures"),
        )[number],
    )
    if said is None or "picture" in said or "image" in said:
        return None

    def answer(sides: Sides) -> bool | None:
        answers = [is_true(scene, claim) for scene in (sides if number == 2 else (sides[number],))]
        return False if False in answers else (None if None in answers else True)

    return f"{where} {said}", answer


_FORMS: tuple[Callable[[Sequence[Sides], np.random.Generator], Said | None], ...] = (
    _compared,
    _compared,
    _shown,
    _shown,
    _total,
    _total,
    _one_side,
)
