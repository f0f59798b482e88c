import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import fixtures
from golden import GOLDEN, Case, image_databases, needs_golden, people, sizes_of, text_database, vocabulary_of
from golden import load as golden_model
from uniter.modeling_uniter import UniterForChoice, UniterForPreTraining
from uniter.packing import padded
from uniter.processing_uniter import PERSONS, SPECIAL_PIECES, UniterProcessor, Vocabulary
from uniter.recipe import Training, parse_recipe, with_parity
from uniter.run import evaluate, finetuning_job, predict, pretraining_job, score
from uniter.tasks.base import load
from uniter.tasks.finetuning import FineTuning
from uniter.tasks.vcr import HEADER, VCR
from uniter.training.loop import train


@pytest.fixture
def task(tmp_path):
    return fixtures.make_case("vcr", tmp_path).task()


def written(folder, *records, split="train"):
    """A task over these records, without regions."""
    fixtures.write_lines(folder / f"{split}.jsonl", list(records))
    return load("vcr")(folder, processor=fixtures.processor())


# ---------------------------------------------------------------- texts


def test_people_are_one_piece_each_and_other_objects_a_word(task):
    example = task.examples("train")[1]
    assert example.question == "what colour is person_0 person_2 right of dog ?"
    assert example.answers[:3] == ("person_0 is green .", "dog is blue .", "person_2 is yellow .")
    assert example.rationales[0] == "there is one blue person_2 's dog"
    assert (example.answer, example.rationale) == (1, 1)
    vocabulary = task.processor.vocabulary
    assert len(vocabulary) == len(fixtures.processor().vocabulary) + 81 == task.config()["vocab_size"]
    (tokens,) = task.tokens([task.shown(example)[0][0]])
    words = task.processor.words(tokens.input_ids)
    assert words == [
        "[CLS]",
        "what",
        "colour",
        "is",
        "person_0",
        "person_2",
        "right",
        "of",
        "dog",
        "?",
        "[SEP]",
        "person_0",
        "is",
        "green",
        ".",
        "[SEP]",
    ]
    assert vocabulary.numbers["person_2"] == len(fixtures.processor().vocabulary) + 2


def test_words_are_cut_one_by_one_like_the_whole(task):
    """The published preparation cuts word by word; joined by spaces they give the same pieces."""
    words = ["there", "isn't", "person_3", "'s", "dog,", "person_12", "cat-dog", "person_3"]
    one_by_one = [piece for word in words for piece in task.processor.pieces(word)]
    assert task.processor.pieces(" ".join(words)) == one_by_one


def test_the_published_numbers_of_people():
    vocabulary = Vocabulary((*SPECIAL_PIECES, "!", *(f"w{n}" for n in range(28990)))).with_words(PERSONS)
    assert len(vocabulary) == 29077 and [vocabulary.numbers[f"person_{n}"] for n in (0, 80)] == [28996, 29076]
    assert vocabulary.with_words(PERSONS) is vocabulary and vocabulary.end_ordinary == 28996
    assert UniterProcessor(vocabulary).pieces("person_80 person_0") == [29076, 28996]


def test_people_beyond_the_vocabulary_are_persons(tmp_path):
    record = fixtures.vcr_record("train", 0)
    record["objects"], record["question"] = ["person"] * 99, ["is", [80], [81, 98], "?"]
    assert written(tmp_path, record).examples("train")[0].question == "is person_80 person person ?"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("question", ["what", [4]]),  # there are objects 0 to 3
        ("question", ["what", [-1]]),
        ("question", ["what", 1]),
        ("question", [[], " "]),
        ("question", "what is [1] ?"),  # the file of raw sentences
        ("answer_choices", [["yes"]] * 3),
        ("answer_label", 4),
        ("rationale_label", "1"),
        ("objects", ["person", 1, 2, 3]),
    ],
)
def test_a_record_that_is_not_the_benchmarks_is_refused(key, value, tmp_path):
    task = written(tmp_path, fixtures.vcr_record("train", 0) | {key: value})
    with pytest.raises(ValueError, match=r"train\.jsonl") as caught:
        task.examples("train")
    assert "download or write it again" in str(caught.value) and "\n" not in str(caught.value)


