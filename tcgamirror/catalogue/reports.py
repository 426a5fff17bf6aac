"""Reports on a catalogue: its counts, one slide, a person's own SQL, and what merges changed."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from tcgamirror.catalogue.database import (
    Part,
    Value,
    connect,
    dicts,
    translate_errors,
    translation,
)
from tcgamirror.catalogue.listing import COUNTS, SLIDE_COLUMNS, last_release, slide_of
from tcgamirror.catalogue.names import find_slides
from tcgamirror.model.errors import BadQuery, NoMemory, UsageError
from tcgamirror.model.labels import COLUMNS
from tcgamirror.model.slide import SOURCES, Slide
from tcgamirror.model.text import command_line

Cell = Value | bytes
"""One value of a query's answer."""

LAST_RUNS = 5
"""Runs that `counts` returns."""

MOST_NAMED = 20
"""Slides listed for a name that several have."""

_ACTIONS = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ}
    | {sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
_PRAGMAS = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list"}
)

SCHEMA = """
    SELECT m.name AS relation, p.name AS "column", p.type AS type
    FROM sqlite_schema AS m JOIN pragma_table_info(m.name) AS p
    WHERE m.type IN ('view', 'table') AND m.name NOT LIKE 'sqlite_%'
    ORDER BY m.type = 'table', m.name <> 'mirror', m.name, p.cid
"""
"""Query for the columns of the views, then of the tables."""

_STEPS_BETWEEN_SIGNALS = 100_000

MOST_VALUE_BYTES = 16_000_000
"""Limit of one value of a query; the names of all slides of TCGA, joined, have 2 MB."""

MOST_QUERY_BYTES = 256_000_000
"""Limit of SQLite's memory once a query runs in this process."""

_RELEASE = re.compile(
    r"(?:Data Release |Release |v)?(\d+(?:\.\d+)*?)(?:\.0)*(?: - .*)?", re.IGNORECASE
)
"""A data release by name. Its number is caught without final zeros: 45 and 45.0 are the same."""


@dataclass(frozen=True, slots=True)
class ProjectCounts:
    """Sampled slides of one project. bytes: of its images."""

    project: str | None
    sampled: int
    done: int
    failed: int
    bytes: int
    excluded: int = 0


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """Images that one source made, and bytes and seconds of all its attempts."""

    source: str
    images: int
    tries: int
    bytes_fetched: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """One command that wrote. ended: None while it runs, or if it was killed."""

    run: int
    command: str
    started: str
    ended: str | None
    exit_code: int | None
    done: int
    failed: int
    bytes: int
    data_release: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """The mirror in numbers. withdrawn: slides that are listed no longer. bytes: of the images.

    bytes_fetched: transferred by all attempts. runs: the last LAST_RUNS, the latest first.
    """

    listed: int
    withdrawn: int
    sampled: int
    pending: int
    done: int
    failed: int
    bytes: int
    bytes_fetched: int
    release: str | None
    by_project: tuple[ProjectCounts, ...]
    by_source: tuple[SourceCounts, ...]
    runs: tuple[Run, ...]
    excluded: int = 0


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer to a query. Its rows can be iterated over once."""

    columns: tuple[str, ...]
    rows: Iterator[tuple[Cell, ...]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one slide by one merge. detail: the values before and after, if known."""

    what: str
    file_name: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class MergedListing:
    """One listing that was merged. counts: slides by what it changed, without zeros."""

    merge: int
    release: str
    merged_at: str
    listed: int
    counts: dict[str, int]


