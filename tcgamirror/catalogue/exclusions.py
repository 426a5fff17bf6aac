"""Exclusions: slides that a person left out, in whatever sample they are or will be.

An excluded slide keeps its place in the sample, so that samples stay nested. Its image has the
status `excluded`, and the reason as its error, until the exclusion is taken back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from tcgamirror.catalogue.database import Part, Row
from tcgamirror.catalogue.names import resolve
from tcgamirror.model.slide import Status

NO_REASON = "no reason given"
"""Reason of an exclusion without one."""

_INTO_EXCLUSIONS = (
    "INTO exclusions (file_name, reason, excluded_by, excluded_at, own) VALUES (?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One slide that was left out.

    Attributes:
        excluded_by: the user's name.
        excluded_at: ISO 8601, UTC.
        own: excluded here, not by a mirror whose rows were taken over.
    """

    file_name: str
    reason: str
    excluded_by: str
    excluded_at: str
    own: bool = True


class Exclusions(Part):
    """The slides that were left out."""

    def all(self) -> list[Exclusion]:
        """Return every exclusion, the oldest first."""
        with self._database.reading() as connection:
            return exclusions_of(connection)

    def count(self) -> int:
        """Return how many slides are excluded, in the sample or not."""
        return int(self._database.value("SELECT count(*) FROM exclusions"))

    def resolve(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the file names of slides that names mean, and names without any."""
        with self._database.reading() as connection:
            return resolve(connection, names)

    def add(self, exclusions: Sequence[Exclusion]) -> list[str]:
        """Exclude slides; return file names of sampled ones that were not excluded before.

        An exclusion takes the place of an earlier one, so that reasons can be corrected.
        """
        with self._database.change() as connection:
            names = {exclusion.file_name for exclusion in exclusions}
            fresh = [
                name
                for (name,) in connection.execute(
                    "SELECT file_name FROM images JOIN sample USING (file_name) "
                    "WHERE status <> 'excluded' ORDER BY rank"
                )
                if name in names
            ]
            put_exclusions(connection, exclusions)
            apply_exclusions(connection)
        return fresh

    def remove(self, names: Sequence[str]) -> list[str]:
        """Take exclusions back; return the file names of slides that were excluded.

        Sampled ones are pending, with the image that was kept, if there is one.
        """
        with self._database.change() as connection:
            excluded = set(_names(connection))
            removed = [name for name in names if name in excluded]
            connection.executemany(
                "DELETE FROM exclusions WHERE file_name = ?", ((name,) for name in removed)
            )
            connection.executemany(
                "UPDATE images SET status = 'pending', error = NULL, failures = 0 "
                "WHERE file_name = ? AND status = 'excluded'",
                ((name,) for name in removed),
            )
        return removed

    def accept_kept(self, names: Iterable[str]) -> None:
        """Make slides done whose kept image is whole, unless their file has changed since."""
        with self._database.change() as connection:
            connection.executemany(
                f"UPDATE images SET status = '{Status.DONE}' WHERE file_name = ? "
                "AND status = 'pending' AND sha256 IS NOT NULL AND EXISTS (SELECT 1 FROM slides "
                "WHERE slides.file_name = images.file_name AND upstream <> 'changed')",
                ((name,) for name in names),
            )


def exclusions_of(connection: sqlite3.Connection) -> list[Exclusion]:
    """Return every exclusion, the oldest first."""
    rows = connection.execute(
        "SELECT file_name, reason, excluded_by, excluded_at, own FROM exclusions "
        "ORDER BY excluded_at, file_name"
    )
    return [Exclusion(name, reason, by, at, bool(own)) for name, reason, by, at, own in rows]


def exclusion_of(row: Row) -> Exclusion:
    """Return the exclusion of another catalogue's row, which is not this mirror's own."""
    columns = ("file_name", "reason", "excluded_by", "excluded_at")
    file_name, reason, excluded_by, excluded_at = (str(row[name]) for name in columns)
    return Exclusion(file_name, reason, excluded_by, excluded_at, own=False)


def put_exclusions(connection: sqlite3.Connection, exclusions: Iterable[Exclusion]) -> None:
    """Write exclusions, in place of those of the same slides, within the open transaction."""
    connection.executemany(f"INSERT OR REPLACE {_INTO_EXCLUSIONS}", map(astuple, exclusions))


def merge_exclusions(connection: sqlite3.Connection, exclusions: Iterable[Exclusion]) -> None:
    """Write exclusions of another mirror within the open transaction.

    Those made here stay. Of others of the same slide, the newer one stays.
    """
    connection.executemany(
        f"INSERT {_INTO_EXCLUSIONS} ON CONFLICT (file_name) DO UPDATE SET "
        "reason = excluded.reason, excluded_by = excluded.excluded_by, "
        "excluded_at = excluded.excluded_at WHERE NOT own "
        "AND excluded.excluded_at > exclusions.excluded_at",
        map(astuple, exclusions),
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


def _names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT file_name FROM exclusions")]
