import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fixtures
from uniter.modeling_uniter import UniterForAnswers
from uniter.tasks.reading import trailing_number
from uniter.tasks.vqa import CONTRACTIONS, VQA, Question, normalise, soft_accuracy


# Each case follows from the official evaluation's rules, in their order: white space; punctuation; periods; lower case, digits
# for number words; articles; apostrophes.
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  Yes\n", "yes"),
        ("red\tand\nblue", "red and blue"),
        ("a dog", "dog"),
        ("The Cat on an apple", "cat on apple"),
        ("theatre", "theatre"),
        ("none", "0"),
        ("Two dogs", "2 dogs"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("someone", "someone"),
        ("1,000", "1000"),  # a comma between digits: all punctuation goes without a space
        ("1,000-2,000", "10002000"),
        ("5:30", "5:30"),  # the colon is no punctuation here
        ("St. Louis", "st louis"),
        ("3.5", "3.5"),
        ("5.", "5"),  # a period goes unless a digit follows, even behind a digit
        (".5", ".5"),
        ("p.m.", "pm"),
        ("black/white", "black white"),  # no space beside the mark: it becomes one
        ("black / white", "black white"),  # a space beside it: it goes
        ("black- white", "black white"),
        ("t-shirt", "t shirt"),
        ("a -b-c", "bc"),  # one space beside a mark decides for all of its kind, so no article is left
        ("x;-y-z", "x y z"),  # the text as it was given decides, not what became of it: no space beside "-" here
        ("yes!", "yes"),
        ('"stop"', "stop"),
        ("dont", "don't"),
        ("isnt it", "isn't it"),
        ("Couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("dog's", "dog's"),
        ("shes", "shes"),  # not in the official table
        ("somebody'd", "somebodyd"),  # the official table has this one the wrong way round
        ("twas", "'twas"),
        ("im", "im"),  # the table has "Im", which no lower-case word is
        ("", ""),
        ("the", ""),
    ],
)
def test_normalised_as_the_official_evaluation_does(given, expected):
    assert normalise(given) == expected


def test_contractions_give_back_one_apostrophe():
    for short, word in CONTRACTIONS.items():
        if short != "somebody'd":
            assert word.count("'") == short.count("'") + 1 and word.replace("'", "") == short.replace("'", "")
    for untouched in ("well", "were", "hell", "shell", "ill", "id", "its", "lets", "wed", "shed"):
        assert untouched not in CONTRACTIONS  # words of their own
    for short, word in {"wont": "won't", "cant": "can't", "hed": "he'd", "y'allll": "y'all'll"}.items():
        assert CONTRACTIONS[short] == word


@pytest.mark.parametrize(
    ("agree", "expected"),
    # of ten people k agree: k ways leave one of them out (k - 1 agree), 10 - k ways leave all k
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (5, 1.0), (10, 1.0)],
)
def test_soft_accuracy_by_hand(agree, expected):
    people = ["red"] * agree + [f"other {i}" for i in range(10 - agree)]
    assert soft_accuracy("red", people) == pytest.approx(expected)
    assert soft_accuracy("The Red.", people) == pytest.approx(expected if 0 < agree < 10 or agree == 0 else 0.0)


@given(st.lists(st.sampled_from(["red", "blue", "two", "2", "a dog", "dog"]), min_size=10, max_size=10))
def test_soft_accuracy_is_ten_choose_nine(people):
    same = len(set(people)) == 1
    plain = (lambda text: text) if same else normalise
    for answer in ("red", "2", "dog"):
        shares = []
        for out in range(10):
            others = [plain(p) for i, p in enumerate(people) if i != out]
            shares.append(min(1.0, others.count(plain(answer)) / 3))
        assert soft_accuracy(answer, people) == pytest.approx(np.mean(shares))


def vqa(folder, **options):
    return fixtures.make_case("vqa", folder).task(**options)


