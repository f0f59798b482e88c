import json

import pytest

from uniter import bench
from uniter.bench import TASKS, Budget, scenes, table


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)


def test_every_row_is_measured_from_both_starts_and_a_second_call_does_nothing_again(tmp_path, monkeypatch):
    budget = Budget(24, 12, 12, 12, 1024, dict.fromkeys(TASKS, 1), 4, pretraining=1)
    found = scenes(tmp_path, tasks=("snli_ve", "nlvr2", "vcr", "refcoco", "retrieval"), budget=budget, progress=False)
    rows = table(found).splitlines()
    assert len(rows) == 2 + len(bench.ROWS) - 1  # without VQA, whose answers a tiny world has too few of
    assert all(row.count("|") == 6 for row in rows)
    assert "| – |" in next(row for row in rows if row.startswith("| Zero-shot image"))  # nothing to begin with
    assert not any(
        "–" in cell for row in rows[2:] if "Zero" not in row for cell in row.split("|")[2:-1] if "(" not in cell
    )
    monkeypatch.setattr(bench, "run", None)
    monkeypatch.setattr(bench, "evaluate", None)
    assert scenes(tmp_path, tasks=("snli_ve", "vcr"), budget=budget, progress=False) == found
    with pytest.raises(ValueError, match="seed-0 was measured with another budget"):
        scenes(tmp_path, tasks=("vcr",), budget=Budget(), progress=False)


def test_seeds_come_to_a_mean_and_a_spread():
    one = {
        "refcoco": {
            s: {"scratch": {"accuracy": 10.0}, "pretrained": {"accuracy": v}}
            for s, v in (("test", 30.0), ("novel", 20.0))
        }
    }
    two = json.loads(json.dumps(one).replace("30.0", "34.0"))
    assert (
        table([one, two]).splitlines()[2] == "| RefCOCO, accuracy | 10.0 ± 0.0 | 32.0 ± 2.8 | 10.0 ± 0.0 | 20.0 ± 0.0 |"
    )
    one["refcoco"]["test"]["pretrained"] |= {"accuracy_low": 25.0, "accuracy_high": 35.5}
    assert "| 30.0 (25.0–35.5) |" in table([one])


def test_a_task_that_the_world_does_not_write_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the scenes have no task 'nlvr': choose among retrieval"):
        scenes(tmp_path, tasks=["nlvr"])
