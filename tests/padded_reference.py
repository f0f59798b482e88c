"""The trunk as published: padded rows, a mask that is added to the scores, every state of every layer.

It shares the modules' weights with the model and none of its code, so that packing can be held against it.
"""

import math

import torch
import torch.nn.functional as F

from uniter.modeling_uniter import UniterModel, UniterOutput


def forward(
    self: UniterModel, input_ids=None, text_mask=None, text_types=None, regions=None, locations=None, region_mask=None,
    region_types=None, masked_regions=None, **_,
) -> UniterOutput:  # fmt: skip
    """`UniterModel.forward` without dropout, for padded batches; it computes everything, whatever is asked for."""
    assert not self.training
    blocks, masks = [], []
    types = self.embeddings.token_type_embeddings
    if input_ids is not None:
        part = self.embeddings
        kinds = torch.zeros_like(input_ids) if text_types is None else text_types
        summed = part.word_embeddings(input_ids) + part.position_embeddings.weight[: input_ids.shape[1]] + types(kinds)
        blocks.append(part.LayerNorm(summed))
        masks.append(torch.ones_like(input_ids) if text_mask is None else text_mask)
    if regions is not None:
        part = self.img_embeddings
        if regions.dim() == 2:
            wide = [torch.zeros(*region_mask.shape, side.shape[1]) for side in (regions, locations)]
            for side, rows in zip(wide, (regions, locations), strict=True):
                side[region_mask] = rows
            regions, locations = wide
        if masked_regions is not None:
            regions = torch.where(masked_regions[..., None], part.mask_embedding.weight[1], regions)
        kinds = torch.ones(regions.shape[:2], dtype=torch.long) if region_types is None else region_types
        seen = part.img_layer_norm(part.img_linear(regions)) + part.pos_layer_norm(part.pos_linear(locations))
        blocks.append(part.LayerNorm(seen + types(kinds)))
        masks.append(torch.ones(regions.shape[:2]) if region_mask is None else region_mask)
    states, mask = torch.cat(blocks, 1), torch.cat([mask.float() for mask in masks], 1)
    hidden, attentions = [states], []
    for layer in self.encoder.layer:
        part = layer.attention.self
        query, key, value = (
            of(states).unflatten(2, (part.heads, -1)).transpose(1, 2) for of in (part.query, part.key, part.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3]) + (1 - mask)[:, None, None] * -1e9
        attentions.append(scores.softmax(3))
        read = (attentions[-1] @ value).transpose(1, 2).flatten(2)
        states = layer.attention.output.LayerNorm(layer.attention.output.dense(read) + states)
        wide = F.gelu(layer.intermediate.dense(states))
        states = layer.output.LayerNorm(layer.output.dense(wide) + states)
        hidden.append(states)
    length = 0 if input_ids is None else input_ids.shape[1]
    # Without text in front the first real place is the first region.
    first = mask.argmax(1)
    return UniterOutput(
        text=states[:, :length],
        regions=states[:, length:],
        pooled=torch.tanh(self.pooler.dense(states[torch.arange(len(states)), first])),
        hidden_states=tuple(hidden),
        attentions=tuple(attentions),
    )
