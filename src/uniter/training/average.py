"""The running mean of the weights (EMA), which is measured and saved for users while the weights themselves train."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .engine import local


class Average:
    """mean <- mean + (1 - decay) * (weight - mean) after each update, for every parameter that is trained.

    The decay is min(decay, (1 + updates) / (10 + updates)), so that the first weights are soon forgotten.

    Args:
        model: its parameters; sharded ones are averaged where they lie.
        decay: of the mean per update; None: no mean is kept, and everything here does nothing.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self._weights = {} if decay is None else {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._means = {name: parameter.detach().clone() for name, parameter in self._weights.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The means, for a checkpoint."""
        return {f"average/{name}": mean for name, mean in self._means.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take the weights in, after so many updates."""
        if self.decay is not None:
            decay = min(self.decay, (1 + updates) / (10 + updates))
            torch._foreach_lerp_(*self._pairs(), 1 - decay)

    @contextmanager
    def used(self) -> Iterator[None]:
        """The model has the means for weights, and its own back at the end, to the bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, weight in zip(*self._pairs()):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        means = [local(mean) for mean in self._means.values()]
        return means, [local(weight.detach()) for weight in self._weights.values()]
