"""The catalogue: what is listed, what is sampled, and what came of it.

One writer, any number of readers. Each change is one transaction: a run that
is killed leaves the catalogue as it was before or after the change.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from tcgamirror.catalogue import database, queue, reports, rows, sample
from tcgamirror.catalogue import images as upkeep
from tcgamirror.catalogue import listing as merging
from tcgamirror.catalogue.database import Journal
from tcgamirror.catalogue.images import Kept, Restored
from tcgamirror.catalogue.listing import Coming, Merged
from tcgamirror.catalogue.queue import Due, Standing
from tcgamirror.catalogue.reports import Change, Counts, Merge, Rows
from tcgamirror.catalogue.rows import Having, SlideRows, Taken, Theirs
from tcgamirror.model.errors import Damaged, NotAMirror, UsageError
from tcgamirror.model.sampling import Candidate, Plan
from tcgamirror.model.slide import Listing, Outcome, Slide, Upstream
from tcgamirror.model.text import timestamp

_SET_FACT = "INSERT OR REPLACE INTO facts (key, value) VALUES (?, ?)"
_NO_FACTS: Mapping[str, str] = MappingProxyType({})


class Catalogue:
    """An open catalogue. To be closed, and used from the thread that opened it.

    Every method may raise Damaged, Locked, DiskFull or UsageError for the file's
    state. now: seconds since the epoch; the catalogue keeps ISO 8601 text, UTC.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, *, settles: bool = False
    ) -> None:
        """settles: whether the journal is folded into the file when it is closed."""
        self._path = path
        self._connection = connection
        self._settles = settles

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new, empty catalogue, open for writing. Raises NotAMirror where there is one."""
        try:
            if path.exists():
                raise NotAMirror(f"{path} is there already; choose another directory")
            with database.translated(path):
                database.create(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be made: {error.strerror or error}") from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, journal: Journal | None = None) -> Self:
        """The catalogue at `path`, brought up to the newest schema unless read_only.

        journal: what a writer's changes go through; None for what suits the
        file system. When a writer is closed, one file is left that any reader
        can open, on read-only media too.

        Raises Damaged if it is missing, cut off or something else, UsageError if
        it is another version's or cannot be written.
        """
        if not path.is_file():
            raise Damaged(f"{path} is missing; {database.WAY_OUT}")
        with database.translated(path):
            connection = database.connect(path, read_only=read_only)
            try:
                database.check(connection, path, read_only=read_only)
                if not read_only:
                    database.use_journal(connection, journal or database.journal_for(path))
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, settles=not read_only)

    @classmethod
    def rehearsal(cls, path: Path) -> Self:
        """A copy of the catalogue in memory: what is changed there is gone when it is closed."""
        with cls.open(path, read_only=True) as real, database.translated(path):
            return cls(path, database.copied(real._connection))

    def close(self) -> None:
        """Closes the file; may be called twice."""
        if self._settles:
            self._settles = False
            database.settle(self._connection)
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

    @contextmanager
    def at_one_moment(self) -> Iterator[sqlite3.Connection]:
        """A connection to read by: all that is read within is of one state of the file.

        So is what this catalogue's own methods read meanwhile, but for `query`.
        """
        with self._reading() as connection, database.transaction(connection, writes=False):
            yield connection

    # Facts and listings --------------------------------------------------------

    def fact(self, key: str) -> str | None:
        """What was set under the key, if anything."""
        with self._reading() as connection:
            row = connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, key: str, value: str) -> None:
        """Keeps a value under the key in place of any other."""
        with self._change() as connection:
            connection.execute(_SET_FACT, (key, value))

    def release(self) -> str | None:
        """The data release of the listing merged last."""
        with self._reading() as connection:
            return reports.last_release(connection)

    def merge(
        self,
        listing: Listing | Coming,
        now: float,
        *,
        accept_shrink: bool = False,
        successors_of: Callable[[list[str]], Mapping[str, str]] | None = None,
    ) -> Merged:
        """Takes over a new listing, once all of it has come, and tells what it brought.

        successors_of: gives the newest file_ids, as far as they are known, of
        old ones that are no longer listed. A file that changed makes its image
        pending again. A listing of the release merged last that brings nothing is
        not noted. Raises ListingShrunk if too many slides are lost at once,
        unless accept_shrink, and what reading the listing raises.
        """
        with (
            self._reading() as connection,
            merging.arriving(connection, listing.release, listing.slides) as arrived,
        ):
            if not accept_shrink:
                arrived.refuse_if_shrunken()
            lost = [] if successors_of is None else arrived.lost()
            successors = successors_of(lost) if successors_of and lost else {}
            with database.transaction(connection):
                return arrived.merge(now, successors)

    def merges(self) -> int:
        """How many listings have been merged so far."""
        with self._reading() as connection:
            (count,) = connection.execute("SELECT coalesce(max(merge), 0) FROM releases").fetchone()
        return int(count)

    def history(self, since: str | None = None) -> list[Merge]:
        """The listings merged, the oldest first; `since`: after that release.

        Raises UsageError for a release that was never merged.
        """
        with self._reading() as connection:
            return reports.merges(connection, since)

    def changes(self, merge: int) -> list[Change]:
        """What the listing merged as that number has changed, in its order."""
        with self._reading() as connection:
            return reports.changes(connection, merge)

    # The sample ----------------------------------------------------------------

    def candidates(self) -> list[Candidate]:
        """What the GDC lists now, in listing order."""
        with self._reading() as connection:
            return sample.candidates(connection)

    def unlisted_projects(self, projects: Iterable[str]) -> list[str]:
        """Those of which the GDC lists no slide now."""
        with self._reading() as connection:
            return sample.unlisted_projects(connection, projects)

    def order(self, plan: Plan, most: int | None = None) -> list[str]:
        """As `sampling.ordered` gives it of all candidates: the first `most`, or all."""
        with self._reading() as connection:
            return sample.order(connection, plan, most)

    def fresh(self, plan: Plan, most: int | None = None) -> list[str]:
        """The same, without what is sampled already."""
        with self._reading() as connection:
            return sample.fresh(connection, plan, most)

    def sampled(self) -> list[str]:
        """File names by rank."""
        with self._reading() as connection:
            # Sorted: by the index of ranks, each slide would be read from another place.
            rows = connection.execute("SELECT file_name FROM sample ORDER BY +rank")
            return [file_name for (file_name,) in rows]

    def sampled_count(self) -> int:
        """How many slides are sampled."""
        with self._reading() as connection:
            (count,) = connection.execute("SELECT count(*) FROM sample").fetchone()
        return int(count)

    def add_to_sample(
        self, names: Sequence[str], now: float, facts: Mapping[str, str] = _NO_FACTS
    ) -> None:
        """Gives listed slides the next ranks, in this order; what is sampled keeps its rank.

        facts: kept with them, in place of others of the same keys.
        """
        with self._change() as connection:
            sample.add(connection, names, now)
            connection.executemany(_SET_FACT, facts.items())

    # Fetching ------------------------------------------------------------------

    def due(
        self,
        *,
        retry_failed: bool,
        now: float | None = None,
        limit: int | None = None,
        only: Collection[str] | None = None,
    ) -> Due:
        """Slides to fetch, by rank: pending ones, then failed ones that are to be tried again.

        retry_failed: all failed ones; else those whose time has come by `now`,
        none if that is None. Withdrawn and superseded ones that were never
        tried are among them: their files can often be had still. only: no other
        file names than these.
        """
        with self._reading() as connection:
            ranks = queue.ranks(
                connection, retry_failed=retry_failed, now=now, limit=limit, only=only
            )
        return Due(ranks, self._of_ranks)

    def _of_ranks(self, ranks: array[int]) -> Iterator[Slide]:
        with self._reading() as connection:
            yield from queue.slides(connection, ranks, self._path)

    def due_count(self, *, retry_failed: bool, now: float | None = None) -> int:
        """How many slides are due without a limit, and without reading which."""
        with self._reading() as connection:
            return queue.count(connection, retry_failed=retry_failed, now=now)

    def unfinished(self, file_ids: Iterable[str]) -> set[str]:
        """Those of the ids whose slides are pending, or failed and to be tried again by itself."""
        with self._reading() as connection:
            return queue.unfinished(connection, file_ids)

    def standing(self, now: float) -> Standing:
        """The sample in numbers, and when the failed slides are tried again."""
        with self._reading() as connection:
            return queue.standing(connection, now)

    def record(self, outcome: Outcome, run: int, now: float) -> None:
        """Keeps what came of a sampled slide.

        A picture makes it done; none makes it failed, and leaves an older
        picture's columns as they are.
        """
        with self._change() as connection:
            queue.record(connection, outcome, run, now)

    def put_back(self, names: Sequence[str]) -> None:
        """Makes sampled slides pending again: their images are lost or damaged."""
        with self._change() as connection:
            connection.executemany(
                "UPDATE images SET status = 'pending', error = NULL, failures = 0, retry_at = NULL "
                "WHERE file_name = ?",
                ((name,) for name in names),
            )

    # Upkeep --------------------------------------------------------------------

    def kept(self, name: str | None = None) -> list[Kept]:
        """What is done, by rank; with a name, that slide alone."""
        with self._reading() as connection:
            return upkeep.kept(connection, name)

    def awaited(self) -> int:
        """How many images there were once whose slides are to be fetched again."""
        with self._reading() as connection:
            return upkeep.awaited(connection)

    def unrepaired(self) -> list[str]:
        """File names of slides whose images are wanted again, not of those an update wants so."""
        with self._reading() as connection:
            return upkeep.unrepaired(connection)

    def path_of(self, name: str) -> str | None:
        """Where a sampled slide's image lies, also if it is to be fetched again."""
        with self._reading() as connection:
            return upkeep.path_of(connection, name)

    def recorded_paths(self) -> set[str]:
        """Where images lie, also those of slides that are to be fetched again."""
        with self._reading() as connection:
            return upkeep.recorded_paths(connection)

    def sampled_slides(self) -> list[Slide]:
        """The slides of the sample, with no more of them than says where their images lie."""
        with self._reading() as connection:
            return upkeep.sampled_slides(connection)

    def check_whole(self) -> None:
        """Has SQLite look at every page. Raises Damaged."""
        with self._reading() as connection:
            found = upkeep.complaints(connection)
        if found:
            raise Damaged(f"{self._path} is damaged ({found[0]}); {database.WAY_OUT}")

    def adopt(self, slides: Sequence[Slide], upstream: Upstream) -> None:
        """Adds slides that images tell of and no listing does."""
        with self._change() as connection:
            upkeep.adopt(connection, slides, upstream)

    def restore(self, images: Sequence[Restored]) -> int:
        """Give sampled slides their images back; return how many are to be fetched again."""
        with self._change() as connection:
            return upkeep.restore(connection, images)

    # Carrying ------------------------------------------------------------------

    def copy_to(self, path: Path) -> None:
        """A consistent copy at `path`, whatever another process writes meanwhile."""
        with self._reading() as connection, database.translated(path):
            rows.copy_to(connection, self._path, path)

    def rows_of(self, name: str) -> SlideRows | None:
        """All that is said of one sampled slide; None if it is not sampled."""
        with self._reading() as connection:
            return rows.rows_of(connection, name)

    def take(self, theirs: Theirs) -> None:
        """Takes over another catalogue's listing and sample; its images come one by one."""
        with self._reading() as connection:
            rows.take(connection, theirs)

    def having(self) -> dict[str, Having]:
        """What there is of each sampled slide, by file name."""
        with self._reading() as connection:
            return rows.having(connection)

    def take_images(self, images: Iterable[Taken], run: int) -> None:
        """Notes images that have come from another mirror and lie in their places."""
        with self._change() as connection:
            rows.take_images(connection, images, run)

    # Runs ----------------------------------------------------------------------

    def begin_run(self, command: str, now: float) -> int:
        """Notes that a command began to write; gives the run's number."""
        with self._change() as connection:
            started = connection.execute(
                "INSERT INTO runs (command, started, data_release) VALUES (?, ?, ?)",
                (command, timestamp(now), reports.last_release(connection)),
            )
            return int(started.lastrowid or 0)

    def end_run(self, run: int, *, exit_code: int, now: float) -> None:
        """Notes how it ended. A run without an end was killed."""
        with self._change() as connection:
            connection.execute(
                "UPDATE runs SET ended = ?, exit_code = ?, data_release = ? WHERE run = ?",
                (timestamp(now), int(exit_code), reports.last_release(connection), run),
            )

    # Reading -------------------------------------------------------------------

    def counts(self) -> Counts:
        """The mirror in numbers, as `status` tells them."""
        with self._reading() as connection:
            return reports.counts(connection)

    def show(self, name: str) -> dict[str, object]:
        """All that is known of one slide, by file_id (a former one too), file name or barcode.

        Raises UsageError if no slide is called so, or several are.
        """
        with self._reading() as connection:
            return reports.show(connection, name)

    def query(self, sql: str) -> Rows:
        """The answer to one reading statement. Raises BadQuery, also while rows are read."""
        return reports.query(self._path, sql)
