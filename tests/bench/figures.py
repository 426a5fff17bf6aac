"""Figures and what they are held to, runs timed in turn, and tables in Markdown."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TypeVar

LINE = 100
"""Characters of a line of prose."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. of: what was measured. aim: in words."""

    of: str
    what: str
    value: float
    aim: str = ""
    reached: bool = True


def at_least(of: str, what: str, value: float, least: float | None) -> Figure:
    if least is None:
        return Figure(of, what, value)
    return Figure(of, what, value, f"≥ {number(least)}", value >= least)


def at_most(of: str, what: str, value: float, most: float | None) -> Figure:
    if most is None:
        return Figure(of, what, value)
    return Figure(of, what, value, f"≤ {number(most)}", value <= most)


def megabytes(of: str, what: str, peak: int, before: int | None, most: float) -> Figure:
    """Return the memory that a run holds at most, beside that of the version before; in bytes."""
    beside = "" if before is None else f", before {number(before / 1e6)}"
    return at_most(of, f"{what}{beside}", peak / 1e6, most / 1e6)


def against(
    of: str, what: str, now: float, before: float | None, most: float | None = None
) -> Figure:
    """Return how many times the value of the version before a value is, or it alone."""
    if before is None:
        return Figure(of, what, now)
    words = f"{what}, {number(now)}, before {number(before)}: times before"
    return at_most(of, words, now / before, most)


def in_turn(
    runs: Mapping[str, Callable[[], T]], times: int, key: Callable[[T], float]
) -> dict[str, T]:
    """Return each run's median result. The runs take turns, so that a busy minute hits all."""
    results: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            results[name].append(run())
    return {name: sorted(each, key=key)[(times - 1) // 2] for name, each in results.items()}


def seconds(command: Sequence[str], env: Mapping[str, str] | None = None) -> float:
    """Return the seconds of a command. Raises CalledProcessError if it fails."""
    started = time.monotonic()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def section(title: str, prose: str, figures: Iterable[Figure]) -> str:
    return "\n\n".join([f"## {title}", fill(prose, LINE), figure_table(figures)])


def figure_table(figures: Iterable[Figure]) -> str:
    cells = [(each.of, each.what, cell(each.value, each.reached), each.aim) for each in figures]
    return table(("of", "what", "figure", "aim"), cells)


def cell(value: float, reached: bool) -> str:
    return number(value) if reached else f"**{number(value)}**"


def number(value: float) -> str:
    """Return a value of three digits.

    >>> number(0.4567), number(15), number(1234.5)
    ('0.457', '15', '1,234')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    >>> print(table(("way", "s"), [("A", "136")]))
    | way | s   |
    |-----|-----|
    | A   | 136 |
    """
    listed = [list(columns), *(list(row) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*listed, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in listed]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
