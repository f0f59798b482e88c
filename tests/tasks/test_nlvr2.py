import json

import numpy as np
import pytest
import torch

import fixtures
from golden import GOLDEN, Case, image_databases, needs_golden, sizes_of, text_database, vocabulary_of
from golden import load as golden_model
from uniter.modeling_uniter import UniterForPairs
from uniter.packing import padded
from uniter.processing_uniter import UniterProcessor
from uniter.recipe import Training, parse_recipe
from uniter.run import evaluate, finetuning_job, predict, score
from uniter.tasks.base import load
from uniter.tasks.finetuning import FineTuning
from uniter.tasks.nlvr2 import NLVR2
from uniter.training.loop import train


@pytest.fixture
def task(tmp_path):
    return fixtures.make_case("nlvr2", tmp_path).task()


def test_the_files_are_read_in_their_order(task):
    examples = task.examples("train")
    assert [example.identifier for example in examples[:3]] == ["train-10-0-0", "train-10-1-0", "train-11-0-1"]
    first = examples[1]
    assert first.text == "There are one red dog." and first.label is False
    assert first.images == ("train-10-1-img0.png", "train-10-1-img1.png")
    assert task.examples("val") == task.examples("dev")
    assert task.target(examples).tolist() == [1, 0, 1, 0, 1, 0]


def test_images_are_found_whatever_their_folder_ending_and_prefix(tmp_path):
    case = fixtures.make_case("nlvr2", tmp_path)
    alike = {
        "{}": "{}.png",
        "folder": "images/train/7/{}.png",
        "published": "nlvr2_{}.npz",
        "bare": "{}",
        "other ending": "x/{}.JPEG",
    }
    for pattern in alike.values():
        regions = {pattern.format(name.removesuffix(".png")): value for name, value in case.regions.items()}
        task = load("nlvr2")(tmp_path, regions, fixtures.processor())
        assert all(name in regions for example in task.examples("train") for name in example.images), pattern


def test_left_and_right_stay_together_and_are_told_apart_by_type(task):
    examples = task.examples("train")[:3]
    batch = task.training_batch(examples, np.array([2, 0]), 0)
    assert len(batch["input_ids"]) == 4 and batch["labels"].tolist() == [1, 1]
    features = padded(batch["regions"], batch["region_mask"])
    for row, (example, side) in enumerate((examples[k], side) for k in (2, 0) for side in (0, 1)):
        regions = task.regions[example.images[side]]
        real = batch["region_mask"][row]
        assert batch["region_types"][row][real].tolist() == [1 + side] * len(regions)
        np.testing.assert_array_equal(features[row][real], regions.features)
        assert (batch["input_ids"][row] == batch["input_ids"][row - row % 2]).all()


def test_a_triplet_is_one_row_with_both_images(tmp_path):
    task = fixtures.make_case("nlvr2", tmp_path).task(form="triplet")
    example = task.examples("train")[0]
    batch = task.batch([example])
    counts = [len(task.regions[name]) for name in example.images]
    assert batch["region_types"].tolist() == [[1] * counts[0] + [2] * counts[1]]
    assert task.config() == {"type_vocab_size": 3, "pair_form": "triplet"}
    assert len(task.predict(fixtures.tiny_model(task), task.examples("train"))) == 6
    with pytest.raises(ValueError, match="form of task nlvr2 is one of paired, triplet, paired-attn"):
        load("nlvr2")(tmp_path, form="both")


