"""Foreign formats: the published code's files to the bit, hand-made ones of the others, imports, and bad input."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import foreign
import numpy as np
import pytest
from typer.testing import CliRunner

from golden import GOLDEN, needs_golden
from uniter.regions.formats import open_regions
from uniter.regions.formats.official import OfficialRegions
from uniter.regions.importing import import_regions
from uniter.regions.regions import Regions
from uniter.regions.store import Store, StoreWriter

GOLDEN_FOLDERS = (
    "coco_train2014",
    "coco_train2014_compressed",
    "vcr_gt_val",
    "re_coco_gt",
    "real_coco_val2014",
    "real_coco_val2014_compressed",
)


def golden_folder(name):
    """The database that `expected_db` calls by a name; sets differ in the thresholds that its folder is named after."""
    real, plain = name.startswith("real_"), name.removeprefix("real_").removesuffix("_compressed")
    above = GOLDEN / "db" / "real" / "img" / plain if real else GOLDEN / "db" / "img" / plain
    ending = "_compressed" if name.endswith("_compressed") else ""
    (found,) = (p.parent for p in above.glob("*/data.mdb") if p.parent.name.endswith("_compressed") == bool(ending))
    return found


FIELDS = {
    "features": lambda r: r.features.astype(np.float32),
    "features_first8": lambda r: r.features[:, :8].astype(np.float32),
    "features_rowsum_f64": lambda r: r.features.astype(np.float32).astype(np.float64).sum(1),
    "norm_bb": lambda r: r.fractions()[:, :6],
    "img_pos_feat": lambda r: r.fractions(),
    "soft_labels": lambda r: r.class_probs,
    "soft_labels_rowsum_f64": lambda r: r.class_probs.astype(np.float64).sum(1),
    "soft_labels_argmax": lambda r: r.class_probs.argmax(1),
    "conf": lambda r: r.scores,
}


@needs_golden
@pytest.mark.parametrize("read", ["in place", "imported"])
@pytest.mark.parametrize("folder", GOLDEN_FOLDERS)
def test_golden_images_to_the_bit(folder, read, tmp_path):
    regions = open_regions(golden_folder(folder))
    if read == "imported":
        import_regions(regions.path, tmp_path / "store", full=True, progress=False)
        regions = open_regions(tmp_path / "store")
        assert isinstance(regions, Store)
    expected = np.load(GOLDEN / "expected_db" / "images.npz")
    keys = [key for key in expected.files if key.startswith(f"{folder}/")]
    assert keys
    for key in keys:
        _, name, field = key.split("/")
        found = FIELDS[field](regions[name])
        assert np.array_equal(found, expected[key]), key
        assert found.dtype == expected[key].dtype or field == "soft_labels_argmax", key


@needs_golden
@pytest.mark.parametrize("folder", GOLDEN_FOLDERS)
def test_golden_counts(folder):
    regions = open_regions(golden_folder(folder))
    said = json.loads((GOLDEN / "expected_db" / "images.json").read_text())
    entries = {key.split("/")[1]: value for key, value in said.items() if key.startswith(f"{folder}/")}
    assert entries
    for name, entry in entries.items():
        assert regions.num_regions(name) == len(regions[name]) == entry["rows_returned"]


@needs_golden
def test_golden_thresholds_of_ones_own():
    said = json.loads((GOLDEN / "expected_db" / "images.json").read_text())["coco_all"]
    for key, numbers in said["num_bb"].items():
        threshold, most, least = key.replace("th", "").replace("max", "").replace("min", "").split("_")
        choice = {"conf_threshold": float(threshold), "max_regions": int(most), "min_regions": int(least)}
        regions = open_regions(GOLDEN / "db" / "img" / "coco_all", **choice)
        for name, number in numbers.items():
            rows = min(number, said["stored_rows"][name])
            assert regions.num_regions(name) == len(regions[name]) == rows, (key, name)


@needs_golden
@pytest.mark.parametrize("inner", sorted((GOLDEN / "db").glob("**/img/*/*/data.mdb")), ids=lambda p: p.parts[-3])
def test_every_golden_image_reads(inner):
    regions = open_regions(inner.parent)
    assert len(regions) and regions.counts().tolist() == [len(regions[name]) for name in regions.names]


@needs_golden
def test_a_text_database_is_refused():
    with pytest.raises(ValueError, match="it is a text, not regions"):
        open_regions(GOLDEN / "db" / "txt" / "vqa_train.db")


@pytest.fixture
def made():
    return foreign.images()


def test_official_rule_takes_the_first_rows(tmp_path, made):
    made[1].conf = np.array([0.1] * 7 + [0.9] * 7, np.float32)  # unsorted: 7 count, the first 7 are taken
    made[0].conf = np.full(3, 0.9, np.float32)
    made[3].conf = np.full(7, np.float16(0.2), np.float32)  # not above 0.2 as halves
    regions = open_regions(foreign.write_official(tmp_path / "db", made, inner="all"))
    assert len(regions[f"{made[1].name}.npz"]) == 10  # as published: 0.2, 100, 10
    regions = open_regions(tmp_path / "db", conf_threshold=0.2, max_regions=12, min_regions=2)
    assert [len(regions[name]) for name in regions.names] == [3, 7, 1, 2]
    found = regions[f"{made[1].name}.npz"]
    assert np.array_equal(found.features, made[1].features[:7].astype(np.float16))
    assert (found.width, found.height) == (1, 1) and found.boxes.max() <= 1


def test_official_folder_above(tmp_path, made):
    inner = foreign.write_official(tmp_path / "db", made)
    foreign.write_official(tmp_path / "db", made, compressed=True)
    regions = open_regions(tmp_path / "db")
    assert isinstance(regions, OfficialRegions) and regions.folder == inner  # same regions, the quicker flavour
    foreign.write_official(tmp_path / "db", made, inner="all")
    with pytest.raises(ValueError, match=r"holds all, feat_th0\.2_max10_min2, .*give one of them"):
        open_regions(tmp_path / "db")


def test_two_readers_of_one_lmdb_and_one_closes(tmp_path, made):
    folder = foreign.write_official(tmp_path / "db", made)
    one, other = open_regions(folder), open_regions(folder)
    one.close()
    assert len(other[other.names[0]]) == len(one[one.names[0]])
    made[0].features += 1
    shutil.rmtree(folder)
    foreign.write_official(tmp_path / "db", made)  # another file at the same place
    fresh = open_regions(folder)
    assert np.array_equal(
        fresh["im_0000.npz"].features, made[0].features.astype(np.float16)[: len(fresh["im_0000.npz"])]
    )


@pytest.mark.parametrize("lxmert", [False, True])
def test_tsv(tmp_path, made, lxmert):
    file = foreign.write_tsv(tmp_path / "r.tsv", made, lxmert)
    for _ in range(2):  # the second time by the index that was kept
        regions = open_regions(file)
        assert regions.names == [image.name for image in made]
        for image in made:
            found = regions[image.name]
            assert np.array_equal(found.features, image.features) and np.array_equal(found.boxes, image.pixels)
            assert (found.width, found.height) == (image.width, image.height)
            assert np.allclose(found.fractions()[:, :6], image.six, atol=1e-6)
            if lxmert:
                assert np.array_equal(found.scores, image.conf)
                assert np.array_equal(found.class_probs[:, 1:].argmax(1) + 1, image.classes)
                assert np.allclose(found.class_probs.sum(1), 1) and found.class_probs.shape[1] == 1601
            else:
                assert found.class_probs is None
        assert (tmp_path / "r.tsv.index.json").exists()
    foreign.write_tsv(file, made[:2], lxmert)  # the index is of another file now
    assert len(open_regions(file)) == 2


def test_tsv_where_nothing_can_be_written(tmp_path, made, monkeypatch):
    file = foreign.write_tsv(tmp_path / "r.tsv", made)

    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert len(open_regions(file)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["r.tsv"]


@pytest.mark.parametrize("index", ["pos_boxes", "offsets", "num_regions"])
def test_flat_hdf5(tmp_path, made, index):
    regions = open_regions(foreign.write_flat_hdf5(tmp_path / "r.h5", made, index))
    for image in made:
        found = regions[image.name]
        assert np.array_equal(found.features, image.features)
        assert np.array_equal(found.fractions()[:, :6], image.six.astype(np.float32))


def test_flat_hdf5_with_names_beside_it(tmp_path, made):
    file = foreign.write_flat_hdf5(tmp_path / "r.h5", made, drop=("image_ids", "image_bb"))
    with pytest.raises(ValueError, match=r"nothing names the images.*r_imgid2idx\.json"):
        open_regions(file)
    (tmp_path / "r_imgid2idx.json").write_text(json.dumps({image.name: row for row, image in enumerate(made)}))
    assert np.array_equal(open_regions(file)["im_0001"].features, made[1].features)


@pytest.mark.parametrize("separator", ["/", "_", "-"])
def test_hdf5_per_image(tmp_path, made, separator):
    regions = open_regions(foreign.write_group_hdf5(tmp_path / "r.h5", made, separator))
    for image in made:
        found = regions[image.name]
        assert np.array_equal(found.features, image.features) and np.array_equal(found.boxes, image.pixels)
        assert np.array_equal(found.scores, image.conf) and found.width == image.width
    few = open_regions(regions.path, conf_threshold=0.5, min_regions=1, max_regions=4)
    for image in made:
        count = min(4, max(1, int((image.conf > 0.5).sum())), len(image.conf))
        assert len(few[image.name]) == few.num_regions(image.name) == count


def test_npz_folder(tmp_path, made):
    regions = open_regions(foreign.write_npz_folder(tmp_path / "a", made))
    assert regions.names[0] == "deep/im_0000.npz"
    for image in made:
        found = regions[f"deep/{image.name}.npz"]
        assert np.array_equal(found.features, image.features) and np.array_equal(found.boxes, image.pixels)
        assert found.height == 120
    official = open_regions(foreign.write_npz_folder(tmp_path / "b", made, official=True))
    found = official["deep/im_0001.npz"]
    assert np.array_equal(found.fractions()[:, :6], made[1].six.astype(np.float16).astype(np.float32))
    assert np.array_equal(found.class_probs, made[1].probs.astype(np.float16).astype(np.float32))


def test_flat_npz(tmp_path, made):
    regions = open_regions(foreign.write_flat_npz(tmp_path / "r.npz", made))
    for image in made:
        found = regions[image.name]
        assert np.array_equal(found.features, image.features.astype(np.float16))
        assert np.allclose(found.fractions()[:, :6], image.six, atol=1e-6) and found.width == 1
        assert np.array_equal(found.class_probs, image.probs.astype(np.float16).astype(np.float32))


def test_flat_npz_of_real_photographs():
    file = Path(__file__).parents[3] / "shared" / "data" / "flickr8k" / "regions-dev.npz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    regions = open_regions(file)
    raw = np.load(file)
    assert regions.names == raw["files"].tolist() and regions.counts().tolist() == raw["num_regions"].tolist()
    begin = int(raw["num_regions"][:5].sum())
    assert np.array_equal(
        regions[regions.names[5]].features, raw["features"][begin : begin + len(regions[regions.names[5]])]
    )


# ---------------------------------------------------------------- imports


def test_import_remembers_where_from_and_goes_on_with_another(tmp_path, made):
    one = foreign.write_official(tmp_path / "one", made)
    other = foreign.write_official(tmp_path / "other", foreign.images((2, 5), stem="b_"))
    import_regions(one, tmp_path / "store", detector="BUTD", progress=False)
    report = import_regions(other, tmp_path / "store", detector="BUTD", progress=False)
    assert (report.images, report.added) == (6, 2)
    store = Store(tmp_path / "store")
    store.verify()
    assert [source["path"] for source in store.index["sources"]] == [str(one.resolve()), str(other.resolve())]
    assert store.index["sources"][0]["format"] == "official LMDB" and store.detector == "BUTD"
    with pytest.raises(ValueError, match="another folder"):
        import_regions(one, tmp_path / "store", detector="else", progress=False)
    with pytest.raises(ValueError, match="other settings"):
        import_regions(one, tmp_path / "store", detector="BUTD", max_regions=3, progress=False)


def test_soft_labels_survive(tmp_path):
    rng = np.random.default_rng(0)
    made = foreign.images((5, 3))
    for image in made:
        image.probs = rng.dirichlet(np.full(1601, 0.01), len(image.features)).astype(np.float32)
    folder = foreign.write_official(tmp_path / "db", made)
    import_regions(folder, tmp_path / "full", full=True, progress=False)
    import_regions(folder, tmp_path / "top", progress=False)
    inside, full, top = open_regions(folder), Store(tmp_path / "full"), Store(tmp_path / "top")
    for name in inside.names:
        assert np.array_equal(inside[name].class_probs, full[name].class_probs)
        assert np.array_equal(inside[name].class_probs.argmax(1), top[name].class_probs.argmax(1))
        assert np.allclose(inside[name].class_probs.sum(1), top[name].class_probs.sum(1), atol=2e-3)


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_killed_import_goes_on_to_the_same_bytes(tmp_path):
    folder = foreign.write_official(tmp_path / "db", foreign.images((3,) * 40), compressed=True)
    import_regions(folder, tmp_path / "whole", progress=False, shard_images=8)
    code = f"""
