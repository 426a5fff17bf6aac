"""The rows of one mirror's catalogue in place of another's, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tcgamirror import database
from tcgamirror.foreign import TABLES, Foreign, Row, insert

_KEPT = ("slides", "former_ids", "sample", "images")
"""Tables of which rows may be kept that the source lacks, in the order to write them."""


@dataclass(frozen=True, slots=True)
class _Rows:
    columns: Sequence[str]
    rows: Sequence[Row]


def take_over(path: Path, source: Foreign, *, others: bool, lacking: Collection[str]) -> int:
    """Gives the catalogue at `path` the source's rows; how many slides of its own sample it keeps.

    others: whether slides that the source lacks are kept, ranked after the
    source's; their runs and tries are not. lacking: file names of slides whose
    images could not be had, which are pending. Whoever reads meanwhile sees
    all of the old rows or all of the new ones.
    """
    with database.translated(path), closing(database.connect(path)) as connection:
        database.check(connection, path, read_only=False)
        database.use_journal(connection, database.journal_for(path))
        with database.transaction(connection):
            connection.execute("PRAGMA defer_foreign_keys = ON")
            kept = _own_rows(connection, source) if others else {}
            for table in reversed(TABLES):
                connection.execute(f"DELETE FROM {table}")
            for table in TABLES:
                insert(connection, table, source.columns(table), source.rows(table))
            for table, own in kept.items():
                insert(connection, table, own.columns, _ranked(connection, table, own))
            connection.executemany(
                "UPDATE images SET status = 'pending' WHERE file_name = ? AND status = 'done'",
                ((name,) for name in lacking),
            )
        database.settle(connection)
    return len(kept["sample"].rows) if kept else 0


def _own_rows(connection: sqlite3.Connection, source: Foreign) -> Mapping[str, _Rows]:
    """What this catalogue has of slides that the source has not sampled, or not even listed."""
    sampled = _names(source, "sample")
    known = {"slides": _names(source, "slides"), "sample": sampled, "images": sampled}
    kept: dict[str, _Rows] = {}
    for table in _KEPT:
        columns = source.columns(table)
        place = columns.index("file_name")
        order = " ORDER BY rank" if table == "sample" else ""
        found = connection.execute(f"SELECT {', '.join(columns)} FROM {table}{order}")
        theirs = known.get(table, set())
        kept[table] = _Rows(columns, [row for row in found if row[place] not in theirs])
    return kept


def _names(source: Foreign, table: str) -> set[object]:
    place = source.columns(table).index("file_name")
    return {row[place] for row in source.rows(table)}


def _ranked(connection: sqlite3.Connection, table: str, own: _Rows) -> Iterable[Row]:
    """The rows, those of the sample with ranks that follow the source's."""
    if table != "sample":
        return own.rows
    (last,) = connection.execute("SELECT coalesce(max(rank), 0) FROM sample").fetchone()
    place = own.columns.index("rank")
    return [
        (*row[:place], last + number, *row[place + 1 :])
        for number, row in enumerate(own.rows, start=1)
    ]
