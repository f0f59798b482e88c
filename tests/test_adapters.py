"""LoRA by one setting: what trains, what is saved, and who can load it."""

import pytest
import torch
from safetensors.torch import load_file

from test_run import finetune_recipe
from uniter.adapters import load_lora
from uniter.modeling_uniter import UniterForAnswers
from uniter.run import finetuning_job, pretraining_job, run
from uniter.training.loop import train

peft = pytest.importorskip("peft")


@pytest.fixture(scope="module", autouse=True)
def no_plots():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)
        yield


@pytest.fixture(scope="module")
def tuned(world, tmp_path_factory):
    """A job after its run, the run's last folder, and the trunk before."""
    recipe = finetune_recipe(world, "model.lora=3", "train.learning_rate=0.01")
    job = finetuning_job(recipe)
    before = {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
    folder = tmp_path_factory.mktemp("lora") / "run"
    train(job, recipe.train, folder, progress=False)
    return job, before, folder / "last"


def batch_of(job):
    return job.prepare("vqa", job.lengths("vqa").argsort()[:4], 0)


@torch.no_grad()
def logits(model, job):
    model.eval()
    return model(**batch_of(job)).logits


def test_the_thin_matrices_and_the_head_train_and_nothing_else(tuned):
    job, before, _ = tuned
    after = job.model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name for name in after if ".lora_" in name or not name.startswith("uniter.")} == changed
    assert sum(".lora_A." in name for name in changed) == 2 * 6  # layers; query, key, value and three dense


def test_the_saved_model_is_the_merged_one(tuned):
    job, _, folder = tuned
    merged = UniterForAnswers.from_pretrained(folder)
    assert not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(logits(merged, job), logits(job.model, job), rtol=1e-4, atol=1e-5)


def test_the_adapter_is_small_and_goes_back_onto_its_base(tuned, world):
    _, _, folder = tuned
    base = world.models / "pretrained"
    size = lambda place: sum(file.stat().st_size for file in place.glob("*.safetensors"))
    assert size(folder / "adapter") < size(folder) / 2
    model = load_lora(UniterForAnswers, base, folder / "adapter")
    merged = load_file(folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-6, atol=1e-7)
    assert not torch.equal(
        model.uniter.encoder.layer[0].attention.self.query.weight,
        load_file(base / "model.safetensors")["uniter.encoder.layer.0.attention.self.query.weight"],
    )


def test_peft_reads_the_adapter(tuned, world):
    job, _, folder = tuned
    plain = UniterForAnswers.from_pretrained(world.models / "pretrained", config=job.model.config)
    model = peft.PeftModel.from_pretrained(plain, str(folder / "adapter"))
    torch.testing.assert_close(logits(model, job), logits(job.model, job), rtol=1e-4, atol=1e-5)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged, job), logits(job.model, job), rtol=1e-4, atol=1e-5)


def test_another_base_is_refused(tuned, tmp_path):
    job, _, folder = tuned
    from uniter.configuration_uniter import UniterConfig

    numbers = {**job.model.config.to_dict(), "num_hidden_layers": 1}
    UniterForAnswers(UniterConfig(**numbers)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"trunk tensors are not in the checkpoint|not an adapter of"):
        load_lora(UniterForAnswers, tmp_path, folder / "adapter")
    with pytest.raises(ValueError, match=r"adapter_config\.json: no such file"):
        load_lora(UniterForAnswers, tmp_path, tmp_path)


def test_it_wants_weights_to_start_from_and_is_for_fine_tuning(world, tmp_path):
    from test_pretraining import recipe_of

    with pytest.raises(ValueError, match=r"say which by model\.from"):
        run(finetune_recipe(world, "model={lora: 4, size: tiny}", "vocabulary=scenes"), tmp_path / "a")
    with pytest.raises(ValueError, match=r"model\.lora is for fine-tuning"):
        pretraining_job(recipe_of(world, "model.lora=4"))
