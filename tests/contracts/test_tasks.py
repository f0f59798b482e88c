"""What every task keeps, whatever the benchmark; a new task is tested here as soon as tests/fixtures.py has its maker."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

import fixtures
from uniter.regions.store import Store
from uniter.run import score
from uniter.tasks.base import load, names
from uniter.tasks.finetuning import FineTuning
from uniter.tasks.retrieval import Retrieval

TASKS = names()


@pytest.fixture(params=TASKS)
def name(request):
    return request.param


@pytest.fixture
def case(name, tmp_path):
    return fixtures.make_case(name, tmp_path / "data")


@pytest.fixture
def task(name, case):
    return case.task()


def one_line_error(call):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# ---------------------------------------------------------------- learning


def test_the_loss_is_finite_and_falls(task):
    job = FineTuning(task, fixtures.tiny_model(task, initializer_range=0.02))
    optimizer = torch.optim.Adam(job.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss, numbers = job.loss(task.name, job.prepare(task.name, np.arange(len(job.examples)), epoch=0))
        assert loss.ndim == 0 and all(np.isfinite(float(value)) for value in numbers.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0], losses


def test_a_training_batch_is_a_pure_function_of_indices_and_epoch(name, case):
    batches = []
    for order in ([0, 1, 2], [2, 1, 0]):  # other batches in between change nothing
        task = case.task()
        examples = task.examples("train")
        for index in order:
            task.training_batch(examples, np.array([index]), 7)
        batches.append(task.training_batch(examples, np.array([2, 0]), 1))
    assert batches[0].keys() == batches[1].keys()
    for key in batches[0]:
        torch.testing.assert_close(batches[0][key], batches[1][key], rtol=0, atol=0)


def test_the_job_measures_saves_and_names_what_to_watch(task, tmp_path):
    job = FineTuning(task, fixtures.tiny_model(task), validation_examples=3)
    numbers = job.validate()
    assert job.monitor in numbers and all(np.isfinite(value) for value in numbers.values())
    job.save(tmp_path / "saved")
    again = task.model.from_pretrained(tmp_path / "saved").eval()
    assert task.evaluate(again, job.validation) == numbers


def test_lengths_are_those_of_the_encoded_pairs_and_need_no_region_arrays(name, case, tmp_path, monkeypatch):
    task = case.task()
    examples = task.examples("train")
    expected = [sum(len(row) for row in task.encode([example])) for example in examples]
    if isinstance(task, Retrieval):  # a positive comes with a negative image and a negative text
        expected = [3 * length for length in expected]
    assert task.lengths(examples).tolist() == expected and task.lengths(examples).dtype == np.int64

    fixtures.write_store(tmp_path / "store", case.regions)
    task = load(name)(case.data, tmp_path / "store", fixtures.processor(), **case.options)
    examples = task.examples("train")  # own boxes are held against the pictures' sizes
    monkeypatch.setattr(Store, "__getitem__", lambda self, image: pytest.fail("a region array was read"))
    assert task.lengths(examples).tolist() == expected


# ---------------------------------------------------------------- predicting


def raw(task, model, examples, tokens):
    """What the model says of each example before it is decoded, as {name of an outcome: number}."""
    if isinstance(task, Retrieval):
        images = list(dict.fromkeys(example.image for example in examples))
        return [dict(zip(images, map(float, row))) for row in task.predict(model, examples, tokens=tokens)]
    real = lambda row: {i: float(value) for i, value in enumerate(row) if value > -9999}
    rows_of = lambda logits, chosen: [real(row) for row in logits.reshape(len(chosen), -1)]
    task.decode = lambda output, chosen, batch: rows_of(output.logits, chosen)
    try:
        return task.predict(model, examples, tokens=tokens)
    finally:
        del task.decode


def test_batch_size_and_neighbours_change_no_prediction(task):
    model = fixtures.tiny_model(task)
    examples = task.examples("train")
    usual = task.predict(model, examples)
    assert len(usual) == len(examples)
    numbers = raw(task, model, examples, 8192)
    spread = np.std([value for row in numbers for value in row.values()])
    assert spread > 1e-2, "the model cannot tell the examples apart: nothing would be tested"

    order = np.random.default_rng(0).permutation(len(examples)).tolist()
    shuffled = [examples[i] for i in order]
    for tokens in (1, 40, 8192):
        for chosen, rows in ((examples, range(len(examples))), (shuffled, order)):
            for found, row in zip(raw(task, model, chosen, tokens), rows, strict=True):
                assert found.keys() == numbers[row].keys()
                for key, value in found.items():
                    assert abs(value - numbers[row][key]) < 1e-5
    if not isinstance(task, Retrieval):
        assert task.predict(model, examples, tokens=40) == usual
        assert task.predict(model, shuffled) == [usual[i] for i in order]
        assert task.predict(model, examples[3:4]) == usual[3:4]


def test_half_precision_measures_too(task):
    numbers = task.evaluate(fixtures.tiny_model(task), task.examples("val"), precision="bfloat16")
    assert task.monitor in numbers and all(0 <= value <= 100 for value in numbers.values())


def test_what_is_shown_by_name_is_what_the_pairs_hold(task):
    for example in task.examples("val"):
        shown, pairs = task.shown(example), task.pairs(example)
        assert [text for text, _ in shown] == [pair.text for pair in pairs]
        for pair, (_, image) in zip(pairs, shown, strict=True):
            names = image if isinstance(image, tuple) else (image,)
            expected = np.concatenate([task.regions[name].features for name in names])
            np.testing.assert_array_equal(pair.regions.features, expected)


def test_predicting_leaves_the_model_in_the_mode_it_was_in(task):
    model = fixtures.tiny_model(task, hidden_dropout_prob=0.5).train()
    examples = task.examples("val")
    first, second = raw(task, model, examples, 8192), raw(task, model, examples, 8192)
    assert model.training and first == second


def test_no_examples_make_no_predictions(task):
    assert list(task.predict(fixtures.tiny_model(task), [])) == []


# ---------------------------------------------------------------- scoring


def test_a_perfect_prediction_scores_100(name, case, task):
    alone = load(name)(case.data, **case.options)  # no regions, no processor, no model
    for one in (task, alone):
        examples = one.examples("val")
        numbers = one.score(one.perfect(examples), examples)
        assert numbers[one.monitor] == pytest.approx(100.0)
        assert not [key for key, value in numbers.items() if not -1e-9 <= value <= 100 + 1e-9]


RECALLS = ["mean_recall", *(f"{side}_recall_at_{k}" for side in ("image", "text") for k in (1, 5, 10))]
HEADLINES = {
    "vcr": ["Q->A", "QA->R", "Q->AR"],
    "nlvr2": ["accuracy", "consistency"],
    "nlvr": ["accuracy", "consistency"],
    "retrieval": RECALLS,
    "own_captions": RECALLS,
}


def test_headline_numbers_have_an_interval(name, task):
    examples = task.examples("val")
    numbers = task.score(task.predict(fixtures.tiny_model(task), examples), examples)
    assert task.monitor in HEADLINES.get(name, ["accuracy"])
    for key in HEADLINES.get(name, ["accuracy"]):
        assert numbers[f"{key}_low"] - 1e-9 <= numbers[key] <= numbers[f"{key}_high"] + 1e-9


def test_a_written_file_is_scored_without_model_and_regions(name, case, task, tmp_path):
    examples = task.examples("val")
    found = task.predict(fixtures.tiny_model(task), examples)
    task.write(found, tmp_path / "predictions", examples)
    options = [f"{key}={value}" for key, value in case.options.items()]
    numbers = score(name, case.data, "val", tmp_path / "predictions", options)
    expected = task.score(found, examples) | task.breakdown(found, examples)
    assert numbers == {key: value for key, value in expected.items() if key != "upper_bound"}


def test_the_written_file_reads_back(task, tmp_path):
    examples = task.examples("val")
    found = task.predict(fixtures.tiny_model(task), examples)
    path = tmp_path / "new" / "predictions"
    task.write(found, path)
    again = task.read(path)
    assert len(again) == len(found)
    for one, other in zip(again, found, strict=True):
        np.testing.assert_equal(one, other)
    assert task.score(again, examples) == task.score(found, examples)
    assert [file.name for file in path.parent.iterdir()] == ["predictions"], "nothing temporary is left"


def test_predictions_of_something_else_are_refused(task, tmp_path):
    examples = task.examples("val")
    one_line_error(lambda: task.score(task.perfect(examples)[1:], examples))
    message = one_line_error(lambda: task.read(tmp_path / "nowhere"))
    assert "nowhere" in message
    (tmp_path / "bad").write_text("{{{")
    assert "bad" in one_line_error(lambda: task.read(tmp_path / "bad"))


# ---------------------------------------------------------------- what a user gets wrong


def test_unknown_split(task):
    assert "holiday" in one_line_error(lambda: task.examples("holiday"))


def test_missing_folder(name, case):
    message = one_line_error(lambda: load(name)(case.data / "nowhere"))
    assert "nowhere" in message and "folder" in message


def test_missing_file(name, case, task):
    for file in case.files:
        if "annotations" in file:
            continue  # questions without answers are a test split
        kept = (case.data / file).rename(case.data.parent / "kept")
        message = one_line_error(lambda: task.examples("train"))
        assert str(case.data) in message and "put" in message
        kept.rename(case.data / file)


def test_malformed_file(case, task):
    for file in case.files:
        kept = (case.data / file).read_bytes()
        for bad in (b"", kept[: len(kept) // 2], b"[1, 2]", b"{}", pickle.dumps([1, 2]), b"\xff\xfe\x00"):
            (case.data / file).write_bytes(bad)
            assert file in one_line_error(lambda: task.examples("train"))
        (case.data / file).write_bytes(kept)
    assert task.examples("train")


def spoilt(value):
    """Copies of a JSON value, in each of which one thing is missing or of another kind; two items of a list are enough."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {k: v for k, v in value.items() if k != key}
            for other in (None, "x", 7, [[]], {}, *spoilt(inner)):
                yield {**value, key: other}
    elif isinstance(value, list):
        for place, inner in list(enumerate(value))[:2]:
            for other in (None, "x", 7, [], {}, *spoilt(inner)):
                yield [*value[:place], other, *value[place + 1 :]]


