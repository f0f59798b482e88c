import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fixtures
from uniter.files import read_json
from uniter.tasks import base
from uniter.tasks.base import Task, load, names
from uniter.tasks.finetuning import FineTuning
from uniter.tasks.intervals import interval
from uniter.tasks.reading import images_by_id, name_finder, trailing_number
from uniter.tasks.vqa import VQA


def test_tasks_are_found_by_their_module():
    assert {"retrieval", "vqa", "refcoco"} <= set(names()) and "base" not in names()
    assert load("vqa") is VQA is load("uniter.tasks.vqa")
    for name in names():
        assert load(name).name == name


@pytest.mark.parametrize(
    ("name", "said"), [("vq", "did you mean vqa"), ("zzz", "there are .*vqa"), ("no.such", "no task"), ("base", "Task")]
)
def test_an_unknown_task_is_refused(name, said):
    with pytest.raises(ValueError, match=said) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_a_task_of_ones_own_is_a_module_and_one_class(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "gqa.py").write_text(
        "from uniter.tasks.base import Task\nfrom uniter.tasks.vqa import VQA\n\n"
        "class Helper(Task):\n    pass\n\nclass GQA(VQA):\n    name = 'gqa'\n"
    )
    (tmp_path / "mine" / "needs.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("mine.gqa").name == "gqa"
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):  # its own fault, not a wrong name
        load("mine.needs")
    for module in [module for module in sys.modules if module.split(".")[0] == "mine"]:
        del sys.modules[module]


def test_two_pairs_an_example_are_measured_and_encoded_together(tmp_path):
    class Twice(VQA):
        def shown(self, example):
            return [(example.text, example.image), ("no", example.image)]

    case = fixtures.make_case("vqa", tmp_path)
    task = Twice(case.data, case.regions, fixtures.processor(), least=1)
    example = task.examples("train")[0]
    assert [pair.text for pair in task.pairs(example)] == [example.text, "no"]
    assert task.lengths([example]).tolist() == [sum(len(row) for row in task.encode([example]))]

    class Own(VQA):
        def pairs(self, example):
            return [super().pairs(example)[0]] * 3

    own = Own(case.data, case.regions, fixtures.processor(), least=1)
    assert own.lengths([example]).tolist() == [3 * len(row) for row in task.encode([example])[:1]]


def test_pieces_are_cut_once(tmp_path, monkeypatch):
    task = fixtures.make_case("vqa", tmp_path).task()
    cut = []
    tokens = task.processor.tokens
    monkeypatch.setattr(task.processor, "tokens", lambda texts, **more: cut.extend(texts) or tokens(texts, **more))
    examples = task.examples("train")
    for _ in range(2):
        task.lengths(examples)
        task.encode(examples)
    assert sorted(cut) == sorted({example.text for example in examples})


def test_several_training_splits_are_joined_and_validation_takes_the_same_examples_every_time(tmp_path):
    case = fixtures.make_case("vqa", tmp_path)
    task = case.task()
    model = fixtures.tiny_model(task)
    job = FineTuning(task, model, "train+val", validation_examples=4)
    assert job.examples == task.examples("train") + task.examples("val") and len(job.lengths("vqa")) == 24
    again = FineTuning(case.task(), model, validation_examples=4)
    assert job.validation == again.validation and len(job.validation) == 4
    order = task.examples("val")
    assert sorted(job.validation, key=order.index) == job.validation
    assert FineTuning(task, model, validation_split=None).validate() == {}
    other = FineTuning(case.task(seed=1), model, validation_examples=4)
    assert other.validation != job.validation


def test_what_a_task_was_not_given_is_said(tmp_path):
    case = fixtures.make_case("vqa", tmp_path)
    with pytest.raises(ValueError, match="processor"):
        FineTuning(VQA(case.data, case.regions, least=1), torch.nn.Linear(1, 1))
    task = VQA(case.data, None, fixtures.processor(), least=1)
    with pytest.raises(ValueError, match="store"):
        task.encode(task.examples("train"))


# ---------------------------------------------------------------- files and numbers


@pytest.mark.parametrize(
    ("name", "number"),
    [("COCO_val2014_000000000042.jpg", 42), ("a/b/7.png", 7), ("000123", 123), ("x1y", None), ("dog.jpg", None)],
)
def test_the_number_at_the_end_of_a_name(name, number):
    assert trailing_number(name) == number


def test_of_two_images_with_one_number_the_subset_decides():
    for order in (["train2014/a_7.jpg", "val2014/a_7.jpg"], ["val2014/a_7.jpg", "train2014/a_7.jpg"]):
        stored = dict.fromkeys([*order, "b_8.jpg", "cover.jpg"])
        assert images_by_id(stored, "val2014") == {7: "val2014/a_7.jpg", 8: "b_8.jpg"}
        assert images_by_id(stored)[7] == order[0]


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "deep" / "file.json"
    base.write_json(path, [1])
    with pytest.raises(TypeError):
        base.write_json(path, [object()])
    assert read_json(path, list) == [1] and [p.name for p in path.parent.iterdir()] == ["file.json"]
    with pytest.raises(ValueError, match="expected a JSON dict, got a list"):
        read_json(path, dict)


@given(st.lists(st.sampled_from([0.0, 30.0, 60.0, 90.0, 100.0]), min_size=1, max_size=60))
def test_the_interval_holds_the_mean_and_is_a_bootstrap(values):
    low, high = interval(values)
    assert (low, high) == interval(values)  # the same every time
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    one_by_one = np.random.default_rng(0).choice(values, (1000, len(values))).mean(1)
    error = 6 * np.std(values) / len(values) ** 0.5 / 8  # of a percentile of 1,000 resamples, amply
    np.testing.assert_allclose(
        (low, high), np.percentile(one_by_one, [2.5, 97.5]), atol=error + 101 / len(values) / 1.5
    )


def test_the_interval_is_about_two_standard_errors_wide():
    values = np.repeat([0.0, 100.0], 500)
    low, high = interval(values)
    assert low == pytest.approx(50 - 1.96 * 50 / 1000**0.5, abs=0.5) and high == pytest.approx(100 - low, abs=0.5)


def test_config_and_labels_belong_together(tmp_path):
    for name in names():
        task = fixtures.make_case(name, tmp_path / name).task()
        assert task.num_labels == task.config().get("num_labels")
        json.dumps(task.config())
        assert isinstance(task, Task) and task.monitor


def test_images_are_found_by_name_or_number_but_not_those_of_another_set():
    stored = dict.fromkeys(
        ["vg_000000000042.npz", "val2014/COCO_val2014_000000000042.jpg", "7.jpg", "train/9.jpg", "odd.jpg"]
    )
    name_of = name_finder(stored)
    assert name_of("7.jpg") == "7.jpg" and name_of("9.jpg", "train") == "train/9.jpg"
    assert name_of("coco_val2014_000000000042.npz") == "val2014/COCO_val2014_000000000042.jpg"
    assert name_of("vg_42.jpg") == "vg_000000000042.npz"
    assert name_of("flickr30k_000000000007.npz") == "7.jpg"  # a bare number is of no set
    assert name_of("42.jpg") == "vg_000000000042.npz"
    for absent in ("gcc_train_000000000042.npz", "flickr30k_000000000008.npz", "even.jpg"):
        assert name_of(absent) == absent
    assert name_finder(None)("7.jpg", "x") == "7.jpg"
