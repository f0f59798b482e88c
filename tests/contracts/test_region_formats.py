"""What every region format keeps, foreign or our own; a new format is tested here once tests/regions/foreign.py writes it."""

import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "regions"))
import foreign

from uniter.regions.formats import open_regions
from uniter.regions.importing import import_regions
from uniter.regions.regions import Regions
from uniter.regions.source import RegionSource

IMAGES = foreign.images()
FORMATS = {**foreign.WRITERS, "store": None}


@pytest.fixture(params=FORMATS)
def regions(request, tmp_path) -> RegionSource:
    write = FORMATS[request.param]
    if write is not None:
        return open_regions(write(tmp_path, IMAGES))
    import_regions(foreign.write_official(tmp_path / "db", IMAGES), tmp_path / "store", progress=False)
    return open_regions(tmp_path / "store")


def same(a: Regions, b: Regions) -> bool:
    arrays = [(getattr(a, key), getattr(b, key)) for key in ("features", "boxes", "scores", "class_probs", "locations")]
    return (a.width, a.height) == (b.width, b.height) and all(
        (x is None and y is None) or (x is not None and y is not None and np.array_equal(x, y)) for x, y in arrays
    )


def test_packed_reads_are_the_plain_ones(regions):
    names = [*regions.names[::-1], regions.names[0]]
    plain = regions.read(names)
    for probs in {False, bool(regions.num_classes)}:
        packed = regions.read_packed(names, class_probs=probs)
        assert packed.counts.tolist() == [len(found) for found in plain]
        assert packed.features.dtype == regions.feature_type
        assert np.array_equal(packed.features, np.concatenate([found.features for found in plain]))
        assert np.array_equal(packed.locations, np.concatenate([found.fractions() for found in plain]))
        assert packed.locations.dtype == np.float32 and (packed.class_probs is not None) == probs
        if probs:
            assert np.array_equal(packed.class_probs, np.concatenate([found.class_probs for found in plain]))
    if not regions.num_classes:
        with pytest.raises(ValueError, match="no class probabilities"):
            regions.read_packed(names, class_probs=True)
    with pytest.raises(ValueError, match="nobody"):
        regions.read_packed(["nobody"])


def total(regions: RegionSource) -> float:
    return float(sum(regions[name].features.astype(np.float64).sum() for name in regions.names))


def test_names_and_lengths_agree(regions):
    assert len(regions) == len(regions.names) == len(set(regions.names)) == len(IMAGES) == len(list(regions))
    assert all(name in regions for name in regions.names) and "nobody" not in regions
    for name, image in zip(regions.names, IMAGES, strict=True):
        assert image.name in name
        found = regions[name]
        assert regions.num_regions(name) == len(found) == len(found.boxes) == len(found.fractions())
        assert found.features.shape[1] == regions.feature_size == foreign.FEATURE_SIZE
        probs = found.class_probs
        assert (0 if probs is None else probs.shape[1]) == regions.num_classes
        assert probs is None or (len(probs) == len(found) and np.allclose(probs.sum(1), 1, atol=3e-3))
        assert np.allclose(found.fractions()[:, :4], image.six[: len(found), :4], atol=2e-3)
        assert np.allclose(found.features, image.features[: len(found)], atol=3e-3)
    assert regions.counts().tolist() == [regions.num_regions(name) for name in regions.names]
    assert same(regions.read(regions.names[:2])[1], regions[regions.names[1]])


def test_unknown_names(regions):
    for ask in (regions.__getitem__, regions.num_regions):
        with pytest.raises(KeyError) as caught:
            ask("nobody")
        assert (
            isinstance(caught.value, ValueError)
            and "nobody" in str(caught.value)
            and str(regions.path) in str(caught.value)
        )


def test_pickled_and_closed_it_still_reads(regions):
    expected = total(regions)
    copy = pickle.loads(pickle.dumps(regions))
    assert copy.names == regions.names and copy.detector == regions.detector
    assert total(copy) == expected
    regions.close()
    assert total(regions) == expected
    one = regions[regions.names[1]]
    assert same(pickle.loads(pickle.dumps(one)), one)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(regions, method):
    if method == "spawn" and type(regions).__name__ not in ("OfficialRegions", "Hdf5Regions"):
        pytest.skip("a process is slow to start: only where files are held open")
    expected = total(regions)  # files are open when the fork comes
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(total, [regions] * 4) == [expected] * 4
    assert total(regions) == expected


def test_threads(regions):
    expected = total(regions)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(total, [regions] * 12)) == [expected] * 12


def test_import_gives_what_is_read_in_place(regions, tmp_path):
    if regions.path.name == "store":
        with pytest.raises(ValueError, match="is a store already"):
            import_regions(regions.path, tmp_path / "copy", progress=False)
        return
    import_regions(regions.path, tmp_path / "copy", full=True, progress=False)
    store = open_regions(tmp_path / "copy")
    assert store.names == regions.names
    for name in regions.names:
        here, there = regions[name], store[name]
        assert np.array_equal(here.features.astype(np.float16), there.features)
        assert np.array_equal(here.fractions(), there.fractions()) and np.array_equal(here.boxes, there.boxes)
        assert (here.width, here.height) == (there.width, there.height)
        assert (here.scores is None) == (there.scores is None)
        assert here.scores is None or np.array_equal(here.scores, there.scores)
        assert here.class_probs is None or np.allclose(here.class_probs, there.class_probs, atol=1e-3)
