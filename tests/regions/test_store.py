import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from uniter.processing_uniter import UniterProcessor, Vocabulary
from uniter.regions.regions import ByteFeatures, Regions, StoredRegions, TopProbs
from uniter.regions.store import Store, StoreWriter, UnknownImageError, _Shard


def make(seed: int, classes: int = 5, count: int | None = None) -> Regions:
    rng = np.random.default_rng(seed)
    count = count or int(rng.integers(1, 9))
    logits = rng.normal(size=(count, classes)) * 3
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Regions(
        features=rng.normal(size=(count, 8)).astype(np.float16),
        boxes=rng.uniform(0, 50, size=(count, 4)).astype(np.float32),
        width=100 + seed,
        height=50,
        class_probs=probs.astype(np.float32),
        scores=np.sort(rng.uniform(size=count).astype(np.float32))[::-1],
    )


def same(a: Regions, b: Regions) -> bool:
    return (a.width, a.height) == (b.width, b.height) and all(
        np.array_equal(getattr(a, key), getattr(b, key)) for key in ("features", "boxes", "class_probs", "scores")
    )


def fill(path, numbers, **options) -> Store:
    with StoreWriter(path, "d1", ["background", "a", "b", "c", "d"], shard_images=4, **options) as writer:
        for number in numbers:
            writer.add(f"föld/{number}.png", make(number))
    return Store(path)


def test_round_trip(tmp_path):
    store = fill(tmp_path / "s", range(10))
    assert len(store) == 10 and store.detector == "d1" and store.feature_size == 8 and store.num_classes == 5
    assert [entry["images"] for entry in store.index["shards"]] == [4, 4, 2]
    for number in (9, 0, 5):
        name = f"föld/{number}.png"
        assert name in store and same(store[name], make(number))
        assert store.num_regions(name) == len(make(number)) == store.counts()[number]
        assert store[name].class_probs.dtype == np.float32
    store.verify()


def test_store_without_probabilities_and_scores(tmp_path):
    bare = make(1)
    with StoreWriter(tmp_path / "s", "d") as writer:
        writer.add("a", Regions(bare.features, bare.boxes, 10, 10))
    read = Store(tmp_path / "s")["a"]
    assert read.class_probs is None and read.scores is None and Store(tmp_path / "s").num_classes == 0


def test_a_compact_store_rounds_features_to_bytes(tmp_path):
    store = fill(tmp_path / "s", range(10), compact=True)
    for number in range(10):
        made, read = make(number), store[f"föld/{number}.png"]
        assert len(read) == len(made) and isinstance(read.kept_features, ByteFeatures)
        wide = made.features.astype(np.float32)
        step = np.ptp(wide, axis=1, keepdims=True) / 255
        assert (np.abs(read.features - wide) <= step * 0.501).all() and not np.array_equal(read.features, wide)
        assert np.array_equal(pickle.loads(pickle.dumps(read)).features, read.features)
        assert np.array_equal(read.boxes, made.boxes) and np.array_equal(read.class_probs, made.class_probs)
    sizes = {entry["file"]: entry["bytes"] for entry in store.index["shards"]}
    assert (store.path / "shard-00000.safetensors").stat().st_size == sizes["shard-00000.safetensors"]
    with pytest.raises(ValueError, match="keeps its features as bytes"):
        StoreWriter(store.path, "d1")
    with StoreWriter(store.path, "d1", compact=True) as writer:
        writer.add("more", make(11))
    assert len(Store(store.path)) == 11


def test_a_batch_takes_bytes_as_it_takes_numbers():
    regions = make(3)
    kept = ByteFeatures.of(regions.features)
    stored = StoredRegions(kept, regions.boxes, 100, 50)
    processor = UniterProcessor(Vocabulary.train(["a red star"], 40))
    batch, again = (processor("a red star", given) for given in (stored, Regions(kept.whole(), regions.boxes, 100, 50)))
    assert all(torch.equal(batch[key], again[key]) for key in again)


def test_features_that_are_all_alike_survive_rounding():
    alike = np.full((2, 4), 3.5, np.float16)
    assert np.array_equal(ByteFeatures.of(alike).whole(), alike.astype(np.float32))


@pytest.mark.parametrize("full", [False, True])
def test_many_classes(tmp_path, full):
    regions = make(3, classes=1601, count=6)
    with StoreWriter(tmp_path / "s", "d", full=full) as writer:
        writer.add("a", regions)
    read = Store(tmp_path / "s")["a"].class_probs
    assert read.shape == (6, 1601) and np.allclose(read.sum(1), 1, atol=2e-3)
    top = np.argsort(-regions.class_probs, 1)[:, :32]
    assert np.allclose(np.take_along_axis(read, top, 1), np.take_along_axis(regions.class_probs, top, 1), rtol=2e-3)
    assert full == np.allclose(read, regions.class_probs, rtol=2e-3, atol=1e-6)


def test_the_largest_probabilities_are_kept_until_a_batch_asks_for_all(tmp_path):
    regions = make(3, classes=1601, count=6)
    with StoreWriter(tmp_path / "s", "d") as writer:
        writer.add("a", regions)
    read = Store(tmp_path / "s")["a"]
    top = np.argsort(-regions.class_probs, axis=1, kind="stable")[:, :32]
    kept = np.take_along_axis(regions.class_probs, top, 1).astype(np.float16).astype(np.float32)
    rest = np.maximum(regions.class_probs.sum(1) - kept.sum(1), 0).astype(np.float32)
    whole = np.repeat((rest / 1569)[:, None], 1601, 1)
    np.put_along_axis(whole, top, kept, 1)
    again = pickle.loads(pickle.dumps(read))
    out = np.full((7, 1601), -1, np.float32)
    read.kept_class_probs.write(out[:6])
    assert isinstance(read.kept_class_probs, TopProbs) and read.kept_class_probs.shape == (6, 1601)
    assert np.array_equal(out[:6], whole) and (out[6] == -1).all()
    assert np.array_equal(read.class_probs, whole) and read.class_probs is read.class_probs
    assert np.array_equal(again.class_probs, whole) and again.class_probs.dtype == np.float32


