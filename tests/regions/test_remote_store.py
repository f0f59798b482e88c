"""A store behind a URL: memory, file, and a local S3 server; a run streams what no disk holds."""

import hashlib
import json
import pickle
import shutil
import sys
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from tiny import make_data, recipe

from uniter import cli, remote
from uniter.recipe import parse_recipe
from uniter.regions.formats import open_regions
from uniter.regions.remote_store import RemoteStore
from uniter.regions.store import Store
from uniter.run import run

IMAGES = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("tiny"), IMAGES)


@pytest.fixture(scope="module")
def s3():
    """The address of an S3 server of this process, on this machine alone."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def place(request, data, tmp_path) -> str:
    """The data's URL."""
    base = {"memory": "memory://bucket", "file": (tmp_path / "there").as_uri()}.get(request.param)
    base = base or request.getfixturevalue("s3")
    system, path = fsspec.core.url_to_fs(base)
    for file in data.rglob("*"):
        if file.is_file():
            target = f"{path}/{file.relative_to(data).as_posix()}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), target)
    return base


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path, data) -> remote.Cache:
    """A cache of a tenth of the data."""
    size = sum(file.stat().st_size for file in (data / "store").glob("shard-*"))
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNITER_CACHE_SIZE", str(size // 10))
    monkeypatch.setenv("UNITER_WAIT", "0.001")
    return remote.node_cache()


def same(one, other) -> None:
    assert np.array_equal(one.features, other.features) and np.array_equal(one.boxes, other.boxes)
    assert np.array_equal(one.class_probs, other.class_probs)


def test_all_of_it_is_read_as_from_disk_in_a_tenth_of_its_size(data, place, cache):
    here, there = Store(data / "store"), open_regions(f"{place}/store/")
    assert isinstance(there, RemoteStore) and there.path == f"{place}/store"
    assert there.names == here.names and there.counts().tolist() == here.counts().tolist()
    assert (there.feature_size, there.num_classes, there.detector) == (here.feature_size, here.num_classes, "random")
    assert cache.used() == 0, "names need no shard"
    for name in here.names:
        same(there[name], here[name])
        assert cache.used() <= cache.most
    again = pickle.loads(pickle.dumps(there))
    same(again[here.names[0]], here[here.names[0]])
    for one, other in zip(there.read(here.names[:3]), here.read(here.names[:3]), strict=True):
        same(one, other)


def losses(folder: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["stream"], line["loss"]) for line in lines]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "last" / "model.safetensors").read_bytes()).hexdigest()


def test_a_run_streams_and_its_losses_are_those_of_a_local_run(data, place, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)
    fetched = []
    monkeypatch.setattr(
        remote.Cache,
        "_download",
        lambda self, url, *rest, old=remote.Cache._download: (fetched.append(url), old(self, url, *rest)),
    )
    streamed = recipe(f"{place}/captions.json", f"{place}/store", "train.shard_window=1", steps=16)
    run(streamed, tmp_path / "streamed", progress=False)
    local = recipe(data / "captions.json", data / "store", "train.shard_window=1", "train.order=shards", steps=16)
    run(local, tmp_path / "local", progress=False)
    assert losses(tmp_path / "streamed") == losses(tmp_path / "local")
    assert digest(tmp_path / "streamed") == digest(tmp_path / "local")
    assert cache.used() <= cache.most
    shards = [url for url in fetched if "shard-" in url]
    assert len(set(shards)) > 10, "more than the cache holds"
    assert max(Counter(shards).values()) <= 4, "no stream needs a shard twice in an epoch"


def test_what_is_wrong_at_a_url_is_told_by_its_name(data, tmp_path, monkeypatch):
    monkeypatch.setenv("UNITER_TRIES", "2")
    with pytest.raises(ValueError, match=r"there is no store at memory://nowhere/store \(no index.json\)"):
        open_regions("memory://nowhere/store")
    there = tmp_path / "there"
    shutil.copytree(data / "store", there)
    store = open_regions(there.as_uri())
    shard = there / "shard-00003.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"file:///.*shard-00003\.safetensors is damaged .*copy it there again"):
        store[store.names[3]]
    shard.write_bytes(whole)
    same(store[store.names[3]], Store(data / "store")[store.names[3]])
    with pytest.raises(ValueError, match="leave max_regions out"):
        open_regions(there.as_uri(), max_regions=3)


