"""The catalogue's SQL for carrying it elsewhere: a slide's rows out of it, others' rows into it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, cast

from tcgamirror.catalogue import database, listing
from tcgamirror.catalogue.database import Journal, transaction
from tcgamirror.model.errors import ListingShrunk
from tcgamirror.model.slide import Kind, Slide, Status, Upstream

Value = str | int | float | None
Row = Mapping[str, Value]
"""One row by column names."""

PICTURE = (
    *("source", "level", "level_downsample", "base_mpp", "mpp_source", "mpp_x", "mpp_y"),
    *("width", "height", "path", "bytes", "sha256", "fetched_at", "patched_tiles"),
)
"""Columns of `images` that tell of an image and stay while its slide is pending again."""

COURSE = ("status", "attempts", "bytes_fetched", "seconds", "error", "failures", "retry_at")
"""Columns of `images` that tell what came of the slide."""

SLIDE = (
    *("file_name", "file_id", "md5", "size", "kind", "project_id", "primary_site"),
    *("disease_type", "sample_type", "case_barcode", "slide_barcode", "state", "version"),
    *("data_release", "updated", "position", "upstream", "listed_in"),
)
RELEASE = (
    *("merge", "release", "merged_at", "listed", "added", "changed", "reidentified"),
    *("superseded", "withdrawn", "returned", "duplicates"),
)
_MERGED = ("release", "merged_at", "listed")
"""What no two listings merged share, unless one catalogue is made from the other."""

_DATA_RELEASE = re.compile(r"Data Release ([0-9]{1,6})\.([0-9]{1,6})\b")

CHANGE = ("release", "file_name", "what", "detail", "merge")
_SAMPLED = ("file_name", "rank", "sampled_at", "release")
_FRESH: Row = {**dict.fromkeys(COURSE), "status": Status.PENDING, "attempts": 0, "failures": 0}
ATTEMPT = ("source", "started", "seconds", "bytes", "requests", "fault", "message")


@dataclass(frozen=True, slots=True)
class Having:
    """What a mirror has of a sampled slide.

    md5: of the slide as it is listed. path, sha256, fetched_at: of its image,
    None if it never had one.
    """

    md5: str | None
    status: Status
    path: str | None
    sha256: str | None
    fetched_at: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """An image from elsewhere and its row. differs: of another file than is listed here."""

    row: Row
    differs: bool
    attempts: Iterable[Row]


class Theirs(Protocol):
    """Another catalogue, row by row, every value of it checked."""

    def rows(self, table: str) -> Iterator[Row]:
        """All of a table, in the order in which they were written."""

    def listed(self) -> Iterator[Row]:
        """Every slide that the last listing has, in its order."""

    def sampled(self) -> Iterator[Row]:
        """Columns of `sample` and `images` of each sampled slide, by rank."""

    def told_of_sample(self) -> Mapping[str, str]:
        """Facts that are true of exactly this sample."""


@dataclass(frozen=True, slots=True)
class SlideRows:
    """All that a catalogue says of one slide and its image, but for its history."""

    slide: Row
    former_ids: tuple[str, ...]
    image: Row


# Out of a catalogue ----------------------------------------------------------------


@contextmanager
def reading_copy(source: Path, copy: Path) -> Iterator[None]:
    """As `database.translated`, where the catalogue at `source` is read in a copy of it.

    What is damaged in the copy is so in the source. Raises Damaged for values that are none, too.
    """
    try:
        yield
    except (sqlite3.Error, ValueError) as error:
        if isinstance(error, ValueError) or database.tells_of_damage(error):
            raise database.damaged(source, error) from error
        own = database.translation(copy, error, getattr(error, "sqlite_errorcode", 0))
        if own is None:
            raise
        raise own from error


def copy_to(connection: sqlite3.Connection, source: Path, path: Path) -> None:
    """Make a consistent copy at `path`, one file without a journal, whatever others write.

    Raises Damaged, which names `source`, the connection's file, if SQLite cannot read it.
    """
    with (
        reading_copy(source, path),
        closing(sqlite3.connect(path, isolation_level=None)) as copy,
    ):
        connection.backup(copy)
        copy.execute(f"PRAGMA journal_mode = {Journal.DELETE}").fetchone()


def rows_of(connection: sqlite3.Connection, name: str) -> SlideRows | None:
    """A sampled slide's rows; None if it is not sampled."""
    slides = dicts(connection, "SELECT * FROM slides WHERE file_name = ?", name)
    images = dicts(connection, "SELECT * FROM images WHERE file_name = ?", name)
    if not slides or not images:
        return None
    former = connection.execute("SELECT file_id FROM former_ids WHERE file_name = ?", (name,))
    return SlideRows(slides[0], tuple(file_id for (file_id,) in former), images[0])


