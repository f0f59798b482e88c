import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from uniter import draws
from uniter.cli import app
from uniter.regions.coco import read_coco
from uniter.regions.detectors import load_detector
from uniter.regions.own_detector import make_learner, measure, train_own
from uniter.regions.training import DetectorTraining, train_detector

RCNN = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn,min_size=64,max_size=96,proposals=20"
SMALL = "small,long_side=64-64,feature_size=16,regions=4-10"


@pytest.fixture
def boxes(tmp_path):
    """Twelve pictures with one to three squares and discs, their colours as attributes; the last has nothing."""
    folder, random = tmp_path / "images", draws.generator(0, "test-own-detector")
    folder.mkdir()
    images, annotations = [], []
    for index in range(12):
        image = Image.new("RGB", (64, 48), "white")
        for _ in range(0 if index == 11 else int(random.integers(1, 4))):
            x, y, side = int(random.integers(0, 40)), int(random.integers(0, 28)), int(random.integers(12, 20))
            colour, kind = ("red", "blue")[int(random.integers(0, 2))], int(random.integers(0, 2))
            draw = ImageDraw.Draw(image)
            (draw.ellipse if kind else draw.rectangle)([x, y, x + side - 1, y + side - 1], fill=colour)
            box = {"bbox": [x, y, side, side], "category_id": 7 if kind else 3, "attributes": {"colour": colour}}
            annotations.append({"id": len(annotations), "image_id": index, "iscrowd": 0, **box})
        image.save(folder / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 64, "height": 48})
    categories = [{"id": 7, "name": "disc"}, {"id": 3, "name": "square"}]
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def changed(file, change):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return file


def test_reads_pictures_with_their_things(boxes):
    found = read_coco(boxes, boxes.parent / "images")
    assert found.class_names == ["background", "square", "disc"] and found.attributes == {"colour": ["blue", "red"]}
    assert len(found) == 12 and found.counted == {"pictures without boxes": 1}
    data = json.loads(boxes.read_text())
    first = [entry for entry in data["annotations"] if entry["image_id"] == 0]
    image, targets = found[0]
    assert image.size == (64, 48) and targets["boxes"].dtype == np.float32
    x, y, w, h = first[0]["bbox"]
    assert targets["boxes"][0].tolist() == [x, y, x + w, y + h]
    assert targets["classes"].tolist() == [1 if entry["category_id"] == 3 else 2 for entry in first]
    assert targets["colour"].tolist() == [int(entry["attributes"]["colour"] == "red") for entry in first]
    assert found[11][1]["boxes"].shape == (0, 4)


def test_split_is_of_names_alone(boxes):
    found = read_coco(boxes, boxes.parent / "images")
    train, held = found.split(0.3, 0)
    assert len(train) + len(held) == 12 and {e.name for e in train.entries}.isdisjoint(e.name for e in held.entries)
    half = type(found)(found.entries[::2], found.class_names, found.attributes)
    kept = {e.name for e in held.entries}
    assert all((e.name in kept) == (e in half.split(0.3, 0)[1].entries) for e in half.entries)
    with pytest.raises(ValueError, match="share"):
        found.split(0.0, 0)


def test_boxes_over_the_edge_are_clipped_and_counted(boxes):
    def change(data):
        data["annotations"][0]["bbox"] = [50, 40, 30, 30]
        data["annotations"][1]["bbox"] = [70, 10, 5, 5]
        data["annotations"][2]["bbox"] = [5, 10, 0, 5]
        data["annotations"][3]["iscrowd"] = 1

    before = sum(len(e.things.boxes) for e in read_coco(boxes, boxes.parent / "images").entries)
    found = read_coco(changed(boxes, change), boxes.parent / "images")
    assert found.counted["boxes clipped to the picture"] == 1
    assert found.counted["boxes left out: without an area in the picture"] == 2
    assert sum(len(e.things.boxes) for e in found.entries) == before - 2
    assert found.entries[0].things.boxes[0].tolist() == [50, 40, 64, 48]
    assert sum(len(found[i][1]["boxes"]) for i in range(12)) == before - 3  # the crowd is not learnt from


def test_what_is_wrong_is_named(boxes, tmp_path):
    images = tmp_path / "images"
    original = boxes.read_text()

    def refused(match, change):
        with pytest.raises(ValueError, match=match):
            read_coco(changed(boxes, change), images)
        boxes.write_text(original)

    refused("category 99", lambda data: data["annotations"][0].update(category_id=99))
    refused("no boxes", lambda data: data.update(annotations=[]))
    refused("1 of the 13 pictures", lambda data: data["images"].append({"id": 50, "file_name": "no.png", "width": 1, "height": 1}))  # fmt: skip
    refused("image 77", lambda data: data["annotations"][0].update(image_id=77))
    refused("bbox", lambda data: data["annotations"][0].pop("bbox"))
    refused("x, y, width", lambda data: data["annotations"][0].update(bbox=[1, 2, 3]))
    refused("one id", lambda data: data["images"].append(data["images"][0]))
    refused("categories", lambda data: data.pop("categories"))
    refused("name of its own", lambda data: data["categories"].append({"id": 9, "name": "disc"}))
    with pytest.raises(ValueError, match="unknown to the boxes"):
        like = read_coco(boxes, images)
        read_coco(changed(boxes, lambda data: data["categories"][0].update(name="cube")), images, like=like)
    boxes.write_text(original)
    changed(boxes, lambda data: data["images"][0].update(width=99))
    with pytest.raises(ValueError, match=r"64 x 48.*99 x 48"):
        read_coco(boxes, images)[0]
    boxes.write_text("[")
    with pytest.raises(ValueError, match="not JSON"):
        read_coco(boxes, images)


