"""What each listing merged has changed, as `changes` tells it."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass

from tcgamirror.errors import WrongUse

COUNTED = (
    "added",
    "changed",
    "reidentified",
    "superseded",
    "withdrawn",
    "returned",
    "duplicates",
)

_NUMBER = re.compile(r"(?:Data Release |Release |v)?(\d+(?:\.\d+)*)(?: - .*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that one listing changed about one slide. detail: what from and to, if known."""

    what: str
    file_name: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class Merge:
    """One listing that was merged.

    merge: its number, from 1. merged_at: ISO 8601, UTC. listed: slides in it.
    counts: by what it did, without what it did not.
    """

    merge: int
    release: str
    merged_at: str
    listed: int
    counts: dict[str, int]


def merges(connection: sqlite3.Connection, since: str | None) -> list[Merge]:
    """The listings merged, the oldest first; only those after the first of release `since`."""
    after = 0 if since is None else _number(connection, since)
    rows = connection.execute(
        f"SELECT merge, release, merged_at, listed, {', '.join(COUNTED)} FROM releases "
        "WHERE merge > ? ORDER BY merge",
        (after,),
    )
    return [
        Merge(
            merge,
            release,
            merged_at,
            listed,
            {what: count for what, count in zip(COUNTED, counts, strict=True) if count},
        )
        for merge, release, merged_at, listed, *counts in rows
    ]


def changes(connection: sqlite3.Connection, merge: int) -> list[Change]:
    """What the listing of that number changed, in its order."""
    rows = connection.execute(
        "SELECT what, file_name, detail FROM changes WHERE merge = ? ORDER BY change", (merge,)
    )
    return [Change(*row) for row in rows]


def _number(connection: sqlite3.Connection, since: str) -> int:
    known = connection.execute("SELECT merge, release FROM releases ORDER BY merge").fetchall()
    for merge, release in known:
        if is_called(str(release), since):
            return int(merge)
    names = ", ".join(dict.fromkeys(str(release) for _, release in known)) or "none yet"
    raise WrongUse(f"no release called {since} was merged; there are: {names}")


def is_called(release: str, name: str) -> bool:
    """Whether a person who says `name` means that release.

    >>> full = "Data Release 45.0 - December 04, 2025"
    >>> [is_called(full, name) for name in ("45", "45.0", "release 45", full, "4", "45.1")]
    [True, True, True, True, False, False]
    >>> is_called("manifest luad.txt", "luad.txt")
    True
    """
    given = name.strip()
    if given.lower() in (release.lower(), release.lower().removeprefix("manifest ")):
        return True
    found, asked = _NUMBER.fullmatch(release), _NUMBER.fullmatch(given)
    return bool(found and asked) and _plain(found) == _plain(asked)


def _plain(match: re.Match[str] | None) -> str:
    """The number without zeros at its end: 45 and 45.0 are the same release."""
    return "" if match is None else re.sub(r"(\.0)+$", "", match[1])
