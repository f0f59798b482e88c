import json
import time

import pytest
from test_loop import ToyJob, settings

from uniter.training.loop import train
from uniter.training.plots import open_board
from uniter.training.runs import runs_below, standing, table


@pytest.fixture(autouse=True)
def plots(monkeypatch):
    drawn = []
    monkeypatch.setattr("uniter.training.folder.draw_plots", lambda log, folder: drawn.append(len(log)))
    return drawn


def run(job, folder, **changes):
    return train(job, settings(**changes), folder, {"train": {"steps": 24}}, progress=False)


def test_every_state_is_told(tmp_path):
    seen = []

    class Watched(ToyJob):
        def validate(self):
            seen.append(standing(tmp_path / "a" / "done"))
            return super().validate()

    run(Watched(), tmp_path / "a" / "done")
    assert [one.state for one in seen] == ["running"] * 3 and seen[1].step == 20 and seen[1].best is not None

    broken = ToyJob()
    broken.die_at = 8
    with pytest.raises(ConnectionError):
        run(broken, tmp_path / "broken")
    killed = ToyJob()  # nobody wrote down why it ended
    killed.die_at = 3
    with pytest.raises(ConnectionError):
        run(killed, tmp_path / "killed")
    (tmp_path / "killed" / "failed.json").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("a: 1\n")  # not a run

    found = runs_below(tmp_path)
    assert [(one.path.name, one.state, one.step) for one in found] == [
        ("done", "finished", 24),
        ("broken", "failed", 7),
        ("killed", "stopped", 2),
    ]
    assert found[0].steps == 24 and found[0].idle < 300 and found[1].error == "ConnectionError: pulled the plug"
    lines = table(found).splitlines()
    assert (
        len(lines) == 4 and "24/24" in lines[1] and "pulled the plug" in lines[2] and f"{found[0].best:.4g}" in lines[1]
    )

    assert run(ToyJob(), tmp_path / "broken").finished  # looking at it kept nobody out
    assert standing(tmp_path / "broken").state == "finished"


def test_there_is_no_such_folder(tmp_path):
    assert runs_below(tmp_path) == []
    with pytest.raises(ValueError, match="no such folder"):
        runs_below(tmp_path / "none")


def test_plots_are_drawn_while_it_runs_but_not_at_any_price(tmp_path, plots, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("uniter.training.folder.time.monotonic", lambda: clock[0])

    class Slow(ToyJob):
        def loss(self, stream, batch):
            clock[0] += 25.0
            return super().loss(stream, batch)

    run(Slow(), tmp_path, validate_every=100)
    assert plots[0] >= 3 and 6 <= len(plots) <= 10  # every minute of ten, and at the end


def test_tensorboard_gets_the_log(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    job = ToyJob()
    job.die_at = 14
    with pytest.raises(ConnectionError):
        run(job, tmp_path, tensorboard=True)
    time.sleep(1.1)  # its files are named by the second
    run(ToyJob(), tmp_path, tensorboard=True)
    events = reading.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for stream in "ab":
        shown = [(event.step, round(event.value, 5)) for event in events.Scalars(f"loss/{stream}")]
        assert shown == [(line["step"], round(line["loss"], 5)) for line in log if line.get("stream") == stream]
    assert [event.step for event in events.Scalars("validation/score")] == [10, 20, 24]


def test_tensorboard_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install \"uniter\[watch\]\""):
        open_board(tmp_path, 0)