def dicts(connection: sqlite3.Connection, sql: str, *values: Value) -> list[dict[str, Value]]:
    """The rows of an answer by column names."""
    cursor = connection.execute(sql, values)
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def put_rows(connection: sqlite3.Connection, rows: SlideRows) -> None:
    """Replaces what a copy of the catalogue says of one slide."""
    put_slides(connection, [rows.slide])
    put_former_ids(
        connection, [(file_id, str(rows.slide["file_name"])) for file_id in rows.former_ids]
    )
    set_image(connection, rows.image, (*COURSE, *PICTURE))


# Into a catalogue ------------------------------------------------------------------


def take(connection: sqlite3.Connection, theirs: Theirs) -> None:
    """Takes over another catalogue's listing and sample, and leaves all images to come.

    A listing that goes on from the one here is taken over with its history. One of
    another history, as a catalogue made anew has, is merged as a refresh would merge
    it, if it is newer. Else the listing here stays, and only the sampled slides that
    it lacks are added, as ones not listed. Where nothing was sampled here, the sample
    is theirs, and what is told of theirs is told of it.
    """
    ours = dicts(connection, "SELECT * FROM releases ORDER BY merge DESC LIMIT 1")
    merged = list(theirs.rows("releases"))
    ids = [_identity(row) for row in merged]
    if not ours or _identity(ours[0]) in ids:
        last = 0 if not ours else len(ids) - ids[::-1].index(_identity(ours[0]))
        with transaction(connection):
            put_slides(connection, theirs.rows("slides"))
            _put_history(connection, theirs, merged[last:])
            _take_sample(connection, theirs)
        return
    if merged and is_newer_listing(merged[-1], ours[0]) and _merge(connection, theirs, merged[-1]):
        return
    with transaction(connection):
        _take_sample(connection, theirs)


def _identity(release: Row) -> tuple[Value, ...]:
    return tuple(release[name] for name in _MERGED)


def is_newer_listing(theirs: Row, ours: Row) -> bool:
    """Whether a listing is of a later data release, or of the same one and merged later.

    Listings of different manifests cannot be compared: none is newer.

    >>> old = {"release": "Data Release 9.2 - May 1, 2025", "merged_at": "2025-06-01T00:00:00Z"}
    >>> new = {"release": "Data Release 10.0 - May 9, 2025", "merged_at": "2025-05-10T00:00:00Z"}
    >>> is_newer_listing(new, old), is_newer_listing(old, new), is_newer_listing(old, old)
    (True, False, False)
    """
    releases = [_DATA_RELEASE.match(str(row["release"])) for row in (theirs, ours)]
    numbers = [match and tuple(map(int, match.groups())) for match in releases]
    if None in numbers and theirs["release"] != ours["release"]:
        return False
    moments = [str(row["merged_at"]) for row in (theirs, ours)]
    if numbers[0] is None or numbers[0] == numbers[1]:
        return moments[0] > moments[1]
    return bool(numbers[1] and numbers[0] > numbers[1])


def _merge(connection: sqlite3.Connection, theirs: Theirs, release: Row) -> bool:
    """Merges the listing of another history; False for a manifest's of other slides."""
    listed = map(_slide, theirs.listed())
    with listing.arriving(connection, str(release["release"]), listed) as arrived:
        try:
            if not _DATA_RELEASE.match(str(release["release"])):
                arrived.refuse_if_shrunken()
        except ListingShrunk:
            return False
        with transaction(connection):
            # By its own moment, so that what follows there is known to go on from here.
            arrived.merge(datetime.fromisoformat(str(release["merged_at"])).timestamp(), {})
            _take_sample(connection, theirs)
    return True


