"""A catalogue that came from elsewhere, read as data that may be hostile.

It has to have exactly this program's tables and view, no trigger and nothing
more, to be whole by SQLite's own check, and every value has to be one that this
program could have written: names and paths lead nowhere but into `images/`.
Nothing of its file is ever taken over but the values of its rows.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tcgamirror import database, values
from tcgamirror.errors import BadSettings, Damaged, WrongUse
from tcgamirror.home import FIXED
from tcgamirror.model import ImageFormat, Resample, Slide, Target
from tcgamirror.settings import Settings
from tcgamirror.upkeep import complaints

TABLES = (
    *("slides", "former_ids", "releases", "changes", "sample", "images", "runs", "attempts"),
    "facts",
)
"""Every table, those that others refer to before those."""

MOST_TEXT = 20_000
"""Characters of one value; the longest are the messages of failed tries."""

_DONE_IN_PART = (
    "SELECT count(*) FROM images WHERE status = 'done' "
    "AND (path IS NULL OR bytes IS NULL OR sha256 IS NULL OR width IS NULL OR height IS NULL)"
)
_PATH = re.compile(r"images/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/([^/\0]+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BY_MPP = re.compile(r"([0-9.e+-]{1,30}) µm/px, (exact|native), (png|jpeg|tiff)")
_BY_SIZE = re.compile(r"at most ([0-9]{1,10}) px, (exact|native), (png|jpeg|tiff)")

Value = str | int | float | None
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """An image the catalogue tells of.

    path: relative to the mirror. done: whether it must be there.
    """

    file_name: str
    path: str
    bytes: int
    sha256: str
    done: bool


def images_of(connection: sqlite3.Connection) -> list[Image]:
    """Every image that is recorded, by rank; also those that are to be fetched again."""
    rows = connection.execute(
        "SELECT file_name, path, images.bytes, sha256, status = 'done' "
        "FROM images JOIN sample USING (file_name) "
        "WHERE path IS NOT NULL AND images.bytes IS NOT NULL AND sha256 IS NOT NULL ORDER BY rank"
    )
    return [Image(name, path, size, sha256, bool(done)) for name, path, size, sha256, done in rows]


def settings_of(fixed: str) -> Settings:
    """Settings for the images that a mirror was made for, told as the fact FIXED tells them.

    Raises Damaged for words that no mirror has.
    """
    by_mpp, by_size = _BY_MPP.fullmatch(fixed), _BY_SIZE.fullmatch(fixed)
    match = by_mpp or by_size
    if match is not None:
        try:
            asked = Target(
                mpp=float(match[1]) if by_mpp else None,
                max_size=int(match[1]) if by_size else None,
                resample=Resample(match[2]),
            )
        except ValueError as error:
            raise Damaged(f"the catalogue says that it is of {fixed[:80]!r}") from error
        settings = Settings(target=asked, form=ImageFormat(match[3]))
        if settings.fixed == fixed and (asked.mpp is None or 0 < asked.mpp < math.inf):
            return settings
    raise Damaged(f"the catalogue says that it is of {fixed[:80]!r}, which no mirror is")


class Foreign:
    """An open catalogue from elsewhere, of which nothing is believed. To be closed.

    path: of a file that nobody else writes. name: what it is called in errors.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Raises Damaged for what is no whole catalogue of ours, WrongUse for another version's."""
        self._path = path
        self._name = name
        with self._told():
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None
            )
            try:
                self._prepare()
                self._check_schema()
                found = complaints(self._connection)
            except BaseException:
                self._connection.close()
                raise
        if found:
            self._connection.close()
            raise Damaged(f"{name} is damaged ({found[0]:.200}); verify its mirror")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def _told(self) -> _Named:
        return _Named(self._name)

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.execute("PRAGMA cell_size_check = ON")
        self._connection.execute("PRAGMA query_only = ON")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)

    def _check_schema(self) -> None:
        try:
            database.check(self._connection, Path(self._name), read_only=True)
        except WrongUse as error:
            raise WrongUse(
                f"{self._name} was made by another version of tcgamirror: use the same one on both "
                f"sides ({error})"
            ) from error
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as blank:
            database.migrate(blank)
            ours = _schema(blank)
            self._columns = {table: _columns(blank, table) for table in TABLES}
        if _schema(self._connection) != ours:
            raise Damaged(
                f"{self._name} has other tables, views or triggers than tcgamirror makes: "
                "nothing of it is taken"
            )

    @property
    def fixed(self) -> str:
        """What images the mirror was made for."""
        with self._told():
            row = self._connection.execute(
                "SELECT value FROM facts WHERE key = ?", (FIXED,)
            ).fetchone()
        return str(row[0]) if row else ""

    def check(self) -> Settings:
        """Looks at every value; the settings for such images. Raises Damaged for what is odd."""
        settings = settings_of(self.fixed)
        self._try()
        with self._told():
            (lone,) = self._connection.execute(_DONE_IN_PART).fetchone()
        if lone:
            raise Damaged(f"{self._name} tells of {lone:,} images only in part: nothing is taken")
        paths = _Paths(settings.form)
        for image in self.images():
            paths.check(image)
        return settings

    def _try(self) -> None:
        """Writes all rows to a catalogue of our own making, on disk, which is thrown away."""
        with closing(sqlite3.connect("", isolation_level=None)) as trial:
            database.migrate(trial)
            trial.execute("PRAGMA foreign_keys = ON")
            try:
                with database.transaction(trial):
                    for table in TABLES:
                        insert(trial, table, self.columns(table), self.rows(table))
            except sqlite3.IntegrityError as error:
                raise Damaged(
                    f"{self._name} holds rows that contradict each other ({error}): "
                    "nothing is taken"
                ) from error

    def images(self) -> list[Image]:
        """Every image that is recorded, by rank."""
        with self._told():
            return images_of(self._connection)

    def columns(self, table: str) -> Sequence[str]:
        """The table's columns, as in a row."""
        return list(self._columns[table])

    def rows(self, table: str) -> Iterator[Row]:
        """Every row of a table, each value checked. Raises Damaged."""
        columns = self._columns[table]
        checks = [_check_of(table, name, kind) for name, kind in columns.items()]
        with self._told():
            for row in self._connection.execute(f"SELECT {', '.join(columns)} FROM {table}"):
                for value, name, right in zip(row, columns, checks, strict=True):
                    if value is not None and not right(value):
                        raise Damaged(
                            f"{self._name} says that a {name} of its {table} is "
                            f"{str(value)[:80]!r}, which tcgamirror never wrote: nothing is taken"
                        )
                yield row


