"""Rows that catalogues exchange: read or replace one slide's, merge those of a whole mirror.

*Theirs* are the other catalogue's, *ours* are this one's. *There* is the other mirror.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import NamedTuple, Protocol

from tcgamirror.catalogue.database import (
    Part,
    Row,
    Value,
    dicts,
    insert,
    placeholders,
    set_facts,
    transaction,
)
from tcgamirror.catalogue.exclusions import apply_exclusions, merge_exclusions
from tcgamirror.catalogue.images import OUTDATED, STATUS_COLUMNS, write_images
from tcgamirror.catalogue.labels import put_labels
from tcgamirror.catalogue.listing import COUNTS, SLIDE_COLUMNS, slide_of, stage_listing
from tcgamirror.model.errors import ListingShrunk
from tcgamirror.model.slide import Status, Upstream

# Columns of tables.
_SLIDES = (*SLIDE_COLUMNS, "position", "upstream", "listed_in")
_RELEASES = ("merge", "release", "merged_at", "listed", *COUNTS)
_IDENTITY = ("release", "merged_at", "listed")
"""Columns of `releases` that are equal in two catalogues only if one was made from the other."""

_DATA_RELEASE = re.compile(r"Data Release ([0-9]{1,6})\.([0-9]{1,6})\b")

_CHANGES = ("release", "file_name", "what", "detail", "merge")
_SAMPLE = ("file_name", "rank", "sampled_at", "release")
_NOT_FETCHED: Row = {
    **dict.fromkeys(STATUS_COLUMNS),
    **{"status": Status.PENDING, "attempts": 0, "failures": 0},
}
"""Status columns of an image that was never tried."""
_NAMED = "WHERE file_name IN (SELECT value FROM json_each(?))"
"""Condition for the slides whose names are in a JSON list."""
_ATTEMPTS = ("source", "started", "seconds", "bytes", "requests", "fault", "message")


@dataclass(frozen=True, slots=True)
class ImageState:
    """A sampled slide's md5 and status, and its image's columns, None without an image."""

    md5: str | None
    status: Status
    path: str | None
    sha256: str | None
    fetched_at: str | None


class ReceivedImage(NamedTuple):
    """The row of another mirror's image.

    differs: whether the image shows another file than the one listed here.
    """

    row: Row
    differs: bool


class RemoteCatalogue(Protocol):
    """Another mirror's catalogue, row by row. Every value is validated."""

    def rows(self, table: str) -> Iterator[Row]:
        """Yield all rows of a table, in the order in which they were written."""

    def listed(self) -> Iterator[Row]:
        """Yield every slide of the last listing, in its order."""

    def sampled(self, status: Status | None = None) -> Iterator[Row]:
        """Yield columns of `sample` and `images` for each sampled slide, in order of rank.

        status: that of the slides to yield; None for any.
        """

    def attempts(self, names: Sequence[str]) -> Iterator[Row]:
        """Yield the attempts at these slides, slide by slide."""

    def names(self, table: str) -> set[str]:
        """Return the file name of every row of a table."""

    def sample_facts(self) -> Mapping[str, str]:
        """Return the facts that hold for exactly this sample and for no larger one."""


@dataclass(frozen=True, slots=True)
class SlideRows:
    """All that a catalogue records of one slide and its image, without changes and attempts."""

    slide: Row
    former_ids: Sequence[Row]
    image: Row