def _slide(row: Row) -> Slide:
    values = cast(dict[str, Any], {name: row[name] for name in listing.SLIDE_COLUMNS})
    return Slide(**{**values, "kind": None if values["kind"] is None else Kind(values["kind"])})


def _take_sample(connection: sqlite3.Connection, theirs: Theirs) -> None:
    """Adds the sampled slides of another catalogue, also those that are not listed here."""
    sampled = {row["file_name"] for row in theirs.sampled()}
    _add_unlisted(connection, (row for row in theirs.rows("slides") if row["file_name"] in sampled))
    put_former_ids(
        connection,
        ((str(row["file_id"]), str(row["file_name"])) for row in theirs.rows("former_ids")),
    )
    there = {name for (name,) in connection.execute("SELECT file_name FROM sample")}
    if not there:
        facts = [{"key": key, "value": value} for key, value in theirs.told_of_sample().items()]
        insert(connection, "facts", ("key", "value"), facts, or_replace=True)
    _add_sampled(connection, (row for row in theirs.sampled() if row["file_name"] not in there))


def put_slides(connection: sqlite3.Connection, slides: Iterable[Row]) -> None:
    """Lists slides as these rows do. An image of a file that is another one now is pending.

    Whether a slide has changed since is told of its image here, where there is one.
    """
    others = [name for name in SLIDE if name not in ("file_name", "upstream")]
    changed = (
        "UPDATE images SET status = 'pending' WHERE file_name = :file_name AND status = 'done' "
        "AND EXISTS (SELECT 1 FROM slides WHERE slides.file_name = :file_name AND md5 <> :md5)"
    )
    of_image = (
        "SELECT CASE WHEN status = 'done' THEN 'current' "
        "WHEN slides.upstream = 'changed' OR slides.md5 <> excluded.md5 THEN 'changed' END "
        "FROM images WHERE images.file_name = excluded.file_name AND path IS NOT NULL"
    )
    put = (
        f"INSERT INTO slides ({', '.join(SLIDE)}) VALUES ({_marks(SLIDE)}) "
        "ON CONFLICT (file_name) DO UPDATE SET "
        + "".join(f"{name} = excluded.{name}, " for name in others)
        + "upstream = CASE WHEN excluded.upstream IN ('current', 'changed') "
        f"THEN coalesce(({of_image}), excluded.upstream) ELSE excluded.upstream END"
    )
    for slide in slides:
        connection.execute(changed, slide)
        connection.execute(put, slide)


def put_former_ids(connection: sqlite3.Connection, pairs: Iterable[tuple[str, str]]) -> None:
    """Adds (file_id, file_name) of ids that listed slides had before."""
    connection.executemany(
        "INSERT OR IGNORE INTO former_ids (file_id, file_name) SELECT ?1, ?2 "
        "WHERE EXISTS (SELECT 1 FROM slides WHERE file_name = ?2 AND file_id <> ?1)",
        pairs,
    )


def _put_history(connection: sqlite3.Connection, theirs: Theirs, releases: Sequence[Row]) -> None:
    """Adds listings merged elsewhere after those merged here, and what each changed."""
    (last,) = connection.execute("SELECT coalesce(max(merge), 0) FROM releases").fetchone()
    numbers = {row["merge"]: number for number, row in enumerate(releases, start=last + 1)}
    for table, columns, rows in (
        ("releases", RELEASE, releases),
        ("changes", CHANGE, theirs.rows("changes")),
    ):
        insert(
            connection,
            table,
            columns,
            ({**row, "merge": numbers[row["merge"]]} for row in rows if row["merge"] in numbers),
        )


def _add_unlisted(connection: sqlite3.Connection, slides: Iterable[Row]) -> None:
    """Adds slides that the listing here does not know, and keeps what it says of those it does."""
    (last,) = connection.execute("SELECT coalesce(max(position), 0) FROM slides").fetchone()
    rows = (
        {**slide, "position": last + int(slide["position"] or 0), "upstream": "withdrawn"}
        for slide in slides
    )
    insert(connection, "slides", SLIDE, rows, or_ignore=True)


