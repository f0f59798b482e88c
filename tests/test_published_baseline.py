"""The baseline that speed is measured against computes what the published code did: held to the golden set."""

import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from golden import GOLDEN, Case, needs_golden
from uniter.checkpoints import read_state

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.published.data import (
    ImageDatabase,
    MaskedWordExamples,
    TextDatabase,
    collate,
    mlm_batch,
    random_word,
    token_buckets,
    transport_inputs,
)
from benchmarks.published.model import Answers, Config, PreTraining, Rank
from benchmarks.published.optimizer import AdamW, clip, learning_rate, parameter_groups
from benchmarks.published.retrieval import image_batch, score_matrix
from benchmarks.published.transport import cosine_cost, transport_distance, transport_plan

pytestmark = needs_golden
FEATURES, CLASSES = 40, 17  # of the set, as its description says


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    """A copy: other tests may hold the set's own open, and LMDB opens a file once in a process."""
    return Path(shutil.copytree(GOLDEN / "db", tmp_path_factory.mktemp("golden") / "db"))


def load(kind, weights, **sizes):
    """The model with the original's weights, every tensor of them."""
    state = read_state(GOLDEN / "weights" / f"{weights}.pt")
    config = Config.of(json.loads((GOLDEN / "weights" / "config.json").read_text()))
    model = kind(config, feature_size=FEATURES, **sizes)
    model.load_state_dict(state, strict=True)
    return model.eval()


def pretraining():
    return load(PreTraining, "pretrain", classes=CLASSES)


def batch_of(name):
    """A case's batch as the original's collate made it."""
    found = {key: torch.from_numpy(value) for key, value in Case(name).batch.items()}
    nested = {key.removeprefix("ot_inputs/"): found.pop(key) for key in list(found) if key.startswith("ot_inputs/")}
    return {**found, "ot_inputs": nested} if nested else found


def rows(tensor, lengths):
    return [row[:length] for row, length in zip(tensor, lengths, strict=True)]


def lengths_of(case):
    return [t + b for t, b in zip(case.info["txt_lens"], case.info["num_bbs"], strict=True)]


# ---------------------------------------------------------------- model


@torch.no_grad()
def test_every_layer():
    case, model, batch = Case("encoder"), pretraining(), batch_of("encoder")
    layers = [("embedding_output", model.uniter.embed(batch))]
    layers += [(f"layer_{i}", states) for i, states in enumerate(model.uniter(batch), 1)]
    named = sorted({key.split("/")[1] for key in case.outputs if "/layer_" in key})
    assert len(named) == len(layers) - 1
    for (_, states), name in zip(layers, ["embedding_output", *named], strict=True):
        for i, row in enumerate(rows(states, lengths_of(case))):
            case.same(f"ex{i:02}/{name}", row)
    for i, row in enumerate(model.uniter.pooler(layers[-1][1])):
        case.same(f"ex{i:02}/pooled", row)
    words, things = case.info["txt_lens"], case.info["num_bbs"]
    text = {key: batch[key] for key in ("input_ids", "position_ids")}
    image = {key: batch[key] for key in ("img_feat", "img_pos_feat")}
    for name, part, lengths in (("text", text, words), ("image", image, things)):
        part["attn_masks"] = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
        for i, row in enumerate(rows(model.uniter(part)[-1], lengths)):
            case.same(f"ex{i:02}/{name}_only_last", row)
    assert case.compared == case.outputs.keys()


@torch.no_grad()
def test_masked_words():
    case, model, batch = Case("mlm"), pretraining(), batch_of("mlm")
    case.same("scores", model.words(batch))
    case.same("loss", model.mlm(batch))
    case.same("loss_mean", model.mlm(batch).mean())


@torch.no_grad()
def test_masked_regions():
    case, model, batch = Case("mrfr"), pretraining(), batch_of("mrfr")
    case.same("pred", model.features(batch))
    case.same("loss", model.mrfr(batch))
    case, batch = Case("mrc"), batch_of("mrc")
    case.same("scores", model.classes(batch))
    case.same("mrc_loss", model.mrc(batch))
    case.same("mrckl_loss", model.mrckl(batch))
    case.same("mrckl_loss_mean", model.mrckl(batch).mean())


