"""A mirror's catalogue from a directory or a web server: whole, of one moment, and not too long."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.model.errors import Damaged, Locked, TooLong
from tcgamirror.net.client import HttpClient
from tcgamirror.transfer import untrusted
from tcgamirror.transfer.sync import remote
from tcgamirror.transfer.sync.remote import CatalogueVersion, DirectoryMirror, HttpMirror
from tcgamirror.transfer.untrusted import UntrustedCatalogue
from tests.support.command import ordinary, run
from tests.support.publishing import by_python, made_up
from tests.support.raw_server import RawServer, whole


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made_up(tmp_path / "source", 3)


def test_a_catalogue_that_is_being_changed_is_waited_for(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.01, 0.01))
    wal = source / "catalogue.db-wal"
    wal.write_bytes(b"changes")
    stop = threading.Event()
    with by_python(source) as published, HttpClient(stop=stop) as client:
        web = HttpMirror(published.url, client, stop)
        with pytest.raises(Locked, match="-wal is not empty"):
            web.catalogue(tmp_path, None)
        wal.write_bytes(b"")
        assert web.catalogue(tmp_path, None) is not None


def test_a_catalogue_that_changes_during_its_download_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RETRY_SECONDS", (0.01, 0.01))
    stop = threading.Event()
    none, tag = whole(b"", "404 Not Found"), 'ETag: "{}"'
    scripts = [whole(b"torn", "200 OK", tag.format(1)), none, none, whole(b"now", "200 OK")]
    scripts += [whole(b"now", "200 OK", tag.format(2)), none, none]
    scripts += [whole(b"", "304 Not Modified")]
    with RawServer(*scripts) as server, HttpClient(stop=stop) as client:
        seen = HttpMirror(server.url("/m"), client, stop).catalogue(tmp_path, None)
        assert isinstance(seen, CatalogueVersion) and seen.etag == '"2"'
        assert seen.path(tmp_path).read_bytes() == b"now"
        assert server.requests[3].headers["if-none-match"] == '"1"'


def test_a_file_longer_than_any_is_not_copied(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (remote, untrusted):
        monkeypatch.setattr(module, "MAX_BYTES", 5000)
    stop = threading.Event()
    with pytest.raises(Damaged, match="as no catalogue has"):
        DirectoryMirror(source, None, stop).catalogue(tmp_path, None)
    with by_python(source) as published, HttpClient(stop=stop) as client, pytest.raises(TooLong):
        HttpMirror(published.url, client, stop).catalogue(tmp_path, None)
    assert not [path for path in tmp_path.glob("*.db") if len(path.name) > 60]


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_what_a_killed_writer_left_in_a_journal_is_finished_or_rolled_back(
    tmp_path: Path, source: Path, journal: str
) -> None:
    left = tmp_path / "left"
    with closing(sqlite3.connect(source / "catalogue.db", isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode = {journal}")
        # So few pages in memory that those of a change reach the file before its end.
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("INSERT INTO facts VALUES ('whole', 'change')")
        writer.execute("BEGIN")
        writer.execute("UPDATE slides SET primary_site = hex(zeroblob(9000))")
        writer.execute("INSERT INTO facts VALUES ('half', 'a change')")
        shutil.copytree(source, left, ignore=shutil.ignore_patterns("*-shm"))
    assert any(file.stat().st_size for file in left.glob("catalogue.db-*"))
    before = {path.name: path.read_bytes() for path in left.glob("catalogue.db*")}
    seen = DirectoryMirror(left, None, threading.Event()).catalogue(tmp_path, None)
    assert {path.name: path.read_bytes() for path in left.glob("catalogue.db*")} == before
    assert seen is not None
    with closing(UntrustedCatalogue(seen.path(tmp_path), "it")) as foreign:
        facts = {row["key"] for row in foreign.rows("facts")}
        assert "whole" in facts and "half" not in facts
        assert {row["primary_site"] for row in foreign.rows("slides")} == {None}


def test_a_directory_that_may_not_be_written_is_read(tmp_path: Path, source: Path) -> None:
    with closing(sqlite3.connect(source / "catalogue.db")) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
    assert not list(source.glob("catalogue.db-*"))
    (source / "catalogue.db").chmod(0o444)
    source.chmod(0o555)
    result = run("sync", source, tmp_path / "copy", by=ordinary())
    source.chmod(0o755)
    assert (result.code, result.err) == (0, "")
