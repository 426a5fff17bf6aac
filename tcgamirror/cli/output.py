"""Output for people and scripts: tables, bars beside them, messages and JSON.

Results go to stdout, messages to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from tcgamirror.model.text import distinct, plain

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from tcgamirror.model.errors import TcgaMirrorError

ALIGNED_CHARACTERS = 16_000_000
"""Characters of a table's first rows to which its columns are aligned."""

CELL_CHARACTERS = 50
"""Added for each cell, for the memory that it takes beside its text."""

UNFIT = "need another --mpp or --format, so another mirror"
"""Words for failed slides that no retry can help: their base is coarser than the target."""

LEAST_CELLS, MOST_CELLS = 10, 40
"""Cells of a bar."""

_SIGNS = ("█", "▒", "░")

_PLAIN_SIGNS = ("#", "x", ".")

_COLOURS = ("\033[32m", "\033[31m", "\033[2m")

_WORDS = ("done", "failed", "pending")

_END = "\033[0m"


def unknown(count: int) -> str:
    """
    >>> unknown(0), unknown(2)
    ('', '; 2 of unknown resolution')
    """
    return f"; {count:,} of unknown resolution" if count else ""


def say(message: str) -> None:
    """Print one line to stderr, without control characters."""
    print(plain(message), file=sys.stderr, flush=True)


def fail(error: TcgaMirrorError, *, as_json: bool) -> None:
    """Print the error that ends a command to stderr, with its notes, in one line.

    as_json: print one JSON object to stdout before, with what the command had found by then.
    """
    message = ". ".join([str(error), *getattr(error, "__notes__", ())])
    if as_json:
        members = {**error.found, "exit_code": int(error.exit_code), "error": message}
        print(json.dumps(members), flush=True)
    say(f"tcgamirror: {message}")