import os
from uniter.regions import importing, store
seen = 0
add = store.StoreWriter.add
def dying(self, name, regions):
    global seen
    seen += 1
    if seen > 21:
        os.kill(os.getpid(), 9)
    add(self, name, regions)
store.StoreWriter.add = dying
importing.import_regions({str(folder)!r}, {str(tmp_path / "cut")!r}, progress=False, shard_images=8)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(Store(tmp_path / "cut")) == 16
    report = import_regions(folder, tmp_path / "cut", progress=False, shard_images=8)
    assert (report.images, report.added) == (40, 24)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_command_line(tmp_path, made):
    from uniter.cli import app

    folder = foreign.write_official(tmp_path / "db", made, inner="all")
    arguments = ["import-regions", str(folder), "--out", str(tmp_path / "store"), "--detector", "BUTD", "--quiet"]
    choice = ["--conf-threshold", "0.5", "--max-regions", "5", "--min-regions", "2", "--full"]
    result = CliRunner().invoke(app, arguments + choice)
    assert result.exit_code == 0 and "4 images, 4 added" in result.output, result.output
    expected = open_regions(folder, conf_threshold=0.5, max_regions=5, min_regions=2)
    assert Store(tmp_path / "store").counts().tolist() == expected.counts().tolist()
    foreign_folder = tmp_path / "mine"
    foreign_folder.mkdir()
    (foreign_folder / "thesis.txt").write_text("all of it")
    result = CliRunner().invoke(app, ["import-regions", str(folder), "--out", str(foreign_folder), "--quiet"])
    assert isinstance(result.exception, ValueError) and "is not empty and is no store" in str(result.exception)
    assert [path.name for path in foreign_folder.iterdir()] == ["thesis.txt"]


