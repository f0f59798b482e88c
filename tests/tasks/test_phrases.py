"""Phrases: which boxes they mean, and how a phrase of several boxes is judged."""

import numpy as np
import pytest

import fixtures
from uniter.processing_uniter import Segment
from uniter.regions import Regions
from uniter.tasks.base import load

RECORD = {
    "file": "a_1.jpg",
    "size": [200, 100],
    "phrases": [
        {
            "sentence": "Two dogs and a cat",
            "phrases": [
                {"start": 0, "end": 8, "phrase": "Two dogs", "chain": 1},
                {"start": 13, "end": 18, "phrase": "a cat", "chain": 2},
                {"start": 9, "end": 12, "phrase": "and", "chain": 0},
                {"start": 0, "end": 3, "phrase": "Two", "chain": 9},
            ],
        }
    ],
    "boxes": [
        {"chains": [1], "types": ["animals"], "box": [0.0, 0.0, 0.2, 1.0]},
        {"chains": [1, 2], "types": ["animals"], "box": [0.5, 0.0, 0.7, 1.0]},
        {"chains": [0], "types": ["other"], "box": [0.0, 0.0, 1.0, 1.0]},
    ],
}
BOXES = np.array([[0, 0, 0.2, 1], [0.5, 0, 0.7, 1], [0, 0, 0.7, 1], [0.9, 0, 1, 1]], np.float32)
REGIONS = {"a_1.jpg": Regions(np.zeros((4, fixtures.FEATURES), np.float32), BOXES, 1, 1)}


def task(folder, record=RECORD, **options):
    folder.mkdir(exist_ok=True)
    fixtures.write_lines(folder / "test.jsonl", [record])
    return load("phrases")(folder, REGIONS, fixtures.processor(), **options)


def test_a_phrase_means_the_boxes_of_its_chain_in_pixels_and_one_without_is_left_out(tmp_path):
    dogs, cat = task(tmp_path / "d").examples("test")
    assert (dogs.text, dogs.boxes, dogs.box) == ("Two dogs", ((0, 0, 40, 100), (100, 0, 140, 100)), (0, 0, 140, 100))
    assert (cat.text, cat.boxes, cat.sent_id) == ("a cat", ((100, 0, 140, 100),), 1)


@pytest.mark.parametrize(("protocol", "right"), [("any", [0, 1]), ("merged", [2])])
def test_a_phrase_of_several_boxes_is_judged_by_the_protocol(tmp_path, protocol, right):
    held = task(tmp_path / "d", protocol=protocol)
    dogs = held.examples("test")[:1]
    assert held.target(dogs).item() == right[0]
    for region, (x1, y1, x2, y2) in enumerate(held.seen("a_1.jpg").boxes.tolist()):
        said = [{"sent_id": 0, "pred_box": [x1, y1, x2 - x1, y2 - y1]}]
        assert held.score(said, dogs)["accuracy"] == 100.0 * (region in right)
    assert held.score(held.perfect(dogs), dogs)["accuracy"] == 100
    assert held.score(held.perfect(dogs), dogs)["upper_bound"] == 100


def test_regions_that_miss_a_phrase_lower_the_upper_bound(tmp_path):
    record = RECORD | {"boxes": [RECORD["boxes"][0], {"chains": [2], "types": [], "box": [0.0, 0.0, 0.05, 0.1]}]}
    held = task(tmp_path / "d", record)
    examples = held.examples("test")
    assert held.target(examples).tolist() == [0, -1]
    assert held.score(held.perfect(examples), examples)["upper_bound"] == 50


def test_the_caption_stands_behind_the_phrase_if_asked_for(tmp_path):
    (dogs, _) = task(tmp_path / "d", context=True).examples("test")
    assert dogs.text == (Segment("Two dogs"), Segment("Two dogs and a cat"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [200]}, "is not width and height"),
        ({"boxes": [{"chains": [1], "box": [0, 1, 2]}]}, "is not x1 y1 x2 y2"),
        ({"boxes": []}, "no phrase has a box"),
        ({"phrases": None}, "an odd 'phrases'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        task(tmp_path / "d", RECORD | change).examples("test")


def test_an_unknown_protocol_is_refused(tmp_path):
    with pytest.raises(ValueError, match="protocol of task phrases is any or merged"):
        task(tmp_path / "d", protocol="best")


XML = """<annotation><filename>7.jpg</filename><size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>40</xmax><ymax>100</ymax></bndbox></object>
<object><name>1</name><name>2</name><bndbox><xmin>100</xmin><ymin>0</ymin><xmax>140</xmax><ymax>100</ymax></bndbox></object>
<object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"""
SENTENCES = (
    "[/EN#1/animals Two dogs] and [/EN#2/animals/other a cat] in [/EN#3/scene a yard]\n[/EN#0/notvisual It] rains\n"
)


@pytest.fixture
def published(tmp_path):
    for name, text in (("Annotations/7.xml", XML), ("Sentences/7.txt", SENTENCES), ("test.txt", "7\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_published_files_say_the_same(published, tmp_path):
    held = load("phrases")(published, {"7.jpg": REGIONS["a_1.jpg"]}, fixtures.processor(), context=True)
    dogs, cat = held.examples("test")
    whole = Segment("Two dogs and a cat in a yard")
    assert (dogs.text, dogs.boxes, dogs.box) == (
        (Segment("Two dogs"), whole),
        ((0, 0, 40, 100), (100, 0, 140, 100)),
        (0, 0, 140, 100),
    )
    assert (cat.text, cat.boxes, cat.image) == ((Segment("a cat"), whole), ((100, 0, 140, 100),), "7.jpg")
    assert held.target([dogs, cat]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Annotations/7.xml", "<annotation>", "7.xml: no annotation of Flickr30K Entities"),
        ("Annotations/7.xml", "<annotation></annotation>", "no size/width"),
        ("Sentences/7.txt", None, "unpack Flickr30K Entities' annotations.zip"),
    ],
)
def test_what_is_wrong_with_the_published_files_is_said(published, name, text, message):
    (published / name).unlink()
    if text is not None:
        (published / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load("phrases")(published, REGIONS, fixtures.processor()).examples("test")
