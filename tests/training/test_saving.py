import json

import pytest
import torch
from torch import nn

from uniter.files import write_text
from uniter.recipe import Training
from uniter.training.optimizer import build_optimizer
from uniter.training.saving import load_checkpoint, save_checkpoint, write_folder


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


def test_round_trip_with_tied_weights_and_buffers(tmp_path):
    model, optimizer = trained()
    place = save_checkpoint(tmp_path, 3, model, optimizer, {"best": 0.5})
    assert sorted(p.name for p in place.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    other, other_optimizer = trained(0)
    state = load_checkpoint(tmp_path, other, other_optimizer)
    assert state is not None and state["step"] == 3 and state["best"] == 0.5
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    assert other.output.weight is other.embedding.weight
    for one, two in zip(optimizer.state.values(), other_optimizer.state.values()):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_only_the_newest_are_kept(tmp_path):
    model, optimizer = trained()
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, step, model, optimizer, {}, keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000015", "step-00000020"]


def test_a_damaged_later_one_does_not_crowd_out_the_new_ones(tmp_path):
    model, optimizer = trained()
    for step in (5, 10):
        save_checkpoint(tmp_path, step, model, optimizer, {})
    (tmp_path / "step-00000010" / "state.json").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        load_checkpoint(tmp_path, model, optimizer)
    save_checkpoint(tmp_path, 6, model, optimizer, {}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000006"]


def test_an_altered_byte_is_noticed(tmp_path):
    model, optimizer = trained()
    for step in (5, 10):
        save_checkpoint(tmp_path, step, model, optimizer, {})
    file = tmp_path / "step-00000010" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step-00000010 is damaged \(model.safetensors is not what was written\)"):
        state = load_checkpoint(tmp_path, model, optimizer)
    assert state is not None and state["step"] == 5


def test_another_model_is_refused(tmp_path):
    model, optimizer = trained()
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="is of another model"):
        load_checkpoint(tmp_path, other, build_optimizer(other, Training()))
    assert load_checkpoint(tmp_path / "none", model, optimizer) is None


def test_another_optimiser_is_refused(tmp_path):
    model, optimizer = trained()
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    with pytest.raises(ValueError, match="another optimiser"):
        load_checkpoint(tmp_path, model, build_optimizer(model, Training(optimizer="adamax")))


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
    place = save_checkpoint(tmp_path, 1, model, optimizer, {"x": [1]})
    state = json.loads((place / "state.json").read_text())
    assert set(state) == {"step", "sha256", "x"} and len(state["sha256"]["model.safetensors"]) == 64
