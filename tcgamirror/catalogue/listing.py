"""A new listing into the catalogue: what was added, changed, renamed, withdrawn.

Whole listings are compared, by file name and md5, because file_ids and md5
change between data releases while the name stays. Nothing is ever deleted.

No listing is held in memory: it goes to a temporary table as it comes. There it
is sorted by name, as the catalogue is written, so that both are compared page by
page, and only what differs is written in full.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from operator import attrgetter
from typing import Any, NamedTuple

from tcgamirror.catalogue.database import Part, transaction
from tcgamirror.catalogue.images import REQUEUE
from tcgamirror.model.errors import ListingShrunk
from tcgamirror.model.slide import Kind, Listing, Slide, Upstream
from tcgamirror.model.text import timestamp

SLIDE_COLUMNS = tuple(field.name for field in fields(Slide))

MOST_LOST_PERCENT = 10
"""A listing that lacks more of the slides listed before is not believed."""

FEW = 20
MOST_LOST_PERCENT_OF_FEW = 50
"""Of fewer slides than that, a tenth is one or two, which anyone may leave out of a manifest."""

_OTHERS = tuple(name for name in SLIDE_COLUMNS if name != "file_name")
_COLUMNS = ", ".join(("file_name", *_OTHERS))
_LASTING = tuple(name for name in _OTHERS if name not in ("file_id", "md5", "size"))
"""What stays known of a slide though a later listing does not tell it."""

# Both md5 known: they decide. Otherwise both sizes known: they do. Otherwise nothing
# says that the file is another one.
_DIFFERS = "coalesce({old}.md5 <> {new}.md5, {old}.size <> {new}.size, 0)"
_LISTED = "upstream IN ('current', 'changed')"


@dataclass(frozen=True, slots=True)
class Merged:
    """What a listing brought, in slides.

    added: listed for the first time. changed: another file under the same
    name. reidentified: the same file under another file_id. superseded: no
    longer listed, and the GDC names another file in its place. withdrawn: no
    longer listed. returned: listed again after either (and counted as changed
    or reidentified too where it came back so). unchanged: none of these.
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


@dataclass(frozen=True, slots=True)
class ListingStream:
    """A listing that is read as it comes. slides: in its order, to be gone through once."""

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
        with self._database.reading() as connection:
            (count,) = connection.execute("SELECT coalesce(max(merge), 0) FROM releases").fetchone()
        return int(count)

    def merge(
        self,
        listing: Listing | ListingStream,
        now: float,
        *,
        accept_shrink: bool = False,
        successors_of: Callable[[list[str]], Mapping[str, str]] | None = None,
    ) -> Merged:
        """Merge a new listing once all of it has been read, and return what it changed.

        A slide whose file changed becomes pending again. A listing of the release merged
        last that changes nothing is not recorded.

        Args:
            now: seconds since the epoch.
            successors_of: returns the newest file_ids, as far as they are known, of old ones
                that are no longer listed.

        Raises:
            ListingShrunk: if it lacks too many slides, unless accept_shrink.
        """
        with (
            self._database.reading() as connection,
            arriving(connection, listing.release, listing.slides) as arrived,
        ):
            if not accept_shrink:
                arrived.refuse_if_shrunken()
            lost = [] if successors_of is None else arrived.lost()
            successors = successors_of(lost) if successors_of and lost else {}
            with transaction(connection):
                return arrived.merge(now, successors)

    def adopt(self, slides: Sequence[Slide], upstream: Upstream) -> None:
        """Add slides that no listing has, after those that are listed."""
        columns = ", ".join(SLIDE_COLUMNS)
        marks = ", ".join("?" * (len(SLIDE_COLUMNS) + 3))
        with self._database.change() as connection:
            (last,) = connection.execute("SELECT coalesce(max(position), 0) FROM slides").fetchone()
            connection.executemany(
                f"INSERT INTO slides ({columns}, position, upstream, listed_in) VALUES ({marks}) "
                "ON CONFLICT (file_name) DO NOTHING",
                (
                    (*astuple(slide), position, upstream, slide.data_release or "unknown")
                    for position, slide in enumerate(slides, start=last + 1)
                ),
            )


