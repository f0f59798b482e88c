"""Every recipe that ships with the package runs as it is typed, at tiny size: two steps, and two under `parity: official`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import published
from uniter.modeling_uniter import UniterForPreTraining
from uniter.objectives import Draws
from uniter.recipe import load_recipe, shipped_recipes, with_parity
from uniter.run import finetuning_job, pretraining_job, run
from uniter.tasks.base import load
from uniter.tasks.refcoco import published_overlaps
from uniter.training.order import Stream

PARITIES = ("mended", "official")

CANDIDATES = {"scenes": 5, "published": 33}  # of 8 and of 36 images


@pytest.fixture(scope="module")
def place(world, tmp_path_factory):
    """Where the recipes' own paths, relative to the working folder, lead somewhere."""
    root = tmp_path_factory.mktemp("published")
    published.write_everything(root)
    shutil.copytree(world.data, root / "data" / "scenes")
    shutil.copytree(world.regions, root / "data" / "scenes" / "regions")
    return root


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """Drawing takes longer than the updates of these runs."""
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)


def changes(recipe) -> list[str]:
    """What has to be smaller for a recipe to run here."""
    found = ["train.steps=2", "train.device=cpu", "train.validate_every=2"]
    # 9 examples then make a batch under the published sampler
    found += [f"train.max_examples={min(recipe.train.max_examples or 8, 8)}"]
    found += [f"train.accumulate={min(recipe.train.accumulate, 2)}"]
    if recipe.kind == "finetune":
        scenes = Path(recipe.data).parts[:2] == ("data", "scenes")
        if "candidates" in recipe.options:
            found.append(f"options.candidates={CANDIDATES['scenes' if scenes else 'published']}")
        if scenes and recipe.task == "vqa":
            found.append("options.least=1")
    return found


@pytest.mark.parametrize("parity", PARITIES)
@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_runs_two_steps(name, parity, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    recipe = load_recipe(name)
    result = run(load_recipe(name, [*changes(recipe), f"parity={parity}"]), tmp_path / "run", progress=False)
    assert result.finished and result.steps == 2 and (result.model / "model.safetensors").is_file()


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_opens_with_its_command_and_fits_a_line(name):
    lines = shipped_recipes()[name].splitlines()
    assert lines[0].startswith(f"# uniter {load_recipe(name).kind} {name} --out runs/")
    assert max(map(len, lines)) <= 120


# ---------------------------------------------------------------- what `parity: official` changes, in the job itself


def job_of(name, parity, *overrides):
    recipe = load_recipe(name, [*changes(load_recipe(name)), f"parity={parity}", *overrides])
    recipe = with_parity(recipe, load(recipe.task).published if recipe.kind == "finetune" else None)
    return recipe, pretraining_job(recipe) if recipe.kind == "pretrain" else finetuning_job(recipe)


@pytest.fixture
def here(place, monkeypatch):
    """Work where the recipes' paths lead somewhere."""
    monkeypatch.chdir(place)


def test_official_second_stage_counts_lengths_as_the_lists_do_and_leaves_long_ones_out(here):
    (_, plain), (_, official) = (job_of("pretrain-vcr-base", parity) for parity in PARITIES)
    source, stream = official.sources[0], "mlm/vcr"
    listed = json.loads(Path("data/vcr/vcr_train.db/id2len_qar.json").read_text())
    detected = [source.store.num_regions(image[1]) for image in source.images]
    assert official.lengths(stream).tolist() == [listed[f"train-{i}"] + 100 + n for i, n in enumerate(detected)]
    tokens = [len(source.texts[i]) + source.num_regions(i) for i in range(20)]
    assert plain.lengths(stream).tolist() == tokens
    most = f"max_text={sorted(listed.values())[9]}"
    kept = [len(job_of("pretrain-vcr-base", p, most)[1].sources[0].texts) for p in PARITIES]
    assert kept == [20, sum(length <= sorted(listed.values())[9] for length in listed.values())]
    assert official.validation[0].counted is None  # only batches of training are made by the lists


def test_official_second_stage_draws_a_new_word_head_and_the_mended_one_keeps_it(here):
    (_, kept), (_, new) = (job_of("pretrain-vcr-base", parity) for parity in PARITIES)
    trained = UniterForPreTraining.from_pretrained("models/uniter-base").cls.predictions
    words = len(trained.bias)
    transform = lambda model: model.cls.predictions.transform.dense.weight
    assert torch.equal(transform(kept.model), trained.transform.dense.weight)
    assert torch.equal(kept.model.cls.predictions.bias[:words], trained.bias)
    assert not torch.equal(transform(new.model), trained.transform.dense.weight)
    assert len(new.model.cls.predictions.bias) == len(kept.model.cls.predictions.bias) == words + 81


def test_both_second_stages_read_question_answer_and_rationale_and_nothing_else(here):
    for parity in PARITIES:
        source = job_of("pretrain-vcr-base", parity)[1].sources[0]
        assert len(source.texts) == 20 and all(set(types) == {0, 2, 3} for types in source.types)


def test_official_settings_of_each_task(here):
    vcr, job = job_of("vcr-base", "official")
    assert vcr.options["lengths"] == "published" and job.lengths("vcr").min() > 100
    assert job_of("vcr-base", "mended")[1].lengths("vcr").tolist() != job.lengths("vcr").tolist()
    refcoco, job = job_of("refcoco-base", "official")
    assert (refcoco.train.batching, refcoco.train.order, refcoco.options["overlap"]) == (
        "examples",
        "files",
        "published",
    )
    assert job.task.overlaps is published_overlaps
    stream, each = Stream("refcoco", job.lengths("refcoco"), refcoco.train), len(job.examples) // 8
    for position in range(2 * each):  # two epochs
        first = position % each * 8
        assert stream.batch(position)[1].tolist() == list(range(first, first + 8))
    retrieval, job = job_of("retrieval-flickr30k-base", "official")
    assert (retrieval.train.batching, retrieval.options["published_recall"]) == ("examples", True)
    assert "published_image_recall_at_1" in job.validate()
    assert job_of("retrieval-flickr30k-base-hard", "official")[0].train.accumulation == "mean"  # theirs is normalised
    for name in ("vqa-base", "snli-ve-base", "nlvr2-base", "pretrain-indomain-base"):
        train = job_of(name, "official")[0].train
        assert (train.batching, train.accumulation, train.optimizer, train.decayed) == (
            "published",
            "sum",
            "adamw-published",
            "names",
        )


def test_official_matching_replaces_images_only(here):
    rows = Draws(0, 0, np.arange(1000))
    share = {p: job_of("pretrain-indomain-base", p)[1].objectives["itm"].swaps_text(rows).mean() for p in PARITIES}
    assert share["official"] == 0 and 0.4 < share["mended"] < 0.6


def test_expressions_are_validated_on_detected_boxes(place, monkeypatch):
    monkeypatch.chdir(place)
    _, job = job_of("refcoco-base", "mended")
    image = job.validation[0].image
    learnt, measured = (task.seen(image).boxes for task in (job.task, job.measured))
    assert (learnt == measured[::-1]).all() and (learnt != measured).any()
    assert job.validate()["upper_bound"] > 0
