"""The catalogue's SQL for the sample: what may be taken, and what was."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import filterfalse, islice

from tcgamirror.catalogue.reports import last_release
from tcgamirror.model.sampling import By, Candidate, Order, Plan, arranged
from tcgamirror.model.slide import Kind
from tcgamirror.model.text import timestamp

# Without the pluses SQLite would look up nearly every slide by way of an index.
_LISTED = "FROM slides WHERE +upstream IN ('current', 'changed')"
_IN_LISTING_ORDER = "ORDER BY +position"


def candidates(connection: sqlite3.Connection) -> list[Candidate]:
    """What the GDC lists now, in listing order."""
    rows = connection.execute(
        f"SELECT file_name, kind, project_id, primary_site {_LISTED} {_IN_LISTING_ORDER}"
    )
    return [
        Candidate(name, None if kind is None else Kind(kind), project_id, site)
        for name, kind, project_id, site in rows
    ]


def unlisted_projects(connection: sqlite3.Connection, projects: Iterable[str]) -> list[str]:
    """Those of which the GDC lists no slide now."""
    sql = f"SELECT 1 {_LISTED} AND project_id = ? LIMIT 1"
    return [
        name for name in sorted(projects) if connection.execute(sql, (name,)).fetchone() is None
    ]


def order(connection: sqlite3.Connection, plan: Plan, most: int | None = None) -> list[str]:
    """File names of what is listed and may be taken, the first to be taken first.

    most: so many of them; None for all.
    """
    return list(islice(_order(connection, plan, _LISTED), most))


def fresh(connection: sqlite3.Connection, plan: Plan, most: int | None = None) -> list[str]:
    """The same, without what is sampled already."""
    if plan.order is Order.STABLE and plan.by is By.NONE:
        # Each slide's place is its own there, so that what is sampled need not be placed.
        unsampled = "file_name NOT IN (SELECT file_name FROM sample)"
        return list(islice(_order(connection, plan, f"{_LISTED} AND {unsampled}"), most))
    sampled = {name for (name,) in connection.execute("SELECT file_name FROM sample")}
    unsampled_first = filterfalse(sampled.__contains__, _order(connection, plan, _LISTED))
    return list(islice(unsampled_first, most))


def _order(connection: sqlite3.Connection, plan: Plan, listed: str) -> Iterator[str]:
    """listed: SQL from FROM on, which gives what may be taken but for the plan's own wishes."""
    values = list[str]()
    for column, wanted in (
        # A slide of unknown kind may be taken only where all may.
        ("kind", plan.kinds if len(plan.kinds) < len(Kind) else ()),
        ("project_id", plan.projects),
    ):
        if wanted:
            listed += f" AND +{column} IN ({', '.join('?' * len(wanted))})"
            values += wanted
    stratum = "NULL" if plan.by is By.NONE else plan.by
    slides = connection.execute(f"SELECT file_name, {stratum}, position {listed}", values)
    return arranged(slides, plan)


def add(connection: sqlite3.Connection, names: Sequence[str], now: float) -> None:
    """Gives slides the next ranks, within the transaction that is open.

    They are written by name, whatever their ranks: every index but one then
    grows at its end, and what is joined by name lies side by side.
    """
    connection.execute("CREATE TEMP TABLE picked (place INTEGER PRIMARY KEY, file_name)")
    connection.executemany(
        "INSERT INTO temp.picked (file_name) SELECT ?1 "
        "WHERE NOT EXISTS (SELECT 1 FROM sample WHERE file_name = ?1)",
        ((name,) for name in dict.fromkeys(names)),
    )
    connection.execute("CREATE INDEX temp.picked_by_name ON picked (file_name)")
    (last,) = connection.execute("SELECT coalesce(max(rank), 0) FROM sample").fetchone()
    connection.execute(
        "INSERT INTO sample (file_name, rank, sampled_at, release) "
        "SELECT file_name, ? + place, ?, ? FROM temp.picked ORDER BY file_name",
        (last, timestamp(now), last_release(connection)),
    )
    connection.execute(
        "INSERT INTO images (file_name) SELECT file_name FROM temp.picked ORDER BY file_name"
    )
    connection.execute("DROP TABLE temp.picked")