def test_types_and_separators_are_the_published_ones(task):
    example = task.examples("train")[0]
    (tokens,) = task.tokens([task.shown(replace(example, form="rationales"))[0][0]])
    ids, sep = tokens.input_ids, task.processor.vocabulary.sep
    first, second, last = np.flatnonzero(ids == sep)
    assert last == len(ids) - 1 and set(tokens.types[:first]) == {0}
    # a SEP has the type of the part behind it
    assert set(tokens.types[first:second]) == {2} and set(tokens.types[second:]) == {3}
    story = task.story_tokens(task.shown(task.stories("train")[0])[0][0])
    first, second, _ = np.flatnonzero(story.input_ids == sep)  # and here of the part before it
    assert set(story.types[: first + 1]) == {0} and set(story.types[first + 1 : second + 1]) == {2}
    assert set(story.types[second + 1 :]) == {3}


# ---------------------------------------------------------------- rows


def test_a_question_is_learnt_from_twice_with_four_rows(task):
    job = FineTuning(task, fixtures.tiny_model(task))
    assert [example.form for example in job.examples] == ["answers", "rationales"] * 6
    batch = job.prepare("vcr", np.array([2, 3]), 0)  # question 1: answer 1, rationale 1
    assert batch["labels"].tolist() == [0, 1, 0, 0] * 2 and len(batch["input_ids"]) == 8
    said = [" ".join(task.processor.words(ids[mask])) for ids, mask in zip(batch["input_ids"], batch["text_mask"])]
    assert [text.count("[SEP]") for text in said] == [2] * 4 + [3] * 4
    true = job.examples[2].answers[1]
    assert all(true in text for text in said[4:]) and [true in text for text in said[:4]] == [False, True, False, False]


def test_a_submission_asks_for_all_rationales_and_a_measure_for_those_under_the_true_answer(task):
    (example, *_) = task.examples("train")
    assert task.rows(example) == [*((a, None) for a in range(4)), *((a, r) for a in range(4) for r in range(4))]
    assert task.rows(replace(example, form="measured", answer=2))[4:] == [(2, r) for r in range(4)]
    model = fixtures.tiny_model(task)
    counts = []
    model.register_forward_pre_hook(lambda _, __, batch: counts.append(len(batch["input_ids"])), with_kwargs=True)
    examples = task.examples("val")
    said = task.predict(model, examples)
    assert sum(counts) == 20 * 6 and all(None not in one["rationales"] for one in said)
    counts.clear()
    assert task.evaluate(model, examples) == task.score(said, examples)
    assert sum(counts) == 8 * 6


def test_annotated_regions_come_first_from_one_store_or_two(tmp_path):
    case = fixtures.make_case("vcr", tmp_path)
    task = case.task()
    (example, *_) = task.examples("train")
    own, published = example.image[1], example.image[0]
    assert own == case.image and published == "vcr_gt_train_scene_train_00.01.00.5@0.npz"
    both = np.concatenate([case.regions[published].features, case.regions[own].features])
    np.testing.assert_array_equal(task.seen(example.image).features, both)
    assert task.num_regions(example.image) == len(both)

    # two stores in which a picture is called the same
    annotated = {
        name.replace("vcr_gt_train_", "movie_0/").replace(".npz", ".jpg"): value
        for name, value in case.regions.items()
        if "vcr_gt" in name
    }
    second = fixtures.write_store(tmp_path / "second", annotated)
    first = fixtures.write_store(tmp_path / "first", {k: v for k, v in case.regions.items() if "vcr_gt" not in k})
    task = case_with(case, first, gt_regions=str(second))
    np.testing.assert_allclose(task.seen(task.examples("train")[0].image).features, both, atol=2e-3)

    detected = case.task(boxes="detected")
    assert len(detected.seen(detected.examples("train")[0].image)) == 3
    only = load("vcr")(tmp_path, second, fixtures.processor(), boxes="annotated")
    assert len(only.seen(only.examples("train")[0].image)) == 4


def case_with(case, regions, **options):
    return load("vcr")(case.data, regions, fixtures.processor(), **options)


