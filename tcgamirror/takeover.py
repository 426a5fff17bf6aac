"""The rows of one mirror's catalogue in place of another's, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from tcgamirror import database
from tcgamirror.cells import TABLES
from tcgamirror.exchange import Row, dicts, insert
from tcgamirror.foreign import Foreign

_KEPT = ("slides", "former_ids", "sample", "images")
"""Tables of which rows may be kept that the source lacks, in the order to write them."""


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
            for table in reversed(list(TABLES)):
                connection.execute(f"DELETE FROM {table}")
            for table, columns in TABLES.items():
                insert(connection, table, list(columns), source.rows(table))
            for table, own in kept.items():
                # A former file_id may be known to both sides.
                rows = _ranked(connection, own) if table == "sample" else own
                twice = table == "former_ids"
                insert(connection, table, list(TABLES[table]), rows, or_ignore=twice)
            connection.executemany(
                "UPDATE images SET status = 'pending' WHERE file_name = ? AND status = 'done'",
                ((name,) for name in lacking),
            )
        database.settle(connection)
    return len(kept["sample"]) if kept else 0


def _own_rows(connection: sqlite3.Connection, source: Foreign) -> Mapping[str, Sequence[Row]]:
    """What this catalogue has of slides that the source has not sampled, or not even listed."""
    sampled = {row["file_name"] for row in source.rows("sample")}
    listed = {row["file_name"] for row in source.rows("slides")}
    theirs = {"slides": listed, "former_ids": set(), "sample": sampled, "images": sampled}
    return {
        table: [
            row
            for row in dicts(connection, f"SELECT * FROM {table} ORDER BY rowid")
            if row["file_name"] not in theirs[table]
        ]
        for table in _KEPT
    }


def _ranked(connection: sqlite3.Connection, own: Iterable[Row]) -> Iterable[Row]:
    """Rows of the sample in their order, with ranks that follow the source's."""
    (last,) = connection.execute("SELECT coalesce(max(rank), 0) FROM sample").fetchone()
    ranked = sorted(own, key=lambda row: int(row["rank"] or 0))
    return [{**row, "rank": rank} for rank, row in enumerate(ranked, start=last + 1)]
