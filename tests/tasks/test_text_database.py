"""The published text databases: hand-made ones for what goes wrong, the golden set's for what they mean."""

import json
import logging
import os
import pickle
import shutil
import sys
import threading

import numpy as np
import pytest
import torch

import fixtures
from golden import GOLDEN, image_databases, longest_text, needs_golden, sizes_of, text_database, vocabulary_of
from golden import load as golden_model
from uniter.pretraining import Captioned
from uniter.processing_uniter import UniterProcessor
from uniter.recipe import Training, parse_recipe
from uniter.regions import Regions
from uniter.run import pretraining_job
from uniter.tasks.base import load
from uniter.tasks.finetuning import FineTuning
from uniter.tasks.text_database import TextDatabase, open_split
from uniter.training.loop import train

TEXT = [10, 11, 12]


def question(image="1.jpg", labels=(0,), ids=TEXT, **more):
    target = {"labels": list(labels), "scores": [1.0] * len(labels)}
    return {"input_ids": list(ids), "img_fname": image, "target": target, **more}


def one_line(match, call):
    with pytest.raises(ValueError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- reading


@needs_golden
def test_everything_is_as_the_published_reader_has_it():
    expected = json.loads((GOLDEN / "expected_db" / "texts.json").read_text())
    databases = [name for name in expected if name.endswith(".db")]
    assert databases
    for name in databases:
        wanted = expected[name]
        lengths = "id2len_qar.json" if "vcr" in name else "id2len.json"
        found = TextDatabase(GOLDEN / "db" / name, lengths)
        dropped = [key for key in found.ids if found.id2len[key] > wanted.get("max_txt_len", 1000)]
        assert dropped == wanted.get("filtered_out", [])
        kept = [key for key in found.ids if key not in dropped]
        assert kept == list(wanted["id2len"]) and len(found) == len(kept) + len(dropped)
        assert {key: found.id2len[key] for key in kept} == wanted["id2len"]
        assert {key: found.record(key) for key in kept} == wanted["entries"]
        assert {key: found.meta[key] for key in ("CLS", "SEP", "MASK", "v_range")} == {
            key: wanted[key] for key in ("CLS", "SEP", "MASK", "v_range")
        }
    found = TextDatabase(GOLDEN / "db" / "txt" / "itm_coco_train.db")
    assert {image: [k for k, v in found.txt2img.items() if v == image] for image in found.img2txts} == found.img2txts


@needs_golden
def test_pieces_get_cls_and_sep_as_in_the_published_reader():
    expected = json.loads((GOLDEN / "expected_db" / "texts.json").read_text())["combine_inputs"]
    found = TextDatabase(GOLDEN / "db" / "real" / "txt" / "pretrain_coco_val.db")
    processor = UniterProcessor(vocabulary_of(found.path))
    for name, ids in expected.items():
        assert processor.wrap(found.pieces(name, found.record(name))).tolist() == ids


def test_a_database_is_pickled_without_its_environment_and_read_in_threads_and_forks(tmp_path):
    path = fixtures.write_text_database(tmp_path / "vqa_train.db", {str(i): question(ids=[i]) for i in range(50)})
    database = pickle.loads(pickle.dumps(TextDatabase(path)))
    again = TextDatabase(path)  # the same folder twice in one process
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: database.record(str(i))["input_ids"]})) for i in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [i] for i in range(50)} and again.record("7") == database.record("7")
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            try:
                right = database.record("7")["input_ids"] == [7] and TextDatabase(path).record("8")["input_ids"] == [8]
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---------------------------------------------------------------- what is wrong with a folder


