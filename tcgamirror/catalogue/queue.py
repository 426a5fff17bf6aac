"""The slides to fetch, the outcome of each, and when a failed one is retried.

A failed slide is retried automatically after a delay that grows with each failure.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tcgamirror.catalogue.database import Part, damage
from tcgamirror.catalogue.images import REQUEUE, picture_row, write_images
from tcgamirror.catalogue.listing import SLIDE_COLUMNS, slide_of
from tcgamirror.model.errors import AWAY, BadSlide, NotFound, Refused, Unfit, UnsupportedSlide
from tcgamirror.model.slide import Attempt, Outcome, Slide, Status
from tcgamirror.model.text import timestamp

_READY = "(retry_at <= :now OR retry_at > :absurd)"
"""Condition of a failed slide that is due. A time beyond every delay was set by a fast clock."""

_BATCH = 500
"""Slides that are read at a time."""

HOUR = 3600.0
DAY = 24 * HOUR

MARGIN = 4 * HOUR
"""Taken off each delay in days: a nightly run never begins at quite the same time."""

SLIDE_RETRY_DELAYS = (HOUR, *(days * DAY - MARGIN for days in (1, 3, 7, 30)))
"""Seconds after the first failure in a row, the second, and so on; then always the last."""

_UNFIT_FAULTS = frozenset(error.fault for error in Unfit.__subclasses__())
"""Faults of a slide that another target would allow for."""

_SLIDE_FAULTS = frozenset(error.fault for error in (BadSlide, UnsupportedSlide))
"""Faults of a file that is not a readable slide."""


def retry_time(outcome: Outcome, failures: int, now: float) -> float | None:
    """Return when a failed slide is due again, in seconds since the epoch; None for never.

    failures: runs in a row in which it failed, this one included.
    """
    if is_permanent(outcome):
        return None
    return now + SLIDE_RETRY_DELAYS[min(failures, len(SLIDE_RETRY_DELAYS)) - 1]


def is_permanent(outcome: Outcome) -> bool:
    """Return whether the slide itself is at fault, so that no retry can succeed.

    This holds for an image that the target does not allow for. It holds also for a whole
    file that has the md5 listed, and yet is not a readable slide.
    """
    faults = {(attempt.source, attempt.fault) for attempt in outcome.attempts}
    of_file = {("whole", fault) for fault in _SLIDE_FAULTS if outcome.slide.md5 is not None}
    return bool(faults & of_file) or any(fault in _UNFIT_FAULTS for _, fault in faults)


def _ready_values(now: float | None) -> dict[str, str | None]:
    """Return the parameters of _READY; without a time no slide is ready."""
    return {
        "now": None if now is None else timestamp(now),
        "absurd": None if now is None else timestamp(now + max(SLIDE_RETRY_DELAYS)),
    }


class DueSlides(Iterable[Slide]):
    """Slides that were due at one moment, in the order of `Queue.due`, read batch by batch."""

    def __init__(self, ranks: array[int], read: Callable[[array[int]], Iterator[Slide]]) -> None:
        self._ranks = ranks
        self._read = read

    def __len__(self) -> int:
        return len(self._ranks)

    def __iter__(self) -> Iterator[Slide]:
        return self._read(self._ranks)


@dataclass(frozen=True, slots=True)
class StatusCounts:
    """Sampled slides by status, the failed ones by when they are retried.

    Attributes:
        due: failed slides that the next run retries.
        next: when the first of those retried later is due; ISO 8601, UTC.
        never: failed slides that only --retry-failed retries.
        unfit: those of them that another target would allow for.
        unknown_mpp: images of unknown resolution.
    """

    pending: int
    done: int
    due: int
    later: int
    next: str | None
    never: int
    unfit: int
    excluded: int = 0
    unknown_mpp: int = 0

    @property
    def failed(self) -> int:
        return self.due + self.later + self.never

    @property
    def sampled(self) -> int:
        return self.pending + self.done + self.failed + self.excluded


_IS_UNFIT = f"""(
    SELECT fault FROM attempts WHERE attempts.file_name = images.file_name
    ORDER BY attempt DESC LIMIT 1
) IN ({", ".join(f"'{fault}'" for fault in sorted(_UNFIT_FAULTS))})"""


class Queue(Part):
    """The slides to fetch, and the outcome of fetching them."""

    def due(
        self,
        *,
        retry_failed: bool,
        now: float | None = None,
        limit: int | None = None,
        only: Collection[str] | None = None,
    ) -> DueSlides:
        """Return the slides to fetch: pending ones by rank, then failed ones to retry by rank.

        Withdrawn and superseded slides that were never tried are included, since their
        files are often still available. The ranks take eight bytes for each slide.
        Other failed slides are included if they are due at `now`. only: names to choose from.
        """
        named = "" if only is None else "AND file_name IN (SELECT value FROM json_each(:names))"
        found = array("q")
        with self._database.reading() as connection:
            for status, condition in (("pending", ""), ("failed", f"AND (:all OR {_READY})")):
                # By status, not by rank: that would go through every slide that is done.
                rows = connection.execute(
                    "SELECT rank FROM images CROSS JOIN sample USING (file_name) "
                    f"WHERE status = :status {condition} {named} ORDER BY rank LIMIT :left",
                    {
                        "status": status,
                        "all": retry_failed,
                        "left": -1 if limit is None else limit - len(found),
                        "names": None if only is None else json.dumps([*only]),
                        **_ready_values(now),
                    },
                )
                found.extend(rank for (rank,) in rows)
        return DueSlides(found, self._slides)

    def _slides(self, ranks: array[int]) -> Iterator[Slide]:
        """Yield the sampled slides of these ranks. Raises Damaged if one is missing."""
        columns = ", ".join(SLIDE_COLUMNS)
        for start in range(0, len(ranks), _BATCH):
            batch = ranks[start : start + _BATCH]
            with self._database.reading() as connection:
                rows = connection.execute(
                    f"SELECT rank, {columns} FROM sample CROSS JOIN slides USING (file_name) "
                    f"WHERE rank IN ({', '.join('?' * len(batch))})",
                    batch,
                )
                found = {rank: slide_of(row) for rank, *row in rows}
            if len(found) < len(batch):
                raise damage(self._database.path, "it lacks a slide that is sampled")
            yield from (found[rank] for rank in batch)

    def unfinished(self, file_ids: Iterable[str]) -> set[str]:
        """Return those of the file_ids whose slides are pending, or failed and to be retried."""
        sql = (
            "SELECT count(*) FROM slides JOIN images USING (file_name) WHERE file_id = ? "
            "AND (status = 'pending' OR (status = 'failed' AND retry_at IS NOT NULL))"
        )
        with self._database.reading() as connection:
            return {name for name in file_ids if connection.execute(sql, (name,)).fetchone()[0]}

    def status_counts(self, now: float) -> StatusCounts:
        """Return the sample in numbers, quickly however large it is."""
        with self._database.reading() as connection:
            by_status = dict(
                connection.execute("SELECT status, count(*) FROM images GROUP BY status").fetchall()
            )
            row = connection.execute(
                f"SELECT count(*) FILTER (WHERE {_READY}), count(*) FILTER (WHERE NOT {_READY}), "
                f"min(retry_at) FILTER (WHERE NOT {_READY}), "
                "count(*) FILTER (WHERE retry_at IS NULL), "
                f"count(*) FILTER (WHERE retry_at IS NULL AND {_IS_UNFIT}) "
                "FROM images WHERE status = 'failed'",
                _ready_values(now),
            ).fetchone()
            unknown = self._database.value(
                "SELECT count(*) FROM images WHERE status = 'done' AND mpp_x IS NULL"
            )
        pending, done, excluded = (
            by_status.get(status, 0) for status in (Status.PENDING, Status.DONE, Status.EXCLUDED)
        )
        return StatusCounts(*(pending, done, *row, excluded, unknown))

    def last_attempt(self) -> int:
        """Return the number of the last attempt, 0 if there was none."""
        return int(self._database.value("SELECT coalesce(max(attempt), 0) FROM attempts"))

    def was_denied_since(self, attempt: int) -> bool:
        """Return whether a later attempt met a 403 or 404 for a slide that is listed."""
        # Crossed, so that SQLite goes through the later attempts alone.
        sql = (
            "SELECT EXISTS (SELECT 1 FROM attempts CROSS JOIN slides USING (file_name) "
            "WHERE attempt > ? AND fault IN (?, ?) AND +upstream IN ('current', 'changed'))"
        )
        return bool(self._database.value(sql, attempt, Refused.fault, NotFound.fault))

    def record(self, outcome: Outcome, run: int, now: float) -> None:
        """Record the outcome of a sampled slide, its attempts and the run's sums.

        A picture makes the slide done. Without one it is failed, and an older picture's
        columns stay. A slide that is done stays so, as shards' clocks may differ.
        """
        name, picture = outcome.slide.file_name, outcome.picture
        fetched = sum(attempt.bytes_fetched for attempt in outcome.attempts)
        with self._database.change() as connection:
            status, attempts, failures, upstream = connection.execute(
                "SELECT status, attempts + 1, failures + 1, upstream "
                "FROM images JOIN slides USING (file_name) WHERE file_name = ?",
                (name,),
            ).fetchone()
            connection.executemany(
                "INSERT INTO attempts (run, file_name, source, started, seconds, bytes, requests, "
                "fault, message) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(run, name, attempt.source, timestamp(attempt.started), attempt.seconds),
                        *(attempt.bytes_fetched, attempt.requests, attempt.fault, attempt.message),
                    )
                    for attempt in outcome.attempts
                ),
            )
            seconds = sum(attempt.seconds for attempt in outcome.attempts)
            row = {"file_name": name, "attempts": attempts}
            row |= {"bytes_fetched": fetched, "seconds": seconds}
            if picture is not None:
                row |= {"status": Status.DONE, "error": None, "failures": 0, "retry_at": None}
                row |= picture_row(name, picture, now)
                connection.execute(
                    "UPDATE slides SET upstream = 'current' "
                    "WHERE file_name = ? AND upstream = 'changed'",
                    (name,),
                )
            elif status != Status.DONE:
                # A slide that is no longer listed is probably gone.
                listed = upstream not in ("superseded", "withdrawn")
                again = retry_time(outcome, failures, now) if listed else None
                row |= {
                    "status": Status.FAILED,
                    "error": _error(outcome.attempts),
                    "failures": failures,
                    "retry_at": None if again is None else timestamp(again),
                }
            write_images(connection, [row])
            column = "failed" if picture is None else "done"
            connection.execute(
                f"UPDATE runs SET {column} = {column} + 1, bytes = bytes + ? WHERE run = ?",
                (fetched, run),
            )

    def requeue(self, names: Sequence[str]) -> None:
        """Make sampled slides pending again, as their images are lost or damaged."""
        with self._database.change() as connection:
            connection.executemany(f"{REQUEUE} file_name = ?", ((name,) for name in names))

    def requeue_unreached(self, run: int) -> None:
        """Make the slides pending again of which a run could reach no source."""
        with self._database.change() as connection:
            connection.execute(
                f"{REQUEUE} status = 'failed' AND file_name IN (SELECT file_name FROM attempts "
                "WHERE run = ? GROUP BY file_name "
                "HAVING min(fault IN (SELECT value FROM json_each(?))))",
                (run, json.dumps([*AWAY])),
            )


def _error(attempts: Sequence[Attempt]) -> str:
    faults = [f"{attempt.source}: {attempt.message}" for attempt in attempts if attempt.message]
    return "; ".join(faults) or "no source was tried"
