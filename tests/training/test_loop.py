import copy
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from uniter.recipe import Training
from uniter.training import loop
from uniter.training.loop import train


class Toy(nn.Module):
    """A trunk, a head per stream, dropout; the second stream's head is unused until that stream is drawn."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.uniter = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict({name: nn.Linear(8, 1) for name in "ab"})
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


class ToyJob:
    monitor = "score"

    def __init__(self, examples=37):
        self.model = Toy()
        self.mixture = {"a": 3.0, "b": 1.0, "never": 0.0}
        random = np.random.default_rng(0)
        self.inputs = torch.from_numpy(random.normal(size=(examples, 4)).astype(np.float32))
        self.targets = self.inputs.sum(1, keepdim=True)
        self._lengths = random.integers(3, 12, size=examples)
        self.losses_called = 0
        self.scores = None  # given numbers instead of real ones
        self.poison = None  # an example whose target is not a number
        self.die_at = None
        self.threads = set()

    def lengths(self, stream):
        return self._lengths

    def describe(self, stream, indices):
        return [f"example {index}" for index in indices]

    def prepare(self, stream, indices, epoch):
        self.threads.add(threading.current_thread().name)
        noise = np.random.default_rng([epoch, *indices.tolist()]).normal(size=(len(indices), 4)) * 0.01
        targets = self.targets[indices].clone()
        if self.poison is not None:
            targets[torch.from_numpy(indices == self.poison)] = float("nan")
        return {"x": self.inputs[indices] + torch.from_numpy(noise).float(), "y": targets, "n": [len(indices)]}

    def loss(self, stream, batch):
        self.losses_called += 1
        if self.die_at == self.losses_called:
            raise ConnectionError("pulled the plug")
        guess = self.model.heads[stream](self.model.uniter(batch["x"]))
        loss = nn.functional.mse_loss(guess, batch["y"])
        return loss, {f"size_{stream}": len(batch["x"])}

    def validate(self):
        assert not self.model.training and not torch.is_grad_enabled()
        if self.scores is not None:
            return {"score": self.scores.pop(0)} if self.scores else {}
        error = nn.functional.mse_loss(self.model.heads["a"](self.model.uniter(self.inputs)), self.targets)
        return {"score": -error.item(), "other": 1.0}

    def save(self, folder):
        save_file(self.model.state_dict(), folder / "model.safetensors")


def settings(**changes):
    values = {"steps": 24, "tokens": 60, "learning_rate": 1e-2, "validate_every": 10, "save_every": 5, "window": 16}
    return Training(**{**values, "device": "cpu", **changes})


def run(job, folder, training=None, **arguments):
    return train(job, training or settings(), folder, progress=False, **arguments)


def log(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch, request):
    if "plots" not in request.node.name:
        monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: job, folder, result."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    job = ToyJob()
    return job, folder, train(job, settings(accumulate=2), folder, progress=False)


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_run_learns_and_leaves_what_it_says(whole):
    job, folder, result = whole
    assert result.finished and result.steps == 24 and [line["step"] for line in result.history] == [10, 20, 24]
    assert result.best == result.history[-1]["score"] > result.history[0]["score"]
    assert {p.name for p in folder.iterdir()} >= {
        "config.yaml",
        "env.json",
        "metrics.jsonl",
        "checkpoints",
        "best",
        "last",
    }
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-00000020", "step-00000024"]
    updates = [line for line in log(folder) if "loss" in line]
    assert [line["step"] for line in updates] == list(range(1, 25))
    assert {line["stream"] for line in updates} == {"a", "b"}
    assert all(0 < line["fill"] <= 1 and line["tokens"] > 0 and line["examples"] > 0 for line in updates)
    assert all(f"size_{line['stream']}" in line for line in updates)
    assert load_file(folder / "last" / "model.safetensors").keys() == job.model.state_dict().keys()
    assert json.loads((folder / "env.json").read_text())[0]["versions"]["torch"]
    assert result.model == folder / "best"
    assert all(name.startswith("prepare") for name in job.threads)


@pytest.mark.parametrize("die_at", range(1, 49, 3))
def test_killed_anywhere_and_resumed_equals_uninterrupted_to_the_bit(die_at, whole, tmp_path):
    reference, folder, result = whole
    job = ToyJob()
    job.die_at = die_at
    with pytest.raises(ConnectionError):
        run(job, tmp_path / "run", settings(accumulate=2))
    job = ToyJob()
    resumed = run(job, tmp_path / "run", settings(accumulate=2))
    assert log(tmp_path / "run") == log(folder)
    assert resumed.history == result.history and resumed.best == result.best
    assert same_weights(job.model, reference.model)


@pytest.mark.parametrize("name", ["adam", "adamax"])
def test_other_optimisers_resume_too(name, tmp_path):
    training = settings(optimizer=name, steps=12, clip=None)
    reference, job = ToyJob(), ToyJob()
    run(reference, tmp_path / "one", training)
    job.die_at = 8
    with pytest.raises(ConnectionError):
        run(job, tmp_path / "two", training)
    job = ToyJob()
    run(job, tmp_path / "two", training)
    assert log(tmp_path / "one") == log(tmp_path / "two") and same_weights(job.model, reference.model)


@pytest.mark.parametrize("file", ["*.safetensors", "state.json"])
def test_a_torn_checkpoint_falls_back_to_the_one_before(file, whole, tmp_path):
    _, folder, _ = whole
    job = ToyJob()
    job.die_at = 2 * 18
    with pytest.raises(ConnectionError):
        run(job, tmp_path / "run", settings(accumulate=2))
    (torn,) = (tmp_path / "run" / "checkpoints" / "step-00000015").glob(file)
    content = bytearray(torn.read_bytes())
    torn.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="step-00000015 is damaged"):
        run(ToyJob(), tmp_path / "run", settings(accumulate=2))
    assert log(tmp_path / "run") == log(folder)


def test_no_whole_checkpoint_is_an_error(tmp_path):
    job = ToyJob()
    job.die_at = 7
    with pytest.raises(ConnectionError):
        run(job, tmp_path)
    (tmp_path / "checkpoints" / "step-00000005" / "state.json").write_text("{}")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the checkpoints"):
        run(ToyJob(), tmp_path)


def test_a_finished_run_is_not_repeated(whole):
    _, folder, result = whole
    job = ToyJob()
    again = run(job, folder, settings(accumulate=2))
    assert again == result and job.losses_called == 0


def test_other_settings_are_refused_by_name(whole):
    _, folder, _ = whole
    with pytest.raises(ValueError, match=r"train\.learning_rate is 0\.01 there and 0\.02 here"):
        run(ToyJob(), folder, settings(accumulate=2, learning_rate=2e-2))
    with pytest.raises(ValueError, match="holds a run already"):
        run(ToyJob(), folder, settings(accumulate=2), resume=False)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        run(ToyJob(), tmp_path)


def test_config_as_text_is_kept_as_given(tmp_path):
    text = "# why: a test\ntrain:\n  steps: 2\n"
    run(ToyJob(), tmp_path, settings(steps=2), config=text)
    assert (tmp_path / "config.yaml").read_text() == text
    assert run(ToyJob(), tmp_path, settings(steps=2), config={"train": {"steps": 2}}).steps == 2


def test_early_stop(tmp_path):
    job = ToyJob()
    job.scores = [0.1, 0.5, 0.5, 0.4, 0.9]
    result = run(job, tmp_path, settings(steps=100, validate_every=2, patience=2))
    assert result.finished and result.steps == 8 and result.best == 0.5 and result.best_step == 4
    assert run(ToyJob(), tmp_path, settings(steps=100, validate_every=2, patience=2)).steps == 8


def test_best_is_the_model_of_the_best_validation(tmp_path):
    job = ToyJob()
    job.scores = [0.5, 0.1]
    saved = []
    save = job.save
    job.save = lambda folder: (saved.append(copy.deepcopy(job.model.state_dict())), save(folder))
    run(job, tmp_path, settings(steps=6, validate_every=3))
    assert len(saved) == 2  # after the first validation, and the last one
    assert torch.equal(load_file(tmp_path / "best" / "model.safetensors")["heads.a.weight"], saved[0]["heads.a.weight"])
    assert not torch.equal(saved[0]["heads.a.weight"], saved[1]["heads.a.weight"])


def test_without_validation_the_last_model_is_the_one(tmp_path):
    job = ToyJob()
    job.scores = []
    result = run(job, tmp_path, settings(steps=2))
    assert result.best is None and result.model == tmp_path / "last" and not (tmp_path / "best").exists()


def test_an_unknown_monitor_is_an_error(tmp_path):
    job = ToyJob()
    job.monitor = "accuracy"
    with pytest.raises(ValueError, match=r"monitors 'accuracy'.*score, other"):
        run(job, tmp_path, settings(steps=1))


def test_not_a_number_stops_and_names_the_examples(tmp_path):
    job = ToyJob()
    job.poison = 11
    with pytest.raises(FloatingPointError, match=r"loss is not finite at step \d+, stream [ab]"):
        run(job, tmp_path, settings(accumulate=2))
    (place,) = tmp_path.glob("incident-*")
    incident = json.loads((place / "report.json").read_text())
    assert 11 in incident["indices"] and incident["losses"].count("nan") >= 1
    assert all(torch.isfinite(p).all() for p in job.model.parameters())
    assert incident["step"] == len(log(tmp_path)) + 1 and place.name == f"incident-{incident['step']:08d}"
    (batch,) = incident["batches"]
    assert batch["wrong"] == [{"tensor": "y", "numbers": 1, "examples": ["example 11"]}]
    kept = load_file(place / "model" / "model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in job.model.state_dict().items())


def test_accumulation_is_the_mean_of_the_micro_batches(tmp_path):
    """One update over two micro-batches of one size equals one over both at once."""
    weights = []
    for tokens, accumulate in ((40, 2), (80, 1)):
        job = ToyJob(examples=8)
        job.mixture = {"a": 1.0}
        job._lengths = np.full(8, 10)
        job.prepare = lambda stream, indices, epoch, job=job: {"x": job.inputs[indices], "y": job.targets[indices]}
        training = settings(steps=1, tokens=tokens, accumulate=accumulate, dropout=0.0)
        run(job, tmp_path / str(tokens), training)
        weights.append(job.model.uniter[0].weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-7)


def test_dropout_is_overridden(tmp_path):
    job = ToyJob()
    run(job, tmp_path, settings(steps=1, dropout=0.7))
    assert job.model.uniter[2].p == 0.7


def test_the_mean_of_the_weights_is_saved_and_resumes_to_the_bit(whole, tmp_path):
    plain, folder, _ = whole
    training = settings(accumulate=2, ema=0.9)
    reference, job = ToyJob(), ToyJob()
    run(reference, tmp_path / "one", training)
    assert same_weights(reference.model, plain.model)  # training itself is not touched
    by_hand = {name: p.detach().clone() for name, p in Toy().named_parameters()}
    watched, seen = ToyJob(), []
    loss = watched.loss

    def watching(stream, batch):
        seen.append({name: p.detach().clone() for name, p in watched.model.named_parameters()})
        return loss(stream, batch)

    watched.loss = watching
    run(watched, tmp_path / "watched", settings(accumulate=2))
    weights = [*seen[2::2], dict(watched.model.named_parameters())]  # after each update
    for update, after in enumerate(weights, start=1):
        decay = min(0.9, (1 + update) / (10 + update))
        by_hand = {name: decay * by_hand[name] + (1 - decay) * after[name].detach() for name in by_hand}
    saved = load_file(tmp_path / "one" / "last" / "model.safetensors")
    for name, mean in by_hand.items():
        torch.testing.assert_close(saved[name], mean, rtol=1e-5, atol=1e-6)
    job.die_at = 27
    with pytest.raises(ConnectionError):
        run(job, tmp_path / "two", training)
    run(ToyJob(), tmp_path / "two", training)
    assert log(tmp_path / "one") == log(tmp_path / "two") and log(tmp_path / "one") != log(folder)
    resumed = load_file(tmp_path / "two" / "last" / "model.safetensors")
    assert all(torch.equal(saved[name], resumed[name]) for name in saved)


def test_activation_checkpointing_changes_nothing_but_memory(tmp_path):
    logs, kept = [], []
    for forgets in (False, True):
        job = ToyJob()
        job.model.uniter = nn.Sequential(job.model.uniter[0], Stack())
        loss = job.loss

        def counting(stream, batch, loss=loss):
            sizes = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
                answer = loss(stream, batch)
            kept.append(sum(sizes))
            return answer

        job.loss = counting
        run(job, tmp_path / str(forgets), settings(steps=5, activation_checkpointing=forgets))
        assert not any("forward" in vars(module) for module in job.model.modules())
        logs.append(log(tmp_path / str(forgets)))
    assert logs[0] == logs[1] and kept[5] < kept[0] / 2


class Stack(nn.Module):
    """Blocks in a list, with dropout."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.layer = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Dropout(0.3), nn.Linear(64, 8)) for _ in range(4)
        )
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1

    def forward(self, states):
        for block in self.layer:
            states = states + block(states)
        return states


