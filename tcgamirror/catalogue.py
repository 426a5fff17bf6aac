"""The catalogue: what is listed, what is sampled, and what came of it.

One writer, any number of readers. Each change is one transaction: a run that
is killed leaves the catalogue as it was before or after the change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tcgamirror import database, lookups, merging
from tcgamirror.database import timestamp
from tcgamirror.errors import Damaged, NotAMirror, WrongUse
from tcgamirror.lookups import Counts, Rows
from tcgamirror.merging import SLIDE_COLUMNS, Merged
from tcgamirror.model import Attempt, Kind, Listing, Outcome, Picture, Slide, Status
from tcgamirror.sampling import Candidate


@dataclass(frozen=True, slots=True)
class Held:
    """An image the catalogue says is there. path: relative to the mirror. bytes: its size."""

    file_name: str
    path: str
    bytes: int
    sha256: str


class Catalogue:
    """An open catalogue. To be closed, and used from the thread that opened it.

    Every method may raise Damaged, Locked, NoRoom or WrongUse for the file's
    state. now: seconds since the epoch; the catalogue keeps ISO 8601 text, UTC.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new, empty catalogue, open for writing. Raises NotAMirror where there is one."""
        try:
            if path.exists():
                raise NotAMirror(f"{path} is there already; choose another directory")
            with database.translated(path):
                database.create(path)
        except OSError as error:
            raise WrongUse(f"{path} cannot be made: {error.strerror or error}") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """The catalogue at `path`, brought up to the newest schema unless read_only.

        Raises Damaged if it is missing, cut off or something else, WrongUse if
        it is another version's or cannot be written.
        """
        if not path.is_file():
            raise Damaged(f"{path} is missing; put a copy back, or make a new mirror")
        with database.translated(path):
            connection = database.connect(path, read_only=read_only)
            try:
                database.check(connection, path, read_only=read_only)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    @classmethod
    def rehearsal(cls, path: Path) -> Self:
        """A copy of the catalogue in memory: what is changed there is gone when it is closed."""
        with cls.open(path, read_only=True) as real, database.translated(path):
            return cls(path, database.copied(real._connection))

    def close(self) -> None:
        """Closes the file; may be called twice."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with database.translated(self._path):
            yield self._connection

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with database.translated(self._path), database.transaction(self._connection):
            yield self._connection

    # Facts and listings --------------------------------------------------------

    def fact(self, key: str) -> str | None:
        """What was set under the key, if anything."""
        with self._reading() as connection:
            row = connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, key: str, value: str) -> None:
        """Keeps a value under the key in place of any other."""
        with self._change() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)", (key, value)
            )

    def release(self) -> str | None:
        """The data release of the listing merged last."""
        with self._reading() as connection:
            return lookups.last_release(connection)

    def merge(self, listing: Listing, now: float, *, accept_shrink: bool = False) -> Merged:
        """Takes over a new listing and tells what it brought.

        A file that changed makes its image pending again. Raises WrongContent
        if more than a tenth of the slides is lost at once, unless accept_shrink.
        """
        with self._change() as connection:
            return merging.merge(connection, listing, now, accept_shrink=accept_shrink)

    # The sample ----------------------------------------------------------------

    def candidates(self) -> list[Candidate]:
        """What the GDC lists now, in listing order."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT file_name, kind, project_id, primary_site FROM slides "
                "WHERE upstream IN ('current', 'changed') ORDER BY position"
            )
            return [
                Candidate(name, None if kind is None else Kind(kind), project_id, site)
                for name, kind, project_id, site in rows
            ]

    def sampled(self) -> list[str]:
        """File names by rank."""
        with self._reading() as connection:
            rows = connection.execute("SELECT file_name FROM sample ORDER BY rank")
            return [file_name for (file_name,) in rows]

    def add_to_sample(self, names: Sequence[str], now: float) -> None:
        """Gives listed slides the next ranks, in this order; what is sampled keeps its rank."""
        known = set(self.sampled())
        fresh = [name for name in dict.fromkeys(names) if name not in known]
        with self._change() as connection:
            (last,) = connection.execute("SELECT coalesce(max(rank), 0) FROM sample").fetchone()
            release = lookups.last_release(connection)
            connection.executemany(
                "INSERT INTO sample (file_name, rank, sampled_at, release) VALUES (?, ?, ?, ?)",
                (
                    (name, rank, timestamp(now), release)
                    for rank, name in enumerate(fresh, start=last + 1)
                ),
            )
            connection.executemany(
                "INSERT INTO images (file_name) VALUES (?)", ((name,) for name in fresh)
            )

    # Fetching ------------------------------------------------------------------

    def due(self, *, retry_failed: bool, limit: int | None = None) -> list[Slide]:
        """Slides to fetch, by rank: pending ones, then failed ones if they are to be retried.

        Withdrawn ones are among them: their files can often be had still.
        """
        wanted = ("pending", "failed") if retry_failed else ("pending",)
        columns = ", ".join(f"slides.{name}" for name in SLIDE_COLUMNS)
        with self._reading() as connection:
            rows = connection.execute(
                f"SELECT {columns} FROM images JOIN sample USING (file_name) "
                f"JOIN slides USING (file_name) WHERE status IN ({', '.join('?' * len(wanted))}) "
                "ORDER BY status = 'failed', rank LIMIT ?",
                (*wanted, -1 if limit is None else limit),
            )
            return [_slide(row) for row in rows]

    def record(self, outcome: Outcome, run: int, now: float) -> None:
        """Keeps what came of a sampled slide.

        A picture makes it done; none makes it failed, and leaves an older
        picture's columns as they are.
        """
        name = outcome.slide.file_name
        with self._change() as connection:
            _add_attempts(connection, name, run, outcome.attempts)
            fetched = sum(attempt.bytes_fetched for attempt in outcome.attempts)
            connection.execute(
                "UPDATE images SET attempts = attempts + 1, bytes_fetched = ?, seconds = ? "
                "WHERE file_name = ?",
                (fetched, sum(attempt.seconds for attempt in outcome.attempts), name),
            )
            if outcome.picture is None:
                connection.execute(
                    "UPDATE images SET status = ?, error = ? WHERE file_name = ?",
                    (Status.FAILED, _error(outcome.attempts), name),
                )
            else:
                _set_picture(connection, name, outcome.picture, now)
            column = "failed" if outcome.picture is None else "done"
            connection.execute(
                f"UPDATE runs SET {column} = {column} + 1, bytes = bytes + ? WHERE run = ?",
                (fetched, run),
            )

    def held(self) -> list[Held]:
        """Every image that is done, by rank: what must lie in the mirror, byte for byte."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT file_name, path, bytes, sha256 FROM mirror "
                "WHERE status = 'done' ORDER BY sample_rank"
            )
            return [Held(*row) for row in rows]

    def put_back(self, names: Sequence[str]) -> None:
        """Makes sampled slides pending again: their images are lost or damaged."""
        with self._change() as connection:
            connection.executemany(
                "UPDATE images SET status = 'pending', error = NULL WHERE file_name = ?",
                ((name,) for name in names),
            )

    # Runs ----------------------------------------------------------------------

    def begin_run(self, command: str, now: float) -> int:
        """Notes that a command began to write; gives the run's number."""
        with self._change() as connection:
            started = connection.execute(
                "INSERT INTO runs (command, started, data_release) VALUES (?, ?, ?)",
                (command, timestamp(now), lookups.last_release(connection)),
            )
            return int(started.lastrowid or 0)

    def end_run(self, run: int, *, exit_code: int, now: float) -> None:
        """Notes how it ended. A run without an end was killed."""
        with self._change() as connection:
            connection.execute(
                "UPDATE runs SET ended = ?, exit_code = ?, data_release = ? WHERE run = ?",
                (timestamp(now), int(exit_code), lookups.last_release(connection), run),
            )

    # Reading -------------------------------------------------------------------

    def counts(self) -> Counts:
        """The mirror in numbers, as `status` tells them."""
        with self._reading() as connection:
            return lookups.counts(connection)

    def show(self, name: str) -> dict[str, object]:
        """All that is known of one slide, by file_id (a former one too), file name or barcode.

        Raises WrongUse if no slide is called so, or several are.
        """
        with self._reading() as connection:
            return lookups.show(connection, name)

    def query(self, sql: str) -> Rows:
        """The answer to one reading statement. Raises BadQuery, also while rows are read."""
        return lookups.query(self._path, sql)


