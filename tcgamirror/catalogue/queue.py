"""What is to be fetched, and what came of it, as SQL on an open catalogue."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tcgamirror.catalogue.database import timestamp
from tcgamirror.errors import NotThere, Refused
from tcgamirror.model import Attempt, Outcome, Picture, Status
from tcgamirror.retrying import retry_time
from tcgamirror.waiting import READY, moments


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
        (attempt, Refused("").fault, NotThere("").fault),
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
