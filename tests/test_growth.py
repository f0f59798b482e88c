"""More segment types and words for a trained model: what was there stays, ties hold, draws are pure."""

import copy
import json

import numpy as np
import pytest
import torch

from fixtures import tiny_config
from golden import GOLDEN, needs_golden
from uniter.checkpoints import import_weights, official_state
from uniter.growth import grow
from uniter.modeling_uniter import UniterForAnswers, UniterForPreTraining, UniterModel
from uniter.processing_uniter import PERSONS, SPECIAL_PIECES, UniterProcessor, Vocabulary
from uniter.recipe import ModelSettings
from uniter.run import make_model


def made(kind=UniterForPreTraining, **settings):
    torch.manual_seed(0)
    return kind(tiny_config(**settings)).eval()


def pair():
    torch.manual_seed(1)
    return {
        "input_ids": torch.tensor([[2, 7, 9, 3]]),
        "regions": torch.randn(1, 3, 12),
        "locations": torch.rand(1, 3, 7),
    }


@pytest.mark.parametrize(("types", "sources"), [(3, (0, 1, 1)), (4, (0, 1, 0, 0))])
@pytest.mark.parametrize("kind", [UniterModel, UniterForAnswers, UniterForPreTraining])
@torch.no_grad()
def test_types_are_copies(kind, types, sources):
    model = made(kind)
    trunk = model if kind is UniterModel else model.uniter
    old, before = trunk.embeddings.token_type_embeddings.weight.clone(), trunk(**pair())
    grow(model, types=types)
    new = trunk.embeddings.token_type_embeddings.weight
    assert (
        torch.equal(new, old[list(sources)]) and model.config.type_vocab_size == trunk.config.type_vocab_size == types
    )
    assert torch.equal(trunk(**pair()).regions, before.regions)
    texts = torch.tensor([[0 if source == 0 else 1 for source in sources]])[:, [-1] * 4]
    others = torch.full((1, 4), types - 1)
    assert torch.equal(trunk(**pair(), text_types=others).text, trunk(**pair(), text_types=texts).text)
    new[2] += 1  # rows of their own
    assert not torch.equal(new[2], new[sources[2]])


@torch.no_grad()
def test_words_are_drawn_and_the_word_head_stays_tied():
    model = made(initializer_range=0.02)
    have = model.config.vocab_size
    before, state = model(**pair()), copy.deepcopy(model.state_dict())
    scores = model.words(before.text[0])
    grow(model, words=have + len(PERSONS), seed=4)
    table = model.uniter.embeddings.word_embeddings
    assert table.weight.shape[0] == table.num_embeddings == model.config.vocab_size == have + 81
    assert torch.equal(table.weight[:have], state["uniter.embeddings.word_embeddings.weight"])
    assert 0.018 < float(table.weight[have:].std()) < 0.022 and abs(float(table.weight[have:].mean())) < 0.002
    after = model(**pair())
    assert torch.equal(after.text, before.text)
    assert torch.allclose(model.words(after.text[0])[:, :have], scores, atol=1e-6)
    bias = model.cls.predictions.bias
    assert torch.equal(bias[:have], state["cls.predictions.bias"]) and not bias[have:].any()
    kept = "cls.predictions.transform.dense.weight"
    assert torch.equal(model.state_dict()[kept], state[kept])
    table.weight[-1] += 1
    assert not torch.equal(model.words(after.text[0])[:, -1], model.words(before.text[0])[:, -2])
    official = official_state(model)
    assert torch.equal(official["cls.predictions.decoder.weight"], table.weight)


def test_new_words_learn():
    model = made()
    have = model.config.vocab_size
    grow(model, types=4, words=have + 5)
    inputs = {**pair(), "input_ids": torch.tensor([[2, have + 1, 9, 3]]), "text_types": torch.tensor([[0, 2, 3, 0]])}
    model.words(model(**inputs).text[0]).square().sum().backward()
    gradient = model.uniter.embeddings.word_embeddings.weight.grad
    assert gradient.shape[0] == have + 5 and gradient[have + 1].any()
    assert model.uniter.embeddings.token_type_embeddings.weight.grad.abs().sum(1).gt(0).all()


def test_draws_depend_on_seed_and_number_only():
    models = [made() for _ in range(3)]
    have = models[0].config.vocab_size
    torch.manual_seed(9)
    for model, (count, seed) in zip(models, [(5, 1), (3, 1), (5, 2)], strict=True):
        grow(model, words=have + count, seed=seed)
    drawn = torch.rand(1)
    rows = [model.uniter.embeddings.word_embeddings.weight[have:] for model in models]
    assert torch.equal(rows[0][:3], rows[1]) and not torch.equal(rows[0], rows[2])
    torch.manual_seed(9)
    assert torch.equal(drawn, torch.rand(1))