def as_json(value):
    return json.dumps(value).encode()


def as_lines(value):
    return b"\n".join(map(as_json, value)) if isinstance(value, list) else as_json(value)


LAYOUTS = {  # how a file's content is read and written
    ".json": (json.loads, as_json),
    ".jsonl": (lambda content: [json.loads(line) for line in content.splitlines()], as_lines),
    ".p": (pickle.loads, pickle.dumps),
}


def test_a_record_that_lacks_something_is_read_or_refused_in_one_line(case):
    """Never a KeyError or a TypeError out of the middle of a file."""
    for file in case.files:
        path = case.data / file
        kept = path.read_bytes()
        loads, dumps = LAYOUTS[".jsonl" if case.lines else path.suffix]
        for content in spoilt(loads(kept)):
            path.write_bytes(dumps(content))
            try:
                task = case.task()
                task.target(task.examples("train"))
            except ValueError as error:
                assert str(case.data) in str(error) and "\n" not in str(error), content
        path.write_bytes(kept)


def test_predictions_that_are_no_predictions_are_refused(task):
    examples = task.examples("val")
    perfect = list(task.perfect(examples))
    for other in (None, 7, "x", {}, [], {"question_id": 1}, {"sent_id": 1}):
        one_line_error(lambda other=other: task.score([*perfect[1:], other], examples))
    if isinstance(perfect[0], dict):
        for spoiled in spoilt(perfect[0]):
            try:
                task.score([spoiled, *perfect[1:]], examples)
            except ValueError as error:
                assert "\n" not in str(error)