def test_settings_that_change_nothing_may_change(tmp_path):
    job = ToyJob()
    job.die_at = 8
    with pytest.raises(ConnectionError):
        run(job, tmp_path, settings())
    changed = settings(activation_checkpointing=True, engine="fsdp", save_every=3, keep=5)
    assert run(ToyJob(), tmp_path, changed).finished


def test_bfloat16(tmp_path):
    job = ToyJob()
    result = run(job, tmp_path, settings(steps=3, precision="bfloat16"))
    assert result.finished and job.model.uniter[0].weight.dtype == torch.float32


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_the_run_resumes(number, whole, tmp_path):
    _, folder, _ = whole
    job = ToyJob()
    loss = job.loss

    def interrupted(stream, batch):
        if job.losses_called == 25:
            os.kill(os.getpid(), number)
        return loss(stream, batch)

    job.loss = interrupted
    before = signal.getsignal(number)
    result = run(job, tmp_path / "run", settings(accumulate=2))
    assert not result.finished and result.steps == 13 and signal.getsignal(number) is before
    assert (tmp_path / "run" / "checkpoints" / "step-00000013").is_dir()
    assert run(ToyJob(), tmp_path / "run", settings(accumulate=2)).finished
    assert log(tmp_path / "run") == log(folder)


def test_an_error_while_preparing_reaches_the_caller(tmp_path):
    job = ToyJob()

    def prepare(stream, indices, epoch):
        raise KeyError("no regions for COCO_1.jpg")

    job.prepare = prepare
    with pytest.raises(KeyError, match="no regions for"):
        run(job, tmp_path)


