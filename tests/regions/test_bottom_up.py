import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bottom_up_files import CONFIG, HEADS, WRITERS, tiny_weights, write
from PIL import Image

from uniter import cli
from uniter.pipeline import Uniter
from uniter.regions import bottom_up_network
from uniter.regions.bottom_up import MODES, BottomUpDetector, load
from uniter.regions.bottom_up_rules import Scaled, confidences, propose, scale
from uniter.regions.bottom_up_weights import ANCHORS, caffe_anchors, formula_anchors, read_weights
from uniter.regions.caffemodel import read_caffemodel
from uniter.regions.detectors import Detector, load_detector
from uniter.regions.store import Store
from uniter.scenes.draw import draw
from uniter.scenes.world import make_scene


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {name: write(folder / name.partition(".")[0], name) for name in WRITERS}


@pytest.fixture(scope="module")
def official(files) -> BottomUpDetector:
    return load_detector(f"bottom-up:{files['pytorch_model.bin']}", "cpu")


@pytest.fixture(scope="module")
def port(files) -> BottomUpDetector:
    return load_detector(f"bottom-up-port:{files['pytorch_model.bin']}", "cpu")


@pytest.fixture(scope="module")
def picture():
    return draw(make_scene(0, "val", 0))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WRITERS)
def test_every_form_of_the_same_weights_gives_the_same_regions(files, official, port, picture, name, mode):
    first = {"official": official, "port": port}[mode]
    other = BottomUpDetector.load(files[name], mode)
    (ours, attributes), (theirs, their_attributes) = (d.detect_with_attributes([picture])[0] for d in (first, other))
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=1e-3)
    for field in ("features", "class_probs", "scores"):
        np.testing.assert_allclose(getattr(theirs, field), getattr(ours, field), atol=1e-5, err_msg=field)
    np.testing.assert_allclose(their_attributes["attribute"], attributes["attribute"], atol=1e-5)
    assert len(np.unique(ours.class_probs.argmax(1))) > 1  # not all the same anyhow
    if name in ("model.safetensors", "faster_rcnn_from_caffe_attr.pkl"):
        assert other.fingerprint == first.fingerprint


