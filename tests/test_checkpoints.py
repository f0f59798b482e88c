import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from golden import GOLDEN, needs_golden
from uniter import cli
from uniter.checkpoints import HEADS, export_weights, import_weights, load_saved, official_state, pieces_for, read_state
from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import (
    UniterForAnswers,
    UniterForGrounding,
    UniterForMatching,
    UniterForPreTraining,
    UniterModel,
    UniterPreTrainedModel,
)
from uniter.processing_uniter import PERSONS, SPECIAL_PIECES, UniterProcessor

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


# ---------------------------------------------------------------- layouts of relatives


def batch():
    torch.manual_seed(1)
    return {"input_ids": torch.tensor([[1, 5, 7, 2], [1, 9, 2, 0]]), "text_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
            "regions": torch.randn(2, 3, 6), "locations": torch.rand(2, 3, 7)}  # fmt: skip


@torch.no_grad()
def same_function(ours, theirs):
    """Equal to the bit in every head of pre-training, or in the trunk alone."""
    ours, theirs = ours.eval(), theirs.eval()
    a, b = ours(**batch()), theirs(**batch())
    assert torch.equal(a.text, b.text) and torch.equal(a.regions, b.regions) and torch.equal(a.pooled, b.pooled)
    if isinstance(ours, UniterForPreTraining):
        assert torch.equal(ours.words(a.text[0]), theirs.words(b.text[0]))
        assert torch.equal(ours.features(a.regions[0]), theirs.features(b.regions[0]))
        assert torch.equal(ours.classes(a.regions[0]), theirs.classes(b.regions[0]))
        assert torch.equal(ours.match(a.pooled), theirs.match(b.pooled))
    return a