def members(result: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a result as the members of a JSON object."""
    import dataclasses

    return dataclasses.asdict(result)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, thousands: bool = False
) -> str:
    """Return aligned columns, numbers to the right. thousands: separate groups of digits.

    >>> print(table(["project", "done"], [["TCGA-BRCA", 3], [None, 12]]))
    project    done
    TCGA-BRCA     3
                 12
    """
    return "\n".join(_table_lines(columns, rows, _parted if thousands else plain))


def print_first(title: str, rows: Sequence[tuple[str, str]], most: int) -> None:
    """Print the first rows of what a command found, and the number of the others."""
    print(table((title, "what"), rows[:most]))
    if len(rows) > most:
        print(f"... and {len(rows) - most:,} more (all of them with --json)")


def _table_lines(
    columns: Sequence[str], rows: Iterable[Sequence[object]], show: Callable[[object], str]
) -> Iterator[str]:
    """Yield a table's lines; the widths fit the first rows, as many as ALIGNED_CHARACTERS hold."""
    left = iter(rows)
    begin: list[list[str]] = []
    numeric = [True] * len(columns)
    held = 0
    for row in left:
        numeric = [
            right and isinstance(value, int | float | None)
            for right, value in zip(numeric, row, strict=True)
        ]
        begin.append([show(value) for value in row])
        held += sum(map(len, begin[-1])) + CELL_CHARACTERS * len(row)
        if held > ALIGNED_CHARACTERS:
            break
    names = [plain(name) for name in columns]
    widths = [max(map(len, cells)) for cells in zip(names, *begin, strict=True)]
    rest = ([show(value) for value in row] for row in left)
    for cells in chain([names], begin, rest):
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        yield "  ".join(padded).rstrip()


def _parted(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else plain(value)


def write_rows(
    columns: Sequence[str], rows: Iterable[Sequence[object]], form: str, out: TextIO
) -> None:
    """Write rows as they come: `table`, `csv` or `json` (objects; a second `n` is called `n_2`).

    No terminal obeys anything in them: CSV to a file or pipe alone keeps control characters of
    values as they are.
    """
    columns = [plain(name) for name in columns]
    if form == "csv":
        import csv

        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        show = _harmless if out.isatty() else _plain
        writer.writerows([show(cell) for cell in row] for row in rows)
    elif form == "json":
        names = distinct(columns)
        written = "["
        for row in rows:
            one = dict(zip(names, row, strict=True))
            # As one list with an indent of 1 is written.
            lines = as_json(one, indent=1).split("\n")
            out.write(f"{written}\n " + "\n ".join(lines))
            written = ","
        out.write("[]\n" if written == "[" else "\n]\n")
    else:
        for line in _table_lines(columns, rows, plain):
            print(line, file=out)


def as_json(value: object, indent: int | None = None) -> str:
    r"""Return JSON in which letters stay readable, and whatever a terminal obeys is escaped.

    >>> print(as_json({"µm": "a\x9b31m\u202e"}))
    {"µm": "a\u009b31m\u202e"}
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text
    )


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _harmless(value: object) -> object:
    return plain(value) if isinstance(value, str) else _plain(value)


class Look(NamedTuple):
    """Abilities of stdout. width: columns of the terminal; None if it is not a terminal."""

    width: int | None
    colours: bool = False
    blocks: bool = True

    @classmethod
    def of_stdout(cls, environment: Mapping[str, str] = os.environ) -> Look:
        """Return the features of stdout, by NO_COLOR (https://no-color.org) and TERM too."""
        if not sys.stdout.isatty():
            return cls(None)
        # Imported late, as csv is: most commands need neither.
        import shutil

        plain = bool(environment.get("NO_COLOR")) or environment.get("TERM", "dumb") == "dumb"
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        return cls(
            width=shutil.get_terminal_size().columns,
            colours=not plain,
            blocks=encoding.lower().replace("-", "") == "utf8",
        )


def cells(counts: Sequence[int], width: int) -> list[int]:
    """Return a bar's cells for each count, at least one for each count above 0.

    >>> cells([997, 3, 0], 10), cells([0, 0, 0], 10), cells([1, 1, 1], 10)
    ([9, 1, 0], [0, 0, 0], [4, 3, 3])
    """
    total = sum(counts)
    if not total:
        return [0] * len(counts)
    shares = [max(count * width // total, min(count, 1)) for count in counts]
    # The largest takes what rounding left over.
    shares[max(range(len(counts)), key=counts.__getitem__)] += width - sum(shares)
    return shares


def beside(table: str, rows: Sequence[tuple[int, int, int]], look: Look) -> str:
    """Return the table with a bar at the end of each row, if there is room for bars.

    rows: done, failed and pending of each row below the table's head.

    >>> print(beside("project\\na\\nb", [(8, 1, 1), (0, 0, 5)], Look(30, blocks=False)))
    project
    a        ################xx..
    b        ....................
    """
    lines = table.splitlines()
    longest = max(map(len, lines))
    # The last column stays free: some terminals break a line that reaches it.
    width = min((look.width or 0) - longest - 3, MOST_CELLS)
    if width < LEAST_CELLS:
        return table
    signs = _SIGNS if look.blocks else _PLAIN_SIGNS
    key = " ".join(f"{sign} {word}" for sign, word in zip(signs, _WORDS, strict=True))
    head = f"{lines[0]:{longest}}  {key}" if len(key) <= width else lines[0]
    bars = [
        f"{line:{longest}}  {_bar(row, width, look)}"
        for line, row in zip(lines[1:], rows, strict=True)
    ]
    return "\n".join([head, *bars])


def _bar(row: tuple[int, int, int], width: int, look: Look) -> str:
    signs = _SIGNS if look.blocks else _PLAIN_SIGNS
    pieces = [sign * count for sign, count in zip(signs, cells(row, width), strict=True)]
    if not look.colours:
        return "".join(pieces)
    return "".join(
        f"{colour}{piece}{_END}" for colour, piece in zip(_COLOURS, pieces, strict=True) if piece
    )
