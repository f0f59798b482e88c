"""Files of bottom-up attention's weights, in every form they are passed around in, read as the port names them.

| file | whose | what is different |
|---|---|---|
| `pytorch_model.bin`, `.safetensors` | the public PyTorch port | nothing |
| `.pkl` | airsplay's conversion, which LXMERT used | a pickle of arrays |
| `.pth` | MILVLG's conversion | background first, two objectness logits an anchor, three other names |
| `.caffemodel` | the original | the same, all names, statistics to be divided, no anchors |
"""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uniter.pickles import read_pickle
from uniter.regions.bottom_up_rules import FINAL_WEIGHTS
from uniter.regions.caffemodel import read_caffemodel
from uniter.tensor_files import few, named_tensors, read_tensors

SUFFIXES = (".bin", ".safetensors", ".pkl", ".pth", ".pt", ".caffemodel")
_HEADS = "roi_heads.box_predictor"
_RPN = "proposal_generator.rpn_head"
ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
_IGNORED = ("pixel_mean", "pixel_std")  # Detectron2 keeps these with the weights
_MILVLG = {"cls_embed": "cls_embedding", "attr_linear1": "fc_attr", "attr_linear2": "attr_score"}
_CAFFE = {
    "rpn_conv/3x3": f"{_RPN}.conv",
    "rpn_cls_score": f"{_RPN}.objectness_logits",
    "rpn_bbox_pred": f"{_RPN}.anchor_deltas",
    **{name: f"{_HEADS}.{name}" for name in ("cls_score", "bbox_pred", "cls_embedding", "fc_attr", "attr_score")},
}
_CAFFE_LAYER = re.compile(r"(res|bn|scale)([2-5])([a-z])(\d*)_branch(1|2a|2b|2c)")
_CAFFE_BRANCH = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by the port's names, float32, without what only training needs.

    Raises:
        ValueError: no such file, an unknown form, damaged, or more than numbers in it.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the name of a file of weights ends in {', '.join(SUFFIXES)}: rename or convert it")
    if path.suffix == ".caffemodel":
        tensors = _of_caffe(read_caffemodel(path))
    else:
        tensors = named_tensors(path, _pickled(path)) if path.suffix == ".pkl" else read_tensors(path)
        if f"{_HEADS}.cls_embed.weight" in tensors:
            tensors = {_milvlg(name): value for name, value in tensors.items()}
            tensors = _background_last(tensors)
        elif path.suffix == ".pkl":
            tensors.setdefault(ANCHORS, formula_anchors())
    return {
        name: value.float().contiguous()
        for name, value in tensors.items()
        if name not in _IGNORED and not name.endswith(".num_batches_tracked")
    }


def check(tensors: dict[str, Tensor], expected: dict[str, torch.Size]) -> None:
    """Refuse tensors that are not exactly a network's.

    Raises:
        ValueError: some are missing, unknown, or of another shape; names them.
    """
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    other = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    found = {"missing": missing, "unknown": unknown, "of another shape": other}
    wrong = "; ".join(f"{what}: {few(names)}" for what, names in found.items() if names)
    if wrong:
        raise ValueError(f"not the weights of this network ({wrong}): take another file")


def formula_anchors() -> Tensor:
    """The port's anchors (12, 4): four sizes, of each three forms, about a place's corner.

    For files of airsplay's that have none; those that have some are believed.
    """
    sides = [
        ((size**2 / ratio) ** 0.5, ratio * (size**2 / ratio) ** 0.5)
        for size in (64, 128, 256, 512)
        for ratio in (0.5, 1, 2)
    ]
    return torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])


def caffe_anchors() -> Tensor:
    """The original's anchors (12, 4): three forms, of each four sizes, in whole pixels, the last one counted.

    A square of 16 pixels takes the other forms with sides rounded, and is then enlarged about its middle.
    """
    forms = ((23, 12), (16, 16), (11, 22))
    sides = [(w * larger, h * larger) for w, h in forms for larger in (4, 8, 16, 32)]
    return torch.tensor(
        [[7.5 - (w - 1) / 2, 7.5 - (h - 1) / 2, 7.5 + (w - 1) / 2, 7.5 + (h - 1) / 2] for w, h in sides]
    )


