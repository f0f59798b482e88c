"""Packed batches give what padded ones give: every head, its gradients, and whatever else is asked for."""

import copy

import numpy as np
import pytest
import torch

import padded_reference
from test_modeling import collate, rows, tiny
from uniter.dropout import dropout
from uniter.modeling_uniter import (
    UniterForAnswers,
    UniterForChoice,
    UniterForGrounding,
    UniterForMatching,
    UniterForPairs,
    UniterForPreTraining,
    UniterModel,
)
from uniter.objectives import MaskedWords, Masking, Matching, RegionClasses, RegionClassesKL, RegionFeatures
from uniter.packing import FLAT, Packing, attend_padded, attend_spans, flat, padded, select_rows
from uniter.processing_uniter import SPECIAL_PIECES, Vocabulary

WORDS = Vocabulary((*SPECIAL_PIECES, *(f"w{i}" for i in range(45))))
SIZES = ([9, 4, 6, 4, 7, 3], [3, 8, 5, 8, 2, 1])  # two of one length, and of one length by other shares


def packed_batch(sizes=SIZES):
    batch = collate(rows(*sizes), text_pad=2, region_pad=3)
    return {key: flat(value, batch["region_mask"]) if key in FLAT else value for key, value in batch.items()}


def made(kind, **settings):
    torch.manual_seed(0)
    return kind(tiny(initializer_range=0.3, type_vocab_size=3, **settings)).eval()


def masked(batch, share=0.3):
    generator = torch.Generator().manual_seed(5)
    chosen = batch["region_mask"] & (torch.rand(batch["region_mask"].shape, generator=generator) < share)
    chosen[1] = False  # a row of which nothing is asked
    probs = torch.rand(int(batch["region_mask"].sum()), 7, generator=generator).softmax(1)
    return {**batch, "masked_regions": chosen, "class_probs": probs}


def hidden(batch, share=0.3):
    generator = torch.Generator().manual_seed(6)
    chosen = batch["text_mask"] & (torch.rand(batch["text_mask"].shape, generator=generator) < share)
    chosen[2] = False
    return {**batch, "labels": torch.where(chosen, batch["input_ids"], -1)}


def of_objective(objective):
    return lambda model, batch: objective.loss(model, batch).loss


def of_head(**more):
    return lambda model, batch: model(**batch, **more).loss