def test_missing_annotated_regions_are_named(tmp_path):
    case = fixtures.make_case("vcr", tmp_path)
    detected = {name: value for name, value in case.regions.items() if "vcr_gt" not in name}
    task = case_with(case, detected)
    with pytest.raises(ValueError, match=r"no image 'vcr_gt_train_scene_train_00.01.00.5@0.npz'.*gt_regions") as caught:
        task.lengths(task.examples("train"))
    assert "boxes=detected" in str(caught.value) and "\n" not in str(caught.value)


def test_regions_of_two_detectors_are_refused(tmp_path):
    from uniter.regions.store import StoreWriter

    case = fixtures.make_case("vcr", tmp_path)
    first = fixtures.write_store(tmp_path / "first", case.regions)
    with StoreWriter(tmp_path / "second", detector="another") as writer:
        for name, value in case.regions.items():
            writer.add(name, value)
    with pytest.raises(ValueError, match=r"second: .*another.*random"):
        case_with(case, first, gt_regions=str(tmp_path / "second"))


@pytest.mark.parametrize("option", ["boxes", "lengths"])
def test_an_option_that_is_none_of_the_known_is_refused(option, tmp_path):
    fixtures.make_case("vcr", tmp_path)
    with pytest.raises(ValueError, match=f"option {option} of task vcr is one of"):
        load("vcr")(tmp_path, **{option: "gt"})


def test_from_pictures_with_annotated_boxes_to_choices(world, tmp_path):
    """VCR from pixels: metadata beside the pictures give the annotated regions, the detector gives the others."""
    import shutil

    from PIL import Image

    from uniter.regions.extract import extract
    from uniter.regions.store import Store

    record = fixtures.vcr_record("train", 0)
    record["img_fn"] = record["img_fn"].replace(".jpg", ".png")
    folder = tmp_path / "images"
    picture = folder / record["img_fn"]
    picture.parent.mkdir(parents=True)
    shutil.copy(world.picture(0), picture)
    with Image.open(picture) as image:
        width, height = image.size
    boxes = [[10, 20, 60.5, 90, 0.99], [50, 40, 120, 100, 0.9], [0, 0, 40, 40, 0.8], [30, 30, 90, 90, 0.7]]
    metadata = {"boxes": boxes, "segms": [], "names": record["objects"], "width": width, "height": height}
    metadata = metadata | {"boxes": [[2 * side for side in box[:4]] + box[4:] for box in boxes]}
    fixtures.write(picture.with_suffix(".json"), metadata | {"width": 2 * width, "height": 2 * height})
    shutil.copy(world.picture(1), folder / "alone.png")  # without boxes
    report = extract(folder, tmp_path / "gt", annotated=True, progress=False)
    assert (report.images, report.added) == (1, 1)
    assert [(one.name, "no alone.json" in one.reason) for one in report.failures] == [("alone.png", True)]
    found = Store(tmp_path / "gt")[record["img_fn"]]
    np.testing.assert_allclose(found.boxes, [box[:4] for box in boxes], atol=0.01)
    extract(folder / record["img_fn"], tmp_path / "detected", root=folder, progress=False)
    fixtures.write_lines(tmp_path / "train.jsonl", [record])
    task = load("vcr")(tmp_path, tmp_path / "detected", fixtures.processor(), gt_regions=str(tmp_path / "gt"))
    (example,) = task.examples("train")
    np.testing.assert_allclose(task.seen(example.image).boxes[:4], found.boxes)
    assert task.num_regions(example.image) == 4 + len(task.regions[record["img_fn"]])


# ---------------------------------------------------------------- lengths as published