def test_examples_hold_what_the_files_say(tmp_path):
    examples = vqa(tmp_path).examples("train")
    content = json.loads((tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json").read_text())["questions"]
    assert [e.question_id for e in examples] == [q["question_id"] for q in content]
    assert [e.text for e in examples] == [q["question"] for q in content]
    assert {e.kind for e in examples} == {"other"}
    assert [trailing_number(e.image) for e in examples] == [q["image_id"] for q in content]
    assert all(len(e.answers) == 10 for e in examples) and vqa(tmp_path).examples("train2014") == examples


def test_images_go_by_their_number_whatever_the_store_calls_them(tmp_path):
    regions = {f"train/{number:012d}.jpg": fixtures.random_regions(number, 3) for number in range(100, 106)}
    vqa(tmp_path)
    images = [e.image for e in VQA(tmp_path, regions, fixtures.processor()).examples("train")]
    assert images[:3] == ["train/000000000100.jpg"] * 2 + ["train/000000000101.jpg"]
    assert VQA(tmp_path).examples("train")[0].image == "COCO_train2014_000000000100.jpg"  # without a store


def test_questions_without_answers_are_a_test_split(tmp_path):
    task = vqa(tmp_path)
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").rename(
        tmp_path / "v2_OpenEnded_mscoco_test2015_questions.json"
    )
    (tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json").write_text('{"questions": []}')
    examples = task.examples("test")
    assert examples and not any(example.answers for example in examples)
    with pytest.raises(ValueError, match="no public answers"):
        task.score([{"question_id": e.question_id, "answer": "red"} for e in examples], examples)


def test_answers_are_frequent_majority_answers_of_the_training_questions(tmp_path):
    answers = ["Red."] * 4 + ["red"] * 5 + ["two"] * 9 + ["2"] + ["green"] * 8  # normalised: red 9, 2 10, green 8
    records = [
        {
            "question_id": i,
            "multiple_choice_answer": answer,
            "answers": [{"answer": "purple"}] * 10,
            "answer_type": "other",
        }
        for i, answer in enumerate(answers)
    ]
    (tmp_path / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": records}))
    assert VQA(tmp_path).answers == ["2", "red"]  # 9 or more, the most frequent first
    assert VQA(tmp_path, least=8).answers == ["2", "red", "green"]
    with pytest.raises(ValueError, match="least"):
        _ = VQA(tmp_path, least=99).answers
    (tmp_path / "v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(ValueError, match="answers"):
        _ = VQA(tmp_path).answers
    assert VQA(tmp_path, answers=["yes", "no"]).answers == ["yes", "no"]


def test_answers_may_come_from_several_splits(tmp_path):
    vqa(tmp_path)
    for split, answer in (("train", "red"), ("val", "mauve")):
        record = {"multiple_choice_answer": answer, "answers": [], "answer_type": "other"}
        content = {"annotations": [{**record, "question_id": i} for i in range(5)]}
        (tmp_path / f"v2_mscoco_{split}2014_annotations.json").write_text(json.dumps(content))
    assert VQA(tmp_path, least=5).answers == ["red"]
    assert VQA(tmp_path, least=5, answers_from="train+val").answers == ["mauve", "red"]


def test_answers_may_come_from_a_file(tmp_path):
    vqa(tmp_path)
    path = tmp_path / "ans2label.json"
    for content in ({"net": 0, "orange": 2, "pitcher": 1}, ["net", "pitcher", "orange"]):
        path.write_text(json.dumps(content))
        for option in (path, str(path)):
            assert VQA(tmp_path, answers=option).answers == ["net", "pitcher", "orange"]
    for content in (
        {"net": 0, "orange": 2},
        {"net": 0, "orange": 0},
        {"net": "0"},
        {"net": [0]},
        [],
        {},
        [1],
        "net",
        7,
        None,
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"ans2label\.json") as caught:
            _ = VQA(tmp_path, answers=path).answers
        assert "\n" not in str(caught.value)


def test_targets_are_the_published_soft_scores(tmp_path):
    task = vqa(tmp_path, answers=["red", "2", "blue", "never", "once", "green"])
    people = ("red",) * 4 + ("two", "2", "two") + ("blue",) * 2 + ("once",)
    target = task.target([Question(1, "?", "x", people), Question(2, "?", "x", ("mauve",) * 10)])
    torch.testing.assert_close(target, torch.tensor([[1.0, 0.9, 0.6, 0.0, 0.3, 0.0], [0.0] * 6]))


def test_score_is_reported_by_kind_with_an_interval(tmp_path):
    examples = [
        Question(1, "?", "x", ("yes",) * 10, "yes/no"),
        Question(2, "?", "x", ("2",) * 3 + ("3",) * 7, "number"),
    ]
    said = [{"question_id": 2, "answer": "two"}, {"question_id": 1, "answer": "yes"}]
    found = vqa(tmp_path).score(said, examples)
    assert found["accuracy"] == pytest.approx(95.0)
    assert (found["accuracy yes/no"], found["accuracy number"]) == (pytest.approx(100.0), pytest.approx(90.0))
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]


def test_a_saved_model_answers_by_its_own_names(tmp_path):
    task = vqa(tmp_path / "data", answers=["mauve", "taupe"])
    assert task.config()["num_labels"] == 2
    fixtures.tiny_model(task).save_pretrained(tmp_path / "model")
    model = UniterForAnswers.from_pretrained(tmp_path / "model")
    other = vqa(tmp_path / "data")  # would build its own vocabulary
    assert {p["answer"] for p in other.predict(model, other.examples("val"))} <= {"mauve", "taupe"}
    assert other.answers == ["mauve", "taupe"]


def test_a_model_with_another_number_of_nameless_answers_is_refused(tmp_path):
    nameless = fixtures.tiny_model(vqa(tmp_path, answers=[f"LABEL_{i}" for i in range(7)]))
    task = vqa(tmp_path)
    with pytest.raises(ValueError, match="7 answers"):
        task.predict(nameless, task.examples("val"))


def test_a_model_without_names_needs_the_list_that_it_was_trained_with(tmp_path):
    task = VQA(tmp_path)
    config = fixtures.tiny_config(num_labels=3)
    with pytest.raises(ValueError, match="3 answers without names, none are given: give the option `answers`"):
        task.adopt(UniterForAnswers(config))
    task = VQA(tmp_path, answers=["a", "b", "c"])
    task.adopt(UniterForAnswers(config))
    assert task.answers == ["a", "b", "c"]
    with pytest.raises(ValueError, match="option answers: there is no file"):
        VQA(tmp_path, answers=str(tmp_path / "nope.json"))