def mmf(state, tasks=("mlm", "itm", "mrc", "mrfr")):
    """Our official names -> MMF's, by the facts of that layout, in the other direction than the code under test."""
    out = {"uniter.uniter.text_embeddings.position_ids": torch.arange(20)[None]}
    for key, value in state.items():
        if key.startswith("uniter."):
            key = key.replace("uniter.embeddings.", "uniter.text_embeddings.")
            out["uniter." + key.replace("img_embeddings.LayerNorm", "img_embeddings.final_layer_norm")] = value
            if "pooler" in key and "itm" in tasks:
                out["uniter.heads.itm." + key.removeprefix("uniter.")] = value
            continue
        task = {"cls": "mlm", "itm_output": "itm", "region_classifier": "mrc", "feat_regress": "mrfr"}[
            key.split(".")[0]
        ]
        name = key.replace("itm_output.", "cls.seq_relationship.").replace(".net.", ".")
        name = {"feat_regress.weight": "linear_proj_weight", "feat_regress.bias": "linear_proj_bias"}.get(name, name)
        if task in tasks:
            out[f"uniter.heads.{task}.{name}"] = value
    if "mlm" in tasks:
        out["uniter.heads.mlm.cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    return out


@pytest.mark.parametrize("outer", [True, False])
def test_mmf_pretraining(pretrained, tmp_path, outer):
    state = mmf(official_state(pretrained))
    if not outer:
        state = {key.removeprefix("uniter."): value for key, value in state.items()}
    torch.save({"model": state, "best_update": 3}, tmp_path / "mmf.ckpt")
    found = import_weights(tmp_path / "mmf.ckpt", CONFIG)
    assert type(found.model) is UniterForPreTraining and found.layout == "MMF" and not found.new
    same_function(found.model, pretrained)
    export_weights(found.model, tmp_path / "back.pt")
    again, ours = read_state(tmp_path / "back.pt"), official_state(pretrained)
    assert again.keys() == ours.keys() and all(torch.equal(again[key], ours[key]) for key in ours)


def test_mmf_matching_brings_its_own_pooler(pretrained, tmp_path):
    state = mmf(official_state(pretrained), ("itm",))
    for key in ("weight", "bias"):  # never trained there: no head reads it
        state[f"uniter.uniter.pooler.dense.{key}"] = torch.randn_like(state[f"uniter.uniter.pooler.dense.{key}"])
    torch.save(state, tmp_path / "mmf.pth")
    found = import_weights(tmp_path / "mmf.pth", {**CONFIG, "num_region_classes": 5}, head="matching")
    assert torch.equal(found.model.uniter.pooler.dense.weight, pretrained.uniter.pooler.dense.weight)
    assert torch.equal(found.model.rank_output.weight[0], pretrained.itm_output.weight[1])
    assert any("itm head" in note for note in found.notes)
    assert "uniter.uniter.pooler.dense.weight" in found.unused
    for key in ("weight", "bias"):
        del state[f"uniter.uniter.pooler.dense.{key}"]
    torch.save(state, tmp_path / "alone.pth")
    assert import_weights(tmp_path / "alone.pth", CONFIG, head="trunk").model.pooler.dense.weight.equal(
        pretrained.uniter.pooler.dense.weight
    )


def test_mmf_classifier_is_left_out_and_said(pretrained, tmp_path):
    state = mmf(official_state(pretrained), ())
    parts = {"pooler.dense.weight": (16, 16), "classifier.1.dense.weight": (16, 16), "classifier.1.LayerNorm.weight": (16,),
             "classifier.2.weight": (9, 16)}  # fmt: skip
    state |= {f"uniter.heads.vqa2.{part}": torch.ones(shape) for part, shape in parts.items()}
    torch.save({"model": state}, tmp_path / "vqa.pth")
    found = import_weights(tmp_path / "vqa.pth", CONFIG)
    assert type(found.model) is UniterModel and not found.new
    same_function(found.model, pretrained.uniter)
    assert found.unused == sorted(f"uniter.heads.vqa2.{part}" for part in parts)
    assert "classifier of vqa2 was left out" in str(found)
    with pytest.raises(ValueError, match="no head for answers"):
        import_weights(tmp_path / "vqa.pth", CONFIG, head="answers")


def lightningdot(state, before="", heads=True):
    text = {
        key: torch.ones(16) for key in ("txt_model.bert.embeddings.LayerNorm.weight", "txt_model.encode_proj.0.bias")
    }
    out = {key: value for key, value in state.items() if not key.startswith("uniter.") and heads}
    out |= {
        before + "img_model.bert." + key.removeprefix("uniter."): v
        for key, v in state.items()
        if key.startswith("uniter.")
    }
    out |= {before + key: value for key, value in text.items()}
    return {**out, before + "img_model.encode_proj.0.bias": torch.ones(32)}


def test_lightningdot_image_tower(pretrained, tmp_path):
    state = official_state(pretrained)
    torch.save({"model_dict": lightningdot(state, heads=False), "optimizer_dict": {}, "epoch": 3}, tmp_path / "dot.pt")
    found = import_weights(tmp_path / "dot.pt", CONFIG)
    assert type(found.model) is UniterModel and found.layout == "LightningDOT" and not found.new
    same_function(found.model, pretrained.uniter)
    assert found.unused == ["img_model.encode_proj.0.bias", "txt_model.bert.embeddings.LayerNorm.weight", "txt_model.encode_proj.0.bias"]  # fmt: skip


def test_lightningdot_pretraining(pretrained, tmp_path):
    state = lightningdot(official_state(pretrained), before="bert.")
    torch.save(state, tmp_path / "whole.pt")
    found = import_weights(tmp_path / "whole.pt", CONFIG)
    assert type(found.model) is UniterForPreTraining and not found.new
    same_function(found.model, pretrained)
    # The word head is tied to the text tower's words, which differ once trained.
    torch.save({**state, "cls.predictions.decoder.weight": torch.ones(30, 16)}, tmp_path / "text.pt")
    found = import_weights(tmp_path / "text.pt", CONFIG)
    assert type(found.model) is UniterModel and "word head was left out" in str(found)
    found = import_weights(tmp_path / "text.pt", CONFIG, head="pretraining")
    assert found.new and all(key.startswith("cls.") for key in found.new)
    assert torch.equal(found.model.itm_output.weight, pretrained.itm_output.weight)


def test_villa_by_its_names(pretrained, tmp_path):
    villa = {re.sub("^uniter", "bert", key): value for key, value in official_state(pretrained).items()}
    torch.save(villa, tmp_path / "villa.pt", _use_new_zipfile_serialization=False)  # as old as the published ones
    found = import_weights(tmp_path / "villa.pt", CONFIG)
    assert found.layout == "VILLA"
    same_function(found.model, pretrained)


# ---------------------------------------------------------------- BERT


def bert(state, prefix="bert."):
    text = {key: value for key, value in state.items() if key.startswith(("uniter.", "cls.")) and "img" not in key}
    out = {key.replace("uniter.", prefix): value for key, value in text.items()}
    return {**out, f"{prefix}embeddings.position_ids": torch.arange(20)[None]}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_bert_of_the_hub(pretrained, tmp_path, name):
    state = bert(official_state(pretrained))
    state["cls.predictions.decoder.bias"] = state.pop("cls.predictions.bias")
    state["cls.seq_relationship.weight"] = torch.ones(2, 16)
    if name.endswith("bin"):
        torch.save(state, tmp_path / name)
    else:
        save_file({key: value.clone() for key, value in state.items()}, tmp_path / name)
    (tmp_path / "config.json").write_text(
        json.dumps({**CONFIG, **SIZES, "model_type": "bert", "layer_norm_eps": 1e-12})
    )
    found = import_weights(tmp_path, head="pretraining", seed=3)
    assert found.layout == "BERT" and found.unused == ["cls.seq_relationship.weight"]
    assert torch.equal(found.model.cls.predictions.bias, pretrained.cls.predictions.bias)
    assert "image side" in str(found) and "seed 3" in str(found) and str(tmp_path / name) in str(found)
    image = [import_weights(tmp_path, head="pretraining", seed=seed).model.uniter.img_embeddings.img_linear.weight for seed in (3, 3, 4)]  # fmt: skip
    assert torch.equal(image[0], image[1]) and not torch.equal(image[0], image[2])
    text = {"input_ids": batch()["input_ids"], "text_mask": batch()["text_mask"]}
    assert torch.equal(found.model(**text).text, pretrained.eval()(**text).text)


def test_bert_without_prefix_or_heads(pretrained, tmp_path):
    state = {key: value for key, value in bert(official_state(pretrained), "").items() if not key.startswith("cls.")}
    torch.save(state, tmp_path / "bert.bin")
    trunk = import_weights(tmp_path / "bert.bin", {**CONFIG, **SIZES}, head="trunk")
    assert torch.equal(
        trunk.model.embeddings.word_embeddings.weight, pretrained.uniter.embeddings.word_embeddings.weight
    )
    assert trunk.new and all("img_embeddings" in key for key in trunk.new)
    found = import_weights(tmp_path / "bert.bin", {**CONFIG, **SIZES}, head="pretraining")
    assert torch.equal(found.model.uniter.pooler.dense.weight, pretrained.uniter.pooler.dense.weight)
    for head in ("answers", "matching"):
        with pytest.raises(ValueError, match=f"no head for {head}"):
            import_weights(tmp_path / "bert.bin", {**CONFIG, **SIZES}, head=head)


def test_drawing_leaves_the_callers_random_numbers_alone(pretrained, tmp_path):
    torch.save(bert(official_state(pretrained)), tmp_path / "bert.bin")
    torch.manual_seed(5)
    import_weights(tmp_path / "bert.bin", {**CONFIG, **SIZES}, head="pretraining")
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


# ---------------------------------------------------------------- every head


def test_every_head_out_and_in(tmp_path):
    settings = {key: value for key, value in CONFIG.items() if key != "hidden_act"}
    for name, (_, kind) in HEADS.items():
        torch.manual_seed(0)
        model = kind(UniterConfig(**settings, **SIZES, num_labels=2))
        for path in (tmp_path / f"{name}.pt", tmp_path / f"{name}.safetensors"):
            export_weights(model, path)
            found = import_weights(path, CONFIG | {"num_region_classes": 5})
            assert type(found.model) is kind and (found.new, found.unused) == ([], []), name
            ours, theirs = model.state_dict(), found.model.state_dict()
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name
    model = UniterForGrounding(UniterConfig(**settings, **SIZES, grounding_layers=2))
    export_weights(model, tmp_path / "deep.pt")
    assert import_weights(tmp_path / "deep.pt", CONFIG).model.config.grounding_layers == 2


def test_half_precision_out(pretrained, tmp_path):
    export_weights(pretrained, tmp_path / "whole.pt")
    for name in ("half.pt", "half.safetensors"):
        export_weights(pretrained, tmp_path / name, half=True)
        assert read_state(tmp_path / name)["itm_output.weight"].dtype == torch.float16
        model = import_weights(tmp_path / name, CONFIG).model
        assert torch.equal(model.itm_output.weight, pretrained.itm_output.weight.half().float())
    saved = torch.load(tmp_path / "half.pt", weights_only=True)  # a tied tensor twice by name, once in the file
    twins = ("cls.predictions.decoder.weight", "uniter.embeddings.word_embeddings.weight")
    assert len({saved[name].data_ptr() for name in twins}) == 1


class Pairs(UniterPreTrainedModel):
    """A head that this file does not know of."""

    def __init__(self, config):
        super().__init__(config)
        self.uniter = UniterModel(config)
        self.some_output = nn.Linear(config.hidden_size, 2)
        self.post_init()


def test_a_head_that_is_added_works(pretrained, tmp_path, monkeypatch):
    monkeypatch.setitem(HEADS, "some", ("some_output.weight", Pairs))
    model = Pairs(pretrained.config)
    export_weights(model, tmp_path / "some.pt")
    found = import_weights(tmp_path / "some.pt", CONFIG)
    assert type(found.model) is Pairs and torch.equal(found.model.some_output.weight, model.some_output.weight)
    found.model.save_pretrained(tmp_path / "saved")
    assert type(load_saved(tmp_path / "saved")) is Pairs
    export_weights(pretrained, tmp_path / "pretrained.pt")
    with pytest.raises(ValueError, match="no head for some, only pretraining"):
        import_weights(tmp_path / "pretrained.pt", CONFIG, head="some")


def test_ties_hold_after_loading(pretrained, tmp_path):
    export_weights(pretrained, tmp_path / "a.pt")
    model = import_weights(tmp_path / "a.pt", CONFIG).model
    states = torch.ones(1, 16)
    before = model.words(states), model.features(states)
    with torch.no_grad():
        model.uniter.embeddings.word_embeddings.weight[3] += 1
        model.uniter.img_embeddings.img_linear.weight += 1
    assert not torch.equal(model.words(states)[0, 3], before[0][0, 3])
    assert not torch.equal(model.features(states), before[1])
    twice = official_state(model)
    assert torch.equal(twice["cls.predictions.decoder.weight"], model.uniter.embeddings.word_embeddings.weight)
    assert torch.equal(twice["feat_regress.weight"], model.uniter.img_embeddings.img_linear.weight)


# ---------------------------------------------------------------- run directories


@pytest.fixture
def run_directory(pretrained, tmp_path):
    folder = tmp_path / "run"
    (folder / "log").mkdir(parents=True)
    (folder / "log" / "model.json").write_text(json.dumps(CONFIG))
    (folder / "log" / "hps.json").write_text(json.dumps({"dropout": 0.3, "mlp": 1}))
    for number in (500, 1000, 20):
        with torch.no_grad():
            pretrained.itm_output.bias.fill_(number)
        export_weights(pretrained, folder / "ckpt" / f"model_step_{number}.pt")
    return folder


def test_run_directory(pretrained, run_directory):
    found = import_weights(run_directory)
    assert found.model.itm_output.bias[0] == 1000 and "model_step_1000.pt was read" in str(found)
    assert (found.model.config.hidden_dropout_prob, found.model.config.attention_probs_dropout_prob) == (0.3, 0.3)
    assert import_weights(run_directory / "ckpt" / "model_step_500.pt").model.itm_output.bias[0] == 500
    export_weights(pretrained, run_directory / "ckpt" / "model_epoch_best.pt")
    assert import_weights(run_directory).model.itm_output.bias[0] == 20


def test_no_config_or_no_checkpoint(pretrained, tmp_path):
    export_weights(pretrained, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="--config"):
        import_weights(tmp_path / "a.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder without a checkpoint"):
        import_weights(tmp_path / "empty", CONFIG)
    with pytest.raises(ValueError, match="a folder, give a file"):
        read_state(tmp_path / "empty")


# ---------------------------------------------------------------- bad files and configs


@pytest.mark.parametrize("old", [False, True])
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, old):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Malicious()}, "torch.pt", _use_new_zipfile_serialization=not old)
    Path("bare.pt").write_bytes(pickle.dumps({"w": Malicious()}, protocol=2))
    for name in ("torch.pt", "bare.pt"):
        with pytest.raises(ValueError, match=rf"{name}.*mkdir.*run code"):
            import_weights(name, CONFIG)
    assert not Path("harm").exists()


