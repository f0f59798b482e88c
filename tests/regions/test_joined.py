import pickle

import numpy as np
import pytest

from uniter.regions import Regions, StoreWriter
from uniter.regions.formats import open_regions


def regions(number, size=4):
    features = np.full((number, size), number, np.float16)
    return Regions(features, np.tile(np.array([0, 0, 5, 5], np.float32), (number, 1)), 10, 10)


def write(path, names, detector="d", size=4):
    with StoreWriter(path, detector) as writer:
        for number, name in enumerate(names, 1):
            writer.add(name, regions(number, size))
    return path


def test_several_stores_are_one(tmp_path):
    places = [write(tmp_path / "a", ["a/1", "a/2"]), write(tmp_path / "b", ["b/1", "b/2", "b/3"])]
    both = open_regions(places)
    assert both.names == ["a/1", "a/2", "b/1", "b/2", "b/3"] and len(both) == 5 and both.detector == "d"
    assert [len(both[name]) for name in both] == [1, 2, 1, 2, 3] == both.counts().tolist()
    assert [len(r) for r in pickle.loads(pickle.dumps(both)).read(["b/3", "a/2"])] == [3, 2]
    with pytest.raises(ValueError, match=r"a, .*b \(5 images\) holds no image 'b/4'"):
        both["b/4"]
    assert len(open_regions(places[:1])) == 2


def test_stores_that_do_not_go_together_are_refused(tmp_path):
    first = write(tmp_path / "a", ["1", "2"])
    with pytest.raises(ValueError, match=r"a and .*b both hold an image '2'"):
        open_regions([first, write(tmp_path / "b", ["2"])])
    with pytest.raises(ValueError, match="one model reads one detector's"):
        open_regions([first, write(tmp_path / "c", ["3"], detector="e")])
