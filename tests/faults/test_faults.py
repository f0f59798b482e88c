"""A dozen faults strike real launches of the command line; nothing is lost but the updates since the last checkpoint.

benchmarks/faults.py does the same a hundred times and more.
"""

import os
import sys

import pytest
from harness import Victims
from trials import KINDS, SAVE_EVERY, Extraction, Ranks, Trial, draw_pictures, tiny_data

GROUPS = {
    "kills": ["step", "checkpoint", "torn", "anywhere"],
    "store": ["download", "poisoned", "full_cache"],
    "numbers": ["nan", "infinite"],
    "disk": ["full_disk", "large_file"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def victims(tmp_path_factory):
    with Victims(tmp_path_factory.mktemp("victims"), {}) as found:
        yield found


@pytest.fixture(scope="module")
def whole(victims, data, tmp_path_factory):
    """The digest of the run that nothing happens to."""
    return Trial(victims, data, tmp_path_factory.mktemp("whole"), 0).finish()


def test_every_kind_is_here():
    assert {kind for group in GROUPS.values() for kind in group} >= set(KINDS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_run_survives(group, victims, data, whole, tmp_path):
    trial = Trial(victims, data, tmp_path, seed=7)
    kinds = [kind for kind in GROUPS[group] if kind in KINDS]
    for kind in kinds:
        assert trial.strike(kind).hit, f"{kind} did not strike: the run was over"
    assert trial.finish() == whole
    for kind, fault in zip(kinds, trial.faults, strict=True):
        # A checkpoint may be written beside the next updates, up to the next one.
        assert fault.lost is not None and 0 <= fault.lost <= 2 * SAVE_EVERY, (kind, fault)


def test_a_run_ends_under_a_slow_and_failing_store(victims, data, whole, tmp_path):
    trial = Trial(victims, data, tmp_path, seed=3)
    fault = trial.strike("failing")
    assert fault.hit, fault
    assert trial.finish() == whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a launch that is no fork takes too long for two at a time")
def test_one_of_two_processes_is_killed(victims, data, tmp_path):
    for name in ("second", "together", "hit"):
        (tmp_path / name).mkdir()
    with Victims(tmp_path / "second", {}) as second:
        together = Ranks([victims, second], data, tmp_path / "together", 0).finish()
        ranks = Ranks([victims, second], data, tmp_path / "hit", 0)
        assert ranks.strike().hit
        assert ranks.finish() == together


@pytest.mark.skipif(sys.platform == "win32", reason="a process that is killed there keeps its files open for a while")
def test_an_extraction_survives(victims, tmp_path):
    pictures = draw_pictures(tmp_path / "pictures")
    (tmp_path / "whole").mkdir()
    whole = Extraction(victims, pictures, tmp_path / "whole", 0).finish()
    extraction = Extraction(victims, pictures, tmp_path / "hit", 5)
    for kind in ("file", "full"):
        assert extraction.strike(kind).hit
    assert extraction.finish() == whole
    assert [fault.lost for fault in extraction.faults] == [0, 0], "shards that were done are not done again"