def test_prefetch_asks_for_rows_by_place_and_once_for_what_lies_around(tmp_path, monkeypatch):
    with StoreWriter(tmp_path / "s", "d", shard_images=4) as writer:
        for number in range(6):
            writer.add(f"föld/{number}.png", make(number, classes=70))
    store, asked = Store(tmp_path / "s"), []
    monkeypatch.setattr(_Shard, "_fetch", lambda shard, begin, end: asked.append((len(shard.file), begin, end)))
    names = [f"föld/{number}.png" for number in (5, 0, 3)]
    store.prefetch(names)
    around = [(size, begin, end) for size, begin, end in asked if begin == 0 or end == size]
    rows = [span for span in asked if span not in around]
    assert len(around) == 4 and len(rows) == 3 and rows[:2] == sorted(rows[:2])
    assert sorted(end - begin for _, begin, end in rows) == sorted(len(make(n)) * 8 * 2 for n in (5, 0, 3))
    asked.clear()
    store.prefetch(names)
    assert asked == rows
    with pytest.raises(UnknownImageError):
        store.prefetch(["absent.png"])


def test_killed_writer_is_continued_to_the_same_bytes(tmp_path):
    whole = fill(tmp_path / "whole", range(10))
    writer = StoreWriter(tmp_path / "cut", "d1", ["background", "a", "b", "c", "d"], shard_images=4)
    for number in range(7):
        writer.add(f"föld/{number}.png", make(number))
    del writer  # killed: the second shard was never written
    (tmp_path / "cut" / "shard-00001.safetensors.writing").write_bytes(b"half")
    assert len(Store(tmp_path / "cut")) == 4
    cut = fill(tmp_path / "cut", range(10))
    assert cut.index == whole.index and cut.names == whole.names
    assert not list((tmp_path / "cut").glob("*.writing"))


def test_refusals_name_the_mend(tmp_path):
    store = fill(tmp_path / "s", range(6))
    with pytest.raises(ValueError, match="another folder"):
        StoreWriter(tmp_path / "s", "d2")
    with pytest.raises(ValueError, match=r"föld/3\.png"):
        store["3.jpg"]
    with pytest.raises(KeyError):
        store["nothing alike"]
    with pytest.raises(ValueError, match="there is no store"):
        Store(tmp_path / "none")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="no store"):
        Store(tmp_path / "foreign")
    with pytest.raises(ValueError, match="not empty"):
        StoreWriter(tmp_path / "foreign", "d")
    with pytest.raises(ValueError, match="feature_size"), StoreWriter(tmp_path / "s", "d1") as writer:
        writer.add("new", Regions(np.ones((1, 9), np.float32), np.ones((1, 4), np.float32), 5, 5))
    with pytest.raises(ValueError, match="float16"), StoreWriter(tmp_path / "t", "d1") as writer:
        writer.add("new", Regions(np.full((1, 9), 1e6, np.float32), np.ones((1, 4), np.float32), 5, 5))


def test_damage_is_named(tmp_path):
    fill(tmp_path / "s", range(6))
    shard = tmp_path / "s" / "shard-00001.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1])
    with pytest.raises(ValueError, match="shard-00001"):
        Store(tmp_path / "s")
    shard.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    with pytest.raises(ValueError, match="sha256"):
        Store(tmp_path / "s").verify()
    shard.write_bytes(b"\xff" * len(good))
    with pytest.raises(ValueError, match="damaged"):
        Store(tmp_path / "s")
    shard.unlink()
    with pytest.raises(ValueError, match="missing"):
        Store(tmp_path / "s")
    (tmp_path / "s" / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json"):
        Store(tmp_path / "s")


def _total(store: Store) -> float:
    return float(sum(store[name].features.astype(np.float64).sum() for name in store.names))


def test_two_processes_read(tmp_path):
    store = fill(tmp_path / "s", range(10))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        totals = pool.map(_total, [store, store])
    assert totals == [_total(store)] * 2
    assert pickle.loads(pickle.dumps(store)).names == store.names


def test_packed_reading_fetches_ahead_like_any_other(tmp_path, monkeypatch):
    store, asked = fill(tmp_path / "s", range(10)), []
    monkeypatch.setattr(type(store), "prefetch", lambda self, names: asked.append(list(names)))
    store.read_packed(store.names[3:6])
    assert asked == [store.names[3:6]]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))
from uniter.regions.store import Store
store = Store(sys.argv[1])
for _ in range(2):
    total = sum(len(store[name]) for name in store.names) + len(store.read_packed(store.names).features)
print(total, len(store._shards), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a mapping counts as no open file")
@pytest.mark.parametrize(("most", "shards_open", "raised"), [(4096, 100, 656), (64, 16, 64)])
def test_shards_stay_mapped_as_far_as_the_system_allows(tmp_path, most, shards_open, raised):
    with StoreWriter(tmp_path / "s", "d1", shard_images=1) as writer:
        for number in range(100):
            writer.add(f"{number}.png", make(number))
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "s"), str(most)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert [int(value) for value in found[1:]] == [shards_open, raised]
    assert int(found[0]) == 2 * int(Store(tmp_path / "s").counts().sum())
