"""The benches of real data on a tiny hand-made folder in the same layout; the real one is measured, not tested with."""

import json

import hand_made
import numpy as np
import pytest

from uniter import stages
from uniter.pretraining import Judged
from uniter.real import ablation, entailment, files, flickr8k, floor, nlvr, nlvr_files
from uniter.regions import Regions
from uniter.regions.formats import open_regions
from uniter.regions.store import StoreWriter
from uniter.run import pretraining_job
from uniter.tasks.base import load


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return hand_made.make(tmp_path_factory.mktemp("real") / "data")


def cells(table, row):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


# ---------------------------------------------------------------- files


def test_captions_are_written_as_karpathys_json(data, tmp_path):
    files.write_captions({"train": data / "flickr8k" / "train.jsonl", "dev": data / "flickr8k" / "dev.jsonl"}, tmp_path)
    captions = load("retrieval")(tmp_path, data / "flickr8k" / "regions-dev.npz").examples("dev")
    assert [(c.text, c.image) for c in captions[:3]] == [
        ("A red dog runs .", "124_18.jpg"),
        ("There is a dog that is red .", "124_18.jpg"),
        ("A green cat runs .", "125_19.jpg"),
    ]
    assert len({c.sentid for c in captions}) == 12
    with pytest.raises(ValueError, match=r"none\.jsonl: no such file; `--data` is a folder with nlvr"):
        files.write_captions({"train": tmp_path / "none.jsonl"}, tmp_path)


def test_rows_of_one_picture_are_in_one_split_whatever_the_other_rows_are(data, tmp_path):
    path = data / "snli_ve" / "train.jsonl"
    folder = files.write_entailment(path, tmp_path / "all")
    parts = {s: load("snli_ve")(folder).examples(s) for s in ("train", "dev", "test")}
    assert sum(map(len, parts.values())) == 90 and all(parts.values())
    pictures = {split: {example.image for example in part} for split, part in parts.items()}
    assert not pictures["train"] & pictures["test"] and not pictures["train"] & pictures["dev"]
    assert all(files.part_of(image) == split for split, images in pictures.items() for image in images)
    half = tmp_path / "half.jsonl"
    half.write_text("".join(path.read_text().splitlines(keepends=True)[::2]))
    again = files.write_entailment(half, tmp_path / "again")
    assert {e.image for e in load("snli_ve")(again).examples("test")} <= pictures["test"]
    assert files.part_of("1000268201_693b08cb0e.jpg") == files.part_of("1000268201_693b08cb0e")


def test_a_blank_store_has_the_same_pictures_and_nothing_to_see(data, tmp_path):
    known = data / "flickr8k" / "regions-dev.npz"
    for _ in range(2):
        blank = open_regions(files.write_blank(known, tmp_path / "blank"))
    assert sorted(blank.names) == sorted(open_regions(known).names)
    assert blank.feature_size == 6 and blank.num_classes == 4
    regions = blank["124_18.jpg"]
    assert regions.features.shape == (1, 6) and not regions.features.any()
    assert regions.fractions()[0, :4].tolist() == [0, 0, 1, 1]


def test_every_tenth_training_folder_of_nlvr_is_held_out(data, tmp_path):
    nlvr_files.write_parts(data / "nlvr" / "train.jsonl", "train", 2, tmp_path)
    nlvr_files.write_parts(data / "nlvr" / "dev.jsonl", "dev", 6, tmp_path)
    read = lambda part: [json.loads(line) for line in (tmp_path / f"{part}.jsonl").read_text().splitlines()]
    assert [record["directory"] for record in read("held")] == ["0", "10"]
    assert len(read("train")) == 10 and "structured_rep" not in read("train")[0]
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert len(names) == 12 * 2 + 3 * 6 and "held-10-0-1.webp" in names and "train-10-0-1.webp" not in names


def test_boxes_of_a_picture_follow_its_order(data):
    record = json.loads((data / "nlvr" / "train.jsonl").read_text().splitlines()[0])
    boxes = [entry["bbox"] for entry in nlvr_files.to_coco(record, 5) if entry["category_id"] != 10]
    assert boxes == [[150 + 60, 30, 10, 10], [300 + 20, 30, 10, 10]]  # order 2 1 0


# ---------------------------------------------------------------- the floor


