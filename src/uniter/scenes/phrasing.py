"""How claims are put: as statements, as their denials, as questions.

Slots of a template, where N is 1 or 2: {aN} "a small red star", {theN}, {bareN} without an article, {manyN} "small red
stars", {countN} the same but singular after "one"; {rel} "left of", {side} "on the left", {which} "leftmost", {value} a
predicate, {values} of several things, {attr} "colour", {how} "at least", {number} "three", {are} as it wants it.
"""

import numpy as np

from uniter.scenes.claims import Claim, field_of
from uniter.scenes.words import NUMBERS, Description, noun_phrase, one_of, plural, with_article, word

RELATION_WORDS = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "higher than", "further up than"),
    "below": ("below", "lower than", "further down than"),
    "near": ("next to", "near", "close to", "beside"),
    "larger": ("larger than", "bigger than"),
    "smaller": ("smaller than",),
}
EXTREME_WORDS = {
    "leftmost": ("leftmost", "far left"),
    "rightmost": ("rightmost", "far right"),
    "topmost": ("topmost", "highest", "uppermost"),
    "bottommost": ("bottommost", "lowest"),
    "largest": ("largest", "biggest"),
    "smallest": ("smallest", "tiniest"),
}
PLACE_WORDS = {
    "left": ("on the left", "in the left half", "on the left-hand side", "on the left side of the picture"),
    "right": ("on the right", "in the right half", "on the right-hand side", "on the right side of the picture"),
    "top": ("at the top", "in the upper half", "in the top half of the picture", "in the upper part"),
    "bottom": ("at the bottom", "in the lower half", "in the bottom half of the picture", "in the lower part"),
}
COMPARISON_WORDS = {
    "exactly": ("exactly", "precisely"),
    "at least": ("at least", "no fewer than"),
    "at most": ("at most", "no more than"),
    "more than": ("more than",),
    "fewer than": ("fewer than", "less than"),
}
ATTRIBUTE_WORDS = {
    "colour": ("colour", "color"),
    "texture": ("pattern", "texture"),
    "size": ("size",),
    "shape": ("shape",),
}

SAY: dict[str, tuple[str, ...]] = {
    "exists": (
        "there is {a1}",
        "there is {a1} in the picture",
        "there is {a1} somewhere in this image",
        "{a1} can be seen",
        "the picture shows {a1}",
        "you can see {a1} here",
        "this image contains {a1}",
        "at least one {bare1} is visible",
        "one of the things is {a1}",
        "among other things the picture has {a1}",
    ),
    "both": (
        "there is {a1} and {a2}",
        "there are both {a1} and {a2} here",
        "the picture shows {a1} as well as {a2}",
        "{a1} and {a2} can be seen",
        "this image contains {a1} and also {a2}",
        "besides {a1} there is {a2}",
    ),
    "attribute": (
        "{the1} is {value}",
        "it is {value}, {the1}",
        "{the1} in this picture is {value}",
        "what you see is that {the1} is {value}",
        "as for {the1}, it is {value}",
        "in this image {the1} is {value}",
    ),
    "place": (
        "{the1} is {side}",
        "{side} there is {the1}",
        "you find {the1} {side}",
        "{the1} can be seen {side}",
        "{side} you can see {the1}",
    ),
    "relation": (
        "{the1} is {rel} {the2}",
        "{rel} {the2} is {the1}",
        "{the1} can be seen {rel} {the2}",
        "in this picture {the1} is {rel} {the2}",
        "compared with {the2}, {the1} is {rel} it",
        "you find {the1} {rel} {the2}",
    ),
    "relation-size": (
        "{the1} is {rel} {the2}",
        "{the1} looks {rel} {the2}",
        "in this picture {the1} is {rel} {the2}",
        "of {the1} and {the2}, the first is {rel} the second",
    ),
    "somewhere": (
        "there is {a1} {rel} {a2}",
        "{a1} is {rel} {a2}",
        "{rel} {a2} there is {a1}",
        "the picture shows {a1} {rel} {a2}",
        "one can see {a1} {rel} {a2}",
        "this image contains {a1} that is {rel} {a2}",
    ),
    "same": (
        "{the1} and {the2} have the same {attr}",
        "{the1} has the same {attr} as {the2}",
        "the {attr} of {the1} is that of {the2}",
        "{the1} and {the2} share their {attr}",
        "{the1} matches {the2} in {attr}",
    ),
    "number": (
        "there {are} {how} {number} {count1}",
        "there {are} {how} {number} {count1} in the picture",
        "the picture shows {how} {number} {count1}",
        "{how} {number} {count1} can be seen",
        "you can count {how} {number} {count1}",
        "this image has {how} {number} {count1}",
    ),
    "more-more": (
        "there are more {many1} than {many2}",
        "the picture has more {many1} than {many2}",
        "{many1} are more numerous than {many2}",
        "one sees more {many1} than {many2} here",
        "compared with {many2}, there are more {many1}",
    ),
    "more-fewer": (
        "there are fewer {many1} than {many2}",
        "the picture has fewer {many1} than {many2}",
        "{many1} are outnumbered by {many2}",
        "there are not as many {many1} as {many2}",
    ),
    "more-equal": (
        "there are as many {many1} as {many2}",
        "the picture has the same number of {many1} and {many2}",
        "{many1} and {many2} are equally many",
        "there are exactly as many {many1} as there are {many2}",
    ),
    "all-all": (
        "all {many1} are {values}",
        "every {bare1} is {value}",
        "each {bare1} in the picture is {value}",
        "the {many1} are all {values}",
        "there is no {bare1} that is not {value}",
    ),
    "all-any": (
        "at least one {bare1} is {value}",
        "one or more of the {many1} are {values}",
        "some {bare1} is {value}",
        "there is {a1} that is {value}",
        "among the {many1} there is one that is {value}",
    ),
    "extreme": (
        "the {which} {bare1} is {value}",
        "of all {many1}, the {which} one is {value}",
        "among the {many1} the {which} is {value}",
        "in this picture the {which} {bare1} is {value}",
    ),
}