@torch.no_grad()
def test_matching_and_its_transport():
    case, model, batch = Case("itm"), pretraining(), batch_of("itm")
    loss, distance = model.itm(batch)
    case.same("loss", loss)
    case.same("ot_dist", distance)
    case.same("total_loss_lambda0p1", model.itm_total(batch))
    plain = {key: value for key, value in batch.items() if key != "ot_inputs"}
    case.same("loss_without_ot", model.itm(plain)[0])


def test_transport_alone():
    case, batch = Case("ot_unit"), batch_of("ot_unit")
    text, regions = (batch[key].requires_grad_() for key in ("txt_emb", "img_emb"))
    pad = lambda lengths, width: torch.arange(width)[None] >= batch[lengths][:, None]
    text_pad, region_pad = pad("txt_lens", text.shape[1]), pad("img_lens", regions.shape[1])
    distance = transport_distance(text, regions, text_pad, region_pad)
    case.same("distance", distance)
    distance.sum().backward()
    case.same("grad_txt", text.grad)
    case.same("grad_img", regions.grad)
    for name, settings in (
        ("iter1", {"iterations": 1}),
        ("iter10", {"iterations": 10}),
        ("beta0p2", {"beta": 0.2}),
    ):
        case.same(f"distance_{name}", transport_distance(text, regions, text_pad, region_pad, **settings))
    joint = text_pad.unsqueeze(-1) | region_pad.unsqueeze(-2)
    plan = transport_plan(cosine_cost(text, regions).masked_fill(joint, 0), text_pad, region_pad, joint, 0.5, 50)
    for i, (words, things) in enumerate(zip(batch["txt_lens"], batch["img_lens"], strict=True)):
        case.same(f"ex{i:02}/plan", plan[i, :things, :words])


def test_answers():
    case, batch = Case("vqa"), batch_of("vqa")
    model = load(Answers, "vqa", answers=batch["targets"].shape[1])
    scores = model(batch)
    case.same("scores", scores)
    loss = F.binary_cross_entropy_with_logits(scores, batch["targets"], reduction="none")
    case.same("train_loss", loss.mean() * scores.shape[1])
    case.same_gradients("train_loss", model, loss.mean() * scores.shape[1])


def test_gradients_of_pretraining():
    case, model = Case("pretrain_grads"), pretraining()
    case.same_gradients("mlm", model, model.mlm(batch_of("mlm")).mean())
    case.same_gradients("mrfr", model, model.mrfr(batch_of("mrfr")).mean())
    case.same_gradients("mrckl", model, model.mrckl(batch_of("mrc")).mean())
    case.same_gradients("itm", model, model.itm(batch_of("itm"))[0].mean())


