import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import fixtures
from uniter.processing_uniter import Pair
from uniter.run import score
from uniter.tasks.retrieval import Caption, hardest, read_captions, recalls

# ---------------------------------------------------------------- reading


def coco(folder):
    """dataset_coco.json: `filepath` beside `filename`, and the split restval."""
    images = []
    for number, split in enumerate(["train", "restval", "restval", "val", "test"]):
        folder_of = "train2014" if split == "train" else "val2014"
        sentence = {"raw": f"A dog {number}.", "tokens": ["a", "dog"], "imgid": number, "sentid": 10 * number}
        record = {"filepath": folder_of, "filename": f"COCO_{folder_of}_{number:012d}.jpg", "cocoid": number}
        images.append(record | {"imgid": number, "split": split, "sentids": [10 * number], "sentences": [sentence]})
    path = folder / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def test_restval_is_a_split_and_may_join_train(tmp_path):
    path = coco(tmp_path)
    assert [c.imgid for c in read_captions(path, "restval")] == [1, 2]
    assert [c.sentid for c in read_captions(path, "train+restval")] == [0, 10, 20]
    first = Caption("A dog 1.", "COCO_val2014_000000000001.jpg", 10, 1)
    assert read_captions(path, "restval")[0] == first
    with pytest.raises(ValueError, match=r"'dev'.*restval, test, train, val"):
        read_captions(path, "dev")
    with pytest.raises(ValueError, match="'dev'"):
        read_captions(path, "train+dev")


@pytest.mark.parametrize(
    "stored",
    ["COCO_val2014_000000000003.jpg", "val2014/COCO_val2014_000000000003.jpg", "coco_val2014_000000000003.npz"],
)
def test_a_store_may_use_file_name_or_path_or_number(tmp_path, stored):
    regions = {stored: fixtures.random_regions(0, 3)}
    (caption,) = read_captions(coco(tmp_path), "val", regions)
    assert caption.image == stored
    (caption,) = read_captions(tmp_path / "dataset_coco.json", "test", regions)
    assert caption.image == "COCO_val2014_000000000004.jpg"  # in no store: by its own name


def test_blank_captions_are_left_out(tmp_path):
    path = coco(tmp_path)
    content = json.loads(path.read_text())
    content["images"][1]["sentences"][0]["raw"] = " \n"
    path.write_text(json.dumps(content))
    assert [c.imgid for c in read_captions(path, "restval")] == [2]


def test_the_other_datasets_of_karpathys_archive_have_to_be_told_apart(tmp_path):
    case = fixtures.make_case("retrieval", tmp_path)
    coco(tmp_path)
    with pytest.raises(ValueError, match=r"dataset_coco.json.*dataset_flickr30k.json.*option `captions`"):
        case.task().examples("val")
    assert len(case.task(captions="dataset_flickr30k.json").examples("val")) == 8


def test_measuring_may_take_some_images_and_captions_only(tmp_path):
    case = fixtures.make_case("retrieval", tmp_path)
    chosen = case.task(max_images=3, captions_per_image=1).examples("val")
    assert [c.imgid for c in chosen] == [8, 9, 10] and [c.sentid for c in chosen] == [16, 18, 20]
    assert len(case.task(max_images=3, captions_per_image=1).examples("train")) == 16  # training takes all


# ---------------------------------------------------------------- recall


def recall_by_hand(scores, own):
    """Sort every row and column; among equal scores the true one comes last."""
    found = {}
    for k in (1, 5, 10):
        hits = 0
        for text, row in enumerate(scores):
            order = sorted(range(len(row)), key=lambda image: (-row[image], image == own[text]))
            hits += own[text] in order[:k]
        found[f"image_recall_at_{k}"] = 100 * hits / len(scores)
        hits = 0
        for image in range(scores.shape[1]):
            column = scores[:, image]
            order = sorted(range(len(column)), key=lambda text: (-column[text], own[text] == image))
            hits += any(own[text] == image for text in order[:k])
        found[f"text_recall_at_{k}"] = 100 * hits / scores.shape[1]
    return {**found, "mean_recall": sum(found.values()) / 6}