def test_published_lengths_count_the_text_four_times_and_a_hundred_annotated_regions(tmp_path):
    case = fixtures.make_case("vcr", tmp_path)
    plain, published = case.task(), case.task(lengths="published")
    (answers, rationales, *_) = published.lessons("train")
    q, a, r = 9, 4, 8  # pieces of the question and of the longest answer and rationale
    detected = len(case.regions[case.image])
    assert [published.published_length(one) for one in (answers, rationales)] == [4 * (q + a), 4 * (q + a) + r]
    assert published.lengths([answers, rationales]).tolist() == [
        4 * (q + a) + 100 + detected,
        4 * (q + a) + r + 100 + detected,
    ]
    true = plain.lengths([answers])[0]
    assert true == sum(len(row) for row in plain.encode([answers])) != published.lengths([answers])[0]
    # the filter goes by the same numbers
    short = load("vcr")(
        case.data, case.regions, UniterProcessor(fixtures.processor().vocabulary, 55), lengths="published"
    )
    assert {example.form for example in short.training_examples("train")} == {"answers"}
    for boxes, regions in (("detected", detected), ("annotated", 100)):
        task = case.task(boxes=boxes, lengths="published")
        assert task.lengths(task.lessons("train")[:1]).tolist() == [4 * (q + a) + regions]


def test_parity_brings_the_published_lengths_and_the_text_limit_is_the_tasks(tmp_path):
    case = fixtures.make_case("vcr", tmp_path)
    store = fixtures.write_store(tmp_path / "store", case.regions)
    fixtures.processor().save_pretrained(tmp_path / "vocabulary")
    text = json.dumps(
        {
            "kind": "finetune",
            "task": "vcr",
            "model": {"size": "tiny", "config": {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}},
            "data": str(case.data),
            "regions": str(store),
            "vocabulary": str(tmp_path / "vocabulary"),
            "train": {"steps": 2, "tokens": 2048, "device": "cpu", "validate_every": 2, "save_every": 2},
        }
    )
    mended, official = parse_recipe(text), with_parity(parse_recipe(text, ["parity=official"]), VCR.published)
    assert (mended.options, official.options) == ({}, {"lengths": "published"})
    job = finetuning_job(mended)
    assert job.task.processor.max_text == 220
    assert finetuning_job(parse_recipe(text, ["max_text=30"])).task.processor.max_text == 30
    size = len(fixtures.processor().vocabulary) + 81
    assert (job.model.config.vocab_size, job.model.config.type_vocab_size) == (size, 4)
    result = train(job, mended.train, tmp_path / "run", progress=False)
    assert result.history[-1].keys() >= {"Q->A", "QA->R", "Q->AR"}
    out = tmp_path / "submission.csv"
    assert predict("vcr", case.data, store, "val", result.model, [], out) == 6
    from_file = score("vcr", case.data, "val", out)
    assert from_file == pytest.approx(evaluate("vcr", case.data, store, "val", result.model))


# ---------------------------------------------------------------- numbers and submission


def random_predictions(examples, seed=0):
    rng = np.random.default_rng(seed)
    scores = lambda: rng.standard_normal(4).tolist()
    return [{"annot_id": e.annot_id, "answers": scores(), "rationales": [scores() for _ in range(4)]} for e in examples]


def test_the_three_numbers_against_brute_force(task):
    (one, *_) = task.examples("val")
    rng = np.random.default_rng(1)
    examples = [
        replace(one, annot_id=f"val-{n}", answer=int(rng.integers(4)), rationale=int(rng.integers(4)))
        for n in range(200)
    ]
    said = random_predictions(examples)
    right = [[], [], []]
    for example, p in zip(examples, said, strict=True):
        answered = max(range(4), key=lambda k: p["answers"][k]) == example.answer
        under = p["rationales"][example.answer]
        reasoned = max(range(4), key=lambda k: under[k]) == example.rationale
        for values, value in zip(right, (answered, reasoned, answered and reasoned), strict=True):
            values.append(value)
    numbers = task.score(said[::-1], examples)
    for name, values in zip(("Q->A", "QA->R", "Q->AR"), right, strict=True):
        assert numbers[name] == pytest.approx(100 * np.mean(values)) and numbers[f"{name}_low"] < numbers[name]
    # "both" is the same under the answer that was predicted: a wrong answer fails anyway
    under_predicted = [
        int(np.argmax(p["answers"])) == e.answer
        and int(np.argmax(p["rationales"][int(np.argmax(p["answers"]))])) == e.rationale
        for e, p in zip(examples, said, strict=True)
    ]
    assert numbers["Q->AR"] == pytest.approx(100 * np.mean(under_predicted)) and 0 < numbers["Q->AR"] < numbers["Q->A"]


