"""The catalogue's file: whole or not at all, and never mistaken for another."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Journal
from tcgamirror.catalogue.schema import NEWEST, OLDEST
from tcgamirror.model.errors import (
    Damaged,
    DiskFull,
    Locked,
    NotAMirror,
    TcgaMirrorError,
    UsageError,
)
from tests.support.catalogues import (
    NOW,
    done,
    listing,
    make_older,
    slide,
    three_slides,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.db"


@pytest.fixture
def three(path: Path) -> Path:
    """Return the path of a closed catalogue of three slides."""
    three_slides(path).close()
    return path


def run_script(path: Path, script: str) -> None:
    """Run SQL as another program would."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def test_a_new_catalogue_replaces_a_half_made_one_and_no_whole_one(path: Path) -> None:
    path.with_name("catalogue.db.new").write_bytes(b"half")
    Catalogue.create(path).close()
    with pytest.raises(NotAMirror, match="a catalogue exists"):
        Catalogue.create(path)
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(UsageError, match="cannot be made"):
        Catalogue.create(path / "below.db")


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    "content", [b"", b"not a database" * 100, b"SQLite format 3\0" + b"x" * 99, None]
)
def test_a_partial_file_is_damaged(three: Path, content: bytes | None, read_only: bool) -> None:
    three.write_bytes(three.read_bytes()[:-5000] if content is None else content)
    with pytest.raises(Damaged, match=r"catalogue\.db"):
        Catalogue.open(three, read_only=read_only)


def test_a_missing_one_or_a_directory_is_damaged(path: Path) -> None:
    for place in (path, path.parent):
        with pytest.raises(Damaged, match="is missing"):
            Catalogue.open(place)


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("pragma application_id = 7", Damaged, "not a catalogue of tcgamirror"),
        ("drop view mirror; drop table facts", Damaged, "has lost its facts, mirror"),
        ("pragma user_version = 9", UsageError, rf"knows {NEWEST}\)\. Upgrade"),
        ("pragma user_version = 2", UsageError, "schema 2 is too old .* by the version before"),
    ],
)
def test_one_of_another_program_or_version_is_left_alone(
    three: Path, script: str, error: type[TcgaMirrorError], words: str, read_only: bool
) -> None:
    run_script(three, script)
    before = three.read_bytes()
    with pytest.raises(error, match=words):
        Catalogue.open(three, read_only=read_only)
    assert three.read_bytes() == before


def test_damage_found_later_is_reported_too(three: Path) -> None:
    with closing(database.connect(three)) as connection:
        sql = "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name='slides'"
        page, size = connection.execute(sql).fetchone()
    with three.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with Catalogue.open(three) as catalogue:
        with pytest.raises(Damaged, match="is damaged"):
            catalogue.sample.candidates()
        with pytest.raises(Damaged, match="is damaged"):
            list(catalogue.reports.query("select * from slides").rows)


# Migrations --------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(OLDEST, NEWEST))
def test_one_of_an_older_schema_keeps_all_that_it_has(path: Path, version: int) -> None:
    with three_slides(path) as three:
        done(three, "a")
        new = listing(slide("a", md5="new"), slide("b"), slide("d"), release="2")
        three.listing.merge(new, NOW)
    kept = path.with_name("kept.db")
    shutil.copy(path, kept)
    make_older(path.parent, version)
    with pytest.raises(UsageError, match="Run any writing command first"):
        Catalogue.open(path, read_only=True)
    with Catalogue.open(path) as migrated:
        migrated.check_integrity()
    assert _dump(path) == _dump(kept)


DIGESTS = {3: "01edfed4", 4: "01edfed4", 5: "0d86d550", 6: "22ebfed6", 7: "ddefc4e7", 8: "4c3c78a2"}


@pytest.mark.parametrize(("version", "digest"), DIGESTS.items())
def test_a_released_schema_never_changes(version: int, digest: str) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        database.migrate(connection, version)
        rows = connection.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL ORDER BY sql")
        assert sha256(repr(rows.fetchall()).encode()).hexdigest()[:8] == digest


def _dump(path: Path) -> list[str]:
    """Return every row and every part of the schema, in any order."""
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.iterdump())


def test_a_migration_that_fails_leaves_the_schema_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "CREATE TABLE a (b); CREATE TABLE a (b);"
    monkeypatch.setattr(database, "MIGRATIONS", {OLDEST: script})
    with closing(database.connect(path)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            database.migrate(connection, OLDEST)
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)


# Changes -----------------------------------------------------------------------------