def test_a_cut_or_foreign_data_file_is_refused(tmp_path):
    whole = fixtures.write_text_database(tmp_path / "whole", {str(i): question(ids=range(300)) for i in range(100)})
    content = (whole / "data.mdb").read_bytes()
    for length in (0, 100, 5000, 8192, len(content) // 2, len(content) - 1):
        path = shutil.copytree(whole, tmp_path / f"cut-{length}")
        (path / "data.mdb").write_bytes(content[:length])
        assert str(path / "data.mdb") in one_line("copy it again", lambda path=path: TextDatabase(path))
    (path := shutil.copytree(whole, tmp_path / "foreign")).joinpath("data.mdb").write_bytes(b"x" * len(content))
    one_line("damaged or no LMDB", lambda: TextDatabase(path))
    one_line("no data.mdb", lambda: TextDatabase(tmp_path))
    assert TextDatabase(whole).record("99")["input_ids"][-1] == 299


@pytest.mark.parametrize("missing", ["id2len", "meta", "txt2img", "img2txts"])
def test_a_missing_or_malformed_file_is_named(missing, tmp_path):
    read = lambda path: (TextDatabase(path).txt2img, TextDatabase(path).img2txts)
    path = fixtures.write_text_database(tmp_path / "vqa_train.db", {"1": question()}, **{missing: None})
    message = one_line(f"no {missing}.json", lambda: read(path))
    assert str(path) in message and "copy or make" in message
    for content in ("", "{", "[1]"):
        (path / f"{missing}.json").write_text(content)
        assert f"{missing}.json" in one_line(None, lambda: read(path))


def test_a_record_that_is_none_is_named(tmp_path):
    import lmdb

    records = {"whole": question(), "bad": question(), "cut": question()}
    path = fixtures.write_text_database(tmp_path / "vqa_train.db", records, id2len=dict.fromkeys([*records, "gone"], 3))
    with lmdb.open(str(path), lock=False) as environment, environment.begin(write=True) as put:
        put.put(b"cut", put.get(b"cut")[:-9])
        put.put(b"bad", b"no lz4")
    database = TextDatabase(path)
    assert database.record("whole") == records["whole"]
    for name, match in (("bad", "not lz4 and msgpack"), ("cut", "not lz4 and msgpack"), ("gone", "no record")):
        message = one_line(match, lambda name=name: database.record(name))
        assert str(path) in message and repr(name) in message and "copy or make" in message


def test_a_field_that_a_task_needs_is_named(tmp_path):
    for number, (record, key) in enumerate(
        [
            ({"img_fname": "1.jpg"}, "input_ids"),
            (question(ids=["a"]), "input_ids"),
            (question() | {"target": [1]}, "target"),
            (question() | {"target": {"labels": [1]}}, "scores"),
            (question() | {"target": {"labels": [1], "scores": []}}, "scores"),
            (question() | {"target": {"labels": ["x"], "scores": [1.0]}}, "scores"),
            ({"input_ids": TEXT}, "'7'"),  # not in txt2img.json
        ]
    ):
        path = fixtures.write_text_database(tmp_path / f"x{number}" / "vqa_train.db", {"7": record})
        message = one_line(key, lambda path=path: load("vqa")(path).examples("train"))
        assert str(path) in message


def test_a_database_of_another_vocabulary_is_refused(tmp_path):
    for key, match in (("CLS", r"\[CLS\] is 77 here"), ("SEP", r"\[SEP\]"), ("MASK", r"\[MASK\]")):
        path = fixtures.write_text_database(
            tmp_path / f"vqa_{key}.db", {"1": question()}, meta=fixtures.META | {key: 77}
        )
        TextDatabase(path)
        message = one_line(match, lambda path=path, key=key: load("vqa")(path, {}, fixtures.processor()).examples(key))
        assert str(path) in message and "model with its vocabulary" in message
    path = fixtures.write_text_database(
        tmp_path / "vqa_long.db", {"1": question()}, meta=fixtures.META | {"v_range": [5, 28996]}
    )
    one_line("made with 28996", lambda: load("vqa")(path, {}, fixtures.processor()).examples("long"))
    path = fixtures.write_text_database(tmp_path / "vqa_beyond.db", {"1": question(ids=[5000])})
    one_line("word piece 5000 is beyond", lambda: load("vqa")(path, {}, fixtures.processor()).examples("beyond"))
    path = fixtures.write_text_database(tmp_path / "vqa_none.db", {"1": question()}, meta={"CLS": 2})
    one_line("'SEP'", lambda: TextDatabase(path))


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    path = fixtures.write_text_database(tmp_path / "vqa_train.db", {"1": question()})

    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match=r'pip install "uniter\[formats\]"'):
        TextDatabase(path)


