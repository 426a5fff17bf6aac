"""A catalogue copied while others may write it: whole, of one moment, one plain file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tcgamirror import database
from tcgamirror.errors import Damaged


def copy_catalogue(source: Path, target: Path) -> None:
    """Writes at `target`, in place of what is there, what the catalogue at `source` holds now.

    Raises Damaged, WrongUse, Locked or NoRoom as `Catalogue.open` does.
    """
    if not source.is_file():
        raise Damaged(f"{source} is missing; {database.WAY_OUT}")
    target.unlink(missing_ok=True)
    with database.translated(source):
        connection = database.connect(source, read_only=True)
        with closing(connection):
            database.check(connection, source, read_only=True)
            copy = sqlite3.connect(target, isolation_level=None)
            with closing(copy):
                # What is cut off by a power cut is copied anew: nothing need reach the disk.
                copy.execute("PRAGMA synchronous = OFF")
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE").fetchone()
