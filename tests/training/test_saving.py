import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from uniter.files import write_text
from uniter.recipe import Training
from uniter.training.optimizer import build_optimizer
from uniter.training.saving import Checkpoints, training_tensors, write_folder


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5)
        self.output.weight = self.embedding.weight
        self.register_buffer("count", torch.zeros(2))
        self.register_buffer("derived", torch.zeros(2), persistent=False)


def trained(steps=3):
    torch.manual_seed(0)
    model = Tied()
    optimizer = build_optimizer(model, Training())
    for _ in range(steps):
        model.output(model.embedding(torch.tensor([1, 2]))).sum().backward()
        optimizer.step()
    model.count += steps
    return model, optimizer


def save(folder, step, model, optimizer, state=None, **settings):
    """Write one checkpoint and wait for it."""
    checkpoints = Checkpoints(folder, **settings)
    checkpoints.save(step, training_tensors(model, optimizer), state or {})
    checkpoints.close()
    return folder / f"step-{step:08d}"


def load(folder, model, optimizer):
    return Checkpoints(folder).load(training_tensors(model, optimizer))


def names(folder):
    return sorted(place.name for place in folder.iterdir())


def weights_of(place):
    (file,) = place.glob("*.safetensors")
    return file


def test_round_trip_with_tied_weights_and_buffers(tmp_path):
    model, optimizer = trained()
    place = save(tmp_path, 3, model, optimizer, {"best": 0.5})
    stored = load_file(weights_of(place))  # safetensors, nothing pickled
    assert names(place) == [weights_of(place).name, "state.json"]
    assert "model/embedding.weight" in stored and "model/output.weight" not in stored  # tied: once
    other, other_optimizer = trained(0)
    state = load(tmp_path, other, other_optimizer)
    assert state is not None and state["step"] == 3 and state["best"] == 0.5
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    assert other.output.weight is other.embedding.weight
    for one, two in zip(optimizer.state.values(), other_optimizer.state.values()):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_checkpoint_is_of_the_moment_it_was_asked_for(tmp_path):
    model, optimizer = trained()
    before = model.embedding.weight.detach().clone()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, training_tensors(model, optimizer), {})
    with torch.no_grad():
        model.embedding.weight.zero_()  # while it may still be written
    checkpoints.close()
    load(tmp_path, model, optimizer)
    assert torch.equal(model.embedding.weight, before)


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    model, optimizer = trained()
    for step in (5, 10, 15, 20):
        save(tmp_path, step, model, optimizer, keep=3)
    assert names(tmp_path) == ["step-00000010", "step-00000015", "step-00000020"]
    save(tmp_path, 25, model, optimizer, keep=1, kept=lambda: 10)
    assert names(tmp_path) == ["step-00000010", "step-00000025"]


def test_a_damaged_later_one_does_not_crowd_out_the_new_ones(tmp_path):
    model, optimizer = trained()
    for step in (5, 10):
        save(tmp_path, step, model, optimizer)
    (tmp_path / "step-00000010" / "state.json").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        load(tmp_path, model, optimizer)
    save(tmp_path, 6, model, optimizer, keep=1)
    assert names(tmp_path) == ["step-00000006"]


@pytest.mark.parametrize("harm", ["altered", "cut", "gone"])
def test_a_torn_one_is_passed_over(harm, tmp_path):
    model, optimizer = trained()
    for step in (5, 10):
        save(tmp_path, step, model, optimizer)
    file = weights_of(tmp_path / "step-00000010")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(content if harm == "altered" else content[: len(content) // 2])
    with pytest.warns(UserWarning, match="step-00000010 is damaged"):
        state = load(tmp_path, model, optimizer)
    assert state is not None and state["step"] == 5


def test_another_model_is_refused_and_nothing_is_touched(tmp_path):
    model, optimizer = trained()
    save(tmp_path, 1, model, optimizer)
    other = nn.Linear(2, 2)
    before = other.weight.detach().clone()
    with pytest.raises(ValueError, match="is of another model"):
        load(tmp_path, other, build_optimizer(other, Training()))
    assert torch.equal(other.weight, before)
    assert load(tmp_path / "none", model, optimizer) is None


def test_another_optimiser_is_refused(tmp_path):
    model, optimizer = trained()
    save(tmp_path, 1, model, optimizer)
    with pytest.raises(ValueError, match="another optimiser"):
        load(tmp_path, model, build_optimizer(model, Training(optimizer="adamax")))


def test_what_cannot_be_written_is_said_at_the_next_turn(tmp_path, monkeypatch):
    model, optimizer = trained()
    save(tmp_path, 5, model, optimizer)

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.HuggingFaceStorageWriter.write_data", full)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, training_tensors(model, optimizer), {})
    with pytest.raises(OSError, match=r"step-00000010 could not be written.*No space left"):
        checkpoints.wait()
    monkeypatch.undo()
    assert load(tmp_path, model, optimizer)["step"] == 5
    checkpoints.save(10, training_tensors(model, optimizer), {})  # what the first try left is no hindrance
    checkpoints.close()
    assert load(tmp_path, model, optimizer)["step"] == 10


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "best"
    write_folder(target, lambda place: write_text(place / "a.json", "1"))

    def fails(place):
        (place / "a.json").write_text("2")
        raise OSError("disk full")

    with pytest.raises(OSError):
        write_folder(target, fails)
    assert (target / "a.json").read_text() == "1"
    write_folder(target, lambda place: (place / "b.json").write_text("3"))
    assert [p.name for p in target.iterdir()] == ["b.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_state_is_plain_json(tmp_path):
    model, optimizer = trained()
    place = save(tmp_path, 1, model, optimizer, {"x": [1]})
    state = json.loads((place / "state.json").read_text())
    assert set(state) == {"step", "sha256", "x"} and [len(d) for d in state["sha256"].values()] == [64]