def test_training_steps():
    case, model = Case("train_steps"), pretraining()
    info = case.info
    losses = {
        "mlm": lambda: model.mlm(batch_of("mlm")).mean(),
        "mrfr": lambda: model.mrfr(batch_of("mrfr")).mean(),
        "mrc": lambda: model.mrc(batch_of("mrc")).mean(),
        "mrckl": lambda: model.mrckl(batch_of("mrc")).mean(),
        "itm": lambda: model.itm_total(batch_of("itm"), info["itm_ot_lambda"]),
    }
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = parameter_groups(model, info["weight_decay"])
    spared = {id(p) for p in groups[1]["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in spared} == set(info["no_decay"])
    optimizer = AdamW(groups, info["learning_rate"], tuple(info["betas"]), info["adam_eps"])
    found = {"loss": [], "lr": [], "grad_norm": []}
    for step, task in enumerate(info["tasks"], 1):
        loss = losses[task]()
        loss.backward()
        rate = learning_rate(step, info["learning_rate"], info["warmup_steps"], info["num_train_steps"])
        for group in optimizer.param_groups:
            group["lr"] = rate
        norm = clip(model.parameters(), info["grad_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for key, value in (("loss", loss), ("lr", rate), ("grad_norm", norm)):
            found[key].append(float(torch.as_tensor(value).detach()))
    for key, values in found.items():
        case.same(key, values)
    for name, parameter in model.named_parameters():
        if not name.endswith("key.bias"):  # rounding noise, which Adam blows up
            case.same(f"param_norm_after/{name}", parameter.norm())
            case.same(f"param_change_norm/{name}", (parameter - before[name]).norm())


# ---------------------------------------------------------------- databases and batches


@pytest.fixture(params=["", "_compressed"])
def images(request, databases):
    images_of = databases / "img" / "coco_train2014"
    folder = images_of / f"feat_th0.2_max12_min4{request.param}"
    found = ImageDatabase(folder, images_of / "nbb_th0.2_max12_min4.json", bool(request.param))
    yield found
    found.close()


@pytest.fixture
def texts(databases):
    longest = json.loads((GOLDEN / "expected_db" / "texts.json").read_text())["txt/itm_coco_train.db"]["max_txt_len"]
    found = TextDatabase(databases / "txt" / "itm_coco_train.db", longest)
    yield found
    found.close()


def test_images_are_read_as_by_the_original(images):
    with np.load(GOLDEN / "expected_db" / "images.npz") as expected:
        base = "coco_train2014_compressed" if images.compressed else "coco_train2014"
        names = {key.split("/")[1] for key in expected if key.startswith(f"{base}/")}
        assert names
        for name in names:
            features, places = images[name]
            np.testing.assert_array_equal(features, expected[f"{base}/{name}/features"])
            np.testing.assert_array_equal(places, expected[f"{base}/{name}/img_pos_feat"])


def test_a_batch_is_padded_as_by_the_original(images, texts):
    case, expected = Case("itm"), batch_of("itm")
    examples = []
    for name, image in zip(case.info["ids"], case.info["img_fnames"], strict=True):
        ids = texts.wrapped(texts[name]["input_ids"])
        features, places = images[image]
        examples.append((ids, features, places, torch.ones(len(ids) + len(features), dtype=torch.long)))
    batch = collate(examples)
    inputs = transport_inputs(case.info["txt_lens"], case.info["num_bbs"], batch["attn_masks"].shape[1])
    theirs = expected.pop("ot_inputs")
    expected.pop("targets")
    assert batch.keys() == expected.keys() and inputs.keys() == theirs.keys()
    for key, value in (expected | theirs).items():
        assert torch.equal((batch | inputs)[key].to(value.dtype), value), key


def test_words_are_masked(images, texts):
    dataset = MaskedWordExamples(texts, images)
    lens = json.loads((GOLDEN / "run_info.json").read_text())["lens_coco_tiny"]
    known = dict(zip(lens["ids"], lens["lens_caption_dataset"], strict=True))
    assert dataset.lengths == [known[name] for name in dataset.ids]
    random.seed(0)
    batch = mlm_batch(dataset, range(len(dataset.ids)))
    labels, ids = batch["txt_labels"], batch["input_ids"]
    assert ((labels != -1).sum(1) > 0).all()
    true = torch.where(labels == -1, ids, labels)
    for row, name in zip(true, dataset.ids, strict=True):
        whole = texts.wrapped(texts[name]["input_ids"])
        assert torch.equal(row[: len(whole)], whole)
    counts = {"masked": 0, "kept": 0, "other": 0}
    for _ in range(2000):
        pieces, labels = random_word([20] * 10, texts.range, texts.mask)
        for piece, label in zip(pieces, labels, strict=True):
            if label != -1:
                counts["masked" if piece == texts.mask else "kept" if piece == 20 else "other"] += 1
    total = sum(counts.values())
    assert 0.15 < total / 20_000 < 0.2 and 0.78 < counts["masked"] / total < 0.88 and counts["other"] > 0.05 * total


def test_the_running_maximum_is_never_reset():
    lengths = [100] + [10] * 95
    batches = list(token_buckets(lengths, 1600, order=range(96)))
    assert [len(batch) for batch in batches] == [16] * 5  # 160 would fit without the first one; the last 16 are dropped
    assert len(list(token_buckets(lengths, 1600, keep_last=True, order=range(96)))) == 6


def test_retrieval(images, texts):
    case, model = Case("itm_eval"), load(Rank, "itm_rank")
    scores = score_matrix(model, texts, images, case.info["txt_ids"], case.info["img_ids"], size=5)
    assert scores.dtype == np.float16
    np.testing.assert_allclose(scores, case.outputs["score_matrix"], rtol=2**-11, atol=1e-5)  # half of a last place
    batch = image_batch(images, case.info["img_ids"], texts.wrapped(texts[case.info["txt_ids"][0]]["input_ids"]))
    with torch.no_grad():
        np.testing.assert_allclose(model(batch).squeeze(1), case.outputs["score_matrix"][0], rtol=0, atol=1e-5)
