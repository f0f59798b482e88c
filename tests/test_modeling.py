import pytest
import torch

from uniter import modeling_uniter
from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import (
    UniterForAnswers,
    UniterForChoice,
    UniterForGrounding,
    UniterForMatching,
    UniterForPairs,
    UniterForPreTraining,
    UniterModel,
)
from uniter.packing import Packing

TINY = {"vocab_size": 50, "region_feature_size": 12, "num_region_classes": 7}


def tiny(**settings) -> UniterConfig:
    return UniterConfig.of_size(
        "tiny", **{**TINY, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, **settings}
    )


def rows(lengths, regions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "input_ids": torch.randint(5, 50, (t,), generator=generator),
            "regions": torch.randn(r, 12, generator=generator),
            "locations": torch.rand(r, 7, generator=generator),
        }
        for t, r in zip(lengths, regions, strict=True)
    ]


def collate(examples, text_pad=0, region_pad=0):
    pad = lambda parts, extra: torch.nn.utils.rnn.pad_sequence(
        [*parts, parts[0].new_zeros(max(map(len, parts)) + extra, *parts[0].shape[1:])], batch_first=True
    )[:-1]
    lengths = lambda key: torch.tensor([len(example[key]) for example in examples])
    batch = {
        key: pad([e[key] for e in examples], text_pad if key == "input_ids" else region_pad) for key in examples[0]
    }
    batch["text_mask"] = torch.arange(batch["input_ids"].shape[1]) < lengths("input_ids")[:, None]
    batch["region_mask"] = torch.arange(batch["regions"].shape[1]) < lengths("regions")[:, None]
    return batch


@pytest.fixture
def model():
    torch.manual_seed(0)
    return UniterModel(tiny(initializer_range=0.3)).eval()


def test_published_sizes_have_the_published_number_of_parameters():
    with torch.device("meta"):
        base = UniterForPreTraining(UniterConfig.of_size("base"))
        large = UniterForPreTraining(UniterConfig.of_size("large"))
    count = lambda m: sum(p.numel() for p in m.parameters())
    assert (count(base), count(base.uniter), count(large)) == (112_938_887, 109_898_752, 340_524_935)


