"""What people and scripts see: tables, sizes and times in words, progress, JSON lines.

Results go to stdout. Progress and messages go to stderr, as a bar on a
terminal and as quiet lines elsewhere.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

    from tcgamirror.model import Outcome

QUIET_SECONDS = 60.0
"""Between two lines of progress where there is no terminal."""


def in_bytes(count: float) -> str:
    """Bytes in powers of 1,000, as disks and networks are sold.

    >>> in_bytes(999), in_bytes(2_621_440), in_bytes(12.95e12)
    ('999 B', '2.6 MB', '13.0 TB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.95 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def in_time(seconds: float) -> str:
    """A duration, as precise as it is short.

    >>> in_time(0.42), in_time(75), in_time(7260), in_time(200_000)
    ('0.4 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if not hours:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{hours} h {minutes % 60} min" if not days else f"{days} d {hours % 24} h"


def slides(count: int) -> str:
    """
    >>> slides(1), slides(11765)
    ('1 slide', '11,765 slides')
    """
    return f"{count:,} slide{'' if count == 1 else 's'}"


def say(message: str) -> None:
    """One line to stderr."""
    print(message, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns aligned, numbers to the right.

    >>> print(table(["project", "done"], [["TCGA-BRCA", 3], [None, 12]]))
    project    done
    TCGA-BRCA     3
                 12
    """
    listed = list(rows)
    texts = [[_text(value) for value in row] for row in listed]
    widths = [
        max([len(name), *(len(row[place]) for row in texts)]) for place, name in enumerate(columns)
    ]
    numeric = [
        all(isinstance(row[place], int | float | None) for row in listed)
        for place in range(len(columns))
    ]
    lines = []
    for row in [list(columns), *texts]:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def write_rows(
    columns: Sequence[str], rows: Iterable[Sequence[object]], form: str, out: TextIO
) -> None:
    """Rows as `table`, `csv` or `json` (a list of objects)."""
    if form == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    elif form == "json":
        objects = [dict(zip(columns, row, strict=True)) for row in rows]
        print(json.dumps(objects, indent=1, ensure_ascii=False, default=_plain), file=out)
    else:
        print(table(columns, rows), file=out)


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


class Progress:
    """Tells how a run goes: a bar with rate and time left, or a line now and then."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: tqdm[NoReturn] | None = None
        self._total = self._done = self._failed = 0
        self._begun = self._said = time.monotonic()
        self._stopping = False

    def listing(self, got: int, total: int) -> None:
        if not self._quiet and sys.stderr.isatty():
            print(f"\rlisting {got:,} of {slides(total)} ", end="", file=sys.stderr, flush=True)
            if got >= total:
                print("\r\033[K", end="", file=sys.stderr, flush=True)

    def begins(self, total: int) -> None:
        self._total = total
        self._begun = self._said = time.monotonic()
        if total and not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="slide", dynamic_ncols=True, smoothing=0.05)

    def finished(self, outcome: Outcome) -> None:
        if outcome.picture is not None:
            self._done += 1
        else:
            self._failed += 1
            last = outcome.attempts[-1]
            self._line(f"failed: {outcome.slide.file_name}: {last.source}: {last.message}")
        if self._bar is not None:
            self._bar.update()

    def tick(self, bytes_fetched: int, in_hand: int, stopping: bool) -> None:
        seconds = max(time.monotonic() - self._begun, 0.1)
        if stopping and not self._stopping and in_hand:
            self._stopping = True
            self._line(f"finishing {slides(in_hand)}; Ctrl-C again lets go of them at once")
        if self._bar is not None:
            moved = f"{in_bytes(bytes_fetched)}, {in_bytes(bytes_fetched / seconds)}/s"
            self._bar.set_postfix_str(f"{moved}, {self._failed} failed")
        elif time.monotonic() - self._said >= QUIET_SECONDS:
            self._said = time.monotonic()
            ended = self._done + self._failed
            left = seconds / ended * (self._total - ended) if ended else None
            self._line(
                f"{ended:,} of {slides(self._total)}, {self._failed:,} failed, "
                f"{in_bytes(bytes_fetched)} at {in_bytes(bytes_fetched / seconds)}/s"
                + (f", {in_time(left)} left" if left is not None else "")
            )

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, message: str) -> None:
        if self._bar is not None:
            self._bar.write(message, file=sys.stderr)
        elif not self._quiet:
            say(message)
