import io
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from uniter.regions.extract import extract
from uniter.regions.pictures import open_picture
from uniter.regions.pictures_source import Place, find_pictures, list_pictures, read_bytes, to_open
from uniter.regions.store import Store


def png(red: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6), (red, 0, 0)).save(data, "PNG")
    return data.getvalue()


PICTURES = {f"{folder}/{number}.png": png(40 * number) for folder in ("a", "b") for number in range(3)}


@pytest.fixture
def folder(tmp_path):
    for name, data in PICTURES.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "pictures" / "a" / ".hidden.png").write_bytes(png(0))
    (tmp_path / "pictures" / "a" / "0.json").write_text("{}")
    return tmp_path / "pictures"


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def read(source, **settings) -> dict[str, bytes]:
    """What is found, in order, with its bytes."""
    pictures, failures = find_pictures(source, **settings)
    assert failures == []
    return {picture.name: read_bytes(picture.place) for picture in pictures}


def test_a_folder_a_glob_a_list_and_paths_name_pictures_alike(folder, tmp_path):
    assert list(read(folder).items()) == list(PICTURES.items())
    assert read(f"{folder}/*/*.png") == PICTURES
    assert list(read(f"{folder}/a/?.png")) == ["0.png", "1.png", "2.png"]
    assert read(f"{folder}/**/1.png") == {name: data for name, data in PICTURES.items() if "1" in name}
    lines = [str(Path("pictures") / name) for name in reversed(PICTURES)]  # relative to the list's folder
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n\n")
    assert list(read(tmp_path / "list.txt").items()) == list(PICTURES.items())
    (tmp_path / "list").write_text("\r\n".join(lines))
    assert read(f"@{tmp_path / 'list'}") == PICTURES
    assert list(read(f"@{tmp_path / 'list'}", root=tmp_path)) == [f"pictures/{name}" for name in PICTURES]
    assert read([folder / name for name in PICTURES]) == PICTURES
    assert [name for name, _ in list_pictures(folder)] == list(PICTURES)
    assert list(read(folder / "a" / "0.png")) == ["0.png"]


def test_a_missing_file_of_a_list_is_left_to_be_reported(folder, tmp_path):
    (tmp_path / "list.txt").write_text(f"{folder / 'a' / '0.png'}\n{folder / 'a' / 'none.png'}\n")
    assert [picture.name for picture in find_pictures(tmp_path / "list.txt")[0]] == ["0.png", "none.png"]


def test_webdataset_tars(folder, tmp_path):
    half = len(PICTURES) // 2
    write_tar(tmp_path / "0.tar", dict(list(PICTURES.items())[:half]) | {"a/0.json": b"{}", "a/0.txt": b"words"})
    write_tar(tmp_path / "1.tar", {f"./{name}": data for name, data in list(PICTURES.items())[half:]})
    assert list(read(f"{tmp_path}/*.tar").items()) == list(PICTURES.items())
    assert read([tmp_path / "0.tar", tmp_path / "1.tar"]) == PICTURES
    pictures, _ = find_pictures(tmp_path / "0.tar")
    assert [picture.name for picture in pictures if picture.beside() is not None] == ["a/0.png"]
    assert read_bytes(pictures[0].beside()) == b"{}"
    assert open_picture(to_open(pictures[1].place)).getpixel((0, 0)) == (40, 0, 0)


def test_names_that_come_twice_and_tars_that_end_early_are_told(tmp_path):
    write_tar(tmp_path / "0.tar", {"x.png": png(1), "y.png": png(2)})
    write_tar(tmp_path / "1.tar", {"y.png": png(3), "z.png": png(4)})
    data = write_tar(tmp_path / "2.tar", {"p.png": png(5), "q.png": png(6) * 50}).read_bytes()
    (tmp_path / "2.tar").write_bytes(data[: 3 * 512 + 1000])  # in the middle of q.png
    (tmp_path / "3.tar").write_bytes(b"no tar at all" * 100)
    write_tar(tmp_path / "4.tar", {"notes.txt": b"words"})
    pictures, failures = find_pictures(f"{tmp_path}/?.tar")
    assert [picture.name for picture in pictures] == ["x.png", "y.png", "z.png", "p.png", "q.png"]
    assert pictures[1].place.path.endswith("0.tar")
    with pytest.raises(ValueError, match="ends in the middle"):
        read_bytes(pictures[4].place)
    said = {failure.name.rpartition(os.sep)[2]: failure.reason for failure in failures}
    assert set(said) == {"y.png", "2.tar", "3.tar", "4.tar"}
    assert "twice" in said["y.png"] and "0.tar" in said["y.png"] and "1.tar" in said["y.png"]
    assert "no file in the tar is a picture" in said["4.tar"]