def insert(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[Row]
) -> None:
    """Adds rows to a table. A former file_id may be known to both sides."""
    verb = "INSERT OR IGNORE" if table == "former_ids" else "INSERT"
    marks = ", ".join("?" * len(columns))
    connection.executemany(f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


class _Named:
    """Raises what SQLite says of the file as errors that name where it came from."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, sqlite3.Error | UnicodeDecodeError):
            raise Damaged(f"{self._name} is no whole catalogue ({error})") from error


class _Paths:
    """Where images may lie: under the name that the store gives them, no two in one place."""

    def __init__(self, form: ImageFormat) -> None:
        # Only now: a catalogue that has not changed is never checked, and the store decodes.
        from tcgamirror.store import Store

        self._store = Store(Path(), form)
        self._seen: set[str] = set()

    def check(self, image: Image) -> None:
        match = _PATH.fullmatch(image.path)
        name = self._store.path(Slide("", image.file_name)).rpartition("/")[2]
        if match is None or match[1] != name or image.path in self._seen:
            raise Damaged(f"the source's catalogue says that an image lies at {image.path!r:.200}")
        self._seen.add(image.path)


def _schema(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master")
    # What ANALYZE leaves is SQLite's own and is not read.
    return {
        (kind, name, " ".join(sql.split()))
        for kind, name, sql in rows
        if not name.startswith("sqlite_stat")
    }


def _columns(connection: sqlite3.Connection, table: str) -> Mapping[str, str]:
    return {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}


def _check_of(table: str, column: str, kind: str) -> Callable[[object], bool]:
    special = _SPECIAL.get(column)
    if special is not None and (column != "bytes" or table == "images"):
        return special
    return {"TEXT": _is_text, "INTEGER": _is_whole, "REAL": _is_number}[kind]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MOST_TEXT and "\0" not in value


def _is_whole(value: object) -> bool:
    return isinstance(value, int)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


_SPECIAL: Mapping[str, Callable[[object], bool]] = {
    "file_name": lambda value: values.file_name(value) is not None,
    "file_id": lambda value: values.file_id(value) is not None,
    "project_id": lambda value: values.project_id(value) is not None,
    "md5": lambda value: values.md5(value) is not None,
    "path": lambda value: isinstance(value, str) and _PATH.fullmatch(value) is not None,
    "sha256": lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None,
    "bytes": lambda value: values.size(value) is not None,
    "width": lambda value: isinstance(value, int) and 0 < value < 2**31,
    "height": lambda value: isinstance(value, int) and 0 < value < 2**31,
}


def same_target(theirs: str, ours: str, source: str, here: Path) -> None:
    """Raises BadSettings, with the difference, for mirrors of other images."""
    if theirs != ours:
        raise BadSettings(
            f"{source} holds images of {theirs}, but {here} images of {ours}: "
            "name another directory"
        )
