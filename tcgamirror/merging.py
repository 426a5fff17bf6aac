"""A new listing into the catalogue: what was added, changed, renamed, withdrawn.

Whole listings are compared, by file name and md5, because file_ids and md5
change between data releases while the name stays. Nothing is ever deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter

from tcgamirror.database import timestamp
from tcgamirror.errors import WrongContent
from tcgamirror.model import Listing, Slide

SLIDE_COLUMNS = tuple(field.name for field in fields(Slide))

MOST_LOST_PERCENT = 10
"""A listing that lacks more of the slides listed before is not believed."""

FEW = 20
MOST_LOST_PERCENT_OF_FEW = 50
"""Of fewer slides than that, a tenth is one or two, which anyone may leave out of a manifest."""

# Both md5 known: they decide. Otherwise both sizes known: they do. Otherwise nothing
# says that the file is another one.
_DIFFERS = "coalesce({old}.md5 <> {new}.md5, {old}.size <> {new}.size, 0)"


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


def merge(
    connection: sqlite3.Connection,
    listing: Listing,
    now: float,
    *,
    accept_shrink: bool,
    successors: Mapping[str, str],
) -> Merged:
    """Merges within the transaction that is open; raises WrongContent for a listing that shrank.

    now: seconds since the epoch. successors: the newest file_id of old ones.
    """
    newest, older = _newest(listing.slides)
    _load(connection, newest.values())
    if not accept_shrink:
        _refuse_shrunken(connection, listing.release)
    _compare(connection)
    added, changed, reidentified, returned, unchanged = connection.execute(
        "SELECT total(added), total(changed), total(reidentified), total(returned), "
        "total(NOT (added OR changed OR reidentified OR returned)) FROM temp.compared"
    ).fetchone()
    notes = _Notes(connection, listing.release)
    superseded = _supersede(notes, successors)
    withdrawn = _withdraw(notes)
    _note(notes)
    _apply(notes)
    _note_duplicates(notes, older)
    merged = Merged(
        added=int(added),
        changed=int(changed),
        reidentified=int(reidentified),
        superseded=superseded,
        withdrawn=withdrawn,
        returned=int(returned),
        unchanged=int(unchanged),
        duplicates=len(older),
    )
    _record(notes, now, len(newest), merged)
    connection.execute("DROP TABLE temp.compared")
    connection.execute("DROP TABLE temp.incoming")
    return merged


def unlisted(connection: sqlite3.Connection, listing: Listing, *, accept_shrink: bool) -> list[str]:
    """Last file_ids of the slides the listing lacks, but for those known to be superseded.

    Slides withdrawn earlier are among them: what stands for them may have come
    later. Raises WrongContent for a listing that shrank, unless accept_shrink.
    """
    there = {slide.file_name for slide in listing.slides}
    rows = connection.execute(
        "SELECT file_name, file_id, upstream <> 'withdrawn' FROM slides "
        "WHERE upstream <> 'superseded' ORDER BY position"
    ).fetchall()
    if not accept_shrink:
        listed = [name for name, _, was_listed in rows if was_listed]
        lost = sum(name not in there for name in listed)
        _refuse_if_shrunken(listing.release, lost, len(listed))
    return [file_id for name, file_id, _ in rows if name not in there]


class _Notes:
    """The changes of one merge, each noted with its number and release."""

    def __init__(self, connection: sqlite3.Connection, release: str) -> None:
        self.connection = connection
        self.release = release
        row = connection.execute("SELECT coalesce(max(merge), 0) + 1 FROM releases").fetchone()
        self.merge = int(row[0])

    def note(self, what: str, rows: str, detail: str = "NULL", **parameters: object) -> int:
        """A change for each of `rows`, which is SQL from FROM on; how many there were."""
        noted = self.connection.execute(
            "INSERT INTO changes (merge, release, what, file_name, detail) "
            f"SELECT :merge, :release, :what, file_name, {detail} {rows} ORDER BY position",
            {"merge": self.merge, "release": self.release, "what": what, **parameters},
        )
        return noted.rowcount


def _newest(slides: Iterable[Slide]) -> tuple[dict[str, Slide], list[Slide]]:
    """The slide of each name, in listing order, and those that a newer one stands for."""
    newest: dict[str, Slide] = {}
    older: list[Slide] = []
    for slide in slides:
        other = newest.get(slide.file_name)
        if other is None:
            newest[slide.file_name] = slide
        elif _age(slide) >= _age(other):
            newest[slide.file_name] = slide
            older.append(other)
        else:
            older.append(slide)
    return newest, older


def _age(slide: Slide) -> tuple[str, int]:
    version = slide.version or ""
    return slide.updated or "", int(version) if version.isascii() and version.isdigit() else 0


def _load(connection: sqlite3.Connection, slides: Iterable[Slide]) -> None:
    columns = ", ".join(SLIDE_COLUMNS)
    marks = ", ".join("?" * len(SLIDE_COLUMNS))
    connection.execute(f"CREATE TEMP TABLE incoming (position INTEGER PRIMARY KEY, {columns})")
    connection.executemany(
        f"INSERT INTO temp.incoming ({columns}) VALUES ({marks})",
        map(attrgetter(*SLIDE_COLUMNS), slides),
    )
    connection.execute("CREATE UNIQUE INDEX temp.incoming_by_name ON incoming (file_name)")


def _refuse_shrunken(connection: sqlite3.Connection, release: str) -> None:
    listed, lost = connection.execute(
        "SELECT count(*), total(file_name NOT IN (SELECT file_name FROM temp.incoming)) "
        "FROM slides WHERE upstream IN ('current', 'changed')"
    ).fetchone()
    _refuse_if_shrunken(release, int(lost), listed)


def _refuse_if_shrunken(release: str, lost: int, listed: int) -> None:
    most = MOST_LOST_PERCENT if listed >= FEW else MOST_LOST_PERCENT_OF_FEW
    if lost * 100 > listed * most:
        raise WrongContent(
            f"{release} lacks {lost} of the {listed} slides listed so far, which looks like a part "
            "of it alone; if it is all there is, take it as it is by --accept-shrink"
        )


def _compare(connection: sqlite3.Connection) -> None:
    differs = _DIFFERS.format(old="old", new="new")
    connection.execute(
        f"""
        CREATE TEMP TABLE compared AS
        SELECT
            new.position,
            new.file_name,
            old.file_id AS old_id,
            new.file_id AS new_id,
            old.file_name IS NULL AS added,
            old.file_name IS NOT NULL AND {differs} AS changed,
            old.file_id <> new.file_id AND NOT {differs} AS reidentified,
            coalesce(old.upstream IN ('superseded', 'withdrawn'), 0) AS returned,
            CASE WHEN old.md5 <> new.md5 THEN 'md5 ' || old.md5 || ' to ' || new.md5
                ELSE 'size ' || old.size || ' to ' || new.size END AS difference
        FROM temp.incoming AS new LEFT JOIN slides AS old USING (file_name)
        """
    )


_UNLISTED = "file_name NOT IN (SELECT file_name FROM temp.incoming)"


def _supersede(notes: _Notes, successors: Mapping[str, str]) -> int:
    """Marks slides in whose place the GDC names another file, also if they were withdrawn."""
    connection = notes.connection
    connection.execute("CREATE TEMP TABLE successors (old_id PRIMARY KEY, new_id)")
    connection.executemany(
        "INSERT INTO temp.successors VALUES (?, ?)",
        ((old, new) for old, new in successors.items() if old != new),
    )
    gone = f"upstream <> 'superseded' AND {_UNLISTED}"
    count = notes.note(
        "superseded",
        "FROM slides JOIN temp.successors ON old_id = slides.file_id "
        "LEFT JOIN (SELECT file_id AS listed_id, file_name AS listed_name FROM temp.incoming) "
        f"ON listed_id = new_id WHERE {gone}",
        "'by ' || new_id || coalesce(' ' || listed_name, '')",
    )
    connection.execute(
        "UPDATE slides SET upstream = 'superseded' "
        f"WHERE file_id IN (SELECT old_id FROM temp.successors) AND {gone}"
    )
    connection.execute("DROP TABLE temp.successors")
    return count


def _withdraw(notes: _Notes) -> int:
    """Marks all other slides that are no longer listed."""
    gone = f"upstream IN ('current', 'changed') AND {_UNLISTED}"
    count = notes.note("withdrawn", f"FROM slides WHERE {gone}", "'last listed in ' || listed_in")
    notes.connection.execute(f"UPDATE slides SET upstream = 'withdrawn' WHERE {gone}")
    return count


def _note(notes: _Notes) -> None:
    """Notes what came of the slides that are listed, as compared before anything is applied."""
    compared = "FROM temp.compared WHERE"
    notes.note("returned", f"{compared} returned")
    notes.note("changed", f"{compared} changed", "difference")
    notes.note("re-identified", f"{compared} reidentified", "old_id || ' to ' || new_id")


def _apply(notes: _Notes) -> None:
    connection = notes.connection
    differs = _DIFFERS.format(old="slides", new="excluded")
    known = [name for name in SLIDE_COLUMNS if name not in ("file_name", "file_id", "md5", "size")]
    columns = ", ".join(("position", *SLIDE_COLUMNS))
    connection.execute(
        "INSERT OR IGNORE INTO former_ids (file_id, file_name) "
        "SELECT old_id, file_name FROM temp.compared WHERE old_id <> new_id"
    )
    # What a manifest does not tell stays as an earlier listing told it, except of a changed file.
    connection.execute(
        f"""
        INSERT INTO slides ({columns}, listed_in)
        SELECT {columns}, ? FROM temp.incoming WHERE true ORDER BY position
        ON CONFLICT (file_name) DO UPDATE SET
            {", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in known)},
            md5 = CASE WHEN {differs} THEN excluded.md5 ELSE coalesce(excluded.md5, md5) END,
            size = CASE WHEN {differs} THEN excluded.size ELSE coalesce(excluded.size, size) END,
            file_id = excluded.file_id,
            position = excluded.position,
            listed_in = excluded.listed_in,
            upstream = CASE WHEN {differs} OR upstream = 'changed' THEN 'changed' ELSE 'current' END
        """,
        (notes.release,),
    )
    notes.note("added", "FROM temp.compared WHERE added")
    connection.execute(
        "DELETE FROM former_ids WHERE file_id = "
        "(SELECT file_id FROM slides WHERE slides.file_name = former_ids.file_name)"
    )
    connection.execute(
        "UPDATE images SET status = 'pending', error = NULL, failures = 0, retry_at = NULL "
        "WHERE file_name IN (SELECT file_name FROM temp.compared WHERE changed)"
    )
    # What could not be had under its old file_id, or while it was withdrawn, may be had now;
    # what is no longer listed is probably gone.
    connection.execute(
        "UPDATE images SET status = 'pending', error = NULL, failures = 0, retry_at = NULL "
        "WHERE status = 'failed' AND file_name IN "
        "(SELECT file_name FROM temp.compared WHERE reidentified OR returned)"
    )
    connection.execute(
        "UPDATE images SET retry_at = NULL WHERE status = 'failed' AND file_name IN "
        "(SELECT file_name FROM slides WHERE upstream IN ('superseded', 'withdrawn'))"
    )


def _note_duplicates(notes: _Notes, older: Iterable[Slide]) -> None:
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
    counts = {
        "added": merged.added,
        "changed": merged.changed,
        "reidentified": merged.reidentified,
        "superseded": merged.superseded,
        "withdrawn": merged.withdrawn,
        "returned": merged.returned,
        "duplicates": merged.duplicates,
    }
    notes.connection.execute(
        f"INSERT INTO releases (merge, release, merged_at, listed, {', '.join(counts)}) "
        f"VALUES (?, ?, ?, ?, {', '.join('?' * len(counts))})",
        (notes.merge, notes.release, timestamp(now), listed, *counts.values()),
    )
