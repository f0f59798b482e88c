"""NLVR against its public layout, its evaluation written out by hand, and the real files where they are."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import fixtures
from uniter.modeling_uniter import UniterForAnswers
from uniter.packing import padded
from uniter.tasks.base import load
from uniter.tasks.classification import Labelled
from uniter.tasks.finetuning import FineTuning
from uniter.tasks.nlvr import NLVR

DATA = Path(os.environ.get("UNITER_DATA", Path(__file__).parents[3] / "shared" / "data")) / "nlvr"


@pytest.fixture
def case(tmp_path):
    return fixtures.make_case("nlvr", tmp_path / "data")


def split_of(folder, *records, file="dev.jsonl"):
    fixtures.write_lines(folder / file, list(records))
    return folder


def test_it_is_found_by_itself_and_tells_two_labels_apart(tmp_path):
    assert load("nlvr") is NLVR and NLVR.model is UniterForAnswers
    task = NLVR(split_of(tmp_path, fixtures.nlvr_record(0), fixtures.nlvr_record(1)), orders=1)
    assert task.config()["id2label"] == {0: "false", 1: "true"}
    assert task.target(task.examples("dev")).tolist() == [[0, 1], [1, 0]]


def test_measured_is_every_picture_and_its_label_is_the_examples(case):
    examples = case.task().examples("dev")
    assert len(examples) == 6 * 6
    record = json.loads((case.data / "dev.json").read_text().splitlines()[1])
    names = [f"dev-110-1-{order}.png" for order in range(6)]
    assert examples[6:12] == [Labelled(n, record["sentence"], f"dev/images/1/{n}", "false") for n in names]
    assert [e.name for e in case.task(orders=2).examples("val")] == [
        f"dev-{110 + k // 2}-{k % 2}-{order}.png" for k in range(6) for order in range(2)
    ]


@pytest.mark.parametrize("file", ["dev.json", "dev.jsonl", "dev/dev.json", "dev/dev.jsonl"])
def test_the_file_may_lie_and_the_pictures_end_as_they_like(file, tmp_path):
    split_of(tmp_path, fixtures.nlvr_record(0), file=file)
    stored = {f"some/where/dev-100-0-{k}.webp": fixtures.random_regions(k, 3) for k in range(6)}
    assert [e.image for e in NLVR(tmp_path, stored).examples("dev")] == list(stored)


def test_an_example_is_learnt_from_once_an_epoch_by_another_order(case):
    job = FineTuning(case.task(), fixtures.tiny_model(case.task()), validation_split=None)
    assert [len(e.image) for e in job.examples] == [6] * 6
    seen = {}
    for epoch in range(30):
        batch = job.prepare("nlvr", np.arange(6), epoch)
        again = case.task().training_batch(job.examples, np.array([4, 1]), epoch)
        features, same = (padded(part["regions"], part["region_mask"]) for part in (batch, again))
        for row, other in ((4, 0), (1, 1)):
            count = int(again["region_mask"][other].sum())
            torch.testing.assert_close(same[other, :count], features[row, :count], rtol=0, atol=0)
        for row in range(6):
            seen.setdefault(row, set()).add(float(features[row, 0, 0]))
    for row, example in enumerate(job.examples):  # after 30 epochs none of the six has been left out
        every = {float(case.regions[image].features[0, 0]) for image in example.image}
        assert seen[row] == every
    other = case.task()
    other.seed = 1
    first, second = job.prepare("nlvr", np.arange(6), 0), other.training_batch(job.examples, np.arange(6), 0)
    assert first["regions"].shape != second["regions"].shape or not torch.equal(first["regions"], second["regions"])


def test_fewer_orders_are_learnt_from_if_asked(case):
    task = case.task(orders=1)
    lessons = task.training_examples("train")
    first = task.batch(task.examples("train"))
    for epoch in range(3):
        torch.testing.assert_close(task.training_batch(lessons, np.arange(6), epoch), first, rtol=0, atol=0)
    for wrong in (0, 7):
        with pytest.raises(ValueError, match="option orders of task nlvr is a number from 1 to 6"):
            NLVR(case.data, orders=wrong)


def test_the_length_of_a_lesson_is_that_of_its_longest_picture(case):
    task = case.task()
    lessons, pictures = task.lessons("train"), task.examples("train")
    single = task.lengths(pictures).reshape(6, 6)
    assert task.lengths(lessons).tolist() == single.max(1).tolist() and len(set(single[0].tolist())) > 1
    assert task.lengths([]).tolist() == []


def by_hand(said, examples):
    """The official evaluation of images, from (picture, prediction) and (identifier, label): precision, consistency."""
    right, sentences = 0, {}
    for identifier, label in examples:
        sentences.setdefault(identifier.split("-")[0], True)
        for order in range(6):
            if said[f"{identifier}-{order}"] == label:
                right += 1
            else:
                sentences[identifier.split("-")[0]] = False
    return 100 * right / (6 * len(examples)), 100 * sum(sentences.values()) / len(sentences)


def test_the_numbers_are_the_official_ones(case, tmp_path):
    task, rng = case.task(), np.random.default_rng(0)
    examples = task.examples("dev")
    labels = [(r["identifier"], r["label"]) for r in map(json.loads, (case.data / "dev.json").read_text().splitlines())]
    for chance in (0.0, 0.05, 0.5, 1.0):
        wrong = rng.random(len(examples)) < chance
        said = [
            {"identifier": e.name, "label": ("true" if e.label == "false" else "false") if w else e.label}
            for e, w in zip(examples, wrong, strict=True)
        ]
        task.write(said, tmp_path / "said.csv")
        with (tmp_path / "said.csv").open(newline="") as file:
            rows = {name.removesuffix(".png").split("-", 1)[1]: label for name, label in csv.reader(file)}
        numbers = task.score(task.read(tmp_path / "said.csv"), examples)
        assert (numbers["accuracy"], numbers["consistency"]) == pytest.approx(by_hand(rows, labels))
        groups = ~wrong.reshape(6, 6)
        assert numbers["examples_all_right"] == pytest.approx(100 * groups.all(1).mean())
        assert numbers["examples_most_right"] == pytest.approx(100 * (groups.sum(1) > 3).mean())
        assert numbers["accuracy_low"] <= numbers["accuracy"] <= numbers["accuracy_high"]
    assert (tmp_path / "said.csv").read_text().splitlines()[7].split(",")[0] == "dev-110-1-1.png"


def test_half_of_the_orders_is_no_majority(case):
    task = case.task()
    examples = task.examples("dev")[:6]
    other = "false" if examples[0].label == "true" else "true"
    for right, expected in ((3, 0.0), (4, 100.0)):
        said = [{"identifier": e.name, "label": e.label if k < right else other} for k, e in enumerate(examples)]
        assert task.score(said, examples)["examples_most_right"] == expected


def test_the_interval_draws_examples_since_their_orders_go_together(tmp_path):
    records = [fixtures.nlvr_record(k) for k in range(100)]
    task = NLVR(split_of(tmp_path, *records))
    examples = task.examples("dev")
    wrong = lambda e: {"identifier": e.name, "label": "false" if e.label == "true" else "true"}
    half = [
        p if k // 6 % 2 else wrong(e) for k, (p, e) in enumerate(zip(task.perfect(examples), examples, strict=True))
    ]
    numbers = task.score(half, examples)
    width = numbers["accuracy_high"] - numbers["accuracy_low"]
    assert numbers["accuracy"] == 50 and 16 < width < 24  # 2 * 1.96 * 50 / sqrt(100); over pictures it would be 8
    fewer = examples[:50] + examples[60:61]  # whole examples and parts of some: the mean is still over pictures
    assert task.score(half, fewer)["accuracy"] == pytest.approx(100 * (4 * 6 + 0) / 51)


def test_what_nobody_labelled_can_be_predicted_but_not_scored(tmp_path):
    record = {key: value for key, value in fixtures.nlvr_record(0).items() if key != "label"}
    stored = {f"test-100-0-{k}.png": fixtures.random_regions(k, 3) for k in range(6)}
    task = NLVR(split_of(tmp_path, record, file="test.jsonl"), stored, fixtures.processor())
    examples = task.examples("test")
    said = task.predict(fixtures.tiny_model(task), examples)
    assert [one["identifier"] for one in said] == list(stored)
    for call in (task.target, lambda examples: task.score(said, examples)):
        with pytest.raises(ValueError, match=r"test-100-0-0\.png has no label"):
            call(examples)


def test_what_is_foreign_is_named(tmp_path):
    for change, message in (
        ({"label": "True"}, "label 'True' of 100-0 is neither true nor false"),
        ({"identifier": "1572"}, "identifier '1572' is no sentence and picture joined by a dash"),
    ):
        split_of(tmp_path, fixtures.nlvr_record(0, **change))
        with pytest.raises(ValueError, match=message):
            NLVR(tmp_path).examples("dev")
    (tmp_path / "said.csv").write_text("dev-100-0-0.png,true\ndev-100-0-1.png,maybe\n")
    with pytest.raises(ValueError, match=r"said.csv, line 2: not `picture,true`"):
        NLVR(tmp_path).read(tmp_path / "said.csv")


@pytest.mark.skipif(not DATA.is_dir(), reason="the real NLVR is not there")
def test_the_real_files_read():
    task = NLVR(DATA)
    for split, count in (("train", 12_410), ("dev", 989)):
        lessons = task.lessons(split)
        assert len(lessons) == count and {e.label for e in lessons} == {"true", "false"}
    examples = task.examples("dev")
    assert len(examples) == 5934
    majority = [{"identifier": e.name, "label": "true"} for e in examples]
    assert task.score(majority, examples)["accuracy"] == pytest.approx(55.3, abs=0.05)  # published
