"""The listing of slides, and the merge of a newer one: added, changed, withdrawn slides.

Whole listings are compared by file name, then by md5 or size. The name of a slide stays, while
its file_id, md5 and size may change with a data release. No slide is ever deleted.

A new listing is streamed to a temporary table and sorted there by file name, which is the
order of the catalogue's rows. Both are then read side by side, and only the rows that differ
are written in full.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import Any

from tcgamirror.catalogue.database import Part, Row, insert, tables, transaction
from tcgamirror.catalogue.images import CHANGE_IS_LOGGED, OUTDATED, REQUEUE
from tcgamirror.model.errors import ListingShrunk
from tcgamirror.model.slide import Kind, Listing, Slide, Upstream
from tcgamirror.model.text import timestamp

SLIDE_COLUMNS = tuple(field.name for field in fields(Slide))

MOST_LOST_PERCENT = 10
"""A listing that lacks more of the slides listed before is refused as incomplete."""

FEW = 20
MOST_LOST_PERCENT_OF_FEW = 50
"""The same for fewer than FEW slides, of which a manifest may well drop one or two."""

_OTHERS = tuple(name for name in SLIDE_COLUMNS if name != "file_name")
_COLUMNS = ", ".join(("file_name", *_OTHERS))
_KEPT_COLUMNS = tuple(name for name in _OTHERS if name not in ("file_id", "md5", "size"))
"""Columns that keep their value if a later listing has none."""

_DESCRIPTION_COLUMNS = (
    *("kind", "project_id", "primary_site", "disease_type", "sample_type"),
    *("case_barcode", "slide_barcode"),
)
"""Columns that a manifest lacks or tells by the file name alone."""

# Two known md5 decide whether a file changed, else two known sizes. Otherwise it is the same.
_DIFFERS = "coalesce({old}.md5 <> {new}.md5, {old}.size <> {new}.size, 0)"
_LISTED = "upstream IN ('current', 'changed')"


@dataclass(frozen=True, slots=True)
class MergeCounts:
    """Changes made by the merge of one listing, in slides.

    Attributes:
        changed: another file under the same name.
        reidentified: the same file under another file_id.
        superseded: no longer listed, and the GDC names another file in its place.
        withdrawn: no longer listed, and no other file is named.
        returned: superseded or withdrawn, and listed again; also counted as changed or
            reidentified where that holds.
        duplicates: file_ids left out because a newer one has the same name.
    """

    added: int = 0
    changed: int = 0
    reidentified: int = 0
    superseded: int = 0
    withdrawn: int = 0
    returned: int = 0
    unchanged: int = 0
    duplicates: int = 0


COUNTS = tuple(field.name for field in fields(MergeCounts) if field.name != "unchanged")
"""Counts that the table `releases` keeps."""


@dataclass(frozen=True, slots=True)
class ListingStream:
    """A listing whose slides, in its order, can be iterated over once."""

    release: str
    slides: Iterable[Slide]


class SlideListing(Part):
    """The slides that were ever listed, and what each new listing changes."""

    def release(self) -> str | None:
        """Return the data release of the listing merged last."""
        with self._database.reading() as connection:
            return last_release(connection)

    def count_merges(self) -> int:
        """Return how many listings have been merged so far."""
        return int(self._database.value("SELECT coalesce(max(merge), 0) FROM releases"))

    def merge(
        self,
        listing: Listing | ListingStream,
        now: float,
        *,
        accept_shrink: bool = False,
        successors_of: Callable[[list[str]], Mapping[str, str]] | None = None,
    ) -> MergeCounts:
        """Merge a new listing once all of it has been read, and return what it changed.

        A slide whose file changed becomes pending again. A listing of the release merged
        last that changes nothing is not recorded.

        successors_of: returns the newest file_ids, as far as they are known, of old ones that
        are no longer listed. Raises ListingShrunk if too many are missing, unless accept_shrink.
        """
        with (
            self._database.reading() as connection,
            stage_listing(connection, listing.release, listing.slides) as staged,
        ):
            if not accept_shrink:
                staged.check_size()
            lost = [] if successors_of is None else staged.lost_ids()
            successors = successors_of(lost) if successors_of and lost else {}
            with transaction(connection):
                return staged.merge(now, successors)

    def without_project(self) -> list[str]:
        """Return the file_ids of listed slides whose project is unknown, as a manifest's are."""
        return self._database.column(
            f"SELECT file_id FROM slides WHERE project_id IS NULL AND +{_LISTED} ORDER BY position"
        )

    def listed_ids(self) -> list[str]:
        """Return the file_ids of the listed slides, in the listing's order."""
        return self._database.column(
            f"SELECT file_id FROM slides WHERE +{_LISTED} ORDER BY position"
        )

    def complete(self, slides: Iterable[Slide]) -> None:
        """Fill in what is unknown of slides from others of the same names and file_ids."""
        known = ", ".join(f"{name} = coalesce({name}, :{name})" for name in _DESCRIPTION_COLUMNS)
        with self._database.change() as connection:
            connection.executemany(
                f"UPDATE slides SET {known} WHERE file_name = :file_name AND file_id = :file_id",
                map(asdict, slides),
            )

    def adopt(self, slides: Sequence[Slide], upstream: Upstream) -> None:
        """Add slides that no listing has, after those that are listed."""
        with self._database.change() as connection:
            (last,) = connection.execute("SELECT coalesce(max(position), 0) FROM slides").fetchone()
            rows = (
                asdict(slide)
                | {"position": position, "upstream": upstream}
                | {"listed_in": slide.data_release or "unknown"}
                for position, slide in enumerate(slides, start=last + 1)
            )
            tables(connection).table("slides").insert_all(rows, ignore=True)