@st.composite
def matrices(draw):
    images = draw(st.integers(1, 14))
    own = [i for i in range(images) for _ in range(draw(st.integers(1, 3)))]
    values = st.integers(0, draw(st.sampled_from([1, 3, 1000])))  # with many ties, and with few
    rows = draw(st.lists(st.lists(values, min_size=images, max_size=images), min_size=len(own), max_size=len(own)))
    return np.array(rows, dtype=np.float32), np.array(draw(st.permutations(own)))


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_recalls_against_sorting(case):
    scores, own = case
    found = recalls(scores, own)
    for key, value in recall_by_hand(scores, own).items():
        assert found[key] == pytest.approx(value)


def test_the_published_count_adds_up_to_k_hits():
    own = np.repeat(np.arange(1000), 5)
    scores = np.zeros((5000, 1000), dtype=np.float16)
    scores[np.arange(5000), own] = 1
    exact, published = recalls(scores, own), recalls(scores, own, published=True)
    for k in (1, 5, 10):
        assert exact[f"image_recall_at_{k}"] == exact[f"text_recall_at_{k}"] == published[f"text_recall_at_{k}"] == 100
        assert published[f"image_recall_at_{k}"] == 100  # the right number stays
        assert published[f"published_image_recall_at_{k}"] == pytest.approx(100 + 100 * k / 5000)
    assert published["published_image_recall_at_10"] == pytest.approx(100.2)


