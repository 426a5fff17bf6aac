"""SQLite connections to a catalogue's file, with SQLite's errors in this program's words.

A writer's changes go through SQLite's write-ahead log (WAL), which no reader waits for.
WAL breaks on network file systems such as Lustre and GPFS. Wherever the file system is not
known to support WAL, changes go through SQLite's rollback journal instead.
A closed catalogue is one file without a journal, which can be copied and read anywhere.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tcgamirror.catalogue.journals import JOURNALS, ROLLBACK, WAL, check_journals
from tcgamirror.catalogue.schema import APPLICATION_ID, MIGRATIONS, NEWEST, OLDEST
from tcgamirror.model.errors import (
    Damaged,
    DiskFull,
    Locked,
    NotAMirror,
    TcgaMirrorError,
    UsageError,
)
from tcgamirror.model.shard import shard_of
from tcgamirror.model.text import command_line
from tcgamirror.system import mounts

if TYPE_CHECKING:
    import sqlite_utils

Value = str | int | float | None
Row = Mapping[str, Value]
"""One row of a table, by column names."""

BUSY_SECONDS = 30.0
"""Seconds to wait for another process that is writing."""

SWITCH_SECONDS, SWITCH_PAUSE = 2.0, 0.02
"""Seconds to wait for readers before the journal is changed, and between tries to leave WAL."""

CACHE_BYTES, TEMPORARY_BYTES = 16_000_000, 64_000_000
"""Memory for pages of the file, and of temporary tables, in which a listing of TCGA fits."""

_SCHEMA_ERRORS = ("no such ", "cannot join using ", "unsupported file format", "Could not decode ")
"""First words of SQLite's messages about a schema that lacks something, or is not text."""


class Journal(StrEnum):
    """SQLite's `journal_mode`, through which changes go."""

    WAL = "wal"
    DELETE = "delete"


class Database:
    """An open SQLite file, used from the thread that opened it.

    All parts of a catalogue share it: each of their methods is one `reading` or one `change`.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        source: Path | None = None,
        writes: bool = False,
    ) -> None:
        """Wrap an open connection, whose journal is folded into the file in the end if it `writes`.

        source: the catalogue that the file is a copy of, named where the copy is damaged.
        """
        self.path = path
        self._connection = connection
        self.source = source or path
        self._writes = writes

    @classmethod
    def create(cls, path: Path) -> Self:
        """Return a new, empty catalogue, whole or not at all. Raises NotAMirror if one exists."""
        try:
            if path.exists():
                raise NotAMirror(f"{path}: a catalogue exists. Choose another directory")
            unfinished = path.with_name(f"{path.name}.new")
            unfinished.unlink(missing_ok=True)
            # SQLite would play a deleted catalogue's journal into the new one.
            for place in (unfinished, path):
                for suffix in JOURNALS:
                    place.with_name(place.name + suffix).unlink(missing_ok=True)
            with translate_errors(path), closing(connect(unfinished)) as connection:
                migrate(connection)
            unfinished.replace(path)
        except OSError as error:
            raise UsageError(
                f"{path}: it cannot be made ({error.strerror or error}). Choose another directory"
            ) from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, journal: Journal | None = None) -> Self:
        """Open a catalogue, migrated to the newest schema unless read_only.

        journal: what changes go through; None for what suits the file system.

        Raises:
            Damaged: if the file is missing, truncated or not a catalogue.
            UsageError: if it has another version's schema or cannot be written.
        """
        if not path.is_file():
            raise damage(path, "it is missing")
        with translate_errors(path):
            connection = connect(path, read_only=read_only)
            try:
                _check(connection, path, read_only=read_only)
                if not read_only:
                    _set_journal(connection, journal or journal_for(path))
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, writes=not read_only)

    def copy_to(self, path: Path | None) -> Self:
        """Return a consistent copy, whatever another process writes meanwhile.

        path: where nothing is yet; None for a temporary file that is gone when it is closed.
        """
        place = path or self.path
        with translate_errors(place, self.source):
            copy = sqlite3.connect(path or "", isolation_level=None)
            try:
                self._connection.backup(copy)
                if path:
                    copy.execute(f"PRAGMA journal_mode = {Journal.DELETE}").fetchone()
                _configure(copy)
            except BaseException:
                copy.close()
                raise
        return type(self)(place, copy, source=self.source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, so that one file without a journal is left; may be called twice."""
        if self._writes:
            self._writes = False
            _fold_journal(self._connection)
        self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection, outside of any transaction of its own, for SQL that only reads."""
        with translate_errors(self.path, self.source):
            yield self._connection

    def value(self, sql: str, *values: Value) -> Any:
        """Return the first column of the first row; None if there is no row."""
        with self.reading() as connection:
            row = connection.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def column(self, sql: str, *values: Value) -> list[Any]:
        """Return the first column of all rows."""
        with self.reading() as connection:
            return [row[0] for row in connection.execute(sql, values)]

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection; all that is read within, by other parts too, is of one state."""
        with self.reading() as connection, transaction(connection, writes=False):
            yield connection

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection within one transaction, which any exception rolls back.

        A change within another belongs to the other's transaction.
        """
        with (
            self.reading() as connection,
            nullcontext() if connection.in_transaction else transaction(connection),
        ):
            yield connection


class Part:
    """One concern of a catalogue, which shares the catalogue's database with all others."""

    def __init__(self, database: Database) -> None:
        self._database = database