# ---------------------------------------------------------------- which database


def test_the_database_of_a_split_is_found_by_its_name(tmp_path, caplog):
    for name in ("vqa_train", "vqa_devval", "refcoco_val", "refcoco+_val", "refcoco+_testA"):
        fixtures.write_text_database(tmp_path / f"{name}.db", {"1": question()})
    opened = lambda place, split, *names: open_split(place, split, names).path.name
    assert opened(tmp_path, "devval", "vqa") == "vqa_devval.db"
    assert opened(tmp_path / "vqa_train.db", "train", "vqa") == "vqa_train.db"
    assert opened(tmp_path / "vqa_train.db", "devval") == "vqa_devval.db"
    assert opened(tmp_path / "refcoco+_val.db", "testA", "refcoco*") == "refcoco+_testA.db"
    assert opened(tmp_path, "testA", "refcoco*") == "refcoco+_testA.db"
    one_line(r"refcoco\+_val.db, refcoco_val.db are all there", lambda: opened(tmp_path, "val", "refcoco*"))
    one_line(
        "no text database of split 'test'; it has vqa_devval.db, vqa_train.db", lambda: opened(tmp_path, "test", "vqa")
    )
    assert open_split(tmp_path, "train", ["ve"]) is None
    with pytest.raises(
        ValueError, match=r"no v2_OpenEnded_\*_train_questions.json"
    ):  # then the public files are sought
        load("vqa")(tmp_path / "..").examples("train")

    mine = fixtures.write_text_database(tmp_path / "mine", {"1": question()})
    assert opened(mine, "anything", "vqa") == "mine" and "taken for split anything" in caplog.text


def test_the_public_files_are_read_where_there_is_no_database(tmp_path):
    case = fixtures.make_case("vqa", tmp_path)
    fixtures.write_text_database(tmp_path / "ve_train.db", {"1": question()})
    assert case.task().examples("train")[0].text == "What colour is the big cat?"


# ---------------------------------------------------------------- texts


def regions_of(*names, features=fixtures.FEATURES):
    return {name: fixtures.random_regions(number, 3 + number % 4) for number, name in enumerate(names)}


def test_longer_texts_are_left_out_of_training_only(tmp_path, caplog):
    records = {str(n): question(f"{n}.jpg", ids=[10] * n) for n in (59, 60, 61, 90)}
    for split in ("train", "dev"):
        fixtures.write_text_database(tmp_path / f"ve_{split}.db", records)
    regions = regions_of(*(f"{n}.jpg" for n in (59, 60, 61, 90)))
    task = load("snli_ve")(tmp_path, regions, fixtures.processor())
    with caplog.at_level(logging.WARNING):
        job = FineTuning(task, fixtures.tiny_model(task))
    assert [len(example.text) for example in job.examples] == [59, 60]
    assert caplog.text.count("2 of 4 examples have more than 60 word pieces") == 1
    assert [len(row.input_ids) for row in task.encode(job.validation)] == [61, 62, 63, 92]  # whole
    assert job.validate().keys() >= {"accuracy", "accuracy_low"}
    short = fixtures.tiny_model(task, max_position_embeddings=64)
    FineTuning(task, short).validate()  # 64 positions: CLS, 62 pieces, SEP
    assert [len(row.input_ids) for row in task.encode(job.validation)] == [61, 62, 63, 64]