def test_published_word_head_is_drawn_anew():
    old, one, two = made(), made(), made()
    have = old.config.vocab_size
    for model in (one, two):
        grow(model, words=have + 5, seed=3, new_word_head=True)
    dense = one.cls.predictions.transform.dense.weight
    assert not torch.equal(dense, old.cls.predictions.transform.dense.weight)
    assert float(dense.detach().abs().max()) <= dense.shape[1] ** -0.5  # PyTorch's own, uniform
    assert torch.equal(dense, two.cls.predictions.transform.dense.weight)
    assert one.words(torch.ones(1, 32)).shape == (1, have + 5)


def test_what_cannot_grow_is_refused_and_left_alone():
    model = made()
    have = model.config.vocab_size
    for asked, message in [
        ({"types": 5}, "cannot be given 5"),
        ({"types": 1}, "has 2 segment types, only 1"),
        ({"words": have - 1}, "word pieces, only"),
        ({"types": 3, "words": 2}, "word pieces, only"),
    ]:
        with pytest.raises(ValueError, match=message):
            grow(model, **asked)
    assert model.config.type_vocab_size == 2 == len(model.uniter.embeddings.token_type_embeddings.weight)
    grow(model, types=3)
    with pytest.raises(ValueError, match="has 3 segment types and cannot be given 4"):
        grow(model, types=4)
    grow(model, types=3, words=have)  # as many as there are: nothing to do


class FakeStore:
    detector, path, feature_size, num_classes = "random", "store", 12, 7


def test_a_run_grows_the_model_that_it_starts_from(tmp_path):
    pretrained = made()
    have = pretrained.config.vocab_size
    pretrained.save_pretrained(tmp_path / "pretrained")
    pieces = (*SPECIAL_PIECES, *(f"w{number}" for number in range(have - 5)), *PERSONS)
    settings = ModelSettings(**{"from": tmp_path / "pretrained"})
    processor = UniterProcessor(Vocabulary(pieces))
    asked = {"type_vocab_size": 4, "vocab_size": len(pieces), "num_labels": 3}
    model = make_model(UniterForAnswers, settings, processor, FakeStore(), 0, **asked)
    types = pretrained.uniter.embeddings.token_type_embeddings.weight
    assert torch.equal(model.uniter.embeddings.token_type_embeddings.weight, types[[0, 1, 0, 0]])
    assert model.config.vocab_size == len(pieces) and model.config.num_labels == 3
    model.save_pretrained(tmp_path / "grown")
    again = UniterForAnswers.from_pretrained(tmp_path / "grown")
    assert torch.equal(again.uniter.embeddings.word_embeddings.weight, model.uniter.embeddings.word_embeddings.weight)
    with pytest.raises(ValueError, match=r"grown: the model has 4 segment types, only 3"):
        make_model(
            UniterForAnswers,
            ModelSettings(**{"from": tmp_path / "grown"}),
            processor,
            FakeStore(),
            0,
            type_vocab_size=3,
        )


@needs_golden
@torch.no_grad()
def test_a_grown_model_computes_what_the_published_one_does():
    """Second stage on VCR: a model of two types grown, then given the published weights, against published scores."""
    weights, case = GOLDEN / "weights", GOLDEN / "cases" / "pretrain_vcr_mlm"
    model = import_weights(weights / "pretrain.pt", weights / "config.json").model
    theirs = torch.load(weights / "pretrain_vcr.pt", weights_only=True)
    grow(model, types=4, words=len(theirs["cls.predictions.bias"]))
    model.load_state_dict({key: theirs[key] for key in model.state_dict()})
    arrays, scores = np.load(case / "examples.npz"), []
    for row in sorted({key.split("/")[0] for key in arrays}):
        one = lambda name, row=row: torch.from_numpy(arrays[f"{row}/{name}"])[None]
        texts = {"input_ids": one("input_ids").long(), "text_types": one("txt_type_ids").long()}
        states = model(**texts, regions=one("img_feat"), locations=one("img_pos_feat")).text
        scores.append(model.words(states[one("txt_labels") != -1]))
    atol = json.loads((GOLDEN / "tolerances.json").read_text())[case.name]["scores"]["atol"]
    np.testing.assert_allclose(torch.cat(scores).numpy(), np.load(case / "out_f32.npz")["scores"], rtol=0, atol=atol)
