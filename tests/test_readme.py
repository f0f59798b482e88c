"""What the README promises: its files exist, its Python runs and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def numbers_apart(text):
    """Text and its numbers: scores may differ in the last digits between machines."""
    number = r"-?\d+\.\d+(?:e-?\d+)?"
    return re.sub(number, "#", text).split(), [float(found) for found in re.findall(number, text)]


def test_every_local_link_exists():
    links = re.findall(r"\]\(([^)#]+)", README)
    local = [link for link in links if not link.startswith("http")]
    assert len(local) > 10
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_python_prints_what_it_says(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("UNITER_CACHE", str(tmp_path))
    codes, texts = blocks("python"), blocks("text")
    assert len(codes) == len(texts) == 2
    scope: dict = {}
    for code, expected in zip(codes, texts, strict=True):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, "README.md", "exec"), scope)  # our own file
        words, numbers = numbers_apart(said.getvalue().replace("\\\\", "/"))
        expected_words, expected_numbers = numbers_apart(expected)
        assert words == expected_words
        assert numbers == pytest.approx(expected_numbers, abs=0.5, rel=0.02)
