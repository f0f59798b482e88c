import os
import pickle

import numpy as np
import pytest

from uniter.pickles import read_pickle


class Evil:
    """Would make a folder when opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, protocol, arrays):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([{"split": "train", "sentences": Evil(tmp_path / "run")}], protocol))
    with pytest.raises(ValueError, match="mkdir") as caught:
        read_pickle(path, arrays)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch RUN'\ntR.",
        b'c__builtin__\neval\n(S\'open("RUN", "w")\'\ntR.',
        b"(S'touch RUN'\nios\nsystem\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
        b"Pother\n.",
    ],
)
@pytest.mark.parametrize("arrays", [False, True])
def test_hand_written_pickles_are_refused(tmp_path, monkeypatch, code, arrays):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs.p").write_bytes(code)
    with pytest.raises(ValueError, match=r"refs\.p"):
        read_pickle(tmp_path / "refs.p", arrays)
    assert not (tmp_path / "RUN").exists()


def test_plain_data_of_python_2_is_read(tmp_path):
    (tmp_path / "refs.p").write_bytes(b"(lp0\n(dp1\nS'split'\np2\nS'caf\\xe9'\np3\nsS'ann_id'\np4\nI7\nsa.")
    assert read_pickle(tmp_path / "refs.p") == [{"split": "caf\xe9", "ann_id": 7}]
    data = [{"a": (1, 2.5, None, True), "b": {"c"}, "d": b"x", "e": frozenset([1])}]
    for protocol in range(2, 6):
        (tmp_path / "refs.p").write_bytes(pickle.dumps(data[0]["a"], protocol))
        assert read_pickle(tmp_path / "refs.p") == data[0]["a"]


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_numbers_are_read_where_they_are_wanted(tmp_path, protocol):
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = {"model": {"a": rows, "b": np.asfortranarray(rows), "c": np.array(5), "d": rows.astype(">f8")}, "by": ["me"]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(data, protocol))
    found = read_pickle(tmp_path / "a.pkl", arrays=True)
    assert found["by"] == ["me"] and found["model"].keys() == data["model"].keys()
    for name, array in data["model"].items():
        assert found["model"][name].dtype == array.dtype, name
        np.testing.assert_array_equal(found["model"][name], array)
    with pytest.raises(ValueError, match="numpy"):
        read_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("array", [np.array([{}]), np.zeros(2, [("a", "f4"), ("b", "O")]), np.array(["text"])])
def test_arrays_of_anything_else_are_refused(tmp_path, array):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(array, 4))
    with pytest.raises(ValueError, match=r"an array of"):
        read_pickle(tmp_path / "a.pkl", arrays=True)


def test_a_cut_pickle_is_one_line(tmp_path):
    whole = pickle.dumps({"a": np.zeros(100)})
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.pkl").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.pkl: not a pickle, or damaged"):
            read_pickle(tmp_path / "a.pkl", arrays=True)