def test_the_submission_has_twenty_columns_sorted_by_number_and_reads_back(task, tmp_path):
    (one, *_) = task.examples("val")
    examples = [replace(one, annot_id=f"test-{n}") for n in (10, 2, 0)]
    said = random_predictions(examples)
    task.write(said, tmp_path / "submission.csv")
    header, *lines = (tmp_path / "submission.csv").read_text().splitlines()
    assert header == (
        "annot_id,answer_0,answer_1,answer_2,answer_3,"
        + ",".join(f"rationale_conditioned_on_a{a}_{r}" for a in range(4) for r in range(4))
    )
    assert [line.split(",")[0] for line in lines] == ["test-0", "test-2", "test-10"]
    first = [float(number) for number in lines[0].split(",")[1:]]
    assert first == [*said[2]["answers"], *(score for four in said[2]["rationales"] for score in four)]
    assert task.read(tmp_path / "submission.csv") == said[::-1]


def test_a_file_that_is_no_submission_is_refused(task, tmp_path):
    path = tmp_path / "bad.csv"
    good = ",".join(["val-0", *["0.5"] * 20])
    for content in ("", "a,b\n", f"{','.join(HEADER)}\nval-0,1\n", f"{','.join(HEADER)}\n{good}\n{good[:-3]}x\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"bad\.csv") as caught:
            task.read(path)
        assert "\n" not in str(caught.value)
    measured = [replace(example, form="measured") for example in task.examples("val")]
    with pytest.raises(ValueError, match="val-0 lacks rationales"):
        task.write(task.predict(fixtures.tiny_model(task), measured), path)


def test_a_split_without_labels_is_predicted_and_not_scored(tmp_path):
    case = fixtures.make_case("vcr", tmp_path)
    records = [json.loads(line) for line in (tmp_path / "val.jsonl").read_text().splitlines()]
    for record in records:
        del record["answer_label"], record["rationale_label"]
    fixtures.write_lines(tmp_path / "test.jsonl", records)
    task = case.task(boxes="detected")
    examples = task.examples("test")
    model = fixtures.tiny_model(task)
    said = task.predict(model, examples)
    assert len(said) == 6 and all(len(one["rationales"]) == 4 for one in said)
    for call in (
        lambda: task.score(said, examples),
        lambda: task.evaluate(model, examples),
        lambda: task.training_examples("test"),
        lambda: task.stories("test"),
    ):
        with pytest.raises(ValueError, match="val-0 has no labels"):
            call()


# ---------------------------------------------------------------- text databases


def database(folder, count=4, **files):
    """A hand-made `vcr_<split>.db`; the pieces of question n are 10 + n."""
    records, lengths = {}, {}
    for n in range(count):
        records[f"val-{n}"] = {
            "img_fname": [f"vcr_gt_val_{n:05}.npz", f"vcr_val_{n:05}.npz"],
            "input_ids": [10 + n] * 3,
            "input_ids_as": [[20 + k] * (2 + k) for k in range(4)],
            "input_ids_rs": [[30 + k] * (3 + n) for k in range(4)],
            "qa_target": n % 4,
            "qar_target": 3,
        }
        lengths[f"val-{n}"] = 4 * (3 + 5)
    longer = {name: length + 3 + n for n, (name, length) in enumerate(lengths.items())}
    usual = {"id2len": None, "id2len_qa": lengths, "id2len_qar": longer}
    return fixtures.write_text_database(folder, records, **{**usual, **files})


def database_regions(count=4):
    kinds = {"vcr_gt_val": 2, "vcr_val": 3}
    return {
        f"{kind}_{n:05}.npz": fixtures.random_regions(n, size) for kind, size in kinds.items() for n in range(count)
    }


def test_a_database_gives_pieces_labels_and_both_names(tmp_path):
    database(tmp_path / "vcr_val.db")
    task = load("vcr")(tmp_path, database_regions(), fixtures.processor())
    examples = task.examples("val")
    assert [e.answer for e in examples] == [0, 1, 2, 3] and examples[1].question == (11, 11, 11)
    assert examples[1].image == ("vcr_gt_val_00001.npz", "vcr_val_00001.npz")
    assert examples[1].stored_lengths == (32, 36)
    assert task.lengths(task.lessons("val")[:1]).tolist() == [sum(1 + 3 + 1 + k + 1 + 5 for k in range(2, 6))]
    published = load("vcr")(tmp_path, database_regions(), fixtures.processor(), lengths="published")
    assert published.lengths(published.lessons("val")[:2]).tolist() == [32 + 100 + 3, 35 + 100 + 3]
    # by the names alone, whatever the store calls them
    renamed = {name.replace("vcr_val_", "movie/").replace(".npz", ".jpg"): v for name, v in database_regions().items()}
    task = load("vcr")(tmp_path, renamed, fixtures.processor(), boxes="detected")
    assert task.examples("val")[2].image == ("movie/00002.jpg",)


def test_longer_stored_texts_are_left_out_of_training(tmp_path, caplog):
    database(tmp_path / "vcr_val.db")
    task = load("vcr")(tmp_path, database_regions(), UniterProcessor(fixtures.processor().vocabulary, 12))
    # question 3, true answer of 2 to 5, rationale of 3 to 6 pieces: 8, 10, 12, 14
    kept = task.training_examples("val")
    assert [e.annot_id for e in kept if e.form == "rationales"] == ["val-0", "val-1", "val-2"]
    assert "1 of 8 examples have more than 12 word pieces" in caplog.text
    assert len(task.examples("val")) == 4


def test_a_database_without_labels_has_none(tmp_path):
    database(tmp_path / "vcr_test.db")
    records = {"test-0": {"img_fname": ["vcr_gt_test_0.npz", "vcr_test_0.npz"], "input_ids": [10], "qa_target": -1}}
    records["test-0"] |= {"input_ids_as": [[11]] * 4, "input_ids_rs": [[12]] * 4, "qar_target": -1}
    files = {"id2len": None, "id2len_qa": {"test-0": 8}, "id2len_qar": {"test-0": 9}}
    fixtures.write_text_database(tmp_path / "other" / "vcr_test.db", records, **files)
    (example,) = load("vcr")(tmp_path / "other").examples("test")
    assert example.answer is None and example.rationale is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_ids_as", [[1]] * 3),
        ("input_ids_rs", None),
        ("qa_target", 4),
        ("qar_target", "x"),
        ("input_ids", ["what"]),
        ("img_fname", "one.npz"),
    ],
)
def test_a_record_of_a_database_that_is_not_vcrs_is_refused(key, value, tmp_path):
    record = {"img_fname": ["a.npz", "b.npz"], "input_ids": [10], "qa_target": 1, "qar_target": 1}
    record |= {"input_ids_as": [[11]] * 4, "input_ids_rs": [[12]] * 4, key: value}
    files = {"id2len": None, "id2len_qa": {"val-0": 8}, "id2len_qar": {"val-0": 9}}
    path = fixtures.write_text_database(tmp_path / "vcr_val.db", {"val-0": record}, **files)
    with pytest.raises(ValueError, match=str(path)) as caught:
        load("vcr")(path).examples("val")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the second stage of pre-training


