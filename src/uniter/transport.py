"""Word-region alignment by optimal transport (paper section 3.2, equation 3; solver: IPOT, Xie et al. 2018).

Letters: B pairs, T text tokens, R regions. Everything is computed in float32 (float64 stays): the plan is not converged
after 50 iterations, so the number of iterations and the order of updates are part of the definition.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cost_matrix(text_BTD: Tensor, regions_BRD: Tensor, pairs_BTR: Tensor) -> Tensor:
    """1 - cosine between each word and region, (B, T, R); 0 where `pairs_BTR` is False. Norms are floored at 1e-5."""
    wide = torch.float64 if text_BTD.dtype == torch.float64 else torch.float32
    words = F.normalize(text_BTD.to(wide), dim=-1, eps=1e-5)
    things = F.normalize(regions_BRD.to(wide), dim=-1, eps=1e-5)
    return (1 - words @ things.transpose(1, 2)).masked_fill(~pairs_BTR, 0.0)


@torch.no_grad()
def transport_plan(
    cost_BTR: Tensor, text_mask_BT: Tensor, region_mask_BR: Tensor, beta: float = 0.5, iterations: int = 50
) -> Tensor:
    """The transport plan between uniform weights on words and on regions, (B, T, R), total mass 1, zero at padding.

    Args:
        cost_BTR: cost of moving a word's mass to a region.
        text_mask_BT: True at words that take part.
        region_mask_BR: True at regions that take part.
        beta: step of the proximal point method.
        iterations: outer iterations, one inner update each.

    Word marginals come out exact (1 / words), region marginals nearly. Padding changes nothing.
    """
    pairs = text_mask_BT[:, :, None] & region_mask_BR[:, None, :]
    words = text_mask_BT.sum(1, keepdim=True).clamp(min=1).to(cost_BTR.dtype)
    things = region_mask_BR.sum(1, keepdim=True).clamp(min=1).to(cost_BTR.dtype)
    kernel = torch.exp(-cost_BTR / beta).masked_fill(~pairs, 0.0)
    plan = pairs.to(cost_BTR.dtype)
    sigma = text_mask_BT / words  # (B, T)
    text_pad = (~text_mask_BT).to(cost_BTR.dtype) * 1e4  # keeps the division at padding finite
    region_pad = (~region_mask_BR).to(cost_BTR.dtype) * 1e4
    for _ in range(iterations):
        moved = kernel * plan
        delta = 1 / (things * torch.einsum("btr,bt->br", moved, sigma) + region_pad)
        sigma = 1 / (words * torch.einsum("btr,br->bt", moved, delta) + text_pad)
        plan = sigma[:, :, None] * moved * delta[:, None, :]
    return plan.masked_fill(~pairs, 0.0)


def alignment(
    text_BTD: Tensor, regions_BRD: Tensor, text_mask_BT: Tensor, region_mask_BR: Tensor, **settings
) -> tuple[Tensor, Tensor]:
    """The transport distance of each pair and its plan.

    Args:
        text_BTD: last states of the text.
        regions_BRD: last states of the regions.
        text_mask_BT: True at words that take part (CLS and SEP too, as published, or not).
        region_mask_BR: True at real regions.
        settings: `beta` and `iterations` of `transport_plan`.

    Returns:
        distance (B,), with gradient through the cost only, and the plan (B, T, R), without gradient.
    """
    with torch.autocast(text_BTD.device.type, enabled=False):
        cost = cost_matrix(text_BTD, regions_BRD, text_mask_BT[:, :, None] & region_mask_BR[:, None, :])
        plan = transport_plan(cost.detach(), text_mask_BT, region_mask_BR, **settings)
        return (cost * plan).sum((1, 2)), plan
