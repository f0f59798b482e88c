import re

import pytest

from uniter.demo import Sizes, run_demo

SMALL = Sizes(train=16, val=4, test=50, novel=4, pretraining=4, vqa=2, refcoco=2, retrieval=2, measured=4, tokens=1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    run_demo(folder, progress=False, sizes=SMALL)
    return folder


def test_the_page_stands_alone_and_shows_everything(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    for heading in ("Does pre-training help?", "Learning", "Regions from pixels", "Questions and answers", "Finding what",
                    "Text finds pictures", "Which word is which region"):  # fmt: skip
        assert heading in page
    assert page.count("data:image/jpeg;base64,") > 20 and page.count("data:image/png;base64,") == 1
    assert not re.search(r"(src|href)=[\"']?(https?:|//|/)", page)  # nothing from elsewhere
    assert "<rect" in page and "data-row" in page


def test_a_finished_demo_is_not_done_again(folder):
    numbers = (folder / "numbers.json").stat().st_mtime_ns
    logs = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/metrics.jsonl")}
    assert run_demo(folder, progress=False, sizes=SMALL) == folder / "index.html"
    assert (folder / "numbers.json").stat().st_mtime_ns == numbers
    assert {path: path.stat().st_mtime_ns for path in logs} == logs and len(logs) == 10


def test_another_demo_or_something_else_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="seed"):
        run_demo(folder, seed=1, progress=False, sizes=SMALL)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="no demo"):
        run_demo(tmp_path, progress=False, sizes=SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep me"