def second_stage(tmp_path, data, regions, vocabulary, **source):
    text = {
        "kind": "pretrain",
        "model": {"size": "tiny", "config": {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}},
        "sources": [
            {
                "kind": "vcr",
                "captions": str(data),
                "regions": regions if isinstance(regions, list) else str(regions),
                "split": "train",
                **source,
            }
        ],
        "objectives": {"mlm": 2, "itm": 0, "mrfr": 1, "mrckl": 1},
        "vocabulary": str(vocabulary),
        "train": {"steps": 4, "tokens": 1024, "device": "cpu", "validate_every": 4, "save_every": 4},
    }
    text["validation"] = copy.deepcopy(text["sources"])
    return parse_recipe(json.dumps(text))


def with_class_probs(regions):
    rng = np.random.default_rng(0)
    return {
        name: replace(r, class_probs=rng.dirichlet(np.ones(7), len(r)).astype(np.float32))
        for name, r in regions.items()
    }


def test_the_second_stage_learns_from_files_of_vcr(tmp_path):
    case = fixtures.make_case("vcr", tmp_path / "data")
    store = fixtures.write_store(tmp_path / "store", with_class_probs(case.regions))
    fixtures.processor().save_pretrained(tmp_path / "vocabulary")
    recipe = second_stage(tmp_path, case.data, store, tmp_path / "vocabulary")
    job = pretraining_job(recipe)
    assert set(job.mixture) == {"mlm/0", "mrfr/0", "mrckl/0"} and job.processor.max_text == 220
    size = len(fixtures.processor().vocabulary) + 81
    assert (job.model.config.vocab_size, job.model.config.type_vocab_size) == (size, 4)
    (source,) = job.sources
    assert len(source.texts) == 6 and len(source.images) == 3  # two questions a picture
    batch = job.prepare("mlm/0", np.arange(6), 0)
    assert job.lengths("mlm/0").tolist() == (batch["text_mask"].sum(1) + batch["region_mask"].sum(1)).tolist()
    for row in range(6):
        types = batch["text_types"][row][batch["labels"][row] >= 0]
        assert set(types.tolist()) == {0, 2, 3}, "each part has at least one masked word"
    result = train(job, recipe.train, tmp_path / "run", progress=False)
    assert (
        result.finished and np.isfinite([result.history[-1][f"{name}_loss"] for name in ("mlm", "mrfr", "mrckl")]).all()
    )
    # and fine-tuning starts from it
    task = case.task()
    model = UniterForChoice.from_pretrained(result.model)
    assert model.config.vocab_size == task.config()["vocab_size"] and task.evaluate(model, task.examples("val"))


