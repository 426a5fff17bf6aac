"""Connections to the catalogue's file, and SQLite's errors in this program's words.

The rollback journal stays SQLite's default one (DELETE): WAL breaks on Lustre
and GPFS, where mirrors live.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tcgamirror.errors import Damaged, Locked, NoRoom, TcgaMirrorError, WrongUse
from tcgamirror.schema import APPLICATION_ID, MIGRATIONS

BUSY_SECONDS = 30.0
"""How long to wait for another process that is writing."""


def timestamp(now: float) -> str:
    """Seconds since the epoch as ISO 8601 text in UTC, to the second.

    >>> timestamp(1795353255.9)
    '2026-11-22T13:14:15Z'
    """
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raises SQLite's errors about the file at `path` as Damaged, NoRoom, Locked or WrongUse.

    What is left as it is tells of a mistake in this program.
    """
    try:
        yield
    except sqlite3.Error as error:
        # Errors of the sqlite3 module itself carry no code.
        own = translation(path, error, getattr(error, "sqlite_errorcode", 0))
        if own is None:
            raise
        raise own from error


def translation(path: Path, error: sqlite3.Error, code: int) -> TcgaMirrorError | None:
    """This program's error for SQLite's (extended) result code, if there is one."""
    match code & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Damaged(
                f"{path} is damaged ({error}); put a copy back, or make a new mirror beside it"
            )
        case sqlite3.SQLITE_FULL:
            return NoRoom(f"{path} cannot grow: the disk or the quota is full")
        case sqlite3.SQLITE_IOERR:
            return NoRoom(
                f"{path} could not be read or written ({error}): "
                "the quota may be used up or the disk failing"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return WrongUse(f"{path} or its directory cannot be written ({error})")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Locked(f"{path} is being written by another process; wait for it to end")
        case _:
            return None


def copied(connection: sqlite3.Connection) -> sqlite3.Connection:
    """A copy of the database in memory, consistent whatever another process writes meanwhile."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    connection.backup(copy)
    copy.execute("PRAGMA foreign_keys = ON")
    return copy


def connect(
    path: Path, *, read_only: bool = False, busy_seconds: float = BUSY_SECONDS
) -> sqlite3.Connection:
    """A connection in autocommit mode; raises sqlite3.Error, to be used within `translated`.

    A reader finds a journal that a killed writer left: then the file is opened
    once for writing, which rolls the cut-off change back.
    """
    connection = _connected(path, read_only, busy_seconds)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if not read_only or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise
        connect(path, busy_seconds=busy_seconds).close()
        connection = _connected(path, read_only, busy_seconds)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _connected(path: Path, read_only: bool, busy_seconds: float) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(address, uri=True, timeout=busy_seconds, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One change, whole or not at all; whatever interrupts it undoes it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def migrate(connection: sqlite3.Connection, scripts: Sequence[str] = MIGRATIONS) -> None:
    """Brings the schema up to the newest, one transaction a step."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(scripts[version:], start=version + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\nPRAGMA application_id = {APPLICATION_ID};\n"
                f"{script}\nPRAGMA user_version = {number};\nCOMMIT;"
            )
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def create(path: Path) -> None:
    """Makes an empty catalogue, whole or not at all, in place of whatever is at `path`."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    connection = connect(unfinished)
    try:
        migrate(connection)
    finally:
        connection.close()
    unfinished.replace(path)


def check(
    connection: sqlite3.Connection,
    path: Path,
    *,
    read_only: bool,
    scripts: Sequence[str] = MIGRATIONS,
) -> None:
    """Makes sure that this is a catalogue which this program knows and, if it is to, can write.

    Raises Damaged for another file, WrongUse for one of another version.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        raise Damaged(f"{path} is no catalogue of tcgamirror; put a copy back in its place")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    known = len(scripts)
    if version > known:
        raise WrongUse(
            f"{path} was made by a newer tcgamirror (schema {version}, this one knows {known}); "
            "upgrade"
        )
    if not read_only:
        _check_writable(path)
        migrate(connection, scripts)
    elif version < known:
        raise WrongUse(
            f"{path} was made by an older tcgamirror (schema {version}, this one reads {known}); "
            "run any writing command first, such as update"
        )
    _check_complete(connection, path, scripts)


def _check_writable(path: Path) -> None:
    """SQLite would only say so at the first change, and a directory's fault unclearly."""
    for place in (path, path.parent):
        if not os.access(place, os.W_OK):
            raise WrongUse(f"{place} cannot be written by this user; change its permissions")


def _check_complete(connection: sqlite3.Connection, path: Path, scripts: Sequence[str]) -> None:
    blank = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(blank, scripts)
        missing = _tables(blank) - _tables(connection)
    finally:
        blank.close()
    if missing:
        raise Damaged(f"{path} has lost its {', '.join(sorted(missing))}; put a copy back")


def _tables(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    return {name for (name,) in rows}
