import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fixtures
from uniter.modeling_uniter import UniterForAnswers
from uniter.tasks.finetuning import FineTuning
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


# ---------------------------------------------------------------- the published splits, from public files


def published_splits(folder):
    """Beside the official files: Karpathy's, where images 200 and 201 of val are test, and Visual Genome's."""
    case = fixtures.make_case("vqa", folder)  # train images 100..105, val 200..205
    images = [
        {"cocoid": number, "filename": fixtures.coco_name("val", number), "filepath": "val2014", "imgid": number}
        | {"split": "test" if number < 202 else "restval", "sentids": [], "sentences": []}
        for number in range(200, 206)
    ]
    fixtures.write(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    coco = {1: 100, 2: 200, 3: None, 2400000: 203}  # Visual Genome's number -> COCO's
    about = [
        {"image_id": number, "url": f"https://cs.stanford.edu/people/rak248/VG_100K/{number}.jpg"}
        | {"width": 800, "height": 600, "coco_id": other, "flickr_id": None if number == 1 else 5_000_000_000 + number}
        for number, other in coco.items()
    ]
    fixtures.write(folder / "image_data.json", about)
    asked = [("What colour is the dog?", "Red."), ("Where is it?", "On the mat."), ("Which?", "A green")]
    qas = [
        {
            "id": number,
            "qas": [
                {"a_objects": [], "q_objects": [], "image_id": number, "qa_id": 10 * number + k}
                | {"question": question, "answer": answer}
                for k, (question, answer) in enumerate(asked)
            ],
        }
        for number in coco
    ]
    fixtures.write(folder / "question_answers.json", qas)
    case.regions.update({"vg_000000000001.npz": fixtures.random_regions(1, 3), "VG_100K_2/2400000.jpg": None})
    return case


def test_val_is_parted_by_karpathys_test_images(tmp_path):
    task = published_splits(tmp_path).task()
    numbers = {split: [q.question_id for q in task.examples(split)] for split in ("val", "devval", "trainval")}
    assert numbers["devval"] == [200_000, 200_001, 201_000, 201_001]
    assert sorted(numbers["devval"] + numbers["trainval"]) == sorted(numbers["val"]) and len(numbers["trainval"]) == 8
    assert all(len(q.answers) == 10 for q in task.examples("devval"))
    (tmp_path / "dataset_coco.json").rename(tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"dataset_coco\.json: no such file.*devval, trainval, vg.*option `karpathy`"):
        task.examples("devval")
    assert [q.question_id for q in vqa(tmp_path, karpathy="other.json").examples("devval")] == numbers["devval"]
    fixtures.write(tmp_path / "dataset_coco.json", {"images": [{"split": "test", "filename": "1000092795.jpg"}]})
    with pytest.raises(ValueError, match=r"dataset_coco\.json: image '1000092795\.jpg' is none of COCO"):
        task.examples("trainval")


def test_questions_of_visual_genome_are_those_with_known_answers_that_are_not_about_test_images(tmp_path, caplog):
    task = published_splits(tmp_path).task()
    assert set(task.answers) == {"red", "green", "blue"}
    examples = task.examples("vg")
    assert [(q.question_id, q.text, q.image) for q in examples] == [
        (10, "What colour is the dog?", "vg_000000000001.npz"),
        (12, "Which?", "vg_000000000001.npz"),
        (24_000_000, "What colour is the dog?", "VG_100K_2/2400000.jpg"),
        (24_000_002, "Which?", "VG_100K_2/2400000.jpg"),
    ]
    target = task.target(examples)
    assert target.sum(1).tolist() == [1, 1, 1, 1]  # the one answer counts in full
    assert [task.answers[i] for i in target.argmax(1)] == ["red", "green"] * 2
    assert (
        "4 questions; left out: 3 are about test images, 3 are about images that COCO has not, 2 have other answers"
        in caplog.text
    )
    others = vqa(tmp_path, genome_images="all").examples("vg")
    assert len(others) == 6 and [q.image for q in others if q.question_id // 10 == 3] == ["vg_000000000003.npz"] * 2


def test_published_splits_are_learnt_together(tmp_path):
    case = published_splits(tmp_path)
    case.regions["VG_100K_2/2400000.jpg"] = fixtures.random_regions(5, 4)
    task = case.task()
    job = FineTuning(task, fixtures.tiny_model(task), "train+trainval+vg", "devval")
    assert (len(job.examples), len(job.validation)) == (12 + 8 + 4, 4)
    loss, _ = job.loss("vqa", job.prepare("vqa", np.arange(24), 0))
    assert torch.isfinite(loss)


def test_what_is_wrong_with_visual_genomes_files_is_named(tmp_path):
    task = published_splits(tmp_path).task()
    images = json.loads((tmp_path / "image_data.json").read_text())
    for key, value, said in (
        ("coco_id", "x", "'x' is no number of a picture"),
        ("coco_id", [], "an odd 'coco_id'"),
        ("image_id", 9, r"question_answers\.json: image 1 is not in image_data\.json beside it"),
    ):
        fixtures.write(tmp_path / "image_data.json", [{**images[0], key: value}, *images[1:]])
        with pytest.raises(ValueError, match=said):
            task.examples("vg")
    fixtures.write(tmp_path / "image_data.json", [{**image, "coco_id": str(image["coco_id"] or 7)} for image in images])
    assert len(task.examples("vg")) == 6  # some copies have texts for numbers
    (tmp_path / "image_data.json").unlink()
    with pytest.raises(ValueError, match=r"image_data\.json: no such file, which says what Visual Genome's images are"):
        task.examples("vg")
    fixtures.write(tmp_path / "image_data.json", images)
    with pytest.raises(ValueError, match=r"no question is left.*6 have other answers"):
        vqa(tmp_path, answers=["mauve"]).examples("vg")
    kept = (tmp_path / "question_answers.json").read_text()
    for content, said in (
        (kept[:-1], "cut off or spoilt"),
        (kept[:-20], "not JSON"),
        ("{}", "expected a JSON list"),
        ('[{"id": 1}]', "no 'qas'"),
        (kept.replace("answer", "reply"), "no 'answer'"),
    ):
        (tmp_path / "question_answers.json").write_text(content)
        with pytest.raises(ValueError, match=rf"question_answers\.json: .*{said}"):
            task.examples("vg")
    (tmp_path / "question_answers.json").unlink()
    with pytest.raises(ValueError, match=r"none of question_answers\.json is there"):
        task.examples("vg")
    with pytest.raises(ValueError, match="option genome_images of task vqa is coco or all, got 'none'"):
        vqa(tmp_path, genome_images="none")


def test_an_image_of_visual_genome_is_none_of_coco(tmp_path):
    published_splits(tmp_path)
    stored = dict.fromkeys(["vg_000000000100.npz", "VG_100K/101.jpg", "coco_train2014_000000000102.npz"])
    images = [q.image for q in VQA(tmp_path, stored, fixtures.processor()).examples("train")]
    assert images[::2][:3] == [
        "COCO_train2014_000000000100.jpg",
        "COCO_train2014_000000000101.jpg",
        "coco_train2014_000000000102.npz",
    ]


def test_accuracy_by_the_beginning_of_the_question(tmp_path):
    task = vqa(tmp_path)
    examples = task.examples("train")
    assert {e.question_type for e in examples} == {"what color is the"}
    asked = [replace(e, question_type="is the" if n < 3 else e.question_type) for n, e in enumerate(examples)]
    said = [{"question_id": e.question_id, "answer": e.answers[0] if n else "wrong"} for n, e in enumerate(asked)]
    found = task.breakdown(said, asked)
    assert found == {
        "accuracy of 'is the' questions": pytest.approx(200 / 3),
        "accuracy of 'what color is the' questions": pytest.approx(100),
    }


def test_a_question_is_answered_once(tmp_path):
    task = vqa(tmp_path)
    examples = task.examples("val")
    said = task.perfect(examples)
    with pytest.raises(ValueError, match="question_id 200000 has two predictions"):
        task.score([*said, said[0]], examples)
    with pytest.raises(ValueError, match="2 of 12 have no prediction, the first is question_id 200000"):
        task.score(said[2:], examples)
    assert task.score([*said, {"question_id": 7, "answer": "red"}], examples)["accuracy"] == 100.0  # of another split


def test_words_are_not_scored_against_a_databases_numbers(tmp_path):
    record = {"input_ids": [10], "img_fname": "1.npz", "target": {"labels": [1], "scores": [1.0]}}
    fixtures.write_text_database(tmp_path / "vqa_devval.db", {"7": record})
    said, right = [{"question_id": 7, "answer": "pitcher"}], [{"question_id": 7, "answer": "1"}]
    task = VQA(tmp_path)
    examples = task.examples("devval")
    assert task.score(right, examples)["accuracy"] == 100.0
    with pytest.raises(ValueError, match=r"labels are numbers, the predictions words: give the option answers=ans2lab"):
        task.score(said, examples)
    assert VQA(tmp_path, answers=["net", "pitcher"]).score(said, examples)["accuracy"] == 100.0