def test_second_stage_from_a_second_store_and_what_is_refused(tmp_path):
    case = fixtures.make_case("vcr", tmp_path / "data")
    known = with_class_probs(case.regions)
    first = fixtures.write_store(tmp_path / "first", {name: r for name, r in known.items() if "vcr_gt" not in name})
    second = fixtures.write_store(tmp_path / "second", {name: r for name, r in known.items() if "vcr_gt" in name})
    fixtures.processor().save_pretrained(tmp_path / "vocabulary")
    place = (tmp_path, case.data, first, tmp_path / "vocabulary")
    (source,) = pretraining_job(second_stage(*place, gt_regions=str(second))).sources
    assert [source.num_regions(n) for n in range(3)] == [len(found) for found in source.regions(range(3))] == [7, 9, 7]
    with pytest.raises(ValueError, match="no image 'vcr_gt_train"):
        pretraining_job(second_stage(*place))
    with pytest.raises(ValueError, match="gt_regions and lengths are for sources of kind vcr"):
        pretraining_job(second_stage(*place, kind="captions", gt_regions=str(second)))


def test_random_words_are_never_people(tmp_path):
    from uniter.objectives import Draws, Masking, mask_words

    vocabulary = fixtures.processor().vocabulary.with_words(PERSONS)
    ids = np.full((200, 50), vocabulary.numbers["dog"])
    batch = {"input_ids": torch.from_numpy(ids), "text_mask": torch.ones(200, 50, dtype=torch.bool)}
    found = mask_words(batch, Draws(0, 0, np.arange(200)), Masking(vocabulary, 1.0))["input_ids"].unique()
    assert vocabulary.mask in found and len(found) > 40
    assert found.max() < vocabulary.numbers["person_0"]


# ---------------------------------------------------------------- the golden set, straight from its databases


def golden_task(**options):
    path, images = text_database("vcr_val.db"), image_databases("vcr_gt_val", "vcr_val")
    words = vocabulary_of(path).with_words(people())
    return load("vcr")(path, images, UniterProcessor(words, 220), **options)


def compare(batch, rows):
    """Hold a batch against the published rows."""
    assert len(batch["input_ids"]) == len(rows)
    features, places = (padded(batch[key], batch["region_mask"]) for key in ("regions", "locations"))
    for number, row in enumerate(rows):
        text, regions = batch["text_mask"][number], batch["region_mask"][number]
        assert batch["input_ids"][number][text].tolist() == row["input_ids"].tolist()
        assert batch["text_types"][number][text].tolist() == row["txt_type_ids"].tolist()
        np.testing.assert_array_equal(features[number][regions], row["img_feat"])
        np.testing.assert_array_equal(places[number][regions], row["img_pos_feat"])


