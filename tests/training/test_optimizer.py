import math

import pytest
import torch
from torch import nn

from uniter.recipe import Training
from uniter.training.optimizer import (
    PublishedAdamW,
    build_optimizer,
    is_decayed,
    is_head,
    learning_rate,
    parameter_groups,
)


def test_one_step_by_hand():
    """m = .1 g, v = .02 g^2; step lr * sqrt(1-.98)/(1-.9) * m / (sqrt(v) + eps); then p -= lr * wd * p."""
    p, g, lr, eps, decay = 2.0, 1e-5, 0.1, 1e-6, 0.01
    parameter = nn.Parameter(torch.tensor([p], dtype=torch.float64))
    parameter.grad = torch.tensor([g], dtype=torch.float64)
    PublishedAdamW([parameter], lr=lr, weight_decay=decay).step()
    moved = p - lr * math.sqrt(0.02) / 0.1 * (0.1 * g) / (math.sqrt(0.02) * g + eps)
    assert parameter.item() == pytest.approx(moved - lr * decay * moved, rel=1e-12)
    corrected_first = p - lr * g / (g + eps)  # eps after the bias correction, as in PyTorch: not the same
    assert abs(parameter.item() - corrected_first * (1 - lr * decay)) > 1e-3


def test_many_steps_equal_a_loop_over_numbers():
    torch.manual_seed(0)
    shapes = [(3, 2), (5,), ()]
    start = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    parameters = [nn.Parameter(t.clone()) for t in start]
    optimizer = PublishedAdamW([{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0}], lr=0.01)
    mine, first, second = [t.clone() for t in start], [0.0] * 3, [0.0] * 3
    for t in range(1, 6):
        for i, parameter in enumerate(parameters):
            g = torch.randn(shapes[i], dtype=torch.float64)
            parameter.grad = g
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.98 * second[i] + 0.02 * g * g
            step = 0.01 * math.sqrt(1 - 0.98**t) / (1 - 0.9**t)
            mine[i] = mine[i] - step * first[i] / (second[i].sqrt() + 1e-6)
            mine[i] = mine[i] - 0.01 * (0.01 if i < 2 else 0.0) * mine[i]
        optimizer.step()
    for got, expected in zip(parameters, mine):
        torch.testing.assert_close(got.detach(), expected, rtol=1e-12, atol=1e-12)


def test_parameters_without_a_gradient_are_left_alone_and_count_their_own_steps():
    used, late = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = PublishedAdamW([used, late], lr=0.1)
    assert set(optimizer.state[late]) == {"step", "exp_avg", "exp_avg_sq"}  # there before its first use
    used.grad = torch.ones(2)
    optimizer.step()
    assert late.tolist() == [1.0, 1.0] and optimizer.state[late]["step"] == 0
    late.grad = torch.ones(2)
    used_before = used.detach().clone()
    optimizer.step()
    alone = nn.Parameter(torch.ones(2))
    alone.grad = torch.ones(2)
    PublishedAdamW([alone], lr=0.1).step()
    assert torch.equal(late, alone) and not torch.equal(used, used_before)


def model():
    """The names that matter, as in the published model."""

    def tree(names):
        root = nn.Module()
        for name in names:
            at = root
            *path, last = name.split(".")
            for part in path:
                if part not in dict(at.named_children()):
                    at.add_module(part, nn.Module())
                at = at.get_submodule(part)
            at.register_parameter(last, nn.Parameter(torch.ones(1)))
        return root

    return tree(
        [
            "uniter.embeddings.word_embeddings.weight",
            "uniter.embeddings.LayerNorm.weight",
            "uniter.embeddings.LayerNorm.bias",
            "uniter.img_embeddings.img_layer_norm.weight",
            "uniter.img_embeddings.img_layer_norm.bias",
            "uniter.img_embeddings.pos_layer_norm.weight",
            "uniter.img_embeddings.LayerNorm.weight",
            "uniter.encoder.layer.0.output.dense.weight",
            "uniter.encoder.layer.0.output.LayerNorm.weight",
            "feat_regress.net.2.weight",
            "region_classifier.net.2.weight",
            "vqa_output.2.weight",
            "vqa_output.2.bias",
            "vcr_output.2.weight",
            "re_output.2.weight",
            "attn1.in_proj_bias",
            "cls.predictions.transform.LayerNorm.weight",
        ]
    )


def test_decayed_layer_norms_are_exactly_the_published_ones():
    norms = [(n, p) for n, p in model().named_parameters() if "ayer" in n or ".2." in n]
    decayed = {n for n, p in norms if is_decayed(n, p, "names") and "dense" not in n}
    assert decayed == {
        "uniter.img_embeddings.img_layer_norm.weight",
        "uniter.img_embeddings.pos_layer_norm.weight",
        "feat_regress.net.2.weight",
        "region_classifier.net.2.weight",
        "vqa_output.2.weight",
        "vcr_output.2.weight",
        "re_output.2.weight",
    }
    one = torch.ones(1)
    assert not is_decayed("attn1.in_proj_bias", one, "names")
    assert is_decayed("uniter.embeddings.word_embeddings.weight", one, "names")