def test_an_example_beyond_the_budget_fails_before_the_first_update(tmp_path):
    job = ToyJob()
    job._lengths = job._lengths.copy()
    job._lengths[17] = 99
    with pytest.raises(ValueError, match=r"stream a: example 17 has 99 tokens.*raise train\.tokens to 99"):
        run(job, tmp_path)
    assert job.losses_called == 0


def test_plots_are_drawn(tmp_path):
    run(ToyJob(), tmp_path, settings(steps=4, validate_every=2))
    for name in ("loss", "validation", "learning_rate"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_batches_are_prepared_ahead(tmp_path):
    job = ToyJob()
    prepared, seen = [], []
    prepare, loss = job.prepare, job.loss
    job.prepare = lambda *a: (prepared.append(1), prepare(*a))[1]

    def slow(*arguments):
        for _ in range(20):
            if len(prepared) > len(seen) + 2:
                break
            threading.Event().wait(0.005)
        seen.append(len(prepared))
        return loss(*arguments)

    job.loss = slow
    run(job, tmp_path, settings(steps=4, accumulate=3))
    assert seen[0] >= 2 and max(p - i for i, p in enumerate(seen)) <= loop.PREPARED_AHEAD + 1


@pytest.mark.gpu
def test_cuda_trains_and_resumes(tmp_path):
    training = settings(device="cuda", precision="bfloat16")
    reference = ToyJob()
    reference.validate = dict
    run(reference, tmp_path / "one", training)
    job = ToyJob()
    job.validate, job.die_at = dict, 13
    with pytest.raises(ConnectionError):
        run(job, tmp_path / "two", training)
    job = ToyJob()
    job.validate = dict
    run(job, tmp_path / "two", training)
    assert log(tmp_path / "one") == log(tmp_path / "two") and same_weights(job.model, reference.model)


def test_a_crash_while_a_checkpoint_is_written_leaves_the_one_before(whole, tmp_path, monkeypatch):
    _, folder, _ = whole
    write = HuggingFaceStorageWriter.write_data

    def fails(writer, plan, planner):
        if "step-00000015" in str(writer.path):
            (Path(writer.path) / "shard.safetensors").write_bytes(b"half")
            raise OSError("disk full")
        return write(writer, plan, planner)

    with monkeypatch.context() as patch:
        patch.setattr(HuggingFaceStorageWriter, "write_data", fails)
        with pytest.raises(OSError, match="disk full"):
            run(ToyJob(), tmp_path / "run", settings(accumulate=2))
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [".step-00000015.new", "step-00000005", "step-00000010"]
    run(ToyJob(), tmp_path / "run", settings(accumulate=2))
    assert log(tmp_path / "run") == log(folder)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    write, go_on, steps = HuggingFaceStorageWriter.write_data, threading.Event(), []

    def waits(writer, plan, planner):
        if "step-00000005" in str(writer.path):
            assert go_on.wait(60), "no update came while it was written"
        return write(writer, plan, planner)

    class Watched(ToyJob):
        def loss(self, stream, batch):
            steps.append(self.losses_called)
            if len(steps) == 9:  # three updates after the checkpoint was asked for
                assert not (tmp_path / "checkpoints" / "step-00000005").exists()
                go_on.set()
            return super().loss(stream, batch)

    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", waits)
    assert run(Watched(), tmp_path, settings(steps=12, keep=9)).finished
    assert (tmp_path / "checkpoints" / "step-00000005" / "state.json").exists()


def test_published_batching_and_many_epochs_resume(tmp_path):
    training = settings(tokens=100, batching="published", steps=30, validate_every=30)
    reference, job = ToyJob(), ToyJob()
    run(reference, tmp_path / "one", training)
    job.die_at = 22
    with pytest.raises(ConnectionError):
        run(job, tmp_path / "two", training)
    job = ToyJob()
    run(job, tmp_path / "two", training)
    assert log(tmp_path / "one") == log(tmp_path / "two") and same_weights(job.model, reference.model)
    assert {line["examples"] for line in log(tmp_path / "one") if "loss" in line} == {8}


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    class Nosy(ToyJob):
        def validate(self):
            with pytest.raises(ValueError, match="another process trains in"):
                run(ToyJob(), tmp_path / "run")
            return super().validate()

    assert run(Nosy(), tmp_path / "run").finished
    assert run(ToyJob(), tmp_path / "run").finished  # the lock was given back
