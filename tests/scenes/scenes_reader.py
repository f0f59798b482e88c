"""A second, naive reader of the world's English: it knows boxes and words, none of the generator's claims or margins."""

import math
import re

WORDS = {
    "shape": {
        "circle": "circle disc",
        "square": "square",
        "triangle": "triangle",
        "star": "star",
        "heart": "heart",
        "cross": "cross",
        "ring": "ring hoop",
        "diamond": "diamond rhombus",
        "hexagon": "hexagon",
        "moon": "moon crescent",
        "arrow": "arrow",
        "house": "house",
        "tree": "tree",
        "cup": "cup mug",
    },
    "colour": {c: c for c in ("red", "green", "blue", "yellow", "orange", "pink", "brown")}
    | {"purple": "purple violet", "grey": "grey gray"},
    "size": {"small": "small little tiny", "medium": "medium-sized mid-sized medium", "large": "large big"},
    "texture": {
        "plain": "plain solid pattern",
        "striped": "striped stripy stripes",
        "dotted": "dotted spotted dots",
        "checked": "checked chequered checks",
    },
}
MEANING = {
    word: (field, value) for field, values in WORDS.items() for value in values for word in values[value].split()
}
for _word, (_field, _value) in list(MEANING.items()):
    if _field == "shape":
        MEANING[_word + ("es" if _word[-1] in "sx" else "s")] = (_field, _value)
NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: number + 1 for number, word in enumerate(NUMBERS.split())}

RELATIONS = {
    "left": ["to the left of", "on the left of", "left of"],
    "right": ["to the right of", "on the right of", "right of"],
    "above": ["above", "higher than", "further up than"],
    "below": ["below", "lower than", "further down than"],
    "near": ["next to", "near", "close to", "beside"],
    "larger": ["larger than", "bigger than"],
    "smaller": ["smaller than"],
}
PLACES = {
    "left": ["on the left side of the picture", "on the left-hand side", "in the left half", "on the left"],
    "right": ["on the right side of the picture", "on the right-hand side", "in the right half", "on the right"],
    "top": ["in the top half of the picture", "in the upper half", "in the upper part", "at the top"],
    "bottom": ["in the bottom half of the picture", "in the lower half", "in the lower part", "at the bottom"],
}
EXTREMES = {
    "leftmost": ["leftmost", "far left"],
    "rightmost": ["rightmost", "far right"],
    "topmost": ["topmost", "highest", "uppermost"],
    "bottommost": ["bottommost", "lowest"],
    "largest": ["largest", "biggest"],
    "smallest": ["smallest", "tiniest"],
}


def _one_of(words):
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_ADJECTIVE = _one_of(word for word, (field, _) in MEANING.items() if field != "shape")
_NOUN = _one_of([word for word, (field, _) in MEANING.items() if field == "shape"] + ["thing", "object", "item"])
_NOUNS = _NOUN + "|things|objects|items"
_BEHIND = rf"(?: with (?:stripes|dots|checks)| without a pattern| that (?:is|are) (?:{_ADJECTIVE})| of \w+ size)"
_PHRASE = rf"(?:(?P<article>an?|the|no) )?(?P<words>(?:(?:{_ADJECTIVE}) )*(?:{_NOUNS})\b{_BEHIND}?)"
_PLAIN = {
    "R": {phrase: name for name, phrases in RELATIONS.items() for phrase in phrases},
    "P": {phrase: name for name, phrases in PLACES.items() for phrase in phrases},
    "X": {phrase: name for name, phrases in EXTREMES.items() for phrase in phrases},
}
_TOKEN = re.compile(
    rf"\b(?:(?P<R>{_one_of(_PLAIN['R'])})|(?P<P>{_one_of(_PLAIN['P'])})|{_PHRASE}"
    rf"|(?P<X>{_one_of(_PLAIN['X'])})|(?P<V>{_ADJECTIVE})|(?P<N>{_one_of(NUMBERS)}|\d+))(?![\w-])"
)


def attributes(phrase):
    """{"shape": "star", "colour": "red"} of "red star"."""
    return dict(MEANING[word] for word in phrase.split() if word in MEANING)


