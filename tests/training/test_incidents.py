"""A step that is not finite is kept, and running it again says where it went wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from uniter import cli
from uniter.recipe import to_yaml
from uniter.run import pretraining_job, replay, run

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from tiny import make_data, recipe

MLM = "objectives={mlm: 1, itm: 0, mrfr: 0, mrckl: 0}"


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)


@pytest.fixture
def data(tmp_path) -> Path:
    return make_data(tmp_path / "data", 12, 4)


def spoil(data: Path, number: int) -> str:
    """Put NaN into an image's features behind the writer's back; gives its name."""
    file = sorted((data / "store").glob("shard-*"))[number]
    tensors = load_file(file)
    tensors["features"][7, 3] = np.nan  # of the second image
    save_file(tensors, file)
    return f"{4 * number + 1:05d}.jpg"


def test_features_that_are_no_numbers_are_named_and_found_again(data, tmp_path, monkeypatch, capsys):
    image = spoil(data, 1)
    settings = recipe(data / "captions.json", data / "store", MLM)
    with pytest.raises(FloatingPointError, match=rf"not finite at step \d+.*regions of {image}.*uniter replay"):
        run(settings, tmp_path / "run", progress=False)
    (place,) = (tmp_path / "run").glob("incident-*")
    report = json.loads((place / "report.json").read_text())
    assert report["what"] == "loss" and report["weights"] == [] and report["gradients"]
    assert any(name.startswith(image) for name in report["examples"])
    monkeypatch.setattr(sys, "argv", ["uniter", "replay", str(place)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().out
    assert not stopped.value.code
    assert (
        f"step {report['step']}, stream mlm/0: loss nan" in said
        and "batch: regions: " in said
        and f" numbers, in {image}" in said
    )
    first = said[said.index("forward: ") :].splitlines()[0]
    assert "img_linear" in first and "NaN" in first, first


def test_the_module_that_overflows_comes_first(data, tmp_path, monkeypatch):
    """Weights grow too large in the middle of the model: what comes before is not to blame."""
    settings = recipe(data / "captions.json", data / "store", MLM, steps=4)
    job = pretraining_job(settings)
    with torch.no_grad():
        job.model.uniter.encoder.layer[0].intermediate.dense.weight.fill_(1e38)
        job.model.uniter.encoder.layer[0].intermediate.dense.bias.fill_(3e38)
    from uniter.training.loop import train

    with pytest.raises(FloatingPointError, match="not finite at step 1"):
        train(job, settings.train, tmp_path / "run", to_yaml(settings), progress=False)
    (found,) = replay(tmp_path / "run" / "incident-00000001")
    assert found.reproduced and not found.batch and not found.weights
    assert "encoder.layer.0.intermediate.dense" in found.forward[0].module and found.forward[0].infinite
    assert found.forward[0].largest < 1e6, "its inputs were in order"
    assert "from inputs of up to" in str(found)


def test_a_step_that_is_finite_again_accuses_the_machine(data, tmp_path, monkeypatch):
    settings = recipe(data / "captions.json", data / "store", steps=4)
    from uniter.pretraining import Pretraining

    once = Pretraining.loss
    calls = []

    def infinite(self, stream, batch):
        calls.append(stream)
        loss, numbers = once(self, stream, batch)
        return (loss * float("inf") if len(calls) == 3 else loss), numbers

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "loss", infinite)
        with pytest.raises(FloatingPointError, match="loss is not finite at step 3"):
            run(settings, tmp_path / "run", progress=False)
    (found,) = replay(tmp_path / "run" / "incident-00000003")
    assert not found.reproduced and "the machine computed otherwise" in str(found)
    assert run(settings, tmp_path / "run", progress=False).finished, "the same command goes on"


def test_what_is_no_incident_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give the folder incident-"):
        replay(tmp_path)
