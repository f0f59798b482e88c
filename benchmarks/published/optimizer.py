"""The optimiser, a parameter at a time, and the clip that goes before it."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

UNDECAYED = ("bias", "LayerNorm.bias", "LayerNorm.weight")


def parameter_groups(model: nn.Module, decay: float) -> list[dict]:
    """Two groups by a literal look at the name."""
    named = list(model.named_parameters())
    spared = lambda name: any(part in name for part in UNDECAYED)
    return [
        {"params": [value for name, value in named if not spared(name)], "weight_decay": decay},
        {"params": [value for name, value in named if spared(name)], "weight_decay": 0.0},
    ]


class AdamW(torch.optim.Optimizer):
    """Bias correction in the step size, epsilon beside the uncorrected root, decay after the step."""

    def __init__(self, groups: Iterable, lr: float, betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-6):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, parameter.grad, group)

    def move(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        first_beta, second_beta = group["betas"]
        state["first"].mul_(first_beta).add_(gradient, alpha=1 - first_beta)
        state["second"].mul_(second_beta).addcmul_(gradient, gradient, value=1 - second_beta)
        divisor = state["second"].sqrt().add_(group["eps"])
        correction = math.sqrt(1 - second_beta ** state["step"]) / (1 - first_beta ** state["step"])
        parameter.addcdiv_(state["first"], divisor, value=-group["lr"] * correction)
        if group["weight_decay"] > 0:
            parameter.add_(parameter, alpha=-group["lr"] * group["weight_decay"])


def clip(parameters: Iterable[Tensor], most: float) -> Tensor:
    """Scale the gradients down to a global norm of at most so much; a parameter at a time. Returns the norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = torch.stack([gradient.norm() for gradient in gradients]).norm()
    factor = (most / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
    return total


def learning_rate(step: int, base: float, warmup: int, steps: int) -> float:
    """Up in a line, then down in a line; never 0."""
    share = step / warmup if step < warmup else max(0.0, (steps - step) / (steps - warmup))
    return base * share if share > 0 else 1e-8
