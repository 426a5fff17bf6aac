"""Journals that nobody's killed run left: no command has SQLite act on what they say."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Journal
from tcgamirror.catalogue.journals import JOURNALS, copy_database
from tcgamirror.model.errors import Damaged
from tcgamirror.system.openat import Tree
from tests.support.catalogues import three_slides
from tests.support.command import run

MAGIC = bytes.fromhex("d9d505f920a163d7")
PAGE = 4096


def summed(page: bytes, nonce: int) -> int:
    return (nonce + sum(page[PAGE - 200 : 0 : -200])) & 0xFFFFFFFF


def rollback(catalogue: Path, *, page: bytes | None = None, pages: int | None = None) -> bytes:
    """A rollback journal that is hot: of one page, the first, unless another one is given."""
    data = catalogue.read_bytes()
    first = data[:PAGE] if page is None else page
    count = len(data) // PAGE if pages is None else pages
    head = MAGIC + struct.pack(">5I", 1, 7, count, 512, PAGE)
    return (
        head.ljust(512, b"\0") + struct.pack(">I", 1) + first + struct.pack(">I", summed(first, 7))
    )


def named(journal: bytes, other: Path) -> bytes:
    """The journal with the name of a super-journal at its end, as `pager.c` writes it."""
    name = os.fsencode(other)
    end = struct.pack(">2I", len(name), sum(name)) + MAGIC
    return journal + struct.pack(">I", 0x40000000 // PAGE + 1) + name + end


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


@pytest.fixture
def trap(tmp_path: Path, mirror: Path, victim: Path) -> Path:
    """A mirror with a journal that has whoever opens it delete the victim."""
    root = shutil.copytree(mirror, tmp_path / "trap")
    catalogue = root / "catalogue.db"
    (root / "catalogue.db-journal").write_bytes(named(rollback(catalogue), victim))
    return root


def test_the_trap_is_one(trap: Path, victim: Path) -> None:
    with closing(sqlite3.connect(trap / "catalogue.db")) as connection:
        connection.execute("select count(*) from sample").fetchone()
    assert not victim.exists()


COMMANDS = (
    "sync {trap} {tmp}/new",
    "sync {trap} {tmp}/new --dry-run",
    "sync {tmp}/honest {trap}",
    "sync {tmp}/honest {trap} --dry-run",
    "--mirror {tmp}/new import {trap}",
    "import {tmp}/honest",
    "export {tmp}/e",
    "export -",
    "lock {tmp}/a.lock",
    "serve --port 0",
    "query values(1)",
    "show TCGA",
    "verify --quick",
    *("init", "status", "verify", "changes", "gallery", "doctor"),
    *("update", "refresh", "sample", "fetch", "rebuild"),
)


def words(command: str, trap: Path, tmp_path: Path) -> list[str]:
    words = command.format(trap=trap, tmp=tmp_path).split()
    return words if words[0] in ("sync", "--mirror") else ["--mirror", str(trap), *words]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_deletes_what_a_journal_names(
    trap: Path, victim: Path, mirror: Path, tmp_path: Path, command: str
) -> None:
    shutil.copytree(mirror, tmp_path / "honest")
    result = run(*words(command, trap, tmp_path), timeout=60)
    assert victim.read_text() == "precious"
    if command not in ("init", "rebuild"):
        assert "super-journal" in (result.out if command == "doctor" else result.err), result
    assert command in ("doctor", "rebuild") or result.code in (2, 7), result
    assert not (tmp_path / "new").exists() and not (tmp_path / "e").exists()


def test_init_lock_deletes_nothing(trap: Path, victim: Path, mirror: Path, tmp_path: Path) -> None:
    assert run("--mirror", mirror, "lock", tmp_path / "a.lock").code == 0
    (trap / "tcgamirror.toml").unlink()
    result = run("--mirror", trap, "init", "--lock", tmp_path / "a.lock")
    assert (result.code, victim.read_text()) == (2, "precious"), result


# What else may lie there ---------------------------------------------------------------


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "catalogue.db"
    three_slides(path).close()
    return path


def refused(catalogue: Path, words: str) -> None:
    before = catalogue.read_bytes()
    for read_only in (True, False):
        with pytest.raises(Damaged, match=words):
            Catalogue.open(catalogue, read_only=read_only)
    assert catalogue.read_bytes() == before


@pytest.mark.parametrize("suffix", JOURNALS)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.symlink, "a link"),
        (lambda _, path: os.mkfifo(path), "not a plain file"),
        (os.link, "another file's second name"),
    ],
    ids=["link", "pipe", "second name"],
)
def test_what_is_not_a_journal_is_not_written_to(
    catalogue: Path, victim: Path, suffix: str, make: Callable[[Path, Path], None], words: str
) -> None:
    make(victim, catalogue.with_name(catalogue.name + suffix))
    refused(catalogue, words)
    assert victim.read_text() == "precious"


def test_a_journal_of_another_database_is_refused(catalogue: Path, tmp_path: Path) -> None:
    journal = catalogue.with_name("catalogue.db-journal")
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("create table a (b)")
    journal.write_bytes(rollback(catalogue, page=other.read_bytes()[:PAGE]))
    refused(catalogue, "of another database")


@pytest.mark.timeout(20)
def test_a_journal_of_terabytes_is_read_to_its_last_record(catalogue: Path) -> None:
    journal, second = catalogue.with_name("catalogue.db-journal"), catalogue.read_bytes()[PAGE:]
    record = struct.pack(">I", 2) + second[:PAGE] + struct.pack(">I", summed(second[:PAGE], 7))
    journal.write_bytes(rollback(catalogue)[:512] + record)
    os.truncate(journal, 1 << 40)
    with Catalogue.open(catalogue, read_only=True) as opened:
        assert opened.sample.names() == ["b.svs", "a.svs"]


def test_no_catalogue_is_imported_that_a_journal_makes_too_large(
    trap: Path, tmp_path: Path
) -> None:
    catalogue, pages = trap / "catalogue.db", 1 << 31
    first = catalogue.read_bytes()[:PAGE]
    page = first[:28] + struct.pack(">I", pages) + first[32:]
    (trap / "catalogue.db-journal").write_bytes(rollback(catalogue, page=page, pages=pages))
    for command in ("sync {trap} {tmp}/new", "--mirror {tmp}/new import {trap}"):
        result = run(*words(command, trap, tmp_path))
        assert result.code in (2, 7), result
        assert "more than 4,294,967,296 bytes" in result.err
        assert not (tmp_path / "new").exists()


def test_a_new_catalogue_takes_no_journal_that_was_there(tmp_path: Path, victim: Path) -> None:
    path = tmp_path / "catalogue.db"
    for name in ("catalogue.db-journal", "catalogue.db-wal", "catalogue.db.new-wal"):
        (tmp_path / name).symlink_to(victim)
    three_slides(path).close()
    assert victim.read_text() == "precious"
    assert not list(tmp_path.glob("catalogue.db?*"))


def test_no_journal_is_written_to_another_files_second_name(catalogue: Path, victim: Path) -> None:
    journal = rollback(catalogue)
    catalogue.unlink()
    os.link(victim, catalogue)
    catalogue.with_name("catalogue.db-journal").write_bytes(journal)
    refused(catalogue, "catalogue.db is another file's second name")
    assert victim.read_text() == "precious"


def test_a_killed_run_of_which_links_were_kept_is_recovered(catalogue: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(catalogue), "wal"], check=False)
    for name in ("catalogue.db", "catalogue.db-wal"):
        os.link(catalogue.with_name(name), catalogue.with_name(f"{name}.kept"))
    with Catalogue.open(catalogue, read_only=True) as opened:
        assert opened.fact("k2999") == "x" * 500


def test_of_a_catalogue_that_is_too_large_nothing_is_copied(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    os.truncate(tmp_path / "a.db", 1 << 40)
    with pytest.raises(Damaged, match="more than 5,000 bytes"):
        copy_database(Tree(tmp_path), "a.db", tmp_path, 5000)
    assert not (tmp_path / "copied.db").exists()


# Honest ones ----------------------------------------------------------------------------

KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"pragma journal_mode = {sys.argv[2]}")
connection.execute("pragma cache_size = 1")
connection.execute("pragma cache_spill = 1")
connection.execute("begin immediate")
connection.execute("update slides set listed_in = 'changed'")
for number in range(3000):
    connection.execute("insert into facts values (?, ?)", (f"k{number}", "x" * 500))
if sys.argv[2] == "wal":
    connection.execute("commit")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("journal", Journal)
def test_a_killed_change_is_recovered(
    catalogue: Path, tmp_path: Path, mode: str, journal: Journal
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(catalogue), mode], check=False)
    assert killed.returncode == -9
    suffix = "-wal" if mode == "wal" else "-journal"
    assert catalogue.with_name(catalogue.name + suffix).stat().st_size > 4096
    before = {path.name: path.read_bytes() for path in catalogue.parent.iterdir()}
    (tmp_path / "private").mkdir()
    copy = copy_database(Tree(catalogue.parent), catalogue.name, tmp_path / "private", 1 << 30)
    assert {path.name: path.read_bytes() for path in catalogue.parent.iterdir()} == before
    for path in (copy, catalogue):
        with Catalogue.open(path, read_only=True) as opened:
            assert (opened.fact("k2999") is not None) == (mode == "wal")
            assert opened.sample.names() == ["b.svs", "a.svs"]
    with Catalogue.open(catalogue, journal=journal) as opened:
        assert (opened.fact("k2999") is not None) == (mode == "wal")
    assert list(catalogue.parent.iterdir()) == [catalogue]


BUSY = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute(f"pragma journal_mode = {sys.argv[2]}")
connection.execute("pragma cache_size = 5")
number = 0
while True:
    number += 1
    connection.execute("begin immediate")
    for key in range(200):
        value = str(number) * 50
        connection.execute("insert or replace into facts values (?, ?)", (f"k{key}", value))
    connection.execute("commit")
    print(number, flush=True)
    time.sleep(0.01)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_copy_beside_a_writer_is_consistent(catalogue: Path, tmp_path: Path, mode: str) -> None:
    command = [sys.executable, "-c", BUSY, str(catalogue), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        for number in range(8):
            folder = tmp_path / str(number)
            folder.mkdir()
            copy = copy_database(Tree(catalogue.parent), catalogue.name, folder, 1 << 30)
            with closing(sqlite3.connect(copy)) as connection:
                assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
                sql = "select count(distinct value), count(*) from facts where key like 'k%'"
                assert connection.execute(sql).fetchone() == (1, 200)
        assert writer.poll() is None
        writer.kill()
