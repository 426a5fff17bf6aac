"""Figures and what they are held to, runs timed in turn, and tables in Markdown."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from textwrap import fill
from typing import TypeVar

LINE = 100
"""Characters of a line of prose."""

T = TypeVar("T")


COLUMNS = ("case", "measure", "value", "before", "value / before", "bare", "aim")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value, a row of a table.

    of: what was measured. before: the value of the version before. bare: the value of the bare
    download or decoding. least, most: aims for the value. most_of_before: an aim for its ratio to
    `before`.
    """

    of: str
    what: str
    value: float
    before: float | None = None
    bare: float | None = None
    least: float | None = None
    most: float | None = None
    most_of_before: float | None = None

    @property
    def cells(self) -> Sequence[str]:
        of_before = self.value / self.before if self.before else None
        aims = [aim(self.least, self.most)]
        if of_before is not None and self.most_of_before is not None:
            aims.append(f"{aim(None, self.most_of_before)} × before")
        return (
            self.of,
            self.what,
            cell(self.value, self.least, self.most),
            cell(self.before),
            cell(of_before, None, self.most_of_before),
            cell(self.bare),
            ", ".join(filter(None, aims)),
        )


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
    """Return a table without the columns that no figure has."""
    cells = [figure.cells for figure in figures]
    used = [any(column) for column in zip(*cells, strict=True)]
    columns, *rows = (list(compress(row, used)) for row in (COLUMNS, *cells))
    return table(columns, rows)


def aim(least: float | None, most: float | None) -> str:
    bounds = (("≥", least), ("≤", most))
    return ", ".join(f"{sign} {number(bound)}" for sign, bound in bounds if bound is not None)


def cell(value: float | None, least: float | None = None, most: float | None = None) -> str:
    """Return a value, bold if it misses its aim, and nothing for None."""
    if value is None:
        return ""
    missed = (least is not None and value < least) or (most is not None and value > most)
    return f"**{number(value)}**" if missed else number(value)


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
