import json
import os
from pathlib import Path

import pytest
import torch

from uniter.checkpoints import export_weights, import_weights, official_state, read_state
from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import UniterForAnswers, UniterForMatching, UniterForPreTraining, UniterModel

CONFIG = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "hidden_act": "gelu",
          "max_position_embeddings": 20, "vocab_size": 30}  # fmt: skip
SIZES = {"region_feature_size": 6, "num_region_classes": 5}


@pytest.fixture
def pretrained():
    torch.manual_seed(0)
    settings = {key: value for key, value in CONFIG.items() if key != "hidden_act"}
    model = UniterForPreTraining(UniterConfig(**settings, **SIZES))
    model.uniter.img_embeddings.mask_embedding.weight.data[0] = 0
    return model


def test_round_trip_is_equal_to_the_bit(pretrained, tmp_path):
    for name in ("a.pt", "a.safetensors"):
        export_weights(pretrained, tmp_path / name)
        again = import_weights(tmp_path / name, CONFIG)
        assert type(again.model) is UniterForPreTraining and (again.new, again.unused) == ([], [])
        ours, theirs = official_state(pretrained), official_state(again.model)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(ValueError, match="exists already"):
        export_weights(pretrained, tmp_path / "a.pt")


def test_wrappers_prefixes_and_half_precision(pretrained, tmp_path):
    state = official_state(pretrained)
    spoiled = {"module." + key.replace("uniter.", "bert."): value.half() for key, value in state.items()}
    torch.save({"model_state": spoiled, "step": 3}, tmp_path / "villa.pt")
    model = import_weights(tmp_path / "villa.pt", CONFIG).model
    word = model.uniter.embeddings.word_embeddings.weight
    assert word.dtype == torch.float32
    assert torch.equal(word, state["uniter.embeddings.word_embeddings.weight"].half().float())
    assert model.uniter.img_embeddings.img_linear.weight.shape == (16, 6)


def test_bert_with_old_names_initialises_the_text_side(pretrained, tmp_path):
    state = {
        key: value
        for key, value in official_state(pretrained).items()
        if "img" not in key and not key.startswith(("feat", "region", "itm"))
    }
    old = {
        key.replace("uniter.", "bert.")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): v
        for key, v in state.items()
    }
    torch.save(old, tmp_path / "bert.pt")
    found = import_weights(tmp_path / "bert.pt", {**CONFIG, **SIZES}, head="pretraining")
    assert all("img" in key or key.startswith(("feat", "region", "itm")) for key in found.new) and not found.unused
    assert torch.equal(found.model.uniter.embeddings.LayerNorm.weight, pretrained.uniter.embeddings.LayerNorm.weight)
    with pytest.raises(ValueError, match="text-only"):
        import_weights(tmp_path / "bert.pt", {**CONFIG, **SIZES})


def test_any_head_from_a_pretraining_file(pretrained, tmp_path):
    export_weights(pretrained, tmp_path / "a.pt")
    matching = import_weights(tmp_path / "a.pt", CONFIG, head="matching").model
    assert isinstance(matching, UniterForMatching)
    assert torch.equal(matching.rank_output.weight[0], pretrained.itm_output.weight[1])
    trunk = import_weights(tmp_path / "a.pt", CONFIG, head="trunk").model
    assert isinstance(trunk, UniterModel)
    assert torch.equal(trunk.pooler.dense.weight, pretrained.uniter.pooler.dense.weight)


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_bad_files_are_named(pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.zeros(2), "x": Malicious()}, "bad.pt")
    Path("text.pt").write_text("hello")
    torch.save({"other.weight": torch.zeros(2)}, "foreign.pt")
    torch.save([1, 2], "list.pt")
    torch.save({**official_state(pretrained), "cls.predictions.decoder.weight": torch.zeros(30, 16)}, "untied.pt")
    state = official_state(pretrained)
    torch.save({key: value for key, value in state.items() if ".layer.1." not in key}, "short.pt")
    for name, message in {"bad.pt": "run code", "text.pt": "not opened", "foreign.pt": "none of its", "list.pt": "no tensors",
                          "untied.pt": "tied", "short.pt": "layer.1.", "gone.pt": "no such file"}.items():  # fmt: skip
        with pytest.raises(ValueError, match=message) as error:
            import_weights(name, CONFIG)
        assert name in str(error.value)
    assert not Path("harm").exists()
    with pytest.raises(ValueError, match="shape"):
        import_weights(_saved(state), {**CONFIG, "hidden_size": 8})
    with pytest.raises(ValueError, match="choose one of"):
        import_weights(_saved(state), CONFIG, head="vqa2")


def _saved(state):
    torch.save(state, "state.pt")
    return "state.pt"


def test_answers_are_counted_from_the_tensors(tmp_path):
    settings = {key: value for key, value in CONFIG.items() if key != "hidden_act"}
    export_weights(UniterForAnswers(UniterConfig(**settings, **SIZES, num_labels=7)), tmp_path / "vqa.pt")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = import_weights(tmp_path / "vqa.pt", tmp_path / "config.json").model
    assert model.config.num_labels == 7
    assert read_state(tmp_path / "vqa.pt")["vqa_output.3.weight"].shape[0] == 7