class Reports(Part):
    """Reports for people and commands."""

    def counts(self) -> Counts:
        """Return the mirror in numbers."""
        with self._database.reading() as connection:
            # Nearly all slides are listed, so the others are counted. SQLite counts all by pages.
            (known,) = connection.execute("SELECT count(*) FROM slides").fetchone()
            (gone,) = connection.execute(
                "SELECT count(*) FROM slides WHERE upstream IN ('withdrawn', 'superseded')"
            ).fetchone()
            by_project, by_source = _by_project(connection), _by_source(connection)
            columns = ", ".join(each.name for each in fields(Run))
            sql = f"SELECT {columns} FROM runs ORDER BY run DESC LIMIT ?"
            runs = tuple(Run(*row) for row in connection.execute(sql, (LAST_RUNS,)))
            release = last_release(connection)
        sampled, done, failed, excluded = (
            sum(getattr(count, name) for count in by_project)
            for name in ("sampled", "done", "failed", "excluded")
        )
        return Counts(
            listed=known - gone,
            withdrawn=gone,
            sampled=sampled,
            pending=sampled - done - failed - excluded,
            done=done,
            failed=failed,
            bytes=sum(count.bytes for count in by_project),
            bytes_fetched=sum(count.bytes_fetched for count in by_source),
            release=release,
            by_project=by_project,
            by_source=by_source,
            runs=runs,
            excluded=excluded,
        )

    def costs(self, source: str) -> list[tuple[int, float]]:
        """Return the bytes of each slide whose image is from the source, and its share of its run.

        That is the seconds of the run's fetching, divided by its slides.
        """
        with self._database.reading() as connection:
            return connection.execute(
                "WITH times AS (SELECT *, CAST(strftime('%s', started) AS REAL) AS began "
                "FROM attempts), "
                "shares AS (SELECT run, (max(began + seconds) - min(began)) "
                "/ count(DISTINCT file_name) AS seconds FROM times GROUP BY run) "
                "SELECT sum(attempts.bytes), max(shares.seconds) FROM attempts "
                "JOIN images USING (file_name) JOIN shares USING (run) "
                "WHERE attempts.source = ? AND images.source = ? GROUP BY file_name",
                (source, source),
            ).fetchall()

    def show(self, name: str) -> dict[str, object]:
        """Return all that is known of one slide and its image.

        The columns are those of the view `mirror` for a sampled slide, else of `slides`, and
        the labels. `former_ids`, `changes` and `tries` follow, as lists, the oldest first. An
        excluded slide has `excluded_by`, `excluded_at` and `reason` before them.

        name: see `names.find_slides`. Raises UsageError if no slide has it, or several have.
        """
        with self._database.reading() as connection:
            file_name = _file_name(connection, name.strip())

            def rows(columns: str, tables: str, order: str = "") -> list[dict[str, Value]]:
                sql = f"SELECT {columns} FROM {tables} WHERE file_name = ? {order}"
                return dicts(connection, sql, file_name)

            (listed,) = rows("*", "slides")
            for sampled in rows("*", "mirror"):
                listed = {**sampled, "md5": listed["md5"], "size": listed["size"]}
            with_labels = (
                "slides LEFT JOIN tissue USING (file_name) LEFT JOIN cases USING (case_barcode)"
            )
            (labels,) = rows(", ".join(COLUMNS), with_labels)
            for excluded in rows("reason, excluded_by, excluded_at", "exclusions"):
                labels |= excluded
            former = [row["file_id"] for row in rows("file_id", "former_ids", "ORDER BY rowid")]
            tries = "run, source, started, seconds, bytes, requests, fault, message"
            return {
                **listed,
                **labels,
                "former_ids": former,
                "changes": rows("release, what, detail", "changes", "ORDER BY change"),
                "tries": rows(tries, "attempts", "ORDER BY attempt"),
            }

    def find_slides(self, name: str) -> list[Slide]:
        """Return the slides of a name, as `show` takes it; of a case these may be several."""
        columns = ", ".join(SLIDE_COLUMNS)
        sql = f"SELECT {columns} FROM slides WHERE file_name = ?"
        with self._database.reading() as connection:
            names = find_slides(connection, name.strip())
            return [slide_of(row) for each in names for row in connection.execute(sql, (each,))]

    def query(self, sql: str, *, bound_memory: bool = True) -> QueryResult:
        """Run one reading statement on a connection of its own, closed after the last row.

        bound_memory: whether to bound SQLite's memory, for good and in the whole process.

        Raises, also while rows are read:
            BadQuery: SQL that is wrong or would write.
            NoMemory: the query needs more than MOST_QUERY_BYTES.
        """
        path = self._database.path
        with translate_errors(path):
            connection = connect(path, read_only=True)
        connection.execute("PRAGMA query_only = 1")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_VALUE_BYTES)
        if bound_memory:
            connection.execute(f"PRAGMA hard_heap_limit = {MOST_QUERY_BYTES}")
        connection.set_authorizer(_authorize)
        # Python handles Ctrl-C only between its own instructions. A long query runs no others.
        connection.set_progress_handler(lambda: 0, _STEPS_BETWEEN_SIGNALS)
        rows = _rows(path, connection, sql, bound_memory=bound_memory)
        columns = next(rows)
        return QueryResult(columns=tuple(map(str, columns)), rows=rows)

    def merges(self, since: str | None = None) -> list[MergedListing]:
        """Return the listings merged, the oldest first.

        since: only those after the first of this release. Raises UsageError if none is of it.
        """
        with self._database.reading() as connection:
            after = 0 if since is None else _merge_number(connection, since)
            rows = connection.execute(
                f"SELECT merge, release, merged_at, listed, {', '.join(COUNTS)} FROM releases "
                "WHERE merge > ? ORDER BY merge",
                (after,),
            )
            return [
                MergedListing(
                    merge,
                    release,
                    merged_at,
                    listed,
                    {what: count for what, count in zip(COUNTS, counts, strict=True) if count},
                )
                for merge, release, merged_at, listed, *counts in rows
            ]

    def changes(self, merge: int) -> list[Change]:
        """Return what the listing of that number changed, in its order."""
        sql = "SELECT what, file_name, detail FROM changes WHERE merge = ? ORDER BY change"
        with self._database.reading() as connection:
            return [Change(*row) for row in connection.execute(sql, (merge,))]