def test_referring_expressions_are_left_out_at_the_limit_already(tmp_path):
    refer_database(tmp_path / "refcoco_train.db", lengths=(58, 59, 60, 61))
    task = load("refcoco")(tmp_path, annotated_regions(), fixtures.processor())
    assert [len(example.text) for example in task.training_examples("train")] == [59, 58]
    assert len(task.examples("train")) == 4


def test_captions_of_pretraining_are_left_out_in_training_and_read_when_asked_for(tmp_path, caplog):
    records = {str(n): {"input_ids": [10] * n, "img_fname": f"{n % 3}.jpg"} for n in (3, 60, 61, 200)}
    path = fixtures.write_text_database(tmp_path / "pretrain_coco_train.db", records)
    store = fixtures.write_store(tmp_path / "store", regions_of("0.jpg", "1.jpg", "2.jpg"))
    source = Captioned.read(tmp_path, store, "train", fixtures.processor())
    assert [len(source.texts[i]) for i in range(len(source.texts))] == [5, 62] and source.images == ["0.jpg"]
    assert "2 of 4 captions have more than 60" in caplog.text
    whole = Captioned.read(path, store, "train", fixtures.processor(), training=False)
    assert [len(whole.texts[i]) for i in range(4)] == [5, 62, 63, 202]
    assert whole.lengths().tolist() == [n + 2 + len(whole.store[f"{n % 3}.jpg"]) for n in (3, 60, 61, 200)]
    fixtures.write_text_database(
        tmp_path / "pretrain_coco_restval.db", {"9": {"input_ids": [10], "img_fname": "2.jpg"}}
    )
    both = Captioned.read(tmp_path, store, "train+restval", fixtures.processor())
    assert [len(both.texts[i]) for i in range(3)] == [5, 62, 3] and both.images == ["0.jpg", "2.jpg"]
    one_line("no text database of split 'val'", lambda: Captioned.read(path, store, "val", fixtures.processor()))
    one_line("no text database pretrain_", lambda: Captioned.read(store, store, "val", fixtures.processor()))


# ---------------------------------------------------------------- VQA


def vqa_databases(folder, labels=((0,), (2,), (1,), ())):
    names = {"ans2label": {"cat": 0, "dog": 1, "red": 2}}
    for split, start in (("train", 100), ("devval", 200)):
        records = {str(start + n): question(f"{n}.jpg", given) for n, given in enumerate(labels)}
        fixtures.write_text_database(folder / f"vqa_{split}.db", records)
    fixtures.write(folder / "ans2label.json", names["ans2label"])
    return regions_of(*(f"{n}.jpg" for n in range(len(labels)))), str(folder / "ans2label.json")


def test_stored_labels_are_named_by_the_answers_given(tmp_path):
    regions, answers = vqa_databases(tmp_path)
    task = load("vqa")(tmp_path, regions, fixtures.processor(), answers=answers)
    examples = task.examples("devval")
    assert [example.question_id for example in examples] == [200, 201, 202, 203] and examples[0].text == tuple(TEXT)
    assert task.target(examples).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert task.config()["id2label"] == {0: "cat", 1: "dog", 2: "red"}
    assert [said["answer"] for said in task.perfect(examples)] == ["cat", "red", "dog", ""]
    said = [{"question_id": 200 + n, "answer": "red"} for n in range(4)]
    assert task.score(said, examples)["accuracy"] == 25.0


def test_a_models_own_order_of_answers_is_kept(tmp_path):
    regions, answers = vqa_databases(tmp_path)
    other = load("vqa")(tmp_path, regions, fixtures.processor(), answers=["red", "cat", "dog"])
    model = fixtures.tiny_model(other)
    task = load("vqa")(tmp_path, regions, fixtures.processor(), answers=answers)
    task.adopt(model)
    examples = task.examples("devval")
    assert task.target(examples).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    alone = load("vqa")(tmp_path, regions, fixtures.processor())  # nothing names the labels but the model
    alone.adopt(model)
    assert [said["answer"] for said in alone.perfect(examples)] == ["red", "dog", "cat", ""]


