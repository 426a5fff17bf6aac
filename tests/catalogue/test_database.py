"""The catalogue's file: whole or not at all, and never mistaken for another."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Database
from tcgamirror.catalogue.schema import MIGRATIONS
from tcgamirror.model.errors import (
    Damaged,
    DiskFull,
    Locked,
    NotAMirror,
    TcgaMirrorError,
    UsageError,
)
from tests.support.catalogues import NOW, done, listing, slide, three_slides


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.db"


@pytest.fixture
def three(path: Path) -> Catalogue:
    return three_slides(path)


def test_a_catalogue_is_not_made_twice(path: Path) -> None:
    Catalogue.create(path).close()
    with pytest.raises(NotAMirror, match="a catalogue exists"):
        Catalogue.create(path)
    assert list(path.parent.iterdir()) == [path]


def test_an_unfinished_one_is_no_hindrance(path: Path) -> None:
    path.with_name("catalogue.db.new").write_bytes(b"half")
    Catalogue.create(path).close()


@pytest.mark.parametrize(
    "content", [b"", b"not a database" * 100, b"SQLite format 3\0" + b"x" * 99]
)
@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_no_database_is_damaged(path: Path, content: bytes, read_only: bool) -> None:
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"catalogue\.db"):
        Catalogue.open(path, read_only=read_only)


def test_a_missing_one_or_a_directory_is_damaged(path: Path) -> None:
    for place in (path, path.parent):
        with pytest.raises(Damaged, match="is missing"):
            Catalogue.open(place)


def test_a_foreign_database_is_not_taken(path: Path) -> None:
    sqlite3.connect(path).executescript("create table a (b)").connection.close()
    with pytest.raises(Damaged, match="not a catalogue of tcgamirror"):
        Catalogue.open(path)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_cut_off_one_is_damaged(path: Path, three: Catalogue, read_only: bool) -> None:
    three.close()
    os.truncate(path, path.stat().st_size - 5000)
    with pytest.raises(Damaged, match="is damaged"):
        Catalogue.open(path, read_only=read_only)


def test_one_that_lost_a_table_is_damaged(path: Path, three: Catalogue) -> None:
    three.close()
    sqlite3.connect(path).executescript("drop view mirror; drop table facts").connection.close()
    with pytest.raises(Damaged, match="has lost its facts, mirror"):
        Catalogue.open(path)


def test_damage_found_later_is_told_too(path: Path, three: Catalogue) -> None:
    three.close()
    connection = database.connect(path)
    sql = "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = 'slides'"
    page, size = connection.execute(sql).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with Catalogue.open(path) as catalogue:
        with pytest.raises(Damaged, match="is damaged"):
            catalogue.sample.candidates()
        with pytest.raises(Damaged, match="is damaged"):
            list(catalogue.reports.query("select * from slides").rows)


def test_one_of_a_newer_program_is_left_alone(path: Path, three: Catalogue) -> None:
    three.close()
    sqlite3.connect(path).executescript("pragma user_version = 9").connection.close()
    with pytest.raises(UsageError, match=rf"knows {len(MIGRATIONS)}\)\. Upgrade"):
        Catalogue.open(path)


def test_one_of_an_older_program_is_migrated_by_a_writer_only(path: Path, three: Catalogue) -> None:
    three.close()
    scripts = (*MIGRATIONS, "CREATE TABLE more (a);")
    connection = database.connect(path)
    with pytest.raises(UsageError, match="Run any writing command first"):
        database.check(connection, path, read_only=True, scripts=scripts)
    database.check(connection, path, read_only=False, scripts=scripts)
    database.check(connection, path, read_only=True, scripts=scripts)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(scripts),)
    assert connection.execute("SELECT count(*) FROM slides").fetchone() == (3,)
    connection.close()


def test_one_of_the_second_schema_keeps_all_that_it_has(path: Path, three: Catalogue) -> None:
    done(three, "a")
    three.listing.merge(listing(slide("a", md5="new"), slide("b"), slide("d"), release="2"), NOW)
    three.close()
    older = path.with_name("older.db")
    with closing(database.connect(older)) as connection:
        database.migrate(connection, MIGRATIONS[:2])
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("ATTACH ? AS newer", (str(path),))
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in rows:
            info = connection.execute(f"PRAGMA main.table_info({table})")
            names = ", ".join(name for _, name, *_ in info)
            connection.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM newer.{table}")
        connection.execute("DETACH newer")
    with Catalogue.open(older) as migrated, Catalogue.open(path, read_only=True) as made:
        assert (
            migrated.reports.counts() == made.reports.counts()
            and migrated.reports.merges() == made.reports.merges()
        )
        assert migrated.reports.changes(2) == made.reports.changes(2)
        assert [*migrated.queue.due(retry_failed=True)] == [*made.queue.due(retry_failed=True)]
        assert migrated.reports.show("a.svs") == made.reports.show("a.svs")
        migrated.check_integrity()
    assert _dump(older) == _dump(path)


def _dump(path: Path) -> list[str]:
    """Every row and every part of the schema, in any order."""
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.iterdump())


def test_a_migration_that_fails_leaves_the_schema_as_it_was(path: Path) -> None:
    connection = database.connect(path)
    with pytest.raises(sqlite3.OperationalError):
        database.migrate(connection, ("CREATE TABLE a (b); CREATE TABLE a (b);",))
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    connection.close()


def test_another_writer_is_waited_for_and_then_told_of(path: Path, three: Catalogue) -> None:
    three.close()
    first, second = database.connect(path), database.connect(path, busy_seconds=0.05)
    with (
        database.transaction(first),
        pytest.raises(Locked, match="another process"),
        database.translate_errors(path),
        database.transaction(second),
    ):
        pass
    first.close()
    second.close()


def test_a_full_disk_undoes_the_change(path: Path, three: Catalogue) -> None:
    three.close()
    connection = database.connect(path)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with Catalogue(Database(path, connection)) as catalogue:
        with pytest.raises(DiskFull, match="full"):
            catalogue.set_fact("long", "x" * 100_000)
        assert catalogue.fact("long") is None
        assert catalogue.listing.release() == "Data Release 1"


def test_one_that_cannot_be_made_says_so(path: Path) -> None:
    path.touch()
    with pytest.raises(UsageError, match="cannot be made"):
        Catalogue.create(path / "below.db")


def as_nobody(act: Callable[[], object]) -> str:
    """What goes wrong when a user without rights does it: root may write anywhere."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            act()
        except TcgaMirrorError as error:
            said = f"{error.fault}: {error}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        return answer.read()