def skeleton(text):
    """The text with "#" for a thing, and what stood there: ("there is # R #", [...])."""
    found = []

    def mark(match):
        kind = match.lastgroup if match["words"] is None else "#"
        if kind == "#":
            found.append(attributes(match["words"]))
            article = {"a": "a ", "an": "a ", "the": "the ", "no": "no "}.get(match["article"], "")
            return article + "#"
        words = match[0]
        if kind == "N":
            found.append(NUMBERS.get(words) or int(words))
        else:
            found.append(attributes(words) if kind == "V" else _PLAIN[kind][words])
        return kind

    return _TOKEN.sub(mark, text.lower().rstrip(".")), found


def fitting(scene, wanted):
    return [thing for thing in scene.things if all(getattr(thing, field) == value for field, value in wanted.items())]


def centre(thing):
    return (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2


def related(scene, relation, first, second):
    (x, y), (u, v) = centre(first), centre(second)
    if relation == "near":
        across = max(first.box[0] - second.box[2], second.box[0] - first.box[2], 0)
        down = max(first.box[1] - second.box[3], second.box[1] - first.box[3], 0)
        return math.hypot(across, down) < 0.15 * min(scene.width, scene.height)
    return {
        "left": x < u,
        "right": x > u,
        "above": y < v,
        "below": y > v,
        "larger": first.diameter > second.diameter,
        "smaller": first.diameter < second.diameter,
    }[relation]


def most(which, things):
    keys = {
        "leftmost": lambda thing: centre(thing)[0],
        "rightmost": lambda thing: -centre(thing)[0],
        "topmost": lambda thing: centre(thing)[1],
        "bottommost": lambda thing: -centre(thing)[1],
        "largest": lambda thing: -thing.diameter,
        "smallest": lambda thing: thing.diameter,
    }
    return min(things, key=keys[which])


def _inside(scene, where, thing):
    x, y = centre(thing)[0] / scene.width, centre(thing)[1] / scene.height
    return {"left": x < 0.5, "right": x > 0.5, "top": y < 0.5, "bottom": y > 0.5}[where]


def _has(thing, wanted):
    return all(getattr(thing, field) == value for field, value in wanted.items())


def _same(scene, first, second, text):
    field = next(
        f
        for f, words in (
            ("colour", "colour|color"),
            ("texture", "pattern|texture"),
            ("size", "size"),
            ("shape", "shape"),
        )
        if re.search(rf"\b({words})$", text.lower().rstrip("."))
    )
    (a,), (b,) = fitting(scene, first), fitting(scene, second)
    return getattr(a, field) == getattr(b, field)


def _some(scene, first, relation, second):
    pairs = [(a, b) for a in fitting(scene, first) for b in fitting(scene, second) if a is not b]
    return any(related(scene, relation, a, b) for a, b in pairs)


def _exists(scene, wanted):
    return bool(fitting(scene, wanted))


def _number(scene, how, number, wanted):
    count = len(fitting(scene, wanted))
    return {
        "exactly": count == number,
        "precisely": count == number,
        "at least": count >= number,
        "no fewer than": count >= number,
        "at most": count <= number,
        "no more than": count <= number,
        "more than": count > number,
        "fewer than": count < number,
        "less than": count < number,
    }[how]


_HOW = "exactly|precisely|at least|no fewer than|at most|no more than|more than|fewer than|less than"
_IN = "(?: in the picture| in this picture| here| somewhere in this image)?"
_RULES = [
    (rf"(?:there is|the picture shows|you can see|this image contains|one of the # is|among other #"
     rf" the picture has) a #{_IN}", lambda s, t, f: _exists(s, f[-1])),
    (r"a # can be seen|at least one # is visible", lambda s, t, f: _exists(s, f[-1])),
    (r"there is no #(?: in the picture)?|no # can be seen|this image has no #|(?:the picture does not show) a #"
     r"|a # is missing from the picture", lambda s, t, f: not _exists(s, f[-1])),
    (r"(?:there is|the picture shows|this image contains|there are both|besides) ?a # ?(?:and|as well as|and also"
     r"|there is) a #(?: here)?|a # and a # can be seen", lambda s, t, f: _exists(s, f[0]) and _exists(s, f[1])),
    (r"(?:in this picture )?the # (?:is|can be seen) R the #|you find the # R the #|the # looks R the #",
     lambda s, t, f: related(s, f[1], *fitting(s, f[0]), *fitting(s, f[2]))),
    (r"R the # is the #", lambda s, t, f: related(s, f[0], *fitting(s, f[2]), *fitting(s, f[1]))),
    (r"the # (?:is not|does not look) R the #|it is not true that the # is R the #|you do not find the # R the #",
     lambda s, t, f: not related(s, f[1], *fitting(s, f[0]), *fitting(s, f[2]))),
    (r"(?:there is |the picture shows |one can see |this image contains )?a # (?:is |that is )?R a #",
     lambda s, t, f: _some(s, *f)),
    (r"R a # there is a #", lambda s, t, f: _some(s, f[2], f[0], f[1])),
    (r"there is no # R a #|no # is R a #|the picture does not show a # R a #", lambda s, t, f: not _some(s, *f)),
    (r"(?:the #|you find the #|the # can be seen)(?: is)? P", lambda s, t, f: _inside(s, f[1], *fitting(s, f[0]))),
    (r"P (?:there is|you can see) the #", lambda s, t, f: _inside(s, f[0], *fitting(s, f[1]))),
    (r"the # is not P|you do not find the # P|the # is somewhere else than P",
     lambda s, t, f: not _inside(s, f[1], *fitting(s, f[0]))),
    (r"(?:in this (?:picture|image) |what you see is that |as for )?the #(?:, it)?(?: in this picture)? is (?:V|a #)",
     lambda s, t, f: _has(*fitting(s, f[0]), f[1])),
    (r"the # is not (?:V|a #)|as for the #, it is not (?:V|a #)|it is wrong to say that the # is (?:V|a #)",
     lambda s, t, f: not _has(*fitting(s, f[0]), f[1])),
    (r"(?:there (?:is|are)|the picture shows|you can count|this image has) (?:" + _HOW + r") N #(?: in the picture)?",
     lambda s, t, f: _number(s, re.search(_HOW, t.lower())[0], *f)),
    (r"(?:there are|the picture has|one sees) more # than #(?: here)?|# are more numerous than #",
     lambda s, t, f: len(fitting(s, f[0])) > len(fitting(s, f[1]))),
    (r"(?:there are|the picture has) fewer # than #|# are outnumbered by #",
     lambda s, t, f: len(fitting(s, f[0])) < len(fitting(s, f[1]))),
    (r"there are as many # as #|# and # are equally many",
     lambda s, t, f: len(fitting(s, f[0])) == len(fitting(s, f[1]))),
    (r"(?:all #|the #) are (?:all )?(?:V|#)|(?:every|each) #(?: in the picture)? is (?:V|a #)",
     lambda s, t, f: all(_has(thing, f[1]) for thing in fitting(s, f[0]))),
    (r"not (?:all|every) # (?:is|are) (?:V|a #|#)|at least one # is not (?:V|a #)",
     lambda s, t, f: not all(_has(thing, f[1]) for thing in fitting(s, f[0]))),
    (r"(?:some|at least one) # is (?:V|a #)", lambda s, t, f: any(_has(thing, f[1]) for thing in fitting(s, f[0]))),
    (r"(?:no #|none of the #) is (?:V|a #)", lambda s, t, f: not any(_has(thing, f[1]) for thing in fitting(s, f[0]))),
    (r"(?:in this picture )?the X # is (?:V|a #)", lambda s, t, f: _has(most(f[0], fitting(s, f[1])), f[2])),
    (r"the X # is not (?:V|a #)", lambda s, t, f: not _has(most(f[0], fitting(s, f[1])), f[2])),
    (r"the # and the # have the same \w+|the # and the # share their \w+|the # matches the # in \w+",
     lambda s, t, f: _same(s, f[0], f[1], t)),
    (r"the # and the # do not have the same \w+|the # differs from the # in \w+",
     lambda s, t, f: not _same(s, f[0], f[1], t)),
]  # fmt: skip


def read(scene, text):
    """True or False, or None if the reader does not understand the statement."""
    form, found = skeleton(text)
    for rule, meaning in _RULES:
        if re.fullmatch(rule, form):
            return meaning(scene, text, found)
    return None


def find(scene, text):
    """The things that a referring expression may mean."""
    form, found = skeleton(text)
    form = form.removeprefix("the ")
    if form == "#":
        return fitting(scene, found[0])
    if re.fullmatch(r"# (that is )?R the #", form):
        (anchor,) = fitting(scene, found[2])
        return [t for t in fitting(scene, found[0]) if t is not anchor and related(scene, found[1], t, anchor)]
    if form == "X #":
        return [most(found[0], fitting(scene, found[1]))]
    if re.fullmatch(r"# (closest to|nearest to|nearest) the #", form):
        (anchor,) = fitting(scene, found[1])
        others = [thing for thing in fitting(scene, found[0]) if thing is not anchor]
        return [min(others, key=lambda thing: math.dist(centre(thing), centre(anchor)))]
    match = re.fullmatch(r"(first|second|third) # from the (left|right|top|bottom)", form)
    if match:
        axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[match[2]]
        order = sorted(fitting(scene, found[0]), key=lambda thing: sign * centre(thing)[axis])
        return [order[("first", "second", "third").index(match[1])]]
    found_things = find_by_looks(scene, form, found)
    return find_in_a_sentence(scene, form, found) if found_things is None else found_things


def find_by_looks(scene, form, found):
    """What the forms of RefCOCO+ mean, None if it is none of them."""
    if re.fullmatch(r"only #( that is a #)?|(only )?N that is (V|a #)", form):
        return fitting(scene, found[-1])
    if re.fullmatch(r"(only |N )?# that is not (V|a #)", form):
        what, other = found[-2:]
        return [thing for thing in fitting(scene, what) if not _has(thing, other)]
    if match := re.fullmatch(r"# (?:of|with|that has) the same (\w+) as the #", form):
        (anchor,) = fitting(scene, found[-1])
        field = {"color": "colour", "V": "texture"}.get(match[1], match[1])  # "pattern" is a word for textures
        return [
            thing
            for thing in fitting(scene, found[0])
            if thing is not anchor and getattr(thing, field) == getattr(anchor, field)
        ]
    return None


OF_TWO = {"left": "leftmost", "right": "rightmost", "upper": "topmost", "higher": "topmost", "lower": "bottommost"}
OF_TWO |= {"larger": "largest", "bigger": "largest", "smaller": "smallest"}


def find_in_a_sentence(scene, form, found):
    """What the forms of RefCOCOg mean: a thing or one of a counted group, and all that is said of it."""
    group = re.search(r"(?:of|among) the N #", form)
    left = list(found)
    if group:
        number = next(item for item in left if isinstance(item, int) and item > 1)
        what = next(item for item in left if isinstance(item, dict))
        members = fitting(scene, what)
        assert len(members) == number
        most_of = re.search(r"\b(X|" + "|".join(OF_TWO) + r")(?: N| (?:of|among) )", form)
        if most_of:
            word = next(item for item in left if isinstance(item, str)) if most_of[1] == "X" else OF_TWO[most_of[1]]
            return [most(word, members)]
        rest = form.replace(group[0], "")
        left = left[left.index(what) + 1 :]
    else:
        what = next(item for item in left if isinstance(item, dict))
        members, rest = fitting(scene, what), form.replace("#", "", 1)
        left.remove(what)
    said = re.findall(r"R the #|P", rest)
    assert said, f"not understood: {form!r}"
    left = [item for item in left if not isinstance(item, int)]
    for condition in said:
        first = left.pop(0)
        if condition == "P":
            members = [thing for thing in members if _inside(scene, first, thing)]
        else:
            (anchor,) = fitting(scene, left.pop(0))
            members = [thing for thing in members if thing is not anchor and related(scene, first, thing, anchor)]
    assert not left, f"not understood: {form!r}"
    return members
