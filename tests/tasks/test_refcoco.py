import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fixtures
from uniter.regions import Regions
from uniter.run import score
from uniter.tasks.refcoco import Expression, RefCOCO, overlaps, published_overlaps


def test_published_overlap_counts_the_last_pixel():
    # Whole pixels: both forms agree. Right edge of the intersection min(10, 15) - 1 = 9, width 9 - 5 + 1 = 5, height 10.
    assert published_overlaps(np.array([[0, 0, 10, 10]]), (5, 0, 15, 10))[0] == pytest.approx(50 / 150)
    # One column shared: 9 < 9 fails, the boxes do not strictly overlap, and the plain form's 10 / 190 becomes 0.
    assert overlaps(np.array([[0, 0, 10, 10]]), (9, 0, 19, 10))[0] == pytest.approx(10 / 190)
    assert published_overlaps(np.array([[0, 0, 10, 10]]), (9, 0, 19, 10))[0] == 0.0
    # Two columns: 8 < 9, width 2.
    assert published_overlaps(np.array([[0, 0, 10, 10]]), (8, 0, 18, 10))[0] == pytest.approx(20 / 180)
    # A thin true box inside a region of its own shape: one pixel high, so the same box overlaps itself by nothing.
    assert published_overlaps(np.array([[0, 0, 10, 1]]), (0, 0, 10, 1))[0] == 0.0


boxes = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(2, 20)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(boxes, min_size=1, max_size=5), boxes)
def test_overlap_against_counting_pixels(many, box):
    pixels = lambda b: {(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])}
    rows = np.array(many)
    for plain, published, other in zip(overlaps(rows, box), published_overlaps(rows, box), many, strict=True):
        both = pixels(box) & pixels(other)
        sides = [len({p[axis] for p in both}) for axis in (0, 1)]
        share = len(both) / len(pixels(box) | pixels(other))
        assert plain == pytest.approx(share)
        assert published == pytest.approx(share if min(sides) > 1 else 0.0)


def test_an_unknown_overlap_is_refused(tmp_path):
    with pytest.raises(ValueError, match="option overlap of task refcoco is one of plain, published, got 'odd'"):
        RefCOCO(tmp_path, overlap="odd")


def with_boxes(*rows):
    return Regions(np.ones((len(rows), 12), np.float32), np.array(rows, np.float32), 640, 480)


def task_with(tmp_path, regions):
    return RefCOCO(tmp_path, {"a.jpg": regions}, fixtures.processor())


def test_the_target_is_what_covers_best_and_minus_one_where_nothing_does(tmp_path):
    task = task_with(tmp_path, with_boxes([0, 0, 100, 100], [200, 200, 300, 300], [205, 200, 300, 300]))
    box = lambda *corners: Expression(0, "it", "a.jpg", corners)
    half = box(0, 0, 100, 200)  # covered by exactly half
    target = task.target([box(0, 0, 100, 90), box(206, 200, 300, 300), half, box(0, 0, 100, 201), box(400, 0, 500, 9)])
    assert target.tolist() == [0, 2, 0, -1, -1]


def test_a_prediction_is_right_above_one_half_and_the_best_possible_is_told(tmp_path):
    task = task_with(tmp_path, with_boxes([0, 0, 100, 100], [200, 200, 300, 300]))
    examples = [Expression(0, "it", "a.jpg", (0, 0, 100, 100)), Expression(1, "it", "a.jpg", (0, 0, 100, 200))]
    said = [{"sent_id": i, "pred_box": [0, 0, 100, 100]} for i in (1, 0)]
    found = task.score(said, examples)
    assert (found["accuracy"], found["upper_bound"]) == (50.0, 50.0)  # exactly one half is not enough
    assert "upper_bound" not in RefCOCO(tmp_path).score(said, examples)


def test_examples_hold_what_the_files_say(tmp_path):
    case = fixtures.make_case("refcoco", tmp_path)
    refs = [ref for ref in pickle.loads((tmp_path / "refs(unc).p").read_bytes()) if ref["split"] == "train"]
    examples = case.task().examples("train")
    said = [sentence for ref in refs for sentence in ref["sentences"]]
    assert [(e.sent_id, e.text) for e in examples] == [(s["sent_id"], s["sent"]) for s in said]
    first = examples[0]
    assert first.image == "COCO_train2014_000000000001.jpg"
    np.testing.assert_allclose(first.box, case.regions[first.image].boxes[0], atol=0.01)
    renamed = {name.removeprefix("COCO_train2014_"): regions for name, regions in case.regions.items()}
    other = RefCOCO(tmp_path, renamed, fixtures.processor())
    assert other.examples("train")[0].image == "000000000001.jpg"


def test_two_kinds_of_references_have_to_be_told_apart(tmp_path):
    case = fixtures.make_case("refcoco", tmp_path)  # the public folder has refs(google).p beside refs(unc).p
    (tmp_path / "refs(google).p").write_bytes((tmp_path / "refs(unc).p").read_bytes())
    with pytest.raises(ValueError, match=r"refs\(google\).p.*refs\(unc\).p.*option `refs`"):
        case.task().examples("val")
    assert case.task(refs="refs(unc).p").examples("val")


def test_the_google_splits_of_refcocog(tmp_path):
    """refs(google).p parts expressions, not images, into train and val; a picture may be in both."""
    fixtures.make_case("refcoco", tmp_path)
    refs = pickle.loads((tmp_path / "refs(unc).p").read_bytes())
    for k, ref in enumerate(refs):
        ref["split"] = "val" if k % 2 else "train"
    (tmp_path / "refs(unc).p").unlink()
    (tmp_path / "refs(google).p").write_bytes(pickle.dumps(refs, protocol=2))
    task = RefCOCO(tmp_path)
    train, val = (task.examples(split) for split in ("train", "val"))
    assert len(train) == len(val) == 18 and {e.image for e in train} == {e.image for e in val}
    assert not {e.sent_id for e in train} & {e.sent_id for e in val}
    with pytest.raises(ValueError, match=r"refs\(google\)\.p: nothing in split 'testA'; it has train, val"):
        task.examples("testA")


@pytest.mark.parametrize("name", ["refs(unc).p", "refs(umd).p", "refs(google).p"])
def test_a_submission_of_boxes_is_scored_from_the_public_files_alone(tmp_path, name):
    case = fixtures.make_case("refcoco", tmp_path)
    (tmp_path / "refs(unc).p").rename(tmp_path / name)
    task = case.task()
    examples = task.examples("val")
    said = task.perfect(examples)
    said[0]["pred_box"] = [0, 0, 1, 1]
    task.write(said, tmp_path / "said.json")
    numbers = score("refcoco", tmp_path, "val", tmp_path / "said.json")
    assert numbers["accuracy"] == pytest.approx(100 * (1 - 1 / len(examples))) and "upper_bound" not in numbers
    assert json.loads((tmp_path / "said.json").read_text())[1].keys() == {"sent_id", "pred_box", "tgt_box"}
