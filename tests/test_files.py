"""Files are written whole or not at all."""

import errno
from pathlib import Path

import pytest

from uniter.files import replacing, size_of, write_bytes


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    write_bytes(tmp_path / "file", b"old")

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_bytes(tmp_path / "file", b"new")
    assert caught.value.filename == str(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_another_files_error_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "file"):
        (tmp_path / "absent").read_bytes()
    assert caught.value.filename == str(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "size"), [("16GB", 16 * 10**9), ("512 MiB", 512 * 2**20), ("1.5gib", 3 * 2**29), (".5kb", 500)]
)
def test_sizes(text, size):
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["16", "GB", "0GB", "-1GB", "16 G", "much"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is no size"):
        size_of(text)
