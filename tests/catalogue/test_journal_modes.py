"""The catalogue's journal: readers never wait, and one plain file is left at rest."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Journal
from tcgamirror.catalogue.schema import MIGRATIONS
from tcgamirror.model.errors import UsageError
from tests.catalogue.test_database import as_nobody
from tests.support.catalogues import NOW, done, three_slides

BOTH = pytest.mark.parametrize("journal", list(Journal))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "catalogue.db"
    three_slides(path).close()
    return path


def mode(path: Path) -> str:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return str(connection.execute("pragma journal_mode").fetchone()[0])


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


@BOTH
def test_a_writer_leaves_one_file(path: Path, journal: Journal) -> None:
    with Catalogue.open(path, journal=journal) as catalogue:
        done(catalogue, "a")
        assert mode(path) == journal
    assert (mode(path), beside(path)) == ("delete", ["catalogue.db"])


@BOTH
def test_a_file_left_by_a_kill_is_taken_over(path: Path, journal: Journal) -> None:
    code = (
        "import os, sys; from pathlib import Path; "
        "from tcgamirror.catalogue.catalogue import Catalogue\n"
        "catalogue = Catalogue.open(Path(sys.argv[1]), journal=sys.argv[2])\n"
        "catalogue.set_fact('kept', 'yes')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", code, str(path), str(Journal.WAL)]
    assert subprocess.run(command, check=False).returncode == -9
    assert (mode(path), path.with_name("catalogue.db-wal").exists()) == ("wal", True)
    with Catalogue.open(path, read_only=True) as reader:
        assert reader.fact("kept") == "yes"
    with Catalogue.open(path, journal=journal) as catalogue:
        assert (catalogue.fact("kept"), mode(path)) == ("yes", journal)
    assert beside(path) == ["catalogue.db"]


def test_while_somebody_reads_at_the_end_nothing_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SWITCH_SECONDS", 0.05)
    with closing(sqlite3.connect(path)) as reader:
        with Catalogue.open(path, journal=Journal.WAL) as catalogue:
            rows = reader.execute("select file_name from slides")
            next(rows)
            catalogue.set_fact("kept", "yes")
        rows.close()
    with Catalogue.open(path) as catalogue:
        assert catalogue.fact("kept") == "yes"
    assert beside(path) == ["catalogue.db"]


def test_a_reader_that_soon_ends_is_waited_for_at_the_end(path: Path) -> None:
    reads, ends = threading.Event(), threading.Event()

    def read() -> None:
        with closing(sqlite3.connect(path)) as reader:
            rows = reader.execute("select file_name from slides")
            rows.fetchone()
            reads.set()
            ends.wait(0.2)

    catalogue = Catalogue.open(path, journal=Journal.WAL)
    done(catalogue, "a")
    reader = threading.Thread(target=read)
    reader.start()
    assert reads.wait(10)
    catalogue.close()
    reader.join()
    assert (mode(path), beside(path)) == ("delete", ["catalogue.db"])


def test_a_reader_at_the_start_prevents_wal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SWITCH_SECONDS", 0.05)
    with closing(sqlite3.connect(path)) as reader:
        rows = reader.execute("select file_name from slides")
        next(rows)
        with Catalogue.open(path, journal=Journal.WAL) as catalogue:
            rows.close()
            catalogue.set_fact("kept", "yes")
            assert mode(path) == "delete"


def test_a_copy_in_wal_mode_is_read_where_nothing_can_be_written(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
    content = path.read_bytes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy = folder / "catalogue.db"
        copy.write_bytes(content)
        copy.chmod(0o444)
        folder.chmod(0o555)
        assert as_nobody(lambda: Catalogue.open(copy, read_only=True).reports.counts()) == "nothing"
        folder.chmod(0o755)
        (folder / "catalogue.db-wal").write_bytes(b"something of a run that was killed")
        (folder / "catalogue.db-wal").chmod(0o000)
        folder.chmod(0o555)
        told = as_nobody(lambda: Catalogue.open(copy, read_only=True).reports.counts())
        assert told.startswith("wrong use")
        folder.chmod(0o755)


@BOTH
def test_readers_work_while_a_writer_writes(path: Path, journal: Journal) -> None:
    stop, seen, wrong = threading.Event(), [0], list[Exception]()

    def read() -> None:
        while not stop.is_set():
            try:
                with Catalogue.open(path, read_only=True) as catalogue:
                    catalogue.reports.counts()
                    list(
                        catalogue.reports.query(
                            "select status, count(*) from mirror group by 1"
                        ).rows
                    )
                with closing(sqlite3.connect(path)) as plain:
                    plain.execute("select count(*) from mirror").fetchone()
                seen[0] += 1
            except (sqlite3.Error, UsageError) as error:
                wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(4):
        with Catalogue.open(path, journal=journal) as catalogue:
            for number in range(15):
                done(catalogue, "ab"[number % 2])
    stop.set()
    reader.join()
    assert not wrong and seen[0]


def test_a_catalogue_of_the_first_schema_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    connection = database.connect(path)
    database.migrate(connection, MIGRATIONS[:1])
    connection.executescript(
        """
        INSERT INTO slides (file_name, file_id, position, listed_in)
            VALUES ('a.svs', 'id-a', 1, 'Data Release 1');
        INSERT INTO releases VALUES (1, 'Data Release 1', '2025', 1, 1, 0, 0, 0, 0, 0);
        INSERT INTO changes (release, file_name, what) VALUES ('Data Release 1', 'a.svs', 'added');
        INSERT INTO sample VALUES ('a.svs', 1, '2025', NULL);
        INSERT INTO images (file_name, status, attempts) VALUES ('a.svs', 'failed', 1);
        """
    )
    connection.close()
    with Catalogue.open(path) as catalogue:
        assert [each.file_name for each in catalogue.queue.due(retry_failed=False, now=NOW)] == [
            "a.svs"
        ]
        (merge,) = catalogue.reports.merges()
        assert [change.what for change in catalogue.reports.changes(merge.merge)] == ["added"]
        assert merge.counts == {"added": 1}
        catalogue.set_fact("still", "written")
