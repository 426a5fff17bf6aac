"""The catalogue of an export: a consistent copy that records what the export holds.

No other process opens the copy. Errors name the original, but DiskFull the copy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.columns import TABLES
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.journals import JOURNALS
from tcgamirror.model.errors import BadQuery, Damaged, UsageError
from tcgamirror.model.text import command_line

_DROP_ORDER = ("trigger", "view", "index", "table")


def matching_slides(live: Catalogue, condition: str) -> frozenset[str]:
    """Return file names of the sampled slides that meet a condition on the view, in SQL.

    Raises:
        BadQuery: for an invalid condition and for one that would write.
        UsageError: if no slide meets it.
    """
    # The bracket is on a line of its own, as a comment may end the condition.
    sql = f"SELECT file_name FROM mirror WHERE ({condition}\n)"
    try:
        names = frozenset(str(name) for name, *_ in live.reports.query(sql).rows)
    except BadQuery as error:
        raise BadQuery(f"--only: {error}") from error
    if not names:
        raise UsageError(f"--only {condition}: no sampled slide meets the condition. Change it")
    return names


def check_path(image: Image, root: Path) -> None:
    """Raise Damaged if an image's path leads out of the images of the mirror at `root`."""
    try:
        TABLES["images"]["path"](image.path)
    except ValueError:
        raise Damaged(
            f"{root}: its catalogue records an image at {image.path!r}. Restore a copy of it, or "
            f"run: {command_line('rebuild', root)}"
        ) from None


def copy_catalogue(live: Catalogue, path: Path) -> Catalogue:
    """Return a copy of an open catalogue at `path`, in place of what a killed export left."""
    for suffix in ("", *JOURNALS):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    copy = live.copy_to(path)
    with copy.reading() as connection:
        # The copy is repeated after a power cut, so no change waits for the disk.
        connection.execute("PRAGMA synchronous = OFF")
    # Images of excluded slides are not exported.
    copy.images.clear(each.file_name for each in copy.exclusions.all())
    return copy


def keep_only(copy: Catalogue, names: Collection[str]) -> None:
    """Remove all other slides from the sample."""
    with copy.change() as connection:
        sampled = {name for (name,) in connection.execute("SELECT file_name FROM sample")}
        others = [(name,) for name in sampled.difference(names)]
        for table in ("attempts", "images", "sample"):
            connection.executemany(f"DELETE FROM {table} WHERE file_name = ?", others)
        connection.execute("DELETE FROM facts WHERE key IN ('sampled', 'drawn by')")


def finish(copy: Catalogue) -> dict[str, int]:
    """Drop whatever is not of a catalogue's schema, and check the copy.

    Returns:
        how many slides of the sample there are of each status.
    """
    with copy.change() as connection:
        _drop_others(connection)
    with copy.reading() as connection:
        (free_pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free_pages:
            connection.execute("VACUUM")
        slides = dict(connection.execute("SELECT status, count(*) FROM images GROUP BY status"))
    copy.check_integrity()
    return slides


def _drop_others(connection: sqlite3.Connection) -> None:
    """Drop a person's own views, indexes and tables, which an import would refuse."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as blank:
        database.migrate(blank)
        ours = set(blank.execute("SELECT type, name FROM sqlite_schema"))
    others = set(connection.execute("SELECT type, name FROM sqlite_schema")) - ours
    for kind, name in sorted(others, key=lambda entry: _DROP_ORDER.index(entry[0])):
        # SQLite drops the former with its table, and never the latter.
        if not name.startswith(("sqlite_autoindex", "sqlite_sequence")):
            quoted = name.replace('"', '""')
            connection.execute(f'DROP {kind} IF EXISTS "{quoted}"')
