"""Sources that lie: what was checked is what is taken, nothing fills memory, all or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tcgamirror.model.errors import Damaged
from tcgamirror.transfer import untrusted
from tcgamirror.transfer.untrusted import UntrustedCatalogue
from tests.support.carrying import catalogue, exported, imported, inside, is_clean
from tests.support.command import run
from tests.support.levels import bounded
from tests.support.mirrors import column, contents, images, rows


@contextmanager
def publishing(root: Path, scripted: deque[tuple[int, bytes]], missing: str) -> Iterator[str]:
    """A server of a mirror's files that answers for the catalogue by a script, for as long."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path[1:]
            if path == "catalogue.db" and scripted:
                status, data = scripted.popleft()
            elif path == "catalogue.db":
                status, data = 304, b""
            elif path != missing and (root / path).is_file():
                status, data = 200, (root / path).read_bytes()
            else:
                status, data = 404, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_second_catalogue_is_not_taken_over_unchecked(mirror: Path, tmp_path: Path) -> None:
    """A, whose image cannot be had, then B, then A again as unchanged."""
    here = (mirror / "catalogue.db").read_bytes()
    other = tmp_path / "other.db"
    other.write_bytes(here)
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("update images set path = (select min(path) from images)")
    script = deque([(200, here), (304, b""), (200, other.read_bytes()), (200, here)])
    missing = str(column(mirror, "select path from mirror order by sample_rank limit 1")[0])
    root = tmp_path / "new"
    with publishing(mirror, script, missing) as url:
        result = run("sync", url, root)
    assert not script and result.code == 3, result
    done = "select path from mirror where status = 'done' order by 1"
    assert sorted(images(root)) == column(root, done) == sorted(set(images(mirror)) - {missing})
    assert is_clean(root)


def test_a_copy_is_called_by_the_digest_that_was_checked(mirror: Path, tmp_path: Path) -> None:
    other = shutil.copytree(mirror, tmp_path / "other")
    with closing(sqlite3.connect(other / "catalogue.db")) as connection, connection:
        connection.execute("update images set path = (select min(path) from images)")
    script = deque([(200, (other / "catalogue.db").read_bytes())])
    with publishing(other, script, "") as url:
        result = run("sync", url, tmp_path / "new")
    assert result.code == 7 and not (tmp_path / "new").exists()


def test_a_source_of_no_usable_image_makes_nothing(mirror: Path, tmp_path: Path) -> None:
    """Cover a source whose catalogue stays, and one whose catalogue a wrong one replaces."""
    here = (mirror / "catalogue.db").read_bytes()
    source = shutil.copytree(mirror, tmp_path / "source")
    for path in images(source):
        (source / path).write_bytes(bytes((source / path).stat().st_size))
    for second in (here, b"SQLite format 3\0" + bytes(4096)):
        with publishing(source, deque([(200, here), (304, b""), (200, second)]), "") as url:
            result = run("sync", url, tmp_path / "new")
        assert result.code == 7 and not (tmp_path / "new").exists(), result
        assert second != here or "none of its 6 images can be fetched" in result.sentence
    assert run("sync", source, tmp_path / "new").code == 7
    assert not (tmp_path / "new").exists()


# Memory -------------------------------------------------------------------------------


@pytest.fixture
def copy(mirror: Path, tmp_path: Path) -> Path:
    return exported(mirror, tmp_path / "e")


def checked(copy: Path) -> None:
    with closing(UntrustedCatalogue(copy / "catalogue.db", "it")) as opened:
        opened.check()


def test_values_of_a_megabyte_are_met_one_by_one(copy: Path) -> None:
    with catalogue(copy) as connection:
        connection.executemany(
            "insert into facts values (?, ?)",
            ((f"k{number}", "\U0001f9a0" + "a" * 1_000_000) for number in range(150)),
        )
    with bounded(seconds=30, megabytes=40), pytest.raises(Damaged, match="for value in its facts"):
        checked(copy)


def test_so_many_attempts_at_one_slide_are_refused_unread(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted, "MAX_ATTEMPTS", 5_000)
    with catalogue(copy) as connection:
        connection.execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5001) "
            "insert into attempts (run, file_name, source, started, seconds, bytes, requests) "
            "select run, file_name, source, started, seconds, bytes, requests "
            "from (select * from attempts limit 1), n"
        )
    with bounded(seconds=30, megabytes=5), pytest.raises(Damaged, match="attempts at one slide"):
        checked(copy)


def test_attempts_are_taken_over_row_by_row(copy: Path, tmp_path: Path) -> None:
    with catalogue(copy) as connection:
        connection.execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) "
            "insert into attempts (run, file_name, source, started, seconds, bytes, requests, "
            "message) select run, file_name, source, started, seconds, bytes, requests, "
            "hex(zeroblob(1000)) from (select * from attempts limit 1), n"
        )
    with bounded(seconds=60, megabytes=30):
        imported(tmp_path / "i", copy)
    assert column(tmp_path / "i", "select count(*) > 20000 from attempts") == [1]


def test_more_releases_than_there_can_be_are_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted, "MAX_RELEASES", 0)
    with pytest.raises(Damaged, match="1 rows in its releases"):
        checked(copy)


# All or nothing -----------------------------------------------------------------------


def huge(copy: Path) -> str:
    with catalogue(copy) as connection:
        (path,) = connection.execute("select min(path) from images").fetchone()
        connection.execute("update images set bytes = ? where path = ?", (1 << 43, path))
    return str(path)


@pytest.mark.parametrize("into", ["a new mirror", "one that is there"])
def test_an_image_that_is_said_to_fill_any_disk_is_left_out(
    copy: Path, mirror: Path, tmp_path: Path, into: str
) -> None:
    path = huge(copy)
    root = tmp_path / "place" / "m"
    if into == "one that is there":
        shutil.copytree(mirror, root)
        with closing(sqlite3.connect(root / "catalogue.db")) as connection, connection:
            connection.execute("update images set status = 'pending'")
    result = inside("--mirror", root, "import", copy, "--json")
    assert result.code == 3, result
    refused = result.json()["refused"]
    assert [each["path"] for each in refused] == [path]
    assert "bytes instead of 8,796,093,022,208" in refused[0]["what"]
    assert column(root, "select status from mirror where status <> 'done'") == ["pending"]
    assert is_clean(root)


@pytest.mark.parametrize("into", ["a new mirror", "one that is there"])
def test_without_room_nothing_is_made_or_changed(
    copy: Path, mirror: Path, tmp_path: Path, into: str
) -> None:
    os.truncate(copy / huge(copy), 1 << 43)
    place = tmp_path / "place"
    place.mkdir()
    if into == "one that is there":
        shutil.copytree(mirror, place / "m")
        with closing(sqlite3.connect(place / "m" / "catalogue.db")) as connection, connection:
            connection.execute("update images set fetched_at = '2020-01-01T00:00:00Z'")
            connection.execute("update images set sha256 = lower(hex(randomblob(32)))")
    before = contents(place)
    runs = "select count(*) from runs"
    runs_before = rows(place / "m", runs) if before else []
    for words in (("--mirror", place / "m", "import", copy), ("sync", copy, place / "m")):
        result = inside(*words)
        assert result.code == 6 and "bytes free" in result.sentence, result
        assert contents(place) == before
    assert not before or rows(place / "m", runs) == runs_before