def test_missing_region(name, case, tmp_path):
    del case.regions[case.image]
    fixtures.write_store(tmp_path / "store", case.regions)
    for regions in (case.regions, str(tmp_path / "store")):
        task = load(name)(case.data, regions, fixtures.processor(), **case.options)
        for call in (task.encode, task.lengths):  # one's own file is refused as soon as it is read
            message = one_line_error(lambda call=call, task=task: call(task.examples("train")))
            assert case.image in message and "extract" in message


def test_unknown_option(name, case, task):
    message = one_line_error(lambda: load(name)(case.data, colour=3))
    assert "colour" in message and name in message
    for key in task.options:
        assert repr(key[:-1]) in (message := one_line_error(lambda key=key: load(name)(case.data, **{key[:-1]: 1})))
        assert f"did you mean {key}?" in message


def test_option_of_the_wrong_kind(name, case, task):
    for key, default in task.options.items():
        if default is not None:
            message = one_line_error(lambda key=key: load(name)(case.data, **{key: {"a": 1}}))
            assert key in message


def test_a_store_given_by_path_is_opened(name, case, tmp_path):
    fixtures.write_store(tmp_path / "store", case.regions)
    task = load(name)(str(case.data), str(tmp_path / "store"), fixtures.processor(), **case.options)
    examples = task.examples("train")
    assert len(task.encode(examples[:2])) == sum(len(task.shown(example)) for example in examples[:2])
    shutil.rmtree(tmp_path / "store")


def test_every_task_has_a_fixture():
    for name in TASKS:
        assert name in fixtures.MAKERS, (
            f"task {name!r} has no fixture: add a maker for it to MAKERS in tests/fixtures.py"
        )
    with pytest.raises(AssertionError, match="add a maker"):
        fixtures.make_case("unheard-of", None)
