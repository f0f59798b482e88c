"""The bottom-up detector against inputs and outputs of its public port and of the published selection."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from uniter.regions.bottom_up import BottomUpDetector
from uniter.regions.bottom_up_network import BottomUpConfig, BottomUpNetwork
from uniter.regions.bottom_up_rules import Mode, choose_official

GOLDEN = Path(os.environ.get("UNITER_GOLDEN_FRCNN", Path(__file__).parents[3] / "shared" / "golden-frcnn"))
SETTINGS = json.loads((GOLDEN / "config.json").read_text()) if GOLDEN.is_dir() else {"cases": {}}
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no folder {GOLDEN}")


def made(name: str, shape: tuple[int, ...], said: dict) -> np.ndarray:
    """The weights of a tensor by the golden set's rule."""
    seed = int.from_bytes(hashlib.sha256((said["salt"] + name).encode()).digest()[:8], "big")
    z = np.random.default_rng(seed).standard_normal(shape)
    fan = float(np.prod(shape[1:]))
    if "cell_anchors" in name:
        sides = [(np.sqrt(s * s / r), np.sqrt(s * s / r) * r) for s in (64, 128, 256, 512) for r in (0.5, 1, 2)]
        return np.array([(-w / 2, -h / 2, w / 2, h / 2) for w, h in sides])
    if name.endswith("norm.running_mean"):
        return 0.1 * z
    if name.endswith("norm.running_var"):
        return np.exp(0.2 * z)
    if name.endswith("norm.weight"):
        return (said["c3"] if ".conv3." in name else 1) * (1 + 0.1 * z)
    if name.endswith("norm.bias"):
        return (said["b5"] if "res5" in name and ".conv3." in name else 0) + 0.1 * z
    if name.endswith(".bias"):
        return 0.1 * z
    gains = {
        "backbone.stem.conv1.": np.sqrt(2 / fan) / said["stem_div"],
        "objectness_logits": said["obj"] / np.sqrt(fan),
        "anchor_deltas": said["rpn_delta"] / np.sqrt(fan),
        "cls_score": said["cls"] / np.sqrt(fan),
        "bbox_pred": said["box"] / np.sqrt(fan),
        "attr_score": said["attr"] / np.sqrt(fan),
        "cls_embedding": 1.0,
    }
    return next((gain for part, gain in gains.items() if part in name), np.sqrt(2 / fan)) * z


def sizes(kind: str) -> BottomUpConfig:
    said = SETTINGS["model"][kind]
    return BottomUpConfig(
        depth=said["resnet_depth"],
        stem_channels=said["stem_channels"],
        res2_channels=said["res2_out_channels"],
        bottleneck_channels=said["bottleneck_width"],
        rpn_channels=said["rpn_hidden"],
        classes=said["num_classes"],
        attributes=said["num_attrs"],
    )


def mode(kind: str) -> Mode:
    said = SETTINGS["model"][kind]
    return Mode(
        (said["min_size"], said["max_size"]),
        "float",
        False,
        said["rpn_min_box"],
        "port",
        tuple(said["final_nms"]),
        (said["min_detections"], said["max_detections"]),
        proposals=(said["rpn_pre_nms"], said["rpn_post_nms"]),
        proposal_overlap=said["rpn_nms"],
    )


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    """A detector of each kind, loaded from a file of the golden weights."""
    kept = {}

    def get(kind: str) -> BottomUpDetector:
        if kind not in kept:
            with torch.device("meta"):
                state = BottomUpNetwork(sizes(kind)).state_dict()
            weights = {
                name: torch.from_numpy(made(name, tuple(value.shape), SETTINGS["weights"][kind])).float()
                for name, value in state.items()
                if not name.endswith("num_batches_tracked")
            }
            path = tmp_path_factory.mktemp(kind) / "model.safetensors"
            save_file(weights, path)
            kept[kind] = BottomUpDetector.load(path, mode(kind), config=sizes(kind))
        return kept[kind]

    return get


