"""Who may import whom: the table of docs/design.md, held against the source."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "uniter"
TENSORS = {"modeling_uniter", "configuration_uniter", "processing_uniter", "regions"}
MAY = {
    "draws": set(),
    "configuration_uniter": set(),
    "transport": set(),
    "recipe": set(),
    "regions": set(),
    "modeling_uniter": {"configuration_uniter"},
    "processing_uniter": {"regions"},
    "objectives": TENSORS | {"transport"},
    "tasks": TENSORS | {"training.batching"},
    "pretraining": TENSORS | {"objectives", "tasks", "training.batching"},
    "training": {"recipe"},
    "scenes": {"regions.regions"},
    "pipeline": TENSORS | {"tasks", "transport"},
    "run": TENSORS | {"objectives", "pretraining", "tasks", "training", "recipe", "pipeline"},
    "demo": None,  # everything but cli
    "__main__": None,
    "cli": None,
    "__init__": {"pipeline", *TENSORS},
}


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
        if module.split(".")[0] == room or module in ("draws", "__version__"):
            continue
        assert module.split(".")[0] != "cli" or room == "__main__", f"{path} imports cli"
        allowed = MAY[room]
        assert allowed is None or any(module == may or module.startswith(may + ".") for may in allowed), (
            f"{path} imports {module}"
        )


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
