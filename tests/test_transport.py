import numpy as np
import ot
import pytest
import torch

from uniter.transport import alignment, cost_matrix, transport_plan


def states(words, things, pad=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text, regions = torch.randn(1, words, 8, generator=generator), torch.randn(1, things, 8, generator=generator)
    grow = lambda x: torch.cat([x, torch.full((1, pad, 8), 9.0)], 1)
    mask = lambda n: torch.arange(n + pad)[None] < n
    return grow(text), grow(regions), mask(words), mask(things)


def test_marginals_are_uniform_and_mass_is_one():
    _, plan = alignment(*states(6, 9))
    torch.testing.assert_close(plan.sum(), torch.tensor(1.0))
    torch.testing.assert_close(plan.sum(2), torch.full((1, 6), 1 / 6))
    torch.testing.assert_close(plan.sum(1), torch.full((1, 9), 1 / 9), atol=2e-3, rtol=0)


def test_padding_changes_nothing():
    distance, plan = alignment(*states(5, 7))
    padded_distance, padded = alignment(*states(5, 7, pad=4))
    torch.testing.assert_close(padded_distance, distance)
    torch.testing.assert_close(padded[:, :5, :7], plan)
    assert padded[:, 5:].eq(0).all() and padded[:, :, 7:].eq(0).all()


def test_many_iterations_reach_the_exact_optimum():
    text, regions, words, things = states(5, 7, seed=3)
    distance, _ = alignment(text, regions, words, things, iterations=3000)
    cost = cost_matrix(text, regions, words[:, :, None] & things[:, None, :])[0].numpy().astype(np.float64)
    exact = ot.emd2(np.full(5, 1 / 5), np.full(7, 1 / 7), cost)
    assert float(distance) == pytest.approx(exact, abs=2e-3)


def test_gradient_flows_through_the_cost_only():
    text, regions, words, things = states(4, 3)
    text.requires_grad_()
    distance, plan = alignment(text, regions, words, things)
    assert not plan.requires_grad
    distance.sum().backward()
    through_cost = torch.autograd.grad(
        (cost_matrix(text, regions, words[:, :, None] & things[:, None, :]) * plan).sum(), text
    )[0]
    torch.testing.assert_close(text.grad, through_cost)


def test_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        distance, _ = alignment(*states(6, 9))
    torch.testing.assert_close(distance, alignment(*states(6, 9))[0], atol=0, rtol=0)


def test_one_word_one_region():
    distance, plan = alignment(*states(1, 1))
    assert torch.isfinite(distance).all() and plan.sum().item() == pytest.approx(1.0)
    assert torch.equal(
        transport_plan(torch.zeros(1, 2, 2), torch.ones(1, 2).bool(), torch.ones(1, 2).bool()).round(decimals=4),
        torch.full((1, 2, 2), 0.25),
    )