def close(found, wanted, tolerance):
    found = np.asarray(found.detach() if isinstance(found, torch.Tensor) else found)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance


@needs_golden
@torch.inference_mode()
@pytest.mark.parametrize("case", SETTINGS["cases"])
def test_golden_case(case, detectors):
    from uniter.regions.bottom_up_rules import Scaled, scale

    said, kind = np.load(GOLDEN / f"{case}.npz"), SETTINGS["cases"][case]["kind"]
    detector = detectors(kind)
    pictures = [Image.open(GOLDEN / name).convert("RGB") for name in SETTINGS["cases"][case]["images"]]
    scaled = [scale(picture, detector.mode) for picture in pictures]
    for one, size, wanted in zip(scaled, said["sizes_hw"], said["input"], strict=True):
        assert one.size == tuple(size)
        close(one.pixels, wanted[:, : size[0], : size[1]], 1e-3)
    pixels = torch.from_numpy(said["input"])
    maps = detector.network.maps(pixels)
    close(maps, said["res4"], 5e-4)
    logits, deltas = detector.network.propose(maps)
    found = detector.candidates(pixels, scaled)
    given = detector.candidates(
        pixels, scaled, [torch.from_numpy(said[f"given_boxes_{i}"]).float() for i in range(len(pictures))]
    )
    for i, (picture, one) in enumerate(zip(pictures, found, strict=True)):
        close(one.boxes, said[f"proposals_{i}"], 0.02)
        close(one.objectness, said[f"objectness_{i}"], 1e-3)
        close(one.features, said[f"pooled_{i}"], 5e-4)
        close(one.classes, said[f"cls_logits_{i}"], 1e-3)
        close(given[i].features, said[f"given_pooled_{i}"], 5e-4)
        close(given[i].classes, said[f"given_cls_logits_{i}"], 1e-3)
        close(detector.network.attributes(one.features, one.classes), said[f"attr_logits_{i}"], 1e-3)
        chosen = detector.choose(one, scaled[i])
        assert np.array_equal(chosen.rows.numpy(), said[f"keep_{i}"])
        close(chosen.boxes, said[f"boxes_{i}"], 0.02)
        close(chosen.scores, said[f"obj_probs_{i}"], 1e-4)
        regions, attributes = detector._regions(picture, one, chosen)
        close(regions.features, said[f"roi_features_{i}"], 5e-4)
        close(np.roll(regions.class_probs, -1, axis=1), said[f"class_probs_{i}"], 1e-4)
        assert np.array_equal(regions.class_probs[:, 1:].argmax(1), said[f"obj_ids_{i}"])
        assert np.array_equal(attributes["attribute"].argmax(1), said[f"attr_ids_{i}"])
        close(attributes["attribute"].max(1), said[f"attr_probs_{i}"], 1e-4)
        official = Mode(detector.mode.sides, "caffe", True, 0.0, "official", (0.3,), (10, 100))
        back = tuple(said["scales_yx"][i][::-1].tolist())
        picked = choose_official(one.boxes, one.classes.softmax(1), Scaled(scaled[i].pixels, back), official)
        rows_sure, scores_sure, _ = said[f"butd_tie_free_{i}"]
        ours, theirs = picked.rows.argsort(), said[f"butd_keep_{i}"].argsort()  # ours come by falling confidence
        if rows_sure:
            rows = picked.rows[ours]
            assert np.array_equal(rows.numpy(), said[f"butd_keep_{i}"][theirs])
            close(picked.boxes[ours], said[f"butd_boxes_{i}"][theirs], 0.02)
            close(one.features[rows], said[f"butd_features_{i}"][theirs], 5e-4)
            close(one.classes[rows].softmax(1).roll(1, 1), said[f"butd_soft_labels_{i}"][theirs], 1e-4)
        if scores_sure:
            close(picked.scores[ours], said[f"butd_conf_{i}"][theirs], 1e-4)
