"""A mirror's catalogue: listed slides, the sample, and what was fetched."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from sqlite3 import Connection
from types import TracebackType
from typing import Self

from tcgamirror.catalogue.database import Database, Journal, damage, first_fault, set_facts
from tcgamirror.catalogue.exclusions import Exclusions
from tcgamirror.catalogue.images import Images
from tcgamirror.catalogue.labels import Labels
from tcgamirror.catalogue.listing import SlideListing, last_release
from tcgamirror.catalogue.queue import Queue
from tcgamirror.catalogue.reports import Reports
from tcgamirror.catalogue.rows import Rows
from tcgamirror.catalogue.sample import Sample
from tcgamirror.model.errors import NotAMirror, UsageError
from tcgamirror.model.text import timestamp


class Catalogue:
    """An open catalogue, one part for each concern, used from the thread that opened it.

    There is one writer, and any number of readers. Each method that writes is one
    transaction: a killed run leaves the catalogue as it was before or after it. Every method
    may raise Damaged, Locked, DiskFull or UsageError for the file's state. Parameters called
    `now` are seconds since the epoch; the catalogue keeps ISO 8601 text in UTC.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.listing = SlideListing(database)
        self.labels = Labels(database)
        self.sample = Sample(database)
        self.queue = Queue(database)
        self.images = Images(database)
        self.exclusions = Exclusions(database)
        self.reports = Reports(database)
        self.rows = Rows(database)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Return a new, empty catalogue, open for writing. Raises NotAMirror if one exists."""
        try:
            if path.exists():
                raise NotAMirror(f"{path}: a catalogue exists. Choose another directory")
            Database.create(path)
        except OSError as error:
            raise UsageError(
                f"{path}: it cannot be made ({error.strerror or error}). Choose another directory"
            ) from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, journal: Journal | None = None) -> Self:
        """Open the catalogue at `path`, see `Database.open`."""
        return cls(Database.open(path, read_only=read_only, journal=journal))

    @classmethod
    def migrate(cls, path: Path) -> None:
        """Migrate an older catalogue; the file of any other stays as it is."""
        try:
            cls.open(path, read_only=True).close()
        except UsageError:
            cls.open(path).close()

    @classmethod
    def open_temporary(cls, path: Path) -> Self:
        """Return a temporary copy of the catalogue, which is gone when it is closed."""
        with cls.open(path, read_only=True) as catalogue:
            return catalogue.copy_to(None)

    def copy_to(self, path: Path | None) -> Self:
        """Return a consistent copy, open for writing, see `Database.copy_to`."""
        return type(self)(self._database.copy_to(path))

    def close(self) -> None:
        """Close the file, so that one file without a journal is left; may be called twice."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Return a context in which all that is read is of one state; `reports.query` excepted."""
        return self._database.snapshot()

    def reading(self) -> AbstractContextManager[Connection]:
        """Return a context for SQL of the caller's own that writes nothing."""
        return self._database.reading()

    def change(self) -> AbstractContextManager[Connection]:
        """Return the context of one transaction, for SQL of the caller's own."""
        return self._database.change()

    def check_integrity(self) -> None:
        """Have SQLite check every page and reference. Raises Damaged."""
        with self._database.reading() as connection:
            fault = first_fault(connection)
        if fault is not None:
            raise damage(self._database.source, f"it is damaged ({fault})")

    def fact(self, key: str) -> str | None:
        """Return the value kept under a key; None if there is none."""
        value: str | None = self._database.value("SELECT value FROM facts WHERE key = ?", key)
        return value

    def set_fact(self, key: str, value: str) -> None:
        """Keep a value under a key, in place of any other."""
        with self._database.change() as connection:
            set_facts(connection, {key: value})

    def begin_run(self, command: str, now: float) -> int:
        """Record that a command began to write, and return the run's number."""
        with self._database.change() as connection:
            started = connection.execute(
                "INSERT INTO runs (command, started, data_release) VALUES (?, ?, ?)",
                (command, timestamp(now), last_release(connection)),
            )
            return int(started.lastrowid or 0)

    def end_run(self, run: int, *, exit_code: int, now: float) -> None:
        """Record how a run ended. A killed run has no end."""
        with self._database.change() as connection:
            connection.execute(
                "UPDATE runs SET ended = ?, exit_code = ?, data_release = ? WHERE run = ?",
                (timestamp(now), int(exit_code), last_release(connection), run),
            )
