"""The catalogue of an export: a consistent copy, made to say what the export holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path

from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import PICTURE_COLUMNS, Image
from tcgamirror.catalogue.rows import SlideRows
from tcgamirror.imaging.store import IMAGES
from tcgamirror.model.errors import BadExport, Damaged, UsageError
from tcgamirror.model.slide import Status
from tcgamirror.transfer.archive.format import checked_name


def image_of(rows: SlideRows) -> Image | None:
    """The image that these rows tell of; None if they tell of none. Raises Damaged."""
    row = rows.image
    if row["path"] is None or row["sha256"] is None:
        return None
    return _placed(
        Image(
            file_name=str(row["file_name"]),
            path=str(row["path"]),
            bytes=int(row["bytes"] or 0),
            sha256=str(row["sha256"]),
            done=row["status"] == Status.DONE,
        )
    )


def meeting(live: Catalogue, condition: str) -> frozenset[str]:
    """File names of the sampled slides that meet the condition, which is SQL on the view.

    Raises BadQuery for a condition that is none or would write, UsageError if no slide meets it.
    """
    # The bracket on a line of its own: a comment may end the condition.
    answer = live.reports.query(f"SELECT file_name FROM mirror WHERE ({condition}\n)")
    names = frozenset(str(name) for name, *_ in answer.rows)
    if not names:
        raise UsageError(f"no sampled slide meets the condition of --only, {condition}")
    return names


def _placed(image: Image) -> Image:
    """An image whose path leads to one in any directory. Raises Damaged for another."""
    with suppress(BadExport):
        if checked_name(image.path) == image.path and image.path.startswith(f"{IMAGES}/"):
            return image
    raise Damaged(f"the catalogue says that an image lies at {image.path!r}; {database.REMEDY}")


class Snapshot:
    """An open copy of a catalogue, which nobody else sees yet; to be closed.

    Every method may raise Damaged, for what was copied, and DiskFull for the copy.
    """

    def __init__(self, live: Catalogue, path: Path) -> None:
        """Copy an open catalogue to `path`, in place of what a killed export left there."""
        for end in ("", "-journal", "-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        self._copy = live.copy_to(path)
        with self._copy.reading() as connection:
            # Should the machine stop, it is made anew: no need to wait for the disk at each change.
            connection.execute("PRAGMA synchronous = OFF")

    def close(self) -> None:
        self._copy.close()

    def release(self) -> str | None:
        """The data release of the listing merged last."""
        return self._copy.listing.release()

    def keep_only(self, names: Collection[str]) -> None:
        """Takes all other slides out of the sample."""
        with self._copy.change() as connection:
            sampled = {name for (name,) in connection.execute("SELECT file_name FROM sample")}
            others = [(name,) for name in sampled.difference(names)]
            for table in ("attempts", "images", "sample"):
                connection.executemany(f"DELETE FROM {table} WHERE file_name = ?", others)
            connection.execute("DELETE FROM facts WHERE key IN ('sampled', 'drawn by')")

    def images(self) -> list[Image]:
        """By rank."""
        return [_placed(image) for image in self._copy.images.recorded()]

    def set_rows(self, rows: SlideRows) -> None:
        """Has it say of one slide what these rows of a newer copy do."""
        self._copy.rows.replace(rows)

    def forget(self, names: Collection[str]) -> None:
        """Has it say that it has no images of these slides; what was done is pending."""
        empty = ", ".join(f"{column} = NULL" for column in PICTURE_COLUMNS)
        with self._copy.change() as connection:
            connection.executemany(
                f"UPDATE images SET {empty}, "
                "status = CASE status WHEN 'done' THEN 'pending' ELSE status END "
                "WHERE file_name = ?",
                [(name,) for name in names],
            )

    def finish(self) -> None:
        """Leaves nothing in it but what a catalogue has."""
        with self._copy.change() as connection:
            _drop_others(connection)
        with self._copy.reading() as connection:
            (empty,) = connection.execute("PRAGMA freelist_count").fetchone()
            if empty:
                connection.execute("VACUUM")
        self._copy.check_integrity()

    def summary(self) -> dict[str, int]:
        """How many slides of the sample there are of each status."""
        with self._copy.reading() as connection:
            rows = connection.execute("SELECT status, count(*) FROM images GROUP BY status")
            return dict(rows.fetchall())


def _drop_others(connection: sqlite3.Connection) -> None:
    """A person's own views and indexes are not for others, who would refuse them."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as blank:
        database.migrate(blank)
        ours = set(blank.execute("SELECT type, name FROM sqlite_schema"))
    there = connection.execute("SELECT type, name FROM sqlite_schema").fetchall()
    order = ("trigger", "view", "index", "table")
    for kind, name in sorted(set(there) - ours, key=lambda found: order.index(found[0])):
        # SQLite's own: the former goes with its table, the latter cannot be dropped.
        if not name.startswith(("sqlite_autoindex", "sqlite_sequence")):
            quoted = name.replace('"', '""')
            connection.execute(f'DROP {kind} IF EXISTS "{quoted}"')
