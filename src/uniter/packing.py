"""Batches without padding: the real tokens of all sequences behind each other in one flat row, and attention in it.

A sequence is a pair's text and, behind it, its regions. Sequences stand in the flat row by length, so that those of one
length are a block which attention takes at once.

Letters: B sequences, T text tokens, R regions, L = T + R places of the padded form, P tokens of the flat row, Q readers
(tokens whose attention is asked for), N heads, H head size, D = N * H.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uniter.dropout import dropout as drop

FLAT = ("regions", "locations", "class_probs")  # keys of a batch with a row for each real region, all images together


# ---------------------------------------------------------------- batches


def flat(values: Tensor, mask_BR: Tensor) -> Tensor:
    """(B, R, X) padded or (real regions, X) flat -> flat."""
    return values[mask_BR] if values.dim() == 3 else values


def padded(values: Tensor, mask_BR: Tensor) -> Tensor:
    """(real regions, X) -> (B, R, X), zero at padding."""
    found = values.new_zeros(*mask_BR.shape, *values.shape[1:])
    found[mask_BR] = values
    return found


def select_rows(batch: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Some rows of a batch, in this order; a row may come several times.

    Args:
        batch: as `UniterProcessor.collate` makes it, and what else has a row for each pair.
        rows: (rows,) int64 numbers.
    """
    wide = {key for key in FLAT if key in batch and batch[key].dim() == 2}
    found = {key: value[rows] for key, value in batch.items() if key not in wide}
    if wide:
        counts = batch["region_mask"].sum(1)
        starts, chosen = counts.cumsum(0) - counts, counts[rows]
        shift = starts[rows] - (chosen.cumsum(0) - chosen)  # from a region's new place to where it was
        regions = torch.arange(int(chosen.sum()), device=rows.device) + shift.repeat_interleave(chosen)
        found |= {key: batch[key].index_select(0, regions) for key in wide}
    return found


# ---------------------------------------------------------------- the flat row


class Span(NamedTuple):
    """Neighbours in the flat row that are alike: how many sequences, readers of each, tokens of each."""

    sequences: int
    readers: int
    length: int


@dataclass(frozen=True, eq=False)
class Reading:
    """Which tokens of the flat row read, and which they read: all those of their own sequence.

    Args:
        lengths: (B,) tokens of each sequence, rising.
        counts: (B,) readers of each sequence.
        readers: (Q,) their numbers in the flat row, rising; None: all tokens read.
        device: of the states.
    """

    lengths: Tensor
    counts: Tensor
    readers: Tensor | None
    device: torch.device

    @cached_property
    def spans(self) -> list[Span]:
        """The sequences by length; `slots` gives those of a span equally many readers."""
        found, at = [], 0
        lengths, sizes = torch.unique_consecutive(self.lengths, return_counts=True)
        for length, size in zip(lengths.tolist(), sizes.tolist(), strict=True):
            found.append(Span(size, int(self.counts[at : at + size].max()), length))
            at += size
        return found

    @cached_property
    def slots(self) -> tuple[Tensor, Tensor] | None:
        """Readers with stand-ins, so that each sequence of a span has equally many, and which of them are real ones.

        None where there are equally many already.
        """
        widths = torch.cat([torch.full((span.sequences,), span.readers) for span in self.spans])
        if torch.equal(widths, self.counts):
            return None
        index, real = grid(self.counts, widths)
        return index.to(self.device), real.nonzero()[:, 0].to(self.device)

    @cached_property
    def edges(self) -> tuple[Tensor, Tensor]:
        """(B + 1,) int32: where each sequence's readers and its tokens begin, as kernels for varying lengths ask."""
        begin = lambda sizes: F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32).to(self.device)
        return begin(self.counts), begin(self.lengths)

    @cached_property
    def longest(self) -> tuple[int, int]:
        """Most readers and most tokens of a sequence."""
        return int(self.counts.max()), int(self.lengths.max())


def sequences(lengths: Tensor, device: torch.device) -> tuple[Reading, Reading]:
    """What reads in a flat row of sequences of rising (B,) lengths: everyone, and only the first token of each."""
    starts = lengths.cumsum(0) - lengths
    return Reading(lengths, lengths, None, device), Reading(
        lengths, torch.ones_like(lengths), starts.to(device), device
    )


