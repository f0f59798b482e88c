import json

import pytest

from uniter import stages
from uniter.stages import Clock, Found, Stages, cell, recipe_of, times


def test_times_of_a_stage_add_up_over_sessions_and_seeds(monkeypatch):
    now = iter([0.0, 30.0, 100.0, 190.0])
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(now))
    kept: list[dict] = []
    seconds: dict[str, float] = {}
    clock = Clock(seconds, lambda: kept.append(dict(seconds)))
    assert clock.time("learning", pow, 2, 3) == 8
    with pytest.raises(ZeroDivisionError):
        clock.time("learning", divmod, 1, 0)
    assert kept == [{"learning": 30.0}, {"learning": 120.0}]
    assert times([Found(seconds=seconds), Found(seconds={"learning": 60.0, "measuring": 30.0})]).splitlines()[2:] == [
        "| learning | 3.0 |",
        "| measuring | 0.5 |",
        "| all | 3.5 |",
    ]


def test_what_is_measured_is_kept_and_another_budget_is_refused(tmp_path):
    one = Stages(tmp_path / "seed-0", {"updates": 3, "splits": ("a", "b")})
    assert one.measure("answer", "measuring", lambda: {"accuracy": 50.0}) == {"accuracy": 50.0}
    again = Stages(tmp_path / "seed-0", {"updates": 3, "splits": ("a", "b"), "rows": ("one",)})
    assert again.measure("answer", "measuring", lambda: pytest.fail("measured again")) == {"accuracy": 50.0}
    assert json.loads((tmp_path / "seed-0" / "numbers.json").read_text())["seconds"].keys() == {"measuring"}
    with pytest.raises(ValueError, match="another budget"):
        Stages(tmp_path / "seed-0", {"updates": 4, "splits": ("a", "b")})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="holds something that is no bench"):
        Stages(tmp_path / "other", {})


def test_a_stage_that_is_stopped_stops_the_bench(tmp_path, monkeypatch):
    recipe = recipe_of("r", kind="finetune", task="nlvr", data=tmp_path, regions=tmp_path)
    assert recipe.data == tmp_path
    monkeypatch.setattr(stages, "run", lambda *arguments: type("Result", (), {"finished": False}))
    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path / "seed-0", {}).learn("learning", recipe, "run")


def test_a_cell_of_one_seed_has_the_interval_of_its_examples_if_there_is_one():
    assert cell([{"a": 50.0, "a_low": 40.0, "a_high": 61.0}], "a") == "50.0 (40.0–61.0)"
    assert cell([{"a": 50.0}], "a") == "50.0"
    assert cell([{"a": 50.0}, {"a": 52.0}], "a") == "51.0 ± 1.4 (38.3–63.7)"  # 12.706 * 1.414 / sqrt(2)