@pytest.mark.parametrize("form", ["paired", "triplet", "paired-attn"])
def test_every_form_learns_from_which_image_is_left(form, tmp_path):
    task = fixtures.make_case("nlvr2", tmp_path).task(form=form)
    model = fixtures.tiny_model(task)
    (example, *_) = task.examples("train")
    swapped = type(example)(example.identifier, example.text, example.images[::-1], example.label)
    logits = [model.eval()(**task.batch([one], labels=False)).logits for one in (example, swapped)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_accuracy_and_consistency_are_those_of_the_official_script(task):
    """Brute force, as the benchmark's own script counts: a sentence is right if all its statements are."""
    examples = [
        type(task.examples("train")[0])(
            f"test1-{sentence}-{pair}-{number}", "x", ("a", "b"), bool((sentence + pair) % 2)
        )
        for sentence in range(20)
        for pair in range(2)
        for number in range(2)
    ]
    rng = np.random.default_rng(0)
    said = [{"identifier": e.identifier, "label": bool(e.label ^ (rng.random() < 0.2))} for e in examples]
    by_name = {p["identifier"]: p["label"] for p in said}
    groups: dict[str, list[bool]] = {}
    for e in examples:
        parts = e.identifier.split("-")
        parts[2] = ""
        groups.setdefault("-".join(parts), []).append(by_name[e.identifier] == e.label)
    right = [by_name[e.identifier] == e.label for e in examples]
    numbers = task.score(list(reversed(said)), examples)
    assert numbers["accuracy"] == pytest.approx(100 * np.mean(right))
    assert numbers["consistency"] == pytest.approx(100 * np.mean([all(group) for group in groups.values()]))
    assert len(groups) == 40 and 0 < numbers["consistency"] < numbers["accuracy"] < 100
    assert numbers["accuracy_low"] < numbers["accuracy"] < numbers["accuracy_high"]
    assert numbers["consistency_low"] < numbers["consistency"] < numbers["consistency_high"]


def test_a_split_without_labels_is_predicted_and_not_scored(tmp_path):
    task = fixtures.make_case("nlvr2", tmp_path).task()
    records = [json.loads(line) for line in (tmp_path / "dev.json").read_text().splitlines()]
    hidden = [{key: value for key, value in record.items() if key != "label"} for record in records]
    fixtures.write_lines(tmp_path / "test2.json", hidden)
    examples = task.examples("test2")
    said = task.predict(fixtures.tiny_model(task), examples)
    assert [one["identifier"] for one in said] == [record["identifier"] for record in records]
    for call in (lambda: task.score(said, examples), lambda: task.target(examples), lambda: task.perfect(examples)):
        with pytest.raises(ValueError, match="dev-20-0-0 has no label"):
            call()


def test_the_submission_is_a_csv_without_header(task, tmp_path):
    said = [{"identifier": "dev-1-0-0", "label": True}, {"identifier": "dev-1-1-0", "label": False}]
    task.write(said, tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_bytes() == b"dev-1-0-0,True\ndev-1-1-0,False\n"
    assert task.read(tmp_path / "results.csv") == said
    for bad in ("dev-1-0-0", "dev-1-0-0,true", "dev-1-0-0,True,1", "identifier,prediction"):
        (tmp_path / "bad.csv").write_text(f"dev-1-0-0,True\n{bad}\n")
        with pytest.raises(ValueError, match=r"bad.csv, line 2"):
            task.read(tmp_path / "bad.csv")


def test_from_recipe_to_submission_and_back(tmp_path):
    data = tmp_path / "data"
    case = fixtures.make_case("nlvr2", data)
    store = fixtures.write_store(tmp_path / "store", case.regions)
    fixtures.processor().save_pretrained(tmp_path / "vocabulary")
    recipe = parse_recipe(
        json.dumps(
            {
                "kind": "finetune",
                "task": "nlvr2",
                "model": {
                    "size": "tiny",
                    "config": {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48},
                },
                "data": str(data),
                "regions": str(store),
                "options": {"form": "paired"},
                "vocabulary": str(tmp_path / "vocabulary"),
                "train": {"steps": 2, "tokens": 512, "device": "cpu", "validate_every": 2, "save_every": 2},
            }
        )
    )
    job = finetuning_job(recipe)
    assert (job.model.config.type_vocab_size, job.model.config.pair_form) == (3, "paired")
    result = train(job, recipe.train, tmp_path / "run", progress=False)
    out = tmp_path / "results.csv"
    # the option is not given again: the model knows its form
    assert predict("nlvr2", data, store, "dev", result.model, [], out) == 6
    from_file = score("nlvr2", data, "dev", out)
    assert from_file == evaluate("nlvr2", data, store, "dev", result.model)


# ---------------------------------------------------------------- the golden set, straight from its databases


def golden_task(**options):
    path = text_database("nlvr2_dev.db")
    return load("nlvr2")(path, image_databases("nlvr2_dev"), UniterProcessor(vocabulary_of(path)), **options)


@needs_golden
@torch.no_grad()
@pytest.mark.parametrize("form", ["paired", "triplet", "paired-attn"])
def test_the_published_rows_scores_and_loss(form):
    name = f"nlvr2_{form.replace('-', '_')}"
    golden = Case(name)
    rows, outputs = golden.examples, golden.outputs
    info = json.loads((GOLDEN / "cases" / name / "info.json").read_text())
    task = golden_task(form=form)
    known = {example.identifier: example for example in task.examples("dev")}
    examples = [known[identifier] for identifier in info["ids"]]
    batch = task.batch(examples)
    assert len(batch["input_ids"]) == len(rows)
    features, places = (padded(batch[key], batch["region_mask"]) for key in ("regions", "locations"))
    for number, row in enumerate(rows):
        text, regions = batch["text_mask"][number], batch["region_mask"][number]
        assert batch["input_ids"][number][text].tolist() == row["input_ids"].tolist()
        assert batch["region_types"][number][regions].tolist() == row["img_type_ids"].tolist()
        np.testing.assert_array_equal(features[number][regions], row["img_feat"])
        np.testing.assert_array_equal(places[number][regions], row["img_pos_feat"])
    model = golden_model(UniterForPairs, name)
    assert model.config.pair_form == form
    out = model(**batch)
    golden.same("scores", out.logits)
    golden.same("train_loss", out.loss)
    said = task.predict(model, examples)
    assert [one["label"] for one in said] == outputs["pred"].astype(bool).tolist()


@needs_golden
def test_two_steps_and_a_measure_straight_from_the_golden_database(tmp_path):
    task = golden_task()
    size = {"vocab_size": len(task.processor.vocabulary), **sizes_of(task.regions)}
    job = FineTuning(task, UniterForPairs(fixtures.tiny_config(**{**size, **task.config()})), "dev", "dev")
    training = Training(steps=2, tokens=512, device="cpu", validate_every=2, save_every=2, window=64)
    result = train(job, training, tmp_path / "run", progress=False)
    assert result.finished and result.history[-1].keys() >= {"accuracy", "consistency"}


@needs_golden
def test_a_database_made_by_the_published_scripts_with_a_statement_without_label():
    expected = json.loads((GOLDEN / "expected_db" / "texts.json").read_text())["real/txt/nlvr2_dev.db"]["entries"]
    examples = load("nlvr2")(GOLDEN / "db" / "real" / "txt" / "nlvr2_dev.db").examples("dev")
    assert [example.identifier for example in examples] == list(expected)
    targets = [entry.get("target") for entry in expected.values()]
    assert [example.label for example in examples] == [None if t is None else bool(t) for t in targets]
    assert None in targets and [example.images for example in examples] == [
        tuple(entry["img_fname"]) for entry in expected.values()
    ]


def test_another_form_than_the_models_is_refused_and_left_out_it_is_the_models(tmp_path):
    model = UniterForPairs(fixtures.tiny_config(type_vocab_size=3, pair_form="paired"))
    with pytest.raises(ValueError, match="compares two images as paired, the option form asks for triplet"):
        NLVR2(tmp_path, form="triplet").adopt(model)
    task = NLVR2(tmp_path)
    task.adopt(model)
    assert task.settings["form"] == "paired"
    NLVR2(tmp_path, form="paired").adopt(model)


@needs_golden
@torch.no_grad()
@pytest.mark.parametrize("form", ["paired", "paired_attn", "triplet"])
def test_every_published_form_is_measured_straight_from_the_published_databases(form):
    task = golden_task()
    examples = task.examples("dev")
    found = task.predict(golden_model(task.model, f"nlvr2_{form}"), examples)
    assert [said["identifier"] for said in found] == [example.identifier for example in examples]
    assert task.settings["form"] == form.replace("_", "-")
    right = [said["label"] == example.label for said, example in zip(found, examples, strict=True)]
    assert task.score(found, examples)["accuracy"] == pytest.approx(100 * sum(right) / len(right))


def test_images_may_be_named_by_the_ends_of_their_addresses(tmp_path):
    case = fixtures.make_case("nlvr2", tmp_path)
    left, right, *_ = case.regions.values()
    by_address = {"images/left.png": left, "right.jpg": right}
    examples = load("nlvr2")(tmp_path, by_address).examples("train")
    assert {example.images for example in examples} == {("images/left.png", "right.jpg")}
    both = by_address | case.regions  # the pair's own names go before
    assert load("nlvr2")(tmp_path, both).examples("train")[0].images == ("train-10-0-img0.png", "train-10-0-img1.png")
