"""The pre-training job on real files: captions, a store, every objective."""

import json

import numpy as np
import pytest
import torch

from uniter.packing import select_rows
from uniter.pretraining import Captioned, Pretraining, make_objectives
from uniter.recipe import PretrainRecipe, parse_recipe
from uniter.run import pretraining_job
from uniter.training.optimizer import build_optimizer

ALL = "{mlm: 1, itm: 1, mrfr: 1, mrckl: 1, mrc: 1}"


def recipe_of(world, *overrides) -> PretrainRecipe:
    """Every objective on the small world, from its tiny model."""
    source = f"{{captions: {world.captions}, regions: {world.regions}, split: "
    text = f"""
kind: pretrain
model: {{from: {world.models / "pretrained"}}}
sources: [{source}train}}]
validation: [{source}val}}]
objectives: {ALL}
train: {{steps: 6, tokens: 512, learning_rate: 1.0e-3, device: cpu, save_every: 2, validate_every: 3}}
"""
    return parse_recipe(text, overrides)


@pytest.fixture(scope="module")
def job(world) -> Pretraining:
    return pretraining_job(recipe_of(world, "objectives.itm_swap=image"))


@pytest.fixture(scope="module")
def either(world) -> Pretraining:
    return pretraining_job(recipe_of(world))


STREAMS = ["mlm/0", "itm/0", "mrfr/0", "mrckl/0", "mrc/0"]


def test_a_stream_for_each_objective_and_source(world, job):
    assert job.mixture == pytest.approx(dict.fromkeys(STREAMS, 1.0))
    source = job.sources[0]
    assert len(source.texts) == 8 * 5 and len(source.images) == 8
    assert all(job.lengths(stream).tolist() == job.lengths("mlm/0").tolist() for stream in STREAMS)
    for index in (0, 7, 39):
        regions = source.store.num_regions(source.images[source.image_of[index]])
        assert job.lengths("mlm/0")[index] == len(source.texts[index]) + regions


def test_sources_share_by_captions_or_by_weight(world):
    two = recipe_of(world)
    one = two.sources[0]
    two.sources.append(one.model_copy(update={"split": "val", "name": "val"}))
    mixture = pretraining_job(two).mixture  # 40 captions and 20
    assert mixture["mlm/0"] == pytest.approx(2 / 3) and mixture["mlm/val"] == pytest.approx(1 / 3)
    two.sources = [source.model_copy(update={"weight": weight}) for source, weight in zip(two.sources, (3.0, 1.0))]
    job = pretraining_job(two)
    assert job.mixture["mlm/0"] == pytest.approx(3 / 4) and job.mixture["mlm/val"] == pytest.approx(1 / 4)
    assert sum(job.mixture.values()) == pytest.approx(5) and len(job.lengths("itm/val")) == 20
    two.sources[0].name = "val"
    with pytest.raises(ValueError, match="two sources have one name"):
        pretraining_job(two)
    with pytest.raises(ValueError, match="give every source one, or none"):
        two.sources = [two.sources[0], one]


def test_a_source_that_weighs_nothing_is_refused(world):
    with pytest.raises(ValueError, match="every source has weight 0"):
        pretraining_job(recipe_of(world, "sources.0.weight=0"))


@pytest.mark.parametrize("stream", STREAMS)
def test_every_loss_is_finite_and_falls(world, stream):
    job = pretraining_job(recipe_of(world))
    batch = job.prepare(stream, np.arange(8), 0)
    optimizer = build_optimizer(job.model, recipe_of(world, "train.weight_decay=0", "train.dropout=0.0").train)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss, numbers = job.loss(stream, batch)
        assert torch.isfinite(loss) and all(np.isfinite(float(value)) for value in numbers.values())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("which", ["job", "either"])
def test_what_an_example_becomes_does_not_depend_on_its_batch(which, stream, request):
    job = request.getfixturevalue(which)
    together = job.prepare(stream, np.array([3, 17, 39, 8]), epoch=2)
    for row, index in enumerate([3, 17, 39, 8]):
        alone = job.prepare(stream, np.array([index]), epoch=2)
        assert alone.keys() == together.keys()
        own = select_rows(together, torch.tensor([row]))
        for key, value in alone.items():
            other = own[key]
            if value.dim() > 1:
                assert not other[:, value.shape[1] :].float().abs().sum() or key == "labels"  # the rest is padding
                other = other[:, : value.shape[1]]
            torch.testing.assert_close(value, other, rtol=0, atol=0)