def having(connection: sqlite3.Connection) -> dict[str, Having]:
    """What there is of each sampled slide, by file name."""
    rows = connection.execute(
        "SELECT file_name, md5, status, path, sha256, fetched_at "
        "FROM images JOIN slides USING (file_name)"
    )
    return {name: Having(md5, Status(status), *image) for name, md5, status, *image in rows}


def replaces(theirs: Row, ours: Having | None) -> bool:
    """Whether an image from elsewhere takes the place of what is here of its slide.

    Any image is better than none. One whose slide is to be fetched again replaces no
    other, nor does one of another file than the one listed here, nor an older one.
    """
    if theirs["path"] is None or ours is None or ours.sha256 is None:
        return theirs["path"] is not None
    if theirs["status"] != Status.DONE or are_different(theirs["md5"], ours.md5):
        return False
    return ours.status is not Status.DONE or str(theirs["fetched_at"]) > str(ours.fetched_at)


def are_different(md5: Value, other: Value) -> bool:
    """Whether two files are known to differ."""
    return None not in (md5, other) and md5 != other


def take_images(connection: sqlite3.Connection, images: Iterable[Taken], run: int) -> None:
    """Notes images that have come. One of another file than the one listed stays pending."""
    for image in images:
        name = str(image.row["file_name"])
        row = {**image.row, "status": Status.PENDING} if image.differs else image.row
        set_image(connection, row, (*COURSE, *PICTURE))
        _add_attempts(connection, name, run, image.attempts)
        if image.differs:
            set_upstream(connection, name, Upstream.CHANGED)
        elif row["status"] == Status.DONE:
            set_upstream(connection, name, Upstream.CURRENT)
        connection.execute("UPDATE runs SET done = done + 1 WHERE run = ?", (run,))


def _add_sampled(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Samples slides as elsewhere. A rank that is taken here becomes the next free one.

    rows: of `sample` and `images`. What is done there is pending here until its image has come.
    """
    ranks = {rank for (rank,) in connection.execute("SELECT rank FROM sample")}
    last = max(ranks, default=0)
    for row in rows:
        rank = int(row["rank"] or 0)
        if rank in ranks:
            rank = last + 1
        last = max(last, rank)
        ranks.add(rank)
        waits = row["status"] == Status.DONE
        course = {**row, **_FRESH} if waits else row
        insert(connection, "sample", _SAMPLED, [{**row, "rank": rank}])
        insert(connection, "images", ("file_name", *COURSE), [course])


def set_image(connection: sqlite3.Connection, row: Row, columns: Sequence[str]) -> None:
    """Sets columns of one slide's image."""
    connection.execute(
        f"UPDATE images SET {', '.join(f'{name} = :{name}' for name in columns)} "
        "WHERE file_name = :file_name",
        row,
    )


def set_upstream(connection: sqlite3.Connection, name: str, upstream: Upstream) -> None:
    """Notes what has become of a slide that was listed so far."""
    connection.execute(
        "UPDATE slides SET upstream = ? WHERE file_name = ? AND upstream IN ('current', 'changed')",
        (upstream, name),
    )


def _add_attempts(connection: sqlite3.Connection, name: str, run: int, rows: Iterable[Row]) -> None:
    """Adds what was tried elsewhere for a slide, but for what came along before."""
    known = set(
        connection.execute("SELECT source, started FROM attempts WHERE file_name = ?", (name,))
    )
    new = (
        {**row, "file_name": name, "run": run}
        for row in rows
        if (row["source"], row["started"]) not in known
    )
    insert(connection, "attempts", ("run", "file_name", *ATTEMPT), new)


def insert(
    connection: sqlite3.Connection,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Row],
    *,
    or_ignore: bool = False,
    or_replace: bool = False,
) -> None:
    """Adds these columns of rows to a table.

    or_ignore: leaves alone what is there already. or_replace: removes it first.
    """
    verb = "INSERT OR IGNORE" if or_ignore else "INSERT OR REPLACE" if or_replace else "INSERT"
    connection.executemany(
        f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({_marks(columns)})", rows
    )


def _marks(columns: Sequence[str]) -> str:
    return ", ".join(f":{name}" for name in columns)
