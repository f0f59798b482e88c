"""Weights of the published code and its relatives <-> ours. The door for foreign checkpoints.

Read: official UNITER files of every head in `HEADS`, VILLA's, MMF's, LightningDOT's image tower, and BERT's as an
initialisation; in a wrapper, under `module.`, or in half precision. `uniter.layouts` knows the names. Nothing is
unpickled freely. The trunk's parameter names are the official ones, so most of the work is a matter of prefixes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from uniter import draws
from uniter.configuration_uniter import UniterConfig, wrong_value
from uniter.files import read_json, replacing
from uniter.layouts import Renamed, official_names
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
from uniter.processing_uniter import PERSONS
from uniter.tensor_files import few, read_tensors

# Tensors that official files hold twice: the copy, and what it is tied to.
TIED = {
    "cls.predictions.decoder.weight": "uniter.embeddings.word_embeddings.weight",
    "feat_regress.weight": "uniter.img_embeddings.img_linear.weight",
}
COPIES = {**TIED, "cls.predictions.decoder.bias": "cls.predictions.bias"}  # the last in newer BERT files
# The first of these whose marker is among the keys is the file's head, the trunk last of all.
HEADS: dict[str, tuple[str, type[UniterPreTrainedModel]]] = {
    "answers": ("vqa_output.3.weight", UniterForAnswers),
    "grounding": ("re_output.", UniterForGrounding),
    "pairs": ("nlvr2_output.weight", UniterForPairs),
    "choice": ("vcr_output.3.weight", UniterForChoice),
    "matching": ("rank_output.weight", UniterForMatching),
    "pretraining": ("cls.predictions.bias", UniterForPreTraining),
    "trunk": ("embeddings.word_embeddings.weight", UniterModel),
}
NOT_OURS = {"architectures", "model_type", "dtype", "transformers_version"}
CONSTANTS = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}  # GELU in its exact form; not settings of ours
# Word tables of published models: rows -> whose vocabulary.
VOCABULARIES = {28996: "bert-base-cased", 30522: "bert-base-uncased"}


@dataclass(frozen=True)
class Imported:
    """A model made of a foreign file.

    Args:
        model: with the file's weights.
        new: tensors of the model that the file does not have; they are drawn.
        unused: the file's tensors that the model has no place for.
        layout: whose layout the file has.
        notes: what else a user should know, a sentence each.
    """

    model: UniterPreTrainedModel
    new: list[str]
    unused: list[str]
    layout: str = "UNITER"
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A few lines for people."""
        lines = [f"{type(self.model).__name__} of a checkpoint in {self.layout}'s layout"]
        lines += [f"new: {few(self.new)}", f"unused: {few(self.unused)}", *self.notes]
        return "\n  ".join(lines)