def test_a_store_of_before_opens_and_may_be_joined_by_locations(tmp_path, made):
    plain = Regions(np.ones((2, 6), np.float16), np.array([[0, 0, 5, 5], [1, 1, 3, 3]], np.float32), 10, 10)
    with StoreWriter(tmp_path / "store", None) as writer:
        writer.add("plain", plain)
        assert "sources" not in writer.index
    with StoreWriter(tmp_path / "store", None, shard_images=2) as writer:
        writer.add("located", Regions(plain.features, plain.boxes, 1, 1, locations=np.full((2, 6), 0.3, np.float16)))
        writer.add("plain too", plain)
    store = Store(tmp_path / "store")
    assert store["plain"].locations is None and store["plain too"].locations is None
    known = np.float32(np.float16(0.3))
    assert (store["located"].fractions() == [*[known] * 6, known * known]).all()
    assert (store["located"].take(np.array([1])).fractions() == store["located"].fractions()[1:]).all()


# ---------------------------------------------------------------- bad input


def truncated_lmdb(tmp, made):
    folder = foreign.write_official(tmp / "db", made * 1, inner="all")
    size = (folder / "data.mdb").stat().st_size
    os.truncate(folder / "data.mdb", size // 2)
    return folder


def missing_counts(tmp, made):
    folder = foreign.write_official(tmp / "db", made)
    (tmp / "db" / "nbb_th0.2_max10_min2.json").unlink()
    return folder


def pickled(tmp, made):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp / "evil"),))

    folder = foreign.write_npz_folder(tmp / "npz", made)
    np.savez(folder / "deep" / "im_0002.npz", features=np.array([Evil()], object), bbox=made[2].pixels)
    return folder


