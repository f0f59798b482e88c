"""What measurements of many stages share: a folder a seed, each stage done once and timed, means over seeds."""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from uniter.files import write_json
from uniter.recipe import Recipe, parse_recipe
from uniter.run import run

T = TypeVar("T")


@dataclass
class Found:
    """What a seed came to.

    Args:
        numbers: of each thing that was measured, by name.
        seconds: that each stage took, over all sessions.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Clock:
    """How long each stage took, over all sessions.

    Args:
        seconds: of the sessions before, by stage; counted up.
        keep: writes them down.
    """

    def __init__(self, seconds: dict[str, float], keep: Callable[[], Any]):
        self.seconds, self.keep = seconds, keep

    def time(self, stage: str, work: Callable[..., T], *arguments: Any) -> T:
        """Call `work` with the arguments and count its time, also if it is stopped."""
        began = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - began, 1)
            self.keep()


class Stages:
    """The stages of one seed: each goes on where it was stopped, and what is measured is kept.

    Args:
        folder: of the seed, new or of the same budget; several benches of different names may share it.
        budget: how much is learnt and measured; kept in `budget.json`, but for its `rows`, which may change.
        progress: show progress lines.
        name: of the bench, which its files of budget and numbers bear behind theirs.

    Raises:
        ValueError: the folder holds something else, or was measured with another budget.
    """

    def __init__(self, folder: Path, budget: Mapping[str, Any], progress: bool = True, name: str = ""):
        self.folder, self.progress = folder, progress
        ending = f"-{name}.json" if name else ".json"
        _claim(folder / f"budget{ending}", {key: value for key, value in budget.items() if key != "rows"})
        path = folder / f"numbers{ending}"
        self.found = Found(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Found()
        self.keep: Callable[[], None] = lambda: write_json(path, asdict(self.found))
        self.clock = Clock(self.found.seconds, self.keep)

    def do(self, stage: str, work: Callable[..., T], *arguments: Any) -> T:
        """Call what finds out by itself whether it is done, and count its time."""
        return self.clock.time(stage, work, *arguments)

    def learn(self, stage: str, recipe: Recipe, folder: str) -> Path:
        """Train by a recipe in a folder of that name.

        Returns:
            The folder of the run; in it `last` and, where it was validated, `best`.

        Raises:
            KeyboardInterrupt: it was stopped before its end.
        """
        self.clock.time(stage, self._finish, recipe, self.folder / folder)
        return self.folder / folder

    def _finish(self, recipe: Recipe, folder: Path) -> None:
        if not run(recipe, folder, self.progress).finished:
            raise KeyboardInterrupt

    def measure(self, name: str, stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """The numbers of that name: those that are kept, or else what `work` gives, which are then."""
        if name not in self.found.numbers:
            self.found.numbers[name] = self.clock.time(stage, work, *arguments)
            self.keep()
        return self.found.numbers[name]


def _claim(path: Path, budget: Mapping[str, Any]) -> None:
    """Take a folder for this budget, or refuse it."""
    budget = json.loads(json.dumps(budget))
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != budget:
            raise ValueError(f"{path.parent} was measured with another budget ({path.name}): choose another --out")
    elif path.parent.exists() and any(path.parent.iterdir()) and not any(path.parent.glob("budget*.json")):
        raise ValueError(f"{path.parent} holds something that is no bench: choose another --out")
    else:
        write_json(path, budget, indent=1)


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a name that is not known.

    Raises:
        ValueError: names it, and those that there are.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(f"there is no {what} {name!r}: choose among {', '.join(known)}")


def recipe_of(name: str, **settings: Any) -> Recipe:
    """The recipe of these settings; `name` stands in messages, and paths are written with `/`."""
    return parse_recipe(json.dumps(settings, default=lambda value: value.as_posix()), name=name)


# Student's t, 97.5%, of 1 to 9 degrees of freedom; with more the last is taken, which is a little too wide
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def cell(numbers: Sequence[Mapping[str, float]], key: str, most: float = 100.0) -> str:
    """What a table says of one number of all seeds.

    Of several seeds: the mean ± the standard deviation, and the 95% interval of the mean by Student's t over seeds. Of
    one: the number and its bootstrap 95% interval over examples, where there is one.

    Args:
        numbers: of each seed.
        key: which of them.
        most: the highest that it can be.
    """
    values = [found[key] for found in numbers]
    if len(values) > 1:
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        half = _STUDENT[min(len(values) - 2, len(_STUDENT) - 1)] * deviation / math.sqrt(len(values))
        return f"{mean:.1f} ± {deviation:.1f} ({max(0.0, mean - half):.1f}–{min(most, mean + half):.1f})"
    low, high = (numbers[0].get(f"{key}_{side}") for side in ("low", "high"))
    return f"{values[0]:.1f}" + (f" ({low:.1f}–{high:.1f})" if low is not None else "")


def times(found: Sequence[Found]) -> str:
    """The minutes of each stage as Markdown, all seeds together, and their sum.

    Args:
        found: of each seed.
    """
    minutes: dict[str, float] = {}
    for one in found:
        for stage, seconds in one.seconds.items():
            minutes[stage] = minutes.get(stage, 0.0) + seconds / 60
    lines = [f"| {stage} | {spent:.1f} |" for stage, spent in minutes.items()]
    return "\n".join(["| stage | minutes |", "|---|---:|", *lines, f"| all | {sum(minutes.values()):.1f} |"])