def test_names_are_kept_on_the_node(data, tmp_path, monkeypatch):
    there = tmp_path / "there"
    shutil.copytree(data / "store", there)
    names = open_regions(there.as_uri()).names
    monkeypatch.setattr(remote, "read_ranges", None)  # nothing is asked for again
    assert open_regions(there.as_uri()).names == names


def test_names_that_are_damaged_are_not_kept(data, tmp_path, monkeypatch):
    monkeypatch.setenv("UNITER_TRIES", "2")
    there = tmp_path / "there"
    shutil.copytree(data / "store", there)
    shard = there / "shard-00007.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole.replace(b"00007.jpg", b"00009.jpg"))
    with pytest.raises(ValueError, match=r"shard-00007.safetensors is damaged \(.*names differ.*copy it there again"):
        open_regions(there.as_uri())
    shard.write_bytes(whole)
    assert open_regions(there.as_uri()).names == Store(data / "store").names


def test_a_store_that_says_nothing_of_its_names_is_read(data, tmp_path):
    """Stores written by earlier versions."""
    there = tmp_path / "there"
    shutil.copytree(data / "store", there)
    index = json.loads((there / "index.json").read_text())
    for entry in index["shards"]:
        del entry["held_sha256"]
    (there / "index.json").write_text(json.dumps(index))
    store = open_regions(there.as_uri())
    assert store.names == Store(there).names == Store(data / "store").names
    same(store[store.names[5]], Store(there)[store.names[5]])


def test_shards_with_long_headers_and_many_images_are_read(tmp_path):
    """Names that lie far from the header are asked for by a read of their own."""
    make_data(tmp_path / "large", 90, 45, features=256)
    assert all(file.stat().st_size > 3 * 16384 for file in (tmp_path / "large" / "store").glob("shard-*"))
    there = open_regions((tmp_path / "large" / "store").as_uri())
    here = Store(tmp_path / "large" / "store")
    assert there.names == here.names and there.counts().tolist() == here.counts().tolist()
    assert there.shard_numbers().tolist() == here.shard_numbers().tolist() == [0] * 45 + [1] * 45


def test_several_processes_may_hold_what_is_thrown_out(data, cache):
    """What is mapped stays readable, and is let go of when something else is downloaded."""
    store = open_regions((data / "store").as_uri())
    first = store[store.names[0]]
    before = np.array(first.features)
    for name in store.names[1:]:
        store[name]
    assert np.array_equal(first.features, before)
    assert len(store._shards) <= 4


def test_a_task_learns_from_regions_behind_a_url(world, tmp_path, monkeypatch):
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)
    monkeypatch.setenv("UNITER_CACHE_SIZE", "100MB")
    text = f"""
kind: finetune
task: vqa
model: {{from: {json.dumps(str(world.models / "pretrained"))}}}
data: {json.dumps(str(world.data))}
regions: {world.regions.as_uri()}
options: {{least: 1}}
train: {{steps: 2, tokens: 256, device: cpu}}
"""
    assert run(parse_recipe(text), tmp_path / "run", progress=False).finished
    assert "order: shards" in (tmp_path / "run" / "config.yaml").read_text()


def test_the_command_line_takes_a_url(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNITER_CACHE_SIZE", "100MB")
    model = ["--model", str(world.models / "answers"), "--option", "least=1", "--split", "val", "--quiet"]
    found = []
    for regions in (str(world.regions), world.regions.as_uri()):
        monkeypatch.setattr(
            sys, "argv", ["uniter", "evaluate", "vqa", "--data", str(world.data), "--regions", regions, *model]
        )
        with pytest.raises(SystemExit):
            cli.main()
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] and "{" in found[0]