class Rows(Part):
    """Rows exchanged with other catalogues."""

    def slide(self, name: str) -> SlideRows | None:
        """Return a sampled slide's rows; None if it is not sampled."""
        with self._database.reading() as connection:
            slides, former_ids, images = (
                dicts(connection, f"SELECT * FROM {table} WHERE file_name = ?", name)
                for table in ("slides", "former_ids", "images")
            )
        return SlideRows(slides[0], former_ids, images[0]) if slides and images else None

    def replace(self, rows: SlideRows) -> None:
        """Replace what is recorded of one slide."""
        with self._database.change() as connection:
            put_slides(connection, [rows.slide])
            put_former_ids(connection, rows.former_ids)
            write_images(connection, [rows.image])

    def merge(self, remote: RemoteCatalogue, run: int) -> int:
        """Merge another catalogue's listing, sample and failures; no image is recorded yet.

        A listing that continues the one here is taken over with its history. A newer listing
        of another history, such as a rebuilt catalogue's, is merged as a refresh would merge it.
        Otherwise the listing here stays, and sampled slides that it lacks are added as withdrawn.
        If the sample here is empty, the facts about their sample are taken over. Attempts made
        there are added to run number `run`. Return how many slides failed there in a newer
        attempt than any here.
        """
        with self._database.reading() as connection:
            return _merge(connection, remote, run)

    def image_states(self) -> dict[str, ImageState]:
        """Return what is recorded of each sampled slide's image, by file name."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT file_name, md5, status, path, sha256, fetched_at "
                "FROM images JOIN slides USING (file_name)"
            )
            return {name: ImageState(md5, Status(now), *image) for name, md5, now, *image in rows}

    def add_images(
        self, images: Sequence[ReceivedImage], attempts: Iterable[Row], run: int
    ) -> None:
        """Record images that are now in their places.

        If an image shows another file than the listed one, its slide is pending. attempts: those
        at these slides, as `RemoteCatalogue.attempts`. run: number of the run that adds them.
        """
        rows: list[Row] = []
        upstream: dict[Upstream, list[Value]] = {Upstream.CHANGED: [], Upstream.CURRENT: []}
        with self._database.change() as connection:
            tries = _add_attempts(connection, (row for row, _ in images), run, attempts)
            for row, differs in images:
                status = Status.PENDING if differs else row["status"]
                rows.append({**row, "status": status, "attempts": tries[row["file_name"]][0]})
                if differs or status == Status.DONE:
                    state = Upstream.CHANGED if differs else Upstream.CURRENT
                    upstream[state].append(row["file_name"])
            write_images(connection, rows)
            for state, names in upstream.items():
                set_upstream(connection, names, state)
            connection.execute("UPDATE runs SET done = done + ? WHERE run = ?", (len(rows), run))


def _merge(connection: sqlite3.Connection, theirs: RemoteCatalogue, run: int) -> int:
    ours = dicts(connection, "SELECT * FROM releases ORDER BY merge DESC LIMIT 1")
    merged = list(theirs.rows("releases"))
    ids = [_identity(row) for row in merged]
    if not ours or _identity(ours[0]) in ids:
        last = 0 if not ours else len(ids) - ids[::-1].index(_identity(ours[0]))
        with transaction(connection):
            put_slides(connection, theirs.rows("slides"))
            _put_history(connection, theirs, merged[last:])
            return _take_sample(connection, theirs, run, replace=True)
    if merged and is_newer_listing(merged[-1], ours[0]):
        failed = _merge_listing(connection, theirs, merged[-1], run)
        if failed is not None:
            return failed
    with transaction(connection):
        return _take_sample(connection, theirs, run, replace=False)


def _identity(release: Row) -> tuple[Value, ...]:
    return tuple(release[name] for name in _IDENTITY)


def is_newer_listing(theirs: Row, ours: Row) -> bool:
    """Return whether a listing is of a later data release, or of the same and merged later.

    Of a manifest's listing and one of another release or manifest, neither is newer.

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


def _merge_listing(
    connection: sqlite3.Connection, theirs: RemoteCatalogue, release: Row, run: int
) -> int | None:
    """Merge a listing of another history as `Rows.merge`; None if it lacks too many slides."""
    listed = map(slide_of, map(itemgetter(*SLIDE_COLUMNS), theirs.listed()))
    with stage_listing(connection, str(release["release"]), listed) as staged:
        try:
            if not _DATA_RELEASE.match(str(release["release"])):
                staged.check_size()
        except ListingShrunk:
            return None
        with transaction(connection):
            # With the time of the merge there, so that listings merged there later continue it.
            staged.merge(datetime.fromisoformat(str(release["merged_at"])).timestamp(), {})
            return _take_sample(connection, theirs, run, replace=True)


