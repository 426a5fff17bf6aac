"""Output for people and scripts: tables, bars beside them, messages and JSON.

Results go to stdout, messages to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TextIO

from tcgamirror.model.errors import ExitCode, TcgaMirrorError
from tcgamirror.model.text import distinct, plain

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ALIGNED_CHARACTERS = 16_000_000
"""Characters of a table's first rows to which its columns are aligned."""

CELL_CHARACTERS = 50
"""Added for each cell, for the memory that it takes beside its text."""

UNFIT = "need another --mpp or --format, so another mirror"
"""Words for failed slides that no retry can help: their base is coarser than the target."""

LEAST_CELLS, MOST_CELLS = 10, 40
"""Cells of a bar."""

_BARS = (("█", "\033[32m", "done"), ("▒", "\033[31m", "failed"), ("░", "\033[2m", "pending"))
"""Sign, colour and meaning of each part of a bar."""


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


def finish(
    args: argparse.Namespace,
    result: Mapping[str, object],
    lines: Iterable[str],
    code: ExitCode = ExitCode.DONE,
) -> ExitCode:
    """Print a command's result: as one JSON object with --json, else in lines. Return its code."""
    if args.json:
        print(json.dumps({**result, "exit_code": int(code)}))
    else:
        show(lines)
    return code


def show(lines: Iterable[str]) -> None:
    """Print lines, each without control characters."""
    for line in lines:
        print(plain(line))


def members(result: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a result as the members of a JSON object."""
    import dataclasses

    return dataclasses.asdict(result)


def first_rows(title: str, rows: Sequence[tuple[str, str]], most: int = 20) -> Iterator[str]:
    """Yield a table of the first paths that a command found, and what each of them is."""
    if rows:
        yield from table((title, "what"), rows[:most])
    if len(rows) > most:
        yield f"... and {len(rows) - most:,} more (all of them with --json)"


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    form: Callable[[object], str] = plain,
) -> Iterator[str]:
    """Yield lines with aligned columns, numbers to the right.

    The widths fit the first rows, as many as ALIGNED_CHARACTERS hold.

    >>> print("\\n".join(table(["project", "done"], [["TCGA-BRCA", 3], [None, 12]])))
    project    done
    TCGA-BRCA     3
                 12
    """
    left = iter(rows)
    begin: list[list[str]] = []
    numeric = [True] * len(columns)
    held = 0
    for row in left:
        numeric = [
            right and isinstance(value, int | float | None)
            for right, value in zip(numeric, row, strict=True)
        ]
        begin.append([form(value) for value in row])
        held += sum(map(len, begin[-1])) + CELL_CHARACTERS * len(row)
        if held > ALIGNED_CHARACTERS:
            break
    names = [plain(name) for name in columns]
    widths = [max(map(len, cells)) for cells in zip(names, *begin, strict=True)]
    rest = ([form(value) for value in row] for row in left)
    for cells in chain([names], begin, rest):
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        yield "  ".join(padded).rstrip()


def in_thousands(value: object) -> str:
    """Return a table's value with the digits of whole numbers in groups."""
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
        writer.writerows([_csv_cell(cell, safe=out.isatty()) for cell in row] for row in rows)
    elif form == "json":
        names = distinct(columns)
        before = "["
        for row in rows:
            members = json.dumps(dict(zip(names, row, strict=True)), default=bytes.hex)
            out.write(f"{before}\n {members}")
            before = ","
        out.write("[]\n" if before == "[" else "\n]\n")
    else:
        out.writelines(f"{line}\n" for line in table(columns, rows))


def _csv_cell(value: object, *, safe: bool) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return plain(value) if safe and isinstance(value, str) else value


# Bars --------------------------------------------------------------------------------


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


def room_for_bars() -> int:
    """Return the columns of the terminal; 0 where stdout is none, or shows no bars."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    if not sys.stdout.isatty() or encoding.lower().replace("-", "") != "utf8":
        return 0
    # Imported late, as csv is: most commands need neither.
    import shutil

    return shutil.get_terminal_size().columns


def beside(lines: Sequence[str], rows: Sequence[tuple[int, int, int]], room: int) -> Iterator[str]:
    """Yield a table's lines with a bar at the end of each row, if there is room for bars.

    rows: done, failed and pending of each row below the table's head. room: columns in all.
    """
    longest = max(map(len, lines))
    # The last column stays free: some terminals break a line that reaches it.
    width = min(room - longest - 3, MOST_CELLS)
    if width < LEAST_CELLS:
        yield from lines
        return
    # See https://no-color.org.
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    key = " ".join(f"{sign} {word}" for sign, _, word in _BARS)
    yield f"{lines[0]:{longest}}  {key}" if len(key) <= width else lines[0]
    for line, counts in zip(lines[1:], rows, strict=True):
        parts = [
            sign * count if plain or not count else f"{colour}{sign * count}\033[0m"
            for (sign, colour, _), count in zip(_BARS, cells(counts, width), strict=True)
        ]
        yield f"{line:{longest}}  {''.join(parts)}"
