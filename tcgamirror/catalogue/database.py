"""Connections to the catalogue's file, and SQLite's errors in this program's words.

While a writer has it open, changes go through SQLite's WAL, which no reader ever
waits for, or, where the file system is not known to bear that (WAL breaks on
Lustre and GPFS, where mirrors live), through its rollback journal. At rest it
is one file with no journal beside it, which can be copied and read anywhere.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from tcgamirror.catalogue.journals import JOURNALS, check_journals
from tcgamirror.catalogue.schema import APPLICATION_ID, MIGRATIONS
from tcgamirror.model.errors import Damaged, DiskFull, Locked, TcgaMirrorError, UsageError
from tcgamirror.system import mounts

BUSY_SECONDS = 30.0
"""How long to wait for another process that is writing."""

SWITCH_SECONDS = 2.0
"""How long to wait for readers to end before the journal is changed."""

CACHE_BYTES = 16_000_000
"""Of the file, kept in memory."""

TEMPORARY_BYTES = 64_000_000
"""Of temporary tables, kept in memory; what is more than any listing of TCGA takes is on disk."""


class Journal(StrEnum):
    """What changes go through: SQLite's `journal_mode`."""

    WAL = "wal"
    DELETE = "delete"


_ODD = ("no such ", "cannot join using ", "unsupported file format", "Could not decode ")
"""How SQLite begins to tell of a schema that has not what its version has, or of no text."""

WAY_OUT = "put a copy back, or make it anew from the images by tcgamirror rebuild"
"""What to do about a damaged catalogue."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raises SQLite's errors about the file at `path` as Damaged, DiskFull, Locked or UsageError.

    What is left as it is tells of a mistake in this program.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if tells_of_damage(error):
            raise damaged(path, error) from error
        # Errors of the sqlite3 module itself carry no code.
        own = translation(path, error, getattr(error, "sqlite_errorcode", 0))
        if own is None:
            raise
        raise own from error


def tells_of_damage(error: Exception) -> bool:
    """Whether no whole catalogue of a known version could be the reason for it.

    What SQLite says of a damaged schema need not even be text.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    corrupt = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return corrupt or isinstance(error, UnicodeDecodeError) or str(error).startswith(_ODD)


def damaged(path: Path, error: Exception) -> Damaged:
    """What to tell of the catalogue at `path`."""
    return Damaged(f"{path} is damaged ({error}); {WAY_OUT}")