def _take_sample(
    connection: sqlite3.Connection, theirs: RemoteCatalogue, run: int, *, replace: bool
) -> int:
    """Add another catalogue's sampled slides, listed here or not. Return as `_take_failures`.

    replace: whether their labels replace ours.
    """
    known = {name for (name,) in connection.execute("SELECT file_name FROM slides")}
    if unlisted := theirs.names("sample") - known:
        slides = (row for row in theirs.rows("slides") if row["file_name"] in unlisted)
        _add_unlisted(connection, slides)
    put_former_ids(connection, theirs.rows("former_ids"))
    ours = {name for (name,) in connection.execute("SELECT file_name FROM sample")}
    if not ours:
        set_facts(connection, theirs.sample_facts())
    _add_sampled(connection, theirs, ours)
    failures = _take_failures(connection, theirs, run)
    merge_exclusions(connection, theirs.rows("exclusions"))
    apply_exclusions(connection)
    put_labels(connection, theirs.rows("tissue"), theirs.rows("cases"), replace=replace)
    return failures


def _take_failures(connection: sqlite3.Connection, theirs: RemoteCatalogue, run: int) -> int:
    """Take over attempts at slides that failed there and are to be fetched here.

    Status, error and time of retry come from the mirror with the newer last attempt. Return for
    how many slides that was theirs.
    """
    sql = (
        "SELECT md5, (SELECT max(started) FROM attempts WHERE file_name = ?1) "
        "FROM images JOIN slides USING (file_name) "
        "WHERE file_name = ?1 AND status IN ('pending', 'failed')"
    )
    taken = 0
    for row in theirs.sampled(Status.FAILED):
        ours = connection.execute(sql, (row["file_name"],)).fetchone()
        if ours is None or are_different(row["md5"], ours[0]):
            continue
        name = str(row["file_name"])
        tries, last = _add_attempts(connection, [row], run, theirs.attempts([name]))[name]
        is_newer = ours[1] is None or last > ours[1]
        columns = STATUS_COLUMNS if is_newer else ()
        state = {column: row[column] for column in ("file_name", *columns)}
        write_images(connection, [{**state, "attempts": tries}])
        taken += is_newer
    return taken


def put_slides(connection: sqlite3.Connection, slides: Iterable[Row]) -> None:
    """Write rows of `slides`. A slide whose file is not the one its image shows becomes pending.

    For a listed slide with an image here, `upstream` says whether the file changed since then.
    """
    others = [name for name in _SLIDES if name not in ("file_name", "upstream")]
    changed = (
        "UPDATE images SET status = 'pending' WHERE file_name = :file_name AND status = 'done' "
        "AND EXISTS (SELECT 1 FROM slides WHERE slides.file_name = :file_name AND md5 <> :md5)"
    )
    of_image = (
        "SELECT CASE WHEN status = 'done' THEN 'current' "
        f"WHEN {OUTDATED} OR slides.md5 <> excluded.md5 THEN 'changed' END "
        "FROM images WHERE images.file_name = excluded.file_name AND path IS NOT NULL"
    )
    put = (
        f"INSERT INTO slides ({', '.join(_SLIDES)}) VALUES ({placeholders(_SLIDES)}) "
        "ON CONFLICT (file_name) DO UPDATE SET "
        + "".join(f"{name} = excluded.{name}, " for name in others)
        + "upstream = CASE WHEN excluded.upstream IN ('current', 'changed') "
        f"THEN coalesce(({of_image}), excluded.upstream) ELSE excluded.upstream END"
    )
    for slide in slides:
        connection.execute(changed, slide)
        connection.execute(put, slide)