@pytest.mark.parametrize("kind", ["bytes", "named", "struct", "unnamed"])
def test_parquet(kind, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names, data = list(PICTURES), list(PICTURES.values())
    if kind == "struct":
        kinds = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        rows = [{"bytes": b, "path": n} for n, b in PICTURES.items()]
        table = arrow.table({"label": [1] * len(names), "image": arrow.array(rows, kinds)})
    elif kind == "unnamed":
        table = arrow.table({"jpg": data})
    else:
        table = arrow.table({"png" if kind == "bytes" else "image": data, "file_name": names})
    parquet.write_table(table, tmp_path / "part.parquet", row_group_size=4)
    found = read(tmp_path / "part.parquet")
    assert list(found.values()) == data
    assert list(found) == ([f"part/{row:08d}" for row in range(len(names))] if kind == "unnamed" else names)


def test_a_parquet_file_without_pictures_is_told(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"label": [1]}), tmp_path / "0.parquet")
    (tmp_path / "1.parquet").write_bytes(b"nothing of the kind")
    parquet.write_table(arrow.table({"image": [png(1), None], "id": [7, 8]}), tmp_path / "2.parquet")
    pictures, failures = find_pictures(f"{tmp_path}/*.parquet")
    assert [Path(failure.name).name for failure in failures] == ["0.parquet", "1.parquet"]
    assert "its columns are label" in failures[0].reason
    assert [picture.name for picture in pictures] == ["7", "8"]
    with pytest.raises(ValueError, match="holds no bytes"):
        read_bytes(pictures[1].place)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_urls(scheme, folder, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    base = f"file://{(tmp_path / 'there').as_posix()}" if scheme == "file" else "memory://bucket"
    write_tar(tmp_path / "all.tar", PICTURES)
    files = {f"pictures/{name}": data for name, data in PICTURES.items()}
    files |= {"pictures/a/.hidden.png": png(0), "pictures/.dot/x.png": png(0), "pictures/a/0.json": b"{}"}
    files["all.tar"] = (tmp_path / "all.tar").read_bytes()
    files["list.txt"] = "\n".join(f"{base}/pictures/{name}" for name in PICTURES).encode()
    for name, data in files.items():
        with fsspec.open(f"{base}/{name}", "wb", auto_mkdir=True) as file:
            file.write(data)
    assert list(read(f"{base}/pictures").items()) == list(PICTURES.items())
    assert read(f"{base}/pictures/") == PICTURES
    assert read(f"{base}/pictures/*/*.png") == PICTURES
    assert read(f"{base}/*.tar") == PICTURES
    assert read(f"{base}/all.tar") == PICTURES
    assert read(f"{base}/list.txt") == PICTURES
    (tmp_path / "here.txt").write_bytes(files["list.txt"])
    assert read(tmp_path / "here.txt") == PICTURES
    with pytest.raises(ValueError, match="check the address"):
        find_pictures(f"{base}/none")
    pictures, _ = find_pictures(f"{base}/pictures")
    assert read_bytes(pictures[0].beside()) == b"{}"


def test_parquet_behind_a_url(tmp_path):
    fsspec, arrow = pytest.importorskip("fsspec"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"name": list(PICTURES), "image": list(PICTURES.values())})
    with fsspec.open("memory://rows/part.parquet", "wb") as file:
        parquet.write_table(table, file, row_group_size=2)
    assert read("memory://rows/part.parquet") == PICTURES


def test_what_it_is_made_of_does_not_change_the_store(folder, tmp_path, detector):
    write_tar(tmp_path / "all.tar", PICTURES)
    extract(folder, tmp_path / "from folder", detector, progress=False)
    extract(tmp_path / "all.tar", tmp_path / "from tar", detector, progress=False)
    for file in (tmp_path / "from folder").iterdir():
        assert file.read_bytes() == (tmp_path / "from tar" / file.name).read_bytes()
    assert Store(tmp_path / "from tar").names == list(PICTURES)


def test_refusals_name_the_mend(folder, tmp_path):
    for source, said in {
        str(tmp_path / "none"): "check the path",
        str(tmp_path / "none.txt"): "no list",
        f"{folder}/*.xyz": "no pictures",
    }.items():
        with pytest.raises(ValueError, match=said):
            find_pictures(source)
    with pytest.raises(ValueError, match="mixed"):
        find_pictures([folder / "a" / "0.png", "memory://x.png"])
    with pytest.raises(ValueError, match="common folder"):
        find_pictures([folder / "a" / "0.png"], root=folder / "b")


def test_a_file_that_shrank_is_no_picture(tmp_path):
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ValueError, match="ends in the middle"):
        read_bytes(Place(str(tmp_path / "short"), 1, 10))
