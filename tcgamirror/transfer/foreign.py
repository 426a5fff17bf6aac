"""A catalogue from outside: taken for one only if its schema is exactly ours, and read row by row.

Its file is never attached to another, and its views, triggers and indexes are
never run: it has none but ours. Every value is checked before it goes anywhere.
Source: SQLite's own advice on untrusted files (sqlite.org/security.html).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from tcgamirror.database import migrate
from tcgamirror.errors import BadExport, WrongUse
from tcgamirror.exchange import Row, Value
from tcgamirror.home import FIXED
from tcgamirror.model import ImageFormat, MppSource, Slide, Status
from tcgamirror.schema import APPLICATION_ID, MIGRATIONS
from tcgamirror.store import Store
from tcgamirror.transfer import cells
from tcgamirror.transfer.cells import Check

MOST_ROWS = 2_000_000
_MOST_VALUE = 1 << 20
"""Bytes of one value or row; SQLite refuses longer ones."""

_ROWS_AT_ONCE = 1000
_SEQUENCE = (
    "table",
    "sqlite_sequence",
    "sqlite_sequence",
    "CREATE TABLE sqlite_sequence(name,seq)",
)
"""What SQLite leaves behind of a table that somebody has added and dropped."""


class Foreign:
    """An open copy of a catalogue from outside; to be closed. Its methods raise BadExport."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Foreign:
        """The catalogue at `path`, which is this program's own copy of it.

        Raises BadExport for what is none of ours, WrongUse for a newer version's.
        """
        with _translated():
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_VALUE)
                for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
                    connection.execute(f"PRAGMA {pragma}").fetchone()
                _check_schema(connection)
                migrate(connection)
                connection.execute("PRAGMA query_only = ON")
            except BaseException:
                connection.close()
                raise
        return cls(connection)

    def close(self) -> None:
        self._connection.close()

    @property
    def fixed(self) -> str | None:
        """What images the mirror was made for."""
        with _translated():
            row = self._connection.execute(
                "SELECT value FROM facts WHERE key = ?", (FIXED,)
            ).fetchone()
        return None if row is None else str(row[0])

    # Row by row -------------------------------------------------------------------

    def slides(self) -> Iterator[Row]:
        return self._rows("slides", cells.SLIDES, "position, file_name")

    def former_ids(self) -> Iterator[Row]:
        return self._rows("former_ids", cells.FORMER_IDS, "rowid")

    def releases(self) -> Iterator[Row]:
        return self._rows("releases", cells.RELEASES, "merge")

    def changes(self) -> Iterator[Row]:
        return self._rows("changes", cells.CHANGES, "change")

    def sample(self) -> Iterator[Row]:
        """Slides with what came of them and their images: columns of `sample` and `images`."""
        checks = {**cells.SAMPLE, **cells.IMAGES}
        return self._rows("sample JOIN images USING (file_name)", checks, "rank")

    def attempts(self, name: str | None = None) -> Iterator[Row]:
        """Of one slide, or all."""
        return self._rows("attempts", cells.ATTEMPTS, "attempt", name)

    def slide(self, name: str) -> Row:
        """One slide that is listed."""
        return next(self._rows("slides", cells.SLIDES, "rowid", name))

    def _rows(
        self, table: str, checks: Mapping[str, Check], order: str, name: str | None = None
    ) -> Iterator[Row]:
        sql = f"SELECT {', '.join(checks)} FROM {table}"
        where = "" if name is None else " WHERE file_name = ?"
        with _translated():
            cursor = self._connection.execute(
                f"{sql}{where} ORDER BY {order} LIMIT {MOST_ROWS}", () if name is None else (name,)
            )
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                for row in rows:
                    yield _checked(dict(zip(checks, row, strict=True)), checks, table)

    # As a whole -------------------------------------------------------------------

    def check(self, form: ImageFormat) -> None:
        """Reads all of it once, so that what is wrong anywhere keeps all of it out."""
        self._check_sizes()
        store = Store(Path(), form)
        paths = {}
        for slide in self.slides():
            name = str(slide["file_name"])
            paths[name] = store.path(slide_of(slide))
        ranks = set()
        for row in self.sample():
            if row["file_name"] not in paths or row["rank"] in ranks:
                raise BadExport("its catalogue samples a rank twice, or a slide never listed")
            ranks.add(row["rank"])
            _check_image(row, paths[str(row["file_name"])])
        merges = {release["merge"] for release in self.releases()}
        for change in self.changes():
            if change["file_name"] not in paths or change["merge"] not in (*merges, None):
                raise BadExport("its catalogue has a change of what was never listed")
        for rows in (self.former_ids(), self.attempts()):
            if any(row["file_name"] not in paths for row in rows):
                raise BadExport("its catalogue tells of a slide that was never listed")

    def _check_sizes(self) -> None:
        with _translated():
            for table in ("slides", "former_ids", "changes", "sample", "images", "attempts"):
                (count,) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()
                if count > MOST_ROWS:
                    raise BadExport(f"its catalogue has {count:,} {table}")
            (lone,) = self._connection.execute(
                "SELECT (SELECT count(*) FROM sample) - (SELECT count(*) FROM images)"
            ).fetchone()
        if lone:
            raise BadExport("its catalogue has a sampled slide and nothing of what came of it")