def test_one_that_cannot_be_written_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "catalogue.db"
        three_slides(path).close()
        path.chmod(0o444)
        folder.chmod(0o555)
        refused = as_nobody(lambda: Catalogue.open(path))
        assert refused.startswith(f"wrong use: {path}: this user cannot write it")
        assert as_nobody(lambda: Catalogue.open(path, read_only=True).reports.counts()) == "nothing"
        path.chmod(0o666)
        refused = as_nobody(lambda: Catalogue.open(path))
        assert refused.startswith(f"wrong use: {folder}: this user cannot write it")
        folder.chmod(0o755)


def test_a_killed_change_is_rolled_back_even_by_a_reader(path: Path, three: Catalogue) -> None:
    three.close()
    code = (
        "import os, sys; from pathlib import Path; from tcgamirror.catalogue import database\n"
        "connection = database.connect(Path(sys.argv[1]))\n"
        "connection.execute('PRAGMA cache_size = 1')\n"
        "connection.execute('PRAGMA cache_spill = 1')\n"
        "with database.transaction(connection):\n"
        "    connection.execute('DELETE FROM images')\n"
        "    connection.execute('DELETE FROM sample')\n"
        "    for n in range(500):\n"
        "        connection.execute('INSERT INTO facts VALUES (?, ?)', (n, 'x' * 1000))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9
    assert path.with_name("catalogue.db-journal").stat().st_size > 0
    with Catalogue.open(path, read_only=True) as catalogue:
        assert catalogue.sample.names() == ["b.svs", "a.svs"]
        assert catalogue.fact("1") is None
