"""One shard after the other, in one process: what comes out, what is reported, what is left after a fault."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from working import Broken, Bucketed, Plain, Spoilt

from uniter.regions.extract import extract
from uniter.regions.regions import Regions
from uniter.regions.store import Store, StoreWriter


def draw(folder: Path, count: int, width=lambda number: 20) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (width(number), 9 + number % 3), (number, 0, 0)).save(folder / f"{number:03d}.png")
    return folder


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def failures(store: Path) -> dict[str, str]:
    lines = (store / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    return {said["name"]: said["reason"] for said in map(json.loads, lines)}


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def test_batches_of_one_size_and_threads_change_nothing(tmp_path):
    folder = draw(tmp_path / "in", 20)
    extract(folder, tmp_path / "plain", Plain(), progress=False, shard_images=8)
    whole = contents(tmp_path / "plain")
    assert list(whole) and Store(tmp_path / "plain").names == [f"{number:03d}.png" for number in range(20)]
    for batch, threads in ((1, 1), (3, 4), (64, 2)):
        detector = Bucketed()
        out = tmp_path / f"{batch}"
        extract(folder, out, detector, batch=batch, threads=threads, progress=False, shard_images=8)
        assert contents(out) == whole
        assert all(len(batch) == 1 for batch in map(set, detector.batches))
        assert max(map(len, detector.batches)) == min(batch, 3)


def test_many_sizes_do_not_pile_up(tmp_path):
    class Counting(Bucketed):
        shown, first = 0, None

        def batch_key(self, size):
            self.shown += 1
            return size

        def detect(self, images):
            self.first = self.first or self.shown
            return super().detect(images)

    folder, detector = draw(tmp_path / "in", 40, width=lambda number: 10 + number), Counting()
    extract(folder, tmp_path / "out", detector, batch=2, progress=False)
    assert detector.first == 16 and len(detector.batches) == len(Store(tmp_path / "out")) == 40


def test_what_a_detector_spoils_is_reported_picture_by_picture(tmp_path):
    folder = draw(tmp_path / "in", 10, width=lambda number: 8 + number)
    report = extract(folder, tmp_path / "out", Spoilt(), batch=4, progress=False, shard_images=6)
    assert Store(tmp_path / "out").names == ["000.png", "001.png", "009.png"]
    said = failures(tmp_path / "out")
    assert said == {failure.name: failure.reason for failure in report.failures}
    assert said["002.png"] == "the detector failed: RuntimeError: CUDA out of memory, in two lines"
    assert "regions of 0 pictures for 1" in said["003.png"]
    assert "gave a NoneType" in said["004.png"]
    assert "no probabilities of its 2 classes" in said["005.png"]
    assert "feature_size 2" in said["006.png"]
    assert "float16" in said["007.png"]
    assert "num_classes 1" in said["008.png"]


def test_a_detector_that_fits_no_torch_stops_the_run(tmp_path):
    with pytest.raises(ImportError, match="does not fit"):
        extract(draw(tmp_path / "in", 3), tmp_path / "out", Broken(), progress=False)


def test_bad_pictures_are_reported_and_a_store_is_made_of_the_others(tmp_path):
    folder = draw(tmp_path / "in", 3)
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(data, "JPEG")
    (folder / "cut.jpg").write_bytes(data.getvalue()[:-900])
    (folder / "bomb.png").write_bytes(bomb(30000))
    (folder / "text.jpg").write_text("no picture")
    names = [path.name for path in folder.iterdir()] + ["gone.png"]
    (tmp_path / "list.txt").write_text("\n".join(f"in/{name}" for name in names))
    report = extract(tmp_path / "list.txt", tmp_path / "out", Plain(), progress=False, shard_images=2)
    assert report.images == report.added == 3 and len(report.failures) == 4
    said = failures(tmp_path / "out")
    assert list(said) == ["bomb.png", "cut.jpg", "gone.png", "text.jpg"]
    assert "900000000 pixels" in said["bomb.png"] and "truncated" in said["cut.jpg"]
    assert "no picture at" in said["gone.png"] and "no picture of a known kind" in said["text.jpg"]
    # a shard of which nothing could be kept leaves a gap in the numbers, that later shards do not fall into
    assert sorted(name for name in contents(tmp_path / "out") if "shard" in name) == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    for name in said:
        (folder / name).unlink(missing_ok=True)
    Image.new("RGB", (5, 5)).save(folder / "new.png")
    report = extract(folder, tmp_path / "out", Plain(), progress=False)
    assert (report.images, report.added, report.failures) == (4, 1, [])
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_numbers_of_empty_shards_are_not_taken_for_free(tmp_path):
    folder = draw(tmp_path / "in", 4)
    for name in ("000.png", "001.png"):
        (folder / name).write_text("no picture")
    extract(folder, tmp_path / "out", Plain(), progress=False, shard_images=2)
    assert [name for name in contents(tmp_path / "out") if "shard" in name] == ["shard-00001.safetensors"]
    with StoreWriter(tmp_path / "out", "plain", ["background", "thing"]) as writer:
        writer.add("more", Plain().detect([Image.new("RGB", (5, 5))])[0])
    store = Store(tmp_path / "out")
    assert store.names == ["002.png", "003.png", "more"] and store["002.png"].width == 20
    store.verify()


def test_a_full_disk_stops_the_run_and_what_is_done_stays(tmp_path, monkeypatch):
    folder = draw(tmp_path / "in", 12)
    extract(folder, tmp_path / "whole", Plain(), progress=False, shard_images=3)
    written, write = [], Path.write_bytes

    def full(path, data):
        if "shard-00002" in path.name:
            write(path, data[:100])
            raise OSError(28, os.strerror(28), str(path))
        written.append(path.name)
        return write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="space"):
            extract(folder, tmp_path / "out", Plain(), progress=False, shard_images=3)
    assert Store(tmp_path / "out").names == [f"{number:03d}.png" for number in range(6)]
    assert not list((tmp_path / "out").glob("*.writing"))
    with pytest.raises(ValueError, match="was not finished"):
        StoreWriter(tmp_path / "out", "plain")
    extract(folder, tmp_path / "out", Plain(), progress=False, shard_images=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def interrupted(folder: Path, out: Path, shards: int, **settings) -> None:
    """An extraction that dies after so many shards, of three pictures each."""

    class Dies(Plain):
        left = 3 * shards

        def detect(self, images):
            self.left -= len(images)
            if self.left < 0:
                raise KeyboardInterrupt
            return super().detect(images)

    with pytest.raises(KeyboardInterrupt):
        extract(folder, out, Dies(), batch=3, progress=False, shard_images=3, **settings)


def test_a_shard_that_was_written_and_not_yet_noted_is_done_again(tmp_path):
    folder = draw(tmp_path / "in", 9)
    extract(folder, tmp_path / "whole", Plain(), progress=False, shard_images=3)
    out = tmp_path / "out"
    interrupted(folder, out, 1)
    (out / "shard-00001.safetensors").write_bytes(b"half")
    for file in ("shard-00002.safetensors", "index.json", "failures.jsonl"):
        (out / f".{file}.99.writing").write_bytes(b"less")
    extract(folder, out, Plain(), progress=False, shard_images=3)
    assert contents(out) == contents(tmp_path / "whole")


def test_what_was_asked_may_change_between_runs_and_nothing_done_is_lost(tmp_path):
    folder = draw(tmp_path / "in", 9)
    out = tmp_path / "out"
    interrupted(folder, out, 2)
    done = {name: data for name, data in contents_of_files(out).items() if "shard" in name}
    assert len(done) == 2
    report = extract(folder, out, Plain(), progress=False, shard_images=2)
    assert (report.images, report.added) == (9, 3)
    assert done.items() <= contents(out).items()
    assert Store(out).names == [f"{number:03d}.png" for number in range(9)]
    Store(out).verify()


def contents_of_files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir() if path.is_file()}


def test_pictures_that_came_after_a_kill_are_done_as_well(tmp_path):
    folder = draw(tmp_path / "in", 9)
    interrupted(folder, tmp_path / "out", 2)
    Image.new("RGB", (5, 5)).save(folder / "late.png")
    report = extract(folder, tmp_path / "out", Plain(), progress=False, shard_images=3)
    assert (report.images, report.added) == (10, 4)
    Store(tmp_path / "out").verify()


def test_another_detector_is_refused_before_and_after_the_end(tmp_path):
    class Other(Plain):
        fingerprint = "other"

    folder = draw(tmp_path / "in", 9)
    interrupted(folder, tmp_path / "out", 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="holds regions of detector 'plain', not of 'other'"):
            extract(folder, tmp_path / "out", Other(), progress=False)
        extract(folder, tmp_path / "out", Plain(), progress=False, shard_images=3)


def test_nothing_to_do_writes_nothing(tmp_path):
    folder = draw(tmp_path / "in", 3)
    extract(folder, tmp_path / "out", Plain(), progress=False)
    times = {path: path.stat().st_mtime_ns for path in [tmp_path / "out", *(tmp_path / "out").iterdir()]}
    report = extract(folder, tmp_path / "out", Plain(), progress=False)
    assert (report.images, report.added) == (3, 0)
    assert times == {path: path.stat().st_mtime_ns for path in [tmp_path / "out", *(tmp_path / "out").iterdir()]}


def test_what_a_kill_left_of_the_clearing_up_is_removed(tmp_path):
    draw(tmp_path / "in", 5)
    extract(tmp_path / "in", tmp_path / "out", Plain(), progress=False)
    (tmp_path / "out" / ".extraction.4711").mkdir()
    (tmp_path / "out" / ".extraction.4711" / "pictures.jsonl").write_text("{}")
    assert extract(tmp_path / "in", tmp_path / "out", Plain(), progress=False).added == 0
    assert not list((tmp_path / "out").glob(".extraction*"))


def test_a_store_of_an_earlier_version_is_continued(tmp_path):
    folder = draw(tmp_path / "in", 5)
    with StoreWriter(tmp_path / "out", "plain", ["background", "thing"], shard_images=2) as writer:
        for number in range(3):
            picture = Image.open(folder / f"{number:03d}.png")
            writer.add(f"{number:03d}.png", Plain().detect([picture])[0])
    (tmp_path / "out" / "skipped.json").write_text("[]")
    report = extract(folder, tmp_path / "out", Plain(), progress=False)
    assert (report.images, report.added) == (5, 2) and not (tmp_path / "out" / "skipped.json").exists()
    assert isinstance(Store(tmp_path / "out")["004.png"], Regions)
    Store(tmp_path / "out").verify()
