from collections import Counter, defaultdict

import numpy as np
import pytest
from scenes_reader import attributes, fitting, read, skeleton

from uniter import draws
from uniter.scenes.claims import FAMILIES, is_true
from uniter.scenes.expressions import referring
from uniter.scenes.language import ANSWERS, CHANCE, captions, questions, statement
from uniter.scenes.words import VALUES
from uniter.scenes.world import HELD_OUT, SPLITS, make_scene

SCENES = [make_scene(0, split, index) for split in SPLITS for index in range(80)]


@pytest.fixture(scope="module")
def statements():
    return [(scene, *statement(scene, 0, k)) for scene in SCENES for k in range(8)]


@pytest.fixture(scope="module")
def asked():
    return [(scene, question) for scene in SCENES for question in questions(scene, 0, 10)]


def test_claims_are_found_in_pairs_of_true_and_false():
    found = Counter()
    for scene in SCENES[::2]:
        for kind, family in FAMILIES.items():
            for k in range(4):
                pair = family(scene, draws.generator(0, f"test-{kind}", scene.image_id, k))
                if pair is not None:
                    assert is_true(scene, pair[0]) is True
                    assert is_true(scene, pair[1]) is False
                    assert [what.fields() for what in pair[0].whats] == [what.fields() for what in pair[1].whats]
                    found[kind] += 1
    assert min(found[kind] for kind in FAMILIES) > 20


def test_another_reader_agrees_with_statements(statements):
    understood = 0
    for scene, text, true in statements:
        verdict = read(scene, text)
        if verdict is not None:
            understood += 1
            assert verdict == true, (text, scene.file_name)
    assert understood > 0.6 * len(statements)


def test_statements_are_balanced(statements):
    share = np.mean([true for _, _, true in statements])
    assert 0.46 < share < 0.54
    lengths = np.array([len(text.split()) for _, text, _ in statements])
    assert lengths.max() <= 28
    assert ((lengths >= 5) & (lengths <= 20)).mean() > 0.9


def test_statements_and_questions_repeat_themselves():
    scene = SCENES[0]
    assert [statement(scene, 0, k) for k in range(5)] == [statement(scene, 0, k) for k in range(5)]
    assert questions(scene, 0, 8) == questions(scene, 0, 8)
    assert questions(scene, 0, 4) == questions(scene, 0, 8)[:4]
    assert questions(scene, 0, 8) != questions(scene, 1, 8)
    assert captions(scene, 0) == captions(scene, 0)
    assert referring(scene, 0, 4) == referring(scene, 0, 4)


def test_no_false_statement_outside_novel_names_a_held_out_pair(statements, asked):
    texts = [(scene, text) for scene, text, _ in statements] + [(scene, question.text) for scene, question in asked]
    for scene, text in texts:
        if scene.split != "novel":
            for found in skeleton(text)[1]:
                if isinstance(found, dict):
                    assert (found.get("colour"), found.get("shape")) not in HELD_OUT


def test_answers_are_single_words_of_their_kind(asked):
    for _, question in asked:
        assert question.answer in ANSWERS
        assert " " not in question.answer
        allowed = VALUES.get(question.kind) or (
            [str(n) for n in range(7)] if question.kind == "count" else ("yes", "no")
        )
        assert question.answer in allowed
        assert len(allowed) == CHANCE[question.kind]
    assert len({question.answer for _, question in asked}) >= 35


def test_counts_are_right(asked):
    for scene, question in asked:
        if question.kind == "count":
            wanted = next(found for found in reversed(skeleton(question.text)[1]) if isinstance(found, dict) and found)
            assert str(len(fitting(scene, wanted))) == question.answer, question.text


def test_direct_questions_are_right(asked):
    """Those that name the thing itself, `what colour is the large star?`; the answer is that of the one thing which fits."""
    checked = 0
    for scene, question in asked:
        form, found = skeleton(question.text)
        if question.kind in VALUES and form.count("#") == 1 and "X" not in form:
            (thing,) = fitting(scene, found[-1])
            assert getattr(thing, question.kind) == question.answer
            assert question.kind not in found[-1]
            checked += 1
    assert checked > 100


def test_answers_are_about_equally_frequent(asked):
    by_kind = defaultdict(Counter)
    for _, question in asked:
        by_kind["yes/no" if question.kind in FAMILIES else question.kind][question.answer] += 1
    assert abs(by_kind["yes/no"]["yes"] / by_kind["yes/no"].total() - 0.5) < 0.05
    for kind in (*VALUES, "count"):
        most = by_kind[kind].most_common(1)[0][1] / by_kind[kind].total()
        assert most < 1 / CHANCE[kind] + 0.12, (kind, by_kind[kind])
    assert 0.4 < by_kind["yes/no"].total() / len(asked) < 0.75


def test_captions_name_only_what_is_there():
    for scene in SCENES:
        texts = captions(scene, 0)
        assert len(texts) == len(set(texts)) == 5
        for text in texts:
            assert len(text.split()) <= 28
            for found in skeleton(text)[1]:
                if isinstance(found, dict):
                    assert fitting(scene, found), (text, scene.file_name)


def test_captions_single_out_their_picture():
    """Few other pictures show all that the captions of one name."""
    others = Counter()
    for scene in SCENES[:80]:
        for text in captions(scene, 0):
            named = [found for found in skeleton(text)[1] if isinstance(found, dict) and len(found) > 1]
            others[sum(all(fitting(other, what) for what in named) for other in SCENES[:80])] += 1
    assert others[1] > 0.85 * others.total()


def test_there_are_hundreds_of_forms(statements, asked):
    texts = [text for _, text, _ in statements] + [question.text for _, question in asked]
    texts += [text for scene in SCENES for text in captions(scene, 0)]
    texts += [text for scene in SCENES for text, _ in referring(scene, 0, 4)]
    assert len({skeleton(text)[0] for text in texts}) >= 300


def test_the_reader_knows_the_words():
    assert attributes("little purple mug with stripes") == {
        "size": "small",
        "colour": "purple",
        "shape": "cup",
        "texture": "striped",
    }
    assert skeleton("There is a red star left of the cups.")[0] == "there is a # R the #"
