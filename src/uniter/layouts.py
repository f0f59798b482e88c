"""Tensor names of foreign checkpoints -> official names, one function a layout.

The official names are those of the published code (and ours): `uniter.` for the trunk, whose tensors are named as
BERT's, then the heads. What a layout has and UNITER has no place for is left out by name, and said.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

WORD_TABLE = "uniter.embeddings.word_embeddings.weight"
PRETRAINING_HEADS = ("cls.predictions.", "feat_regress.", "region_classifier.", "itm_output.")
# A head's tensors in MMF -> ours; the two layers' numbers are the same.
MMF_HEADS = (
    (r"^cls\.predictions\.", "cls.predictions."),
    (r"^cls\.seq_relationship\.", "itm_output."),
    (r"^region_classifier\.(?=\d)", "region_classifier.net."),
    (r"^feat_regress\.(?=\d)", "feat_regress.net."),
    (r"^linear_proj_weight$", "feat_regress.weight"),
    (r"^linear_proj_bias$", "feat_regress.bias"),
)


@dataclass(frozen=True)
class Renamed:
    """A checkpoint's tensors by official names.

    Args:
        layout: whose layout it was.
        state: official name -> tensor.
        left_out: the file's names of what has no place in UNITER.
        notes: what a user should know, a sentence each.
    """

    layout: str
    state: dict[str, Tensor]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def official_names(found: Mapping[str, Tensor]) -> Renamed:
    """Recognise the layout of a state dict and rename its tensors.

    Args:
        found: names as in the file; `module.`, old gamma and beta and position counters are taken care of.

    Raises:
        ValueError: two tensors have the same official name.
    """
    plain = _unique((_plain(key), value) for key, value in found.items() if not key.endswith(".position_ids"))
    if any(re.match(r"(bert\.)?(img|txt)_model\.", key) for key in plain):
        return _lightningdot(plain)
    if any(re.match(r"(uniter\.)+text_embeddings\.", key) for key in plain):
        return _mmf(plain)
    return _bert_like(plain)


def _plain(key: str) -> str:
    key = re.sub(r"^((module|_orig_mod)\.)+", "", key)
    return re.sub(r"\bgamma\b", "weight", re.sub(r"\bbeta\b", "bias", key))


def _unique(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in named:
        if key in state:
            raise ValueError(f"two tensors stand for {key}: take the one model out that you want")
        state[key] = value
    return state


def _bert_like(plain: dict[str, Tensor]) -> Renamed:
    """The published code (`uniter.`), VILLA and BERT (`bert.`), or a trunk by itself (no prefix)."""
    by_bert = any(key.startswith("bert.") for key in plain)
    with_regions = any("img_embeddings." in key for key in plain)
    state = _unique(
        (re.sub(r"^(?:bert\.|(?=(?:img_)?embeddings\.|encoder\.|pooler\.))", "uniter.", key), value)
        for key, value in plain.items()
    )
    layout = "BERT" if not with_regions else "VILLA" if by_bert else "UNITER"
    return Renamed(layout, state)


def _mmf(plain: dict[str, Tensor]) -> Renamed:
    """MMF: the trunk's embeddings by other names, and a head for each task under `heads.`."""
    # The registered model holds the model as `uniter`, which holds the trunk as `uniter`.
    outer = "uniter." if any(key.startswith("uniter.uniter.") for key in plain) else ""
    state, left_out, notes = {}, [], []
    heads: dict[str, dict[str, str]] = {}
    for key in plain:
        inner = key.removeprefix(outer)
        if head := re.match(r"heads\.([^.]+)\.(.+)", inner):
            heads.setdefault(head[1], {})[head[2]] = key
        elif inner.startswith("uniter."):
            name = inner.replace("uniter.text_embeddings.", "uniter.embeddings.")
            state[name.replace("img_embeddings.final_layer_norm.", "img_embeddings.LayerNorm.")] = plain[key]
        else:
            left_out.append(key)
    for task, parts in heads.items():
        if any(part.startswith("classifier.") for part in parts):
            left_out += parts.values()
            notes.append(
                f"MMF's classifier of {task} was left out: it has a pooler of its own and one layer more than UNITER's "
                "heads, so it is another function; fine-tune the trunk instead"
            )
            continue
        matches = "cls.seq_relationship.weight" in parts and "itm_output.weight" not in state
        for part, key in parts.items():
            name = next((re.sub(theirs, ours, part) for theirs, ours in MMF_HEADS if re.match(theirs, part)), None)
            if part.startswith("pooler.") and matches:
                name = f"uniter.{part}"
                if name in state:  # MMF's heads never read it, so matching alone has trained a pooler
                    left_out.append(f"{outer}{name}")
            elif name is None or name in state:
                left_out.append(key)
                continue
            state[name] = plain[key]
        if matches:
            notes.append(f"the pooler is that of MMF's {task} head, the only one that its matching reads")
    return Renamed("MMF", state, left_out, notes)


def _lightningdot(plain: dict[str, Tensor]) -> Renamed:
    """LightningDOT: two towers; the image tower is a UNITER trunk."""
    state, left_out, notes = {}, [], []
    for key, value in plain.items():
        tower = re.match(r"(?:bert\.)?(img|txt)_model\.(.+)", key)
        if tower is None:
            state[key] = value
        elif tower[1] == "img" and tower[2].startswith("bert."):
            state["uniter." + tower[2].removeprefix("bert.")] = value
        else:
            left_out.append(key)
    notes.append("of LightningDOT's two towers this is the image tower; text tower and projections were left out")
    heads = [key for key in state if key.startswith(PRETRAINING_HEADS)]
    if heads and not all(any(key.startswith(head) for key in heads) for head in PRETRAINING_HEADS):
        notes.append("its pre-training heads are not complete and were left out")
        left_out += heads
    elif heads and not _tied(state):
        notes.append("its word head was left out: it reads the text tower's word table")
        left_out += [key for key in heads if key.startswith("cls.")]
    return Renamed("LightningDOT", {key: state[key] for key in state if key not in set(left_out)}, left_out, notes)


def _tied(state: dict[str, Tensor]) -> bool:
    decoder, table = state.get("cls.predictions.decoder.weight"), state.get(WORD_TABLE)
    return decoder is not None and table is not None and torch.equal(decoder, table)
