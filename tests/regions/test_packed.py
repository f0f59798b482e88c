import numpy as np
import pytest
import torch

from uniter.regions.joined import JoinedRegions
from uniter.regions.packed import Buffers, PackedRegions
from uniter.regions.regions import Regions
from uniter.regions.store import Store, StoreWriter


def regions(seed, count, classes=70, located=False):
    draw = np.random.default_rng(seed)
    corner = draw.uniform(0, 200, (count, 2))
    boxes = np.concatenate([corner, corner + draw.uniform(20, 220, (count, 2))], 1).astype(np.float32)
    probs = draw.dirichlet(np.ones(classes), count).astype(np.float32) if classes else None
    places = draw.random((count, 6), np.float32) if located else None
    features = draw.standard_normal((count, 16)).astype(np.float16)
    return Regions(features, boxes, 500 + seed, 400 + 3 * seed, probs, locations=places)


def write(folder, seeds, **settings):
    with StoreWriter(folder, "d", shard_images=3, **settings) as writer:
        for seed in seeds:
            writer.add(f"{seed}.jpg", regions(seed, 1 + seed % 4, located=seed % 3 == 0))
    return Store(folder)


def equal(packed, plain, probs):
    assert packed.counts.tolist() == [len(found) for found in plain]
    assert np.array_equal(
        packed.features, np.concatenate([found.features for found in plain]).astype(packed.features.dtype)
    )
    assert np.array_equal(packed.locations, np.concatenate([found.fractions() for found in plain]))
    if probs:
        assert np.array_equal(packed.class_probs, np.concatenate([found.class_probs for found in plain]))


@pytest.mark.parametrize("probs", [False, True])
@pytest.mark.parametrize("compact", [False, True])
def test_a_store_of_several_shards_with_places_of_its_own(tmp_path, compact, probs):
    store = write(tmp_path / "store", range(8), compact=compact)
    names = [f"{seed}.jpg" for seed in (7, 0, 3, 3, 5, 1)]
    plain = store.read(names)
    packed = store.read_packed(names, class_probs=probs)
    assert packed.features.dtype == (np.float32 if compact else np.float16)
    equal(packed, plain, probs)
    room = np.full((40, 16), 7, np.float16)
    into = store.read_packed(names, room, probs)
    assert np.shares_memory(into.features, room) and (room[len(into.features) :] == 7).all()
    equal(into, plain, probs)
    with pytest.raises(ValueError, match=r"do not fit into \(3, 16\)"):
        store.read_packed(names, room[:3])


@pytest.mark.parametrize("probs", [False, True])
def test_joined_stores_fill_one_batch(tmp_path, probs):
    joined = JoinedRegions([write(tmp_path / "a", range(5)), write(tmp_path / "b", range(5, 9))])
    names = [f"{seed}.jpg" for seed in (7, 0, 3, 8, 1, 5)]
    packed = joined.read_packed(names, class_probs=probs)
    assert packed.features.dtype == np.float16
    equal(packed, joined.read(names), probs)
    mixed = JoinedRegions([write(tmp_path / "c", range(5)), write(tmp_path / "d", range(5, 9), compact=True)])
    packed = mixed.read_packed(names, class_probs=probs)
    assert packed.features.dtype == np.float32
    equal(packed, mixed.read(names), probs)


def test_regions_at_hand_are_packed_alike():
    found = [regions(seed, seed) for seed in (1, 4, 2)]
    equal(PackedRegions.of(found, True), found, True)
    assert PackedRegions.of(found).features.dtype == np.float16 and PackedRegions.of(found).class_probs is None
    with pytest.raises(ValueError, match="no class probabilities"):
        PackedRegions.of([*found, regions(3, 3, classes=0)], True)
    with pytest.raises(ValueError, match=r"different detectors in one batch: \[70, 80\] classes"):
        PackedRegions.of([*found, regions(3, 3, classes=80)], True)
    other = Regions(np.zeros((2, 5), np.float16), found[1].boxes[:2], 9, 9)
    with pytest.raises(ValueError, match=r"feature sizes \[5, 16\]"):
        PackedRegions.of([*found, other])


# ---------------------------------------------------------------- buffers


def test_a_buffer_is_used_again_when_nobody_holds_it():
    buffers = Buffers()
    first = buffers.rows(10, 4, np.dtype(np.float16))
    place = first.ctypes.data
    held = torch.from_numpy(first[2:5])
    del first
    second = buffers.rows(10, 4, np.dtype(np.float16))
    assert second.ctypes.data != place  # a tensor over a part of it is still there
    del held
    assert buffers.rows(8, 4, np.dtype(np.float16)).ctypes.data == place
    for other in ((10, 5, np.float16), (10, 4, np.float32), (10_000, 4, np.float16)):
        assert buffers.rows(other[0], other[1], np.dtype(other[2])).ctypes.data not in (place, second.ctypes.data)


def test_no_more_buffers_are_kept_than_was_said():
    buffers = Buffers(most=2)
    held = [buffers.rows(4, 4, np.dtype(np.float32)) for _ in range(5)]
    assert len({array.ctypes.data for array in held}) == 5 and len(buffers._arrays) == 2