def put_former_ids(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Add rows of ids that slides had before their current ones."""
    connection.executemany(
        "INSERT OR IGNORE INTO former_ids (file_id, file_name) SELECT :file_id, file_name "
        "FROM slides WHERE file_name = :file_name AND file_id <> :file_id",
        rows,
    )


def _put_history(
    connection: sqlite3.Connection, theirs: RemoteCatalogue, releases: Sequence[Row]
) -> None:
    """Add listings merged there, numbered after those merged here, and their changes."""
    (last,) = connection.execute("SELECT coalesce(max(merge), 0) FROM releases").fetchone()
    numbers = {row["merge"]: number for number, row in enumerate(releases, start=last + 1)}
    for table, columns, rows in (
        ("releases", _RELEASES, releases),
        ("changes", _CHANGES, theirs.rows("changes")),
    ):
        added = ({**row, "merge": numbers[row["merge"]]} for row in rows if row["merge"] in numbers)
        insert(connection, table, columns, added)


def _add_unlisted(connection: sqlite3.Connection, slides: Iterable[Row]) -> None:
    """Add slides that are not known here, as withdrawn."""
    (last,) = connection.execute("SELECT coalesce(max(position), 0) FROM slides").fetchone()
    rows = (
        {**slide, "position": last + int(slide["position"] or 0), "upstream": "withdrawn"}
        for slide in slides
    )
    insert(connection, "slides", _SLIDES, rows)


def replaces(theirs: Row, ours: ImageState | None) -> bool:
    """Return whether another mirror's image replaces the image here.

    Any image is taken if there is none here. It replaces an image only if it is done, of the file
    that is listed here, and newer than an image that is done.
    """
    if theirs["path"] is None or ours is None or ours.sha256 is None:
        return theirs["path"] is not None
    if theirs["status"] != Status.DONE or are_different(theirs["md5"], ours.md5):
        return False
    return ours.status is not Status.DONE or str(theirs["fetched_at"]) > str(ours.fetched_at)


def are_different(digest: Value, other: Value) -> bool:
    """Return whether two digests are both known and differ."""
    return None not in (digest, other) and digest != other


def _add_sampled(
    connection: sqlite3.Connection, theirs: RemoteCatalogue, ours: Collection[str]
) -> None:
    """Add their sampled slides but `ours`, with their ranks, or after the last if those are taken.

    A slide that is done there is pending here until its image is received.
    """
    ranks = {rank for (rank,) in connection.execute("SELECT rank FROM sample")}

    def ranked() -> Iterator[Row]:
        last = max(ranks, default=0)
        for row in theirs.sampled():
            if row["file_name"] in ours:
                continue
            rank = int(row["rank"] or 0)
            if rank in ranks:
                rank = last + 1
            last = max(last, rank)
            ranks.add(rank)
            yield {**row, "rank": rank}

    insert(connection, "sample", _SAMPLE, ranked())
    images = (
        {"file_name": row["file_name"], **_NOT_FETCHED} if row["status"] == Status.DONE else row
        for row in theirs.rows("images")
        if row["file_name"] not in ours
    )
    insert(connection, "images", ("file_name", *STATUS_COLUMNS), images)


def set_upstream(
    connection: sqlite3.Connection, names: Iterable[Value], upstream: Upstream
) -> None:
    """Set the upstream state of those slides that are listed."""
    connection.executemany(
        f"UPDATE slides SET upstream = '{upstream}' "
        f"WHERE file_name = ? AND upstream IN ('current', 'changed') AND upstream <> '{upstream}'",
        ((name,) for name in names),
    )


def _add_attempts(
    connection: sqlite3.Connection, rows: Iterable[Row], run: int, attempts: Iterable[Row]
) -> dict[Value, tuple[int, str]]:
    """Add attempts made there at slides, without those that are known here.

    Return by file name how many runs tried a slide, here or there, and when the last attempt
    there started. rows: the slides' rows of `images` there. attempts: theirs, slide by slide.
    """
    theirs = {row["file_name"]: int(row["attempts"] or 0) for row in rows}
    names = json.dumps(list(theirs))
    ours = dict(connection.execute(f"SELECT file_name, attempts FROM images {_NAMED}", (names,)))
    known: dict[Value, set[tuple[Value, ...]]] = {name: set() for name in ours}
    sql = f"SELECT file_name, source, started FROM attempts {_NAMED}"
    for name, *key in connection.execute(sql, (names,)):
        known[name].add(tuple(key))
    only_here = {name: set(keys) for name, keys in known.items()}
    last, further = dict.fromkeys(ours, ""), dict.fromkeys(ours, 0)

    def unknown() -> Iterator[Row]:
        former = None
        # One by one: an untrusted catalogue may have a hundred thousand.
        for each in attempts:
            name, key = each["file_name"], (each["source"], each["started"])
            last[name] = max(last[name], str(each["started"]))
            only_here[name].discard(key)
            if key not in known[name]:
                further[name] += (name, each["run"]) != former
                former = name, each["run"]
                yield {**each, "run": run}

    insert(connection, "attempts", ("run", "file_name", *_ATTEMPTS), unknown())
    # Without attempts that only this mirror has, theirs continue ours and are not added to them.
    return {
        name: (ours[name] + further[name] if only_here[name] else max(ours[name], most), last[name])
        for name, most in theirs.items()
    }