@torch.no_grad()
def test_padding_and_neighbours_change_nothing(model):
    examples = rows([9, 4, 6], [3, 8, 5])
    batch = collate(examples, text_pad=5, region_pad=4)
    batch["regions"][~batch["region_mask"]] = 1e3  # what stands in padding must not matter
    together = model(**batch)
    for i, example in enumerate(examples):
        alone = model(**{key: value[None] for key, value in example.items()})
        t, r = len(example["input_ids"]), len(example["regions"])
        torch.testing.assert_close(together.text[i, :t], alone.text[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.regions[i, :r], alone.regions[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.pooled[i], alone.pooled[0], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [([9, 4, 6], [3, 8, 5]), ([5, 5], [4, 4])], ids=["padded", "full"])
def test_attention_weights_are_those_that_the_forward_pass_used(model, sizes):
    """Held against the fused kernel: what a layer's attention gave is its weights times its values."""
    batch, seen = collate(rows(*sizes)), []
    for layer in model.encoder.layer:
        layer.attention.self.register_forward_hook(lambda part, given, gave: seen.append((part, given[0], gave)))
    plain = model(**batch)
    out = model(**batch, output_attentions=True)
    assert plain.attentions is None and torch.equal(out.pooled, plain.pooled)
    real = torch.cat([batch["text_mask"], batch["region_mask"]], 1)
    assert len(out.attentions) == len(model.encoder.layer)
    packing = Packing(batch["text_mask"], batch["region_mask"])
    spread = lambda states: packing.spread(states, packing.everyone)
    for weights, (part, given, gave) in zip(out.attentions, seen, strict=False):
        given, gave = spread(given), spread(gave)
        assert weights.shape == (len(real), part.heads, real.shape[1], real.shape[1])
        read = weights.sum(3).transpose(1, 2)[real]
        torch.testing.assert_close(read, torch.ones_like(read))
        assert not weights.masked_select(~real[:, None, None, :]).any()
        for row, places in enumerate(real):
            count = int(places.sum())
            value = part.value(given[row][places]).view(count, part.heads, -1).transpose(0, 1)
            said = (weights[row][:, places][:, :, places] @ value).transpose(0, 1).flatten(1)
            torch.testing.assert_close(said, gave[row][places], atol=1e-5, rtol=0)


@torch.no_grad()
def test_order_of_regions_is_no_signal_but_their_place_is(model):
    (example,) = rows([5], [4])
    one = model(**{key: value[None] for key, value in example.items()})
    turned = {**example, "regions": example["regions"].flip(0), "locations": example["locations"].flip(0)}
    other = model(**{key: value[None] for key, value in turned.items()})
    torch.testing.assert_close(one.pooled, other.pooled, atol=1e-5, rtol=0)
    moved = model(**{key: value[None] for key, value in {**turned, "locations": example["locations"]}.items()})
    assert (one.pooled - moved.pooled).abs().max() > 1e-3


@torch.no_grad()
def test_one_side_alone(model):
    (example,) = rows([5], [4])
    text = model(input_ids=example["input_ids"][None])
    image = model(regions=example["regions"][None], locations=example["locations"][None], output_hidden_states=True)
    assert text.regions is None and text.text.shape == (1, 5, 32) and text.pooled.shape == (1, 32)
    assert image.text is None and image.regions.shape == (1, 4, 32) and len(image.hidden_states) == 3
    with pytest.raises(ValueError, match="text"):
        model()


@torch.no_grad()
def test_a_masked_region_hides_its_feature_and_keeps_its_place(model):
    batch = collate(rows([5], [4]))
    masked = torch.tensor([[False, True, False, False]])
    one = model(**batch, masked_regions=masked).pooled
    other_feature = {**batch, "regions": batch["regions"].clone()}
    other_feature["regions"][0, 1] += 5
    assert torch.equal(model(**other_feature, masked_regions=masked).pooled, one)
    other_place = {**batch, "locations": batch["locations"].clone()}
    other_place["locations"][0, 1] += 0.5
    assert not torch.equal(model(**other_place, masked_regions=masked).pooled, one)
    assert not torch.equal(model(**batch).pooled, one)


def test_wrong_shapes_are_named(model):
    batch = collate(rows([5], [4]))
    with pytest.raises(ValueError, match="detector"):
        model(**{**batch, "regions": torch.zeros(1, 4, 13)})
    with pytest.raises(ValueError, match="positions"):
        model(input_ids=torch.ones(1, 513, dtype=torch.long))
    with pytest.raises(ValueError, match="multiple"):
        UniterConfig(hidden_size=30, num_attention_heads=4)
    with pytest.raises(ValueError, match="tiny"):
        UniterConfig.of_size("huge")


def test_heads_and_trunk_load_into_each_other(tmp_path):
    torch.manual_seed(1)
    pretrained = UniterForPreTraining(tiny())
    pretrained.save_pretrained(tmp_path / "pretrained")
    trunk, report = UniterModel.from_pretrained(tmp_path / "pretrained", output_loading_info=True)
    assert report["missing_keys"] == set() and "itm_output.weight" in report["unexpected_keys"]
    trunk.save_pretrained(tmp_path / "trunk")
    grounding = UniterForGrounding.from_pretrained(tmp_path / "trunk")
    for name, value in pretrained.uniter.state_dict().items():
        assert torch.equal(grounding.uniter.state_dict()[name], value), name

    matching = UniterForMatching.from_pretrained(tmp_path / "pretrained")
    assert torch.equal(matching.rank_output.weight[0], pretrained.itm_output.weight[1])
    torch.nn.init.ones_(matching.rank_output.weight)
    matching.save_pretrained(tmp_path / "matching")  # a trained rank head is kept, not seeded again
    assert UniterForMatching.from_pretrained(tmp_path / "matching").rank_output.weight.eq(1).all()


@pytest.mark.parametrize("saved", [UniterModel, UniterForPreTraining, UniterForMatching])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_mapped_and_come_out_as_the_shell_gives_them(tmp_path, monkeypatch, saved, dtype):
    torch.manual_seed(1)
    saved(tiny()).to(dtype).save_pretrained(tmp_path)
    other = {"pair_form": "paired-attn", "num_labels": 5}
    cases = [(UniterModel, {}), (UniterForPreTraining, {}), (UniterForMatching, {}), (UniterForAnswers, other)]
    cases += [(UniterForPairs, {"config": tiny(**other)}), (UniterForPairs, other)]

    def load(kind, settings):
        torch.manual_seed(2)
        model, report = kind.from_pretrained(tmp_path, output_loading_info=True, **settings)
        return model, {key: set(value) for key, value in report.items()}, torch.rand(1)

    mapped = [load(*case) for case in cases]
    calls = []
    monkeypatch.setattr(modeling_uniter, "_mapped", lambda *_: calls.append(1))
    for case, (model, report, next_number) in zip(cases, mapped, strict=True):
        expected, expected_report, expected_number = load(*case)
        assert report.items() >= {key: value for key, value in expected_report.items() if value}.items()
        assert next_number == expected_number and model.config.to_dict() == expected.config.to_dict()
        assert model.config.name_or_path == expected.config.name_or_path == str(tmp_path)
        assert model.training == expected.training
        assert [name for name, _ in model.named_parameters()] == [name for name, _ in expected.named_parameters()]
        for (name, value), other in zip(model.named_parameters(), expected.parameters(), strict=True):
            assert torch.equal(value, other) and value.dtype == other.dtype, name
            assert value.requires_grad == other.requires_grad and value.device == other.device
    assert len(calls) == len(cases)


def test_a_mapped_model_may_be_changed_and_saved_where_it_came_from(tmp_path):
    UniterModel(tiny()).save_pretrained(tmp_path)
    model = UniterModel.from_pretrained(tmp_path)
    with torch.no_grad():
        model.pooler.dense.weight.fill_(3)
    assert not UniterModel.from_pretrained(tmp_path).pooler.dense.weight.eq(3).any()  # it is ours alone
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path)
    again = UniterModel.from_pretrained(tmp_path)
    for name, value in before.items():
        assert torch.equal(again.state_dict()[name], value) and torch.equal(model.state_dict()[name], value)


def test_auto_classes_know_uniter(tmp_path):
    from transformers import AutoConfig, AutoModel

    UniterModel(tiny()).save_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), UniterModel)
    assert AutoConfig.from_pretrained(tmp_path).region_feature_size == 12


