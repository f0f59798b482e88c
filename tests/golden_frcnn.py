"""The golden set of bottom-up attention: what the public port gave, in $UNITER_GOLDEN_FRCNN (default: ../shared/golden-frcnn).

Every size, name, salt and gain is read from the set's files; the rule of the weights is its README's.
"""

import json
import math
import os
import re
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from uniter.regions.bottom_up import BottomUpDetector
from uniter.regions.bottom_up_network import POOLED, STRIDE, BottomUpConfig
from uniter.regions.bottom_up_rules import FINAL_WEIGHTS, MEAN, MODES, Mode
from uniter.regions.bottom_up_weights import ANCHORS

GOLDEN = Path(os.environ.get("UNITER_GOLDEN_FRCNN", Path(__file__).parents[2] / "shared" / "golden-frcnn"))
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden set at {GOLDEN} (set UNITER_GOLDEN_FRCNN)")


@cache
def settings() -> dict:
    return json.loads((GOLDEN / "config.json").read_text())


def cases() -> list[str]:
    return sorted(settings()["cases"]) if GOLDEN.is_dir() else []


def kinds() -> list[str]:
    return sorted(settings()["model"]) if GOLDEN.is_dir() else []


@cache
def probe(kind: str) -> dict[str, dict]:
    return json.loads((GOLDEN / f"weights_probe_{kind}.json").read_text())


def anchors() -> np.ndarray:
    """By the formula that the set's config says."""
    said = settings()["cell_anchors"]
    if not isinstance(said, str):
        return np.array(said, dtype=np.float64).reshape(-1, 4)
    text = said.partition(":")[2].replace("^", "**")
    loops = re.findall(r"for (?:\w+ )?(\w+) in \(([^)]*)\)", text)
    rules = dict(re.findall(r"\b(w|h)=([^,]+(?:\([^)]*\))?)", text.partition("row=")[0]))
    row = re.search(r"row=\((.*)\)$", text.strip())[1]
    (outer, outer_values), (inner, inner_values) = [(name, values.split(",")) for name, values in loops]
    rows = []
    for first in outer_values:
        for second in inner_values:
            known = {"sqrt": math.sqrt, outer: float(first), inner: float(second)}
            for name in ("w", "h"):
                known[name] = eval(rules[name], {"__builtins__": {}}, known)  # a formula of the set
            rows.append(eval(f"[{row}]", {"__builtins__": {}}, known))
    return np.array(rows)


@cache
def weights(kind: str) -> dict[str, torch.Tensor]:
    """Every tensor by the port's names; read them, never write into them."""
    gains, made = settings()["weights"][kind], {}
    for name, said in probe(kind).items():
        shape = said["shape"]
        seed = int.from_bytes(sha256((gains["salt"] + name).encode()).digest()[:8], "big")
        z = np.random.default_rng(seed).standard_normal(shape)
        made[name] = torch.tensor(_values(name, z, math.prod(shape[1:]), gains), dtype=torch.float32)
        if name.endswith("num_batches_tracked"):
            made[name] = torch.zeros((), dtype=torch.int64)
    return made


def _values(name: str, z: np.ndarray, fan: int, gains: dict) -> np.ndarray:
    conv3 = ".conv3." in name
    if name.endswith("num_batches_tracked"):
        return np.zeros(())
    if name == ANCHORS:
        return anchors()
    if name.endswith(".norm.running_mean"):
        return 0.1 * z
    if name.endswith(".norm.running_var"):
        return np.exp(0.2 * z)
    if name.endswith(".norm.weight"):
        return (gains["c3"] if conv3 else 1) * (1 + 0.1 * z)
    if name.endswith(".norm.bias"):
        return (gains["b5"] if conv3 and "res5" in name else 0) + 0.1 * z
    if name.endswith(".bias"):
        return 0.1 * z
    if name.startswith("backbone.stem"):
        return math.sqrt(2 / fan) / gains["stem_div"] * z
    of = {
        "objectness_logits": "obj",
        "anchor_deltas": "rpn_delta",
        "cls_score": "cls",
        "bbox_pred": "box",
        "attr_score": "attr",
    }
    head = name.split(".")[-2]
    if head in of:
        return gains[of[head]] / math.sqrt(fan) * z
    return z if head == "cls_embedding" else math.sqrt(2 / fan) * z


def config(kind: str) -> BottomUpConfig:
    """The network's sizes; what is no setting of ours has to be as it always is."""
    said = settings()["model"][kind]
    assert (said["anchor_stride"], said["roi_pool"], said["roi_scale"]) == (STRIDE, POOLED, 1 / STRIDE)
    assert said["pixel_mean_bgr"] == list(MEAN) and said["pixel_std"] == [1, 1, 1] and said["pad_value"] == 0
    assert said["rpn_box_weights"] == [1, 1, 1, 1] and said["roi_box_weights"] == list(FINAL_WEIGHTS)
    return BottomUpConfig(
        depth=said["resnet_depth"],
        stem_channels=said["stem_channels"],
        res2_channels=said["res2_out_channels"],
        bottleneck_channels=said["bottleneck_width"],
        rpn_channels=said["rpn_hidden"],
        anchors=len(anchors()),
        classes=said["num_classes"],
        attributes=said["num_attrs"],
    )


def mode(kind: str, choose: str = "port") -> Mode:
    """The port's way at the set's sizes; with `official`, the published choice among the port's proposals."""
    said = settings()["model"][kind]
    port = replace(
        MODES["port"],
        sides=(said["min_size"], said["max_size"]),
        least_side=said["rpn_min_box"],
        proposals=(said["rpn_pre_nms"], said["rpn_post_nms"]),
        proposal_overlap=said["rpn_nms"],
        overlaps=tuple(said["final_nms"]),
        regions=(said["min_detections"], said["max_detections"]),
    )
    if choose == "port":
        return port
    official = MODES[choose]
    return replace(port, choose=choose, overlaps=official.overlaps, regions=official.regions)


@cache
def detector(kind: str, choose: str = "port", precision: str = "float32") -> BottomUpDetector:
    given = {name: value for name, value in weights(kind).items() if not name.endswith("num_batches_tracked")}
    return BottomUpDetector.of_weights(given, config(kind), mode(kind, choose), precision)


class Case:
    """One file of the set, and which of its fields have been compared."""

    def __init__(self, name: str) -> None:
        said = settings()["cases"][name]
        self.kind = said["kind"]
        self.images = [Image.open(GOLDEN / file).convert("RGB") for file in said["images"]]
        self.fields = dict(np.load(GOLDEN / f"{name}.npz"))
        self.compared: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.fields[name]

    def same(self, name: str, ours, atol: float = 0.0) -> None:
        ours = ours.numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
        self.compared.add(name)
        assert ours.shape == self[name].shape, name
        np.testing.assert_allclose(ours, self[name], rtol=0, atol=atol, err_msg=name)