def test_ridge_regression_finds_what_the_features_say(data):
    numbers = floor.ridge_recalls(data / "flickr8k" / "train.jsonl", data / "flickr8k" / "dev.jsonl")
    assert numbers["image_recall_at_1"] > 50  # six pictures: chance is 17
    few = floor.ridge_recalls(data / "flickr8k" / "train.jsonl", data / "flickr8k" / "dev.jsonl", 2, 1)
    assert few["image_recall_at_5"] == few["text_recall_at_5"] == 100


# ---------------------------------------------------------------- benches

TINY = {"size": "tiny", "tokens": 256}


def test_flickr8k_is_measured_from_both_starts_on_dev_and_on_another_split(data, tmp_path, monkeypatch):
    budget = flickr8k.Budget(**TINY, pretraining=2, retrieval=1, phrases=1)
    (found,) = flickr8k.flickr8k(data, tmp_path, (0,), budget, progress=False)
    table = flickr8k.table([found])
    for row in ("ridge regression (floor)", "zero-shot", "pre-trained", "from scratch"):
        assert len(cells(table, row)) == 6
    assert cells(table, "pre-trained, any box")[1] == "100.0"
    assert {"pre-training", "retrieval, from scratch"} <= found.seconds.keys()
    trained: list[str] = []
    run = stages.run
    monkeypatch.setattr(stages, "run", lambda recipe, *rest: trained.append(recipe.kind) or run(recipe, *rest))
    (more,) = flickr8k.flickr8k(data, tmp_path, (0,), budget, data / "flickr8k" / "test.jsonl", progress=False)
    assert {name for name in more.numbers if name.startswith("dev")} == found.numbers.keys()
    assert len([name for name in more.numbers if name.startswith("test")]) == len(found.numbers)
    assert more.numbers["dev, zero-shot, retrieval"] == found.numbers["dev, zero-shot, retrieval"]
    assert "| retrieval, test |" in flickr8k.table([more])


def test_entailment_has_a_control_that_sees_nothing(data, tmp_path):
    budget = entailment.Budget(**TINY, pretraining=2, entailment=2)
    (found,) = entailment.entailment(data, tmp_path, (0,), budget, progress=False)
    (more,) = entailment.entailment(
        *(data, tmp_path, (0,), budget, data / "snli_ve" / "test.jsonl", data / "flickr8k" / "regions-test.npz"),
        progress=False,
    )
    table = entailment.table([more])
    assert table.startswith("| held-out (") and "| test (15 rows) |" in table
    assert {"held-out, majority", "held-out, pretrained", "held-out, scratch", "held-out, blind"} == set(found.numbers)
    assert len(more.numbers) == 8
    shown = (tmp_path / "seed-0" / "entailment-blind" / "config.yaml").read_text()
    assert "blank" in shown and "regions-train.npz" not in shown
    with pytest.raises(ValueError, match="--split and --regions go together"):
        entailment.entailment(data, tmp_path, (0,), budget, split=data / "snli_ve" / "test.jsonl")


def test_flickr8k_and_entailment_share_a_pretraining(data, tmp_path):
    budget = {**TINY, "pretraining": 1}
    flickr8k.flickr8k(data, tmp_path, (0,), flickr8k.Budget(**budget, retrieval=1, phrases=1, rows=()), progress=False)
    before = (tmp_path / "seed-0" / "pretraining" / "result.json").stat().st_mtime_ns
    one = entailment.Budget(**budget, entailment=1, rows=("blind",))
    entailment.entailment(data, tmp_path, (0,), one, progress=False)
    assert (tmp_path / "seed-0" / "pretraining" / "result.json").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def prepared(data, tmp_path_factory):
    """NLVR's detector and regions, of which training a detector takes longest."""
    out = tmp_path_factory.mktemp("nlvr")
    budget = nlvr.Budget(**TINY, detector=1, boxes=6, orders=2, pretraining=2, updates=2)
    return out, budget, nlvr.nlvr(data, out, (0,), budget, progress=False)


