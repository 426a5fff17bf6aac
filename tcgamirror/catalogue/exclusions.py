"""Exclusions: slides that a person left out, in whatever sample they are or will be.

An excluded slide keeps its place in the sample, so that samples stay nested. Its image has the
status `excluded`, and the reason as its error, until the exclusion is taken back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

from tcgamirror.catalogue.database import Part, Row, insert
from tcgamirror.catalogue.names import resolve

NO_REASON = "no reason given"
"""Reason of an exclusion without one."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One slide that was left out. excluded_at: ISO 8601, UTC.

    own: whether it was excluded here, not by a mirror whose rows were taken over.
    """

    file_name: str
    reason: str
    excluded_by: str
    excluded_at: str
    own: bool = True


_COLUMNS = tuple(field.name for field in fields(Exclusion))


class Exclusions(Part):
    """The slides that were left out."""

    def all(self) -> list[Exclusion]:
        """Return every exclusion, the oldest first."""
        with self._database.reading() as connection:
            return exclusions_of(connection)

    def resolve(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the file names of slides that names mean, and names without any."""
        with self._database.reading() as connection:
            return resolve(connection, names)

    def add(self, exclusions: Sequence[Exclusion]) -> list[str]:
        """Exclude slides; return file names of sampled ones that were not excluded before.

        An exclusion takes the place of an earlier one, so that reasons can be corrected.
        """
        with self._database.change() as connection:
            names = json.dumps([exclusion.file_name for exclusion in exclusions])
            sql = (
                "SELECT file_name FROM images JOIN sample USING (file_name) WHERE file_name IN "
                "(SELECT value FROM json_each(?)) AND status <> 'excluded' ORDER BY rank"
            )
            fresh = self._database.column(sql, names)
            put_exclusions(connection, exclusions)
            apply_exclusions(connection)
        return fresh

    def remove(self, names: Sequence[str]) -> tuple[list[str], int]:
        """Take exclusions back; return names of excluded slides, and how many are sampled.

        Sampled ones are pending, with the image that was kept, if there is one.
        """
        with self._database.change() as connection:
            excluded = set(self._database.column("SELECT file_name FROM exclusions"))
            removed = [name for name in names if name in excluded]
            connection.executemany(
                "DELETE FROM exclusions WHERE file_name = ?", ((name,) for name in removed)
            )
            sampled = connection.executemany(
                "UPDATE images SET status = 'pending', error = NULL, failures = 0 "
                "WHERE file_name = ? AND status = 'excluded'",
                ((name,) for name in removed),
            )
        return removed, sampled.rowcount


def exclusions_of(connection: sqlite3.Connection) -> list[Exclusion]:
    """Return every exclusion, the oldest first."""
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM exclusions ORDER BY excluded_at, file_name"
    )
    return [Exclusion(name, reason, by, at, bool(own)) for name, reason, by, at, own in rows]


def put_exclusions(connection: sqlite3.Connection, exclusions: Iterable[Exclusion]) -> None:
    """Write exclusions, in place of those of the same slides, within the open transaction."""
    insert(connection, "exclusions", _COLUMNS, map(asdict, exclusions), conflict="OR REPLACE")


def merge_exclusions(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Write rows of another mirror's exclusions within the open transaction.

    Those made here stay. Of others of the same slide, the newer one stays.
    """
    connection.executemany(
        f"INSERT INTO exclusions ({', '.join(_COLUMNS)}) "
        "VALUES (:file_name, :reason, :excluded_by, :excluded_at, 0) "
        "ON CONFLICT (file_name) DO UPDATE SET reason = excluded.reason, "
        "excluded_by = excluded.excluded_by, excluded_at = excluded.excluded_at "
        "WHERE NOT own AND excluded.excluded_at > exclusions.excluded_at",
        rows,
    )


def apply_exclusions(connection: sqlite3.Connection) -> None:
    """Give sampled slides the status that the exclusions demand, within the open transaction."""
    connection.execute(
        "UPDATE images SET status = 'excluded', failures = 0, retry_at = NULL, error = "
        "(SELECT reason FROM exclusions WHERE exclusions.file_name = images.file_name) "
        "WHERE file_name IN (SELECT file_name FROM exclusions)"
    )
    connection.execute(
        "UPDATE images SET status = 'pending', error = NULL WHERE status = 'excluded' "
        "AND NOT EXISTS (SELECT 1 FROM exclusions WHERE exclusions.file_name = images.file_name)"
    )
