"""Who may import whom: the table of docs/design.md, held against the source."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "uniter"
DESIGN = Path(__file__).parents[1] / "docs" / "design.md"


def table():
    """Module -> what it may import (None: everything), from the table of docs/design.md."""
    rows = re.findall(r"^\| (`.+`) \| (.+) \|$", DESIGN.read_text(encoding="utf-8").split("## Contracts")[0], re.M)
    may = {}
    for modules, allowed in rows:
        assert allowed in ("everything", "nothing of ours") or "`" in allowed, allowed
        named = None if allowed == "everything" else set(re.findall(r"`([\w.]+)`", allowed))
        may.update(dict.fromkeys(re.findall(r"`(\w+)`", modules), named))
    return may


MAY = table()
LEAVES = ("draws", "files", "remote", "databases", "pickles", "tensor_files", "__version__")


def imports(path):
    """Modules of ours that a file imports anywhere in it, without the leading `uniter.`."""
    inside = ("uniter", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.removeprefix("uniter.") for name in node.names if name.name.startswith("uniter."))
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            if module == "uniter":
                yield from (name.name for name in node.names if not name.name.startswith("__"))
            elif module.startswith("uniter."):
                yield module.removeprefix("uniter.")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_follow_the_table(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert room in MAY, f"{room} is not in the table: add it here and to docs/design.md"
    for module in imports(path):
        if module.split(".")[0] == room or module in LEAVES:
            continue
        assert module.split(".")[0] != "cli" or room == "__main__", f"{path} imports cli"
        allowed = MAY[room]
        assert allowed is None or any(module == may or module.startswith(may + ".") for may in allowed), (
            f"{path} imports {module}"
        )


def test_the_table_names_only_what_exists():
    exist = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in ROOT.rglob("*.py")}
    exist |= {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("*/__init__.py")}
    assert set(MAY) | {name for named in MAY.values() for name in named or ()} <= exist


def test_import_is_quick_and_brings_no_torch():
    code = "import sys, time; t = time.perf_counter(); import uniter; t = time.perf_counter() - t; print(t, 'torch' in sys.modules)"
    seconds, torch_loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert torch_loaded == "False"
    assert float(seconds) < 0.3


def test_help_is_quick():
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "uniter", "--help"], capture_output=True, check=True)
    assert (
        time.perf_counter() - began < 5
    )  # under 1 s on a quiet machine (benchmarks/start_up.py); here only "no torch"