def test_nlvr_goes_from_pixels_to_a_table(data, prepared):
    out, budget, (found,) = prepared
    table = nlvr.table([found])
    for row in ("pre-trained", "from scratch", "from scratch, sentence only"):
        assert len(cells(table, row)) == 5
    assert {"detector", "pictures", "regions", "pre-training"} <= found.seconds.keys()
    held = json.loads((out / "nlvr" / "coco" / "train.json").read_text())["images"]
    assert len(held) == 6 and not any(image["file_name"].startswith(("train-0-", "train-10-")) for image in held)
    (more,) = nlvr.nlvr(data, out, (0,), budget, data / "nlvr" / "test.jsonl", progress=False)
    assert more.numbers["dev, scratch"] == found.numbers["dev, scratch"] and "test, blind" in more.numbers


def test_matching_learns_nlvrs_labels_and_masks_are_of_true_sentences(data, tmp_path):
    nlvr_files.write_parts(data / "nlvr" / "train.jsonl", "train", 2, tmp_path)
    files.write_vocabulary(["There is a red green blue black square"], tmp_path, 200)
    with StoreWriter(tmp_path / "regions", None) as writer:
        for path in sorted((tmp_path / "images").iterdir()):
            box = np.array([[0, 0, 400, 100]], np.float32)
            writer.add(path.name, Regions(np.ones((1, 6), np.float32), box, 400, 100, np.eye(3, dtype=np.float32)[:1]))
    job = pretraining_job(nlvr.pretraining(tmp_path, nlvr.Budget(**TINY), 0))
    source = job.sources[0]
    assert isinstance(source, Judged) and len(source.texts) == 10 * 2
    labels = np.repeat([number % 2 == 0 for number in range(12) if number % 10], 2)  # hand_made: even ones are true
    batch = job.prepare("itm/0", np.arange(20), 0)
    assert batch["labels"].tolist() == labels.tolist() == source.labels.tolist()
    assert len(job.lengths("itm/0")) == 20 and len(job.lengths("mlm/0")) == labels.sum() == 4 * 2
    masked = job.prepare("mlm/0", np.arange(8), 0)
    assert (masked["labels"] >= 0).any(1).all()
    shown = [source.true.images[i] for i in source.true.image_of]
    assert [name.split("-")[1] for name in shown] == ["2", "2", "4", "4", "6", "6", "8", "8"]


def test_the_ablation_has_the_rows_of_the_paper_and_sums_three_numbers(data, prepared, tmp_path):
    assert len(ablation.ROWS) == 10
    out, _, _ = prepared
    rows = ("none", "MLM + ITM", "the last, words and regions masked at once")
    budget = ablation.Budget(
        **TINY, pretraining=1, retrieval=1, entailment=1, nlvr=1, detector=1, boxes=6, orders=2, rows=rows
    )
    found = ablation.ablation(data, out, (0, 1), budget, progress=False)
    table = ablation.table(found)
    for row in rows:
        assert all("±" in cell for cell in cells(table, row)) and len(cells(table, row)) == 4
        one = found[0][row].numbers
        total = one["retrieval"]["mean_recall"] + one["entailment"]["accuracy"] + one["nlvr"]["accuracy"]
        assert 0 < total < 300
    assert not any("pre-training" in stage for stage in found[0]["none"].seconds)
    settings = (out / "seed-0" / "ablation-9" / "pretraining-flickr8k" / "config.yaml").read_text()
    assert "masking: joint" in settings
    with pytest.raises(ValueError, match="there is no row 'MRM': choose among none, MLM"):
        ablation.ablation(data, tmp_path, (0,), ablation.Budget(rows=("MRM",)), progress=False)


def test_every_row_of_the_ablation_is_a_recipe(data, tmp_path):
    flickr8k.prepare(data, tmp_path)
    for objectives in ablation.ROWS.values():
        if objectives is not None:
            recipe = flickr8k.pretraining(data, tmp_path, ablation.Budget(), 0, objectives)
            assert recipe.objectives.mlm + recipe.objectives.itm > 0


@pytest.mark.parametrize(("bench", "kind"), [(flickr8k, "flickr8k"), (entailment, "entailment"), (nlvr, "nlvr")])
def test_names_that_are_not_known_are_refused(data, tmp_path, bench, kind):
    with pytest.raises(ValueError, match="there is no size 'huge': choose among tiny"):
        getattr(bench, kind)(data, tmp_path, (0,), bench.Budget(size="huge"), progress=False)
    with pytest.raises(ValueError, match="there is no row 'mine': choose among pretrained"):
        getattr(bench, kind)(data, tmp_path, (0,), bench.Budget(rows=("mine",)), progress=False)