def test_labels_without_names_are_numbers(tmp_path):
    regions, _ = vqa_databases(tmp_path)
    task = load("vqa")(tmp_path, regions, fixtures.processor())
    assert task.answers == ["0", "1", "2"] and task.num_labels == 3
    examples = load("vqa")(tmp_path / "vqa_devval.db").examples("devval")
    said = [{"question_id": 200 + n, "answer": "2"} for n in range(4)]
    assert load("vqa")(tmp_path).score(said, examples)["accuracy"] == 25.0


def test_a_label_beyond_the_names_or_no_target_is_refused(tmp_path):
    regions, answers = vqa_databases(tmp_path, labels=((0,), (7,)))
    task = load("vqa")(tmp_path, regions, fixtures.processor(), answers=answers)
    message = one_line("label 7 of 3 answers", lambda: task.target(task.examples("train")))
    assert str(tmp_path) in message and "ans2label.json" in message
    record = {"input_ids": TEXT, "img_fname": "0.jpg"}
    fixtures.write_text_database(tmp_path / "vqa_test.db", {"5": record})
    examples = task.examples("test")
    assert len(task.predict(fixtures.tiny_model(task), examples)) == 1
    for call in (lambda: task.target(examples), lambda: task.score([{"question_id": 5, "answer": "x"}], examples)):
        one_line("no public answers", call)


# ---------------------------------------------------------------- referring expressions

BOXES = {
    81: [10.0, 20.0, 100.0, 50.0],
    82: [300.5, 40.0, 60.0, 90.0],
    83: [12.0, 22.0, 100.0, 50.0],
}  # 81 and 83: alike
ORDER = [83, 82, 81]


def refer_database(folder, lengths=(3, 4, 5), **files):
    things = [81, 82, 83, 82]
    records, refs = {}, []
    for number, length in enumerate(lengths):
        about = {"ref_id": number, "ann_id": things[number], "image_id": 5}
        records[str(900 + number)] = {
            "sent_id": 900 + number,
            "bbox": BOXES[things[number]],
            "input_ids": [10] * length,
            **about,
        }
        refs.append({**about, "split": "val", "sent_ids": [900 + number]})
    usual = {
        "refs": refs[::-1],  # the order of the references counts
        "annotations": [{"id": number, "image_id": 5, "bbox": box} for number, box in BOXES.items()],
        "images": [{"id": 5, "ann_ids": ORDER, "width": 640, "height": 480, "file_name": "COCO_train2014_5.jpg"}],
        "txt2img": None,
        "img2txts": None,
    }
    return fixtures.write_text_database(folder, records, **{**usual, **files})


def annotated_regions(order=ORDER, name="visual_grounding_coco_gt_000000000005.npz", shift=0.0):
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in (BOXES[number] for number in order)], np.float32) + shift
    features = np.random.default_rng(0).standard_normal((len(boxes), fixtures.FEATURES)).astype(np.float32)
    return {name: Regions(features, boxes, 640.0, 480.0)}


def test_the_target_among_annotated_boxes_is_the_annotated_thing(tmp_path):
    refer_database(tmp_path / "refcoco_val.db")
    labels = lambda regions, **options: (
        (task := load("refcoco")(tmp_path, regions, fixtures.processor(), **options))
        .target(task.examples("val"))
        .tolist()
    )
    task = load("refcoco")(tmp_path)
    assert [example.sent_id for example in task.examples("val")] == [902, 901, 900]
    # things 83, 82, 81 in the order of the references; half precision moves boxes a little
    assert labels(annotated_regions(shift=0.4)) == [0, 1, 2]
    # other boxes: the region that covers best, under whatever name
    found = annotated_regions([82, 81], name="visual_grounding_det_coco_000000000005.npz")
    assert labels(found) == [1, 0, 1]
    # the same number of boxes, elsewhere: an index would be wrong
    assert labels(annotated_regions([82, 81, 83])) == [2, 0, 1]
    # too far for half precision: 83's region is still the thing's own if the user says so, else what covers best
    shifted = annotated_regions([83, 82, 83], shift=2.5)
    assert labels(shifted, boxes="annotated") == [0, 1, 2]
    assert labels(shifted, boxes="detected") == labels(shifted) == [0, 1, 0]
    one_line("3 annotated boxes and 2 regions", lambda: labels(found, boxes="annotated"))
    one_line("annotated, detected or left out", lambda: load("refcoco")(tmp_path, boxes="gt"))


