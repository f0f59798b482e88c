"""Referring expressions of the three kinds and the captions of retrieval, read by another reader than wrote them."""

import re
from collections import Counter

import numpy as np
import pytest
from scenes_reader import find, fitting, related, skeleton

from uniter.scenes.appearance import by_looks
from uniter.scenes.elaborate import elaborate
from uniter.scenes.expressions import referring
from uniter.scenes.retrieval_captions import coco_captions, flickr_captions
from uniter.scenes.words import tokens
from uniter.scenes.world import HELD_OUT, SPLITS, make_scene

SCENES = [make_scene(0, split, index) for split in SPLITS for index in range(80)]

PLACES = """left right leftmost rightmost top bottom topmost bottommost uppermost highest lowest higher lower upper above
below under over up down far further near nearest next close closest beside between middle centre center corner side half
part edge first second third last behind front"""
"""Words of places; none may be in an expression of RefCOCO+."""


def test_referring_expressions_fit_one_thing():
    beyond_attributes = total = 0
    for scene in SCENES:
        for text, number in referring(scene, 0, 4):
            assert [id(thing) for thing in find(scene, text)] == [id(scene.things[number])], text
            total += 1
            beyond_attributes += skeleton(text)[0].removeprefix("the ") != "#"
    assert total > 3.5 * len(SCENES)
    assert 0.35 < beyond_attributes / total < 0.7


def test_expressions_by_looks_fit_one_thing_and_say_nothing_of_its_place():
    forms, total = Counter(), 0
    for scene in SCENES:
        for text, number in by_looks(scene, 0, 4):
            assert [id(thing) for thing in find(scene, text)] == [id(scene.things[number])], text
            assert not set(tokens(text)) & set(PLACES.split()), text
            forms[re.sub("^the ", "", skeleton(text)[0])] += 1
            total += 1
    assert total > 3.8 * len(SCENES)
    assert 0.3 < forms["#"] / total < 0.7 and len(forms) > 15


def test_elaborate_expressions_fit_one_thing_and_are_longer():
    needed, lengths = [], []
    for scene in SCENES:
        for text, number in elaborate(scene, 0, 4):
            assert [id(thing) for thing in find(scene, text)] == [id(scene.things[number])], text
            head = next(found for found in skeleton(text)[1] if isinstance(found, dict))
            needed.append(len(fitting(scene, head)) > 1)
            lengths.append(len(text.split()))
    short = [len(text.split()) for scene in SCENES for text, _ in referring(scene, 0, 4)]
    assert len(needed) > 3.8 * len(SCENES) and 0.6 < np.mean(needed) < 0.95
    assert np.mean(lengths) > 1.8 * np.mean(short) and min(lengths) >= 6 and max(lengths) <= 28


@pytest.mark.parametrize("kind", [by_looks, elaborate, flickr_captions, coco_captions])
def test_texts_repeat_themselves_and_name_held_out_pairs_in_novel_pictures_only(kind):
    assert kind(SCENES[0], 0, 4) == kind(SCENES[0], 0, 4) != kind(SCENES[0], 1, 4)
    named = Counter()
    for scene in SCENES:
        for text in kind(scene, 0, 4):
            for found in skeleton(text if isinstance(text, str) else text[0])[1]:
                if isinstance(found, dict) and (found.get("colour"), found.get("shape")) in HELD_OUT:
                    named[scene.split] += 1
    assert set(named) == {"novel"}


def _stand_so(scene, text):
    """Whether three things of the picture fit a sentence about three."""
    form, found = skeleton(text)
    whats = [what for what in found if isinstance(what, dict)]
    relations = [relation for relation in found if isinstance(relation, str)]
    if re.fullmatch(r"a # (is|sits|lies) R a #(, which|  ?that) is R a #".replace("  ?", " "), form):
        said = [(0, relations[0], 1), (1, relations[1], 2)]
    elif re.fullmatch(r"R a #, which is R a #, there is a #", form):
        said = [(2, relations[0], 0), (0, relations[1], 1)]
    elif re.fullmatch(r"(there is )?a #,? (with|has) a # R it,? and a # R it", form):
        said = [(1, relations[0], 0), (2, relations[1], 0)]
    elif re.fullmatch(r"a # and a #(, both| are both) R a #", form):
        said = [(0, relations[0], 2), (1, relations[0], 2)]
    else:
        row = re.search(r"from (left to right|top to bottom)", form)
        assert row, form
        relation = "left" if row[1] == "left to right" else "above"
        said = [(0, relation, 1), (1, relation, 2)]
    return any(
        len({id(thing) for thing in things}) == 3 and all(related(scene, r, things[a], things[b]) for a, r, b in said)
        for things in ([a, b, c] for a in fitting(scene, whats[0]) for b in fitting(scene, whats[1])
                       for c in fitting(scene, whats[2]))
    )  # fmt: skip


def test_sentences_in_the_style_of_flickr_are_true():
    for scene in SCENES:
        texts = flickr_captions(scene, 0, 5)
        assert len(texts) == len(set(texts)) == 5
        for text in texts:
            assert text[0].isupper() and text.endswith(".") and len(text.split()) <= 30
            assert _stand_so(scene, text), text


def test_enumerations_in_the_style_of_coco_count_rightly():
    for scene in SCENES:
        texts = coco_captions(scene, 0, 5)
        assert len(texts) == len(set(texts)) == 5
        for text in texts:
            form, found = skeleton(text)
            told = total = 0
            items = iter(found)
            for mark in re.findall(r"N other #|N #|a #|N other|#", form):
                number = next(items) if mark.startswith("N") else 1
                what = next(items)
                if mark.startswith("N other"):
                    told += number
                elif not what:
                    total = number
                else:
                    assert len(fitting(scene, what)) == number if mark == "N #" else fitting(scene, what), text
                    told += number
            assert told <= len(scene.things) and total in (0, len(scene.things)), text
            if "other" in form:
                assert told == len(scene.things), text
            if "background" in text or "picture that shows" in text:
                assert ("dark" in text) == (max(scene.background.colours[0]) < 128)


@pytest.mark.parametrize("style", [flickr_captions, coco_captions])
def test_captions_of_both_styles_single_out_their_picture(style):
    others = Counter()
    for scene in SCENES[:80]:
        for text in style(scene, 0, 5):
            named = [found for found in skeleton(text)[1] if isinstance(found, dict) and len(found) > 1]
            others[sum(all(fitting(other, what) for what in named) for other in SCENES[:80])] += 1
    assert others[1] > 0.85 * others.total()
