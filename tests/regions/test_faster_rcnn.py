import numpy as np
import pytest
import torch
from PIL import Image

from uniter.regions.detectors import Detector, load_detector
from uniter.regions.faster_rcnn import FasterRCNNDetector
from uniter.regions.store import Store, StoreWriter
from uniter.scenes.draw import draw
from uniter.scenes.world import make_scene

NAME = "fasterrcnn_mobilenet_v3_large_320_fpn"
SMALL = "min_size=96,max_size=128,proposals=40"


@pytest.fixture(scope="module")
def rcnn() -> FasterRCNNDetector:
    """Random weights: what is tested is what is done with them."""
    return load_detector(f"torchvision:{NAME},{SMALL},threshold=0.05,most=20", "cpu")


def test_is_a_detector_with_torchvisions_names(rcnn):
    assert isinstance(rcnn, Detector)
    assert (
        rcnn.feature_size == 1024 and rcnn.class_names[:2] == ["background", "person"] and len(rcnn.class_names) == 91
    )
    assert rcnn.notes["class_probs"] == "softmax" and NAME in rcnn.notes["detector"]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (600, 2), (17, 33), (160, 120)])
def test_any_size_gives_valid_regions(rcnn, size):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    regions = rcnn.detect([Image.fromarray(noise)])[0]
    assert 1 <= len(regions) <= 20 and (regions.width, regions.height) == size
    assert (regions.boxes >= 0).all() and (regions.boxes <= [*size, *size]).all()
    assert (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
    assert (np.diff(regions.scores) <= 0).all()
    assert regions.features.dtype == np.float16 and regions.features.shape[1] == 1024
    assert np.allclose(regions.class_probs.sum(1), 1, atol=1e-5)
    assert np.allclose(regions.class_probs[:, 1:].max(1), regions.scores)


def test_second_stage_is_torchvisions(rcnn):
    """What torchvision's own forward pass finds is among what the second stage says of its proposals."""
    image = draw(make_scene(0, "val", 0))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    model = rcnn.network.model
    with torch.inference_mode():
        model.roi_heads.score_thresh, model.roi_heads.nms_thresh = 0.0, 1.0
        expected = model([pixels])[0]
        maps, scaled = rcnn._look([image])
        proposals, _ = model.rpn(scaled, maps)
        _, probs, boxes = rcnn._second_stage(maps, proposals, scaled.image_sizes)
    height, width = scaled.image_sizes[0]
    scale = torch.tensor([image.width / width, image.height / height] * 2)
    limit = torch.tensor([image.width, image.height] * 2)
    mine = torch.minimum(boxes.clamp(min=0) * scale, limit)
    assert len(expected["boxes"]) > 50
    for box, label, score in zip(expected["boxes"], expected["labels"], expected["scores"]):
        apart = (mine[:, label] - box).abs().amax(1)
        assert apart.min() < 1e-2
        assert torch.isclose(probs[apart.argmin(), label], score, atol=1e-6)


def test_neighbours_in_a_batch_change_nothing(rcnn):
    images = [draw(make_scene(0, "val", index)) for index in range(3)]
    for image, regions in zip(images, rcnn.detect(images)):
        alone = rcnn.detect([image])[0]
        assert np.array_equal(alone.features, regions.features) and np.array_equal(alone.boxes, regions.boxes)


def test_pictures_of_one_size_in_one_batch_are_seen_as_alone(rcnn):
    """As on a GPU, where those of one size are looked at together."""
    images = [draw(make_scene(0, "val", index)).resize((96, 96)) for index in range(2)]
    with torch.inference_mode():
        maps, scaled = rcnn._look(images)
        boxes = rcnn._final_boxes(maps, scaled)
        together = rcnn._describe(maps, scaled.image_sizes, boxes, (96, 96))
    for image, regions in zip(images, together):
        alone = rcnn.detect([image])[0]
        assert np.allclose(np.sort(alone.boxes, 0), np.sort(regions.boxes, 0), atol=1e-2)
        assert np.allclose(np.sort(alone.scores), np.sort(regions.scores), atol=1e-4)


def test_features_at_given_boxes_are_those_of_detection(rcnn):
    image = draw(make_scene(0, "val", 0))
    regions = rcnn.detect([image])[0]
    back = regions.boxes[::-1].copy()
    given = rcnn.features(image, back)
    assert np.allclose(given.features.astype(np.float32), regions.features[::-1].astype(np.float32), atol=1e-2)
    assert np.allclose(given.class_probs, regions.class_probs[::-1], atol=1e-4)
    assert np.allclose(given.boxes, back, atol=1e-2)
    with pytest.raises(ValueError, match="boxes"):
        rcnn.features(image, np.zeros((0, 4)))


def test_saved_and_loaded_it_is_the_same(rcnn, tmp_path):
    assert rcnn.save(tmp_path / "saved") == rcnn.fingerprint
    image = draw(make_scene(0, "val", 1))
    expected = rcnn.detect([image])[0]
    for name in (tmp_path / "saved", f"torchvision:{NAME}@{tmp_path / 'saved'}"):
        again = load_detector(name, "cpu")
        assert again.fingerprint == rcnn.fingerprint and again.class_names == rcnn.class_names
        assert np.array_equal(again.detect([image])[0].features, expected.features)
    other = load_detector(f"torchvision:{NAME}@{tmp_path / 'saved'},least=2,most=5", "cpu")
    assert other.fingerprint != rcnn.fingerprint and len(other.detect([image])[0]) <= 5


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_reads_a_state_dict_of_torchvisions_with_classes_of_its_own(tmp_path, ending):
    from safetensors.torch import save_file
    from torchvision.models import get_model

    torch.manual_seed(3)
    model = get_model(NAME, weights=None, weights_backbone=None, num_classes=4, min_size=96)
    state = {key: value for key, value in model.state_dict().items() if "num_batches_tracked" not in key}
    file = tmp_path / f"weights.{ending}"
    (torch.save if ending == "pth" else save_file)(state, file)
    found = load_detector(f"torchvision:{NAME}@{file},{SMALL}", "cpu")
    assert found.class_names == ["background", "class 1", "class 2", "class 3"]
    assert torch.equal(found.network.model.roi_heads.box_head.fc6.weight, model.roi_heads.box_head.fc6.weight)
    with torch.no_grad():
        model.roi_heads.box_head.fc6.weight[0, 0] += 1
    (torch.save if ending == "pth" else save_file)(model.state_dict(), file)
    assert load_detector(f"torchvision:{NAME}@{file},{SMALL}", "cpu").fingerprint != found.fingerprint


def test_store_says_how_class_probabilities_were_made(rcnn, tmp_path):
    with StoreWriter(tmp_path / "store", rcnn.fingerprint, rcnn.class_names, notes=rcnn.notes) as writer:
        writer.add("a.png", rcnn.detect([draw(make_scene(0, "val", 1))])[0])
    assert Store(tmp_path / "store").notes == rcnn.notes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision:resnet50", "fasterrcnn_resnet50_fpn_v2"),
        ("torchvision:ssd300_vgg16", "box head"),
        (f"torchvision:{NAME}@nowhere", "DEFAULT"),
        (f"torchvision:{NAME},colour=red", "colour"),
        (f"torchvision:{NAME},threshold=high", "threshold"),
        (f"torchvision:{NAME},threshold=3", "threshold"),
        (f"torchvision:{NAME},least=0", "region"),
        (f"torchvision:{NAME},most", "key=value"),
    ],
)
def test_what_is_wrong_is_named(name, said):
    with pytest.raises(ValueError, match=said):
        load_detector(name, "cpu")


def test_foreign_files_are_refused(rcnn, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"no")
    with pytest.raises(ValueError, match="state dict"):
        load_detector(f"torchvision:{NAME}@{tmp_path / 'x.pth'}", "cpu")
    torch.save(rcnn.network.model.state_dict(), tmp_path / "y.pth")
    with pytest.raises(ValueError, match="does not fit"):
        load_detector(f"torchvision:fasterrcnn_resnet50_fpn@{tmp_path / 'y.pth'}", "cpu")
    rcnn.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="not a fasterrcnn_resnet50_fpn"):
        load_detector(f"torchvision:fasterrcnn_resnet50_fpn@{tmp_path / 'saved'}", "cpu")
    (tmp_path / "saved" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="cannot be read"):
        load_detector(tmp_path / "saved", "cpu")
