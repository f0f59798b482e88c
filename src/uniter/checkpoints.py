"""Weights of the published code and its relatives <-> ours. The door for foreign checkpoints.

Read so far: official UNITER files of the pre-training model and of the VQA, SNLI-VE, VCR, NLVR2, retrieval-rank and
referring-expression heads; the same with VILLA's `bert` prefix; BERT checkpoints as initialisation (old gamma and beta
names too); any of them under `module.`, inside a wrapper, or in float16. Nothing is unpickled freely. The trunk's
parameter names are the official ones, so most of the work is a matter of prefixes.
"""

import json
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from uniter.configuration_uniter import UniterConfig
from uniter.modeling_uniter import (
    UniterForAnswers,
    UniterForChoice,
    UniterForGrounding,
    UniterForMatching,
    UniterForPairs,
    UniterForPreTraining,
    UniterModel,
    UniterPreTrainedModel,
)

WRAPPERS = ("model_state", "state_dict", "model", "model_state_dict")
# Tensors that official files hold twice: the copy, and what it is tied to.
TIED = {
    "cls.predictions.decoder.weight": "uniter.embeddings.word_embeddings.weight",
    "feat_regress.weight": "uniter.img_embeddings.img_linear.weight",
}
# The first of these whose marker is among the keys is the file's head; "bert" files initialise a pre-training model.
HEADS: dict[str, tuple[str, type[UniterPreTrainedModel]]] = {
    "answers": ("vqa_output.3.weight", UniterForAnswers),
    "grounding": ("re_output.", UniterForGrounding),
    "pairs": ("nlvr2_output.weight", UniterForPairs),
    "choice": ("vcr_output.3.weight", UniterForChoice),
    "matching": ("rank_output.weight", UniterForMatching),
    "pretraining": ("cls.predictions.bias", UniterForPreTraining),
    "trunk": ("embeddings.word_embeddings.weight", UniterModel),
}
NOT_OURS = ("architectures", "model_type")


