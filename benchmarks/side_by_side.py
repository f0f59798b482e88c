"""Ways to do the same thing, measured round by round, and the page that says what came of it."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import processor

HEAD = ["section", "what", "ours", "published", "ratio", "target", "met"]


@dataclass(frozen=True)
class Way:
    """One of the ways.

    Args:
        name: for the table.
        run: does it once.
        amount: how many examples, images, pairs it does.
        warm: what is done first, unmeasured; `run` if left out.
    """

    name: str
    run: Callable[[], Any]
    amount: float
    warm: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Taken:
    """Medians over the rounds: seconds of the processor and on the wall, and the amount done in them."""

    cpu: float
    wall: float
    amount: float

    @property
    def rate(self) -> float:
        """So many a second of one core."""
        return self.amount / self.cpu


def side_by_side(ways: Sequence[Way], rounds: int) -> dict[str, Taken]:
    """Each way once a round, in turn; medians of all rounds after one to warm up."""
    seconds: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
    for way in ways:
        (way.warm or way.run)()
    for _ in range(rounds):
        for way in ways:
            began = time.process_time(), time.perf_counter()
            way.run()
            seconds[way.name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    median = lambda name, clock: statistics.median(taken[clock] for taken in seconds[name])
    return {way.name: Taken(median(way.name, 0), median(way.name, 1), way.amount) for way in ways}


@dataclass(frozen=True)
class Row:
    """A line of the first table; `met` is None where nothing is asked or nothing was measured."""

    what: str
    ours: str
    published: str = "—"
    ratio: str = "—"
    target: str = "—"
    met: bool | None = None

    def cells(self, section: str) -> list[str]:
        """As text."""
        said = {True: "yes", False: "no", None: "—"}[self.met]
        return [section, self.what, self.ours, self.published, self.ratio, self.target, said]


def faster(what: str, ours: Taken, published: Taken, unit: str, target: float | None = None) -> Row:
    """A row of rates, whose ratio should reach a target."""
    ratio = ours.rate / published.rate
    asked = {"target": f"{target:g}x", "met": ratio >= target} if target else {}
    return Row(f"{what}, {unit}", number(ours.rate), number(published.rate), f"{ratio:.2f}x", **asked)


def number(value: float) -> str:
    """Three digits or more, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass
class Part:
    """A section of the page: its rows of the first table, and what it says further down."""

    name: str
    rows: list[Row]
    text: list[str] = field(default_factory=list)


def rates(taken: dict[str, Taken], unit: str, beside: str) -> list[str]:
    """A table of all ways, beside one of them."""
    lines = [f"| | {unit} a second of one core | on the wall | beside {beside} |", "|---|---:|---:|---:|"]
    for name, found in taken.items():
        ratio = found.rate / taken[beside].rate
        lines.append(f"| {name} | {number(found.rate)} | {number(found.amount / found.wall)} | {ratio:.2f}x |")
    return lines


def provenance(command: str, versions: Iterable[str], load: float) -> str:
    """Command, machine and versions, as a line."""
    cores = f"{os.cpu_count()} cores, load average {load:.1f} when it began"
    made = ", ".join([f"Python {platform.python_version()}", *versions])
    return f"Measured by `{command}` on {processor()}, {platform.system()} ({cores}); {made}."


def write_page(path: Path, title: str, intro: str, order: Sequence[str], parts: Sequence[Part], measured: str) -> str:
    """Write the page; sections that were not measured now stay as an earlier run left them. Returns the page.

    Args:
        path: of the page.
        title: of it.
        intro: what stands above the first table.
        order: all sections' names, in their order.
        parts: those measured now.
        measured: how they were.
    """
    rows, texts = _earlier(path)
    for part in parts:
        rows[part.name] = ["| " + " | ".join(row.cells(part.name)) + " |" for row in part.rows]
        texts[part.name] = "\n".join([*part.text, "", measured])
    known = [name for name in order if name in rows]
    table = [
        "| " + " | ".join(HEAD) + " |",
        "|---|---|---:|---:|---:|---:|---|",
        *(line for name in known for line in rows[name]),
    ]
    body = "\n\n".join(f"## {name}\n\n{texts[name].strip()}" for name in known)
    missing = [name for name in order if name not in rows]
    table += ["", f"Not measured yet: {'; '.join(missing)}."] if missing else []
    page = f"# {title}\n\n{intro}\n\n" + "\n".join(table) + f"\n\n{body}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return page


def _earlier(path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Rows and texts of a page by section; none where there is no page yet."""
    rows: dict[str, list[str]] = {}
    if not path.exists():
        return rows, {}
    first, *parts = path.read_text(encoding="utf-8").split("\n## ")
    texts = {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}
    for line in first.splitlines():
        section = line.split("|")[1].strip() if line.startswith("|") else ""
        if section in texts:
            rows.setdefault(section, []).append(line)
    return rows, texts