def test_two_images_of_one_number_are_not_guessed_between(tmp_path):
    path = refer_database(tmp_path / "refcoco_val.db")
    both = annotated_regions() | annotated_regions(name="visual_grounding_det_coco_000000000005.npz")
    one_line("both regions of image 5", lambda: load("refcoco")(path, both).examples("val"))


@pytest.mark.parametrize("name", ["refs", "annotations", "images"])
def test_what_a_reference_database_lacks_is_named(name, tmp_path):
    path = refer_database(tmp_path / "refcoco_val.db")
    whole = json.loads((path / f"{name}.json").read_text())
    for content in ([{}], {}, [*whole, 7], [{**whole[0], "ann_ids": [1], "ann_id": 99, "bbox": [1]}], None):
        (path / f"{name}.json").unlink(missing_ok=True)
        if content is not None:
            fixtures.write(path / f"{name}.json", content)
        message = one_line(None, lambda: load("refcoco")(tmp_path).examples("val"))
        assert str(path) in message


# ---------------------------------------------------------------- the golden set, end to end


def golden_task(name, database, regions, **options):
    path = text_database(database)
    return load(name)(path, regions, UniterProcessor(vocabulary_of(path), longest_text()), **options)


@needs_golden
def test_the_order_of_expressions_is_the_published_one():
    expected = json.loads((GOLDEN / "expected_db" / "refcoco.json").read_text())
    found = golden_task("refcoco", "refcoco_val.db", None).examples("val")
    assert [str(example.sent_id) for example in found] == expected["ids"]


@needs_golden
@torch.no_grad()
@pytest.mark.parametrize(("case", "images"), [("re_eval_gt", "re_coco_gt"), ("re_eval_det", "re_coco_det")])
def test_the_published_model_finds_the_published_boxes(case, images):
    expected = np.load(GOLDEN / "cases" / case / "out_f32.npz")
    task = golden_task("refcoco", "refcoco_val.db", image_databases(images))
    examples = task.examples("val")
    found = task.predict(golden_model(task.model, "re_mlp1"), examples)
    np.testing.assert_allclose([said["pred_box"] for said in found], expected["pred_box"], atol=0.01)
    assert task.score(found, examples)["accuracy"] == pytest.approx(100 * expected["correct"].mean())
    arrays = np.load(GOLDEN / "cases" / case / "examples.npz")
    for row, example in enumerate(examples):
        x1, y1, x2, y2 = example.box
        np.testing.assert_allclose([x1, y1, x2 - x1, y2 - y1], arrays[f"ex{row:02}/tgt_box"], atol=1e-9)
    if case == "re_eval_gt":
        targets = np.load(GOLDEN / "cases" / "re_cls_mlp1" / "examples.npz")
        chosen = json.loads((GOLDEN / "cases" / "re_cls_mlp1" / "info.json").read_text())["ids"]
        ours = dict(zip([str(example.sent_id) for example in examples], task.target(examples).tolist(), strict=True))
        wanted = [int(targets[f"ex{row:02}/target"][0]) for row in range(len(chosen))]
        assert [ours[sent_id] for sent_id in chosen] == wanted
        assert all(task.on_annotated(example.image) for example in examples)
    else:
        assert not any(task.on_annotated(example.image) for example in examples)


