"""LoRA: fine-tuning trains two thin matrices beside each matrix of the encoder, and the head; the rest stays as it is.

The layers are peft's. What is saved is the whole model with the thin matrices merged in, which everything reads, and
beside it a folder `adapter` of a few megabytes in peft's format.
"""

from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from uniter import draws
from uniter.configuration_uniter import UniterConfig
from uniter.files import read_json
from uniter.modeling_uniter import UniterPreTrainedModel

ADAPTED = r"uniter\.encoder\.layer\..*\.(query|key|value|dense)"
PREFIX = "base_model.model."
ADAPTER = "adapter"  # folder beside the merged model, and name within peft

M = TypeVar("M", bound=UniterPreTrainedModel)


def add_lora(model: UniterPreTrainedModel, rank: int, seed: int, base: str | Path | None = None) -> Any:
    """Put LoRA layers into a model's encoder, in place; what is trained is these and the head.

    Args:
        model: with a head.
        rank: of the thin matrices; their product counts twice (alpha is twice the rank).
        seed: they start from draws of it, and from zero: at first nothing changes.
        base: where the model's weights come from, to be kept with the adapter.

    Returns:
        peft's description of the adapter, for `save_lora`.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError('model.lora needs peft: pip install "uniter[lora]"') from None
    heads = sorted({name.partition(".")[0] for name, _ in model.named_parameters()} - {"uniter"})
    torch.manual_seed(draws.number(seed, "lora"))
    settings: dict[str, Any] = {"r": rank, "lora_alpha": 2 * rank, "target_modules": ADAPTED}
    inject_adapter_in_model(LoraConfig(**settings), model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or not name.startswith("uniter."))
    # The heads stay where they are; who loads the adapter by peft is told to take them from it.
    return LoraConfig(**settings, base_model_name_or_path=str(base or ""), modules_to_save=heads)


def save_lora(model: UniterPreTrainedModel, config: Any, folder: Path) -> None:
    """Write the merged model as `save_pretrained` does, and the adapter into `folder/adapter`.

    Args:
        model: as `add_lora` left it, or trained.
        config: what `add_lora` gave.
        folder: an existing one.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    thin = {name.replace(f".{ADAPTER}.", "."): t for name, t in weights.items() if ".lora_" in name}
    head = {name: t for name, t in weights.items() if not name.startswith("uniter.")}
    whole = {name.replace(".base_layer.", "."): t for name, t in weights.items() if ".lora_" not in name}
    model.save_pretrained(folder, state_dict=_merged(whole, thin, config.lora_alpha / config.r))
    place = folder / ADAPTER
    config.save_pretrained(place)
    model.config.save_pretrained(place)
    kept = {PREFIX + name: tensor.contiguous() for name, tensor in {**thin, **head}.items()}
    save_file(kept, place / "adapter_model.safetensors")


def load_lora(kind: type[M], base: str | Path, adapter: str | Path) -> M:
    """A model of a base's weights with an adapter merged in.

    Args:
        kind: the model's class, with the head that the adapter has.
        base: folder of the model that the adapter was trained on.
        adapter: folder `adapter` beside a model that was trained with LoRA.

    Raises:
        ValueError: the folder holds no adapter, or one of another model.
    """
    config = read_json(Path(adapter) / "adapter_config.json", mend="give the folder `adapter` that training wrote")
    stored = load_file(Path(adapter) / "adapter_model.safetensors")
    stored = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
    model = kind.from_pretrained(base, config=UniterConfig.from_pretrained(adapter))
    own = model.state_dict()
    thin = {name: tensor for name, tensor in stored.items() if ".lora_" in name}
    head = {name: tensor for name, tensor in stored.items() if ".lora_" not in name}
    bases = {_base_of(name) for name in thin} | head.keys()
    if not bases <= own.keys():
        raise ValueError(f"{adapter}: not an adapter of {base}, which has no {min(bases - own.keys())}")
    try:
        model.load_state_dict(_merged({**own, **head}, thin, config["lora_alpha"] / config["r"]))
    except RuntimeError as error:
        raise ValueError(f"{adapter}: not an adapter of {base} ({error})") from None
    return model


def _base_of(name: str) -> str:
    return name.partition(".lora_")[0] + ".weight"


def _merged(weights: dict[str, Tensor], thin: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights with the thin matrices' products added, W + scale * B A."""
    merged = dict(weights)
    for name, first in thin.items():
        if ".lora_A." in name:
            second = thin[name.replace(".lora_A.", ".lora_B.")]
            merged[_base_of(name)] = merged[_base_of(name)] + scale * (second @ first)
    return merged
