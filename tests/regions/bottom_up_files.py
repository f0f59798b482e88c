"""A tiny network of bottom-up attention with made-up weights, and its weights in every layout they are passed around in."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from uniter.regions.bottom_up import SIZES
from uniter.regions.bottom_up_network import BottomUpConfig, BottomUpNetwork
from uniter.regions.bottom_up_weights import ANCHORS, caffe_anchors

CONFIG = BottomUpConfig(50, 8, 16, 4, 8, 12, classes=5, attributes=4)
BRANCHES = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}
HEADS, RPN = "roi_heads.box_predictor", "proposal_generator.rpn_head"


def tiny_weights() -> dict[str, torch.Tensor]:
    """By the port's names; every statistic is another number, so that none can stand in for another."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in BottomUpNetwork(CONFIG).state_dict().items():
        z = torch.randn(value.shape, generator=generator)
        fan = max(value[0].numel(), 1) if value.ndim else 1
        if name.endswith("num_batches_tracked"):
            z = torch.tensor(7)
        elif name.endswith("norm.running_var"):
            z = (0.2 * z).exp()
        elif name.endswith("norm.weight"):
            z = (0.3 if ".conv3." in name else 1) * (1 + 0.1 * z)
        elif value.ndim == 1:
            z = 0.1 * z
        else:
            z = z * (2 / fan) ** 0.5
        weights[name] = z
    weights["backbone.stem.conv1.weight"] /= 64
    weights[f"{RPN}.anchor_deltas.weight"] *= 0.2
    for head, gain in (("cls_score", 0.5), ("bbox_pred", 0.2)):  # what all features share says nothing
        z = weights[f"{HEADS}.{head}.weight"]
        weights[f"{HEADS}.{head}.weight"] = gain * (z - z.mean(1, keepdim=True))
    weights[ANCHORS] = caffe_anchors()
    return weights


def caffe_layout(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Background first, two objectness logits an anchor, a box for background, deltas not divided by anything."""
    found = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    for kind in ("weight", "bias"):
        for head in ("cls_score", "cls_embedding", "attr_score"):
            if (name := f"{HEADS}.{head}.{kind}") in found:
                found[name] = found[name].roll(1, dims=0)
        logits = found[f"{RPN}.objectness_logits.{kind}"]
        found[f"{RPN}.objectness_logits.{kind}"] = torch.cat([-0.5 * logits, 0.5 * logits])
        boxes = found[f"{HEADS}.bbox_pred.{kind}"].clone()
        for column, by in enumerate((10, 10, 5, 5)):
            boxes[column::4] /= by
        found[f"{HEADS}.bbox_pred.{kind}"] = torch.cat([torch.full_like(boxes[:4], 3), boxes])
    return found


# ---------------------------------------------------------------- files


def write_bin(path: Path, weights: dict) -> None:
    torch.save(weights, path)


def write_safetensors(path: Path, weights: dict) -> None:
    save_file(weights, path)


def write_pkl(path: Path, weights: dict) -> None:
    arrays = {name: value.numpy() for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, protocol=2))


def write_pth(path: Path, weights: dict) -> None:
    theirs = {"cls_embedding": "cls_embed", "fc_attr": "attr_linear1", "attr_score": "attr_linear2"}
    renamed = {}
    for name, value in caffe_layout(weights).items():
        for ours, other in theirs.items():
            name = name.replace(f".{ours}.", f".{other}.")
        renamed[name] = value
    torch.save({"model": renamed, "iteration": 5}, path)


def write_caffemodel(path: Path, weights: dict) -> None:
    layers = b"".join(field(100, layer) for layer in caffe_layers(weights, (1, 7), array))
    path.write_bytes(field(1, b"ResNet-101") + layers)


def write_old_caffemodel(path: Path, weights: dict) -> None:
    path.write_bytes(b"".join(field(2, layer) for layer in caffe_layers(weights, (4, 6), old_array)))


WRITERS = {
    "pytorch_model.bin": write_bin,
    "model.safetensors": write_safetensors,
    "faster_rcnn_from_caffe_attr.pkl": write_pkl,
    "bua-caffe-frcnn.pth": write_pth,
    "resnet101_faster_rcnn_final.caffemodel": write_caffemodel,
    "old.caffemodel": write_old_caffemodel,
}


def write(folder: Path, name: str, weights: dict | None = None) -> Path:
    """A file of this name and layout, and its sizes beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SIZES).write_text(json.dumps(vars(CONFIG)))
    WRITERS[name](folder / name, tiny_weights() if weights is None else weights)
    return folder / name


# ---------------------------------------------------------------- protocol buffers


def varint(number: int) -> bytes:
    found = b""
    while number >= 0x80:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def array(values: np.ndarray) -> bytes:
    shape = field(7, field(1, b"".join(varint(side) for side in values.shape)))
    return field(5, values.astype("<f4").tobytes()) + shape


def old_array(values: np.ndarray) -> bytes:
    """Four axes, and numbers one by one; a field that nobody here reads comes between."""
    sides = [1] * (4 - values.ndim) + list(values.shape)
    shape = b"".join(varint(number << 3) + varint(side) for number, side in enumerate(sides, 1))
    numbers = b"".join(varint(5 << 3 | 5) + struct.pack("<f", value) for value in values.ravel())
    return shape + field(6, b"\x00" * 8) + numbers


def caffe_layers(weights: dict, fields: tuple[int, int], written) -> list[bytes]:
    def layer(name: str, *blobs: torch.Tensor) -> bytes:
        return field(fields[0], name.encode()) + b"".join(field(fields[1], written(blob.numpy())) for blob in blobs)

    found = caffe_layout(weights)
    names = {
        f"{RPN}.conv": "rpn_conv/3x3",
        f"{RPN}.objectness_logits": "rpn_cls_score",
        f"{RPN}.anchor_deltas": "rpn_bbox_pred",
        **{f"{HEADS}.{head}": head for head in ("cls_score", "bbox_pred", "cls_embedding", "fc_attr", "attr_score")},
    }
    layers = [layer("data"), layer("conv1_relu")]
    for ours, theirs in names.items():
        layers.append(
            layer(theirs, *(found[f"{ours}.{kind}"] for kind in ("weight", "bias") if f"{ours}.{kind}" in found))
        )
    for name in [name for name in found if name.endswith(".norm.weight")]:
        ours = name.removesuffix(".norm.weight")
        if "stem" in ours:
            place, batch, scale = "conv1", "bn_conv1", "scale_conv1"
        else:
            stage, block, conv = ours.split("res")[-1].split(".")
            letter = "abcdefgh"[int(block)] if stage in "25" or block == "0" else f"b{block}"
            place = f"{stage}{letter}_branch{BRANCHES[conv]}"
            place, batch, scale = f"res{place}", f"bn{place}", f"scale{place}"
        layers.append(layer(place, found[f"{ours}.weight"]))
        by = 4.0  # how much the statistics were summed over
        mean, variance = found[f"{ours}.norm.running_mean"] * by, found[f"{ours}.norm.running_var"] * by
        layers.append(layer(batch, mean, variance, torch.tensor([by])))
        layers.append(layer(scale, found[name], found[f"{ours}.norm.bias"]))
    return layers