LOSSES = {
    "mlm": (UniterForPreTraining, {}, hidden, of_objective(MaskedWords(Masking(WORDS)))),
    "mrfr": (UniterForPreTraining, {}, masked, of_objective(RegionFeatures(Masking(WORDS)))),
    "mrc": (UniterForPreTraining, {}, masked, of_objective(RegionClasses(Masking(WORDS)))),
    "mrckl": (UniterForPreTraining, {}, masked, of_objective(RegionClassesKL(Masking(WORDS)))),
    "itm": (UniterForPreTraining, {}, lambda b: b | {"labels": torch.tensor([1, 0, 0, 1, 1, 0])}, of_objective(Matching())),
    "itm-alone": (
        UniterForPreTraining, {}, lambda b: b | {"labels": torch.tensor([1, 0, 0, 1, 1, 0])},
        of_objective(Matching(transport_weight=0)),
    ),
    "answers": (UniterForAnswers, {"num_labels": 3}, dict, of_head(labels=torch.rand(6, 3))),
    "grounding": (UniterForGrounding, {"grounding_layers": 2}, dict, of_head(labels=torch.tensor([2, 7, -1, 3, 0, 0]))),
    "matching": (UniterForMatching, {}, dict, of_head(labels=torch.tensor([-1, 0, 0, -1, 3, 3]), margin=2.0)),
    "choice": (UniterForChoice, {}, dict, of_head(labels=torch.tensor([0, 1, 0, 0, 1, 0]))),
    **{
        form: (UniterForPairs, {"pair_form": form}, dict, of_head(labels=torch.tensor([1, 0, 0, 1, 1, 0][:count])))
        for form, count in (("paired", 3), ("paired-attn", 3), ("triplet", 6))
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_those_of_padded_rows(name, monkeypatch):
    kind, settings, spoil, loss = LOSSES[name]
    model, batch = made(kind, **settings), spoil(packed_batch())
    other = copy.deepcopy(model)
    one = loss(model, batch)
    one.backward()
    monkeypatch.setattr(UniterModel, "forward", padded_reference.forward)
    two = loss(other, batch)
    two.backward()
    assert one.item() != 0
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    for (key, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        if ours.grad is None:
            assert theirs.grad is None or not theirs.grad.any(), key
        else:
            torch.testing.assert_close(
                ours.grad, theirs.grad, atol=1e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}"
            )


@torch.no_grad()
@pytest.mark.parametrize("sizes", [SIZES, ([5], [4]), ([4, 4], [3, 3])], ids=["mixed", "one", "alike"])
@pytest.mark.parametrize("sides", ["both", "text", "regions"])
def test_every_state_is_that_of_padded_rows(sizes, sides):
    model, batch = made(UniterModel), packed_batch(sizes)
    left_out = {"both": "-", "text": "region", "regions": "text"}[sides]
    batch = {
        key: value for key, value in batch.items()
        if left_out not in key and not (sides == "text" and key in FLAT) and not (sides == "regions" and key == "input_ids")
    }  # fmt: skip
    ours = model(**batch, output_hidden_states=True, output_attentions=True)
    theirs = padded_reference.forward(model, **batch)
    masks = [batch[key] for key in ("text_mask", "region_mask") if key in batch]
    real = torch.cat(masks, 1)
    torch.testing.assert_close(ours.pooled, theirs.pooled, atol=1e-5, rtol=0)
    assert (ours.text is None) == (sides == "regions") and (ours.regions is None) == (sides == "text")
    for one, two in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(one[real], two[real], atol=1e-5, rtol=0)
        assert not one[~real].any()
    for one, two in zip(ours.attentions, theirs.attentions, strict=True):
        both = (real[:, None, :, None] & real[:, None, None, :]).expand_as(one)
        torch.testing.assert_close(one[both], two[both], atol=1e-5, rtol=0)
        assert not one[~both].any()


@torch.no_grad()
def test_only_what_is_asked_for_is_given():
    model, batch = made(UniterModel), packed_batch()
    whole = model(**batch)
    first = model(**batch, pooled_only=True)
    assert first.text is None and first.regions is None
    torch.testing.assert_close(first.pooled, whole.pooled, atol=1e-5, rtol=0)
    asked = torch.zeros_like(batch["text_mask"])
    asked[0, [1, 3]] = asked[4, 0] = asked[2, 6] = True  # the last one is padding
    some = model(**batch, asked_text=asked)
    assert some.pooled is None and not some.regions.any()
    torch.testing.assert_close(some.text[asked], whole.text[asked], atol=1e-5, rtol=0)
    assert not some.text[~asked].any()
    both = model(**batch, asked_text=asked, asked_regions=batch["region_mask"])
    torch.testing.assert_close(both.regions, whole.regions, atol=1e-5, rtol=0)
    none = model(**batch, asked_text=torch.zeros_like(asked))
    assert not none.text.any()


@torch.no_grad()
def test_padded_regions_may_come_too():
    model, batch = made(UniterModel), packed_batch()
    wide = {key: padded(value, batch["region_mask"]) if key in FLAT else value for key, value in batch.items()}
    wide["regions"][~batch["region_mask"]] = 1e3
    one, two = model(**batch), model(**wide)
    assert torch.equal(one.pooled, two.pooled) and torch.equal(one.regions, two.regions)
    half = model(**{**batch, "regions": batch["regions"].half()})
    torch.testing.assert_close(half.pooled, one.pooled, atol=5e-3, rtol=0)


def test_wrong_batches_are_named():
    model, batch = made(UniterModel), packed_batch()
    with pytest.raises(ValueError, match="a region_mask of 27"):
        model(**{**batch, "regions": batch["regions"][:-1]})
    with pytest.raises(ValueError, match="no region_mask"):
        model(regions=batch["regions"], locations=batch["locations"])
    with pytest.raises(ValueError, match="row 1 of the batch has neither"):
        model(input_ids=torch.ones(2, 3, dtype=torch.long), text_mask=torch.tensor([[True] * 3, [False] * 3]))


@pytest.mark.parametrize("readers", ["all", "first", "some"])
def test_padding_with_a_mask_attends_the_same(readers):
    torch.manual_seed(0)
    batch = packed_batch()
    packing = Packing(batch["text_mask"], batch["region_mask"])
    asked = hidden(batch)["labels"] >= 0
    reading = {"all": packing.everyone, "first": packing.first, "some": packing.only(asked, None)}[readers]
    count = int(reading.lengths.sum())
    key, value = torch.randn(2, count, 4, 8).unbind()
    query = torch.randn(count, 4, 8)
    query = query if reading.readers is None else query[reading.readers]
    one, two = ([part.clone().requires_grad_() for part in (query, key, value)] for _ in range(2))
    ours, theirs = attend_spans(*one, reading, 0.0), attend_padded(*two, reading, 0.0)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    with torch.no_grad():  # by the fused kernel
        torch.testing.assert_close(attend_spans(query, key, value, reading, 0.0), theirs, atol=1e-5, rtol=0)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    for mine, other in zip(one, two, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=0)


def test_rows_of_a_batch():
    batch = {**packed_batch(), "labels": torch.arange(6)}
    chosen = select_rows(batch, torch.tensor([4, 0, 4]))
    assert chosen["labels"].tolist() == [4, 0, 4] and chosen["region_mask"].sum(1).tolist() == [2, 3, 2]
    whole = padded(batch["regions"], batch["region_mask"])[[4, 0, 4]]
    assert torch.equal(padded(chosen["regions"], chosen["region_mask"]), whole)
    assert torch.equal(select_rows(batch, torch.arange(6))["locations"], batch["locations"])


def test_dropout_is_a_function_of_the_seed():
    model, batch = made(UniterModel).train(), packed_batch()
    said = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        said.append(model(**batch).pooled)
    assert torch.equal(said[0], said[1]) and not torch.equal(said[0], said[2])
    assert not np.allclose(said[0].detach(), model.eval()(**batch).pooled.detach())


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    torch.manual_seed(0)
    states = torch.ones(101, 999, requires_grad=True)
    dropped = dropout(states, rate)
    zero = dropped == 0
    assert zero.float().mean().item() == pytest.approx(rate, abs=0.005)
    assert zero.float().mean(1).std().item() == pytest.approx((rate * (1 - rate) / 999) ** 0.5, rel=0.3)  # independent
    assert dropped.mean().item() == pytest.approx(1, abs=0.01) and len(dropped[~zero].unique()) == 1
    dropped.sum().backward()
    assert torch.equal(states.grad, dropped.detach())  # of ones
    assert torch.equal(dropout(states, 0.0), states) and not dropout(states, 1.0).any()


def test_bfloat16_training_keeps_bfloat16_states():
    model, batch = made(UniterModel).train(), packed_batch()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**batch)
    assert out.text.dtype == torch.bfloat16
    out.pooled.float().sum().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rounded = model.eval()(**batch).pooled
    torch.testing.assert_close(rounded.float(), model(**batch).pooled.detach(), atol=0.1, rtol=0)
