import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from uniter.regions.detectors import SHIPPED, Detector, load_detector
from uniter.regions.small import SmallDetectorConfig
from uniter.regions.small_training import SmallLearner
from uniter.regions.training import DetectorTraining, train_detector
from uniter.scenes.draw import draw
from uniter.scenes.shapes import SHAPES
from uniter.scenes.world import make_scene, scene_truth


def test_shipped_detector_finds_and_names_things(detector):
    assert isinstance(detector, Detector)
    assert detector.class_names == ["background", *SHAPES]
    things = found = shape = colour = 0
    for index in range(20):
        scene = make_scene(0, "test", index)
        truth = scene_truth(scene)
        regions, attributes = detector.detect_with_attributes([draw(scene)])[0]
        assert 10 <= len(regions) <= 36
        best = box_iou(torch.from_numpy(truth["boxes"]), torch.from_numpy(regions.boxes)).max(1)
        hit, place = best.values.numpy() >= 0.5, best.indices.numpy()
        things, found = things + len(hit), found + hit.sum()
        shape += (regions.class_probs[place, 1:].argmax(1) == truth["shapes"])[hit].sum()
        colour += (attributes["colour"][place].argmax(1) == truth["colours"])[hit].sum()
    assert found / things >= 0.95
    assert shape / found >= 0.95
    assert colour / found >= 0.95


def test_line_ends_of_windows_change_no_fingerprint(detector, tmp_path):
    for file in SHIPPED["scenes"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = (tmp_path / "config.json").read_bytes()
    assert b"\r" not in settings
    (tmp_path / "config.json").write_bytes(settings.replace(b"\n", b"\r\n"))
    assert load_detector(tmp_path).fingerprint == detector.fingerprint


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2000, 2), (17, 33), (640, 480)])
def test_any_size_gives_valid_regions(detector, size):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    regions = detector.detect([Image.fromarray(noise)])[0]
    assert 10 <= len(regions) <= 36 and (regions.width, regions.height) == size
    assert (regions.boxes >= 0).all() and (regions.boxes <= [*size, *size]).all()
    assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
    assert (np.diff(regions.scores) <= 0).all()
    assert regions.features.shape[1] == detector.feature_size and (np.abs(regions.features) <= 8).all()
    assert np.allclose(regions.class_probs.sum(1), 1, atol=1e-5)


def test_neighbours_in_a_batch_change_nothing(detector):
    images = [draw(make_scene(0, "val", index)) for index in range(3)]
    together = detector.detect(images)
    for image, regions in zip(images, together):
        alone = detector.detect([image])[0]
        assert np.array_equal(alone.features, regions.features) and np.array_equal(alone.boxes, regions.boxes)


def test_features_at_given_boxes_keep_their_order(detector):
    image = draw(make_scene(0, "val", 0))
    regions = detector.detect([image])[0]
    back = regions.boxes[::-1].copy()
    given = detector.features(image, back)
    assert np.allclose(given.features.astype(np.float32), regions.features[::-1].astype(np.float32), atol=0.02)
    assert np.allclose(given.boxes, back, atol=1e-3)
    with pytest.raises(ValueError, match="boxes"):
        detector.features(image, np.zeros((0, 4)))


def test_words(detector):
    image = draw(make_scene(0, "val", 0))
    regions, attributes = detector.detect_with_attributes([image])[0]
    assert all(len(words.split()) == 4 for words in detector.words(regions, attributes))


def test_unknown_detector(tmp_path):
    with pytest.raises(ValueError, match="scenes"):
        load_detector("nowhere")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_detector(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot be read"):
        load_detector(tmp_path)


def coloured_squares():
    pictures = []
    for index in range(4):
        image = Image.new("RGB", (64, 48), "white")
        image.paste("red" if index % 2 else "blue", (8 * index, 10, 8 * index + 24, 34))
        box = np.array([[8 * index, 10, 8 * index + 24, 34]], np.float32)
        pictures.append((image, {"boxes": box, "classes": np.array([1]), "colour": np.array([index % 2])}))
    return pictures


def test_killed_training_continues_to_the_same_detector(tmp_path):
    config = SmallDetectorConfig(["background", "square"], {"colour": ["blue", "red"]}, (4, 8, 8, 8), 16, (64, 64))
    training = DetectorTraining(steps=6, batch=2, mixed=False, save_every=3)
    learner = lambda: SmallLearner(config, training.seed, training.mixed)
    heard: list[str] = []
    whole = train_detector(coloured_squares(), learner(), training, tmp_path / "whole", log=heard.append)
    assert len(whole.detect([coloured_squares()[0][0]])[0]) >= 10 and "step 6 of 6" in heard[-1]

    def die(text):
        raise KeyboardInterrupt

    cut, state = tmp_path / "cut", tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train_detector(coloured_squares(), learner(), training, cut, state, log=die, log_every=4)
    assert torch.load(state, weights_only=True)["step"] == 3
    with pytest.raises(ValueError, match="other settings"):
        train_detector(coloured_squares(), learner(), training, cut, state, settings={"rate": 1})
    again = train_detector(coloured_squares(), learner(), training, cut, state, log=heard.append)
    assert again.fingerprint == whole.fingerprint
    assert (cut / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert (cut / "loss.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no pictures"):
        train_detector([], learner(), training, tmp_path / "none")


def test_learns_from_pictures_without_things_and_from_unknown_attributes(tmp_path):
    config = SmallDetectorConfig(["background", "square"], {"colour": ["blue", "red"]}, (4, 8, 8, 8), 16, (32, 32))
    none = {"boxes": np.zeros((0, 4), np.float32), "classes": np.zeros(0, np.int64), "colour": np.zeros(0, np.int64)}
    empty = (Image.new("RGB", (64, 48), "white"), none)
    unknown = [(image, targets | {"colour": np.array([-1])}) for image, targets in coloured_squares()]
    torch.manual_seed(0)
    learner = SmallLearner(config, mixed=False)
    for batch in ([empty, empty], [empty, unknown[0]]):
        losses = learner.losses(batch)  # at half of the size
        assert "colour" not in losses and ("box" in losses) == (batch[1] is not empty)
        assert all(torch.isfinite(value) for value in losses.values())
    assert "colour" in learner.losses([empty, coloured_squares()[0]])
