"""A new listing into the catalogue: what was added, changed, renamed, withdrawn.

Whole listings are compared, by file name and md5, because file_ids and md5
change between data releases while the name stays. Nothing is ever deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter

from tcgamirror.database import timestamp
from tcgamirror.errors import WrongContent
from tcgamirror.model import Listing, Slide

SLIDE_COLUMNS = tuple(field.name for field in fields(Slide))

MOST_LOST_PERCENT = 10
"""A listing that lacks more of the slides listed before is not believed."""

# Both md5 known: they decide. Otherwise both sizes known: they do. Otherwise nothing
# says that the file is another one.
_DIFFERS = "coalesce({old}.md5 <> {new}.md5, {old}.size <> {new}.size, 0)"


@dataclass(frozen=True, slots=True)
class Merged:
    """What a listing brought, in slides.

    added: listed for the first time. changed: another file under the same
    name. reidentified: the same file under another file_id. withdrawn: no
    longer listed. returned: listed again after that (and counted as changed or
    reidentified too where it came back so). unchanged: none of these.
    duplicates: file_ids left out because a newer one has the same name.
    """

    added: int = 0
    changed: int = 0
    reidentified: int = 0
    withdrawn: int = 0
    returned: int = 0
    unchanged: int = 0
    duplicates: int = 0


def merge(
    connection: sqlite3.Connection, listing: Listing, now: float, *, accept_shrink: bool
) -> Merged:
    """Merges within the transaction that is open; raises WrongContent for a listing that shrank.

    now: seconds since the epoch.
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
    withdrawn = _withdraw(connection, listing.release)
    _note(connection, listing.release)
    _apply(connection, listing.release)
    _note_duplicates(connection, listing.release, older)
    merged = Merged(
        added=int(added),
        changed=int(changed),
        reidentified=int(reidentified),
        withdrawn=withdrawn,
        returned=int(returned),
        unchanged=int(unchanged),
        duplicates=len(older),
    )
    _record(connection, listing.release, now, len(newest), merged)
    connection.execute("DROP TABLE temp.compared")
    connection.execute("DROP TABLE temp.incoming")
    return merged


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
    if lost * 100 > listed * MOST_LOST_PERCENT:
        raise WrongContent(
            f"{release} lacks {int(lost)} of the {listed} slides listed so far, which looks "
            "like half an answer; try again later"
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


def _withdraw(connection: sqlite3.Connection, release: str) -> int:
    gone = (
        "FROM slides WHERE upstream IN ('current', 'changed') "
        "AND file_name NOT IN (SELECT file_name FROM temp.incoming)"
    )
    connection.execute(
        "INSERT INTO changes (release, file_name, what, detail) "
        "SELECT ?, file_name, 'withdrawn', 'last listed in ' || listed_in "
        f"{gone} ORDER BY position",
        (release,),
    )
    changed = connection.execute(
        f"UPDATE slides SET upstream = 'withdrawn' WHERE file_name IN (SELECT file_name {gone})"
    )
    return changed.rowcount


def _note(connection: sqlite3.Connection, release: str) -> None:
    for what, detail, where in (
        ("returned", "NULL", "returned"),
        ("changed", "difference", "changed"),
        ("re-identified", "old_id || ' to ' || new_id", "reidentified"),
    ):
        connection.execute(
            "INSERT INTO changes (release, file_name, what, detail) "
            f"SELECT ?, file_name, ?, {detail} FROM temp.compared WHERE {where} ORDER BY position",
            (release, what),
        )


def _apply(connection: sqlite3.Connection, release: str) -> None:
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
        (release,),
    )
    connection.execute(
        "INSERT INTO changes (release, file_name, what) "
        "SELECT ?, file_name, 'added' FROM temp.compared WHERE added ORDER BY position",
        (release,),
    )
    connection.execute(
        "DELETE FROM former_ids WHERE file_id = "
        "(SELECT file_id FROM slides WHERE slides.file_name = former_ids.file_name)"
    )
    connection.execute(
        "UPDATE images SET status = 'pending', error = NULL "
        "WHERE file_name IN (SELECT file_name FROM temp.compared WHERE changed)"
    )


def _note_duplicates(connection: sqlite3.Connection, release: str, older: Iterable[Slide]) -> None:
    """Notes each file_id that a newer one stands for, once, however often it is listed."""
    for slide in older:
        new = connection.execute(
            "INSERT OR IGNORE INTO former_ids (file_id, file_name) VALUES (?, ?)",
            (slide.file_id, slide.file_name),
        )
        if new.rowcount:
            connection.execute(
                "INSERT INTO changes (release, file_name, what, detail) "
                "VALUES (?, ?, 'duplicate', ?)",
                (release, slide.file_name, f"{slide.file_id} left out for a newer one"),
            )


def _record(
    connection: sqlite3.Connection, release: str, now: float, listed: int, merged: Merged
) -> None:
    connection.execute(
        "INSERT INTO releases (release, merged_at, listed, added, changed, reidentified, "
        "withdrawn, returned, duplicates) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            release,
            timestamp(now),
            listed,
            merged.added,
            merged.changed,
            merged.reidentified,
            merged.withdrawn,
            merged.returned,
            merged.duplicates,
        ),
    )
