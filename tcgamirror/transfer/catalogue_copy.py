"""The catalogue of an export: a consistent copy that records what the export holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path

from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.journals import JOURNALS
from tcgamirror.catalogue.rows import SlideRows
from tcgamirror.imaging.store import IMAGES
from tcgamirror.model.errors import BadExport, Damaged, UsageError
from tcgamirror.model.slide import Status
from tcgamirror.transfer.archive.format import checked_name


def image_of(rows: SlideRows) -> Image | None:
    """Return the image that a slide's rows record, if there is one. Raises Damaged."""
    row = rows.image
    if row["path"] is None or row["sha256"] is None:
        return None
    return _checked(
        Image(
            file_name=str(row["file_name"]),
            path=str(row["path"]),
            bytes=int(row["bytes"] or 0),
            sha256=str(row["sha256"]),
            done=row["status"] == Status.DONE,
        )
    )


def matching_slides(live: Catalogue, condition: str) -> frozenset[str]:
    """Return file names of the sampled slides that meet a condition on the view, in SQL.

    Raises:
        BadQuery: for an invalid condition and for one that would write.
        UsageError: if no slide meets it.
    """
    # The bracket is on a line of its own, as a comment may end the condition.
    answer = live.reports.query(f"SELECT file_name FROM mirror WHERE ({condition}\n)")
    names = frozenset(str(name) for name, *_ in answer.rows)
    if not names:
        raise UsageError(f"--only {condition}: no sampled slide meets the condition. Change it")
    return names


def _checked(image: Image) -> Image:
    """Return the image. Raises Damaged if its path leads out of the images."""
    with suppress(BadExport):
        if checked_name(image.path) == image.path and image.path.startswith(f"{IMAGES}/"):
            return image
    raise Damaged(
        f"the catalogue: it records an image at {image.path!r}. "
        "Restore a copy of it, or run: tcgamirror rebuild"
    )


class CatalogueCopy:
    """A copy of a catalogue that nobody else sees yet.

    Every method may raise Damaged, which names the original, and DiskFull for the copy.
    """

    def __init__(self, live: Catalogue, path: Path) -> None:
        """Copy an open catalogue to `path`, and replace what a killed export left there."""
        for suffix in ("", *JOURNALS):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        self._copy = live.copy_to(path)
        with self._copy.reading() as connection:
            # After a power cut it is made anew, so no change waits for the disk.
            connection.execute("PRAGMA synchronous = OFF")

    def close(self) -> None:
        self._copy.close()

    def release(self) -> str | None:
        """Return the data release that was merged last."""
        return self._copy.listing.release()

    def keep_only(self, names: Collection[str]) -> None:
        """Remove all other slides from the sample."""
        with self._copy.change() as connection:
            sampled = {name for (name,) in connection.execute("SELECT file_name FROM sample")}
            others = [(name,) for name in sampled.difference(names)]
            for table in ("attempts", "images", "sample"):
                connection.executemany(f"DELETE FROM {table} WHERE file_name = ?", others)
            connection.execute("DELETE FROM facts WHERE key IN ('sampled', 'drawn by')")

    def images(self) -> list[Image]:
        """Return every recorded image, by rank."""
        return [_checked(image) for image in self._copy.images.recorded()]

    def set_rows(self, rows: SlideRows) -> None:
        """Replace the rows of one slide."""
        self._copy.rows.replace(rows)

    def forget(self, names: Collection[str]) -> None:
        """Record no images for these slides. Those that are done become pending."""
        self._copy.images.clear(names)

    def finish(self) -> None:
        """Leave only a catalogue's own schema in it, and check it."""
        with self._copy.change() as connection:
            _drop_others(connection)
        with self._copy.reading() as connection:
            (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
            if free_pages:
                connection.execute("VACUUM")
        self._copy.check_integrity()

    def slides_by_status(self) -> dict[str, int]:
        """Return how many slides of the sample there are of each status."""
        with self._copy.reading() as connection:
            rows = connection.execute("SELECT status, count(*) FROM images GROUP BY status")
            return dict(rows.fetchall())


def _drop_others(connection: sqlite3.Connection) -> None:
    """Drop a person's own views, indexes and tables, which an import would refuse."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as blank:
        database.migrate(blank)
        ours = set(blank.execute("SELECT type, name FROM sqlite_schema"))
    found = connection.execute("SELECT type, name FROM sqlite_schema").fetchall()
    order = ("trigger", "view", "index", "table")
    for kind, name in sorted(set(found) - ours, key=lambda entry: order.index(entry[0])):
        # SQLite drops the former with its table, and never the latter.
        if not name.startswith(("sqlite_autoindex", "sqlite_sequence")):
            quoted = name.replace('"', '""')
            connection.execute(f'DROP {kind} IF EXISTS "{quoted}"')
