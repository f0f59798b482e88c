"""Hugging Face's LXMERT and VisualBERT at base size, random weights, beside ours: padded batches sorted by length."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MODELS = ("VisualBERT", "LXMERT")
EXAMPLES = 40  # of a batch


def build(name: str, size: dict[str, Any]) -> nn.Module:
    """The model; LXMERT with its own 9 layers of text, 5 of regions and 5 of both where the size has 12."""
    shared = {"vocab_size": size["vocab_size"], "hidden_size": size["hidden_size"]}
    shared |= {key: size[key] for key in ("num_attention_heads", "intermediate_size")}
    if name == "VisualBERT":
        from transformers import VisualBertConfig, VisualBertModel

        layers = {"num_hidden_layers": size["num_hidden_layers"]}
        return VisualBertModel(VisualBertConfig(**shared, **layers, visual_embedding_dim=2048)).eval()
    from transformers import LxmertConfig, LxmertModel

    depth = {"l_layers": 9, "x_layers": 5, "r_layers": 5} if size["num_hidden_layers"] == 12 else {}
    return LxmertModel(LxmertConfig(**shared, **depth, visual_feat_dim=2048)).eval()


def inference(
    name: str, model: nn.Module, pairs: Sequence[tuple[Tensor, Tensor, Tensor]], dtype: torch.dtype
) -> Callable[[], Tensor]:
    """The pooled states of all (ids, features, places), sorted by length, whenever it is called."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]), reverse=True)
    batches = [
        _batch(name, [pairs[i] for i in order[at : at + EXAMPLES]], dtype) for at in range(0, len(pairs), EXAMPLES)
    ]
    model = model.to(dtype)
    pooled = "pooler_output" if name == "VisualBERT" else "pooled_output"

    def run() -> Tensor:
        with torch.inference_mode():
            return torch.cat([model(**batch)[pooled].float() for batch in batches])

    return run


def _batch(name: str, pairs: Sequence[tuple[Tensor, Tensor, Tensor]], dtype: torch.dtype) -> dict[str, Tensor]:
    ids, features, places = zip(*pairs, strict=True)
    pad = lambda tensors: nn.utils.rnn.pad_sequence(list(tensors), batch_first=True)
    mask = pad([torch.ones(len(one)) for one in ids])
    visual = pad([torch.ones(len(one)) for one in features])
    text = {"input_ids": pad(ids), "attention_mask": mask}
    if name == "VisualBERT":
        types = torch.ones(visual.shape, dtype=torch.long)
        return text | {
            "visual_embeds": pad(features).to(dtype),
            "visual_attention_mask": visual,
            "visual_token_type_ids": types,
        }
    boxes = pad([one[:, :4] for one in places]).to(dtype)
    return text | {"visual_feats": pad(features).to(dtype), "visual_pos": boxes, "visual_attention_mask": visual}
