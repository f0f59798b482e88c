import errno
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uniter.regions.extract import extract, list_pictures, open_picture
from uniter.regions.regions import Regions
from uniter.regions.store import Store


class Plain:
    """A detector that says how large a picture is and how bright its corner."""

    feature_size = 3
    fingerprint = "plain"

    def __init__(self, dies_after: int | None = None) -> None:
        self.class_names = ["background", "thing"]
        self.left = dies_after

    def detect(self, images):
        return [self.features(image, np.array([[0, 0, *image.size]])) for image in images]

    def features(self, image, boxes):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        features = np.array([[*image.size, image.getpixel((0, 0))[0]]], np.float32)
        probs = np.array([[0.25, 0.75]], np.float32)
        return Regions(features, boxes.astype(np.float32), *image.size, probs, np.ones(1, np.float32))


def odd_pictures(folder):
    """Pictures of many kinds, with width, height and the red of the left upper pixel that should be seen."""
    (folder / "deep" / "er").mkdir(parents=True)
    colour = Image.new("RGB", (40, 30), (200, 100, 50))
    colour.save(folder / "a.png")
    colour.save(folder / "deep" / "a.png")
    colour.save(folder / "deep" / "er" / "ü ß.webp", lossless=True)
    colour.save(folder / "b.bmp")
    colour.convert("L").save(folder / "grey.png")
    colour.quantize(4).save(folder / "palette.png")
    colour.save(folder / "first.gif", save_all=True, append_images=[Image.new("RGB", (40, 30), "blue")])
    Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(folder / "alpha.png")
    Image.fromarray(np.full((30, 40), 51400, np.uint16)).save(folder / "sixteen.png")
    Image.new("RGB", (1, 200), (10, 0, 0)).save(folder / "thin.png")
    Image.new("CMYK", (40, 30), (0, 0, 0, 0)).save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by a quarter
    Image.new("RGB", (40, 30), (200, 200, 200)).save(folder / "turned.jpg", exif=exif)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    data = io.BytesIO()
    noise.save(data, "JPEG")
    (folder / "cut.jpg").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "notes.txt").write_text("no picture either")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / ".hidden.png").write_bytes((folder / "a.png").read_bytes())
    return {
        "a.png": (40, 30, 200),
        "alpha.png": (40, 30, 255),
        "b.bmp": (40, 30, 200),
        "cmyk.jpg": (40, 30, 255),
        "deep/a.png": (40, 30, 200),
        "deep/er/ü ß.webp": (40, 30, 200),
        "first.gif": (40, 30, 200),
        "grey.png": (40, 30, 124),
        "palette.png": (40, 30, 200),
        "sixteen.png": (40, 30, 200),
        "thin.png": (1, 200, 10),
        "turned.jpg": (30, 40, 200),
    }


def test_odd_pictures(tmp_path):
    expected = odd_pictures(tmp_path / "in")
    report = extract(tmp_path / "in", tmp_path / "out", Plain(), progress=False)
    store = Store(tmp_path / "out")
    assert store.names == sorted(expected) and report.added == report.images == len(expected)
    for name, (width, height, red) in expected.items():
        seen = store[name]
        assert (seen.width, seen.height) == (width, height), name
        assert abs(float(seen.features[0, 2]) - red) <= 2, name
    assert {entry.name for entry in report.failures} == {"cut.jpg", "empty.jpg", "notes.txt", "text.png"}
    lines = (tmp_path / "out" / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["name"] == "cut.jpg" and len(lines) == 4
    again = extract(tmp_path / "in", tmp_path / "out", Plain(), progress=False)
    assert again.added == 0 and again.images == len(expected) and len(again.failures) == 4


def test_killed_extraction_is_continued_to_the_same_store(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(11):
        Image.new("RGB", (10 + number, 20)).save(tmp_path / "in" / f"{number}.png")
    extract(tmp_path / "in", tmp_path / "whole", Plain(), batch=2, progress=False, shard_images=3)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "in", tmp_path / "cut", Plain(7), batch=2, progress=False, shard_images=3)
    assert 0 < len(Store(tmp_path / "cut")) < 11
    report = extract(tmp_path / "in", tmp_path / "cut", Plain(), batch=2, progress=False, shard_images=3)
    assert report.images == 11 and report.added < 11
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes()


def test_a_full_disk_names_the_file_and_keeps_what_is_done(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for number in range(11):
        Image.new("RGB", (10 + number, 20)).save(tmp_path / "in" / f"{number}.png")
    extract(tmp_path / "in", tmp_path / "whole", Plain(), progress=False, shard_images=3)
    write = Path.write_bytes

    def full(path, content):
        if "shard-00002" in path.name:
            write(path, content[:9])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as caught:
        extract(tmp_path / "in", tmp_path / "cut", Plain(), progress=False, shard_images=3)
    assert caught.value.filename == str(tmp_path / "cut" / "shard-00002.safetensors")
    assert len(Store(tmp_path / "cut")) == 6
    monkeypatch.undo()
    report = extract(tmp_path / "in", tmp_path / "cut", Plain(), progress=False, shard_images=3)
    assert report.images == 11 and report.added == 5
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes()


def test_files_by_name_and_a_store_inside_the_folder(tmp_path):
    for name in ("x", "y"):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
    extract([tmp_path / "x.png"], tmp_path / "store", Plain(), progress=False)
    assert Store(tmp_path / "store").names == ["x.png"]
    report = extract(tmp_path, tmp_path / "store", Plain(), progress=False)
    assert Store(tmp_path / "store").names == ["x.png", "y.png"] and not report.failures


def test_refusals_name_the_mend(tmp_path):
    with pytest.raises(ValueError, match="check the path"):
        extract(tmp_path / "none", tmp_path / "out", Plain())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        extract(tmp_path / "empty", tmp_path / "out", Plain())
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"none of the 1 files.*a\.txt"):
        extract(tmp_path / "texts", tmp_path / "out", Plain(), progress=False)
    assert not (tmp_path / "out").exists()
    Image.new("RGB", (9, 9)).save(tmp_path / "texts" / "a.png")
    with pytest.raises(ValueError, match="is no store"):
        extract(tmp_path / "texts", tmp_path / "texts", Plain(), progress=False)
    with pytest.raises(ValueError, match="do not exist"):
        extract([tmp_path / "none.png"], tmp_path / "out", Plain())
    with pytest.raises(ValueError, match="there is no picture"):
        open_picture(tmp_path / "none.png")


def test_shipped_detector_extracts(tmp_path, detector):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (1, 50), "red").save(tmp_path / "in" / "thin.png")
    Image.new("RGB", (90, 50), "red").save(tmp_path / "in" / "flat.png")
    extract(tmp_path / "in", tmp_path / "out", detector, progress=False)
    store = Store(tmp_path / "out")
    assert store.detector == detector.fingerprint and store.class_names == detector.class_names
    assert store.attribute_names == detector.attribute_names
    fresh = detector.detect([open_picture(tmp_path / "in" / "flat.png")])[0]
    assert np.array_equal(store["flat.png"].features, fresh.features)
    assert np.array_equal(store["flat.png"].class_probs, fresh.class_probs)


def test_a_json_file_beside_its_picture_is_metadata_and_any_other_is_reported(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "one.png")
    (folder / "one.json").write_text("{}")
    (folder / "stray.json").write_text("{}")
    assert [name for name, _ in list_pictures(folder)] == ["one.png", "stray.json"]
