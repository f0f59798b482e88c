"""Two processes against one: the same losses, one folder, and checkpoints that either goes on from."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_work import run
from safetensors.torch import load_file

from test_pretraining import recipe_of
from test_run import finetune_recipe
from uniter.modeling_uniter import UniterForPreTraining
from uniter.recipe import to_yaml
from uniter.training.engine import Ranks, divide
from uniter.training.order import MicroBatch

STILL = "train.dropout=0.0"
# UNITER-large in everything but width: 24 layers, 16 heads.
LARGE = (
    "model={size: large, config: {hidden_size: 32, intermediate_size: 64}}",
    "vocabulary=scenes",
)


def log(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def together(folder: Path, work: list[dict], processes: int = 2, *options: str) -> None:
    """Let torchrun's processes do the work."""
    plan = folder / "work.json"
    plan.write_text(json.dumps(work))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(root / "src"), *sys.path])}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    port = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    done = subprocess.run(
        [*launch, *port, *options, str(Path(__file__).with_name("rank_work.py")), str(plan)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def save_recipe(folder, name, recipe):
    path = folder / f"{name}.yaml"
    path.write_text(to_yaml(recipe))
    return str(path)


CASES = {
    # with dropout: a process has whole micro-batches
    "whole": ("pretrain", ["train.accumulate=2", "train.steps=10", "validation=[]"]),
    # cut into parts by examples
    "cut": ("pretrain", [STILL, "train.steps=10", "validation=[]"]),
    "sharded": ("pretrain", [STILL, "train.engine=fsdp", "train.steps=2", "validation=[]", *LARGE]),
    "mean": (
        "pretrain",
        [STILL, "train.engine=fsdp", "train.ema=0.9", "train.activation_checkpointing=true", "train.steps=6"],
    ),
    "bfloat16": ("pretrain", [STILL, "train.precision=bfloat16", "validation=[]", "train.steps=3"]),
    "vqa": ("finetune", [STILL, "train.engine=fsdp"]),
    "retrieval": (
        "finetune",
        [STILL, "task=retrieval", "options={hard_negatives: 1, candidates: 3}", "train.tokens=1024"],
    ),
    "refcoco": ("finetune", [STILL, "task=refcoco", "options={}"]),
}
GOING_ON = ["train.accumulate=2", "train.steps=8", "train.save_every=3", "train.validate_every=4"]
RESUMED = {engine: [*GOING_ON, f"train.engine={engine}"] for engine in ("ddp", "fsdp")}


@pytest.fixture(scope="module", autouse=True)
def no_plots():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)
        yield


@pytest.fixture(scope="module")
def recipes(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    made = {"pretrain": recipe_of(world), "finetune": finetune_recipe(world)}
    return {name: save_recipe(folder, name, recipe) for name, recipe in made.items()}


@pytest.fixture(scope="module")
def two(recipes, tmp_path_factory):
    """Folder with what two processes did in one launch."""
    folder = tmp_path_factory.mktemp("two")
    work = [
        {"recipe": recipes[kind], "out": str(folder / name), "overrides": settings}
        for name, (kind, settings) in CASES.items()
    ]
    for name, settings in RESUMED.items():
        for part, interrupt in (("whole", None), ("stopped", 5), ("resumed", 5), ("resumed", None)):
            out = str(folder / f"{part}-{name}")
            work.append({"recipe": recipes["pretrain"], "out": out, "overrides": settings, "interrupt": interrupt})
    together(folder, work)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_loss_curve_of_one(name, two, recipes, tmp_path):
    kind, settings = CASES[name]
    run(recipes[kind], str(tmp_path / "one"), settings)
    assert_same(tmp_path / "one", two / name, rough=name == "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [["train.accumulate=2"], [STILL], [STILL, "train.engine=fsdp"]])
def test_fifty_updates_of_two_processes_have_the_loss_curve_of_one(settings, recipes, tmp_path):
    settings = [*settings, "train.steps=50", "validation=[]"]
    together(tmp_path, [{"recipe": recipes["pretrain"], "out": str(tmp_path / "two"), "overrides": settings}])
    run(recipes["pretrain"], str(tmp_path / "one"), settings)
    assert_same(tmp_path / "one", tmp_path / "two")


def assert_same(one_folder, two_folder, rough=False):
    """One log, and one model, to float tolerance."""
    one, both = log(one_folder), log(two_folder)
    assert len(one) == len(both) and [set(line) for line in one] == [set(line) for line in both]
    for alone, shared in zip(one, both):
        for key, value in alone.items():
            if isinstance(value, float):
                np.testing.assert_allclose(shared[key], value, rtol=0.05 if rough else 2e-4, atol=1e-5, err_msg=key)
            elif key != "validation":
                assert shared[key] == value
    weights, others = (load_file(folder / "last" / "model.safetensors") for folder in (one_folder, two_folder))
    assert weights.keys() == others.keys()
    if not rough:
        for key in weights:
            torch.testing.assert_close(others[key], weights[key], rtol=1e-3, atol=2e-4)


def test_the_sharded_model_is_saved_whole(two):
    model = UniterForPreTraining.from_pretrained(two / "sharded" / "last")
    assert len(model.uniter.encoder.layer) == 24


def test_each_process_wrote_its_half_of_the_sharded_model(two):
    (place,) = (two / "sharded" / "checkpoints").iterdir()
    halves = [load_file(file) for file in sorted(place.glob("*.safetensors"))]
    name = "uniter.encoder.layer.0.output.dense.weight"
    whole = load_file(two / "sharded" / "last" / "model.safetensors")[name]
    for key in (f"model/{name}", f"optimizer/exp_avg/{name}"):
        assert [len(half[key]) for half in halves] == [len(whole) // 2] * 2
    assert torch.equal(torch.cat([half[f"model/{name}"] for half in halves]), whole)


@pytest.mark.parametrize("engine", RESUMED)
def test_an_interrupted_process_stops_all_and_the_run_resumes_to_the_bit(engine, two):
    assert not (two / f"stopped-{engine}" / "result.json").exists()
    (place,) = sorted((two / f"stopped-{engine}" / "checkpoints").iterdir())[-1:]
    assert place.name == "step-00000005"
    assert log(two / f"resumed-{engine}") == log(two / f"whole-{engine}")
    one, other = (load_file(two / f"{part}-{engine}" / "last" / "model.safetensors") for part in ("whole", "resumed"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("engine", RESUMED)
def test_one_process_goes_on_from_what_two_wrote(engine, two, recipes):
    assert run(recipes["pretrain"], str(two / f"stopped-{engine}"), RESUMED[engine])
    one, other = log(two / f"stopped-{engine}"), log(two / f"whole-{engine}")
    for alone, shared in zip(one, other, strict=True):
        for key, value in alone.items():
            if isinstance(value, float):
                np.testing.assert_allclose(shared[key], value, rtol=2e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_nothing_is_lost(recipes, tmp_path):
    """As a user does it: torchrun with restarts, the command line, SIGKILL for one of two."""
    settings = ["train.accumulate=2", "train.steps=60", "train.save_every=10", "train.validate_every=30"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root / "src")}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = ["-m", "uniter", "pretrain", recipes["pretrain"], "--out", str(tmp_path / "two"), *settings, "--quiet"]
    port = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    running = subprocess.Popen([*launch, *port, *command], env=environment, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "two" / "checkpoints" / "step-00000020").exists():
        assert running.poll() is None
        time.sleep(0.02)
    (session,) = json.loads((tmp_path / "two" / "env.json").read_text())
    os.kill(session["process"], signal.SIGKILL)
    said, _ = running.communicate(timeout=250)
    assert running.returncode == 0 and said.count("finished after 60 steps") == 1  # the first process alone speaks
    assert run(recipes["pretrain"], str(tmp_path / "one"), settings)
    assert log(tmp_path / "one") == log(tmp_path / "two")  # the sum of two gradients knows no order
    assert len(json.loads((tmp_path / "two" / "env.json").read_text())) == 2


@pytest.mark.parametrize(("accumulate", "parts", "world"), [(4, 1, 2), (3, 1, 2), (1, 2, 2), (2, 3, 4), (1, 5, 5)])
def test_processes_share_every_example_once_and_pass_equally_often(accumulate, parts, world):
    micros = [MicroBatch(1, number, "a", 0, np.arange(number * 10, number * 10 + 3)) for number in range(accumulate)]
    shared = [list(divide(micros, accumulate, parts, Ranks(rank, world))) for rank in range(world)]
    assert len({len(pieces) for pieces in shared}) == 1
    real = [index for pieces in shared for piece in pieces if not piece.stands_in for index in piece.indices.tolist()]
    assert sorted(real) == sorted(index for micro in micros for index in micro.indices.tolist())
    assert all(piece.micros == tuple(micros) for pieces in shared for piece in pieces)