def last_release(connection: sqlite3.Connection) -> str | None:
    """Return the release of the listing merged last."""
    row = connection.execute("SELECT release FROM releases ORDER BY merge DESC LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def slide_of(values: Iterable[Any]) -> Slide:
    """Return the slide of a row of SLIDE_COLUMNS."""
    row = dict(zip(SLIDE_COLUMNS, values, strict=True))
    return Slide(**{**row, "kind": None if row["kind"] is None else Kind(row["kind"])})


class _Twin(NamedTuple):
    """One of several slides of one name. position: its place in the listing."""

    position: int
    file_name: str
    file_id: str
    updated: str | None
    version: str | None

    @property
    def age(self) -> tuple[str, int]:
        version = self.version or ""
        return self.updated or "", int(version) if version.isascii() and version.isdigit() else 0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A whole listing in temporary tables, ready to be taken over.

    older: the slides that a newer one of the same name stands for; its table
    `incoming` has the others. `unlisted` has the names of the catalogue's slides
    that it lacks, and `compared` what is new about those that differ, both by name.
    """

    connection: sqlite3.Connection
    release: str
    older: tuple[_Twin, ...]

    def refuse_if_shrunken(self) -> None:
        """Raises ListingShrunk if it lacks too many of the slides listed before."""
        (listed,) = self.connection.execute(
            f"SELECT count(*) FROM slides WHERE {_LISTED}"
        ).fetchone()
        (lost,) = self.connection.execute(
            "SELECT count(*) FROM temp.unlisted CROSS JOIN slides USING (file_name) "
            f"WHERE {_LISTED}"
        ).fetchone()
        most = MOST_LOST_PERCENT if listed >= FEW else MOST_LOST_PERCENT_OF_FEW
        if lost * 100 > listed * most:
            raise ListingShrunk(
                f"{self.release} lacks {lost} of the {listed} slides listed so far, which looks "
                "like a part of it alone; if it is all there is, take it as it is by "
                "--accept-shrink"
            )

    def lost(self) -> list[str]:
        """Last file_ids of the slides it lacks, but for those known to be superseded.

        Slides withdrawn earlier are among them: what stands for them may have come later.
        """
        rows = self.connection.execute(
            "SELECT file_id FROM temp.unlisted CROSS JOIN slides USING (file_name) "
            "WHERE upstream <> 'superseded' ORDER BY position"
        )
        return [file_id for (file_id,) in rows]

    def merge(self, now: float, successors: Mapping[str, str]) -> Merged:
        """Takes it over within the transaction that is open.

        now: seconds since the epoch. successors: the newest file_id of old ones.
        """
        connection = self.connection
        _compare(connection)
        added, changed, reidentified, returned, differing = connection.execute(
            "SELECT total(added), total(changed), total(reidentified), total(returned), "
            "total(added OR changed OR reidentified OR returned) FROM temp.compared"
        ).fetchone()
        (listed,) = connection.execute("SELECT count(*) FROM temp.incoming").fetchone()
        _apply(connection, self.release)
        notes = _Notes(connection, self.release)
        superseded = _supersede(notes, successors)
        withdrawn = _withdraw(notes)
        _note(notes)
        _note_duplicates(notes, self.older)
        # Quicker for every row than for those that were the same.
        connection.execute(f"UPDATE slides SET listed_in = ? WHERE +{_LISTED}", (self.release,))
        _put_back(connection)
        merged = Merged(
            added=int(added),
            changed=int(changed),
            reidentified=int(reidentified),
            superseded=superseded,
            withdrawn=withdrawn,
            returned=int(returned),
            unchanged=listed - int(differing),
            duplicates=len(self.older),
        )
        # The same listing read again is no event.
        if notes.count or notes.is_new_release:
            _record(notes, now, listed, merged)
        return merged


@contextmanager
def arriving(
    connection: sqlite3.Connection, release: str, slides: Iterable[Slide]
) -> Iterator[Arrived]:
    """The listing, once all of it has come; outside of any transaction, as that may take long.

    slides: in listing order, gone through once. What that raises is passed on.
    """
    try:
        _load(connection, slides)
        with transaction(connection, writes=False):
            older = _without_twins(connection)
            connection.execute("CREATE TEMP TABLE unlisted (file_name PRIMARY KEY) WITHOUT ROWID")
            # Two indexes side by side: no name is looked up.
            connection.execute(
                "INSERT INTO temp.unlisted "
                "SELECT file_name FROM slides EXCEPT SELECT file_name FROM temp.incoming ORDER BY 1"
            )
        yield Arrived(connection, release, tuple(older))
    finally:
        for table in ("incoming", "unlisted", "compared"):
            connection.execute(f"DROP TABLE IF EXISTS temp.{table}")


def _load(connection: sqlite3.Connection, slides: Iterable[Slide]) -> None:
    """Fills the table `incoming`, which has all that it holds in its index by name too."""
    marks = ", ".join("?" * len(SLIDE_COLUMNS))
    connection.execute(f"CREATE TEMP TABLE incoming (position INTEGER PRIMARY KEY, {_COLUMNS})")
    with transaction(connection, writes=False):
        connection.executemany(
            f"INSERT INTO temp.incoming ({_COLUMNS}) VALUES ({marks})",
            map(attrgetter("file_name", *_OTHERS), slides),
        )
        connection.execute(f"CREATE INDEX temp.incoming_by_name ON incoming ({_COLUMNS})")


def _without_twins(connection: sqlite3.Connection) -> list[_Twin]:
    """Leaves the newest slide of each name, at the place of the first; the others, as they came."""
    rows = connection.execute(
        "SELECT position, file_name, file_id, updated, version FROM temp.incoming WHERE file_name "
        "IN (SELECT file_name FROM temp.incoming GROUP BY file_name HAVING count(*) > 1) "
        "ORDER BY position"
    )
    first: dict[str, int] = {}
    newest: dict[str, _Twin] = {}
    older: list[_Twin] = []
    for twin in map(_Twin._make, rows):
        first.setdefault(twin.file_name, twin.position)
        other = newest.setdefault(twin.file_name, twin)
        if other is twin:
            continue
        if twin.age >= other.age:
            newest[twin.file_name], twin = twin, other
        older.append(twin)
    connection.executemany(
        "DELETE FROM temp.incoming WHERE position = ?", ((twin.position,) for twin in older)
    )
    connection.executemany(
        "UPDATE temp.incoming SET position = ? WHERE position = ?",
        ((first[name], twin.position) for name, twin in newest.items()),
    )
    return older


class _Notes:
    """The changes of one merge, each noted with its number and release.

    count: of those noted so far. is_new_release: whether another one was merged before it.
    """

    def __init__(self, connection: sqlite3.Connection, release: str) -> None:
        self.connection = connection
        self.release = release
        row = connection.execute("SELECT coalesce(max(merge), 0) + 1 FROM releases").fetchone()
        self.merge = int(row[0])
        self.is_new_release = release != last_release(connection)
        self.count = 0

    def note(self, what: str, rows: str, detail: str = "NULL", **parameters: object) -> int:
        """A change for each of `rows`, which is SQL from FROM on; how many there were."""
        noted = self.connection.execute(
            "INSERT INTO changes (merge, release, what, file_name, detail) "
            f"SELECT :merge, :release, :what, file_name, {detail} {rows} ORDER BY position",
            {"merge": self.merge, "release": self.release, "what": what, **parameters},
        )
        self.count += noted.rowcount
        return noted.rowcount


def _compare(connection: sqlite3.Connection) -> None:
    """Tells what is new about each slide that differs at all, before anything is applied."""
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
    """Has the catalogue list what the listing does, but for the release of what is the same."""
    differs = _DIFFERS.format(old="slides", new="excluded")
    # What a manifest does not tell stays as an earlier listing told it, except of a changed file.
    connection.execute(
        f"""
        INSERT INTO slides ({_COLUMNS}, position, listed_in)
        SELECT {_COLUMNS}, new.position, ? FROM temp.compared
        CROSS JOIN temp.incoming AS new INDEXED BY incoming_by_name USING (file_name)
        WHERE true ORDER BY file_name
        ON CONFLICT (file_name) DO UPDATE SET
            {", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in _LASTING)},
            md5 = CASE WHEN {differs} THEN excluded.md5 ELSE coalesce(excluded.md5, md5) END,
            size = CASE WHEN {differs} THEN excluded.size ELSE coalesce(excluded.size, size) END,
            file_id = excluded.file_id,
            position = excluded.position,
            listed_in = excluded.listed_in,
            upstream = CASE WHEN {differs} OR upstream = 'changed' THEN 'changed' ELSE 'current' END
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


def _supersede(notes: _Notes, successors: Mapping[str, str]) -> int:
    """Marks slides in whose place the GDC names another file, also if they were withdrawn."""
    connection = notes.connection
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
    count = notes.note(
        "superseded",
        f"FROM temp.successors CROSS JOIN slides ON slides.file_id = old_id WHERE {gone}",
        f"'by ' || new_id || coalesce(' ' || ({name}), '')",
    )
    connection.execute(
        "UPDATE slides SET upstream = 'superseded' "
        f"WHERE file_id IN (SELECT old_id FROM temp.successors) AND {gone}"
    )
    connection.execute("DROP TABLE temp.successors")
    return count


def _withdraw(notes: _Notes) -> int:
    """Marks all other slides that are no longer listed."""
    gone = f"file_name IN temp.unlisted AND +{_LISTED}"
    count = notes.note("withdrawn", f"FROM slides WHERE {gone}", "'last listed in ' || listed_in")
    notes.connection.execute(f"UPDATE slides SET upstream = 'withdrawn' WHERE {gone}")
    return count


def _note(notes: _Notes) -> None:
    """Notes what came of the slides that are listed."""
    compared = "FROM temp.compared WHERE"
    notes.note("returned", f"{compared} returned")
    notes.note("changed", f"{compared} changed", "difference")
    notes.note("re-identified", f"{compared} reidentified", "old_id || ' to ' || new_id")
    notes.note("added", f"{compared} added")


def _put_back(connection: sqlite3.Connection) -> None:
    """Has images fetched again whose slides changed, and says when failed ones are tried again."""
    connection.execute(
        f"{REQUEUE} file_name IN (SELECT file_name FROM temp.compared WHERE changed)"
    )
    # What could not be had under its old file_id, or while it was withdrawn, may be had now;
    # what is no longer listed is probably gone.
    connection.execute(
        f"{REQUEUE} +status = 'failed' AND file_name IN "
        "(SELECT file_name FROM temp.compared WHERE reidentified OR returned)"
    )
    connection.execute(
        "UPDATE images SET retry_at = NULL "
        "WHERE +status = 'failed' AND file_name IN temp.unlisted AND file_name IN "
        "(SELECT file_name FROM slides WHERE upstream IN ('superseded', 'withdrawn'))"
    )


def _note_duplicates(notes: _Notes, older: Iterable[_Twin]) -> None:
    """Notes each file_id that a newer one stands for, once, however often it is listed."""
    for slide in older:
        new = notes.connection.execute(
            "INSERT OR IGNORE INTO former_ids (file_id, file_name) VALUES (?, ?)",
            (slide.file_id, slide.file_name),
        )
        if new.rowcount:
            notes.note(
                "duplicate",
                "FROM slides WHERE file_name = :name",
                ":file_id || ' left out for a newer one'",
                name=slide.file_name,
                file_id=slide.file_id,
            )


def _record(notes: _Notes, now: float, listed: int, merged: Merged) -> None:
    counts = asdict(merged)
    del counts["unchanged"]
    notes.connection.execute(
        f"INSERT INTO releases (merge, release, merged_at, listed, {', '.join(counts)}) "
        f"VALUES (?, ?, ?, ?, {', '.join('?' * len(counts))})",
        (notes.merge, notes.release, timestamp(now), listed, *counts.values()),
    )
