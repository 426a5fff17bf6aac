"""The slides that are due to be fetched: found by way of an index, and read a few at a time."""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from tcgamirror.catalogue.database import WAY_OUT, timestamp
from tcgamirror.catalogue.listing import SLIDE_COLUMNS
from tcgamirror.errors import Damaged
from tcgamirror.model import Kind, Slide
from tcgamirror.retrying import DISTANCES

READY = "(retry_at <= :now OR retry_at > :absurd)"
"""Of a failed slide: its time has come. One beyond every distance was set by a fast clock."""

_AT_ONCE = 500
"""Slides that are read at a time."""


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