# ---------------------------------------------------------------- in


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by official names, as precise as they are stored.

    Wrappers and `module.` are taken off, gamma and beta renamed; `uniter.layouts` knows whose names are which.

    Args:
        path: `.safetensors`, or what `torch.save` wrote; read with `weights_only=True`.

    Raises:
        ValueError: no such file, damaged, more than tensors in it, no tensors at all, or numbers that are not finite.
    """
    return _read(Path(path)).state


def _read(path: Path) -> Renamed:
    tensors = read_tensors(path)
    try:
        return official_names(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def import_weights(
    path: str | Path,
    config: str | Path | dict[str, Any] | None = None,
    head: str | None = None,
    missing: int = 0,
    seed: int = 0,
) -> Imported:
    """A model of ours from a foreign checkpoint.

    Sizes that the official config does not say (features, classes, types, answers) are read off the tensors.

    Args:
        path: a file as in `read_state`, a run directory of the published code or a folder of the Hugging Face hub.
        config: the official JSON, or its content; a run directory and a hub's folder have one.
        head: a name of `HEADS`; found out from the file if left out. A text-only BERT file is an initialisation: say
            "pretraining" (or "trunk") and the image side is drawn.
        missing: how many trunk tensors may be missing, the image side of a BERT file apart.
        seed: of what is drawn.

    Raises:
        ValueError: too many trunk tensors are missing or too many there (they are listed), a shape or a tied copy
            differs, another activation than GELU, no such head, or the file does not have it.
    """
    given, path = Path(path), checkpoint_file(path)
    config = _config_of(path) if config is None else config
    settings, named = _settings(config), "config" if isinstance(config, dict) else config
    for constant, value in CONSTANTS.items():
        if (found := settings.pop(constant, value)) != value:
            raise ValueError(f"{named}: {constant} is {found!r}, UNITER's is {value!r}: is this its config?")
    read = _read(path)
    state, notes = read.state, [*read.notes, *([f"of the folder, {path} was read"] if path != given else [])]
    name = _head(state, head, path)
    kind = HEADS[name][1]
    for copy, source in COPIES.items():
        twin = state.pop(copy, None)
        if twin is not None and not torch.equal(twin, state.setdefault(source, twin)):
            raise ValueError(f"{path}: {copy} differs from {source}, which it is tied to: is this a UNITER file?")
    shape: dict[str, Any] = {**settings, **_sizes(state)}
    if wrong := wrong_value(shape):
        raise ValueError(f"{named}: {wrong}")
    configuration = UniterConfig(**shape)
    # On no device: only its names and shapes are asked for, and drawing numbers takes longer than reading them.
    with torch.device("meta"):
        model = kind(configuration)
    prefix = "uniter." if kind is UniterModel else ""
    own = {prefix + key: value.shape for key, value in model.state_dict().items()}
    _check_fit(own, state, path, missing, by_choice=head is not None)
    new = [key for key in own if key not in state]
    if new or next(model.buffers(), None) is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.number(seed, "weights"))
            model = kind(configuration)
    else:
        model = model.to_empty(device="cpu")
    # Copied into place one by one, which also widens half precision: a mapped file is never in memory as a whole.
    model.load_state_dict({key.removeprefix(prefix): state[key] for key in own if key in state}, strict=False)
    derived = model.after_loading({key.removeprefix(prefix) for key in new})
    new = [key for key in new if key.removeprefix(prefix) not in derived]
    if derived:
        notes.append(f"{', '.join(sorted(derived))}: made of another head of the file")
    if new:
        side = ", the whole image side among it," if _text_only(state) else ""
        notes.append(f"what is new{side} was drawn from seed {seed}")
    unused = sorted([*read.left_out, *(key for key in state if key not in own)])
    return Imported(model.eval(), sorted(new), unused, read.layout, notes)


def _text_only(state: Mapping[str, Tensor]) -> bool:
    return not any("img_embeddings" in key for key in state)


def _check_fit(
    own: Mapping[str, torch.Size], state: Mapping[str, Tensor], path: Path, missing: int, by_choice: bool
) -> None:
    """Hold the file's tensors against the model's: shapes, a trunk without gaps, no trunk tensor without a place."""
    both = [key for key in own if key in state and state[key].shape != own[key]]
    wrong = [f"{key}: {tuple(state[key].shape)} for {tuple(own[key])}" for key in both]
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} tensors have another shape than the config says: {'; '.join(wrong[:4])}"
        )
    over = [key for key in state if key.startswith("uniter.") and key not in own]
    if over:
        raise ValueError(
            f"{path}: {len(over)} tensors of its trunk have no place in the model that the config describes: "
            f"{few(over)}; is this its config (num_hidden_layers)?"
        )
    text_only = _text_only(state)
    image_side = [key for key in own if text_only and "img_" in key]
    gone = [key for key in own if key.startswith("uniter.") and key not in state and key not in image_side]
    if len(gone) > missing or (text_only and not by_choice):
        raise ValueError(
            f"{path}: {len(gone) or len(image_side)} tensors of the trunk are not in it: {few(gone or image_side)}"
            + ("; it is a text-only file: say --head pretraining to start from it" if text_only else "")
        )


def _head(state: Mapping[str, Tensor], head: str | None, path: Path) -> str:
    """The name of the head asked for, or of the first in the file."""
    order = sorted(HEADS, key=lambda name: name == "trunk")  # which every file has
    inside = [name for name in order if any(HEADS[name][0] in key for key in state)]
    if head is not None and head not in HEADS:
        raise ValueError(f"no head {head!r}: choose one of {', '.join(HEADS)}")
    if head is None:
        if not inside:
            raise ValueError(
                f"{path}: none of its {len(state)} tensors is one of UNITER's, the first is {next(iter(state), 'none')}"
            )
        return inside[0]
    if head == "trunk" or (head == "pretraining" and _text_only(state)):
        return head
    with torch.device("meta"):
        parts = HEADS[head][1](UniterConfig.of_size("tiny", num_labels=2)).state_dict()
    # Some of it is enough: a rank head is made of the matching head of pre-training.
    if not any(key in state for key in parts if not key.startswith("uniter.")):
        raise ValueError(
            f"{path}: has no head for {head}, only {', '.join(inside)}; import that, and fine-tune from it"
        )
    return head


# ---------------------------------------------------------------- vocabulary


def pieces_for(words: int, pieces: Sequence[str], vocabulary: object, model: object) -> tuple[str, ...]:
    """The word pieces of a word table, from a vocabulary file's.

    They are the file's own; for VCR's larger table its words for people are appended.

    Args:
        words: rows of the word table.
        pieces: of the file.
        vocabulary: the file, for the message.
        model: the checkpoint, for the message.

    Raises:
        ValueError: another number of pieces.
    """
    if words == len(pieces):
        return tuple(pieces)
    if words == len(pieces) + len(PERSONS) and len(pieces) in VOCABULARIES:
        return (*pieces, *PERSONS)
    raise ValueError(
        f"{vocabulary} has {_whose(len(pieces))}, the word table of {model} {_whose(words)}: give the vocab.txt of "
        f"{VOCABULARIES.get(words) or VOCABULARIES.get(words - len(PERSONS)) or 'the model'}"
    )


def _whose(pieces: int) -> str:
    name = VOCABULARIES.get(pieces)
    people = VOCABULARIES.get(pieces - len(PERSONS))
    return f"{pieces} pieces" + (f" ({name})" if name else f" ({people} and the people of VCR)" if people else "")


def name_answers(model: UniterPreTrainedModel, answers: Sequence[str], place: object) -> None:
    """Give an answer head the names of its answers, which published files do not hold.

    Args:
        model: with an answer head.
        answers: in the head's order.
        place: where they come from, for the message.

    Raises:
        ValueError: the model has no such head, or another number of answers.
    """
    if not isinstance(model, UniterForAnswers) or model.config.num_labels != len(answers):
        has = f"{model.config.num_labels} answers" if isinstance(model, UniterForAnswers) else "no head for answers"
        raise ValueError(f"{place} names {len(answers)} answers, the model has {has}: leave it out, or give its own")
    model.config.id2label = dict(enumerate(answers))
    model.config.label2id = {answer: number for number, answer in enumerate(answers)}


# ---------------------------------------------------------------- which file, which config


def checkpoint_file(path: str | Path) -> Path:
    """The file meant by a path: itself, the best or last checkpoint of an official run directory, a hub folder's.

    Raises:
        ValueError: nothing is there, or a folder without a checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_dir():
        return path
    found = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
    found = found or sorted((path / "ckpt").glob("model_*.pt"), key=_lateness, reverse=True)
    if not found:
        raise ValueError(
            f"{path}: a folder without a checkpoint; give a file, a run directory (ckpt/model_*.pt, log/model.json) or "
            "a folder with model.safetensors or pytorch_model.bin"
        )
    return found[0]


