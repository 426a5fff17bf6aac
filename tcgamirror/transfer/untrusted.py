"""The catalogue of another mirror, read as data that may be hostile.

It must have exactly this program's tables and view. SQLite must find it whole, and every value
must be one that this program could have written (see `columns`). Its file is never written,
nor attached to another.
Source: SQLite's advice on untrusted files (sqlite.org/security.html).
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tcgamirror.catalogue import database
from tcgamirror.catalogue.columns import SAMPLED, TABLES, Check, image_fault
from tcgamirror.catalogue.database import Row, Value
from tcgamirror.catalogue.images import Image, images_of
from tcgamirror.catalogue.journals import JOURNALS, check_size, copy_database
from tcgamirror.catalogue.schema import APPLICATION_ID, NEWEST, OLDEST
from tcgamirror.imaging.store import Store
from tcgamirror.mirror import provenance
from tcgamirror.mirror.directory import FIXED
from tcgamirror.mirror.lockfile import MOST_SLIDES
from tcgamirror.mirror.settings import Settings, read_sample
from tcgamirror.model.errors import BadExport, BadSettings, Damaged, DiskFull
from tcgamirror.model.slide import ImageFormat, Resample, Status
from tcgamirror.system.openat import Tree

MAX_BYTES = 4 << 30
"""Size of the file, enforced by the code that copies it.

A catalogue of every TCGA slide has about 50 MB, of a million 2 GB.
"""

MAX_ROWS = 20_000_000
"""Rows of a table that may have several for a slide."""

MAX_RELEASES = 20_000
"""Merged listings: one each night for fifty years. All of them are held in memory."""

MAX_ATTEMPTS = 100_000
"""Attempts at one slide: three each night for ninety years."""

_FORMS = rf"({'|'.join(Resample)}), ({'|'.join(ImageFormat)})"
_TARGET = re.compile(rf"(?:([0-9.e+-]{{1,30}}) µm/px|at most ([0-9]{{1,10}}) px), {_FORMS}")
"""The fact FIXED."""

_MAX_VALUE = 1 << 20
"""Bytes of one value or row. SQLite refuses longer ones."""

_MAX_SQL = 10_000
"""Characters of one statement, also in the schema. The longest one has 1,300."""

_PAGES_AT_ONCE = 10_000

_MAX_STEPS = 5000
"""Steps of SQLite's virtual machine allowed for the schema and the result of ANALYZE.

A real catalogue takes 200.

Both are read before anything can be checked. A hostile file may have pages that lead to each
other, or a million views.
"""

_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema"

_SQLITE_TABLES = frozenset(
    ("table", name, name, f"CREATE TABLE {name}({columns})")
    for name, columns in (
        ("sqlite_sequence", "name,seq"),
        ("sqlite_stat1", "tbl,idx,stat"),
        ("sqlite_stat4", "tbl,idx,neq,nlt,ndlt,sample"),
    )
)
"""SQLite's own tables, which ANALYZE or a dropped table leave."""


