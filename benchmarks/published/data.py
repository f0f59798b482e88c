"""The databases, examples and batches: read, masked and padded in Python, an example at a time."""

import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

GROUP = 8


class TextDatabase:
    """Captions: LMDB of msgpack packed by lz4, JSON files beside it."""

    def __init__(self, folder: Path, longest: int = -1):
        import lmdb

        self.id2len = json.loads((folder / "id2len.json").read_text())
        if longest != -1:
            self.id2len = {name: length for name, length in self.id2len.items() if length <= longest}
        self.txt2img = json.loads((folder / "txt2img.json").read_text())
        meta = json.loads((folder / "meta.json").read_text())
        self.cls, self.sep, self.mask, self.range = meta["CLS"], meta["SEP"], meta["MASK"], meta["v_range"]
        self.environment = lmdb.open(str(folder), readonly=True, create=False, lock=False, readahead=True)
        self.transaction = self.environment.begin(buffers=True)
        self.ids = list(self.id2len)

    def __getitem__(self, name: str) -> dict[str, Any]:
        import msgpack
        from lz4.frame import decompress

        return msgpack.loads(decompress(self.transaction.get(name.encode())), raw=False)

    def wrapped(self, pieces: Sequence[int]) -> Tensor:
        return torch.tensor([self.cls, *pieces, self.sep])

    def close(self) -> None:
        self.environment.close()


class ImageDatabase:
    """Regions of images: LMDB of compressed npz, or of msgpack."""

    def __init__(self, folder: Path, counts: Path | None = None, compressed: bool = True, fixed: int = 100):
        import lmdb

        self.name2nbb = json.loads(counts.read_text()) if counts else None
        self.compressed, self.fixed = compressed, fixed
        self.environment = lmdb.open(str(folder), readonly=True, create=False, lock=False, readahead=True)
        self.transaction = self.environment.begin(buffers=True)

    def count(self, name: str) -> int:
        return self.fixed if self.name2nbb is None else self.name2nbb[name]

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """What the model reads: features and boxes, unpacked from the database once more."""
        value = self.transaction.get(name.encode())
        if self.compressed:
            with io.BytesIO(value) as file:
                stored = np.load(file, allow_pickle=False)
                return {"features": stored["features"], "norm_bb": stored["norm_bb"]}
        import msgpack

        return {
            key.decode(): np.frombuffer(
                array[b"data"], np.dtype((array[b"type"].decode(), tuple(array[b"shape"])))
            ).reshape(array[b"shape"])
            for key, array in msgpack.unpackb(value, raw=True).items()
        }

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        """(R, F) features and (R, 7) places, float32."""
        found, count = self.arrays(name), self.count(name)
        features = torch.tensor(found["features"][:count, :]).float()
        boxes = torch.tensor(found["norm_bb"][:count, :]).float()
        return features, torch.cat([boxes, boxes[:, 4:5] * boxes[:, 5:]], -1)

    def close(self) -> None:
        self.environment.close()


# ---------------------------------------------------------------- masking


def random_word(pieces: list[int], words: Sequence[int], mask: int) -> tuple[list[int], list[int]]:
    """Pieces with holes, and labels: the true piece at holes, -1 elsewhere."""
    labels = []
    for i, piece in enumerate(pieces):
        drawn = random.random()
        if drawn >= 0.15:
            labels.append(-1)
            continue
        drawn /= 0.15
        if drawn < 0.8:
            pieces[i] = mask
        elif drawn < 0.9:
            pieces[i] = random.choice(list(range(*words)))  # the whole list anew for each word, as published
        labels.append(piece)
    if all(label == -1 for label in labels):
        labels[0], pieces[0] = pieces[0], mask
    return pieces, labels


class MaskedWordExamples:
    """The MLM data set: text, regions and a mask drawn whenever an example is asked for."""

    def __init__(self, texts: TextDatabase, images: ImageDatabase):
        self.texts, self.images = texts, images
        self.ids = texts.ids
        self.lengths = [texts.id2len[name] + images.count(texts.txt2img[name]) for name in self.ids]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        example = self.texts[self.ids[index]]
        pieces, labels = random_word(list(example["input_ids"]), self.texts.range, self.texts.mask)
        features, places = self.images[example["img_fname"]]
        ids = self.texts.wrapped(pieces)
        mask = torch.ones(len(ids) + len(features), dtype=torch.long)
        return ids, features, places, mask, torch.tensor([-1, *labels, -1])