@pytest.mark.parametrize("name", ["new.pt", "old.pt", "a.safetensors"])
def test_truncated_files(pretrained, tmp_path, name):
    state = official_state(pretrained)
    if name == "a.safetensors":
        export_weights(pretrained, tmp_path / name)
    else:
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=name == "new.pt")
    whole = (tmp_path / name).read_bytes()
    for part in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:part])
        with pytest.raises(ValueError, match=r"not opened|no tensors") as error:
            import_weights(tmp_path / name, CONFIG)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_numbers_that_are_not_finite(pretrained, tmp_path):
    state = official_state(pretrained)
    for number in (float("nan"), float("inf")):
        spoiled = state["itm_output.weight"].clone()
        spoiled[1, 3] = number
        torch.save({**state, "itm_output.weight": spoiled}, tmp_path / "nan.pt")
        with pytest.raises(ValueError, match=r"nan\.pt: 1 tensors .* not finite: itm_output\.weight"):
            import_weights(tmp_path / "nan.pt", CONFIG)


def test_trunk_with_gaps(pretrained, tmp_path):
    gone = [f"uniter.encoder.layer.0.output.dense.{part}" for part in ("weight", "bias")]
    torch.save(
        {key: value for key, value in official_state(pretrained).items() if key not in gone}, tmp_path / "gaps.pt"
    )
    for allowed in (0, 1):
        with pytest.raises(ValueError, match="2 tensors of the trunk") as error:
            import_weights(tmp_path / "gaps.pt", CONFIG, missing=allowed)
        assert all(key in str(error.value) for key in gone)
    assert set(import_weights(tmp_path / "gaps.pt", CONFIG, missing=2).new) == set(gone)
    trunk = import_weights(tmp_path / "gaps.pt", CONFIG, head="trunk", missing=2)
    assert set(trunk.new) == set(gone)