class UntrustedCatalogue:
    """The open catalogue of another mirror. Every method may raise Damaged.

    Call `check` before `images` and `names`, which do not check values themselves.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Open the catalogue at `path`, which no other process writes. name: its name in errors.

        A catalogue of an older version is migrated in a copy.

        Raises:
            Damaged: for a file that is not a whole catalogue.
            BadExport: for a catalogue of a newer version.
        """
        self._name = name
        # Whether a text had to be cleaned, and whether all was checked and none had to be.
        self._has_cleaned = self._is_clean = False
        with self._translated():
            self._connection = _opened(path)
            try:
                version = self._version()
                self._check_schema(version)
                self._check_whole()
                if version < NEWEST:
                    self._connection = _migrated(self._connection)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        self._connection.close()

    # Row by row -------------------------------------------------------------------

    @property
    def fixed(self) -> str:
        """Return the fact FIXED, the mirror's target; empty if there is none."""
        return self._fact(FIXED)

    @property
    def settings(self) -> Settings:
        """Return default settings but for target and plan, which the catalogue's facts fix."""
        match = _TARGET.fullmatch(self.fixed)
        with suppress(ValueError, BadSettings):
            if match is not None:
                size = {"mpp": float(match[1])} if match[1] else {"max_size": int(match[2])}
                settings = read_sample({**size, "resample": match[3], "format": match[4]})
                if settings.fixed == self.fixed:
                    plan = provenance.parse_plan(self._fact(provenance.PLAN))
                    return replace(settings, plan=plan or settings.plan)
        raise self._damage(f"images of {self.fixed[:80]!r}, which no mirror has")

    def sample_facts(self) -> Mapping[str, str]:
        """Return facts that are true of exactly this sample, if this program knows them."""
        return provenance.imported_facts(self._fact(provenance.DRAWN))

    def _fact(self, key: str) -> str:
        found = self._rows("facts", TABLES["facts"], "facts WHERE key = ?", key)
        return "".join(str(row["value"]) for row in found)

    def images(self) -> list[Image]:
        """Return every recorded image, by rank."""
        with self._translated():
            return images_of(self._connection)

    def rows(self, table: str) -> Iterator[Row]:
        """Yield every row of a table, in the order in which they were written."""
        return self._rows(table, TABLES[table], f"{table} ORDER BY rowid")

    def names(self, table: str) -> set[str]:
        """Return the file name of every row of a table."""
        with self._translated():
            rows = self._connection.execute(f"SELECT file_name FROM {table}")
            return {name for (name,) in rows}

    def listed(self) -> Iterator[Row]:
        """Yield every slide of the last listing, in its order."""
        where = "slides WHERE upstream IN ('current', 'changed') ORDER BY position"
        return self._rows("slides", TABLES["slides"], where)

    def sampled(self, status: Status | None = None) -> Iterator[Row]:
        """Yield the row of each sampled slide and its image, by rank.

        status: of the slides; None for any.
        """
        joined = "sample JOIN images USING (file_name) JOIN slides USING (file_name)"
        where = "" if status is None else f"WHERE status = '{status}'"
        return self._rows("sample", SAMPLED, f"{joined} {where} ORDER BY rank")

    def attempts(self, names: Sequence[str]) -> Iterator[Row]:
        """Yield the attempts at slides, one slide's after another's."""
        named = "file_name IN (SELECT value FROM json_each(?))"
        where = f"attempts WHERE {named} ORDER BY file_name, rowid"
        return self._rows("attempts", TABLES["attempts"], where, json.dumps(names))

    def _rows(
        self, table: str, checks: Mapping[str, Check], where: str, *values: str
    ) -> Iterator[Row]:
        with self._translated():
            # Row by row, so that a fault shows before the next row takes memory.
            for row in self._connection.execute(f"SELECT {', '.join(checks)} FROM {where}", values):
                checked = row if self._is_clean else self._checked(row, checks, table)
                yield dict(zip(checks, checked, strict=True))

    def _checked(
        self, row: Sequence[Value], checks: Mapping[str, Check], table: str
    ) -> Sequence[Value]:
        checked: list[Value] = []
        try:
            for check, value in zip(checks.values(), row, strict=True):
                checked.append(check(value))
        except ValueError:
            column, value = [*checks][len(checked)], row[len(checked)]
            raise self._damage(f"{value!r:.80} for {column} in its {table}") from None
        self._has_cleaned |= checked != list(row)
        return checked

    # As a whole -------------------------------------------------------------------

    def check(self) -> None:
        """Read all of it once, so that a fault anywhere keeps all of it out."""
        self._check_counts()
        store = Store(Path(), self.settings.form)
        places: set[Value] = set()
        for table in TABLES:
            for row in self.rows(table):
                if table == "images":
                    self._check_image(row, store, places)
        self._is_clean = not self._has_cleaned

    def _check_image(self, row: Row, store: Store, places: set[Value]) -> None:
        """Raise Damaged for an image with a part of its columns, or at another slide's place."""
        if fault := image_fault(row):
            raise self._damage(f"{fault} of {row['file_name']}")
        place = row["path"]
        if place is None:
            return
        # Its folder is that of the project which the slide had at the time.
        name = str(place).rpartition("/")[2]
        if name != store.name(str(row["file_name"])) or place in places:
            raise self._damage(f"an image of {row['file_name']} at {place!r}")
        places.add(place)

    def check_places(self, here: Mapping[str | None, str]) -> None:
        """Raise Damaged for an image in the place of another slide's. here: file names by path."""
        for image in self.images() if here else ():
            if here.get(image.path, image.file_name) != image.file_name:
                raise self._damage(
                    f"an image of {image.file_name} at {image.path}, which here is that of "
                    f"{here[image.path]}"
                )

    def _check_counts(self) -> None:
        with self._translated():
            counts = {
                table: self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in TABLES
            }
            of_one = self._connection.execute(
                "SELECT count(*) FROM attempts GROUP BY file_name ORDER BY 1 DESC LIMIT 1"
            ).fetchone()
        for table, count in counts.items():
            if count > _max_rows(table):
                raise self._damage(f"{count:,} rows in its {table}")
        if of_one is not None and of_one[0] > MAX_ATTEMPTS:
            raise self._damage(f"{of_one[0]:,} attempts at one slide")
        if counts["sample"] != counts["images"]:
            raise self._damage("a sampled slide without a status")

    # Before anything of it is read --------------------------------------------------

    def _version(self) -> int:
        (mark,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if mark != APPLICATION_ID or version < OLDEST:
            raise Damaged(f"{self._name} is not a catalogue of tcgamirror")
        if version > NEWEST:
            raise BadExport(
                f"{self._name} was made by a newer tcgamirror (schema {version}, this one knows "
                f"{NEWEST}). Upgrade this one"
            )
        return int(version)

    def _check_schema(self, version: int) -> None:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as blank:
            database.migrate(blank, version)
            expected = set(blank.execute(_SCHEMA))
        for entry in self._connection.execute(_SCHEMA):
            if entry in expected:
                expected.remove(entry)
            elif entry not in _SQLITE_TABLES:
                raise self._damage(f"another schema than tcgamirror makes, in {entry[1]!r:.80}")
        if expected:
            raise self._damage(f"another schema than tcgamirror makes, without {min(expected)[1]}")
        self._connection.set_progress_handler(None, 0)

    def _check_whole(self) -> None:
        # Only up to the first fault, as SQLite would go on to read whatever is there.
        fault = database.first_fault(self._connection)
        if fault is not None:
            raise Damaged(f"{self._name} is damaged ({fault!r:.200}). Run tcgamirror verify there")

    def _damage(self, what: str) -> Damaged:
        return Damaged(f"{self._name} has {what}: nothing was changed")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn every error of SQLite into Damaged, or DiskFull for the copy."""
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            # ValueError: for bytes that are not text.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise DiskFull(f"{self._name}: no room for a copy. Free some") from error
            raise Damaged(f"{self._name} is damaged, or not a catalogue ({error})") from error


def copy_at_rest(tree: Tree, name: str, copy: Path) -> Path:
    """Copy the catalogue at `name` in a tree to one file, with its journals played back.

    Its schema is not read, as `database.connect` would: a hostile one may take for ever.
    Raises as `copy_database` does. Returns the path of the copy.
    """
    copied = copy_database(tree, name, copy.parent, MAX_BYTES)
    journals = [copied.with_name(copied.name + suffix) for suffix in JOURNALS]
    if any(path.exists() and path.stat().st_size for path in journals):
        copy.unlink(missing_ok=True)
        with (
            database.translate_errors(copied),
            closing(sqlite3.connect(copied)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            (size,) = source.execute("PRAGMA page_size").fetchone()
            # A journal may say that the database has any number of pages.
            source.backup(
                target,
                pages=_PAGES_AT_ONCE,
                # Python passes the number of pages as signed.
                progress=lambda _, __, pages: check_size(pages % (1 << 32) * size, MAX_BYTES),
            )
    else:
        copied.replace(copy)
    for path in (copied, *journals):
        path.unlink(missing_ok=True)
    return copy


def _max_rows(table: str) -> int:
    if table == "releases":
        return MAX_RELEASES
    return MOST_SLIDES if table in ("slides", "sample", "images", "tissue", "cases") else MAX_ROWS


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _MAX_SQL)
    connection.set_progress_handler(lambda: 1, _MAX_STEPS)
    # Pages of 30,000 slides; SQLite's own cache of 2 MB is read over and over.
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "cache_size = -65536"):
        connection.execute(f"PRAGMA {pragma}").fetchone()
    connection.execute("PRAGMA query_only = ON").fetchone()
    return connection


def _migrated(older: sqlite3.Connection) -> sqlite3.Connection:
    """Return a copy with the newest schema, which is temporary and has no name."""
    with closing(older):
        copy = sqlite3.connect("", isolation_level=None)
        copy.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
        older.backup(copy)
    database.migrate(copy)
    return copy
