import json

import pytest
import torch

import fixtures
from uniter.run import score
from uniter.tasks.classification import Labelled
from uniter.tasks.snli_ve import LABELS, SNLIVE

RECORD = {"pairID": "1.jpg#0r1e", "sentence2": "A dog.", "gold_label": "neutral", "captionID": "1.jpg#0"}


def split_of(folder, *records, split="dev"):
    (folder / f"snli_ve_{split}.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    return folder


def test_the_labels_have_the_published_numbers(tmp_path):
    records = [RECORD | {"gold_label": label, "pairID": label} for label in ("neutral", "entailment", "contradiction")]
    task = SNLIVE(split_of(tmp_path, *records))
    assert task.target(task.examples("dev")).tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert task.config()["id2label"] == {0: "contradiction", 1: "entailment", 2: "neutral"} and task.num_labels == 3


def test_the_premise_is_the_picture_and_the_undecided_are_left_out(tmp_path):
    task = fixtures.make_case("snli_ve", tmp_path).task()
    examples = task.examples("train")
    assert len(examples) == 11 and examples[0] == Labelled(
        "1000.jpg#0r1e", "The red cat is big.", "1000.jpg", "entailment"
    )
    assert task.examples("val") == task.examples("dev") != examples


def test_an_image_is_named_by_whichever_key_there_is(tmp_path):
    records = [
        RECORD | {"Flickr30K_ID": "11"},
        RECORD | {"Flikr30kID": "12.jpg"},
        RECORD | {"captionID": "13.jpg#4"},
    ]
    split_of(tmp_path, *records)
    assert [example.image for example in SNLIVE(tmp_path).examples("dev")] == ["11.jpg", "12.jpg", "13.jpg"]
    names = [f"flickr30k_{number:012}.npz" for number in (11, 12, 13)]
    regions = {name: fixtures.random_regions(0, 3) for name in names}
    assert [example.image for example in SNLIVE(tmp_path, regions).examples("dev")] == names


def test_a_foreign_label_or_line_is_named(tmp_path):
    task = SNLIVE(split_of(tmp_path, RECORD, RECORD | {"gold_label": "maybe"}))
    with pytest.raises(ValueError, match=r"snli_ve_dev.jsonl: gold_label 'maybe' is none of contradiction"):
        task.examples("dev")
    (tmp_path / "snli_ve_dev.jsonl").write_text(json.dumps(RECORD) + "\n\n{oops\n")
    with pytest.raises(ValueError, match=r"snli_ve_dev.jsonl, line 3: not JSON"):
        task.examples("dev")


def test_accuracy_by_label(tmp_path):
    task = SNLIVE(tmp_path)
    examples = [Labelled(str(n), "it", "1.jpg", label) for n, label in enumerate([*LABELS, "neutral"])]
    said = ["contradiction", "neutral", "neutral", "entailment"]
    numbers = task.score([{"pairID": str(n), "label": label} for n, label in enumerate(said)], examples)
    assert numbers["accuracy"] == 50.0 and numbers["accuracy_low"] <= 50.0 <= numbers["accuracy_high"]
    by_label = {key: value for key, value in numbers.items() if key.startswith("accuracy ")}
    assert by_label == {"accuracy contradiction": 100.0, "accuracy entailment": 0.0, "accuracy neutral": 50.0}


def test_the_written_file_is_a_mapping_of_pair_to_label(tmp_path):
    task = SNLIVE(tmp_path)
    task.write([{"pairID": "a", "label": "neutral"}, {"pairID": "b", "label": "entailment"}], tmp_path / "said.json")
    assert json.loads((tmp_path / "said.json").read_text()) == {"a": "neutral", "b": "entailment"}


def test_a_models_own_order_of_labels_is_kept_and_other_labels_refused(tmp_path):
    task = fixtures.make_case("snli_ve", tmp_path).task()
    config = fixtures.tiny_config(num_labels=3, id2label=dict(enumerate(("neutral", "contradiction", "entailment"))))
    examples = task.examples("train")
    published = task.target(examples)
    task.adopt(task.model(config))
    assert torch.equal(task.target(examples), published[:, [2, 0, 1]])
    task.adopt(task.model(fixtures.tiny_config(num_labels=3)))  # nameless: the published order
    assert torch.equal(task.target(examples), published)
    for other in ({"num_labels": 4}, {"num_labels": 3, "id2label": {0: "yes", 1: "no", 2: "perhaps"}}):
        with pytest.raises(ValueError, match="fine-tuned on snli_ve"):
            task.predict(task.model(fixtures.tiny_config(**other)), examples)


def test_a_public_file_without_labels_is_predicted_and_not_scored(tmp_path):
    case = fixtures.make_case("snli_ve", tmp_path)
    hidden = [{key: value for key, value in RECORD.items() if key != "gold_label"} | {"Flickr30K_ID": "1000"}]
    fixtures.write_lines(tmp_path / "snli_ve_test.jsonl", hidden)
    task = case.task()
    examples = task.examples("test")
    assert [example.label for example in examples] == [None]
    assert len(task.predict(fixtures.tiny_model(task), examples)) == 1
    (tmp_path / "said.json").write_text('{"1.jpg#0r1e": "neutral"}')
    with pytest.raises(ValueError, match=r"1\.jpg#0r1e has no label; use a split with labels") as caught:
        score("snli_ve", tmp_path, "test", tmp_path / "said.json")
    assert "said.json" not in str(caught.value)  # the predictions are not to blame


def test_what_nobody_labelled_can_be_predicted_but_not_scored(tmp_path):
    fixtures.write_text_database(tmp_path / "ve_test.db", {"1.jpg#0r1e": {"input_ids": [10, 11], "img_fname": "1.jpg"}})
    task = SNLIVE(tmp_path, {"1.jpg": fixtures.random_regions(0, 3)}, fixtures.processor())
    examples = task.examples("test")
    assert len(task.predict(fixtures.tiny_model(task), examples)) == 1
    for call in (task.target, lambda examples: task.score([{"pairID": "1.jpg#0r1e", "label": "neutral"}], examples)):
        with pytest.raises(ValueError, match=r"1\.jpg#0r1e has no label"):
            call(examples)
    record = {"input_ids": [10], "img_fname": "1.jpg", "target": {"labels": [3], "scores": [1.0]}}
    fixtures.write_text_database(tmp_path / "ve_train.db", {"x": record})
    with pytest.raises(ValueError, match="record x: label 3 is none of 3"):
        task.examples("train")