DENY: dict[str, tuple[str, ...]] = {
    "exists": (
        "there is no {bare1}",
        "there is no {bare1} in the picture",
        "the picture does not show {a1}",
        "no {bare1} can be seen",
        "none of the things is {a1}",
        "this image has no {bare1}",
        "{a1} is missing from the picture",
        "you can see a number of things, but no {bare1}",
    ),
    "both": (
        "{a1} or {a2} is missing here",
        "there are not both {a1} and {a2} in the picture",
        "the picture does not show {a1} together with {a2}",
    ),
    "attribute": (
        "{the1} is not {value}",
        "{the1} in this picture is anything but {value}",
        "it is wrong to say that {the1} is {value}",
        "as for {the1}, it is not {value}",
    ),
    "place": (
        "{the1} is not {side}",
        "you do not find {the1} {side}",
        "{the1} is somewhere else than {side}",
    ),
    "relation": (
        "{the1} is not {rel} {the2}",
        "you do not find {the1} {rel} {the2}",
        "it is not true that {the1} is {rel} {the2}",
    ),
    "relation-size": (
        "{the1} is not {rel} {the2}",
        "{the1} does not look {rel} {the2}",
        "it is not true that {the1} is {rel} {the2}",
    ),
    "somewhere": (
        "there is no {bare1} {rel} {a2}",
        "no {bare1} is {rel} {a2}",
        "the picture does not show {a1} {rel} {a2}",
    ),
    "same": (
        "{the1} and {the2} do not have the same {attr}",
        "{the1} differs from {the2} in {attr}",
        "{the1} has another {attr} than {the2}",
        "{the1} and {the2} are of different {attr}",
    ),
    "number": (
        "there {are} not {how} {number} {count1}",
        "it is false that there {are} {how} {number} {count1}",
    ),
    "more-more": ("there are no more {many1} than {many2}", "{many1} are not more numerous than {many2}"),
    "more-fewer": ("there are at least as many {many1} as {many2}", "there are no fewer {many1} than {many2}"),
    "more-equal": (
        "there are not as many {many1} as {many2}, or there are more of them",
        "the number of {many1} differs from that of {many2}",
    ),
    "all-all": ("not all {many1} are {values}", "not every {bare1} is {value}", "at least one {bare1} is not {value}"),
    "all-any": ("no {bare1} is {value}", "none of the {many1} is {value}", "there is no {bare1} that is {value}"),
    "extreme": ("the {which} {bare1} is not {value}", "of all {many1}, the {which} one is not {value}"),
}

