"""Word-region alignment by inexact proximal point optimal transport, for each pair, as many launches as published."""

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 1e4  # added to a divisor at padding


def cosine_cost(text: Tensor, regions: Tensor) -> Tensor:
    """(B, T, D) and (B, R, D) -> (B, T, R): 1 - cosine, norms of at least 1e-5."""
    text, regions = F.normalize(text, dim=-1, eps=1e-5), F.normalize(regions, dim=-1, eps=1e-5)
    return 1 - text.matmul(regions.transpose(1, 2))


@torch.no_grad()
def transport_plan(
    cost: Tensor, text_pad: Tensor, region_pad: Tensor, joint_pad: Tensor, beta: float, iterations: int
) -> Tensor:
    """(B, R, T): the plan after so many iterations from a plan of ones."""
    words = (text_pad.shape[1] - text_pad.sum(1)).to(cost.dtype)
    things = (region_pad.shape[1] - region_pad.sum(1)).to(cost.dtype)
    batch, longest_text, most_regions = cost.shape
    sigma = torch.ones(batch, longest_text, dtype=cost.dtype, device=cost.device) / words.unsqueeze(1)
    plan = torch.ones(batch, most_regions, longest_text, dtype=cost.dtype, device=cost.device)
    kernel = torch.exp(-cost.transpose(1, 2) / beta)
    turned_pad = joint_pad.transpose(1, 2)
    sigma.masked_fill_(text_pad, 0)
    plan.masked_fill_(turned_pad, 0)
    kernel.masked_fill_(turned_pad, 0)
    words, things = words.view(-1, 1, 1), things.view(-1, 1, 1)
    text_mask = (text_pad.to(cost.dtype) * LARGE).unsqueeze(1)
    region_mask = (region_pad.to(cost.dtype) * LARGE).unsqueeze(1)
    for _ in range(iterations):
        moved = kernel * plan
        sigma = sigma.view(batch, -1, 1)
        delta = 1 / (things * moved.matmul(sigma).view(batch, 1, -1) + region_mask)
        sigma = 1 / (words * delta.matmul(moved) + text_mask)
        plan = delta.view(batch, -1, 1) * moved * sigma
    plan.masked_fill_(turned_pad, 0)
    return plan


def trace(matrices: Tensor) -> Tensor:
    """(B, N, N) -> (B,): through a mask of the diagonal."""
    diagonal = torch.eye(matrices.shape[1], dtype=torch.bool, device=matrices.device).unsqueeze(0).expand_as(matrices)
    return matrices.masked_select(diagonal).view(len(matrices), -1).sum(-1)


def transport_distance(
    text: Tensor, regions: Tensor, text_pad: Tensor, region_pad: Tensor, beta: float = 0.5, iterations: int = 50
) -> Tensor:
    """(B,) distances; no gradient through the plan.

    Args:
        text: (B, T, D) states.
        regions: (B, R, D) states.
        text_pad: (B, T), True at padding.
        region_pad: (B, R), True at padding.
        beta: how soft the plan is.
        iterations: so many.
    """
    cost = cosine_cost(text, regions)
    joint_pad = text_pad.unsqueeze(-1) | region_pad.unsqueeze(-2)
    cost = cost.masked_fill(joint_pad, 0)
    plan = transport_plan(cost.detach(), text_pad, region_pad, joint_pad, beta, iterations)
    return trace(cost.matmul(plan))
