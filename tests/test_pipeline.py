"""A model on one's own pictures: what the verbs give back, and what they refuse."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from uniter.pipeline import Uniter, cache_folder
from uniter.regions import Regions
from uniter.regions.store import Store


@pytest.fixture(scope="module")
def uniter(world):
    return Uniter.load(world.models)


@pytest.fixture(scope="module")
def picture(world):
    return world.picture()


@pytest.fixture(scope="module")
def regions(uniter, picture):
    return uniter.regions(picture)


@pytest.fixture
def folder(world, tmp_path):
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    for number in range(3):
        shutil.copy(world.picture(number), place / ("more" if number == 2 else "") / f"{number}.png")
    return place


def test_one_folder_of_models_serves_every_head(uniter, world):
    own = {head: world.models / head for head in ("answers", "grounding", "matching")}
    # Fine-tuned matching comes before zero-shot; alignment is what pre-training taught.
    assert uniter.folders == {**own, "trunk": world.models / "pretrained"}


def test_a_pretrained_model_matches_and_aligns_but_does_not_answer(world, regions):
    only = Uniter.load(world.models / "pretrained")
    assert set(only.folders) == {"matching", "trunk"}
    assert len(only.match(regions, ["a circle", "two stars"])) == 2
    with pytest.raises(ValueError, match=r"no model with a head for answers among .*pretrained: fine-tune one"):
        only.ask(regions, "what is it?")


def test_ask_gives_the_best_answers_in_order(uniter, picture):
    answers = uniter.ask(picture, "what colour is the circle?", top=4)
    scores = [answer.score for answer in answers]
    assert len(answers) == 4 and scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    known = set(uniter._model("answers").config.id2label.values())
    assert {answer.text for answer in answers} <= known
    every = uniter.ask(picture, "what colour is the circle?", top=10_000)
    assert len(every) == len(known) and every[:4] == answers


def test_find_gives_boxes_within_the_picture(uniter, picture, regions):
    found = uniter.find(picture, "the circle", top=100)
    assert len(found) == len(regions) and sorted(f.region for f in found) == list(range(len(regions)))
    assert sum(f.score for f in found) == pytest.approx(1, abs=1e-5)
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    for one in found:
        assert one.box == tuple(regions.boxes[one.region].tolist())
        x1, y1, x2, y2 = one.box
        assert 0 <= x1 < x2 <= regions.width and 0 <= y1 < y2 <= regions.height


def test_match_gives_one_score_a_text_whatever_else_is_asked(uniter, regions):
    texts = ["a circle", "a much longer text about a star that is left of a red square", "two"]
    together = uniter.match(regions, texts)
    alone = [uniter.match(regions, [text])[0] for text in texts]
    assert len(together) == 3 and together == pytest.approx(alone, abs=1e-5)


def test_align_is_a_plan_over_words_and_regions(uniter, regions):
    aligned = uniter.align(regions, "the red circle")
    assert aligned.words == ["the", "red", "circle"] and aligned.regions is regions
    assert aligned.plan.shape == (3, len(regions)) and (aligned.plan >= 0).all()
    np.testing.assert_allclose(aligned.plan.sum(1), 1, atol=1e-5)
    assert np.isfinite(aligned.distance)


def test_align_by_attention_is_the_share_of_each_word_that_regions_get(uniter, regions):
    whole = uniter.align(regions, "the red circle", by="attention")
    assert whole.words == ["the", "red", "circle"] and whole.by == "attention" and whole.distance is None
    assert whole.plan.shape == (3, len(regions)) and (whole.plan >= 0).all()
    assert (whole.plan.sum(1) <= 1 + 1e-6).all() and (whole.plan.sum(1) < 1).all()  # words get a share too
    layers = [uniter.align(regions, "the red circle", by="attention", layers=[layer]).plan for layer in (1, 2)]
    np.testing.assert_allclose(whole.plan, (layers[0] + layers[1]) / 2, atol=1e-6)
    model, batch = uniter._batch("trunk", ["the red circle"], [regions])
    with torch.inference_mode():
        last = model(**batch, output_attentions=True).attentions[1]
    np.testing.assert_allclose(layers[1], last[0, :, 1:4, 5:].mean(0).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"by": "magic"}, "by transport or by attention, got 'magic'"),
        ({"by": "attention", "layers": [3]}, "layer 3: the model has layers 1 to 2"),
        ({"by": "attention", "layers": [0]}, "layer 0"),
        ({"by": "attention", "layers": []}, "layer none"),
        ({"by": "attention", "beta": 0.1}, "beta: of transport, not of attention"),
        ({"layers": [1]}, "layers are those of attention"),
    ],
)
def test_alignments_that_there_are_not_are_refused(uniter, regions, settings, said):
    with pytest.raises(ValueError, match=said):
        uniter.align(regions, "the red circle", **settings)


@pytest.mark.parametrize("verb", ["ask", "find", "align", "match"])
def test_a_path_an_image_and_its_regions_say_the_same(uniter, picture, regions, verb):
    def said(shown):
        result = getattr(uniter, verb)(shown, ["a circle"] if verb == "match" else "a circle")
        return result.plan.tolist() if verb == "align" else result

    with Image.open(picture) as image:
        image.load()
    assert said(picture) == said(str(picture)) == said(image) == said(regions) == said(regions)


def test_a_photo_on_its_side_is_seen_upright(uniter, picture):
    with Image.open(picture) as image:
        lying = image.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[0x0112] = 6  # shown turned right by 90 degrees
    seen = uniter.regions(lying)
    with Image.open(picture) as image:
        assert (seen.width, seen.height) == image.size


@pytest.mark.parametrize("verb", ["ask", "find", "align", "match", "search"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the text is empty: write at least one word"),
        (" \n", "the text is empty"),
        ("circle " * 10_000, "the text has 10000 word pieces, the model reads at most 60: shorten it"),
        ("a," * 10_000, "the text has 20000 word pieces"),
        ("\udcff", "not valid UTF-8"),
    ],
    ids=["empty", "blank", "long", "long-without-spaces", "bytes"],
)
def test_texts_that_cannot_be_read_are_refused(uniter, regions, folder, tmp_path, verb, text, said):
    with pytest.raises(ValueError, match=said):
        if verb == "search":
            uniter.search(folder, text, store=tmp_path / "kept")
        else:
            getattr(uniter, verb)(regions, [text] if verb == "match" else text)
    assert not (tmp_path / "kept").exists()


def test_search_ranks_every_picture_by_its_score(uniter, folder, tmp_path):
    hits = uniter.search(folder, "a red circle", top=10, store=tmp_path / "kept")
    assert {hit.picture for hit in hits} == {folder / "0.png", folder / "1.png", folder / "more" / "2.png"}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        assert hit.score == pytest.approx(uniter.match(hit.picture, ["a red circle"])[0], abs=1e-2)  # stored as float16
    assert uniter.search(folder, "a red circle", top=1, store=tmp_path / "kept") == hits[:1]


def test_search_finds_regions_once_and_notices_what_changed(uniter, world, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    seen = []
    detect = type(uniter.detector).detect
    monkeypatch.setattr(
        type(uniter.detector), "detect", lambda self, images: seen.append(len(images)) or detect(self, images)
    )
    first = uniter.search(folder, "a star")
    assert sum(seen) == 3
    assert uniter.search(folder, "a star") == first and sum(seen) == 3
    shutil.copy(world.picture(4), folder / "new.png")
    assert len(uniter.search(folder, "a star")) == 4 and sum(seen) == 4
    before = {hit.picture.name: hit.score for hit in uniter.search(folder, "a star")}
    shutil.copyfile(world.picture(5), folder / "0.png")
    (folder / "more" / "2.png").unlink()
    after = {hit.picture.name: hit.score for hit in uniter.search(folder, "a star")}
    assert sum(seen) == 5 and set(after) == {"0.png", "1.png", "new.png"}
    assert after["0.png"] != before["0.png"] and after["1.png"] == before["1.png"]
    shutil.copy(world.picture(6), folder / "more" / "2.png")  # the name is back, the picture is another
    again = {hit.picture.name: hit.score for hit in uniter.search(folder, "a star")}
    assert sum(seen) == 6 and again["2.png"] != before["2.png"]


def test_a_damaged_cache_is_made_again(uniter, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path / "cache"))
    first = uniter.search(folder, "a star")
    for spoilt in [*(tmp_path / "cache").rglob("*.safetensors"), *(tmp_path / "cache" / "regions").glob("*.json")]:
        spoilt.write_text("{")
        assert uniter.search(folder, "a star") == first


def test_a_given_store_is_added_to_and_its_other_pictures_stay_out(uniter, folder, tmp_path):
    kept = tmp_path / "kept"
    uniter.search(folder, "a star", store=kept)
    (folder / "1.png").unlink()
    assert len(uniter.search(folder, "a star", store=kept)) == 2
    assert "1.png" in Store(kept)


def test_a_picture_newer_than_its_regions_in_a_given_store_is_said(uniter, folder, tmp_path, caplog):
    kept = tmp_path / "kept"
    uniter.search(folder, "a star", store=kept)
    assert not caplog.records
    later = (kept / "index.json").stat().st_mtime + 10
    os.utime(folder / "0.png", (later, later))
    uniter.search(folder, "a star", store=kept)
    assert "1 picture(s) newer than the regions kept" in caplog.text and "0.png: remove the store" in caplog.text


def test_the_regions_of_another_detector_are_refused(world, tmp_path, regions):
    shutil.copytree(world.models / "answers", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "detector": "small-other"}))
    with pytest.raises(ValueError, match=r"model was trained on regions of detector small-other, .* comes from small-"):
        Uniter.load(tmp_path / "model").ask(world.picture(), "what is it?")


def test_features_of_another_size_are_refused(uniter, regions):
    other = Regions(np.zeros((2, 7), np.float32), regions.boxes[:2], regions.width, regions.height)
    with pytest.raises(ValueError, match="regions have 7 features, the model was built for"):
        uniter.match(other, ["a circle"])
