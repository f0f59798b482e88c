"""A store behind a URL: memory, file, and a local S3 server; a run streams what no disk holds."""

import hashlib
import json
import pickle
import sys
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from tiny import make_data, recipe

from uniter import remote
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