def published_image_recall(scores, own, k):
    """What the published code computes, in its own steps: positions of hits among the first ten, both columns below k."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    hits = np.argwhere(best == own[:, None])
    return 100 * (hits < k).sum() / len(own)


def test_the_published_count_against_its_own_steps():
    rng = np.random.default_rng(0)
    own = np.repeat(np.arange(30), 3)
    scores = rng.permutation(90 * 30).reshape(90, 30).astype(np.float32)
    scores[np.arange(90), own] += 900
    ranks = (scores > scores[np.arange(90), own][:, None]).sum(1)
    assert (ranks[:10] == 0).any() and ((ranks[:10] > 0) & (ranks[:10] < 10)).any() and (ranks[:10] > 9).any()
    found = recalls(scores, own, published=True)
    for k in (1, 5, 10):
        assert found[f"published_image_recall_at_{k}"] == pytest.approx(published_image_recall(scores, own, k))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused_and_not_counted_as_hits(tmp_path, value):
    task = fixtures.make_case("retrieval", tmp_path).task()
    examples = task.examples("val")
    scores = np.array(task.perfect(examples))
    scores[1, 0] = value
    with pytest.raises(ValueError, match="finite"):
        task.score(scores, examples)
    with pytest.raises(ValueError, match=r"\(8, 3\).*8 texts and 4 images"):
        task.score(scores[:, :3], examples)


# ---------------------------------------------------------------- negatives


def shown(task, examples, indices, epoch):
    """(text, image, label) of each row of a training batch."""
    seen = []
    encode = task.encode_pairs
    image_of = {id(value): name for name, value in task.regions.items()}
    task.encode_pairs = lambda pairs: seen.extend(pairs) or encode(pairs)
    labels = task.training_batch(examples, np.array(indices), epoch)["labels"].tolist()
    del task.encode_pairs
    return [(pair.text, image_of[id(pair.regions)], label) for pair, label in zip(seen, labels, strict=True)]


@pytest.mark.parametrize("options", [{}, {"negatives": 3}, {"hard_negatives": 2, "candidates": 5}, {"negatives": 7}])
def test_negatives_are_other_images_then_other_texts_and_never_of_the_same_image(tmp_path, options):
    task = fixtures.make_case("retrieval", tmp_path).task(**options)
    examples = task.examples("train")
    each = options.get("candidates", options.get("negatives", 1))
    captions = {}
    for example in examples:
        captions.setdefault(example.image, set()).add(example.text)
    for epoch in range(3):
        rows = shown(task, examples, range(len(examples)), epoch)
        assert len(rows) == len(examples) * (1 + 2 * each)
        for index, example in enumerate(examples):
            place = index * (1 + 2 * each)
            text, image, label = rows[place]
            assert (text, image, label) == (example.text, example.image, -1)
            images, texts = rows[place + 1 : place + 1 + each], rows[place + 1 + each : place + 1 + 2 * each]
            assert all(row[2] == place for row in images + texts)
            assert all(row[0] == text for row in images) and all(row[1] == image for row in texts)
            assert image not in [row[1] for row in images] and len({row[1] for row in images}) == each
            assert not captions[image].intersection(row[0] for row in texts) and len({r[0] for r in texts}) == each


def test_negatives_depend_on_seed_epoch_and_index_only(tmp_path):
    case = fixtures.make_case("retrieval", tmp_path)
    task = case.task(negatives=2)
    examples = task.examples("train")
    together = shown(task, examples, [5, 2, 9], 4)
    again = shown(case.task(negatives=2), examples, [9], 4)
    strip = lambda rows: [row[:2] for row in rows]
    assert strip(again) == strip(together[10:15])
    assert strip(shown(task, examples, [9], 5)) != strip(again)
    assert strip(shown(case.task(negatives=2, seed=1), examples, [9], 4)) != strip(again)


def test_every_negative_is_drawn_sooner_or_later(tmp_path):
    task = fixtures.make_case("retrieval", tmp_path).task()
    examples = task.examples("train")
    seen = {row[:2] for epoch in range(150) for row in shown(task, examples, [0], epoch)}
    assert {image for _, image in seen} == {f"{1000 + i}.jpg" for i in range(8)}
    assert len({text for text, _ in seen}) == 15  # all but the other caption of the same image


def test_too_few_images_for_the_negatives_asked(tmp_path):
    task = fixtures.make_case("retrieval", tmp_path).task(negatives=8)  # of 8 images one is the true one
    with pytest.raises(ValueError, match="negatives"):
        task.training_batch(task.examples("train"), np.array([0]), 0)
    for options in ({"negatives": 0}, {"candidates": 0}, {"hard_negatives": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            fixtures.make_case("retrieval", tmp_path).task(**options)


class Given(torch.nn.Module):
    """A model whose scores are in its input, and which says in which mode it was asked."""

    def forward(self, scores):
        self.asked = (self.training, torch.is_grad_enabled())
        return type("Output", (), {"logits": scores})()


def test_hard_negatives_are_the_highest_scoring_of_each_kind():
    #                      true  images         texts         true  images         texts
    scores = torch.tensor([0.0, 0.3, 0.9, 0.5, 0.1, 0.2, 0.8, 9.0, 0.3, 0.1, 0.2, 0.7, 0.9, 0.8])
    labels = torch.tensor([-1, *[0] * 6, -1, *[7] * 6])
    model = Given().train()
    kept = hardest(model, {"scores": scores, "labels": labels}, 2)
    torch.testing.assert_close(kept["scores"], torch.tensor([0.0, 0.9, 0.5, 0.8, 0.2, 9.0, 0.3, 0.2, 0.9, 0.8]))
    assert kept["labels"].tolist() == [-1, 0, 0, 0, 0, -1, 5, 5, 5, 5]
    assert model.asked == (False, False) and model.training
    all_of_them = hardest(model, {"scores": scores, "labels": labels}, 99)
    assert sorted(all_of_them["scores"].tolist()) == sorted(scores.tolist())


def test_a_step_with_hard_negatives_learns(tmp_path):
    task = fixtures.make_case("retrieval", tmp_path).task(hard_negatives=2, candidates=5)
    model = fixtures.tiny_model(task, initializer_range=0.02).train()
    batch = task.training_batch(task.examples("train"), np.arange(4), 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = task.step(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


# ---------------------------------------------------------------- scoring every pair


@pytest.mark.parametrize("tokens", [1, 30, 200, 8192])
def test_the_score_matrix_is_that_of_the_pairs_one_by_one(tmp_path, tokens):
    task = fixtures.make_case("retrieval", tmp_path).task()
    model = fixtures.tiny_model(task).eval()
    examples = task.examples("train")
    texts = [example.text for example in examples] + ["dog", "a red dog ? no , two big dog !"]
    images = sorted(task.regions)[::-1]
    scores = task.score_matrix(model, texts, images, tokens=tokens)
    assert scores.shape == (len(texts), len(images)) and scores.dtype == np.float32 and scores.std() > 0.01
    alone = task.processor.collate([task.processor.encode(Pair(texts[0], task.regions[images[0]]))])
    with torch.no_grad():
        assert scores[0, 0] == pytest.approx(model(**alone).logits.item(), abs=1e-5)
        for row, text in enumerate(texts):
            batch = task.processor([text] * len(images), [task.regions[image] for image in images])
            np.testing.assert_allclose(scores[row], model(**batch).logits.numpy(), atol=1e-5)


def test_measuring_may_keep_its_scores_in_a_file(tmp_path):
    path = tmp_path / "scores.npy"
    case = fixtures.make_case("retrieval", tmp_path / "data")
    task, plain = case.task(scores=str(path)), case.task()
    model, examples = fixtures.tiny_model(task), task.examples("val")
    scores = task.predict(model, examples)
    np.testing.assert_allclose(scores, plain.predict(model, examples), atol=1e-6)
    assert task.score(scores, examples) == task.score(task.read(path), examples) == task.evaluate(model, examples)
    task.view(model, examples[0], examples)  # scores one text: no business of the file's
    with pytest.raises(ValueError, match=r"scores.npy holds scores of another shape"):
        task.predict(model, examples[1:])
    with pytest.raises(ValueError, match=r"option scores of task retrieval.*leave it out of the recipe"):
        task.lengths(task.examples("train"))


def test_the_matrix_file_may_name_its_rows_and_columns(tmp_path):
    task = fixtures.make_case("retrieval", tmp_path / "data").task()
    examples = task.examples("val")
    path = tmp_path / "scores.safetensors"
    task.write(task.perfect(examples), path, examples)
    np.testing.assert_array_equal(load_file(path)["scores"], task.perfect(examples))
    ids = json.loads((tmp_path / "scores.safetensors.ids.json").read_text())
    assert ids == {"texts": [e.sentid for e in examples], "images": list(dict.fromkeys(e.image for e in examples))}
    task.write([row.tolist() for row in np.array(task.perfect(examples))], path)  # nested lists will do
    np.testing.assert_array_equal(task.read(path), task.perfect(examples))


# ---------------------------------------------------------------- folds and intervals


def captions_of(own):
    """Texts about images 0, 1, ... in an order in which the images first appear in theirs."""
    return [Caption(f"text {number}", f"{image}.jpg", number, int(image)) for number, image in enumerate(own)]


def test_folds_are_measured_apart_and_averaged(tmp_path):
    rng = np.random.default_rng(3)
    own = np.repeat(np.arange(23), [3, 1, 2, 2, 2, 4, 1, 3, 2, 2, 1, 1, 2, 2, 2, 3, 1, 2, 2, 2, 1, 1, 1])
    scores = rng.standard_normal((len(own), 23)).astype(np.float32)
    scores[np.arange(len(own)), own] += 1
    folds = []
    for first in (0, 10):  # the last three images are no whole fold
        rows = (own >= first) & (own < first + 10)
        folds.append(recall_by_hand(scores[rows][:, first : first + 10], own[rows] - first))
    task = fixtures.make_case("retrieval", tmp_path).task(fold=10)
    found = task.score(scores, captions_of(own))
    for key, value in recall_by_hand(scores, own).items():
        assert found[key] == pytest.approx(value)
        assert found[f"folds_of_10_{key}"] == pytest.approx(np.mean([fold[key] for fold in folds]))
    assert found["folds_of_10_image_recall_at_1"] > found["image_recall_at_1"]
    for other in ({"fold": 12}, {"fold": 0}, {}):  # one fold is none; 0 is off; usual are 1,000
        assert not any(
            "fold" in key
            for key in fixtures.make_case("retrieval", tmp_path).task(**other).score(scores, captions_of(own))
        )
    with pytest.raises(ValueError, match="option fold of task retrieval must be 0 or more, got -1"):
        fixtures.make_case("retrieval", tmp_path).task(fold=-1)


def test_five_thousand_images_are_five_folds_of_a_thousand(tmp_path):
    own = np.arange(5000)
    scores = np.zeros((5000, 5000), dtype=np.float32)
    scores[own, own] = 1
    scores[own, (own + 1000) % 5000] = 2  # each text prefers an image of another fold
    found = fixtures.make_case("retrieval", tmp_path).task().score(scores, captions_of(own))
    assert (found["image_recall_at_1"], found["folds_of_1000_image_recall_at_1"]) == (0, 100)
    assert found["image_recall_at_5"] == found["folds_of_1000_mean_recall"] == 100


def test_every_recall_has_an_interval_and_texts_of_an_image_are_drawn_together():
    own = np.repeat(np.arange(200), 5)
    scores = np.zeros((1000, 200), dtype=np.float32)
    scores[np.arange(1000), own] = np.where(own % 2, 1, -1)  # all texts of an image are right, or all wrong
    found = recalls(scores, own)
    for side in ("image", "text"):
        for k in (1, 5, 10):
            low, high = (found[f"{side}_recall_at_{k}_{end}"] for end in ("low", "high"))
            assert low <= found[f"{side}_recall_at_{k}"] <= high
    assert found["image_recall_at_1"] == 50
    # Two standard errors of 200 images, not of 1,000 texts.
    width = found["image_recall_at_1_high"] - found["image_recall_at_1_low"]
    assert width == pytest.approx(2 * 1.96 * 50 / 200**0.5, rel=0.15)
    assert found["mean_recall_low"] < found["mean_recall"] < found["mean_recall_high"]


# ---------------------------------------------------------------- score files


def test_anybodys_matrix_is_scored_and_one_of_other_texts_refused(tmp_path):
    case = fixtures.make_case("retrieval", tmp_path / "data")
    task = case.task()
    examples = task.examples("val")
    perfect = task.perfect(examples)
    np.save(tmp_path / "scores.npy", perfect.astype(np.float64))
    measured = score("retrieval", tmp_path / "data", "val", tmp_path / "scores.npy")
    assert measured["mean_recall"] == 100.0
    task.write(perfect, tmp_path / "scores.safetensors", examples)
    assert score("retrieval", tmp_path / "data", "val", tmp_path / "scores.safetensors") == measured
    task.write(perfect[:4], tmp_path / "few.safetensors", examples[:4])
    with pytest.raises(
        ValueError, match=r"few\.safetensors\.ids\.json: the scores are of 4 other texts.*the 8 of this"
    ):
        score("retrieval", tmp_path / "data", "val", tmp_path / "few.safetensors")
    np.save(tmp_path / "odd.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"odd\.npy: no score matrix"):
        score("retrieval", tmp_path / "data", "val", tmp_path / "odd.npy")
    np.save(tmp_path / "words.npy", np.array([["a"] * 4] * 8))
    with pytest.raises(ValueError, match=r"words\.npy cannot be scored as predictions of retrieval on val"):
        score("retrieval", tmp_path / "data", "val", tmp_path / "words.npy")
