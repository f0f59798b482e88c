import json

import pytest

from uniter import bench, stages
from uniter.bench import BENCHMARKS, PAPER, Budget, chosen, scenes, table
from uniter.stages import Found


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: None)


def test_every_row_is_measured_from_both_starts_and_a_second_call_does_nothing_again(tmp_path, monkeypatch):
    budget = Budget(24, 12, 12, 12, 1024, dict.fromkeys(BENCHMARKS, 1), 4, pretraining=1)
    names = tuple(name for name in PAPER if name != "vqa")  # a tiny world has too few of its answers
    found = scenes(tmp_path, tasks=names, budget=budget, progress=False)
    rows = table(found).splitlines()[2:]
    assert len(rows) == len([line for line in bench.LINES if line.benchmark in names]) == 14
    assert all(row.count("|") == 6 for row in rows)
    for row in rows:
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        nothing_to_begin_with = [column for column, cell in enumerate(cells) if cell == "–"]
        assert nothing_to_begin_with == ([0, 2] if "Zero-shot" in row else [])
        assert all("(" in cell for cell in cells if cell != "–")  # an interval
    kept = json.loads((tmp_path / "seed-0" / "numbers.json").read_text())["seconds"]
    names_of_stages = {"drawing", "regions", "pre-training"} | {
        f"{name}, {stage}" for name in names for stage in ("from scratch", "pre-trained", "measuring")
    }
    assert kept.keys() == names_of_stages and min(kept.values()) >= 0 and kept["refcoco, pre-trained"] > 0
    monkeypatch.setattr(stages, "run", None)
    monkeypatch.setattr(bench, "evaluate", None)
    assert scenes(tmp_path, tasks=("snli_ve", "retrieval"), budget=budget, progress=False) == found
    with pytest.raises(ValueError, match="seed-0 was measured with another budget"):
        scenes(tmp_path, tasks=("vcr",), budget=Budget(), progress=False)


def test_the_table_has_the_papers_thirteen_rows():
    lines = [line for line in bench.LINES if line.benchmark in PAPER]
    assert lines == list(bench.LINES[:15])
    assert len({line.benchmark if line.benchmark == "vcr" else line.name for line in lines}) == 13


def test_seeds_come_to_a_mean_a_spread_and_an_interval():
    one = {
        "refcoco": {
            s: {"scratch": {"accuracy": 10.0}, "pretrained": {"accuracy": v}}
            for s, v in (("test", 30.0), ("novel", 90.0))
        }
    }
    others = [
        json.loads(json.dumps(one).replace("30.0", v).replace("90.0", w))
        for v, w in (("34.0", "99.0"), ("32.0", "96.0"))
    ]
    # 4.303 * 2 / sqrt(3) = 4.97; an accuracy ends at 100
    assert table([Found(one), *map(Found, others)]).splitlines()[2] == (
        "| RefCOCO, accuracy | 10.0 ± 0.0 (10.0–10.0) | 32.0 ± 2.0 (27.0–37.0) "
        "| 10.0 ± 0.0 (10.0–10.0) | 95.0 ± 4.6 (83.6–100.0) |"
    )
    one["refcoco"]["test"]["pretrained"] |= {"accuracy_low": 25.0, "accuracy_high": 35.5}
    assert "| 30.0 (25.0–35.5) |" in table([Found(one)])


def test_groups_stand_for_their_members():
    assert chosen(["coco", "retrieval", "vqa"]) == ("coco", "flickr30k", "vqa")
    assert chosen(["expressions"]) == ("refcoco", "refcoco+", "refcocog")


def test_a_task_that_the_world_does_not_write_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"the scenes have no task 'nlvr': choose among vqa, .*, retrieval, expressions"
    ):
        scenes(tmp_path, tasks=["nlvr"])