# ---------------------------------------------------------------- batches


def padded(tensors: Sequence[Tensor], value: float = 0) -> Tensor:
    """(R, F) each -> (B, longest, F)."""
    out = torch.zeros(len(tensors), max(len(tensor) for tensor in tensors), tensors[0].shape[-1])
    if value:
        out.fill_(value)
    for row, tensor in zip(out, tensors, strict=True):
        row[: len(tensor)] = tensor
    return out


def gather_index(words: Sequence[int], things: Sequence[int], longest: int, width: int) -> Tensor:
    """(B, width): where each joint place lies in padded text followed by padded regions."""
    index = torch.arange(width).unsqueeze(0).repeat(len(words), 1)
    for row, text, regions in zip(index, words, things, strict=True):
        row[text : text + regions] = torch.arange(longest, longest + regions)
    return index


def scatter_index(words: Sequence[int], longest: int, width: int) -> Tensor:
    """(B, width): the way back, for the transport."""
    index = torch.arange(width).unsqueeze(0).repeat(len(words), 1)
    for row, text in zip(index, words, strict=True):
        row[text:] = torch.arange(longest, longest + width - text)
    return index


def collate(examples: Sequence[tuple[Tensor, ...]]) -> dict[str, Any]:
    """(ids, features, places, mask) each, and labels of words behind them or not -> a padded batch."""
    ids, features, places, masks, *labels = zip(*examples, strict=True)
    words, things = [len(one) for one in ids], [len(one) for one in features]
    input_ids = pad_sequence(ids, batch_first=True, padding_value=0)
    attn_masks = pad_sequence(masks, batch_first=True, padding_value=0)
    batch = {
        "input_ids": input_ids,
        "position_ids": torch.arange(input_ids.shape[1]).unsqueeze(0),
        "img_feat": padded(features),
        "img_pos_feat": padded(places),
        "attn_masks": attn_masks,
        "gather_index": gather_index(words, things, input_ids.shape[1], attn_masks.shape[1]),
    }
    if labels:
        batch["txt_labels"] = pad_sequence(labels[0], batch_first=True, padding_value=-1)
    return batch


def transport_inputs(words: Sequence[int], things: Sequence[int], width: int) -> dict[str, Any]:
    """What an ITM batch has besides, of (B,) lengths and the joint width."""
    scatter = scatter_index(words, max(words), width)
    pad = lambda lengths: torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]
    return {"ot_scatter": scatter, "scatter_max": scatter.max(), "txt_pad": pad(words), "img_pad": pad(things)}


def token_buckets(
    lengths: Sequence[int], budget: int, bucket: int = 8192, keep_last: bool = False, order: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """Batches by tokens. The longest length seen is carried from a batch to the next within a bucket, never reset.

    Args:
        lengths: word pieces and regions, CLS and SEP not counted.
        budget: tokens.
        bucket: so many are sorted together.
        keep_last: a bucket's unfinished batch is evaluated, in training it is dropped.
        order: of the examples; shuffled if left out.
    """
    ids = list(range(len(lengths))) if order is None else list(order)
    if order is None:
        random.shuffle(ids)
    batches = []
    for start in range(0, len(ids), bucket):
        longest, batch = 0, []
        in_bucket = sorted(ids[start : start + bucket], key=lambda i: lengths[i], reverse=True)
        for at in range(0, len(in_bucket), GROUP):
            group = in_bucket[at : at + GROUP]
            longest = max(longest, max(lengths[i] for i in group))
            if longest * (len(batch) + GROUP) > budget:
                if not batch:
                    raise ValueError(f"{GROUP} examples of {longest} tokens do not fit into a budget of {budget}")
                batches.append(batch)
                batch = []
            batch.extend(group)
        if keep_last and batch:
            batches.append(batch)
    if order is None:
        random.shuffle(batches)
    return iter(batches)


def mlm_batch(dataset: MaskedWordExamples, indices: Sequence[int]) -> dict[str, Any]:
    """A batch of the MLM data set, made an example at a time."""
    return collate([dataset[i] for i in indices])


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in mappings moved."""
    if isinstance(value, Mapping):
        return {key: to_device(inner, device) for key, inner in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