def _pickled(path: Path) -> object:
    def tensors(data: object) -> object:
        if isinstance(data, np.ndarray):
            return torch.from_numpy(data.astype(data.dtype.newbyteorder("=")))  # a copy that may be written to
        return {key: tensors(value) for key, value in data.items()} if isinstance(data, dict) else data

    return tensors(read_pickle(path, arrays=True))


def _milvlg(name: str) -> str:
    head, _, rest = name.removeprefix(f"{_HEADS}.").partition(".")
    return f"{_HEADS}.{_MILVLG[head]}.{rest}" if name.startswith(_HEADS) and head in _MILVLG else name


def _background_last(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of Caffe's layout in the port's.

    Background and "none" go from the first row to the last. An anchor's two logits become their difference, whose
    sigmoid is the same probability. Background's box is left out, and the others' deltas are scaled by what the port
    divides them by.
    """
    tensors = dict(tensors)
    for kind in ("weight", "bias"):
        for head in ("cls_score", "cls_embedding", "attr_score"):
            if (value := tensors.get(name := f"{_HEADS}.{head}.{kind}")) is not None:
                tensors[name] = torch.cat([value[1:], value[:1]])
        if (value := tensors.get(name := f"{_RPN}.objectness_logits.{kind}")) is not None and len(value) % 2 == 0:
            background, foreground = value.chunk(2)
            tensors[name] = foreground - background
        if (value := tensors.get(name := f"{_HEADS}.bbox_pred.{kind}")) is not None and len(value) % 4 == 0:
            scaled = value[4:].unflatten(0, (-1, 4)) * torch.tensor(FINAL_WEIGHTS).view(1, 4, *[1] * (value.ndim - 1))
            tensors[name] = scaled.flatten(0, 1)
    return tensors


def _of_caffe(layers: dict[str, list[np.ndarray]]) -> dict[str, Tensor]:
    tensors = {ANCHORS: caffe_anchors()}
    for layer, arrays in layers.items():
        kind, place = _caffe_place(layer)
        blobs = [torch.tensor(array) for array in arrays]
        if kind == "bn" and len(blobs) == 3:  # sums, and over how much they were summed
            by = 1 / blobs.pop().flatten()[0] if blobs[2].any() else 0
            blobs = [blob * by for blob in blobs]
        names = {"bn": ("norm.running_mean", "norm.running_var"), "scale": ("norm.weight", "norm.bias")}
        for number, blob in enumerate(blobs):
            name = [*names.get(kind, ("weight", "bias")), *(f"blob {n}" for n in range(2, len(blobs)))][number]
            tensors[f"{place}.{name}"] = _without_old_axes(blob, place, name)
    return _background_last(tensors)


def _without_old_axes(blob: Tensor, place: str, name: str) -> Tensor:
    """Old files write every array with four axes, the first ones of length 1."""
    if place.startswith((_RPN, "backbone", "roi_heads.res5")) and name == "weight":
        return blob
    axes = 2 if name == "weight" else 1
    while blob.ndim > axes and blob.shape[0] == 1:
        blob = blob[0]
    return blob


def _caffe_place(layer: str) -> tuple[str, str]:
    """What a layer of Caffe's is (res, bn, scale) and where it belongs."""
    if layer in _CAFFE:
        return "res", _CAFFE[layer]
    if layer.removeprefix("bn_").removeprefix("scale_") == "conv1":
        return layer.partition("_")[0], "backbone.stem.conv1"
    if (match := _CAFFE_LAYER.fullmatch(layer)) is None:
        return "res", f"layer {layer}"
    kind, stage, letter, number, branch = match.groups()
    block = int(number) if number else ord(letter) - ord("a")
    where = "roi_heads" if stage == "5" else "backbone"
    return kind, f"{where}.res{stage}.{block}.{_CAFFE_BRANCH[branch]}"
