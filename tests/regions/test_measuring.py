import contextlib
import io

import numpy as np
import pytest

from uniter import draws
from uniter.regions.measuring import OVERLAPS, Things, average_precision, found_share, overlaps


def things(boxes, classes=None, scores=None, crowd=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    classes = np.zeros(len(boxes), np.int64) if classes is None else np.array(classes)
    array = lambda value, kind: None if value is None else np.array(value, kind)
    return Things(boxes, classes, array(scores, np.float32), array(crowd, bool))


BOX, FAR = [0, 0, 10, 10], [50, 50, 60, 60]


def test_overlap_by_hand():
    assert overlaps(np.array([BOX]), np.array([[5, 0, 15, 10], FAR, BOX])).tolist() == [[50 / 150, 0, 1]]
    assert overlaps(np.array([[0, 0, 4, 4]]), np.array([BOX]), np.array([True])).tolist() == [[1]]


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        (things([BOX]), things([BOX], scores=[0.9]), 1.0),
        (things([BOX]), things([FAR], scores=[0.9]), 0.0),
        (things([BOX]), things([], scores=[]), 0.0),
        (things([BOX, FAR]), things([BOX], scores=[0.9]), 51 / 101),  # recalls 0 to 0.5
        (things([BOX]), things([BOX, BOX], scores=[0.9, 0.8]), 1.0),  # the second is wrong, but comes later
        (things([BOX]), things([FAR, BOX], scores=[0.9, 0.8]), 0.5),  # right half of the time when it is found
        (things([BOX], crowd=[False]), things([BOX, FAR], scores=[0.8, 0.9]), 0.5),
        (things([BOX, FAR], crowd=[False, True]), things([BOX, FAR], scores=[0.8, 0.9]), 1.0),  # on a crowd: neither
        (things([BOX]), things([[0, 0, 10, 6.5]], scores=[0.9]), 0.4),  # 0.65: at four of the ten overlaps
    ],
)
def test_average_precision_by_hand(truth, found, expected):
    assert average_precision([truth], [found], 1).mean() == pytest.approx(expected)


def test_a_class_without_things_has_none():
    found = average_precision([things([BOX], [1])], [things([BOX, FAR], [1, 0], [0.9, 0.9])], 3)
    assert np.isnan(found[[0, 2]]).all() and (found[1] == 1).all()


def test_share_of_things_found():
    truth = things([BOX, FAR, [0, 0, 60, 60]], crowd=[False, False, True])
    assert found_share([truth, truth], [things([BOX], scores=[0.1]), things([], scores=[])]) == (1, 4)


def test_equals_the_published_evaluation():
    """On random boxes with crowds and equal scores, against pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    random = draws.generator(0, "test-measuring")
    truths, founds, images, annotations, results = [], [], [], [], []
    for image in range(12):
        count = int(random.integers(0, 9))
        corner, sides = random.integers(0, 60, (count, 2)), random.integers(5, 40, (count, 2))
        boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32).reshape(-1, 4)
        classes, crowd = random.integers(0, 3, count), random.random(count) < 0.15
        # what is found: the things shifted, twice, and noise; scores in tenths, so that many are equal
        near = np.concatenate([boxes, boxes, random.integers(0, 60, (4, 4)) + np.array([0, 0, 20, 20])])
        near = near + random.integers(-4, 5, near.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        kinds = np.concatenate([classes, classes, random.integers(0, 3, 4)])
        scores = np.round(random.random(len(near)), 1)
        truths.append(Things(boxes, classes, crowd=crowd))
        founds.append(Things(near, kinds, scores))
        images.append({"id": image + 1, "width": 100, "height": 100})
        wide = lambda box: [float(v) for v in (*box[:2], *(box[2:] - box[:2]))]
        for box, kind, many in zip(boxes, classes, crowd):
            x, y, w, h = wide(box)
            entry = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": int(kind), "bbox": [x, y, w, h]}
            annotations.append(entry | {"area": w * h, "iscrowd": int(many)})
        for box, kind, score in zip(near, kinds, scores):
            entry = {"image_id": image + 1, "category_id": int(kind), "bbox": wide(box)}
            results.append(entry | {"score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO()
        known.dataset = {"images": images, "annotations": annotations, "categories": [{"id": i} for i in range(3)]}
        known.createIndex()
        evaluation = cocoeval.COCOeval(known, known.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    expected = evaluation.eval["precision"][:, :, :, 0, 2].mean(1).T  # (classes, overlaps), all sizes, 100 boxes
    mine = average_precision(truths, founds, 3)
    assert mine.shape == (3, len(OVERLAPS)) and 0.02 < mine.mean() < 0.98
    assert np.allclose(mine, expected, atol=1e-9)
