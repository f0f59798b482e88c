"""Recipe in, run out: real runs on a small world, killed at any step and resumed."""

import json

import pytest
import torch
from safetensors.torch import load_file

import fixtures
from test_pretraining import recipe_of
from uniter.modeling_uniter import UniterForAnswers, UniterForPreTraining
from uniter.recipe import FinetuneRecipe, Recipe, parse_recipe, to_yaml
from uniter.regions.store import Store
from uniter.run import evaluate, finetuning_job, make_model, make_processor, predict, pretraining_job, run, score
from uniter.training.loop import train


def finetune_recipe(world, *overrides) -> FinetuneRecipe:
    text = f"""
kind: finetune
task: vqa
model: {{from: {world.models / "pretrained"}}}
data: {world.data}
regions: {world.regions}
options: {{least: 1}}
train: {{steps: 6, tokens: 256, learning_rate: 1.0e-3, device: cpu, save_every: 2, validate_every: 3}}
"""
    return parse_recipe(text, overrides)


def job_of(recipe: Recipe):
    return pretraining_job(recipe) if recipe.kind == "pretrain" else finetuning_job(recipe)


def log(folder) -> list[dict]:
    """The log of a run without what the clock said."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


class KilledError(Exception):
    pass


RECIPES = {
    "pretrain": lambda world: recipe_of(world, "objectives.itm_swap=either", "train.accumulate=2"),
    "finetune": finetune_recipe,
    "retrieval": lambda world: finetune_recipe(
        world, "task=retrieval", "options={hard_negatives: 1, candidates: 3}", "train.tokens=1024"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def no_plots():
    """Drawing takes longer than the updates of these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)
        yield


@pytest.fixture(scope="module", params=RECIPES)
def whole(request, world, tmp_path_factory):
    """A run that nobody disturbed."""
    recipe, out = RECIPES[request.param](world), tmp_path_factory.mktemp("whole") / "run"
    result = run(recipe, out, progress=False)
    assert result.finished and result.steps == 6
    return recipe, out, result


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6])
def test_killed_at_any_step_and_resumed_it_equals_the_whole_run_to_the_bit(step, whole, tmp_path):
    recipe, out, result = whole
    job = job_of(recipe)
    loss, calls = job.loss, []

    def dies(stream, batch):
        calls.append(stream)
        if len(calls) == (step - 1) * recipe.train.accumulate + 1:
            raise KilledError
        return loss(stream, batch)

    job.loss = dies
    with pytest.raises(KilledError):
        train(job, recipe.train, tmp_path / "run", to_yaml(recipe), progress=False)
    assert not (tmp_path / "run" / "result.json").exists()
    resumed = run(recipe, tmp_path / "run", progress=False)
    assert log(tmp_path / "run") == log(out)
    assert (resumed.best, resumed.best_step, resumed.history) == (result.best, result.best_step, result.history)
    for name in ("last", "best"):
        ours, theirs = (load_file(place / name / "model.safetensors") for place in (tmp_path / "run", out))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_finished_run_is_given_back_untouched(whole):
    recipe, out, result = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = run(recipe, out, progress=False)
    assert again == result and before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_another_recipe_or_no_resuming_is_refused(whole):
    recipe, out, _ = whole
    other = recipe.model_copy(deep=True)
    other.train.learning_rate = 2e-3
    with pytest.raises(ValueError, match=r"another setting: train.learning_rate is 0.001 there and 0.002 here"):
        run(other, out, progress=False)
    with pytest.raises(ValueError, match="holds a run already"):
        run(recipe, out, progress=False, resume=False)


