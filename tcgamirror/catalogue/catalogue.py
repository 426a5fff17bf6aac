"""A mirror's catalogue: listed slides, the sample, and what was fetched."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Self

from tcgamirror.catalogue.database import Database, damage, first_fault, set_facts
from tcgamirror.catalogue.exclusions import Exclusions
from tcgamirror.catalogue.images import Images
from tcgamirror.catalogue.labels import Labels
from tcgamirror.catalogue.listing import SlideListing, last_release
from tcgamirror.catalogue.queue import Queue
from tcgamirror.catalogue.reports import Reports
from tcgamirror.catalogue.rows import Rows
from tcgamirror.catalogue.sample import Sample
from tcgamirror.model.errors import UsageError
from tcgamirror.model.text import timestamp


class Catalogue(Database):
    """An open catalogue, one part for each concern, used from the thread that opened it.

    There is one writer, and any number of readers. Each method that writes is one
    transaction: a killed run leaves the catalogue as it was before or after it. Every method
    may raise Damaged, Locked, DiskFull or UsageError for the file's state. Parameters called
    `now` are seconds since the epoch; the catalogue keeps ISO 8601 text in UTC.
    """

    listing = cached_property(SlideListing)
    labels = cached_property(Labels)
    sample = cached_property(Sample)
    queue = cached_property(Queue)
    images = cached_property(Images)
    exclusions = cached_property(Exclusions)
    reports = cached_property(Reports)
    rows = cached_property(Rows)

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

    def check_integrity(self) -> None:
        """Have SQLite check every page and reference. Raises Damaged."""
        with self.reading() as connection:
            fault = first_fault(connection)
        if fault is not None:
            raise damage(self.source, f"it is damaged ({fault})")

    def fact(self, key: str) -> str | None:
        """Return the value kept under a key; None if there is none."""
        value: str | None = self.value("SELECT value FROM facts WHERE key = ?", key)
        return value

    def set_fact(self, key: str, value: str) -> None:
        """Keep a value under a key, in place of any other."""
        with self.change() as connection:
            set_facts(connection, {key: value})

    def begin_run(self, command: str, now: float) -> int:
        """Record that a command began to write, and return the run's number."""
        with self.change() as connection:
            started = connection.execute(
                "INSERT INTO runs (command, started, data_release) VALUES (?, ?, ?)",
                (command, timestamp(now), last_release(connection)),
            )
            return int(started.lastrowid or 0)

    def end_run(self, run: int, *, exit_code: int, now: float) -> None:
        """Record how a run ended. A killed run has no end."""
        with self.change() as connection:
            connection.execute(
                "UPDATE runs SET ended = ?, exit_code = ?, data_release = ? WHERE run = ?",
                (timestamp(now), int(exit_code), last_release(connection), run),
            )