@dataclass(frozen=True)
class Imported:
    """A model made of a foreign file.

    Args:
        model: with the file's weights.
        new: tensors of the model that the file does not have; they are drawn.
        unused: tensors of the file that the model has no place for.
    """

    model: UniterPreTrainedModel
    new: list[str]
    unused: list[str]


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by official names, in float32.

    Wrappers and `module.` are taken off, gamma and beta renamed, and a `bert` prefix (VILLA, BERT) becomes `uniter`.

    Args:
        path: `.safetensors`, or what `torch.save` wrote; read with `weights_only=True`.

    Raises:
        ValueError: no such file, damaged, more than tensors in it, or no tensors at all.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError, KeyError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path}: not opened ({reason}); damaged, or more than tensors, which could run code: get a clean copy"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    named = found.items() if isinstance(found, dict) else ()
    tensors = {key: value for key, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds no tensors by name; give a state dict as the published code saves it")
    return {_official(key): value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _official(key: str) -> str:
    key = re.sub(r"^(module\.)+", "", key)
    key = re.sub(r"\bgamma\b", "weight", re.sub(r"\bbeta\b", "bias", key))
    return re.sub(r"^bert\.", "uniter.", key)


def import_weights(
    path: str | Path, config: str | Path | dict[str, Any], head: str | None = None, missing: int = 0
) -> Imported:
    """A model of ours from a foreign checkpoint.

    Sizes that the official config does not say (features, classes, types, answers) are read off the tensors.

    Args:
        path: as in `read_state`.
        config: the official JSON, or its content.
        head: "pretraining", "answers", "grounding", "pairs", "choice", "matching" or "trunk"; found out from the
            file if left out. A text-only BERT file is an initialisation: say "pretraining" (or "trunk") and the image
            side is drawn.
        missing: how many trunk tensors may be missing, the image side of a BERT file apart.

    Raises:
        ValueError: too many trunk tensors are missing (they are listed), a shape or a tied copy differs, another
            activation than GELU, or no such head.
    """
    state = read_state(path)
    kind = _head(state, head, path)
    settings = _settings(config)
    if (activation := settings.pop("hidden_act", "gelu")) != "gelu":
        raise ValueError(f"{config}: hidden_act is {activation!r}, UNITER's is 'gelu' (exact): is this its config?")
    for tied, source in TIED.items():
        copy = state.pop(tied, None)
        if copy is not None and source in state and not torch.equal(copy, state[source]):
            raise ValueError(f"{path}: {tied} differs from {source}, which it is tied to: is this a UNITER file?")
    shape: dict[str, Any] = {**settings, **_sizes(state)}
    model = kind(UniterConfig(**shape))
    if kind is UniterModel:
        state = {key.removeprefix("uniter."): value for key, value in state.items()}
    own = model.state_dict()
    both = [key for key in own if key in state and state[key].shape != own[key].shape]
    wrong = [f"{key}: {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in both]
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} tensors have another shape than the config says: {'; '.join(wrong[:4])}"
        )
    new, unused = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    text_only = not any("img_embeddings" in key for key in state)
    absent = [key for key in new if not (text_only and "img_" in key)]
    trunk = [key for key in absent if kind is UniterModel or key.startswith("uniter.")]
    if len(trunk) > missing or (text_only and head is None):
        listed = ", ".join(trunk[:8] or [key for key in new if "img_" in key][:8])
        raise ValueError(
            f"{path}: {len(trunk) or len(new)} tensors of the trunk are not in it: {listed}"
            + ("; it is a text-only file: say --head pretraining to start from it" if text_only else "")
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=False)
    model.after_loading(set(new))
    return Imported(model.eval(), new, unused)


def _head(state: dict[str, Tensor], head: str | None, path: str | Path) -> type[UniterPreTrainedModel]:
    if head is not None:
        if head not in HEADS:
            raise ValueError(f"no head {head!r}: choose one of {', '.join(HEADS)}")
        return HEADS[head][1]
    for marker, kind in HEADS.values():
        if any(marker in key for key in state):
            return kind
    raise ValueError(f"{path}: none of its {len(state)} tensors is one of UNITER's, the first is {next(iter(state))}")


def _settings(config: str | Path | dict[str, Any]) -> dict[str, Any]:
    if isinstance(config, dict):
        return dict(config)
    try:
        found = json.loads(Path(config).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{config}: no such file; give the model's config JSON") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{config}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{config}: expected a JSON object of settings")
    known = UniterConfig().to_dict().keys()
    return {key: value for key, value in found.items() if (key in known or key == "hidden_act") and key not in NOT_OURS}


def _sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """What the tensors themselves say about the model's shape."""
    places = {
        "vocab_size": ("embeddings.word_embeddings.weight", 0),
        "type_vocab_size": ("embeddings.token_type_embeddings.weight", 0),
        "max_position_embeddings": ("embeddings.position_embeddings.weight", 0),
        "region_feature_size": ("img_embeddings.img_linear.weight", 1),
        "num_region_classes": ("region_classifier.net.3.weight", 0),
        "num_labels": ("vqa_output.3.weight", 0),
    }
    found: dict[str, Any] = {}
    for name, (ending, axis) in places.items():
        for key, value in state.items():
            if key.endswith(ending) and not key.startswith("cls."):
                found[name] = value.shape[axis]
    found["grounding_layers"] = 2 if "re_output.3.weight" in state else 1
    if (pairs := state.get("nlvr2_output.weight")) is not None:
        triplet = pairs.shape[1] == state["uniter.pooler.dense.weight"].shape[0]
        found["pair_form"] = "paired-attn" if "attn1.in_proj_weight" in state else "triplet" if triplet else "paired"
    return found


def load_saved(folder: str | Path) -> UniterPreTrainedModel:
    """The model in a folder of ours, with the head that it was saved with.

    Raises:
        ValueError: the folder holds no saved model.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no saved model (no config.json): give a folder that training wrote")
    named = _settings_named(path)
    kinds = {kind.__name__: kind for _, kind in HEADS.values()}
    if named not in kinds:
        raise ValueError(f"{path}: unknown architecture {named!r}; it is one of {', '.join(kinds)}")
    return kinds[named].from_pretrained(folder)


def _settings_named(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["architectures"][0]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: names no architecture ({error}); save the model again") from None


def official_state(model: UniterPreTrainedModel) -> dict[str, Tensor]:
    """A model's tensors by official names, tied ones twice as the published code saves them."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if isinstance(model, UniterModel):
        state = {f"uniter.{key}": value for key, value in state.items()}
    if isinstance(model, UniterForPreTraining):
        state.update({tied: state[source] for tied, source in TIED.items()})
    return state


def export_weights(model: UniterPreTrainedModel, path: str | Path) -> None:
    """Write a model in the official layout: a plain state dict by `torch.save`, or safetensors by the file's ending.

    Raises:
        ValueError: the file exists already.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} exists already: remove it or write to another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    state = official_state(model)
    if path.suffix == ".safetensors":
        save_file({key: value.clone() for key, value in state.items()}, temporary)
    else:
        torch.save(state, temporary)
    temporary.replace(path)