def dicts(connection: sqlite3.Connection, sql: str, *values: Value) -> list[dict[str, Value]]:
    """Return the rows of an answer by column names."""
    cursor = connection.execute(sql, values)
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def placeholders(columns: Iterable[str]) -> str:
    """Return named placeholders of a row's values, for `VALUES (...)`."""
    return ", ".join(f":{name}" for name in columns)


def insert(
    connection: sqlite3.Connection,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Row],
    *,
    conflict: str = "",
) -> None:
    """Insert these columns of rows. conflict: `OR IGNORE` or `OR REPLACE` rows with their keys."""
    connection.executemany(
        f"INSERT {conflict} INTO {table} ({', '.join(columns)}) VALUES ({placeholders(columns)})",
        rows,
    )


def set_facts(connection: sqlite3.Connection, facts: Mapping[str, str]) -> None:
    """Keep values under their keys, in place of others, within the open transaction."""
    sql = "INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)"
    connection.executemany(sql, facts.items())


def tables(connection: sqlite3.Connection) -> sqlite_utils.Database:
    """Return the connection's tables, to write rows by sqlite-utils within a transaction.

    sqlite-utils imports numpy, and pandas where that is installed; only `rebuild` needs it.
    """
    from sqlite_utils import Database as Tables

    return Tables(connection, recursive_triggers=False, execute_plugins=False)


@contextmanager
def translate_errors(path: Path, source: Path | None = None) -> Iterator[None]:
    """Raise SQLite's errors about the file at `path` as Damaged, DiskFull, Locked or UsageError.

    Errors without such a counterpart are mistakes in this program, and stay as they are.
    source: the catalogue that the file is a copy of: it is damaged if the copy is.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # Errors of the sqlite3 module itself carry no code.
        code = getattr(error, "sqlite_errorcode", 0)
        # What SQLite says of a damaged schema need not even be text. DataError: see `images_of`.
        if isinstance(error, UnicodeDecodeError | sqlite3.DataError) or str(error).startswith(
            _SCHEMA_ERRORS
        ):
            code = sqlite3.SQLITE_CORRUPT
        translated = translation(path, error, code, source)
        if translated is None:
            raise
        raise translated from error


def damage(path: Path, problem: str) -> Damaged:
    """Return the error for a damaged catalogue, which tells how to repair it."""
    remedy = f"Restore a copy of it, or run: {command_line('rebuild', path.parent)}"
    return Damaged(f"{path}: {problem}. {remedy}")


def translation(
    path: Path, error: Exception, code: int, source: Path | None = None
) -> TcgaMirrorError | None:
    """Return this program's error for SQLite's (extended) result code, if there is one."""
    match code & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damage(source or path, f"it is damaged ({error})")
        case sqlite3.SQLITE_FULL:
            return DiskFull(
                f"{path}: the disk or the quota is full, or that of SQLite's temporary files. "
                "Free some space, or name another directory for temporary files by SQLITE_TMPDIR"
            )
        case sqlite3.SQLITE_IOERR:
            return DiskFull(
                f"{path}: SQLite cannot read or write it ({error}). Check the quota and the disk"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return UsageError(f"{path}: SQLite cannot write it ({error}). Change its permissions")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Locked(f"{path}: another process is writing it. Wait for that to end")
        case _:
            return None


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection in autocommit mode, to be opened within `translate_errors`.

    A reader may find a journal that a killed writer left. The file is then opened once
    for writing, which completes or rolls back the interrupted change. Where that cannot be
    done, as on a read-only medium, a file without any journal is read as one that never changes.
    Raises Damaged for a journal that SQLite must not see.
    """
    check_journals(path)
    try:
        return _connect(path, "ro" if read_only else "rwc")
    except sqlite3.OperationalError as error:
        if not read_only or not _is(error, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
    try:
        connect(path).close()
    except sqlite3.OperationalError:
        if any(path.with_name(path.name + suffix).exists() for suffix in (ROLLBACK, WAL)):
            raise
        return _connect(path, "ro&immutable=1")
    return _connect(path, "ro")


def _is(error: sqlite3.OperationalError, *codes: int) -> bool:
    """Return whether SQLite's primary result code is one of these."""
    return error.sqlite_errorcode & 0xFF in codes


def _wait(connection: sqlite3.Connection, seconds: float) -> None:
    """Have the connection wait this long for other processes."""
    connection.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)
    try:
        try:
            _configure(connection)
        except sqlite3.OperationalError as error:
            if not _is(error, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR):
                raise
            # SQLite reports a file system without locks as busy, and would wait in vain.
            mounts.check_locks(path.parent)
            _wait(connection, BUSY_SECONDS)
            _configure(connection)
        _wait(connection, BUSY_SECONDS)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    """Enforce foreign keys, add the function `shard`, bound memory, and read the file's header.

    Larger sorts and temporary tables go to disk.
    """
    connection.create_function("shard", 2, _shard, deterministic=True)
    connection.execute("PRAGMA foreign_keys = ON")
    # As `system.files.sync` does; without effect where fsync empties the disk's own cache.
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA temp_store = FILE")
    connection.execute(f"PRAGMA main.cache_size = -{CACHE_BYTES // 1024}")
    connection.execute(f"PRAGMA temp.cache_size = -{TEMPORARY_BYTES // 1024}")
    connection.execute("PRAGMA schema_version").fetchone()


