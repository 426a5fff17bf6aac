"""Catalogues of other mirrors: import and sync accept what this program writes, and no more."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.catalogue import database
from tcgamirror.catalogue.columns import TABLES
from tcgamirror.catalogue.schema import OLDEST
from tcgamirror.model.errors import Damaged
from tcgamirror.transfer import untrusted
from tests.support.carrying import (
    catalogue,
    imported,
    inside,
    known,
    refused,
    resummed,
)
from tests.support.catalogues import make_older
from tests.support.levels import bounded
from tests.support.mirrors import column, contents, images, says
from tests.support.publishing import by_python, made_up, synced


def refused_by_sync(root: Path, source: Path) -> str:
    """Return the sentence of a sync that is refused and leaves nothing."""
    result = inside("sync", source, root)
    assert result.code in (2, 7) and not root.exists(), result
    return result.sentence.removeprefix("tcgamirror: ")


def refused_by_both(place: Path, source: Path) -> str:
    """Return what both import and sync say of the catalogue."""
    ours, theirs = refused(place / "i", source), refused_by_sync(place / "s", source)
    start = f"{source} cannot be imported: its catalogue "
    assert ours.startswith(start)
    assert theirs == ours.replace(start, f"the catalogue of {source} ")
    return ours.removeprefix(start)


# Schemas -----------------------------------------------------------------------------

SCHEMAS = {
    "trigger": "CREATE TRIGGER evil AFTER INSERT ON slides BEGIN DELETE FROM facts; END",
    "view": "CREATE VIEW evil AS SELECT * FROM slides",
    "view in place of a table": "ALTER TABLE facts RENAME TO f; "
    "CREATE VIEW facts AS SELECT 'fixed at init' AS key, '4 µm/px, exact, png' AS value",
    "other view": "DROP VIEW mirror; CREATE VIEW mirror AS SELECT load_extension('evil') AS path",
    "no view": "DROP VIEW mirror",
    "table": "CREATE TABLE evil (a)",
    "column": "ALTER TABLE slides ADD COLUMN evil TEXT DEFAULT 'a'",
    "index": "CREATE INDEX evil ON slides (hex(file_name))",
    "no index": "DROP INDEX slides_by_file_id",
    "virtual table": "CREATE VIRTUAL TABLE evil USING fts5(a)",
    "no text": "PRAGMA writable_schema = ON; "
    "UPDATE sqlite_schema SET sql = CAST(x'435245415445ff' AS TEXT) WHERE name = 'facts'",
    "newer": "PRAGMA user_version = 999",
    "none": "PRAGMA user_version = 0",
    "another's": "PRAGMA application_id = 7",
    "million words": f"CREATE VIEW evil AS SELECT {', '.join('1' * 1500)}, '{'a' * 900_000}'",
    "former id of none": "INSERT INTO former_ids VALUES "
    "('00000000-0000-0000-0000-000000000000', 'a.svs')",
    "slide of none": "DELETE FROM slides WHERE file_name = (SELECT min(file_name) FROM images)",
    "sampled, no image": "DELETE FROM images",
    "image, not sampled": "DELETE FROM sample",
}
SAID = {
    "newer": "newer tcgamirror",
    **dict.fromkeys(("none", "another's"), "is not a catalogue"),
    **dict.fromkeys(("no text", "million words"), "is damaged"),
    **dict.fromkeys(("former id of none", "slide of none", "image, not sampled"), "belongs to no"),
    "sampled, no image": "without a status",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_another_schema_and_rows_without_their_slide_are_refused(
    copy: Path, place: Path, name: str
) -> None:
    with catalogue(copy) as connection:
        connection.executescript(SCHEMAS[name])
    assert SAID.get(name, "has another schema") in refused_by_both(place, copy)


def test_every_column_has_a_check() -> None:
    with closing(sqlite3.connect(":memory:")) as blank:
        database.migrate(blank)
        tables = blank.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        assert {name for (name,) in tables} == set(TABLES)
        for table, checks in TABLES.items():
            columns = blank.execute(f"SELECT name FROM pragma_table_info('{table}')")
            assert {name for (name,) in columns} == set(checks)


def test_tables_of_sqlite_itself_are_accepted(copy: Path, tmp_path: Path) -> None:
    with catalogue(copy) as connection:
        connection.executescript(
            "ANALYZE; CREATE TABLE a (b INTEGER PRIMARY KEY AUTOINCREMENT); DROP TABLE a"
        )
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        assert {"sqlite_sequence", "sqlite_stat1"} <= names
    assert imported(tmp_path / "i", copy)["images"] == 3
    assert synced(copy, tmp_path / "s")["fetched"] == 3


def test_long_values_of_an_older_catalogue_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        database.migrate(connection, OLDEST)
        connection.execute("insert into facts values ('long', printf('%.*c', 2000000, 'x'))")
    opened = closing(untrusted.UntrustedCatalogue(path, "it"))
    with opened as read, pytest.raises(Damaged, match="too big"):
        list(read.rows("facts"))


def test_an_older_catalogue_is_migrated(export: Path, copy: Path, tmp_path: Path) -> None:
    make_older(copy, OLDEST)
    resummed(copy)
    before = (copy / "catalogue.db").read_bytes()
    imported(tmp_path / "import", copy)
    assert synced(copy, tmp_path / "folder")["fetched"] == 3
    with by_python(copy) as published:
        assert synced(published.url, tmp_path / "web")["fetched"] == 3
    of_mirror, *others = known(export)
    expected = [[(*row[:-2], None, None) for row in of_mirror], *others]
    for name in ("import", "folder", "web"):
        assert known(tmp_path / name) == expected
        assert images(tmp_path / name) == images(export)
    assert (copy / "catalogue.db").read_bytes() == before


# Values ------------------------------------------------------------------------------

VALUES = {
    "path above": ("images", "path = 'images/../../evil.png'"),
    "path absolute": ("images", "path = '/etc/passwd'"),
    "path of another": ("images", "path = (SELECT path FROM images ORDER BY rowid LIMIT 1)"),
    "path of no image": ("images", "path = 'images/TCGA-OV/a.png'"),
    "day that never was": ("images", "fetched_at = '2026-02-30T00:00:00Z'"),
    "year that never was": ("images", "fetched_at = '0000-01-01T00:00:00Z'"),
    "second that never was": ("sample", "sampled_at = '2026-01-01T00:00:60Z'"),
    "before there were computers": ("runs", "started = '1066-10-14T09:00:00Z'"),
    "path in gallery": ("images", "path = 'gallery/index.html'"),
    "path hidden": ("images", "path = 'images/TCGA-OV/.x'"),
    "folder hidden": ("images", "path = replace(path, 'images/', 'images/.')"),
    "folder below": ("images", "path = replace(path, 'images/', 'images/a/')"),
    "another format": ("images", "path = replace(path, '.png', '.html')"),
    "file name": ("slides", "file_name = '../a.svs'"),
    "file id": ("slides", "file_id = '?a=b'"),
    "project": ("slides", "project_id = '../../etc'"),
    "blob": ("slides", "primary_site = x'00'"),
    "blob for an error": ("images", "error = x'00ff'"),
    "huge text": ("slides", "primary_site = hex(zeroblob(2000000))"),
    "long text": ("images", "error = hex(zeroblob(400000))"),
    "text with an end": ("images", "error = 'a' || char(0) || 'b'"),
    "no UTF-8": ("slides", "primary_site = CAST(x'ff' AS TEXT)"),
    "text for number": ("images", "width = 'wide'"),
    "infinite": ("images", "mpp_x = 9e999"),
    "no resolution": ("images", "mpp_x = NULL"),
    "digest": ("images", "sha256 = 'A'"),
    "pixels": ("images", "pixels_sha256 = 'A'"),
    "no digest": ("images", "sha256 = NULL"),
    "no path": ("images", "path = NULL"),
    "no status": ("images", "status = 'x'"),
    "negative": ("images", "bytes = -1"),
    "moment": ("images", "fetched_at = '<script>'"),
    "source": ("attempts", "source = 'rm -rf'"),
    "run": ("runs", "exit_code = 'evil'"),
    "sampled, no name": ("sample", "file_name = NULL"),
    "fact": ("facts", "key = char(27) || '[2J'"),
    "change of no release": ("changes", "merge = 77"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_this_program_never_writes_is_refused(copy: Path, place: Path, name: str) -> None:
    table, change = VALUES[name]
    last = f"WHERE rowid = (SELECT max(rowid) FROM {table})"
    with catalogue(copy) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        assert connection.execute(f"UPDATE {table} SET {change} {last}").rowcount == 1
    message = refused_by_both(place, copy)
    assert message.endswith(": nothing was changed") or message.startswith("is damaged"), message


@pytest.mark.parametrize(
    ("fixed", "words"),
    [("1 µm/px, exact, png", "images of 1 µm/px"), ("4 mm", "which no mirror has")],
)
def test_images_of_other_settings_are_refused(
    copy: Path, place: Path, fixed: str, words: str
) -> None:
    with catalogue(copy) as connection:
        connection.execute("UPDATE facts SET value = ? WHERE key LIKE 'fixed%'", (fixed,))
    assert "are of different mirrors" in refused(place / "i", copy)
    assert words in refused_by_sync(place / "s", copy)


def twin(connection: sqlite3.Connection) -> tuple[str, str]:
    """Add a slide whose image has the path of the first one; return both names."""
    (name,) = connection.execute("SELECT file_name FROM sample WHERE rank = 1").fetchone()
    other = name.removesuffix(".svs")
    for table in ("slides", "sample", "images"):
        connection.execute(
            f"CREATE TEMP TABLE twin AS SELECT * FROM {table} WHERE file_name = ?", (name,)
        )
        connection.execute("UPDATE twin SET file_name = ?", (other,))
        if table == "sample":
            connection.execute("UPDATE twin SET rank = 1000")
        connection.execute(f"INSERT INTO {table} SELECT * FROM twin")
        connection.execute("DROP TABLE twin")
    return name, other


def test_two_images_at_one_path_are_refused(export: Path, copy: Path, place: Path) -> None:
    with catalogue(copy) as connection:
        name, other = twin(connection)
    assert f"has an image of {other} at" in refused_by_both(place, copy)
    # Also at the path of another slide's image that is there.
    with catalogue(copy) as connection:
        for table in ("attempts", "images", "sample"):
            connection.execute(f"DELETE FROM {table} WHERE file_name = ?", (name,))
    root = place / "there"
    imported(root, export)
    before = contents(root)
    says(inside("--mirror", root, "import", copy), 2, "which here is that of")
    says(inside("sync", copy, root), 7, "which here is that of")
    assert contents(root) == before


def test_a_damaged_catalogue_is_refused(copy: Path, place: Path) -> None:
    data = bytearray((copy / "catalogue.db").read_bytes())
    chance = random.Random(3)
    for number in range(4096, len(data), 300):
        data[number] = chance.randrange(256)
    (copy / "catalogue.db").write_bytes(data)
    assert "does not have its digest" in refused(place / "i", copy)
    resummed(copy)
    assert refused_by_both(place, copy).startswith("is damaged")
    (copy / "catalogue.db").write_text("<html>")
    resummed(copy)
    assert "its catalogue is damaged, or not a catalogue" in refused(place / "i", copy)
    assert "is damaged, or not a catalogue" in refused_by_sync(place / "s", copy)


# Bombs -------------------------------------------------------------------------------


def looped(path: Path, table: str, levels: int = 12, fan: int = 200) -> None:
    """Give a table fan ** levels rows: each page refers to the next one `fan` times.

    Source: SQLite's file format, interior pages of table b-trees.
    """
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        (root,) = connection.execute(sql, (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (count,) = connection.execute("PRAGMA page_count").fetchone()
    data = path.read_bytes()

    def referring_to(child: int) -> bytes:
        starts = [size - 5 * number for number in range(1, fan + 1)]
        head = struct.pack(f">BHHHBI{fan}H", 5, 0, fan, starts[-1], 0, child, *starts)
        cells = b"".join(struct.pack(">IB", child, number & 127) for number in range(fan))
        return head.ljust(size - len(cells), b"\0") + cells

    at = (root - 1) * size
    leaf = data[at : at + size]
    chain = [referring_to(count + number) for number in range(1, levels + 1)]
    data = data[:at] + chain[0] + data[at + size :] + b"".join([*chain[1:], leaf])
    path.write_bytes(data[:28] + struct.pack(">I", len(data) // size) + data[32:])


@pytest.mark.parametrize("table", ["sqlite_stat1", "slides", "facts"])
def test_pages_that_refer_to_each_other_are_not_followed(
    copy: Path, place: Path, table: str
) -> None:
    with catalogue(copy) as connection:
        connection.execute("ANALYZE")
    looped(copy / "catalogue.db", table)
    resummed(copy)
    start = time.monotonic()
    assert refused_by_both(place, copy).startswith("is damaged")
    assert time.monotonic() - start < 30


def test_a_hundred_thousand_views_are_not_read(copy: Path, place: Path) -> None:
    with catalogue(copy) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
            "INSERT INTO sqlite_schema SELECT 'view', 'v' || i, 'v' || i, 0, "
            "'CREATE VIEW v' || i || ' AS SELECT 1, 2, 3, 4, 5, 6, 7, 8, 9' FROM n"
        )
    start = time.monotonic()
    assert "interrupted" in refused_by_both(place, copy)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("limit", "most", "words"),
    [
        ("MOST_SLIDES", 2, "rows in its slides"),
        ("MAX_ROWS", 2, "rows in its changes"),
        ("MAX_RELEASES", 0, "1 rows in its releases"),
        ("MAX_ATTEMPTS", 0, "attempts at one slide"),
    ],
)
def test_more_rows_than_there_can_be_are_refused(
    copy: Path, place: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, words: str
) -> None:
    monkeypatch.setattr(untrusted, limit, most)
    if limit == "MAX_ROWS":
        with catalogue(copy) as connection:
            connection.executescript("DELETE FROM attempts; DELETE FROM runs")
    assert words in refused_by_both(place, copy)


# Memory ------------------------------------------------------------------------------


def test_values_of_a_megabyte_are_read_one_by_one(copy: Path, place: Path) -> None:
    with catalogue(copy) as connection:
        connection.executemany(
            "insert into facts values (?, ?)",
            ((f"k{number}", "\U0001f9a0" + "a" * 1_000_000) for number in range(150)),
        )
    with bounded(seconds=30, megabytes=40):
        assert "for value in its facts" in refused(place / "i", copy)


def test_sampled_slides_are_read_row_by_row(tmp_path: Path, place: Path) -> None:
    source = made_up(tmp_path / "source", 2_000)
    shutil.rmtree(source / "images")
    with catalogue(source) as connection:
        connection.execute("UPDATE images SET status = 'failed', error = hex(zeroblob(10000))")
        connection.execute("UPDATE sample SET release = hex(zeroblob(2000))")
    with bounded(seconds=60, megabytes=5):
        imported(place / "i", source)
    assert column(place / "i", "select count(*) from images where status = 'failed'") == [2_000]


@pytest.mark.parametrize("most", [5_000, 100_000])
def test_attempts_are_read_row_by_row(
    copy: Path, place: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(untrusted, "MAX_ATTEMPTS", most)
    with catalogue(copy) as connection:
        connection.execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) "
            "insert into attempts (run, file_name, source, started, seconds, bytes, requests, "
            "message) select run, file_name, source, started, seconds, bytes, requests, "
            "hex(zeroblob(1000)) from (select * from attempts limit 1), n"
        )
    with bounded(seconds=60, megabytes=30 if most > 20_000 else 5):
        if most < 20_000:
            assert "attempts at one slide" in refused(place / "i", copy)
            return
        imported(place / "i", copy)
    assert column(place / "i", "select count(*) > 20000 from attempts") == [1]