def test_another_epoch_hides_other_words(job):
    first, again, second = (job.prepare("mlm/0", np.arange(40), epoch)["labels"] for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second)


def pairs_of(job, stream="itm/0"):
    """For each caption: captions with the words that are shown, the image that is shown, the label."""
    source = job.sources[0]
    for index in range(len(source.texts)):
        batch = job.prepare(stream, np.array([index]), 0)
        ids, features = batch["input_ids"][0].numpy(), batch["regions"].numpy().astype(np.float16)
        texts = [number for number, text in enumerate(source.texts) if np.array_equal(text, ids)]
        shown = [n for n, name in enumerate(source.images) if np.array_equal(source.store[name].features, features)]
        assert texts and len(shown) == 1
        yield index, texts, shown[0], int(batch["labels"][0])


@pytest.mark.parametrize("which", ["job", "either"])
def test_mismatches_show_another_image_or_the_text_of_another(which, request):
    job = request.getfixturevalue(which)
    own = job.sources[0].image_of
    kinds = []
    for index, texts, image, label in pairs_of(job):
        if label == 1:
            assert index in texts and image == own[index]
        elif image == own[index]:
            assert any(own[text] != image for text in texts)
        else:
            assert index in texts
        kinds.append("match" if label else "text" if image == own[index] else "image")
    assert set(kinds) == ({"match", "image"} if which == "job" else {"match", "image", "text"})
    assert 8 <= kinds.count("match") <= 32  # about half of 40


def test_a_text_of_an_image_is_one_of_its_own(job):
    source = job.sources[0]
    images = np.repeat(np.arange(8), 50)
    picked = source.text_of(images, np.tile(np.linspace(0, 0.9999, 50), 8))
    assert (source.image_of[picked] == images).all() and len(set(picked)) == 40


def test_validation_says_the_same_twice(job):
    job.model.eval()
    first, second = job.validate(), job.validate()
    assert first == second and set(first) >= {"mlm_loss", "itm_loss", "mrfr_loss", "mrckl_loss", "mrc_loss", "score"}
    assert all(np.isfinite(value) for value in first.values())
    accuracies = [value for key, value in first.items() if key.endswith("_accuracy")]
    assert first["score"] == pytest.approx(100 * np.mean(accuracies)) and len(accuracies) == 4


def test_validation_looks_at_so_many_pairs(world, job):
    few = Pretraining(
        job.model, job.processor, job.sources, job.validation, {next(iter(job.objectives.values())): 1}, 0, None, 4
    )
    seen = []
    few._batch = lambda *arguments: seen.extend(arguments[2].indices) or Pretraining._batch(few, *arguments)
    few.validate()
    assert len(seen) == len(set(seen)) == 4


def test_images_that_are_not_in_the_store_are_named(world, tmp_path, job):
    content = json.loads(world.captions.read_text())
    lost = [image for image in content["images"] if image["split"] == "train"][2:4]
    for image in lost:
        image["filename"] = f"lost-{image['split']}-{'ab'[image is lost[1]]}.png"
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"2 of the 8 images of split 'train' in .* are not in the store") as caught:
        Captioned.read(tmp_path / "captions.json", world.regions, "train", job.processor)
    assert repr(lost[0]["filename"]) in str(caught.value) and "extract the missing pictures" in str(caught.value)


def test_without_validation_captions_nothing_is_measured(world):
    assert pretraining_job(recipe_of(world, "validation=[]")).validate() == {}


def test_objectives_of_weight_0_are_left_out(world):
    settings = recipe_of(world, "objectives.mrc=0", "objectives.mlm=0").objectives
    vocabulary = pretraining_job(recipe_of(world)).processor.vocabulary
    assert {o.name for o in make_objectives(settings, vocabulary)} == {"itm", "mrfr", "mrckl"}
    with pytest.raises(ValueError, match="every objective has weight 0"):
        recipe_of(world, "objectives={mlm: 0, itm: 0, mrfr: 0, mrckl: 0, mrc: 0}")