def _shard(file_name: Value, count: Value) -> int | None:
    """Return the shard of a slide, for SQL; None for values that have none."""
    is_valid = isinstance(file_name, str) and isinstance(count, int) and count > 0
    return shard_of(str(file_name), int(count or 0)) if is_valid else None


def journal_for(path: Path) -> Journal:
    """Return WAL where the file system is known to support it, else the rollback journal."""
    return Journal.WAL if mounts.is_local(path) else Journal.DELETE


def _set_journal(connection: sqlite3.Connection, journal: Journal) -> None:
    """Have a writer's changes go through `journal`.

    SQLite cannot switch to WAL while another process reads. The rollback journal stays then.
    """
    (now,) = connection.execute("PRAGMA journal_mode").fetchone()
    if now == journal:
        return
    if journal is Journal.WAL:
        _wait(connection, SWITCH_SECONDS)
    try:
        connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
    except sqlite3.OperationalError as error:
        if not _is(error, sqlite3.SQLITE_BUSY) or journal is not Journal.WAL:
            raise
    finally:
        _wait(connection, BUSY_SECONDS)


def _fold_journal(connection: sqlite3.Connection) -> None:
    """Write a writer's journal into the file before it is closed.

    If another process reads for longer than SWITCH_SECONDS, an empty journal and the file's
    mode stay for the next writer. A full disk loses nothing: whoever opens the file next reads
    the journal.
    """
    end = time.monotonic() + SWITCH_SECONDS
    with suppress(sqlite3.Error):
        _wait(connection, SWITCH_PAUSE)
        while True:
            try:
                connection.execute(f"PRAGMA journal_mode = {Journal.DELETE}").fetchone()
                return
            except sqlite3.OperationalError as error:
                if not _is(error, sqlite3.SQLITE_BUSY) or time.monotonic() > end:
                    break
            # SQLite itself waits for no reader before it leaves WAL.
            time.sleep(SWITCH_PAUSE)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


@contextmanager
def transaction(connection: sqlite3.Connection, *, writes: bool = True) -> Iterator[None]:
    """Run one transaction, which any exception rolls back.

    writes: whether it changes the file, and not temporary tables alone.
    """
    connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def first_fault(connection: sqlite3.Connection) -> str | None:
    """Have SQLite check every page and reference, up to the first fault."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        return str(found)
    orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    return None if orphan is None else f"{orphan[0]}: row {orphan[1]} belongs to no {orphan[2]}"


def migrate(connection: sqlite3.Connection, version: int = NEWEST) -> None:
    """Bring the schema up to a version, one transaction for each step."""
    (present,) = connection.execute("PRAGMA user_version").fetchone()
    for number in range(max(present + 1, OLDEST), version + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\nPRAGMA application_id = {APPLICATION_ID};\n"
                f"{MIGRATIONS[number]}\nPRAGMA user_version = {number};\nCOMMIT;"
            )
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _check(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    """Migrate a catalogue unless read_only. Raise as `Database.open` does."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        raise damage(path, "it is not a catalogue of tcgamirror")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > NEWEST:
        raise UsageError(
            f"{path}: a newer tcgamirror made it (schema {version}, this one knows {NEWEST}). "
            "Upgrade this one"
        )
    if version < OLDEST:
        raise UsageError(
            f"{path}: its schema {version} is too old for this version, which migrates {OLDEST} "
            "and newer. Run update by the version before this one first"
        )
    if not read_only:
        # SQLite would report it only at the first change.
        for place in (path, path.parent):
            if not os.access(place, os.W_OK):
                raise UsageError(f"{place}: this user cannot write it. Change its permissions")
        try:
            migrate(connection)
        except sqlite3.OperationalError as error:
            if "already exists" not in str(error):
                raise
            raise UsageError(
                f"{path}: this version needs a name that somebody gave there ({error}). "
                "Drop that, or keep it in a database of your own"
            ) from error
    elif version < NEWEST:
        raise UsageError(
            f"{path}: an older tcgamirror made it (schema {version}, this one reads {NEWEST}). "
            f"Run any writing command first, such as: {command_line('update', path.parent)}"
        )
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as empty:
        migrate(empty)
        missing = _schema_names(empty) - _schema_names(connection)
    if missing:
        raise damage(path, f"it has lost its {', '.join(sorted(missing))}")


def _schema_names(connection: sqlite3.Connection) -> set[str]:
    """Return the names of tables, views and indexes."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
