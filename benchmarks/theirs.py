"""The workload as the published computation takes it, and its models with weights drawn from a seed."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import workload
from published.data import collate, random_word, token_buckets
from published.model import Answers, Config, PreTraining, Published, Rank
from published.optimizer import AdamW, clip, parameter_groups

BUDGET = 5120  # tokens of a batch in VQA's published recipe


def tensors(example: workload.Example) -> tuple[Tensor, ...]:
    """Ids, features, places and mask of a pair."""
    ids = torch.tensor([workload.CLS, *example.pieces, workload.SEP])
    boxes = torch.tensor(example.image.boxes).float()
    places = torch.cat([boxes, boxes[:, 4:5] * boxes[:, 5:]], -1)
    mask = torch.ones(len(ids) + len(boxes), dtype=torch.long)
    return ids, torch.tensor(example.image.features).float(), places, mask


def masked(examples: Sequence[workload.Example]) -> list[tuple[Tensor, ...]]:
    """The same with words hidden by the published rule, and labels."""
    random.seed(0)
    found = []
    for example in examples:
        words = (workload.FIRST_WORD, workload.VOCABULARY)
        pieces, labels = random_word(list(example.pieces), words, workload.MASK)
        _, *rest = tensors(example)
        ids = torch.tensor([workload.CLS, *pieces, workload.SEP])
        found.append((ids, *rest, torch.tensor([-1, *labels, -1])))
    return found


def batches(pairs: Sequence[tuple[Tensor, ...]], budget: int = BUDGET) -> tuple[list[Any], list[int]]:
    """Padded batches by the published sampler, the longest first, and the order of the pairs in them."""
    lengths = [len(ids) - 2 + len(features) for ids, features, *_ in pairs]  # it does not count CLS and SEP
    chosen = list(token_buckets(lengths, budget, keep_last=True, order=range(len(pairs))))
    return [collate([pairs[i] for i in batch]) for batch in chosen], [i for batch in chosen for i in batch]


def draw(kind: type[Published], config: dict[str, Any], seed: int = 0, **sizes: int) -> Any:
    """A model whose attention is not uniform: query and key weights are four times as large as published."""
    torch.manual_seed(seed)
    model: Any = kind(Config.of(config), **sizes)
    with torch.no_grad():
        for layer in model.uniter.encoder.layer:
            layer.attention.self.query.weight.mul_(4)
            layer.attention.self.key.weight.mul_(4)
    return model.eval()


def save(model: Published, folder: Path, name: str, config: dict[str, Any]) -> Path:
    """A published file of weights, its configuration beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), folder / name)
    return folder / name


def optimizer(model: PreTraining) -> torch.optim.Optimizer:
    """As published."""
    return AdamW(parameter_groups(model, 0.01), 5e-5)


def step(
    model: PreTraining,
    made: Sequence[Any],
    mover: torch.optim.Optimizer,
    objective: str = "mlm",
    amp: torch.dtype | None = None,
) -> Callable[[], Tensor]:
    """An update over the batches whenever it is called: forward, backward, clip, AdamW, as published.

    Args:
        model: on its device, as the batches are.
        made: the batches.
        mover: what `optimizer` gave; steps that take turns may share it.
        objective: "mlm" or "itm".
        amp: type of autocast; None: float32.
    """
    device = next(model.parameters()).device

    def run() -> Tensor:
        model.train()
        for batch in made:
            with torch.autocast(device.type, amp or torch.bfloat16, enabled=amp is not None):
                loss = model.mlm(batch).mean() if objective == "mlm" else model.itm_total(batch)
            loss.backward()
        clip(model.parameters(), 5.0)
        mover.step()
        mover.zero_grad(set_to_none=False)
        return loss.detach()

    return run


__all__ = ["Answers", "PreTraining", "Rank", "batches", "draw", "masked", "optimizer", "save", "step", "tensors"]