def test_matrices_alone_are_decayed_by_default():
    assert Training().decayed == "matrices"
    assert is_decayed("anything.bias", torch.ones(2, 2)) and not is_decayed("re_output.2.weight", torch.ones(2))


def test_groups_head_first_with_the_factor_and_without_frozen_ones():
    built = model()
    built.get_parameter("uniter.embeddings.word_embeddings.weight").requires_grad_(False)
    groups = parameter_groups(built, Training(head_learning_rate_factor=10.0, decayed="names"))
    assert [(g["factor"], g["weight_decay"]) for g in groups] == [(10.0, 0.01), (10.0, 0.0), (1.0, 0.01), (1.0, 0.0)]
    assert sum(len(g["params"]) for g in groups) == 16
    assert is_head("vqa_output.2.weight") and not is_head("module.uniter.pooler.weight")
    for parameter in built.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="unfreeze"):
        parameter_groups(built, Training())


@pytest.mark.parametrize("name", ["adamw", "adamw-published", "adam", "adamax"])
def test_state_is_there_from_the_start_and_the_step_works(name):
    built = model()
    optimizer = build_optimizer(built, Training(optimizer=name))
    assert len(optimizer.state) == 17 and all(len(state) == 3 for state in optimizer.state.values())
    for parameter in list(built.parameters())[:5]:
        parameter.grad = torch.ones(1)
    optimizer.step()
    moved = [p.item() != 1.0 for p in built.parameters()]
    assert moved == [True] * 5 + [False] * 12


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_equals_pytorch(name, kind):
    one, two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    holder = nn.Module()
    holder.weight = one
    mine = build_optimizer(holder, Training(optimizer=name, decayed="names"))
    theirs = kind([two], fused=name == "adamw", lr=5e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    for _ in range(3):
        one.grad, two.grad = one.detach() * 2, two.detach() * 2
        mine.step()
        theirs.step()
    assert torch.equal(one, two)


def test_published_schedule():
    training = Training(steps=6000, warmup=600, learning_rate=8e-5)
    assert learning_rate(1, training) == pytest.approx(8e-5 / 600)
    assert learning_rate(599, training) == pytest.approx(8e-5 * 599 / 600)
    assert learning_rate(600, training) == 8e-5
    assert learning_rate(601, training) == pytest.approx(8e-5 * 5399 / 5400)
    assert learning_rate(5999, training) == pytest.approx(8e-5 / 5400)
    assert learning_rate(6000, training) == 1e-8


def test_other_schedules():
    constant = Training(steps=100, warmup=10, schedule="constant", learning_rate=1.0)
    assert [learning_rate(t, constant) for t in (5, 10, 100)] == [0.5, 1.0, 1.0]
    cosine = Training(steps=110, warmup=10, schedule="cosine", learning_rate=1.0)
    assert learning_rate(10, cosine) == 1.0 and learning_rate(60, cosine) == pytest.approx(0.5)
    assert learning_rate(110, cosine) == 1e-8
    assert learning_rate(1, Training(steps=1)) == 1e-8 and learning_rate(1, Training(steps=5, warmup=5)) > 0
    noam = Training(warmup=4, schedule="noam", learning_rate=1.0)
    assert [learning_rate(t, noam) for t in (1, 4, 16, 64)] == [0.25, 1.0, 0.5, 0.25]
    falling = {"decay_start": 20, "decay_every": 10, "decay_rate": 0.5}
    steps = Training(warmup=12, schedule="vqa", learning_rate=1.0, **falling)
    assert [learning_rate(t, steps) for t in (3, 4, 11, 12, 20)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [learning_rate(t, steps) for t in (21, 30, 31, 40)] == [0.5, 0.5, 0.25, 0.25]
    assert learning_rate(500, steps.model_copy(update={"decay_start": None})) == 1.0


def test_groups_of_our_own_models():
    """The trunk is found by its name, and the decayed LayerNorm gains are those of the published model."""
    from uniter.configuration_uniter import UniterConfig
    from uniter.modeling_uniter import UniterForAnswers

    config = UniterConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    built = UniterForAnswers(config)
    heads = {name for name, _ in built.named_parameters() if is_head(name)}
    assert heads and all(name.startswith("vqa_output") for name in heads)
    norms = {f"{n}.weight": m.weight for n, m in built.named_modules() if isinstance(m, nn.LayerNorm)}
    assert not any(is_decayed(name, gain) for name, gain in norms.items())
    decayed = {name for name, gain in norms.items() if is_decayed(name, gain, "names")}
    published = {"img_layer_norm", "pos_layer_norm"}
    assert {name.split(".")[-2] for name in decayed if name.startswith("uniter")} == published
    assert decayed - {n for n in decayed if n.startswith("uniter")} == {"vqa_output.2.weight"}
