"""The catalogue of an export: a consistent copy, made to say what the export holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from tcgamirror import database
from tcgamirror.catalogue import Catalogue
from tcgamirror.errors import BadExport, Damaged, WrongUse
from tcgamirror.exchange import PICTURE, SlideRows, put_rows
from tcgamirror.model import Status
from tcgamirror.store import IMAGES
from tcgamirror.transfer.layout import checked_name
from tcgamirror.upkeep import complaints


@dataclass(frozen=True, slots=True)
class Image:
    """An image the catalogue tells of.

    path: where it lies in the mirror, and in the export. due: its slide is done, so
    it has to be there.
    """

    file_name: str
    path: str
    bytes: int
    sha256: str
    due: bool


def image_of(rows: SlideRows) -> Image | None:
    """The image that these rows tell of; None if they tell of none. Raises Damaged."""
    row = rows.image
    if row["path"] is None or row["sha256"] is None:
        return None
    return Image(
        file_name=str(row["file_name"]),
        path=_place(row["path"]),
        bytes=int(row["bytes"] or 0),
        sha256=str(row["sha256"]),
        due=row["status"] == Status.DONE,
    )


def meeting(live: Catalogue, condition: str) -> frozenset[str]:
    """File names of the sampled slides that meet the condition, which is SQL on the view.

    Raises BadQuery for a condition that is none or would write, WrongUse if no slide meets it.
    """
    # The bracket on a line of its own: a comment may end the condition.
    answer = live.query(f"SELECT file_name FROM mirror WHERE ({condition}\n)")
    names = frozenset(str(name) for name, *_ in answer.rows)
    if not names:
        raise WrongUse(f"no sampled slide meets the condition of --only, {condition}")
    return names


def _place(path: object) -> str:
    """A path that leads to an image in any directory. Raises Damaged for another."""
    with suppress(BadExport):
        place = checked_name(str(path))
        if place == path and place.startswith(f"{IMAGES}/"):
            return place
    raise Damaged(f"the catalogue says that an image lies at {path!r}; {database.WAY_OUT}")


class Snapshot:
    """An open copy of a catalogue, which nobody else sees yet; to be closed."""

    def __init__(self, live: Catalogue, path: Path) -> None:
        """Copies the catalogue to `path`, in place of what a killed export left there."""
        for end in ("", "-journal", "-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        live.copy_to(path)
        self._path = path
        with database.translated(path):
            self._connection = database.connect(path)
            # Should the machine stop, it is made anew: no need to wait for the disk at each change.
            self._connection.execute("PRAGMA synchronous = OFF")

    def close(self) -> None:
        self._connection.close()

    def keep_only(self, names: Collection[str]) -> None:
        """Takes all other slides out of the sample."""
        sampled = {name for (name,) in self._connection.execute("SELECT file_name FROM sample")}
        others = [(name,) for name in sampled.difference(names)]
        with database.translated(self._path), database.transaction(self._connection):
            for table in ("attempts", "images", "sample"):
                self._connection.executemany(f"DELETE FROM {table} WHERE file_name = ?", others)
            self._connection.execute("DELETE FROM facts WHERE key IN ('sampled', 'drawn by')")

    def images(self) -> list[Image]:
        """By rank."""
        rows = self._connection.execute(
            "SELECT file_name, status, path, coalesce(bytes, 0), sha256 "
            "FROM sample JOIN images USING (file_name) "
            "WHERE path IS NOT NULL AND sha256 IS NOT NULL ORDER BY rank"
        )
        return [
            Image(name, _place(path), size, sha256, status == Status.DONE)
            for name, status, path, size, sha256 in rows
        ]

    def set_rows(self, rows: SlideRows) -> None:
        """Has it say of one slide what these rows of a newer copy do."""
        with database.translated(self._path), database.transaction(self._connection):
            put_rows(self._connection, rows)

    def forget(self, names: Collection[str]) -> None:
        """Has it say that it has no images of these slides; what was done is pending."""
        empty = ", ".join(f"{column} = NULL" for column in PICTURE)
        with database.translated(self._path), database.transaction(self._connection):
            self._connection.executemany(
                f"UPDATE images SET {empty}, "
                "status = CASE status WHEN 'done' THEN 'pending' ELSE status END "
                "WHERE file_name = ?",
                [(name,) for name in names],
            )

    def finish(self) -> None:
        """Leaves nothing in it but what a catalogue has."""
        with database.translated(self._path):
            with database.transaction(self._connection):
                self._drop_others()
            self._connection.execute("VACUUM")
            found = complaints(self._connection)
        if found:
            raise Damaged(f"the catalogue is damaged ({found[0]}); {database.WAY_OUT}")

    def _drop_others(self) -> None:
        """A person's own views and indexes are not for others, who would refuse them."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as blank:
            database.migrate(blank)
            ours = set(blank.execute("SELECT type, name FROM sqlite_schema"))
        there = self._connection.execute("SELECT type, name FROM sqlite_schema").fetchall()
        order = ("trigger", "view", "index", "table")
        for kind, name in sorted(set(there) - ours, key=lambda found: order.index(found[0])):
            # SQLite's own: the former goes with its table, the latter cannot be dropped.
            if not name.startswith(("sqlite_autoindex", "sqlite_sequence")):
                quoted = name.replace('"', '""')
                self._connection.execute(f'DROP {kind} IF EXISTS "{quoted}"')

    def summary(self) -> dict[str, int]:
        """How many slides of the sample there are of each status."""
        rows = self._connection.execute("SELECT status, count(*) FROM images GROUP BY status")
        return dict(rows.fetchall())