def slide_of(row: Row) -> Slide:
    """As much of a slide as says where its image lies."""
    project_id = row["project_id"]
    return Slide(
        file_id=str(row["file_id"]),
        file_name=str(row["file_name"]),
        project_id=None if project_id is None else str(project_id),
    )


def _checked(row: dict[str, object], checks: Mapping[str, Check], table: str) -> Row:
    checked: dict[str, Value] = {}
    for name, check in checks.items():
        try:
            checked[name] = check(row[name])
        except ValueError:
            called = table.partition(" ")[0]
            raise BadExport(
                f"its catalogue has {row[name]!r:.80} for {name}, in {called}"
            ) from None
    return checked


def _check_image(row: Row, path: str) -> None:
    """An image is told of in full and lies where this program would put it, or is not told of."""
    if row["path"] not in (None, path):
        raise BadExport(f"its catalogue has an image at {row['path']!r:.120}, not at {path!r:.120}")
    needed = ("path", "bytes", "sha256", "width", "height", "source", "level", "fetched_at")
    told = [row[name] is not None for name in (*needed, "level_downsample", "mpp_source")]
    if any(told) != all(told) or (row["status"] == Status.DONE and not all(told)):
        raise BadExport(f"its catalogue tells of the image of {row['file_name']} only in part")
    known = [row[name] is not None for name in ("base_mpp", "mpp_x", "mpp_y")]
    if any(known) != all(known) or (any(known) and row["mpp_source"] == MppSource.UNKNOWN):
        raise BadExport(f"its catalogue tells the resolution of {row['file_name']} only in part")


# The schema ----------------------------------------------------------------------


def _check_schema(connection: sqlite3.Connection) -> None:
    """Raises BadExport if anything is there that a catalogue of that version has not."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID or version < 1:
        raise BadExport("its catalogue is no catalogue of tcgamirror")
    if version > len(MIGRATIONS):
        raise WrongUse(
            f"its catalogue was made by a newer tcgamirror (schema {version}, this one knows "
            f"{len(MIGRATIONS)}): upgrade"
        )
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as blank:
        migrate(blank, MIGRATIONS[:version])
        ours = schema_of(blank)
    theirs = schema_of(connection)
    if theirs != ours:
        odd = min(name for _, name, _, _ in theirs ^ ours)
        raise BadExport(f"its catalogue has another schema than a catalogue's, in {odd!r:.80}")
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise BadExport(f"its catalogue is damaged ({found!r:.200})")


def schema_of(connection: sqlite3.Connection) -> set[tuple[str, str, str, str | None]]:
    """All that a database has: types, names, tables and the SQL that made them."""
    there = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return {row for row in there if row != _SEQUENCE}


@contextmanager
def _translated() -> Iterator[None]:
    """What SQLite says of a file from outside tells of that file, whatever it is."""
    try:
        yield
    except sqlite3.Error as error:
        raise BadExport(f"its catalogue is damaged, or no catalogue ({error})") from error