def grid(sizes: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of items that lie behind each other, `widths` for each owner of `sizes`: its last one fills up.

    Returns:
        The numbers, and which of them are no filling; both (sum of widths,).
    """
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(widths)
    within = torch.arange(int(widths.sum())) - (widths.cumsum(0) - widths).repeat_interleave(widths)
    have = sizes.repeat_interleave(widths)
    index = starts + torch.minimum(within, (have - 1).clamp(min=0))
    return index.clamp(max=max(0, int(sizes.sum()) - 1)), within < have


class Packing:
    """Where the tokens of a batch stand in the flat row. Indices are made on the CPU: a device need not be waited for.

    Args:
        text_mask: (B, T) bool, True = real; None without text.
        region_mask: (B, R) bool, likewise.

    Raises:
        ValueError: a row is empty.
    """

    def __init__(self, text_mask: Tensor | None, region_mask: Tensor | None):
        masks = [mask for mask in (text_mask, region_mask) if mask is not None]
        self.text_length, self.device = 0 if text_mask is None else text_mask.shape[1], masks[0].device
        mask_BL = torch.cat(masks, 1).cpu()
        self.shape = tuple(mask_BL.shape)
        lengths = mask_BL.sum(1)
        if not bool(lengths.all()):
            raise ValueError(f"row {int(lengths.argmin())} of the batch has neither words nor regions: leave it out")
        # The flat row's sequences, by length; the batch's order where all have one length.
        self._order = torch.argsort(lengths, stable=True)
        self._lengths = lengths[self._order]
        sequence, place = mask_BL[self._order].nonzero(as_tuple=True)
        self._places = self._order[sequence] * mask_BL.shape[1] + place  # (P,) numbers among B * L
        sides = mask_BL[:, : self.text_length], mask_BL[:, self.text_length :]
        self._words, self._regions = (side.flatten().nonzero()[:, 0].to(self.device) for side in sides)
        # All words come in, then all regions.
        numbers = torch.empty(self.shape, dtype=torch.int64)
        numbers[:, : self.text_length][sides[0]] = torch.arange(len(self._words))
        numbers[:, self.text_length :][sides[1]] = torch.arange(len(self._words), len(place))
        self._source = numbers.flatten()[self._places].to(self.device)
        self.everyone, self.first = sequences(self._lengths, self.device)

    def words(self, values: Tensor) -> Tensor:
        """(B, T) -> (words,), those of all texts behind each other."""
        return values.flatten().index_select(0, self._words)

    def regions(self, values: Tensor) -> Tensor:
        """(B, R, ...) -> (regions, ...), those of all images behind each other."""
        return values.flatten(0, 1).index_select(0, self._regions)

    def flat_regions(self, values: Tensor) -> Tensor:
        """(B, R, X) or flat already -> (regions, X).

        Raises:
            ValueError: another number than the mask says.
        """
        values = self.regions(values) if values.dim() == 3 else values
        if len(values) != len(self._regions):
            raise ValueError(
                f"{len(values)} flat regions come with a region_mask of {len(self._regions)}: mask as many, True = real"
            )
        return values

    def joined(self, blocks: Sequence[Tensor]) -> Tensor:
        """The words of all texts behind each other (words, D), and then the regions -> the flat row (P, D)."""
        return torch.cat(list(blocks)).index_select(0, self._source)

    def only(self, asked_text: Tensor | None, asked_regions: Tensor | None) -> Reading:
        """Only these places read, (B, T) and (B, R) bool; None: none of them."""
        asked_BL = torch.zeros(self.shape, dtype=torch.bool)
        sides = (asked_BL[:, : self.text_length], asked_text), (asked_BL[:, self.text_length :], asked_regions)
        for side, asked in sides:
            if asked is not None:
                side.copy_(asked)
        asked = asked_BL.flatten()[self._places]
        owner = torch.arange(len(self._lengths)).repeat_interleave(self._lengths)
        counts = torch.bincount(owner[asked], minlength=len(self._lengths))
        return Reading(self._lengths, counts, asked.nonzero()[:, 0].to(self.device), self.device)

    def firsts(self, states: Tensor, reading: Reading) -> Tensor:
        """(Q, D) states of readers -> (B, D): each sequence's first token, in the order of the batch.

        Everyone has read, or the first ones.
        """
        starts = torch.arange(len(self._order)) if reading is self.first else self._lengths.cumsum(0) - self._lengths
        found = torch.empty_like(starts)
        found[self._order] = starts
        return states.index_select(0, found.to(self.device))

    def spread(self, states: Tensor, reading: Reading) -> Tensor:
        """(Q, D) states of readers -> (B, L, D), zeros elsewhere."""
        places = self._places.to(self.device)
        if reading.readers is not None:
            places = places.index_select(0, reading.readers)
        blank = states.new_zeros(self.shape[0] * self.shape[1], states.shape[1])
        return blank.index_copy(0, places, states).unflatten(0, self.shape)

    def spread_pairs(self, blocks: Sequence[Tensor]) -> Tensor:
        """For each span (sequences, N, S, S), how much each token reads of each -> (B, N, L, L), zeros elsewhere."""
        B, L = self.shape
        found = blocks[0].new_zeros(B * L, L, blocks[0].shape[1])
        places = self._places.to(self.device)
        sizes = [span.sequences * span.length for span in self.everyone.spans]
        for block, own in zip(blocks, places.split(sizes), strict=True):
            rows = own.view(len(block), -1)  # (sequences, S)
            found[rows[:, :, None], (rows % L)[:, None, :]] = block.permute(0, 2, 3, 1)
        return found.unflatten(0, (B, L)).permute(0, 3, 1, 2)


# ---------------------------------------------------------------- attention


def attend_packed(query: Tensor, key: Tensor, value: Tensor, reading: Reading, heads: int, dropout: float) -> Tensor:
    """Scaled dot-product attention within each sequence of the flat row, by what suits the device.

    Args:
        query: (Q, D) of the readers.
        key: (P, D) of all tokens.
        value: (P, D).
        reading: who reads.
        heads: N.
        dropout: share of the weights that are dropped.

    Returns:
        (Q, D).
    """
    query, key, value = (states.unflatten(1, (heads, -1)) for states in (query, key, value))
    if not query.is_cuda:
        return attend_spans(query, key, value, reading, dropout).flatten(1)
    if query.dtype in (torch.float16, torch.bfloat16) and query.shape[2] % 8 == 0 and _has_flash(query.device):
        return attend_varying(query, key, value, reading, dropout).flatten(1)
    return attend_padded(query, key, value, reading, dropout).flatten(1)


def attend_spans(query: Tensor, key: Tensor, value: Tensor, reading: Reading, dropout: float) -> Tensor:
    """Attention of (Q, N, H) over (P, N, H), one span of equally long sequences after the other; no padding anywhere.

    Parts are made by `split`: each slice of a tensor would add a whole tensor to the backward pass.
    """
    if not len(query):
        return query
    if slots := reading.slots:
        query = query.index_select(0, slots[0])
    spans = reading.spans
    queries = query.split([span.sequences * span.readers for span in spans])
    tokens = [span.sequences * span.length for span in spans]
    parts = zip(spans, queries, key.split(tokens), value.split(tokens), strict=True)
    found = torch.cat([_attend_span(*part, dropout) for part in parts if part[0].readers])
    return found.index_select(0, slots[1]) if slots else found


def _attend_span(span: Span, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Attention of equally long sequences; (sequences * tokens, N, H) each.

    Training multiplies the matrices out: on a CPU the backward pass of PyTorch's fused kernel is several times as slow
    at the short sequences of pairs.
    """
    query, key, value = (part.unflatten(0, (span.sequences, -1)).transpose(1, 2) for part in (query, key, value))
    if torch.is_grad_enabled() and query.requires_grad:
        weights = attention_weights(query, key).to(value.dtype)
        found = drop(weights, dropout) @ value
    else:
        found = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return found.transpose(1, 2).flatten(0, 1)


def attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """(..., readers, H) and (..., S, H) -> how much each reader reads of each token, (..., readers, S); sums are 1."""
    return ((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).softmax(-1)


def weights_of_spans(query: Tensor, key: Tensor, reading: Reading, heads: int) -> list[Tensor]:
    """What `attend_packed` weights the values with where everyone reads: for each span (sequences, N, S, S)."""
    sizes = [span.sequences * span.length for span in reading.spans]
    parts = []
    for span, *both in zip(reading.spans, query.split(sizes), key.split(sizes), strict=True):
        parts.append([part.view(span.sequences, span.length, heads, -1).transpose(1, 2) for part in both])
    return [attention_weights(query, key) for query, key in parts]


def attend_varying(query: Tensor, key: Tensor, value: Tensor, reading: Reading, dropout: float) -> Tensor:
    """`attend_spans` on a GPU, by PyTorch's flash kernel for varying lengths, which drops weights itself."""
    (begin_query, begin_key), (most_readers, most_tokens) = reading.edges, reading.longest
    return torch.ops.aten._flash_attention_forward(
        *(query, key, value, begin_query, begin_key, most_readers, most_tokens, dropout, False, False)
    )[0]


def attend_padded(query: Tensor, key: Tensor, value: Tensor, reading: Reading, dropout: float) -> Tensor:
    """`attend_spans` by padding and a mask: the reference, and for GPUs and types that have no better kernel."""
    most_readers, most_tokens = reading.longest
    wide = lambda sizes, most: [part.to(query.device) for part in grid(sizes, torch.full_like(sizes, most))]
    (readers, asked), (tokens, real) = wide(reading.counts, most_readers), wide(reading.lengths, most_tokens)
    rows = len(reading.lengths)
    part = lambda states, index: states.index_select(0, index).unflatten(0, (rows, -1)).transpose(1, 2)
    found = F.scaled_dot_product_attention(
        part(query, readers),
        part(key, tokens),
        part(value, tokens),
        attn_mask=real.view(rows, 1, 1, most_tokens),
        dropout_p=dropout,
    )
    return found.transpose(1, 2).flatten(0, 1)[asked]


def _has_flash(device: torch.device) -> bool:
    """Whether the GPU has the flash kernel."""
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device)[0] >= 8
