import numpy as np
import pytest
import tiny_detectors
from PIL import Image

from uniter.regions.detectors import Detector, load_detector
from uniter.regions.extract import extract
from uniter.regions.store import Store


def test_cells_cover_the_picture_row_by_row():
    grid = load_detector("grid:3x2")
    assert isinstance(grid, Detector) and grid.class_names == ["background"] and grid.notes["class_probs"] == "none"
    regions = grid.detect([Image.new("L", (90, 40))])[0]
    assert len(regions) == 6 and regions.features.shape == (6, grid.feature_size) and regions.class_probs is None
    assert regions.boxes[0].tolist() == [0, 0, 30, 20] and regions.boxes[1].tolist() == [30, 0, 60, 20]
    assert regions.boxes[5].tolist() == [60, 20, 90, 40]


def test_feature_says_what_the_pixels_are():
    image = Image.new("RGB", (80, 40), (255, 0, 0))
    image.paste((0, 0, 0), (60, 0, 80, 40))  # of the right half the right half is black
    left, right = load_detector("grid:2x1").detect([image])[0].features.astype(float)
    thumbnails = [feature[:48].reshape(4, 4, 3) for feature in (left, right)]
    assert (thumbnails[0] == [1, -1, -1]).all() and (thumbnails[1][:, 2:] == -1).all()
    assert left[48:54].tolist() == [1, -1, -1, 0, 0, 0]  # means, deviations
    assert right[48] == 0 and right[51] == 0.5
    assert left[54:62].tolist() == [0] * 7 + [1] and right[54:62].tolist() == [0.5] + [0] * 6 + [0.5]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (600, 2), (17, 33)])
def test_any_size_gives_valid_regions(size):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    regions = load_detector("grid:7x7").detect([Image.fromarray(noise)])[0]
    assert len(regions) == 49 and (regions.boxes[:, 2:] > regions.boxes[:, :2]).all()
    assert (regions.boxes >= 0).all() and (regions.boxes <= [*size] * 2).all()


def test_given_boxes_and_fingerprints():
    grid, image = load_detector("grid:7x7"), Image.effect_noise((70, 70), 80)
    found = grid.detect([image])[0]
    assert np.array_equal(grid.features(image, found.boxes[::-1].copy()).features, found.features[::-1])
    assert load_detector("grid:7x7").fingerprint == grid.fingerprint != load_detector("grid:6x7").fingerprint


def test_a_transformer_describes_the_cells(tmp_path):
    folder = tiny_detectors.write(tiny_detectors.TRANSFORMERS["dinov2"], tmp_path / "vit")
    image = Image.effect_noise((64, 64), 80)
    grid = load_detector(f"grid:4x4@{folder}", "cpu")
    assert grid.feature_size == 16 and len(grid.detect([image])[0]) == 16
    other = tiny_detectors.write(tiny_detectors.TRANSFORMERS["dinov2"], tmp_path / "other", seed=1)
    prints = {
        load_detector(name, "cpu").fingerprint for name in ("grid:4x4", f"grid:4x4@{folder}", f"grid:4x4@{other}")
    }
    assert len(prints) == 3


def test_extracts_a_store(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.effect_noise((64, 64), 80).save(tmp_path / "pictures" / "a.png")
    extract(tmp_path / "pictures", tmp_path / "store", "grid:2x2", progress=False)
    store = Store(tmp_path / "store")
    assert len(store["a.png"]) == 4 and store.num_classes == 0 and store.notes["class_probs"] == "none"


@pytest.mark.parametrize("name", ["grid:7", "grid:0x3", "grid:20x20", "grid:7x7@", "grid:axb"])
def test_what_is_wrong_is_named(name):
    with pytest.raises(ValueError, match=r"7x7|cells"):
        load_detector(name)