def translation(path: Path, error: Exception, code: int) -> TcgaMirrorError | None:
    """This program's error for SQLite's (extended) result code, if there is one."""
    match code & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, error)
        case sqlite3.SQLITE_FULL:
            return DiskFull(
                f"{path} cannot grow: the disk or the quota is full, "
                "or that of temporary files (SQLITE_TMPDIR says where they lie)"
            )
        case sqlite3.SQLITE_IOERR:
            return DiskFull(
                f"{path} could not be read or written ({error}): "
                "the quota may be used up or the disk failing"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return UsageError(f"{path} or its directory cannot be written ({error})")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Locked(f"{path} is being written by another process; wait for it to end")
        case _:
            return None


def copied(connection: sqlite3.Connection) -> sqlite3.Connection:
    """A copy without a name, consistent whatever another process writes meanwhile.

    It is gone when it is closed. A large one lies on disk, among the temporary files.
    """
    copy = sqlite3.connect("", isolation_level=None)
    connection.backup(copy)
    _set_up(copy)
    return copy


def connect(
    path: Path, *, read_only: bool = False, busy_seconds: float = BUSY_SECONDS
) -> sqlite3.Connection:
    """A connection in autocommit mode; raises sqlite3.Error, to be used within `translated`.

    Raises Damaged for a journal that SQLite must not see. A reader may find one that a
    killed writer left: then the file is opened once for writing, which finishes or rolls
    back what was cut off.
    Where that cannot be, as on a read-only medium, a file without any journal
    is read as one that nobody changes.
    """
    check_journals(path)
    try:
        return _connected(path, "ro" if read_only else "rwc", busy_seconds)
    except sqlite3.OperationalError as error:
        unwritable = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
        if not read_only or error.sqlite_errorcode & 0xFF not in unwritable:
            raise
        return _recovered(path, busy_seconds)


def _recovered(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """A reader's connection to a file that has to be written before it can be read."""
    try:
        connect(path, busy_seconds=busy_seconds).close()
    except sqlite3.OperationalError:
        if any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal")):
            raise
        return _connected(path, "ro&immutable=1", busy_seconds)
    return _connected(path, "ro", busy_seconds)


def _connected(path: Path, mode: str, busy_seconds: float) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)
    try:
        try:
            _begin(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR):
                raise
            # SQLite says the same of a file system without locks, and would wait in vain.
            mounts.check_locks(path.parent)
            connection.execute(f"PRAGMA busy_timeout = {busy_seconds * 1000:.0f}")
            _begin(connection)
        connection.execute(f"PRAGMA busy_timeout = {busy_seconds * 1000:.0f}")
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(connection: sqlite3.Connection) -> None:
    _set_up(connection)
    connection.execute("PRAGMA schema_version").fetchone()


def _set_up(connection: sqlite3.Connection) -> None:
    """Has it hold references, and bounds its memory: what sorting takes too goes to disk."""
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = FILE")
    connection.execute(f"PRAGMA main.cache_size = -{CACHE_BYTES // 1024}")
    connection.execute(f"PRAGMA temp.cache_size = -{TEMPORARY_BYTES // 1024}")


def journal_for(path: Path) -> Journal:
    """WAL where the file system is known to bear it."""
    return Journal.WAL if mounts.knows_wal(mounts.kind_at(path)) else Journal.DELETE


def use_journal(connection: sqlite3.Connection, journal: Journal) -> None:
    """Has a writer's changes go through `journal` from now on.

    WAL is not insisted on: while somebody reads, the change cannot be made,
    and the rollback journal does as well.
    """
    (now,) = connection.execute("PRAGMA journal_mode").fetchone()
    if now == journal:
        return
    (timeouts,) = connection.execute("PRAGMA busy_timeout").fetchone()
    if journal is Journal.WAL:
        connection.execute(f"PRAGMA busy_timeout = {SWITCH_SECONDS * 1000:.0f}")
    try:
        connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
    except sqlite3.OperationalError as error:
        busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
        if not busy or journal is not Journal.WAL:
            raise
    finally:
        connection.execute(f"PRAGMA busy_timeout = {timeouts}")


def settle(connection: sqlite3.Connection) -> None:
    """Folds a writer's journal into the file before it is closed.

    While somebody reads, the empty journal and the file's mode stay as they are
    for the next writer. A disk that is full now loses nothing: the journal is
    read by whoever comes next.
    """
    with suppress(sqlite3.Error):
        connection.execute(f"PRAGMA busy_timeout = {SWITCH_SECONDS * 1000:.0f}")
        try:
            connection.execute(f"PRAGMA journal_mode = {Journal.DELETE}").fetchone()
        except sqlite3.OperationalError:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


@contextmanager
def transaction(connection: sqlite3.Connection, *, writes: bool = True) -> Iterator[None]:
    """One change, whole or not at all; whatever interrupts it undoes it.

    writes: whether the file is written, and not temporary tables alone.
    """
    connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
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
    """Make an empty catalogue, whole or not at all, in place of whatever is at `path`."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    for place in (unfinished, path):
        # Of a catalogue that is no more: SQLite would play them into the new one.
        for suffix in JOURNALS:
            place.with_name(place.name + suffix).unlink(missing_ok=True)
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

    Raises Damaged for another file, UsageError for one of another version.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        raise Damaged(f"{path} is no catalogue of tcgamirror; {WAY_OUT}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    known = len(scripts)
    if version > known:
        raise UsageError(
            f"{path} was made by a newer tcgamirror (schema {version}, this one knows {known}); "
            "upgrade"
        )
    if not read_only:
        _check_writable(path)
        migrate(connection, scripts)
    elif version < known:
        raise UsageError(
            f"{path} was made by an older tcgamirror (schema {version}, this one reads {known}); "
            "run any writing command first, such as update"
        )
    _check_complete(connection, path, scripts)


def _check_writable(path: Path) -> None:
    """SQLite would only say so at the first change, and a directory's fault unclearly."""
    for place in (path, path.parent):
        if not os.access(place, os.W_OK):
            raise UsageError(f"{place} cannot be written by this user; change its permissions")


def _check_complete(connection: sqlite3.Connection, path: Path, scripts: Sequence[str]) -> None:
    blank = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(blank, scripts)
        missing = _names(blank) - _names(connection)
    finally:
        blank.close()
    if missing:
        raise Damaged(f"{path} has lost its {', '.join(sorted(missing))}; {WAY_OUT}")


def _names(connection: sqlite3.Connection) -> set[str]:
    """Of its tables, views and indexes."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
