"""Bars beside a table on a terminal: how much of each row is done, failed and pending."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST, MOST = 10, 40
"""Cells of a bar: fewer say nothing, more are no clearer."""

_SIGNS = ("█", "▒", "░")
_PLAIN_SIGNS = ("#", "x", ".")
_COLOURS = ("\033[32m", "\033[31m", "\033[2m")
_WORDS = ("done", "failed", "pending")
_END = "\033[0m"


@dataclass(frozen=True, slots=True)
class Look:
    """What a terminal can show. width: columns; None where it is no terminal at all."""

    width: int | None
    colours: bool = False
    blocks: bool = True

    @classmethod
    def of_stdout(cls, environment: Mapping[str, str] = os.environ) -> Look:
        """What stdout is. NO_COLOR (https://no-color.org) and a dumb terminal are heeded."""
        if not sys.stdout.isatty():
            return cls(None)
        plain = bool(environment.get("NO_COLOR")) or environment.get("TERM", "dumb") == "dumb"
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        return cls(
            width=shutil.get_terminal_size().columns,
            colours=not plain,
            blocks=encoding.lower().replace("-", "") == "utf8",
        )


def cells(counts: Sequence[int], width: int) -> list[int]:
    """A bar's cells for each count; what there is any of has one at least.

    >>> cells([997, 3, 0], 10), cells([0, 0, 0], 10), cells([1, 1, 1], 10)
    ([9, 1, 0], [0, 0, 0], [4, 3, 3])
    """
    total = sum(counts)
    if not total:
        return [0] * len(counts)
    got = [max(count * width // total, min(count, 1)) for count in counts]
    # What rounding left over, or took too much of, goes to the largest.
    got[max(range(len(counts)), key=counts.__getitem__)] += width - sum(got)
    return got


def beside(table: str, rows: Sequence[tuple[int, int, int]], look: Look) -> str:
    """The table with a bar at the end of each row; as it is where there is no room for one.

    rows: done, failed and pending of each row below the table's head.

    >>> print(beside("project\\na\\nb", [(8, 1, 1), (0, 0, 5)], Look(30, blocks=False)))
    project
    a        ################xx..
    b        ....................
    """
    lines = table.splitlines()
    longest = max(map(len, lines))
    # The last column stays free: some terminals break a line that reaches it.
    width = min((look.width or 0) - longest - 3, MOST)
    if width < LEAST:
        return table
    signs = _SIGNS if look.blocks else _PLAIN_SIGNS
    key = " ".join(f"{sign} {word}" for sign, word in zip(signs, _WORDS, strict=True))
    head = f"{lines[0]:{longest}}  {key}" if len(key) <= width else lines[0]
    return "\n".join(
        [
            head,
            *(
                f"{line:{longest}}  {_bar(row, width, look)}"
                for line, row in zip(lines[1:], rows, strict=True)
            ),
        ]
    )


def _bar(row: tuple[int, int, int], width: int, look: Look) -> str:
    signs = _SIGNS if look.blocks else _PLAIN_SIGNS
    pieces = [sign * count for sign, count in zip(signs, cells(row, width), strict=True)]
    if not look.colours:
        return "".join(pieces)
    return "".join(
        f"{colour}{piece}{_END}" for colour, piece in zip(_COLOURS, pieces, strict=True) if piece
    )