@needs_golden
@torch.no_grad()
@pytest.mark.parametrize(("case", "images"), [("re_eval_gt", "re_coco_gt"), ("re_eval_det", "re_coco_det")])
def test_the_published_image_databases_hold_fractions_and_are_measured_in_pixels(case, images):
    expected = np.load(GOLDEN / "cases" / case / "out_f32.npz")
    task = golden_task("refcoco", "refcoco_val.db", GOLDEN / "db" / "img" / images, overlap="published")
    examples = task.examples("val")
    found = task.predict(golden_model(task.model, "re_mlp1"), examples)
    np.testing.assert_allclose([said["pred_box"] for said in found], expected["pred_box"], atol=1e-3)
    assert task.score(found, examples)["accuracy"] == pytest.approx(100 * expected["correct"].mean())
    assert all(task.on_annotated(example.image) == (case == "re_eval_gt") for example in examples)
    name = examples[0].image  # what the model sees is what is stored
    assert np.array_equal(task.seen(name).fractions(), task.regions[name].fractions())


@needs_golden
def test_fractions_of_an_image_of_unknown_size_are_refused(tmp_path):
    place = tmp_path / "refcoco_val.db"
    shutil.copytree(GOLDEN / "db" / "txt" / "refcoco_val.db", place)
    images = json.loads((place / "images.json").read_text())
    bare = [{key: value for key, value in image.items() if key != "width"} for image in images]
    (place / "images.json").write_text(json.dumps(bare))
    task = load("refcoco")(place, GOLDEN / "db" / "img" / "re_coco_gt")
    example = task.examples("val")[0]
    with pytest.raises(ValueError, match="nothing says the size of image 'visual_grounding_coco_gt"):
        task.target([example])


@needs_golden
@torch.no_grad()
def test_a_published_model_without_names_of_answers_is_measured_by_their_numbers(caplog, tmp_path):
    expected = np.load(GOLDEN / "cases" / "vqa" / "out_f32.npz")
    ids = json.loads((GOLDEN / "cases" / "vqa" / "info.json").read_text())["ids"]
    task = golden_task("vqa", "vqa_train.db", GOLDEN / "db" / "img" / "coco_train2014")
    examples = [example for example in task.examples("train") if str(example.question_id) in ids]
    found = task.predict(golden_model(task.model, "vqa"), examples)
    assert [said["answer"] for said in found] == [str(label) for label in expected["pred"]]
    assert task.score(task.perfect(examples), examples)["accuracy"] > 0
    assert not caplog.text
    task.write(found, tmp_path / "vqa.json")
    assert "answers are numbers" in caplog.text


@needs_golden
@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "case", "database"), [("vqa", "vqa", "vqa_train.db"), ("snli_ve", "ve", "ve_train.db")]
)
def test_the_published_model_gives_the_published_answers_and_loss(name, case, database):
    info = json.loads((GOLDEN / "cases" / case / "info.json").read_text())
    expected = np.load(GOLDEN / "cases" / case / "out_f32.npz")
    regions = image_databases("coco_train2014")
    model = golden_model(load(name).model, case)
    options = {"answers": [f"answer {n}" for n in range(model.config.num_labels)]} if name == "vqa" else {}
    task = golden_task(name, database, regions, **options)
    if name == "vqa":
        model.config.id2label = dict(enumerate(task.answers))
    number = (lambda e: str(e.question_id)) if name == "vqa" else (lambda e: e.name)
    examples = [example for example in task.examples("train") if number(example) in info["ids"]]
    assert [number(example) for example in examples] == info["ids"]
    batch = task.batch(examples)
    arrays = np.load(GOLDEN / "cases" / case / "examples.npz")
    for row in range(len(examples)):
        np.testing.assert_allclose(batch["labels"][row], arrays[f"ex{row:02}/target"], rtol=0, atol=1e-7)
        ids = batch["input_ids"][row][batch["text_mask"][row]]
        assert ids.tolist() == arrays[f"ex{row:02}/input_ids"].tolist()
    found = task.predict(model, examples)
    names = task.config()["id2label"]
    said = [prediction["answer" if name == "vqa" else "label"] for prediction in found]
    assert said == [names[int(label)] for label in expected["pred"]]
    assert model(**batch).loss.item() == pytest.approx(float(expected["train_loss"]), rel=1e-6)


