"""The speed benchmarks run, count operations as they say, and keep what an earlier run wrote."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # last: tests has a module of the name `published` too

from benchmarks.published.model import Config, Trunk

import workload
from side_by_side import Part, Row, Taken, Way, faster, side_by_side, write_page
from uniter.configuration_uniter import SIZES
from utilisation import busy_share, forward_flops

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str) -> None:
    """A benchmark as one types it, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, ROOT / "benchmarks" / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def cells(page: Path, section: str) -> dict[str, list[str]]:
    """The first table's rows of a section, by what they measure."""
    rows = [line.strip("| ").split(" | ") for line in page.read_text().split("\n## ")[0].splitlines()]
    return {row[1]: row[2:] for row in rows if row[0] == section}


def test_the_workload_has_the_lengths_that_it_says():
    words, things = workload.lengths(256)
    assert (words.min(), words.max()) == (8, 26) and (things.min(), things.max()) == (11, 100)
    assert words.mean() == pytest.approx(12.6, abs=0.1) and things.mean() == pytest.approx(36.6, abs=0.1)
    assert np.percentile(things, 95) == 69 and (words + things).max() == 117
    few, many = workload.examples(3, 16), workload.examples(4, 16)
    assert all(np.array_equal(a.image.features, b.image.features) for a, b in zip(few, many, strict=False))
    assert [len(one.pieces) + 2 for one in few] == words[:3].tolist()
    big = np.concatenate([one.image.features for one in workload.examples(4)])
    assert 0.26 < (big == 0).mean() < 0.28


def test_operations_are_those_of_the_model_itself():
    size = {**SIZES["tiny"], "hidden_size": 64, "num_hidden_layers": 3}
    trunk, words, things = Trunk(Config.of({**size, "vocab_size": 30}), feature_size=24).eval(), 9, 14
    batch = {
        "input_ids": torch.ones(1, words, dtype=torch.long),
        "position_ids": torch.arange(words)[None],
        "img_feat": torch.rand(1, things, 24),
        "img_pos_feat": torch.rand(1, things, 7),
        "gather_index": torch.arange(words + things)[None],
        "attn_masks": torch.ones(1, words + things, dtype=torch.long),
    }
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        trunk.pooler(trunk(batch)[-1])
    said = forward_flops(size, np.array([words]), np.array([things]), feature_size=24)[0]
    assert said == pytest.approx(counted.get_total_flops(), rel=1e-6)
    base = forward_flops(SIZES["base"], *workload.lengths(256)).mean()
    assert base == pytest.approx(8.58e9, rel=0.01)


def test_time_in_which_something_ran_is_counted_once():
    assert busy_share([(0, 10)], 0) == 1
    assert busy_share([(0, 2), (1, 3), (8, 10)], 0) == pytest.approx(0.5)
    assert busy_share([(0, 4), (6, 10)], 0.5) == pytest.approx(0.8)
    assert busy_share([]) == 0


def test_ways_take_turns():
    seen = []
    ways = [Way(name, lambda name=name: seen.append(name), 4) for name in "ab"]
    taken = side_by_side(ways, 2)
    assert seen == ["a", "b"] * 3 and set(taken) == {"a", "b"} and taken["a"].amount == 4


def test_a_section_leaves_the_others_on_the_page(tmp_path):
    page = tmp_path / "speed.md"
    quick = faster("reading", Taken(1, 1, 300), Taken(2, 2, 100), "images/s", 7)
    assert quick == Row("reading, images/s", "300", "50", "6.00x", "7x", False)
    first = [Part("b", [quick], ["Of b.", "", "| table |"]), Part("a", [Row("size", "3")], ["Of a."])]
    assert "Not measured yet: c." in write_page(page, "Speed", "What it is.", ["a", "b", "c"], first, "By the first.")
    said = write_page(
        page, "Speed", "What it is.", ["a", "b"], [Part("a", [Row("size", "4")], ["A."])], "By the second."
    )
    assert said == page.read_text(encoding="utf-8")
    assert cells(page, "b") == {"reading, images/s": ["300", "50", "6.00x", "7x", "no"]}
    assert cells(page, "a") == {"size": ["4", "—", "—", "—", "—"]}
    _, a, b = said.split("\n## ")
    assert a.split() == ["a", "A.", "By", "the", "second."] and b == "b\n\nOf b.\n\n| table |\n\nBy the first.\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gpus_benchmark_runs_on_a_processor(tmp_path):
    page = tmp_path / "gpu.md"
    tiny = ["--device", "cpu", "--size", "tiny", "--pairs", "16", "--updates", "2", "--rounds", "1"]
    run("gpu.py", *tiny, "--out", str(page))
    for name in ("training", "inference", "transport", "the whole loop"):
        rows = cells(page, f"{name}, tiny")
        assert rows and all(row[0] for row in rows.values()), name
    assert 0 < float(cells(page, "the whole loop, tiny")["device busy"][0].rstrip("%")) <= 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_section_runs(tmp_path):
    page = tmp_path / "speed.md"
    small = ["--size", "tiny", "--rounds", "1", "--examples", "16", "--training", "16", "--images", "16"]
    run("speed.py", *small, "--images-scored", "4", "--out", str(page))
    exact = cells(page, "inference")["float32: largest difference of a logit"]
    assert exact[-1] == "yes" and float(exact[0]) < 2e-5
    used = cells(page, "token budget")["token budget used (budget 10240)"]
    assert float(used[0].rstrip("%")) > 95 > 45 > float(used[1].rstrip("%")) and used[-1] == "yes"
    assert all(row[0] == "not run" for row in cells(page, "GPU").values())
    for section in ("training", "pair scoring", "loader", "start and memory"):
        assert cells(page, section), section