ASK: dict[str, tuple[str, ...]] = {
    "exists": (
        "is there {a1}?",
        "is there {a1} in the picture?",
        "can you see {a1}?",
        "does the picture show {a1}?",
        "does this image contain {a1}?",
        "is {a1} visible?",
        "do you see {a1} anywhere?",
        "is one of the things {a1}?",
    ),
    "both": (
        "are there both {a1} and {a2}?",
        "does the picture show {a1} and {a2}?",
        "can you see {a1} as well as {a2}?",
        "is there {a1} and also {a2} here?",
    ),
    "attribute": (
        "is {the1} {value}?",
        "is {the1} in the picture {value}?",
        "would you say that {the1} is {value}?",
        "does the picture show that {the1} is {value}?",
    ),
    "place": (
        "is {the1} {side}?",
        "can {the1} be seen {side}?",
        "do you find {the1} {side}?",
    ),
    "relation": (
        "is {the1} {rel} {the2}?",
        "do you see {the1} {rel} {the2}?",
        "is it {rel} {the2} that {the1} is?",
        "can {the1} be found {rel} {the2}?",
    ),
    "relation-size": (
        "is {the1} {rel} {the2}?",
        "does {the1} look {rel} {the2}?",
        "would you say that {the1} is {rel} {the2}?",
    ),
    "somewhere": (
        "is there {a1} {rel} {a2}?",
        "is {a1} {rel} {a2}?",
        "do you see {a1} {rel} {a2}?",
        "does the picture show {a1} {rel} {a2}?",
    ),
    "same": (
        "do {the1} and {the2} have the same {attr}?",
        "does {the1} have the same {attr} as {the2}?",
        "are {the1} and {the2} of the same {attr}?",
        "is the {attr} of {the1} that of {the2}?",
    ),
    "number": (
        "{are} there {how} {number} {count1}?",
        "does the picture show {how} {number} {count1}?",
        "can you count {how} {number} {count1}?",
        "{are} there {how} {number} {count1} in this image?",
    ),
    "more-more": ("are there more {many1} than {many2}?", "does the picture show more {many1} than {many2}?"),
    "more-fewer": ("are there fewer {many1} than {many2}?", "are {many1} outnumbered by {many2}?"),
    "more-equal": (
        "are there as many {many1} as {many2}?",
        "is the number of {many1} the same as the number of {many2}?",
    ),
    "all-all": ("are all {many1} {values}?", "is every {bare1} {value}?", "are the {many1} all {values}?"),
    "all-any": ("is any {bare1} {value}?", "is at least one {bare1} {value}?", "are any of the {many1} {values}?"),
    "extreme": ("is the {which} {bare1} {value}?", "of all {many1}, is the {which} one {value}?"),
}

DOUBT: dict[str, tuple[str, ...]] = {
    "exists": ("is there no {bare1}?", "is it true that there is no {bare1}?", "is {a1} missing from the picture?"),
    "attribute": ("is it wrong that {the1} is {value}?", "is {the1} anything but {value}?"),
    "relation": ("is it false that {the1} is {rel} {the2}?",),
    "same": ("does {the1} differ from {the2} in {attr}?", "do {the1} and {the2} have a different {attr}?"),
    "all-any": ("is none of the {many1} {value}?",),
}


class Slots(dict):
    """The words of a claim, chosen when a template asks for them."""

    def __init__(self, claim: Claim, random: np.random.Generator) -> None:
        super().__init__()
        self.claim, self.random = claim, random

    def __missing__(self, slot: str) -> str:
        if slot[-1] in "12":
            words = phrase(self.random, self.claim.whats[int(slot[-1]) - 1], slot[:-1], self.claim.number)
        else:
            words = self._word(slot)
        self[slot] = words
        return words

    def _word(self, slot: str) -> str:
        claim, random = self.claim, self.random
        if slot == "rel":
            return one_of(random, RELATION_WORDS[claim.relation])
        if slot == "side":
            return one_of(random, PLACE_WORDS[claim.relation])
        if slot == "which":
            return one_of(random, EXTREME_WORDS[claim.relation])
        if slot == "attr":
            return one_of(random, ATTRIBUTE_WORDS[claim.relation])
        if slot == "how":
            return one_of(random, COMPARISON_WORDS[claim.relation])
        if slot == "number":
            return NUMBERS[claim.number] if random.random() < 0.8 else str(claim.number)
        if slot == "are":
            return "is" if claim.number == 1 else "are"
        return predicate(random, claim.value, many=slot == "values")


def phrase(random: np.random.Generator, what: Description, style: str, number: int = 0) -> str:
    """A description as `a`, `the`, `bare`, `many` (plural) or `count` (plural unless the number is one)."""
    many = style == "many" or (style == "count" and number != 1)
    words = noun_phrase(random, what, many=many, short=style in ("many", "count", "bare"))
    return with_article(words) if style == "a" else ("the " + words if style == "the" else words)


def predicate(random: np.random.Generator, value: str, many: bool = False) -> str:
    """A value as what follows `is` or `are`."""
    words = word(random, value)
    if field_of(value) != "shape":
        return words
    return plural(words) if many else with_article(words)


def style_of(claim: Claim) -> str:
    """The key of a claim in the tables of templates."""
    if claim.kind in ("more", "all"):
        return f"{claim.kind}-{claim.relation}"
    if claim.kind == "relation" and claim.relation in ("larger", "smaller"):
        return "relation-size"
    return claim.kind


def put(random: np.random.Generator, claim: Claim, templates: dict[str, tuple[str, ...]]) -> str | None:
    """The claim in words, None if these templates have none for it."""
    choices = templates.get(style_of(claim))
    if not choices:
        return None
    return " ".join(one_of(random, choices).format_map(Slots(claim, random)).split())