def test_fine_tuning_starts_from_the_trunk_of_a_pretraining_run(world, tmp_path):
    first = run(recipe_of(world, "train.steps=2", "validation=[]"), tmp_path / "pretrain", progress=False)
    assert first.model == tmp_path / "pretrain" / "last"
    recipe = finetune_recipe(world, f"model.from={first.model}", "train.steps=2")
    start = finetuning_job(recipe).model
    learnt = UniterForPreTraining.from_pretrained(first.model).uniter.state_dict()
    assert all(torch.equal(value, learnt[name]) for name, value in start.uniter.state_dict().items())
    result = run(recipe, tmp_path / "vqa", progress=False)
    tuned = UniterForAnswers.from_pretrained(result.model)
    assert tuned.config.detector == Store(world.regions).detector
    assert set(tuned.config.id2label.values()) >= {"yes", "no"}
    assert evaluate("vqa", world.data, world.regions, "val", result.model)["accuracy"] == pytest.approx(
        next(line["accuracy"] for line in result.history if line["step"] == result.best_step)
    )


def test_a_fresh_head_is_drawn_from_the_seed(world):
    first, same, other = (finetuning_job(finetune_recipe(world, f"train.seed={seed}")).model for seed in (1, 1, 2))
    head = lambda model: model.vqa_output[0].weight
    assert torch.equal(head(first), head(same)) and not torch.equal(head(first), head(other))


def test_a_fresh_model_fits_vocabulary_and_store(world):
    overrides = ("vocabulary=scenes", "model={size: tiny, config: {num_hidden_layers: 1}}")
    recipe = recipe_of(world, *overrides)
    store = Store(world.regions)
    processor = make_processor(recipe.model, recipe.vocabulary, recipe.max_text)
    model = make_model(UniterForPreTraining, recipe.model, processor, store, 0)
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.detector) == (128, 1, store.detector)
    assert (config.vocab_size, config.region_feature_size) == (len(processor.vocabulary), store.feature_size)
    assert config.num_region_classes == store.num_classes


def test_validation_examples_bounds_what_is_measured(world):
    assert len(finetuning_job(finetune_recipe(world, "options={least: 1, validation_examples: 5}")).validation) == 5
    assert len(finetuning_job(finetune_recipe(world)).validation) > 5


def test_a_prediction_file_is_never_overwritten(world, tmp_path):
    out = tmp_path / "new" / "predictions.json"
    found = predict("vqa", world.data, world.regions, "val", world.models / "answers", [], out)
    assert found == len(json.loads(out.read_text())) > 0
    with pytest.raises(ValueError, match="exists already"):
        predict("vqa", world.data, world.regions, "val", world.models / "answers", [], out)


HIDDEN = {  # task -> split, its file, and what a test split's records lack
    "nlvr2": ("dev", "dev.json", ("label",)),
    "snli_ve": ("dev", "snli_ve_dev.jsonl", ("gold_label",)),
    "vcr": ("val", "val.jsonl", ("answer_label", "rationale_label")),
    "vqa": ("val", "v2_mscoco_val2014_annotations.json", ()),  # a file of its own
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_split_without_labels_is_predicted_and_refused_before_the_work_of_measuring(name, tmp_path, monkeypatch):
    case, (split, file, lacking) = fixtures.make_case(name, tmp_path / "data"), HIDDEN[name]
    task = case.task()
    fixtures.tiny_model(task).save_pretrained(tmp_path / "model")
    task.processor.save_pretrained(tmp_path / "model")
    store = fixtures.write_store(tmp_path / "store", case.regions)
    path = case.data / file
    if lacking:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        fixtures.write_lines(path, [{k: v for k, v in record.items() if k not in lacking} for record in records])
    else:
        path.unlink()
    arguments = (name, case.data, store, split, tmp_path / "model", [f"{k}={v}" for k, v in case.options.items()])
    count = predict(*arguments, tmp_path / "submission")
    assert count == len(task.examples(split)) > 3
    monkeypatch.setattr(type(task), "predict", lambda *_, **__: pytest.fail("worked for nothing"))
    for call in (lambda: evaluate(*arguments), lambda: score(name, case.data, split, tmp_path / "submission")):
        with pytest.raises(ValueError, match=r"has no (label|labels|public answers)") as caught:
            call()
        assert str(case.data) in str(caught.value) and "submission" not in str(caught.value)
