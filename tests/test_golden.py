"""Parity with the published code on its own inputs and outputs; sizes and names are read from the files of the set.

The set is the folder in $UNITER_GOLDEN (default: ../shared/golden beside the checkout).
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from uniter.checkpoints import export_weights, import_weights, read_state
from uniter.modeling_uniter import UniterForAnswers, UniterForGrounding, UniterForMatching, UniterForPreTraining
from uniter.objectives import Masking, Matching, RegionClasses, RegionClassesKL, RegionFeatures
from uniter.processing_uniter import REGION_TYPE, SPECIAL_PIECES, Encoded, UniterProcessor, Vocabulary

GOLDEN = Path(os.environ.get("UNITER_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden set at {GOLDEN} (set UNITER_GOLDEN)")
PROCESSOR = UniterProcessor(Vocabulary(tuple(SPECIAL_PIECES)))


def load(kind, weights, **settings):
    """The published code's weights through the door; the file must have every tensor of the model and no other."""
    config = json.loads((GOLDEN / "weights" / "config.json").read_text())
    found = import_weights(GOLDEN / "weights" / f"{weights}.pt", {**config, **settings})
    assert type(found.model) is kind and (found.new, found.unused) == ([], [])
    return found.model


def case(name):
    folder = GOLDEN / "cases" / name
    arrays = dict(np.load(folder / "examples.npz"))
    rows: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        row, field = key.split("/")
        rows.setdefault(row, {})[field] = value
    examples = [rows[row] for row in sorted(rows)]
    tolerances = json.loads((GOLDEN / "tolerances.json").read_text())[name]
    return examples, dict(np.load(folder / "out_f32.npz")), tolerances


def collate(examples, class_probs=None):
    batch = PROCESSOR.collate(
        [
            Encoded(
                input_ids=row["input_ids"],
                text_types=np.zeros(len(row["input_ids"]), dtype=np.int64),
                features=row["img_feat"],
                locations=row["img_pos_feat"],
                region_types=np.full(len(row["img_feat"]), REGION_TYPE),
                class_probs=row[class_probs] if class_probs else None,
            )
            for row in examples
        ]
    )
    if "img_mask" in examples[0]:
        masked = torch.zeros_like(batch["region_mask"])
        for i, row in enumerate(examples):
            masked[i, : len(row["img_mask"])] = torch.from_numpy(row["img_mask"].astype(bool))
        batch["masked_regions"] = masked
    return batch


def same(ours, name, outputs, tolerances):
    np.testing.assert_allclose(
        ours.detach().numpy(), outputs[name], rtol=0, atol=tolerances[name]["atol"], err_msg=name
    )


def test_weights_come_back_out_as_they_were(tmp_path):
    for weights in ("pretrain", "vqa", "ve", "itm_rank", "re_mlp1", "re_mlp2"):
        path = GOLDEN / "weights" / f"{weights}.pt"
        export_weights(import_weights(path, GOLDEN / "weights" / "config.json").model, tmp_path / path.name)
        theirs, ours = read_state(path), read_state(tmp_path / path.name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), weights


@torch.no_grad()
def test_encoder_layer_by_layer():
    examples, outputs, tolerances = case("encoder")
    model = load(UniterForPreTraining, "pretrain").uniter
    batch = collate(examples)
    together = model(**batch, output_hidden_states=True)
    only_text = model(input_ids=batch["input_ids"], text_mask=batch["text_mask"]).text
    keys = ("regions", "locations", "region_mask")
    only_regions = model(**{key: batch[key] for key in keys}).regions
    full_text = batch["input_ids"].shape[1]
    for i, row in enumerate(examples):
        t, r = len(row["input_ids"]), len(row["img_feat"])
        joint = [torch.cat([layer[i, :t], layer[i, full_text : full_text + r]]) for layer in together.hidden_states]
        same(joint[0], f"ex{i:02}/embedding_output", outputs, tolerances)
        for number, layer in enumerate(joint[1:]):
            same(layer, f"ex{i:02}/layer_{number}", outputs, tolerances)
        same(together.pooled[i], f"ex{i:02}/pooled", outputs, tolerances)
        same(only_text[i, :t], f"ex{i:02}/text_only_last", outputs, tolerances)
        same(only_regions[i, :r], f"ex{i:02}/image_only_last", outputs, tolerances)


@torch.no_grad()
def test_masked_words():
    examples, outputs, tolerances = case("mlm")
    model = load(UniterForPreTraining, "pretrain")
    asked = torch.zeros(len(examples), max(len(row["txt_labels"]) for row in examples), dtype=torch.bool)
    for i, row in enumerate(examples):
        asked[i, : len(row["txt_labels"])] = torch.from_numpy(row["txt_labels"] != -1)
    same(model.words(model(**collate(examples)).text[asked]), "scores", outputs, tolerances)


@torch.no_grad()
def test_masked_regions():
    model = load(UniterForPreTraining, "pretrain")
    masking = Masking(PROCESSOR.vocabulary)
    examples, outputs, tolerances = case("mrfr")
    same(RegionFeatures(masking).loss(model, collate(examples)).loss, "loss_mean", outputs, tolerances)
    examples, outputs, tolerances = case("mrc")
    batch = collate(examples, class_probs="soft_labels")
    same(RegionClasses(masking).loss(model, batch).loss, "mrc_loss_mean", outputs, tolerances)
    same(RegionClassesKL(masking).loss(model, batch).loss, "mrckl_loss_mean", outputs, tolerances)


@torch.no_grad()
def test_matching_with_alignment():
    examples, outputs, tolerances = case("itm")
    model = load(UniterForPreTraining, "pretrain")
    batch = {**collate(examples), "labels": torch.tensor([int(row["target"][0]) for row in examples])}
    same(model.match(model(**batch).pooled), "scores", outputs, tolerances)
    same(Matching(transport_weight=0.0).loss(model, batch).loss, "loss_mean", outputs, tolerances)
    measured = Matching(transport_weight=0.1).loss(model, batch)
    same(measured.loss, "total_loss_lambda0p1", outputs, tolerances)
    same(measured.numbers["transport"], "ot_loss", outputs, tolerances)


@pytest.mark.parametrize("name", ["vqa", "ve"])
@torch.no_grad()
def test_answers(name):
    examples, outputs, tolerances = case(name)
    target = torch.from_numpy(np.stack([row["target"] for row in examples]))
    model = load(UniterForAnswers, name)
    out = model(**collate(examples), labels=target)
    same(out.logits, "scores", outputs, tolerances)
    same(out.loss, "train_loss", outputs, tolerances)


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_grounding(layers):
    examples, outputs, tolerances = case(f"re_cls_mlp{layers}")
    model = load(UniterForGrounding, f"re_mlp{layers}")
    out = model(**collate(examples), labels=torch.tensor([int(row["target"][0]) for row in examples]))
    same(out.logits, "scores", outputs, tolerances)
    same(out.loss, "train_loss", outputs, tolerances)


@torch.no_grad()
def test_rank():
    examples, outputs, tolerances = case("itm_rank")
    model = load(UniterForMatching, "itm_rank")
    positives, rest = outputs["loss"].shape
    labels = torch.tensor([-1 if i % (rest + 1) == 0 else i - i % (rest + 1) for i in range(positives * (rest + 1))])
    out = model(**collate(examples), labels=labels)
    same(out.logits[:, None], "scores", outputs, tolerances)
    same(out.loss, "train_loss", outputs, tolerances)