def test_names_that_clash(pretrained, tmp_path):
    state = official_state(pretrained)
    torch.save({**state, "bert.pooler.dense.bias": torch.ones(16)}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"two\.pt: two tensors stand for uniter\.pooler\.dense\.bias"):
        import_weights(tmp_path / "two.pt", CONFIG)


def test_configs_that_do_not_fit(pretrained, tmp_path):
    export_weights(pretrained, tmp_path / "a.pt")
    path = tmp_path / "config.json"
    for settings, message in [
        ({"num_hidden_layers": 1}, "16 tensors of its trunk have no place.*num_hidden_layers"),
        ({"num_hidden_layers": 3}, "16 tensors of the trunk are not in it: uniter.encoder.layer.2"),
        ({"intermediate_size": 32}, "another shape"),
        ({"hidden_size": "16"}, "hidden_size: should be int"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
    ]:
        path.write_text(json.dumps({**CONFIG, **settings}))
        with pytest.raises(ValueError, match=message):
            import_weights(tmp_path / "a.pt", path)
    for text in ("{", "[1]"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            import_weights(tmp_path / "a.pt", path)
    with pytest.raises(ValueError, match="no such file"):
        import_weights(tmp_path / "a.pt", tmp_path / "nowhere.json")


# ---------------------------------------------------------------- vocabulary


def test_vocabulary_of_another_size():
    cased, uncased = ["x"] * 28996, ["x"] * 30522
    assert pieces_for(28996, cased, "v", "m") == tuple(cased)
    assert pieces_for(29077, cased, "v", "m")[28996:] == PERSONS and len(PERSONS) == 81
    for words, pieces, message in [
        (28996, uncased, "v.txt has 30522 pieces (bert-base-uncased), the word table of m.pt 28996 pieces (bert-base-cased): give the vocab.txt of bert-base-cased"),
        (30522, cased, "v.txt has 28996 pieces (bert-base-cased), the word table of m.pt 30522 pieces (bert-base-uncased): give the vocab.txt of bert-base-uncased"),
        (29077, uncased, "of VCR): give the vocab.txt of bert-base-cased"),
        (30, cased, "the word table of m.pt 30 pieces: give the vocab.txt of the model"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(message)):
            pieces_for(words, pieces, "v.txt", "m.pt")


# ---------------------------------------------------------------- command line


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["uniter", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return (stop.value.code or 0, *capsys.readouterr())


def test_command_line_there_and_back(pretrained, run_directory, tmp_path, monkeypatch, capsys):
    pieces = [*SPECIAL_PIECES, *(chr(ord("a") + i) for i in range(25))]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    out = tmp_path / "model"
    status, said, _ = command(
        monkeypatch, capsys, "import-weights", run_directory, "--out", out, "--vocabulary", tmp_path / "vocab.txt"
    )
    assert (
        status == 0
        and "UniterForPreTraining" in said
        and "new: none" in said
        and "30 pieces, read in lower case" in said
    )
    assert UniterProcessor.from_pretrained(out).pieces("B") == [pieces.index("b")]
    assert command(monkeypatch, capsys, "export-weights", out, "--out", tmp_path / "back.pt")[0] == 0
    theirs, ours = read_state(run_directory / "ckpt" / "model_step_1000.pt"), read_state(tmp_path / "back.pt")
    assert theirs.keys() == ours.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert command(monkeypatch, capsys, "export-weights", out, "--out", tmp_path / "half.pt", "--half")[0] == 0


def test_command_line_refuses_and_writes_nothing(run_directory, tmp_path, monkeypatch, capsys):
    (tmp_path / "short.txt").write_text("\n".join(SPECIAL_PIECES) + "\n")
    (tmp_path / "answers.json").write_text('{"yes": 1, "no": 0}')
    for arguments, message in [
        (["--vocabulary", tmp_path / "short.txt"], "short.txt has 5 pieces"),
        (["--vocabulary", tmp_path / "gone.txt"], "there is no"),
        (["--head", "answers"], "no head for answers"),
        (["--config", tmp_path / "short.txt"], "not JSON"),
        (["--answers", tmp_path / "answers.json"], "names 2 answers, the model has no head for answers"),
    ]:
        status, said, complaint = command(
            monkeypatch, capsys, "import-weights", run_directory, "--out", tmp_path / "model", *arguments
        )
        assert status == 2 and not said and message in complaint and complaint.count("\n") == 1
        assert not (tmp_path / "model").exists()


@needs_golden
def test_answers_are_named_on_the_way_in(tmp_path, monkeypatch, capsys):
    weights = GOLDEN / "weights"
    number = len(read_state(weights / "vqa.pt")["vqa_output.3.bias"])
    (tmp_path / "answers.json").write_text(json.dumps({f"answer {i}": i for i in reversed(range(number))}))
    asked = ["import-weights", weights / "vqa.pt", "--config", weights / "config.json", "--out", tmp_path / "model"]
    assert command(monkeypatch, capsys, *asked, "--answers", tmp_path / "answers.json")[0] == 0
    assert load_saved(tmp_path / "model").config.id2label[number - 1] == f"answer {number - 1}"


def test_help_names_every_head():
    said = CliRunner().invoke(cli.app, ["import-weights", "--help"]).output
    assert all(name in said for name in HEADS)


# ---------------------------------------------------------------- the published code's own files


@needs_golden
@pytest.mark.parametrize("path", sorted((GOLDEN / "weights").glob("*.pt")), ids=lambda path: path.stem)
def test_published_files_there_and_back(path, tmp_path):
    config, theirs = GOLDEN / "weights" / "config.json", read_state(path)
    trunk = import_weights(path, config, head="trunk")
    assert not trunk.new and not any(key.startswith("uniter.") for key in trunk.unused)
    assert trunk.model.config.type_vocab_size == len(theirs["uniter.embeddings.token_type_embeddings.weight"])
    if not any(marker in key for key in theirs for name, (marker, _) in HEADS.items() if name != "trunk"):
        with pytest.raises(ValueError, match="head this version does not have"):
            import_weights(path, config)
        return
    found = import_weights(path, config)
    assert (found.new, found.unused, found.layout) == ([], [], "UNITER")
    export_weights(found.model, tmp_path / "back.pt")
    ours = read_state(tmp_path / "back.pt")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