GOLDEN_TASKS = {
    "vqa": ("vqa", "vqa_train.db", "coco_train2014", {}),
    "entailment": ("snli_ve", "ve_train.db", "coco_train2014", {}),
    "annotated": ("refcoco", "refcoco_val.db", "re_coco_gt", {}),
    "detected": ("refcoco", "refcoco_val.db", "re_coco_det", {}),
    "retrieval": ("retrieval", "itm_coco_train.db", "coco_train2014", {}),
}


def golden_config(path, **settings):
    return fixtures.tiny_config(**{"vocab_size": len(vocabulary_of(path)), **settings})


@needs_golden
@pytest.mark.parametrize("which", GOLDEN_TASKS)
def test_two_steps_and_a_measure_straight_from_the_golden_databases(which, tmp_path):
    name, database, images, options = GOLDEN_TASKS[which]
    path = GOLDEN / "db" / "txt" / database
    regions = image_databases(images)
    task = golden_task(name, database, regions, **options)
    split = path.stem.split("_")[-1]
    model = task.model(golden_config(path, **sizes_of(regions), **task.config()))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    job = FineTuning(task, model, split, split)
    most = longest_text() - (name == "refcoco")  # the published filter is strict there
    dropped = sum(length > most for length in TextDatabase(path).id2len.values())
    assert len(job.examples) == len(task.examples(split)) - dropped
    training = Training(steps=2, tokens=4096, device="cpu", validate_every=2, save_every=2, window=64)
    result = train(job, training, tmp_path / "run", progress=False)
    assert result.finished and result.steps == 2
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    again = golden_task(name, database, regions, **options)
    numbers = again.evaluate(task.model.from_pretrained(result.model), again.examples(split))
    assert numbers[task.monitor] == pytest.approx(result.history[-1][task.monitor])


@needs_golden
def test_two_steps_of_pretraining_straight_from_the_golden_databases(tmp_path):
    path = GOLDEN / "db" / "txt" / "itm_coco_train.db"
    UniterProcessor(vocabulary_of(path)).save_pretrained(tmp_path / "vocabulary")
    source = {"captions": str(path), "regions": str(GOLDEN / "db" / "img" / "coco_train2014"), "split": "train"}
    values = {
        "kind": "pretrain",
        "model": {"size": "tiny", "config": {"max_position_embeddings": longest_text() + 4}},  # the longest is cut
        "sources": [source],
        "validation": [source],
        "max_text": longest_text(),
        "vocabulary": str(tmp_path / "vocabulary"),
        "train": {"steps": 2, "tokens": 1024, "device": "cpu", "validate_every": 2, "save_every": 2, "window": 64},
    }
    recipe = parse_recipe(json.dumps(values))
    job = pretraining_job(recipe)
    (seen,), (measured,) = job.sources, job.validation
    lengths = TextDatabase(path).id2len.values()
    fitting = [length for length in lengths if length <= longest_text()]
    assert (len(seen.texts), len(measured.texts)) == (len(fitting), len(lengths)) and len(fitting) < len(lengths)
    batch = job.prepare("mlm/0", np.arange(len(fitting)), 0)
    assert batch["input_ids"].shape[1] == 2 + max(fitting)
    assert max(len(text) for text in measured.texts) == 2 + max(lengths) > longest_text() + 4
    result = train(job, recipe.train, tmp_path / "run", progress=False)
    assert result.finished and np.isfinite(result.history[-1]["mlm_loss"]) and result.best is not None