def test_a_checkpoint_that_does_not_match_is_an_error(tmp_path):
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)).save_pretrained(
        tmp_path / "b"
    )
    with pytest.raises(ValueError, match="trunk tensors"):
        UniterModel.from_pretrained(tmp_path / "b")
    UniterModel(tiny()).save_pretrained(tmp_path / "u")
    with pytest.raises(ValueError, match="shape"):
        UniterModel.from_pretrained(tmp_path / "u", config=tiny(hidden_size=64))


def test_losses_of_the_heads():
    torch.manual_seed(0)
    batch = collate(rows([5, 7], [4, 6]))
    answers = UniterForAnswers(tiny(num_labels=3)).eval()
    labels = torch.tensor([[1.0, 0, 0], [0, 0.3, 0]])
    out = answers(**batch, labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(out.logits, labels) * 3
    torch.testing.assert_close(out.loss, expected)

    grounding = UniterForGrounding(tiny(grounding_layers=2)).eval()
    out = grounding(**batch, labels=torch.tensor([2, -1]))
    assert out.logits[0, 4:].eq(-1e4).all()
    torch.testing.assert_close(out.loss, -out.logits[0].log_softmax(0)[2])  # a sum, and -1 does not count

    matching = UniterForMatching(tiny()).eval()
    out = matching(**batch, labels=torch.tensor([-1, 0]))
    score = out.logits.sigmoid()
    torch.testing.assert_close(out.loss, (0.2 + score[1] - score[0]).clamp(min=0))


@pytest.mark.parametrize("form", ["paired", "triplet", "paired-attn"])
@torch.no_grad()
def test_pairs_whatever_the_padding_and_the_neighbours(form):
    torch.manual_seed(0)
    model = UniterForPairs(tiny(pair_form=form, type_vocab_size=3, initializer_range=0.3)).eval()
    examples = rows([9, 4, 6, 8], [3, 8, 5, 2])
    batch = collate(examples, text_pad=5, region_pad=4)
    batch["regions"][~batch["region_mask"]] = 1e3
    batch["region_types"] = torch.tensor([1, 2, 1, 2])[:, None].expand(batch["region_mask"].shape)
    each = 1 if form == "triplet" else 2
    logits = model(**batch).logits
    assert logits.shape == (4 // each, 2)
    for k in range(len(logits)):
        alone = collate(examples[k * each : (k + 1) * each])
        kinds = batch["region_types"][k * each : (k + 1) * each, : alone["regions"].shape[1]]
        torch.testing.assert_close(model(**alone, region_types=kinds).logits[0], logits[k], atol=1e-5, rtol=0)
    if form != "triplet":
        other_way = {key: value[[1, 0, 3, 2]] for key, value in batch.items()}
        assert (model(**other_way).logits - logits).abs().max() > 1e-3  # left and right are told apart
        with pytest.raises(ValueError, match="two rows"):
            model(**{key: value[:3] for key, value in batch.items()})
    labels = torch.tensor([1, 0, 0, 1][: len(logits)])
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(model(**batch, labels=labels).loss, expected)


def test_an_unknown_form_of_pairs_is_an_error():
    with pytest.raises(ValueError, match="'quartet' is none of paired, triplet, paired-attn"):
        tiny(pair_form="quartet")


def test_bare_projections_keep_the_xavier_start(tmp_path):
    torch.manual_seed(0)
    UniterModel(tiny()).save_pretrained(tmp_path)
    fresh = UniterForPairs(tiny(pair_form="paired-attn"))
    loaded = UniterForPairs.from_pretrained(tmp_path, config=tiny(pair_form="paired-attn"))
    for model in (fresh, loaded):
        bound = (6 / (4 * 32)) ** 0.5  # Xavier's, of the (3 * 32, 32) matrix
        for attention in (model.attn1, model.attn2):
            assert 0.9 * bound < attention.in_proj_weight.abs().max() <= bound
            assert attention.in_proj_bias.eq(0).all() and attention.out_proj.bias.eq(0).all()
            assert 0.01 < attention.out_proj.weight.std() < 0.03


@torch.no_grad()
def test_choice_whatever_the_padding_and_the_neighbours():
    torch.manual_seed(0)
    model = UniterForChoice(tiny(type_vocab_size=4, initializer_range=0.3)).eval()
    examples = rows([9, 4, 6, 8], [3, 8, 5, 2])
    labels = torch.tensor([0, 1, 0, 0])
    out = model(**collate(examples, text_pad=5, region_pad=4), labels=labels)
    assert out.logits.shape == (4, 2) and any(isinstance(part, torch.nn.ReLU) for part in model.vcr_output)
    for i, example in enumerate(examples):
        alone = model(**collate([example])).logits[0]
        torch.testing.assert_close(alone, out.logits[i], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(out.logits, labels))


@torch.no_grad()
def test_grounding_ranks_the_right_region_above_a_wrong_one():
    torch.manual_seed(0)
    model = UniterForGrounding(tiny(initializer_range=0.3)).eval()
    batch = collate(rows([5, 7, 6, 4], [4, 6, 3, 1]))
    labels = torch.tensor([2, 1, -1, 0])  # nothing to ground in the third row, nothing wrong in the last
    score = model(**batch).logits.sigmoid()
    given = model(**batch, labels=labels, negatives=torch.tensor([0, 3, 0, 0]), margin=0.5).loss
    hinge = lambda row, wrong, right: (0.5 + score[row, wrong] - score[row, right]).clamp(min=0)
    torch.testing.assert_close(given, hinge(0, 0, 2) + hinge(1, 3, 1))
    hardest = model(**batch, labels=labels, negatives=torch.full((4,), -1), margin=0.5).loss
    worst = [
        max(hinge(row, wrong, right) for wrong in range(n) if wrong != right)
        for row, right, n in [(0, 2, 4), (1, 1, 6)]
    ]
    torch.testing.assert_close(hardest, sum(worst))