def last_release(connection: sqlite3.Connection) -> str | None:
    """Return the release of the listing merged last."""
    row = connection.execute("SELECT release FROM releases ORDER BY merge DESC LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def slide_of(values: Iterable[Any]) -> Slide:
    """Return the slide of a row of SLIDE_COLUMNS."""
    row = dict(zip(SLIDE_COLUMNS, values, strict=True))
    return Slide(**{**row, "kind": None if row["kind"] is None else Kind(row["kind"])})


@contextmanager
def stage_listing(
    connection: sqlite3.Connection, release: str, slides: Iterable[Slide]
) -> Iterator[StagedListing]:
    """Yield a listing once all of it has been read, outside of any transaction."""
    try:
        yield StagedListing(connection, release, slides)
    finally:
        for table in ("incoming", "namesakes", "unlisted", "compared", "successors"):
            connection.execute(f"DROP TABLE IF EXISTS temp.{table}")


class StagedListing:
    """A whole listing in temporary tables, ready to be merged.

    `incoming` has its slides, and `namesakes` all that share a name: the newest, of age 1, stays.
    `unlisted` has the names of the catalogue's slides that it lacks. `compared` has a row for
    each slide that differs.
    """

    def __init__(
        self, connection: sqlite3.Connection, release: str, slides: Iterable[Slide]
    ) -> None:
        self._connection = connection
        self._release = release
        (merge,) = connection.execute("SELECT coalesce(max(merge), 0) + 1 FROM releases").fetchone()
        self._merge = int(merge)
        self._logged = 0
        _load(connection, slides)

    def check_size(self) -> None:
        """Raise ListingShrunk if too many of the slides listed before are missing."""
        listed = self._count(f"slides WHERE {_LISTED}")
        lost = self._count(f"temp.unlisted CROSS JOIN slides USING (file_name) WHERE {_LISTED}")
        most = MOST_LOST_PERCENT if listed >= FEW else MOST_LOST_PERCENT_OF_FEW
        if lost * 100 > listed * most:
            raise ListingShrunk(
                f"{self._release}: it lacks {lost} of the {listed} slides listed so far, as an "
                "incomplete listing does. If it is complete, accept it by --accept-shrink"
            )

    def lost_ids(self) -> list[str]:
        """Return the last file_ids of the slides it lacks, without superseded ones.

        Slides withdrawn earlier are included: their successors may be listed only now.
        """
        rows = self._connection.execute(
            "SELECT file_id FROM temp.unlisted CROSS JOIN slides USING (file_name) "
            "WHERE upstream <> 'superseded' ORDER BY position"
        )
        return [file_id for (file_id,) in rows]

    def merge(self, now: float, successors: Mapping[str, str]) -> MergeCounts:
        """Merge it within the open transaction. successors: the newest file_id by the old one."""
        connection = self._connection
        _compare(connection)
        _apply(connection, self._release)
        listed = self._count("temp.incoming")
        differing = self._count("temp.compared WHERE added OR changed OR reidentified OR returned")
        self._log_outdated()
        superseded, withdrawn = self._supersede(successors), self._withdraw()
        compared = "FROM temp.compared WHERE"
        returned = self._log("returned", f"{compared} returned")
        changed = self._log("changed", f"{compared} changed", "difference")
        reidentified = self._log(
            "re-identified", f"{compared} reidentified", "old_id || ' to ' || new_id"
        )
        added = self._log("added", f"{compared} added")
        self._log_duplicates()
        # Updating every row is faster than finding the rows that stayed the same.
        connection.execute(f"UPDATE slides SET listed_in = ? WHERE +{_LISTED}", (self._release,))
        _requeue(connection)
        merged = MergeCounts(
            added=added,
            changed=changed,
            reidentified=reidentified,
            superseded=superseded,
            withdrawn=withdrawn,
            returned=returned,
            unchanged=listed - differing,
            duplicates=self._count("temp.namesakes WHERE age > 1"),
        )
        # The same listing read again is not recorded.
        if self._logged or self._release != last_release(connection):
            row: Row = {
                "merge": self._merge,
                "release": self._release,
                "merged_at": timestamp(now),
                "listed": listed,
                **{name: getattr(merged, name) for name in COUNTS},
            }
            insert(connection, "releases", list(row), [row])
        return merged

    def _count(self, rows: str) -> int:
        """Return the number of rows. rows: SQL that follows FROM."""
        (count,) = self._connection.execute(f"SELECT count(*) FROM {rows}").fetchone()
        return int(count)

    def _log(self, what: str, rows: str, detail: str = "NULL") -> int:
        """Add a change for each of `rows`, which is SQL from FROM on; return how many."""
        added = self._connection.execute(
            "INSERT INTO changes (merge, release, what, file_name, detail) "
            f"SELECT ?, ?, ?, file_name, {detail} {rows} ORDER BY position",
            (self._merge, self._release, what),
        )
        self._logged += added.rowcount
        return added.rowcount

    def _log_outdated(self) -> None:
        """Log changes of unlisted slides that only their state tells, which it does no longer.

        A rebuild or an import finds such images of older files.
        """
        self._log(
            "changed",
            "FROM temp.unlisted CROSS JOIN slides USING (file_name) "
            "CROSS JOIN images USING (file_name) "
            f"WHERE upstream = 'changed' AND path IS NOT NULL AND NOT {CHANGE_IS_LOGGED}",
            "'its image is of an older file'",
        )

    def _supersede(self, successors: Mapping[str, str]) -> int:
        """Mark slides in whose place the GDC names another file, also withdrawn ones."""
        connection = self._connection
        connection.execute("CREATE TEMP TABLE successors (old_id PRIMARY KEY, new_id)")
        connection.executemany(
            "INSERT INTO temp.successors VALUES (?, ?)",
            ((old, new) for old, new in successors.items() if old != new),
        )
        gone = "+upstream <> 'superseded' AND file_name IN temp.unlisted"
        name = (
            "SELECT newer.file_name FROM slides AS newer "
            "WHERE newer.file_id = new_id AND newer.file_name NOT IN temp.unlisted"
        )
        count = self._log(
            "superseded",
            f"FROM temp.successors CROSS JOIN slides ON slides.file_id = old_id WHERE {gone}",
            f"'by ' || new_id || coalesce(' ' || ({name}), '')",
        )
        connection.execute(
            "UPDATE slides SET upstream = 'superseded' "
            f"WHERE file_id IN (SELECT old_id FROM temp.successors) AND {gone}"
        )
        return count

    def _withdraw(self) -> int:
        """Mark all other slides that are no longer listed."""
        gone = f"file_name IN temp.unlisted AND +{_LISTED}"
        count = self._log(
            "withdrawn", f"FROM slides WHERE {gone}", "'last listed in ' || listed_in"
        )
        self._connection.execute(f"UPDATE slides SET upstream = 'withdrawn' WHERE {gone}")
        return count

    def _log_duplicates(self) -> None:
        """Log each file_id that a newer one replaces, once, however often it is listed."""
        known = (
            "SELECT 1 FROM former_ids WHERE (file_id, file_name) = (older.file_id, older.file_name)"
        )
        new = (
            "FROM (SELECT file_id, file_name, min(position) AS position FROM temp.namesakes "
            f"AS older WHERE age > 1 AND NOT EXISTS ({known}) GROUP BY file_id, file_name)"
        )
        self._log("duplicate", new, "file_id || ' left out for a newer one'")
        self._connection.execute(
            "INSERT OR IGNORE INTO former_ids (file_id, file_name) "
            "SELECT file_id, file_name FROM temp.namesakes WHERE age > 1"
        )


def _load(connection: sqlite3.Connection, slides: Iterable[Slide]) -> None:
    """Fill `incoming`, which gets an index of all columns by name, `namesakes` and `unlisted`.

    Of several slides of one name, the newest takes the first one's position.
    """
    marks = ", ".join("?" * len(SLIDE_COLUMNS))
    connection.execute(f"CREATE TEMP TABLE incoming (position INTEGER PRIMARY KEY, {_COLUMNS})")
    with transaction(connection, writes=False):
        connection.executemany(
            f"INSERT INTO temp.incoming ({_COLUMNS}) VALUES ({marks})",
            map(attrgetter("file_name", *_OTHERS), slides),
        )
        connection.execute(f"CREATE INDEX temp.incoming_by_name ON incoming ({_COLUMNS})")
    with transaction(connection, writes=False):
        connection.execute(
            "CREATE TEMP TABLE namesakes AS SELECT position, file_name, file_id, "
            "min(position) OVER (PARTITION BY file_name) AS first, "
            "row_number() OVER (PARTITION BY file_name ORDER BY coalesce(updated, '') DESC, "
            "CAST(version AS INTEGER) DESC, position DESC) AS age FROM temp.incoming "
            "WHERE file_name IN "
            "(SELECT file_name FROM temp.incoming GROUP BY file_name HAVING count(*) > 1)"
        )
        connection.execute(
            "DELETE FROM temp.incoming WHERE position IN "
            "(SELECT position FROM temp.namesakes WHERE age > 1)"
        )
        connection.execute(
            "UPDATE temp.incoming SET position = first FROM temp.namesakes "
            "WHERE namesakes.position = incoming.position"
        )
        connection.execute("CREATE TEMP TABLE unlisted (file_name PRIMARY KEY) WITHOUT ROWID")
        # SQLite merges two indexes here, and looks up no name.
        connection.execute(
            "INSERT INTO temp.unlisted "
            "SELECT file_name FROM slides EXCEPT SELECT file_name FROM temp.incoming ORDER BY 1"
        )


def _compare(connection: sqlite3.Connection) -> None:
    """Fill the table `compared`, before any row of the catalogue is changed."""
    differs = _DIFFERS.format(old="old", new="new")
    same = " AND ".join(f"+old.{name} IS coalesce(new.{name}, old.{name})" for name in _OTHERS)
    connection.execute(
        "CREATE TEMP TABLE compared (file_name PRIMARY KEY, position, old_id, new_id, "
        "added, changed, reidentified, returned, difference) WITHOUT ROWID"
    )
    connection.execute(
        f"""
        INSERT INTO temp.compared SELECT
            new.file_name,
            new.position,
            old.file_id,
            new.file_id,
            old.file_name IS NULL AS added,
            old.file_name IS NOT NULL AND {differs} AS changed,
            old.file_id <> new.file_id AND NOT {differs},
            coalesce(old.upstream IN ('superseded', 'withdrawn'), 0) AS returned,
            CASE WHEN old.md5 <> new.md5 THEN 'md5 ' || old.md5 || ' to ' || new.md5
                ELSE 'size ' || old.size || ' to ' || new.size END
        FROM temp.incoming AS new INDEXED BY incoming_by_name
        LEFT JOIN slides AS old ON old.file_name = new.file_name
        WHERE added OR changed OR returned OR NOT ({same})
        """
    )


def _apply(connection: sqlite3.Connection, release: str) -> None:
    """Write the slides that differ, and the positions of all."""
    differs = _DIFFERS.format(old="slides", new="excluded")
    # Columns that a manifest lacks keep their values; md5 and size only if the file is the same.
    connection.execute(
        f"""
        INSERT INTO slides ({_COLUMNS}, position, listed_in)
        SELECT {_COLUMNS}, new.position, ? FROM temp.compared
        CROSS JOIN temp.incoming AS new INDEXED BY incoming_by_name USING (file_name)
        WHERE true ORDER BY file_name
        ON CONFLICT (file_name) DO UPDATE SET
            {", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in _KEPT_COLUMNS)},
            md5 = CASE WHEN {differs} THEN excluded.md5 ELSE coalesce(excluded.md5, md5) END,
            size = CASE WHEN {differs} THEN excluded.size ELSE coalesce(excluded.size, size) END,
            file_id = excluded.file_id,
            position = excluded.position,
            listed_in = excluded.listed_in,
            upstream = CASE WHEN {differs} OR {OUTDATED} THEN 'changed' ELSE 'current' END
        """,
        (release,),
    )
    connection.execute(
        "UPDATE slides SET position = new.position "
        "FROM temp.incoming AS new INDEXED BY incoming_by_name "
        "WHERE new.file_name = slides.file_name AND new.position <> slides.position"
    )
    connection.execute(
        "INSERT OR IGNORE INTO former_ids (file_id, file_name) "
        "SELECT old_id, file_name FROM temp.compared WHERE old_id <> new_id"
    )
    connection.execute(
        "DELETE FROM former_ids WHERE (file_name, file_id) IN "
        "(SELECT file_name, new_id FROM temp.compared WHERE old_id <> new_id)"
    )


def _requeue(connection: sqlite3.Connection) -> None:
    """Queue changed slides again, and failed ones that may be available now."""
    connection.execute(
        f"{REQUEUE} file_name IN (SELECT file_name FROM temp.compared WHERE changed)"
    )
    # A slide that failed under its old file_id, or while it was withdrawn, may be available now.
    connection.execute(
        f"{REQUEUE} +status = 'failed' AND file_name IN "
        "(SELECT file_name FROM temp.compared WHERE reidentified OR returned)"
    )
    # A slide that is no longer listed is probably gone.
    connection.execute(
        "UPDATE images SET retry_at = NULL "
        "WHERE +status = 'failed' AND file_name IN temp.unlisted AND file_name IN "
        "(SELECT file_name FROM slides WHERE upstream IN ('superseded', 'withdrawn'))"
    )