@pytest.mark.parametrize("name", WRITERS)
def test_what_does_not_fit_is_named(tmp_path, name):
    weights = tiny_weights()
    lost = weights.pop(f"{HEADS}.fc_attr.bias")
    weights["backbone.res3.1.conv2.weight"] = torch.zeros(3, 3, 3, 3)
    weights["backbone.res4.6.conv1.weight"] = torch.zeros(2, 2, 1, 1)
    weights["backbone.res4.6.conv1.norm.weight"] = lost  # the layouts go by it
    weights["backbone.res4.6.conv1.norm.bias"] = lost
    weights["backbone.res4.6.conv1.norm.running_mean"] = weights["backbone.res4.6.conv1.norm.running_var"] = lost + 1
    if name == "model.safetensors":
        weights = {key: value.clone() for key, value in weights.items()}
    path = write(tmp_path, name, weights)
    with pytest.raises(ValueError) as caught:
        BottomUpDetector.load(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    assert re.search(r"missing: roi_heads\.box_predictor\.fc_attr\.bias;", text)
    assert re.search(r"unknown: .*backbone\.res4\.6\.conv1\.weight", text)
    assert re.search(r"shape: backbone\.res3\.1\.conv2\.weight \(3, 3, 3, 3\) instead of \(8, 8, 3, 3\)\)", text)


@pytest.mark.parametrize("name", WRITERS)
def test_a_cut_file_is_one_line(files, tmp_path, name):
    whole = files[name].read_bytes()
    (tmp_path / "bottom_up.json").write_bytes(files[name].with_name("bottom_up.json").read_bytes())
    for length in (0, 1, 9, 100, len(whole) // 3, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ValueError) as caught:
            BottomUpDetector.load(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_spoilt_bytes_of_a_caffemodel_are_arrays_or_one_line(files, tmp_path):
    whole = files["old.caffemodel"].read_bytes()[:4000]
    draws = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(whole)
        for place in draws.integers(0, len(whole), 5):
            spoilt[place] = draws.integers(0, 256)
        (tmp_path / "a.caffemodel").write_bytes(spoilt)
        try:
            read_caffemodel(tmp_path / "a.caffemodel")
        except ValueError as error:
            assert "a.caffemodel" in str(error)
    huge = b"\xa2\x06\x0e" + b"\x3a\x0c" + b"\x3a\x0a" + b"\x0a\x08" + b"\xff\xff\xff\xff\xff\xff\xff\x7f"
    (tmp_path / "a.caffemodel").write_bytes(huge)  # an array of 2**56 numbers
    with pytest.raises(ValueError, match="not a whole"):
        read_caffemodel(tmp_path / "a.caffemodel")
    with pytest.raises(ValueError, match="check the path"):
        read_caffemodel(tmp_path / "none.caffemodel")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("run",)


@pytest.mark.parametrize("name", ["a.bin", "a.pth", "a.pkl"])
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with Path(name).open("wb") as file:
        (pickle.dump if name == "a.pkl" else torch.save)({"model": {"a": Evil()}}, file)
    with pytest.raises(ValueError, match="mkdir"):
        BottomUpDetector.load(name)
    assert not (tmp_path / "run").exists()


def test_anchors_are_the_files_own_unless_it_has_none(files, tmp_path):
    weights = tiny_weights()
    weights[ANCHORS] = weights[ANCHORS] + 3
    assert torch.equal(read_weights(write(tmp_path / "1", "pytorch_model.bin", weights))[ANCHORS], weights[ANCHORS])
    pkl = "faster_rcnn_from_caffe_attr.pkl"
    assert torch.equal(read_weights(write(tmp_path / "2", pkl, weights))[ANCHORS], weights[ANCHORS])
    del weights[ANCHORS]
    assert torch.equal(read_weights(write(tmp_path / "3", pkl, weights))[ANCHORS], formula_anchors())
    with pytest.raises(ValueError, match=f"missing: {re.escape(ANCHORS)}"):
        BottomUpDetector.load(write(tmp_path / "4", "pytorch_model.bin", weights))


def test_anchors_of_the_original():
    anchors = caffe_anchors()
    sides = anchors[:, 2:] - anchors[:, :2] + 1
    assert sides[[0, 1, 4, 8]].tolist() == [[92, 48], [184, 96], [64, 64], [44, 88]]  # forms first, then sizes
    assert ((anchors[:, :2] + anchors[:, 2:]) / 2 == 7.5).all() and (anchors == anchors.round()).all()


def test_names_beside_the_file(files, tmp_path):
    path = write(tmp_path, "model.safetensors")
    assert BottomUpDetector.load(path).class_names == ["background", *(f"class {n}" for n in range(1, 6))]
    (tmp_path / "objects_vocab.txt").write_text("cat,kitten\ndog\nfire hydrant\nsky\ntree\n")
    (tmp_path / "attributes_vocab.txt").write_text("red\nbig\nwet\nold\n")
    named = BottomUpDetector.load(tmp_path)  # the folder's one file
    assert named.class_names == ["background", "cat", "dog", "fire hydrant", "sky", "tree"]
    assert named.attribute_names == {"attribute": ["red", "big", "wet", "old"]}
    (tmp_path / "objects_vocab.txt").write_text("cat\n")
    with pytest.raises(ValueError, match=r"objects_vocab\.txt: 1 lines for 5 names"):
        BottomUpDetector.load(path)


def test_sizes_beside_the_file(tmp_path):
    path = write(tmp_path, "model.safetensors")
    for text, said in (
        ('{"depth": 51}', "depth is one of 50, 101, 152"),
        ('{"clases": 5}', "clases"),
        ('{"classes": "5"}', "'5' is no size"),
        ("{", "not JSON"),
    ):
        (tmp_path / "bottom_up.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            BottomUpDetector.load(path)
    (tmp_path / "bottom_up.json").unlink()
    with pytest.raises(ValueError, match=r"instead of \(64, 3, 7, 7\).*bottom_up\.json"):
        BottomUpDetector.load(path)


def test_the_hub_is_asked_only_by_name(files, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def download(repository, name):
        asked.append((repository, name))
        if repository == "gone/away":
            raise OSError("404 Client Error\nand more")
        if name == "pytorch_model.bin" and repository != "some/thing":
            return str(files[name])
        raise EntryNotFoundError(name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ValueError, match="no such file"):
        load("bottom-up:unc-nlp/frcnn-vg-finetuned.bin")
    assert asked == []
    assert load("bottom-up-port:hub:unc-nlp/frcnn-vg-finetuned").mode == MODES["port"]
    assert {name for name, _ in asked} == {"unc-nlp/frcnn-vg-finetuned"}
    with pytest.raises(ValueError, match="has none of"):
        load("bottom-up:hub:some/thing")
    with pytest.raises(ValueError, match="cannot be had") as caught:
        load("bottom-up:hub:gone/away")
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_name(tmp_path, files):
    for name, said in (
        ("bottom-up:", "bottom-up-port:FILE"),
        ("bottom-upp:x.bin", "bottom-up-port:FILE"),
        ("bottom-up:C:\\x\\y.bin", "y.bin"),
        (f"bottom-up:{tmp_path}", "a folder with one file of weights"),
        ("bottom-up:x.onnx", r"\.caffemodel"),
        ("bottom-up", "there is no detector"),
    ):
        with pytest.raises(ValueError, match=said):
            load_detector(name)
    with pytest.raises(ValueError, match="precision"):
        BottomUpDetector.load(files["model.safetensors"], precision="float16")


def test_fingerprints_change_with_whatever_changes_regions(files, official, port):
    path = files["model.safetensors"]
    weights = read_weights(path)
    weights["backbone.stem.conv1.norm.bias"] = weights["backbone.stem.conv1.norm.bias"] + 1e-3
    all_of_them = [
        official.fingerprint,
        port.fingerprint,
        load(f"bottom-up-bf16:{path}").fingerprint,
        load(f"bottom-up-port-bf16:{path}").fingerprint,
        BottomUpDetector.load(path, replace(MODES["official"], threshold=0.1)).fingerprint,
        BottomUpDetector.of_weights(weights, CONFIG, MODES["official"]).fingerprint,
    ]
    assert len(set(all_of_them)) == len(all_of_them)
    assert official.fingerprint.startswith("bottom-up-official-") and port.fingerprint.startswith("bottom-up-port-")


# ---------------------------------------------------------------- what a detector is


@pytest.mark.parametrize("mode", MODES)
def test_it_is_a_detector(request, mode, picture):
    detector = request.getfixturevalue(mode)
    assert isinstance(detector, Detector)
    (regions, attributes), _ = detector.detect_with_attributes([picture, picture.rotate(90)])
    assert regions.features.shape == (len(regions), detector.feature_size) == (len(regions), CONFIG.feature_size)
    assert regions.class_probs.shape[1] == len(detector.class_names) == CONFIG.classes + 1
    assert np.allclose(regions.class_probs.sum(1), 1, atol=1e-5) and (np.diff(regions.scores) <= 0).all()
    assert attributes["attribute"].shape == (len(regions), len(detector.attribute_names["attribute"]))
    least, most = detector.mode.regions
    assert least <= len(regions) <= most


@pytest.mark.parametrize("mode", MODES)
def test_neighbours_change_nothing(request, mode):
    detector = request.getfixturevalue(mode)
    pictures = [draw(make_scene(0, "val", index)).resize(size) for index, size in enumerate([(80, 60), (50, 90)])]
    for image, together in zip(pictures, detector.detect(pictures), strict=True):
        (alone,) = detector.detect([image])
        for field in ("features", "boxes", "class_probs", "scores"):
            np.testing.assert_array_equal(getattr(alone, field), getattr(together, field))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2000, 2), (17, 33)])
def test_any_size_gives_valid_regions(request, mode, size):
    detector = request.getfixturevalue(mode)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    (regions,) = detector.detect([Image.fromarray(noise)])
    assert 1 <= len(regions) <= detector.mode.regions[1] and (regions.width, regions.height) == size
    assert (regions.boxes >= 0).all() and (regions.boxes <= [*size, *size]).all()
    assert (regions.boxes[:, 2:] >= regions.boxes[:, :2]).all()


@pytest.mark.parametrize("mode", MODES)
def test_given_boxes_keep_their_order_and_are_clipped(request, mode, picture):
    detector = request.getfixturevalue(mode)
    boxes = np.array([[3, 5, 60, 70], [20, 8, 90, 44], [-5, -5, 9999, 9999]], np.float64)
    regions, turned = detector.features(picture, boxes), detector.features(picture, boxes[::-1])
    np.testing.assert_allclose(turned.features[::-1], regions.features, atol=1e-5)
    np.testing.assert_allclose(regions.boxes[:2], boxes[:2], atol=1e-3)
    assert regions.boxes[2].tolist() == [0, 0, *picture.size]
    assert not np.allclose(regions.features[0], regions.features[1], atol=1e-3)
    for wrong in (np.zeros((0, 4)), np.zeros(4), np.full((1, 4), np.nan)):
        with pytest.raises(ValueError, match="boxes must be"):
            detector.features(picture, wrong)


def test_a_found_region_is_found_again_at_its_box(official, picture):
    """All but those whose box, moved to the picture's pixels and back, rounds to other places of the map."""
    (found,) = official.detect([picture])
    again = official.features(picture, found.boxes)
    same = np.isclose(again.features, found.features, atol=1e-4).all(1)
    assert same.mean() > 0.5 and len(found) >= 10


def test_a_picture_is_seen_upright_and_in_the_right_colours(official, port):
    for detector in (official, port):
        scaled = scale(Image.new("RGB", (60, 40), (255, 128, 0)), detector.mode)
        blue, green, red = scaled.pixels.mean((1, 2)).tolist()
        assert (blue, green, red) == pytest.approx((0 - 102.9801, 128 - 115.9465, 255 - 122.7717), abs=1e-3)
    tall = Image.new("RGB", (40, 60), "white")
    exif = tall.getexif()
    exif[0x0112] = 6
    tall.info["exif"] = exif.tobytes()
    (regions,) = official.detect([tall])
    assert (regions.width, regions.height) == (60, 40)


def test_scaled_sides():
    for mode, size, wanted in (
        ("official", (640, 480), (600, 800)),
        ("official", (2000, 500), (250, 1000)),
        ("port", (640, 480), (800, 1067)),
        ("port", (2000, 500), (333, 1333)),
    ):
        assert scale(Image.new("RGB", size), MODES[mode]).size == wanted


def test_parts_of_any_size_give_the_same(official, picture, monkeypatch):
    (whole,) = official.detect([picture])
    monkeypatch.setattr(bottom_up_network, "CHUNK", 7)
    (parts,) = official.detect([picture])
    np.testing.assert_allclose(parts.features, whole.features, atol=1e-5)
    np.testing.assert_array_equal(parts.boxes, whole.boxes)


def test_half_precision_is_nearly_the_same(official, files, picture):
    rough = load(f"bottom-up-bf16:{files['pytorch_model.bin']}")
    boxes = np.array([[3, 5, 60, 70], [20, 8, 90, 44], [0, 0, 30, 30]])
    ours, theirs = (d.features(picture, boxes).features for d in (official, rough))
    assert theirs.dtype == np.float32 and not np.array_equal(ours, theirs)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert (cosine > 0.999).all()
    assert rough.network.backbone.stem.conv1.weight.dtype == torch.float32  # or other boxes would be proposed


def test_too_few_regions_are_no_error(files, picture):
    rare = BottomUpDetector.load(files["pytorch_model.bin"], replace(MODES["port"], proposals=(20, 20)))
    both = rare.detect([picture, picture.rotate(180)])
    assert all(1 <= len(regions) < 36 for regions in both)
    assert not np.array_equal(both[0].boxes[:1], both[1].boxes[:1])


# ---------------------------------------------------------------- the published rules, written once more as loops


def overlap(one, other):
    """With the last pixel counted."""
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    shared = max(width, 0) * max(height, 0)
    area = lambda box: (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
    return shared / (area(one) + area(other) - shared)


def suppressed(boxes, scores, most):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[index], boxes[other]) <= most for other in kept):
            kept.append(index)
    return kept


def test_confidences_are_those_of_every_class_by_itself():
    draws = np.random.default_rng(1)
    corners = draws.uniform(0, 60, (40, 2))
    boxes = np.concatenate([corners, corners + draws.uniform(1, 40, (40, 2))], axis=1)
    logits = 2 * draws.standard_normal((40, 9))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = np.zeros(40)
    for column in range(8):  # the last is background
        for index in suppressed(boxes, probs[:, column], 0.3):
            wanted[index] = max(wanted[index], probs[index, column])
    ours = confidences(torch.tensor(boxes), torch.tensor(probs), 0.3)
    np.testing.assert_allclose(ours, wanted, atol=1e-12)
    assert (wanted < probs[:, :-1].max(1)).any()  # somewhere a better class was lost to a neighbour


def test_official_proposals_count_the_last_pixel_and_leave_out_small_ones():
    draws = np.random.default_rng(2)
    height, width, back = 60, 90, 0.7
    anchors = caffe_anchors().double()[[0, 4, 8]]
    places = torch.tensor([[x, y, x, y] for y in (0, 16, 32) for x in (0, 16, 32, 48)], dtype=torch.double)
    everywhere = (places[:, None] + anchors).reshape(-1, 4)
    deltas, logits = 0.3 * draws.standard_normal((12, 3, 4)), draws.standard_normal((3, 3, 4))
    candidates = []
    for row in range(3):
        for column in range(4):
            for anchor in range(3):
                x1, y1, x2, y2 = (places[4 * row + column] + anchors[anchor]).tolist()
                dx, dy, dw, dh = deltas[4 * anchor : 4 * anchor + 4, row, column]
                w, h = x2 - x1 + 1, y2 - y1 + 1
                x, y = x1 + 0.5 * w + dx * w, y1 + 0.5 * h + dy * h
                w, h = w * np.exp(dw), h * np.exp(dh)
                box = [x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h]
                box = [min(max(v, 0), end - 1) for v, end in zip(box, (width, height) * 2, strict=True)]
                if box[2] - box[0] + 1 >= 16 / back and box[3] - box[1] + 1 >= 16 / back:
                    candidates.append((logits[anchor, row, column], box))
    assert 10 < len(candidates) < 30
    best = sorted(candidates, key=lambda entry: -entry[0])[:20]
    kept = suppressed([box for _, box in best], [score for score, _ in best], 0.7)[:6]
    mode = replace(MODES["official"], proposals=(20, 6))
    scaled = Scaled(torch.zeros(3, height, width), (back, back))
    boxes, objectness = propose(torch.tensor(logits), torch.tensor(deltas), everywhere, scaled, mode)
    np.testing.assert_allclose(objectness, [best[index][0] for index in kept])
    np.testing.assert_allclose(boxes, [best[index][1] for index in kept], atol=1e-9)


# ---------------------------------------------------------------- end to end


def test_extract_and_refusal_by_a_model_of_another_detector(files, official, world, tmp_path, capsys, monkeypatch):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(2):
        draw(make_scene(0, "val", number)).resize((64, 48)).save(pictures / f"{number}.png")
    name = f"bottom-up:{files['pytorch_model.bin']}"
    out = tmp_path / "store"
    monkeypatch.setattr("sys.argv", ["uniter", "extract", str(pictures), "--detector", name, "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    store = Store(out)
    assert store.names == ["0.png", "1.png"] and store.detector == official.fingerprint
    assert store.feature_size == CONFIG.feature_size and store.attribute_names == official.attribute_names
    (found,) = official.detect([Image.open(pictures / "0.png")])
    np.testing.assert_allclose(store["0.png"].features, found.features, rtol=1e-3, atol=1e-3)
    capsys.readouterr()
    model = str(world.models / "answers")
    monkeypatch.setattr(
        "sys.argv",
        [
            "uniter",
            "evaluate",
            "vqa",
            "--model",
            model,
            "--data",
            str(world.data),
            "--split",
            "val",
            "--regions",
            str(out),
        ],
    )
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    error = capsys.readouterr().err
    assert "was trained on regions of detector small-" in error and official.fingerprint in error
    with pytest.raises(ValueError, match=f"comes from {official.fingerprint}"):
        Uniter.load(world.models, name).find(pictures / "0.png", "a star")