@needs_golden
@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "form"),
    [("vcr_qa", "answers"), ("vcr_qar", "rationales"), ("vcr_eval_val", "measured"), ("vcr_eval_test", "submission")],
)
def test_the_published_rows_scores_and_loss(name, form):
    golden = Case(name)
    rows, outputs = golden.examples, golden.outputs
    info = json.loads((GOLDEN / "cases" / name / "info.json").read_text())
    task = golden_task()
    known = {example.annot_id: replace(example, form=form) for example in task.examples("val")}
    examples = [known[annot_id] for annot_id in info["ids"]]
    batch = task.batch(examples)
    compare(batch, rows)
    model = golden_model(UniterForChoice, "vcr")
    out = model(**batch)
    golden.same("scores", out.logits[:, 1].reshape(outputs["scores"].shape))
    if form in ("answers", "rationales"):
        assert batch["labels"].tolist() == [int(row["target"][0]) for row in rows]
        golden.same("train_loss", out.loss)
        return
    said = task.decode(out, examples, batch)
    assert [int(np.argmax(p["answers"])) for p in said] == outputs["qa_pred"].tolist()
    under = [p["rationales"][example.answer] for p, example in zip(said, examples, strict=True)]
    assert [int(np.argmax(four)) for four in under] == outputs["qar_pred"].tolist()


@needs_golden
def test_the_published_stories_of_the_second_stage(tmp_path):
    task = golden_task()
    for name in ("pretrain_vcr_mlm", "pretrain_vcr_mrfr", "pretrain_vcr_mrc"):
        rows = Case(name).examples
        info = json.loads((GOLDEN / "cases" / name / "info.json").read_text())
        stories = dict(zip([e.annot_id for e in task.examples("val")], task.stories("val"), strict=True))
        for annot_id, row in zip(info["ids"], rows, strict=True):
            ((text, image),) = task.shown(stories[annot_id])
            tokens = task.story_tokens(text)
            labels = row.get("txt_labels", np.full(len(row["input_ids"]), -1))
            assert np.where(labels >= 0, labels, row["input_ids"]).tolist() == tokens.input_ids.tolist()
            assert row["txt_type_ids"].tolist() == tokens.types.tolist()
            np.testing.assert_array_equal(task.seen(image).features, row["img_feat"])
            if "soft_labels" in row:
                np.testing.assert_array_equal(task.seen(image).class_probs, row["soft_labels"])


@needs_golden
def test_two_steps_and_a_measure_straight_from_the_golden_database(tmp_path):
    task = golden_task()
    config = fixtures.tiny_config(**{**sizes_of(task.regions), **task.config()})
    job = FineTuning(task, UniterForChoice(config), "val", "val")
    assert len(job.examples) == 2 * len(task.examples("val"))
    assert config.vocab_size == len(vocabulary_of(task.data)) + len(people())
    training = Training(steps=2, tokens=512, device="cpu", validate_every=2, save_every=2, window=64)
    result = train(job, training, tmp_path / "run", progress=False)
    assert result.finished and result.history[-1].keys() >= {"Q->A", "QA->R", "Q->AR"}


@needs_golden
def test_two_steps_of_the_second_stage_straight_from_the_golden_database(tmp_path):
    store = [str(GOLDEN / "db" / "img" / folder) for folder in ("vcr_gt_val", "vcr_val")]
    path = GOLDEN / "db" / "txt" / "vcr_val.db"
    UniterProcessor(vocabulary_of(path)).save_pretrained(tmp_path / "vocabulary")
    recipe = second_stage(tmp_path, path, store, tmp_path / "vocabulary", split="val")
    job = pretraining_job(recipe)
    assert len(job.sources[0].texts) == len(golden_task().examples("val")) and isinstance(
        job.model, UniterForPreTraining
    )
    result = train(job, recipe.train, tmp_path / "run", progress=False)
    assert result.finished and np.isfinite(result.history[-1]["mlm_loss"])
