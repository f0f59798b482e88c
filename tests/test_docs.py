"""What the documentation promises: its commands parse, its recipes exist, its settings are those of the code."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from uniter.cli import app
from uniter.recipe import KINDS, OFFICIAL, load_recipe, shipped_recipes
from uniter.tasks.base import load, names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """What is typed after `uniter`: in lines of their own and inside of lines."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^    uniter (.+?)(?:\s+#.*)?$", text, re.MULTILINE) + re.findall(r"`uniter ([^`]+)`", text)


def every_command():
    return [pytest.param(command, id=f"{page.name}: {command}") for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("command", every_command())
def test_a_command_parses_as_it_is_typed(command):
    """By the command line's own parser, up to running it."""
    verb, arguments = typer.main.get_command(app), shlex.split(command)
    while hasattr(verb, "commands"):
        assert arguments[0] in verb.commands, f"no verb {arguments[0]!r}"
        verb, arguments = verb.commands[arguments[0]], arguments[1:]
    if not arguments:
        return  # the verb alone is a word of a sentence
    given = verb.make_context("uniter", arguments).params
    if "recipe" in given and not given["recipe"].endswith(".yaml"):
        assert load_recipe(given["recipe"], given["overrides"] or []).kind == command.split()[0]


def test_every_page_is_looked_at():
    assert sum(len(commands(page)) for page in PAGES) > 40
    assert len(commands(ROOT / "docs" / "migrating.md")) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_that_a_page_names_exist(page):
    named = re.findall(r"`((?:pretrain|vqa|vcr|nlvr2|snli-ve|retrieval|refcoco[+g]?|scenes)-[\w-]+)`", page.read_text())
    assert [name for name in named if name not in shipped_recipes() and "{" not in name] == []


def test_every_published_recipe_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in shipped_recipes() if f"`{name}`" not in text] == []


def test_differences_name_the_settings_that_official_parity_changes():
    text = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    table = text.split("## Behaviours that shape numbers")[1].split("\n## ")[0]
    named = set(re.findall(r"`((?:train|objectives|model|sources|options)\.\w+)`", table))
    changed = {f"{section}.{setting}" for section, settings in OFFICIAL.items() for setting in settings}
    for task in names():
        published = load(task).published
        changed |= {f"{section}.{setting}" for section, settings in published.items() for setting in settings}
        assert set(published.get("options", {})) <= set(load(task).options)
    assert named == changed
    for setting in re.findall(r"`(train|objectives|model)\.(\w+)`", text):
        fields = KINDS["pretrain"].model_fields[setting[0]].annotation.model_fields
        assert setting[1] in fields, setting
