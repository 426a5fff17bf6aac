"""What is to be fetched, and what came of it, as SQL on an open catalogue.

The slides that are due to be fetched: found by way of an index, and read a few at a time.

When a slide that failed is tried again by itself: at a distance that grows.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcgamirror.catalogue.database import WAY_OUT
from tcgamirror.catalogue.listing import SLIDE_COLUMNS
from tcgamirror.model.errors import (
    BadSlide,
    Damaged,
    NotFound,
    Refused,
    TooFine,
    TooLarge,
    UnsupportedSlide,
)
from tcgamirror.model.slide import Attempt, Kind, Outcome, Picture, Slide, Status
from tcgamirror.model.text import timestamp

READY = "(retry_at <= :now OR retry_at > :absurd)"
"""Of a failed slide: its time has come. One beyond every distance was set by a fast clock."""

_AT_ONCE = 500
"""Slides that are read at a time."""

HOUR = 3600.0

DAY = 24 * HOUR

EARLIER = 4 * HOUR
"""Taken off each distance in days: a nightly run never begins at quite the same time."""

DISTANCES = (HOUR, *(days * DAY - EARLIER for days in (1, 3, 7, 30)))
"""Seconds after the first failure in a row, the second, and so on; then always the last."""

_SAME_FOR_ALL = frozenset(error.fault for error in (TooFine, TooLarge))

_SAME_FOR_EVER = frozenset(error.fault for error in (BadSlide, UnsupportedSlide))


def retry_time(outcome: Outcome, failures: int, now: float) -> float | None:
    """When a slide that failed is due again, in seconds since the epoch; None: only if asked for.

    failures: how many runs in a row it has failed in, this one too.
    """
    if lasting(outcome):
        return None
    return now + DISTANCES[min(max(failures, 1), len(DISTANCES)) - 1]


def lasting(outcome: Outcome) -> bool:
    """Whether the slide itself is at fault, so that no later try can go better.

    That is so for an image that cannot be as asked for, and for a whole file
    which is the one listed, by its md5, and yet no slide that can be read.
    """
    return any(
        attempt.fault in _SAME_FOR_ALL
        or (
            attempt.source == "whole"
            and attempt.fault in _SAME_FOR_EVER
            and outcome.slide.md5 is not None
        )
        for attempt in outcome.attempts
    )


def moments(now: float | None) -> dict[str, str | None]:
    """The parameters of READY; without a time no slide is ready."""
    return {
        "now": None if now is None else timestamp(now),
        "absurd": None if now is None else timestamp(now + max(DISTANCES)),
    }


class Due(Iterable[Slide]):
    """Slides that were due at one moment, each read when it comes to it.

    Between two of them all may be written; all may be gone through again.
    """

    def __init__(self, ranks: array[int], slides: Callable[[array[int]], Iterator[Slide]]) -> None:
        self._ranks = ranks
        self._slides = slides

    def __len__(self) -> int:
        return len(self._ranks)

    def __iter__(self) -> Iterator[Slide]:
        return self._slides(self._ranks)


def ranks(
    connection: sqlite3.Connection,
    *,
    retry_failed: bool,
    now: float | None,
    limit: int | None,
    only: Collection[str] | None,
) -> array[int]:
    """Ranks of the slides to fetch: of the pending ones, then of the failed ones whose time is.

    only: file names, of which alone they are. Eight bytes each, so that all of a
    large sample may be due. Goes by status, not by rank, which would have it look
    at every slide that is done.
    """
    named = "" if only is None else "AND file_name IN (SELECT value FROM json_each(:names))"
    found = array("q")
    for status, condition in (("pending", ""), ("failed", f"AND (:all OR {READY})")):
        rows = connection.execute(
            "SELECT rank FROM images CROSS JOIN sample USING (file_name) "
            f"WHERE status = :status {condition} {named} ORDER BY rank LIMIT :left",
            {
                "status": status,
                "all": retry_failed,
                "left": -1 if limit is None else limit - len(found),
                "names": None if only is None else json.dumps([*only]),
                **moments(now),
            },
        )
        found.extend(rank for (rank,) in rows)
    return found


def count(connection: sqlite3.Connection, *, retry_failed: bool, now: float | None) -> int:
    """How many slides have such ranks, without a limit."""
    sql = (
        "SELECT count(*) FROM images WHERE status = 'pending' "
        f"OR (status = 'failed' AND (:all OR {READY}))"
    )
    (found,) = connection.execute(sql, {"all": retry_failed, **moments(now)}).fetchone()
    return int(found)


def slides(connection: sqlite3.Connection, wanted: array[int], path: Path) -> Iterator[Slide]:
    """The sampled slides of these ranks, in this order. Between two of them all may be written.

    Raises Damaged, of the catalogue at `path`, if there is none of a rank.
    """
    columns = ", ".join(SLIDE_COLUMNS)
    for start in range(0, len(wanted), _AT_ONCE):
        batch = wanted[start : start + _AT_ONCE]
        rows = connection.execute(
            f"SELECT rank, {columns} FROM sample CROSS JOIN slides USING (file_name) "
            f"WHERE rank IN ({', '.join('?' * len(batch))})",
            batch,
        )
        found = {rank: _slide(row) for rank, *row in rows}
        if len(found) < len(batch):
            raise Damaged(f"{path} says nothing of a slide that is sampled; {WAY_OUT}")
        yield from (found[rank] for rank in batch)


def _slide(row: Iterable[Any]) -> Slide:
    values = dict(zip(SLIDE_COLUMNS, row, strict=True))
    if values["kind"] is not None:
        values["kind"] = Kind(values["kind"])
    return Slide(**values)


@dataclass(frozen=True, slots=True)
class Standing:
    """The sample in numbers, those of the failed slides by when they are tried again.

    due: by the next run. later: not yet; next: when the first of them is due
    (ISO 8601, UTC). never: only with --retry-failed. unfit: of these, those that
    cannot be had as they are asked for, but at another resolution.
    """

    pending: int
    done: int
    due: int
    later: int
    next: str | None
    never: int
    unfit: int

    @property
    def failed(self) -> int:
        return self.due + self.later + self.never

    @property
    def sampled(self) -> int:
        return self.pending + self.done + self.failed


_UNFIT = """(
    SELECT fault FROM attempts WHERE attempts.file_name = images.file_name
    ORDER BY attempt DESC LIMIT 1
) = 'too fine'"""


def unfinished(connection: sqlite3.Connection, file_ids: Iterable[str]) -> set[str]:
    """Those of the ids whose slides are pending, or failed and to be tried again by itself."""
    sql = (
        "SELECT count(*) FROM slides JOIN images USING (file_name) WHERE file_id = ? "
        "AND (status = 'pending' OR (status = 'failed' AND retry_at IS NOT NULL))"
    )
    return {name for name in file_ids if connection.execute(sql, (name,)).fetchone()[0]}


def standing(connection: sqlite3.Connection, now: float) -> Standing:
    """Counts the sample, quickly however large it is."""
    by_status = dict(
        connection.execute("SELECT status, count(*) FROM images GROUP BY status").fetchall()
    )
    row = connection.execute(
        f"SELECT count(*) FILTER (WHERE {READY}), count(*) FILTER (WHERE NOT {READY}), "
        f"min(retry_at) FILTER (WHERE NOT {READY}), count(*) FILTER (WHERE retry_at IS NULL), "
        f"count(*) FILTER (WHERE retry_at IS NULL AND {_UNFIT}) "
        "FROM images WHERE status = 'failed'",
        moments(now),
    ).fetchone()
    return Standing(by_status.get("pending", 0), by_status.get("done", 0), *row)


def last_attempt(connection: sqlite3.Connection) -> int:
    """Return the number of the last try, 0 if there was none."""
    (last,) = connection.execute("SELECT coalesce(max(attempt), 0) FROM attempts").fetchone()
    return int(last)


def denied_since(connection: sqlite3.Connection, attempt: int) -> bool:
    """Return whether a later try met a 403 or 404 for a slide that is listed."""
    (found,) = connection.execute(
        # Crossed, so that SQLite goes through the later tries alone.
        "SELECT EXISTS (SELECT 1 FROM attempts CROSS JOIN slides USING (file_name) "
        "WHERE attempt > ? AND fault IN (?, ?) AND +upstream IN ('current', 'changed'))",
        (attempt, Refused.fault, NotFound.fault),
    ).fetchone()
    return bool(found)


def record(connection: sqlite3.Connection, outcome: Outcome, run: int, now: float) -> None:
    """Notes attempts, result and the run's sums within the transaction that is open."""
    name = outcome.slide.file_name
    fetched = sum(attempt.bytes_fetched for attempt in outcome.attempts)
    _add_attempts(connection, name, run, outcome.attempts)
    connection.execute(
        "UPDATE images SET attempts = attempts + 1, bytes_fetched = ?, seconds = ? "
        "WHERE file_name = ?",
        (fetched, sum(attempt.seconds for attempt in outcome.attempts), name),
    )
    if outcome.picture is None:
        _set_failed(connection, outcome, now)
    else:
        _set_picture(connection, name, outcome.picture, now)
    column = "failed" if outcome.picture is None else "done"
    connection.execute(
        f"UPDATE runs SET {column} = {column} + 1, bytes = bytes + ? WHERE run = ?",
        (fetched, run),
    )


def _set_failed(connection: sqlite3.Connection, outcome: Outcome, now: float) -> None:
    """What the GDC no longer lists is probably gone: it is not tried again by itself."""
    name = outcome.slide.file_name
    failures, upstream = connection.execute(
        "SELECT failures + 1, upstream FROM images JOIN slides USING (file_name) "
        "WHERE file_name = ?",
        (name,),
    ).fetchone()
    again = retry_time(outcome, failures, now)
    if again is not None and upstream in ("superseded", "withdrawn"):
        again = None
    connection.execute(
        "UPDATE images SET status = ?, error = ?, failures = ?, retry_at = ? WHERE file_name = ?",
        (
            Status.FAILED,
            _error(outcome.attempts),
            failures,
            None if again is None else timestamp(again),
            name,
        ),
    )


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
        "failures": 0,
        "retry_at": None,
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
        "patched_tiles": picture.patched_tiles,
    }
    connection.execute(
        f"UPDATE images SET {', '.join(f'{column} = ?' for column in values)} WHERE file_name = ?",
        (*values.values(), name),
    )
    connection.execute(
        "UPDATE slides SET upstream = 'current' WHERE file_name = ? AND upstream = 'changed'",
        (name,),
    )