def pickled_beside(tmp, made):
    folder = foreign.write_npz_folder(tmp / "npz", made)
    np.savez(folder / "deep" / "im_0002.npz", x=made[2].features, norm_bb=made[2].six, more=np.array([{}], object))
    return folder


def pickled_lmdb(tmp, made):
    records = {f"{i.name}.npz": foreign.zipped(foreign.fields(i)) for i in made}
    records["im_0001.npz"] = foreign.zipped({"norm_bb": made[1].six, "features": np.array([{}], object)})
    return foreign.write_lmdb(tmp / "all_compressed", records)


def pickled_flat(tmp, made):
    file = foreign.write_flat_npz(tmp / "r.npz", made)
    np.savez(file, **dict(np.load(file)), more=np.array([{}], object))
    return file


def other_width(tmp, made):
    made[2].features = made[2].features[:, :5]
    return foreign.write_official(tmp / "db", made)


def not_a_number(tmp, made):
    made[2].features[0, 0] = np.nan
    return foreign.write_official(tmp / "db", made, compressed=True)


def nothing(tmp, made):
    (tmp / "folder").mkdir()
    (tmp / "folder" / "notes.txt").write_text("x")
    return tmp / "folder"


def broken_line(tmp, made):
    file = foreign.write_tsv(tmp / "r.tsv", made)
    lines = file.read_bytes().split(b"\r\n")
    lines[2] = lines[2][: len(lines[2]) // 2]
    file.write_bytes(b"\r\n".join(lines))
    return file


def cut_tsv(tmp, made):
    file = foreign.write_tsv(tmp / "r.tsv", made)
    os.truncate(file, file.stat().st_size - 20)
    return file


def h5_without_features(tmp, made):
    return foreign.write_flat_hdf5(tmp / "r.h5", made, drop=("image_features",))


def h5_without_boxes(tmp, made):
    return foreign.write_flat_hdf5(tmp / "r.h5", made, drop=("image_bb", "spatial_features"))


def h5_without_index(tmp, made):
    return foreign.write_flat_hdf5(tmp / "r.h5", made, drop=("pos_boxes",))


def h5_pixels_without_size(tmp, made):
    return foreign.write_flat_hdf5(tmp / "r.h5", made, drop=("spatial_features",))


def cut_h5(tmp, made):
    file = foreign.write_flat_hdf5(tmp / "r.h5", made)
    os.truncate(file, file.stat().st_size - 100)
    return file


def cut_npz(tmp, made):
    file = foreign.write_flat_npz(tmp / "r.npz", made)
    os.truncate(file, file.stat().st_size - 100)
    return file


def count_lacks_a_name(tmp, made):
    return foreign.write_official(tmp / "db", made, counts={"im_0000.npz": 2})


BAD = {
    truncated_lmdb: r"data\.mdb is cut short \(\d+ of \d+ bytes\): copy it again",
    missing_counts: r"nbb_th0\.2_max10_min2\.json is missing.*copy it, too, or give conf_threshold",
    pickled: r"image 'deep/im_0002\.npz' cannot be read: a field is a pickled object, which is never opened",
    pickled_beside: r"image 'deep/im_0002\.npz' cannot be read: a field is a pickled object",
    pickled_lmdb: r"image 'im_0001\.npz' cannot be read: a field is a pickled object",
    pickled_flat: r"r\.npz cannot be read: a member is a pickled object",
    other_width: r"image 'im_0002\.npz' has features of 5 numbers, image 'im_0000\.npz' of 6",
    not_a_number: r"image 'im_0002\.npz' cannot be read: .*NaN",
    nothing: r"is no store of regions.*in it: notes\.txt, and docs/formats\.md says what else is read",
    broken_line: r"r\.tsv: line 3",
    cut_tsv: r"r\.tsv: line 4",
    h5_without_features: r"r\.h5: no regions in it.*there are image_bb, image_ids, pos_boxes",
    h5_without_boxes: r"r\.h5: no boxes",
    h5_without_index: r"r\.h5: nothing says which rows are whose",
    h5_pixels_without_size: r"boxes are in pixels, but the image's size is not there",
    cut_h5: r"r\.h5 cannot be opened \(.*truncated",
    cut_npz: r"r\.npz cannot be read",
    count_lacks_a_name: r"lacks 3 of its 4 images, such as 'im_0001\.npz'",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_bad_input_is_named_and_nothing_is_written(spoil, tmp_path, made):
    place = spoil(tmp_path, made)
    with pytest.raises(ValueError, match=BAD[spoil]) as caught:
        import_regions(place, tmp_path / "store", progress=False, shard_images=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists() and not (tmp_path / "evil").exists()


def test_bad_input_leaves_an_older_store_as_it_was(tmp_path, made):
    import_regions(
        foreign.write_official(tmp_path / "good", foreign.images((2, 5), stem="b_")), tmp_path / "store", progress=False
    )
    before = digest(tmp_path / "store")
    with pytest.raises(ValueError, match="NaN"):
        import_regions(not_a_number(tmp_path, made), tmp_path / "store", progress=False, shard_images=1)
    assert digest(tmp_path / "store") == before


def test_a_missing_path_and_a_stray_file(tmp_path):
    with pytest.raises(ValueError, match="there is no store at"):
        open_regions(tmp_path / "none")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.txt.*neither TSV nor HDF5 nor npz"):
        open_regions(tmp_path / "a.txt")


def test_a_missing_package_names_the_extra(tmp_path, made, monkeypatch):
    folder = foreign.write_official(tmp_path / "db", made)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match=r'pip install "uniter\[formats\]"'):
        open_regions(folder)


# ---------------------------------------------------------------- straight from a published file


@pytest.mark.timeout(120)
def test_training_and_evaluating_work_straight_from_a_published_lmdb(world, tmp_path):
    from uniter.recipe import parse_recipe
    from uniter.run import evaluate, run

    store = Store(world.regions)
    records = {}
    for name in store.names:
        found = store[name]
        numbers = {"features": found.features, "norm_bb": found.fractions()[:, :6], "conf": found.scores[:, None]}
        numbers = {key: value.astype(np.float16) for key, value in numbers.items()}
        records[f"{Path(name).stem}.npz"] = foreign.zipped(
            numbers | {"soft_labels": found.class_probs.astype(np.float16)}
        )
    folder = foreign.write_lmdb(tmp_path / "feat_numbb100_compressed", records)
    source = f"{{captions: {world.captions}, regions: {folder}, split: train}}"
    shape = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
    head = f"model: {{size: tiny, config: {shape}}}\nvocabulary: scenes\n"
    train = "train: {steps: 2, tokens: 256, device: cpu, save_every: 2, validate_every: 2}"
    pretrain = f"kind: pretrain\n{head}sources: [{source}]\nobjectives: {{itm: 1, mrckl: 1}}\n{train}"
    assert run(parse_recipe(pretrain, []), tmp_path / "pre", progress=False).finished
    finetune = f"kind: finetune\ntask: vqa\n{head}data: {world.data}\nregions: {folder}\noptions: {{least: 1}}\n{train}"
    result = run(parse_recipe(finetune, []), tmp_path / "fine", progress=False)
    assert result.finished
    told = evaluate("vqa", world.data, folder, "val", result.model, ["least=1"], progress=False)
    assert 0 <= told["accuracy"] <= 100
    with pytest.raises(ValueError, match="one that nobody named: import them with its name"):
        evaluate("vqa", world.data, folder, "val", world.models / "answers", ["least=1"], progress=False)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_what_is_only_named_npz_is_not_called_a_pickle(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"image 'a\.npz' cannot be read: it is no npz, though it is named so"):
        open_regions(tmp_path)