def test_a_perfect_detector_measures_100(boxes):
    pictures = read_coco(boxes, boxes.parent / "images")

    class Perfect:
        class_names, feature_size, fingerprint = pictures.class_names, 1, "perfect"

        def __init__(self):
            self.place = -1

        def detect(self, images):
            from uniter.regions.regions import Regions

            self.place += 1
            things = pictures.entries[self.place].things
            boxes = things.boxes if len(things.boxes) else np.array([[0, 0, 64, 48]], np.float32)
            classes = things.classes if len(things.boxes) else np.array([0])
            return [Regions(np.zeros((len(boxes), 1)), boxes, 64, 48, np.eye(3)[classes], np.ones(len(boxes)))]

    numbers = measure(Perfect(), pictures)
    assert numbers["recall_50"] == 100 and 95 < numbers["mAP"] <= 100 and numbers["pictures"] == 12


@pytest.mark.parametrize("model", [SMALL, RCNN], ids=["small", "torchvision"])
def test_trains_resumes_and_loads(boxes, tmp_path, model):
    """Killed after its first checkpoint and started again, it comes out with the weights of an undisturbed run."""
    training, images = DetectorTraining(steps=4, batch=2, mixed=False, save_every=2), tmp_path / "images"
    whole = train_own(
        boxes, images, tmp_path / "whole", model, val_share=0.3, training=training, tell=lambda text: None
    )
    assert set(whole.numbers) == {"mAP", "mAP_50", "recall_50", "pictures", "things", "regions"}

    def die(text):
        if text.startswith("step 3"):
            raise KeyboardInterrupt

    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train_own(boxes, images, cut, model, val_share=0.3, training=training, tell=die, log_every=1)
    assert (cut / "checkpoint.pt").is_file() and not (cut / "result.json").exists()
    again = train_own(boxes, images, cut, model, val_share=0.3, training=training, tell=lambda text: None)
    detector = load_detector(cut, "cpu")
    assert detector.fingerprint == load_detector(tmp_path / "whole", "cpu").fingerprint
    assert again.numbers == whole.numbers and not (cut / "checkpoint.pt").exists()
    assert detector.class_names == ["background", "square", "disc"]
    assert (cut / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 4
    regions = detector.detect([Image.open(images / "0.png")])[0]
    assert regions.class_probs.shape[1] == 3 and np.abs(regions.features.astype(np.float32)).max() <= 8
    with pytest.raises(ValueError, match="another model"):
        train_own(boxes, images, cut, "small", val_share=0.3, training=training)
    with pytest.raises(ValueError, match="another steps"):
        train_own(boxes, images, cut, model, val_share=0.3, training=DetectorTraining(steps=5, batch=2, mixed=False))


@pytest.mark.slow
def test_learns_what_is_in_the_pictures(boxes, tmp_path):
    pictures = read_coco(boxes, tmp_path / "images")
    training = DetectorTraining(steps=300, batch=4)
    learner = make_learner("small,long_side=128-128,regions=4-10", pictures, training)
    detector = train_detector(pictures, learner, training, tmp_path / "out", log=lambda text: None)
    numbers = measure(detector, pictures)
    assert numbers["recall_50"] >= 95 and numbers["mAP_50"] >= 90


def test_folders_and_models_of_others_are_refused(boxes, tmp_path):
    images = tmp_path / "images"
    with pytest.raises(ValueError, match="no training of a detector"):
        train_own(boxes, images, images)
    with pytest.raises(ValueError, match="small"):
        train_own(boxes, images, tmp_path / "out", "huge")
    pictures = read_coco(boxes, images)
    for model, said in (
        ("small,colour=red", "colour"),
        ("small,regions=9", "regions"),
        ("small,proposals=x", "proposals"),
    ):
        with pytest.raises(ValueError, match=said):
            make_learner(model, pictures, DetectorTraining())
    with pytest.raises(ValueError, match="masks"):
        make_learner("torchvision:maskrcnn_resnet50_fpn", pictures, DetectorTraining())
    with pytest.raises(ValueError, match="classes"):
        measure(load_detector("scenes", "cpu"), pictures)


def test_command(boxes, tmp_path, capsys):
    from typer.testing import CliRunner

    arguments = ["detector", "train", "--boxes", str(boxes), "--images", str(tmp_path / "images"), "--out"]
    arguments += [
        str(tmp_path / "out"),
        "--model",
        SMALL,
        "--steps",
        "2",
        "--batch",
        "2",
        "--val-share",
        "0.3",
        "--quiet",
    ]
    for _ in range(2):  # the second time it is done already
        said = CliRunner().invoke(app, [*arguments, "--device", "cpu", "--full-precision"])
        assert said.exit_code == 0, said.output
        assert json.loads(said.stdout)["pictures"] > 0
