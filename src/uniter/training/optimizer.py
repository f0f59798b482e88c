"""Optimisers, their parameter groups and the learning-rate schedule, in the published forms."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..recipe import Training
from .engine import local

UNDECAYED = ("bias", "LayerNorm.bias", "LayerNorm.weight")  # the published name test, letter by letter
TRUNK = "uniter."


class PublishedAdamW(torch.optim.Optimizer):
    """Adam with the decay after the step: the form UNITER was trained with (early Hugging Face).

    It differs from `torch.optim.AdamW` in two places: eps is added to the root of the second moment before the bias
    correction, and the decay p -= lr * weight_decay * p acts on the parameter that the Adam step has just moved.
    State exists from the start, so that a parameter first used late resumes to the bit. Parameters without a gradient
    are left alone.

    Args:
        params: parameters or groups of them, as for any PyTorch optimiser.
        lr: learning rate.
        betas: decay of the first and of the second moment per step.
        eps: added to the root of the second moment.
        weight_decay: decay per step, times lr.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-5,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        give_state(self, ("exp_avg", "exp_avg_sq"))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "closures are not supported"
        for group in self.param_groups:
            alike: dict[tuple, list[Tensor]] = {}  # the fused operations want one step count, device and type
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state["step"] += 1
                    key = (state["step"].item(), parameter.device, parameter.dtype)
                    alike.setdefault(key, []).append(parameter)
            for (count, _, _), parameters in alike.items():
                self._move(parameters, int(count), group)

    def _move(self, parameters: list[Tensor], count: int, group: dict[str, Any]) -> None:
        """The published step by PyTorch's fused kernel, which passes over memory once (several times faster).

        The kernel divides by sqrt(v / correction) + eps and decays before it moves. Its own eps, lr and weight_decay
        are chosen so that this comes to the published step, then decay: (p - s) * (1 - d) = p * (1 - d) - s * (1 - d).
        """
        first_decay, second_decay = group["betas"]
        kept = 1 - group["lr"] * group["weight_decay"]
        torch._fused_adamw_(  # on what this process has of sharded ones
            [local(parameter) for parameter in parameters],
            [local(parameter.grad) for parameter in parameters if parameter.grad is not None],
            [local(self.state[parameter]["exp_avg"]) for parameter in parameters],
            [local(self.state[parameter]["exp_avg_sq"]) for parameter in parameters],
            [],
            [torch.tensor(float(count), device=parameters[0].device)] * len(parameters),
            lr=group["lr"] * kept,
            beta1=first_decay,
            beta2=second_decay,
            weight_decay=group["weight_decay"] / kept,
            eps=group["eps"] / math.sqrt(1 - second_decay**count),
            amsgrad=False,
            maximize=False,
        )


def give_state(optimizer: torch.optim.Optimizer, moments: Iterable[str], steps_beside: bool = False) -> None:
    """Give every parameter its state now: state made on first use is missing from a checkpoint written before it.

    Args:
        optimizer: a fresh one.
        moments: names of its state.
        steps_beside: count steps on the parameter's device instead of the CPU.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state: dict[str, Tensor] = {"step": torch.tensor(0.0, device=parameter.device if steps_beside else "cpu")}
            for moment in moments:
                state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            optimizer.state[parameter] = state


def is_decayed(name: str, parameter: Tensor, test: str = "matrices") -> bool:
    """Whether a parameter is decayed.

    Args:
        name: of the parameter in its model.
        parameter: the parameter.
        test: "matrices": every matrix is, biases and gains are not. "names": the published test, which is literal, so
            that LayerNorm gains under other names (img_layer_norm, pos_layer_norm, in heads) ARE decayed.
    """
    return parameter.ndim > 1 if test == "matrices" else not any(part in name for part in UNDECAYED)


def is_head(name: str) -> bool:
    """Whether a parameter lies outside the trunk, the attribute `uniter` of every model of ours."""
    return not (name.startswith(TRUNK) or f".{TRUNK}" in name)


def parameter_groups(model: nn.Module, training: Training) -> list[dict[str, Any]]:
    """Up to four groups, head first, each decayed and not; frozen parameters are in none.

    `factor` of a group multiplies its learning rate. Raises a ValueError if nothing is left to train.
    """
    groups = []
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for head in (True, False):
        for decayed in (True, False):
            members = [
                p for name, p in named if is_head(name) == head and is_decayed(name, p, training.decayed) == decayed
            ]
            if members:
                decay = training.weight_decay if decayed else 0.0
                factor = training.head_learning_rate_factor if head else 1.0
                groups.append({"params": members, "weight_decay": decay, "factor": factor})
    if not groups:
        raise ValueError("the model has no parameter to train; unfreeze some (requires_grad)")
    return groups


def build_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimiser the settings name, over `parameter_groups`; adam and adamax put the decay into the gradient."""
    groups, lr = parameter_groups(model, training), training.learning_rate
    if training.optimizer == "adamw-published":
        return PublishedAdamW(groups, lr=lr, betas=training.betas, eps=training.eps)
    if training.optimizer == "adamw":
        adamw = torch.optim.AdamW(groups, lr=lr, betas=training.betas, eps=training.eps, fused=True)
        give_state(adamw, ("exp_avg", "exp_avg_sq"), steps_beside=True)  # the fused kernel reads them where it runs
        return adamw
    if training.optimizer == "adam":
        adam = torch.optim.Adam(groups, lr=lr, betas=training.betas, eps=training.eps)
        give_state(adam, ("exp_avg", "exp_avg_sq"))
        return adam
    adamax = torch.optim.Adamax(groups, lr=lr, betas=training.betas, eps=training.eps)
    give_state(adamax, ("exp_avg", "exp_inf"))
    return adamax


def learning_rate(update: int, training: Training) -> float:
    """Learning rate of an update (from 1).

    Published: base * t / warmup while t < warmup, then base * (T - t) / (T - warmup); 1e-8 where that gives 0 or less,
    hence at the last update. The other schedules replace the second part, and "vqa" the first, too.
    """
    warmup, steps, start = training.warmup, training.steps, training.decay_start
    if update < warmup:
        share = (1 + 3 * update // warmup) / 4 if training.schedule == "vqa" else update / warmup
    elif training.schedule == "constant":
        share = 1.0
    elif training.schedule == "noam":
        share = math.sqrt(max(1, warmup) / max(1, update))
    elif training.schedule == "vqa":
        falls = 0 if start is None or update < start else math.ceil((update - start) / training.decay_every)
        share = training.decay_rate**falls
    else:
        left = max(0.0, (steps - update) / max(1, steps - warmup))
        share = left if training.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
    rate = training.learning_rate * share
    return rate if rate > 0 else 1e-8


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate, times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