def _by_project(connection: sqlite3.Connection) -> tuple[ProjectCounts, ...]:
    """Return the sample by project, slides without one last.

    Reading both indexes in their own order is several times faster than SQLite's own plan.
    """
    rows = connection.execute(
        "SELECT project_id, count(*), count(*) FILTER (WHERE status = 'done'), "
        "count(*) FILTER (WHERE status = 'failed'), coalesce(sum(bytes), 0), "
        "count(*) FILTER (WHERE status = 'excluded') FROM slides INDEXED BY slides_by_project "
        "CROSS JOIN images INDEXED BY images_by_name USING (file_name) "
        "GROUP BY project_id"
    )
    counts = (ProjectCounts(*row) for row in rows)
    return tuple(sorted(counts, key=lambda count: count.project is None))


def _by_source(connection: sqlite3.Connection) -> tuple[SourceCounts, ...]:
    sql = (
        "SELECT :source, (SELECT count(*) FROM images WHERE source = :source), count(*), "
        "coalesce(sum(bytes), 0), coalesce(sum(seconds), 0.0) FROM attempts WHERE source = :source"
    )
    rows = (connection.execute(sql, {"source": source}).fetchone() for source in SOURCES)
    counts = (SourceCounts(*row) for row in rows)
    # Images that `rebuild` found have no attempts.
    return tuple(count for count in counts if count.images or count.tries)


def _file_name(connection: sqlite3.Connection, name: str) -> str:
    """Return the file name of the one slide that a name means. Raises UsageError."""
    found = find_slides(connection, name)
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise UsageError(
            f"{name}: it has {len(found)} slides. Name one of {', '.join(found[:MOST_NAMED])}{more}"
        )
    raise UsageError(
        f"{name!r}: there is no slide of that name. Name a file_id, barcode, file name or image"
    )


def _rows(
    path: Path, connection: sqlite3.Connection, sql: str, *, bound_memory: bool
) -> Iterator[tuple[Cell, ...]]:
    """Yield the columns' names, then the rows."""
    try:
        cursor = connection.execute(sql)
        if cursor.description is None:
            raise BadQuery(
                "no query was given. Try: select status, count(*) from mirror group by 1"
            )
        yield tuple(column[0] for column in cursor.description)
        yield from cursor
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        # sqlite3.Warning: two statements. ValueError: NUL characters or lone surrogates.
        raise _refusal(path, error) from error
    except MemoryError as error:
        if not bound_memory:
            raise
        raise NoMemory(
            f"not enough memory: a query may use {MOST_QUERY_BYTES // 1_000_000} MB. "
            "Select fewer or shorter values"
        ) from error
    finally:
        connection.close()


def _refusal(path: Path, error: Exception) -> BaseException:
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_INTERRUPT:
        return KeyboardInterrupt()
    if code & 0xFF in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY):
        return BadQuery(f"query only reads: what would write or attach is refused ({error})")
    own = translation(path, error, code) if isinstance(error, sqlite3.Error) else None
    lacks, _, name = str(error).partition(": ")
    hint = ""
    if lacks in ("no such column", "no such table"):
        hint = f". To list all: {command_line('query --schema', path.parent)}"
    if lacks == "no such column":
        hint = f". For text write '{name}', in single quotes{hint}"
    return own or BadQuery(f"SQLite cannot run this query: {error}{hint}")


def _authorize(
    action: int, first: str | None, second: str | None, _database: str | None, _by: str | None
) -> int:
    if action in _ACTIONS and second != "load_extension":
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _PRAGMAS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_UPDATE and first == "sqlite_master":
        # Of pragma_table_info and the like, when SQLite declares them; it refuses any other.
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _merge_number(connection: sqlite3.Connection, since: str) -> int:
    known = connection.execute("SELECT merge, release FROM releases ORDER BY merge").fetchall()
    for merge, release in known:
        if is_release_name(str(release), since):
            return int(merge)
    names = ", ".join(dict.fromkeys(str(release) for _, release in known)) or "none yet"
    raise UsageError(f"{since}: no release of that name was merged. There are: {names}")


def is_release_name(release: str, name: str) -> bool:
    """Return whether `name`, as a person writes it, means the release.

    >>> full = "Data Release 45.0 - December 04, 2025"
    >>> [is_release_name(full, name) for name in ("45", "45.0", "release 45", full, "4", "45.1")]
    [True, True, True, True, False, False]
    >>> is_release_name("manifest luad.txt", "luad.txt")
    True
    """
    given = name.strip()
    if given.lower() in (release.lower(), release.lower().removeprefix("manifest ")):
        return True
    numbers = _RELEASE.fullmatch(release), _RELEASE.fullmatch(given)
    return None not in numbers and len({number[1] for number in numbers if number}) == 1
