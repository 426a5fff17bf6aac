"""The sample: which slides may be sampled, in which order, and which are."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import filterfalse, islice

from tcgamirror.catalogue.database import Part, set_facts
from tcgamirror.catalogue.exclusions import apply_exclusions
from tcgamirror.catalogue.listing import SLIDE_COLUMNS, last_release, slide_of
from tcgamirror.catalogue.names import find_slides, resolve
from tcgamirror.model.sampling import By, Order, Plan, arranged
from tcgamirror.model.slide import Kind, Slide
from tcgamirror.model.text import timestamp

# Without the pluses SQLite would look up nearly every slide by way of an index.
_LISTED = "FROM slides WHERE +upstream IN ('current', 'changed')"


class Sample(Part):
    """The sampled slides, each with a rank that it keeps."""

    def candidates(self) -> list[Slide]:
        """Return the slides that are listed now, in listing order."""
        sql = f"SELECT {', '.join(SLIDE_COLUMNS)} {_LISTED} ORDER BY +position"
        with self._database.reading() as connection:
            return list(map(slide_of, connection.execute(sql)))

    def unlisted(self, column: str, values: Iterable[str]) -> list[str]:
        """Return those values of a column of slides that no listed slide has."""
        sql = f"SELECT 1 {_LISTED} AND +{column} = ? LIMIT 1"
        return [value for value in sorted(values) if self._database.value(sql, value) is None]

    def unmatched_cases(self, plan: Plan) -> tuple[list[str], list[str]]:
        """Return names of the plan's cases without a listed slide, and without an allowed one."""
        wide = dataclasses.replace(plan, one_per_case=False)
        with self._database.reading() as connection:
            listed = {name for (name,) in connection.execute(f"SELECT file_name {_LISTED}")}
            allowed = set(_ordered(connection, wide, _LISTED))
            unlisted, disallowed = list[str](), list[str]()
            for name in sorted(plan.cases):
                slides = listed.intersection(find_slides(connection, name))
                if not slides:
                    unlisted.append(name)
                elif slides.isdisjoint(allowed):
                    disallowed.append(name)
        return unlisted, disallowed

    def order(self, plan: Plan, limit: int | None = None) -> list[str]:
        """Return file names of candidates in the plan's order, see `sampling.ordered`."""
        with self._database.reading() as connection:
            return list(islice(_ordered(connection, plan, _LISTED), limit))

    def unsampled(self, plan: Plan, limit: int | None = None) -> list[str]:
        """Return file names of candidates that are not sampled yet, in the plan's order."""
        with self._database.reading() as connection:
            if plan.order is Order.STABLE and plan.by is By.NONE and not plan.one_per_case:
                # A slide's place depends on no other slide, so sampled ones need no place.
                others = f"{_LISTED} AND file_name NOT IN (SELECT file_name FROM sample)"
                return list(islice(_ordered(connection, plan, others), limit))
            sampled = {name for (name,) in connection.execute("SELECT file_name FROM sample")}
            ordered = _ordered(connection, plan, _LISTED)
            return list(islice(filterfalse(sampled.__contains__, ordered), limit))

    def names(self) -> list[str]:
        """Return file names of the sampled slides, by rank."""
        # Sorted: by the index of ranks, each slide would be read from another place.
        return self._database.column("SELECT file_name FROM sample ORDER BY +rank")

    def slides(self) -> list[Slide]:
        """Return the sampled slides by rank, with no more than names their images' paths."""
        sql = (
            "SELECT file_id, file_name, project_id FROM slides JOIN sample USING (file_name) "
            "ORDER BY rank"
        )
        with self._database.reading() as connection:
            return [
                Slide(file_id=file_id, file_name=name, project_id=project_id)
                for file_id, name, project_id in connection.execute(sql)
            ]

    def count(self) -> int:
        """Return how many slides are sampled."""
        return int(self._database.value("SELECT count(*) FROM sample"))

    def add(self, names: Sequence[str], now: float, facts: Mapping[str, str] | None = None) -> None:
        """Give known slides the next ranks, in this order; sampled ones keep their rank.

        Rows are written by name, whatever their ranks. Every index but one then grows at
        its end, and rows that are joined by name lie side by side.
        facts: kept in the same transaction, in place of others of the same keys.
        """
        with self._database.change() as connection:
            connection.execute("CREATE TEMP TABLE picked (place INTEGER PRIMARY KEY, file_name)")
            connection.executemany(
                "INSERT INTO temp.picked (file_name) SELECT ? "
                "WHERE NOT EXISTS (SELECT 1 FROM sample WHERE file_name = ?)",
                ((name, name) for name in dict.fromkeys(names)),
            )
            connection.execute("CREATE INDEX temp.picked_by_name ON picked (file_name)")
            (last,) = connection.execute("SELECT coalesce(max(rank), 0) FROM sample").fetchone()
            connection.execute(
                "INSERT INTO sample (file_name, rank, sampled_at, release) "
                "SELECT file_name, ? + place, ?, ? FROM temp.picked ORDER BY file_name",
                (last, timestamp(now), last_release(connection)),
            )
            connection.execute(
                "INSERT INTO images (file_name) "
                "SELECT file_name FROM temp.picked ORDER BY file_name"
            )
            connection.execute("DROP TABLE temp.picked")
            apply_exclusions(connection)
            set_facts(connection, facts or {})


def _ordered(connection: sqlite3.Connection, plan: Plan, listed: str) -> Iterator[str]:
    """Yield file names in the plan's order. listed: SQL from FROM on, with a condition."""
    values = list[str]()
    for column, wanted in (
        # A slide of unknown kind may be sampled only where every kind may.
        ("kind", plan.kinds if len(plan.kinds) < len(Kind) else ()),
        ("project_id", plan.projects),
        ("sample_type", plan.sample_types),
        ("disease_type", plan.diseases),
    ):
        if wanted:
            listed += f" AND +{column} IN ({', '.join('?' * len(wanted))})"
            values += wanted
    if plan.cases:
        listed += " AND file_name IN (SELECT value FROM json_each(?))"
        values.append(json.dumps(resolve(connection, plan.cases)[0]))
    stratum = "NULL" if plan.by is By.NONE else plan.by
    slides = connection.execute(f"SELECT file_name, {stratum}, position {listed}", values)
    names = arranged(slides, plan)
    return _one_per_case(connection, names) if plan.one_per_case else names


def _one_per_case(connection: sqlite3.Connection, names: Iterable[str]) -> Iterator[str]:
    """Yield the sampled slides, and the first of each case that has none of these."""
    sampled = {name for (name,) in connection.execute("SELECT file_name FROM sample")}
    rows = connection.execute("SELECT file_name, case_barcode FROM slides")
    case_of = {name: case for name, case in rows if case is not None}
    known = {case_of.get(name) for name in sampled}
    for name in names:
        case = case_of.get(name)
        if name in sampled or case is None or case not in known:
            known.add(case)
            yield name