def _slide(row: Sequence[str | int | None]) -> Slide:
    values = dict(zip(SLIDE_COLUMNS, row, strict=True))
    kind = values.pop("kind")
    return Slide(**values, kind=None if kind is None else Kind(str(kind)))  # type: ignore[arg-type]


def _error(attempts: Sequence[Attempt]) -> str:
    faults = [f"{attempt.source}: {attempt.message}" for attempt in attempts if attempt.message]
    return "; ".join(faults) or "no source was tried"


def _add_attempts(
    connection: sqlite3.Connection, name: str, run: int, attempts: Sequence[Attempt]
) -> None:
    connection.executemany(
        "INSERT INTO attempts (run, file_name, source, started, seconds, bytes, requests, "
        "fault, message) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                run,
                name,
                attempt.source,
                timestamp(attempt.started),
                attempt.seconds,
                attempt.bytes_fetched,
                attempt.requests,
                attempt.fault,
                attempt.message,
            )
            for attempt in attempts
        ),
    )


def _set_picture(connection: sqlite3.Connection, name: str, picture: Picture, now: float) -> None:
    values = {
        "status": Status.DONE,
        "error": None,
        "source": picture.source,
        "level": picture.level,
        "level_downsample": picture.level_downsample,
        "base_mpp": picture.mpp.value,
        "mpp_source": picture.mpp.source,
        "mpp_x": picture.mpp_x,
        "mpp_y": picture.mpp_y,
        "width": picture.size.width,
        "height": picture.size.height,
        "path": picture.path,
        "bytes": picture.bytes,
        "sha256": picture.sha256,
        "fetched_at": timestamp(now),
    }
    connection.execute(
        f"UPDATE images SET {', '.join(f'{column} = ?' for column in values)} WHERE file_name = ?",
        (*values.values(), name),
    )
    connection.execute(
        "UPDATE slides SET upstream = 'current' WHERE file_name = ? AND upstream = 'changed'",
        (name,),
    )
