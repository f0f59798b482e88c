import json

import numpy as np
import pytest
import torch

from test_pretraining import recipe_of
from test_run import finetune_recipe
from uniter.run import finetuning_job, pretraining_job
from uniter.training.loop import train
from uniter.training.memory import Need, measured


def test_the_fewest_parts_that_fit():
    need = Need(fixed=1000, token=8.0, longest=10)
    assert need.parts(100, need.of(100)) == 1
    for limit in (1200, 1500, 1900):
        parts = need.parts(100, limit)
        assert need.of(100, parts) <= limit < need.of(100, parts - 1)
    with pytest.raises(ValueError, match=r"--max-memory of 0\.00 GB is not enough.*activation_checkpointing"):
        need.parts(100, 1050)


def setting_of(job, recipe):
    lengths = {name: job.lengths(name) for name, weight in job.mixture.items() if weight}
    return measured(job, recipe.train, lengths, torch.device("cpu"), lambda batch: batch)


def test_what_is_kept_is_what_autograd_keeps(world):
    """The estimate for a whole micro-batch is not below what a whole micro-batch saves, nor twice as much."""
    recipe = recipe_of(world)
    job = pretraining_job(recipe)
    need = setting_of(job, recipe)
    job.model.train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in job.model.parameters()}
    for stream in job.mixture:
        lengths, saved = job.lengths(stream), {}
        rows = np.argsort(-lengths)[: recipe.train.tokens // int(lengths.max())]

        def pack(tensor, saved=saved):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, _ = job.loss(stream, job.prepare(stream, rows, 0))
        kept = sum(size for place, size in saved.items() if place not in weights)
        assert kept <= need.token * int(lengths[rows].sum()) * 1.25, stream
        if stream == "itm/0":
            assert need.token * int(lengths[rows].sum()) < 3 * kept
        del loss


def test_forgetting_layers_needs_less(world):
    needs = []
    for forgets in ("false", "true"):
        recipe = recipe_of(world, f"train.activation_checkpointing={forgets}")
        needs.append(setting_of(pretraining_job(recipe), recipe))
    assert needs[1].of(100_000) < needs[0].of(100_000)


def log(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("kind", ["pretrain", "vqa", "refcoco", "retrieval"])
def test_less_memory_gives_the_same_run(kind, world, tmp_path, monkeypatch):
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)
    if kind == "pretrain":
        recipe = recipe_of(world, "train.dropout=0.0", "train.accumulate=2")
    else:
        options = "{hard_negatives: 1, candidates: 3}" if kind == "retrieval" else "{}"
        recipe = finetune_recipe(world, f"task={kind}", f"options={options}", "train.dropout=0.0", "train.tokens=1024")
    make = pretraining_job if kind == "pretrain" else finetuning_job
    job, seen = make(recipe), []
    need = setting_of(job, recipe)
    limit = need.of(recipe.train.tokens, 3)
    prepare = job.prepare
    job.prepare = lambda stream, indices, epoch: (seen.append(len(indices)), prepare(stream, indices, epoch))[1]
    train(job, recipe.train, tmp_path / "cut", progress=False, max_memory=limit)
    train(make(recipe), recipe.train, tmp_path / "whole", progress=False)
    whole, cut = log(tmp_path / "whole"), log(tmp_path / "cut")
    probes = 3 * 2 * sum(weight > 0 for weight in job.mixture.values())
    assert max(seen[probes:]) <= -(-max(line["examples"] for line in whole if "examples" in line) // 2)
    for one, other in zip(whole, cut, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, float):
                np.testing.assert_allclose(other[key], value, rtol=2e-4, atol=1e-5, err_msg=key)
            elif key != "validation":
                assert other[key] == value