def test_another_writer_is_reported(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with (
        Catalogue.open(three) as first,
        Catalogue.open(three) as second,
        first.change(),
        pytest.raises(Locked, match="another process"),
    ):
        second.set_fact("never", "written")


def test_a_full_disk_undoes_the_change(three: Path) -> None:
    connection = database.connect(three)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with Catalogue(three, connection) as catalogue:
        with pytest.raises(DiskFull, match="full"):
            catalogue.set_fact("long", "x" * 100_000)
        assert catalogue.fact("long") is None
        assert catalogue.listing.release() == "Data Release 1"


def as_nobody(act: Callable[[], object]) -> str:
    """Return the error of a user without rights, since root may write anywhere."""
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


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can reach, as those of tests are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def read(path: Path) -> None:
    Catalogue.open(path, read_only=True).reports.counts()


def test_one_that_cannot_be_written_can_be_read(folder: Path) -> None:
    path = folder / "catalogue.db"
    three_slides(path).close()
    for unwritable, mode, other in ((path, 0o444, folder), (folder, 0o755, path)):
        other.chmod(0o777)
        unwritable.chmod(mode)
        refused = as_nobody(lambda: Catalogue.open(path))
        assert refused.startswith(f"wrong use: {unwritable}: this user cannot write it")
        assert as_nobody(lambda: read(path)) == "nothing"


def test_a_copy_in_wal_mode_is_read_where_nothing_can_be_written(folder: Path) -> None:
    path, wal = folder / "catalogue.db", folder / "catalogue.db-wal"
    three_slides(path).close()
    run_script(path, "pragma journal_mode = wal")
    assert as_nobody(lambda: read(path)) == "nothing"
    wal.write_bytes(b"something of a run that was killed")
    wal.chmod(0o000)
    assert as_nobody(lambda: read(path)).startswith("wrong use")


# Journal modes ------------------------------------------------------------------------


BOTH = pytest.mark.parametrize("journal", list(Journal))


def mode(path: Path) -> str:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return str(connection.execute("pragma journal_mode").fetchone()[0])


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


@BOTH
def test_a_writer_leaves_one_file(three: Path, journal: Journal) -> None:
    with Catalogue.open(three, journal=journal) as catalogue:
        done(catalogue, "a")
        assert mode(three) == journal
    assert (mode(three), beside(three)) == ("delete", ["catalogue.db"])


def test_a_reader_at_the_end_loses_nothing(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SWITCH_SECONDS", 0.05)
    with closing(sqlite3.connect(three)) as reader:
        with Catalogue.open(three, journal=Journal.WAL) as catalogue:
            rows = reader.execute("select file_name from slides")
            next(rows)
            catalogue.set_fact("kept", "yes")
        rows.close()
    with Catalogue.open(three) as catalogue:
        assert catalogue.fact("kept") == "yes"
    assert beside(three) == ["catalogue.db"]


def test_a_reader_that_soon_ends_is_waited_for_at_the_end(three: Path) -> None:
    reads, ends = threading.Event(), threading.Event()

    def read() -> None:
        with closing(sqlite3.connect(three)) as reader:
            rows = reader.execute("select file_name from slides")
            rows.fetchone()
            reads.set()
            ends.wait(0.2)

    catalogue = Catalogue.open(three, journal=Journal.WAL)
    done(catalogue, "a")
    reader = threading.Thread(target=read)
    reader.start()
    assert reads.wait(10)
    catalogue.close()
    reader.join()
    assert (mode(three), beside(three)) == ("delete", ["catalogue.db"])


def test_a_reader_at_the_start_prevents_wal(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SWITCH_SECONDS", 0.05)
    with closing(sqlite3.connect(three)) as reader:
        rows = reader.execute("select file_name from slides")
        next(rows)
        with Catalogue.open(three, journal=Journal.WAL) as catalogue:
            rows.close()
            catalogue.set_fact("kept", "yes")
            assert mode(three) == "delete"


@BOTH
def test_readers_work_while_a_writer_writes(three: Path, journal: Journal) -> None:
    stop, counts, errors = threading.Event(), list[object](), list[Exception]()
    sql = "select count(*) from mirror"

    def read() -> None:
        while not stop.is_set():
            try:
                with Catalogue.open(three, read_only=True) as catalogue:
                    catalogue.reports.counts()
                    counts.extend(count for (count,) in catalogue.reports.query(sql).rows)
                with closing(sqlite3.connect(three)) as plain:
                    counts.extend(plain.execute(sql).fetchone())
            except (sqlite3.Error, UsageError) as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(4):
        with Catalogue.open(three, journal=journal) as catalogue:
            for number in range(15):
                done(catalogue, "ab"[number % 2])
    stop.set()
    reader.join()
    assert not errors and set(counts) == {2}
