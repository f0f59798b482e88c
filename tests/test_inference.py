"""A prepared model says what its model says, as far as its precision goes."""

import copy

import pytest
import torch

from test_modeling import tiny
from test_packing import hidden, made, packed_batch
from uniter.inference import prepare
from uniter.modeling_uniter import UniterForAnswers, UniterForPreTraining, UniterModel

FINE = {"float32": 1e-6, "bfloat16": 0.04, "int8": 0.06}  # of the states' length
here = torch.backends.quantized.supported_engines
precisions = [name for name in FINE if name != "int8" or "onednn" in here]


@torch.no_grad()
@pytest.mark.parametrize("precision", precisions)
def test_the_same_within_its_precision(precision):
    model, batch = made(UniterForPreTraining), hidden(packed_batch())
    before = copy.deepcopy(model.state_dict())
    ready = prepare(model, precision)
    assert ready.cls.predictions.bias is model.cls.predictions.bias  # shared
    for more in ({}, {"pooled_only": True}, {"asked_text": batch["labels"] >= 0}):
        ours, theirs = ready(**batch, **more), model(**batch, **more)
        for name in ("text", "regions", "pooled"):
            one, two = getattr(ours, name), getattr(theirs, name)
            assert (one is None) == (two is None)
            if one is not None:
                assert one.dtype == torch.float32
                assert (one - two).norm() <= FINE[precision] * two.norm(), (name, more)
                assert precision == "float32" or not two.any() or not torch.equal(one, two)
    kept = ready(**batch, output_hidden_states=True).hidden_states
    assert len(kept) == 3 and torch.equal(kept[-1][:, : batch["input_ids"].shape[1]], ready(**batch).text)
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)
    assert ready(**batch).pooled.requires_grad is False and not ready.training


def test_what_cannot_be_prepared_is_named():
    model = made(UniterModel)
    with pytest.raises(ValueError, match="no attention weights"), torch.no_grad():
        prepare(model, "bfloat16")(**packed_batch(), output_attentions=True)
    with pytest.raises(ValueError, match="cannot be saved"):
        prepare(model, "bfloat16").state_dict()
    part = model.encoder.layer[0].attention.self
    part.query = torch.nn.Sequential(part.query)
    with pytest.raises(ValueError, match="kind Sequential"):
        prepare(model, "bfloat16")


@torch.no_grad()
def test_by_itself_it_takes_what_is_quick_here():
    torch.manual_seed(0)
    model, batch = UniterForAnswers(tiny(num_labels=3)).eval(), packed_batch()
    quick = torch.cpu._is_amx_tile_supported()
    torch.testing.assert_close(
        prepare(model)(**batch).logits, prepare(model, "bfloat16" if quick else "float32")(**batch).logits
    )