def _lateness(path: Path) -> tuple[bool, int, bool]:
    """`model_epoch_best.pt` first, then the highest number."""
    number = re.search(r"_(\d+)", path.stem)
    return path.stem.endswith("_best"), int(number[1]) if number else -1, path.stem.endswith("_final")


def _config_of(path: Path) -> Path:
    """The config that goes with a file by its place."""
    places = [path.parent.parent / "log" / "model.json", path.parent / "config.json"]
    for place in places:
        if place.is_file():
            return place
    raise ValueError(f"{path}: no config for it (no {' and no '.join(map(str, places))}); give its JSON by --config")


def _settings(config: str | Path | dict[str, Any]) -> dict[str, Any]:
    if isinstance(config, dict):
        return dict(config)
    config = Path(config)
    known = {*UniterConfig().to_dict(), *CONSTANTS} - NOT_OURS
    found = read_json(config, mend="give the model's config JSON")
    settings = {key: value for key, value in found.items() if key in known}
    options = config.with_name("hps.json")
    if config.name == "model.json" and options.is_file():  # the run's own dropout overrules the model's (published)
        rate = read_json(options).get("dropout")
        if isinstance(rate, float | int):
            settings |= {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}
    return settings


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


def export_weights(model: UniterPreTrainedModel, path: str | Path, half: bool = False) -> None:
    """Write a model in the official layout: a plain state dict by `torch.save`, or safetensors by the file's ending.

    Args:
        model: any head or the trunk.
        path: `.safetensors`, or anything else for `torch.save`.
        half: in float16, half the size; rounded to 3 digits.

    Raises:
        ValueError: the file exists already.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} exists already: remove it or write to another name")
    state = official_state(model)
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        state |= {
            tied: state[source] for tied, source in TIED.items() if tied in state
        }  # once in memory and in the file
    with replacing(path) as temporary:
        if path.suffix == ".safetensors":
            # This format refuses tensors that share memory, as tied ones do.
            save_file({key: value.clone() if key in TIED else value for key, value in state.items()}, temporary)
        else:
            torch.save(state, temporary)
