"""Sources that send another catalogue than was checked, or claim too much."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import pytest

from tcgamirror.catalogue.images import Image
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.model.errors import Damaged, NotFound
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.transfer.sync.remote import DirectoryMirror
from tcgamirror.transfer.sync.synchronizer import synchronize
from tcgamirror.transfer.sync.target import DirectoryTarget
from tests.support.carrying import catalogue, exported, inside, is_clean
from tests.support.mirrors import column, contents, images, rows, says
from tests.support.publishing import change

ONE_PLACE = "update images set path = (select min(path) from images)"
"""SQL that gives all images one path."""


@contextmanager
def publishing(root: Path, scripted: deque[tuple[int, bytes]], missing: str) -> Iterator[str]:
    """Yield the address of a server of a mirror's files, but of catalogues by a script."""

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

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def test_a_second_catalogue_is_checked_too(mirror: Path, tmp_path: Path) -> None:
    """A, whose image cannot be had, then B, then A again as unchanged."""
    here = (mirror / "catalogue.db").read_bytes()
    other = shutil.copytree(mirror, tmp_path / "other")
    change(other, ONE_PLACE)
    script = deque(
        [(200, here), (304, b""), (200, (other / "catalogue.db").read_bytes()), (200, here)]
    )
    missing = str(column(mirror, "select path from mirror order by sample_rank limit 1")[0])
    root = tmp_path / "new"
    with publishing(mirror, script, missing) as url:
        result = inside("sync", url, root)
    assert not script and result.code == 3, result
    done = "select path from mirror where status = 'done' order by 1"
    assert sorted(images(root)) == column(root, done) == sorted(set(images(mirror)) - {missing})
    assert is_clean(root)


def test_a_source_of_no_usable_image_makes_nothing(mirror: Path, tmp_path: Path) -> None:
    """Cover a source whose catalogue stays, and one whose catalogue a wrong one replaces."""
    here = (mirror / "catalogue.db").read_bytes()
    source = shutil.copytree(mirror, tmp_path / "source")
    for path in images(source):
        (source / path).write_bytes(bytes((source / path).stat().st_size))
    for second in (here, b"SQLite format 3\0" + bytes(4096)):
        with publishing(source, deque([(200, here), (304, b""), (200, second)]), "") as url:
            result = inside("sync", url, tmp_path / "new")
        assert result.code == 7 and not (tmp_path / "new").exists(), result
        assert second != here or "none of its 6 images can be fetched" in result.sentence
    assert inside("sync", source, tmp_path / "new").code == 7
    shutil.rmtree(source / "images")
    assert inside("sync", source, tmp_path / "new").code == 7
    assert not (tmp_path / "new").exists()


class _Changing(DirectoryMirror):
    """A mirror without images, whose catalogue changes with each request for one."""

    def fetch(self, image: Image, file: BinaryIO) -> None:
        del file
        change(self.root, "INSERT INTO facts VALUES (hex(randomblob(4)), 'a change')")
        raise NotFound(f"{image.path} is missing")


def test_a_source_that_changes_before_any_image_is_fetched(mirror: Path, tmp_path: Path) -> None:
    stop, quiet = threading.Event(), ProgressDisplay(quiet=True)
    source = _Changing(shutil.copytree(mirror, tmp_path / "source"), None, stop)
    with pytest.raises(Damaged, match="none of its 6 images can be fetched"):
        synchronize(source, DirectoryTarget(tmp_path / "new"), quiet, Shutdown(), delete=False)
    assert not (tmp_path / "new").exists()


# All or nothing -----------------------------------------------------------------------


@pytest.fixture
def copy(mirror: Path, tmp_path: Path) -> Path:
    return exported(mirror, tmp_path / "e")


def huge(copy: Path) -> str:
    with catalogue(copy) as connection:
        (path,) = connection.execute("select min(path) from images").fetchone()
        connection.execute("update images set bytes = ? where path = ?", (1 << 43, path))
    return str(path)


def test_an_image_with_an_impossible_size_is_left_out(
    copy: Path, mirror: Path, tmp_path: Path
) -> None:
    path, there = huge(copy), shutil.copytree(mirror, tmp_path / "there")
    change(there, "update images set status = 'pending'")
    for root in (tmp_path / "new", there):
        result = inside("--mirror", root, "import", copy, "--json")
        (refused,) = result.json()["refused"]
        assert (result.code, refused["path"]) == (3, path)
        assert "bytes instead of 8,796,093,022,208" in refused["what"]
        assert column(root, "select status from mirror where status <> 'done'") == ["pending"]
        assert is_clean(root)


@pytest.mark.parametrize("is_new", [True, False])
def test_without_room_nothing_is_made_or_changed(
    copy: Path, mirror: Path, tmp_path: Path, is_new: bool
) -> None:
    os.truncate(copy / huge(copy), 1 << 43)
    place = tmp_path / "place"
    place.mkdir()
    if not is_new:
        shutil.copytree(mirror, place / "m")
        older = "fetched_at = '2020-01-01T00:00:00Z', sha256 = lower(hex(randomblob(32)))"
        change(place / "m", f"update images set {older}")
    before = contents(place)
    runs = [] if is_new else rows(place / "m", "select * from runs")
    for words in (("--mirror", place / "m", "import", copy), ("sync", copy, place / "m")):
        says(inside(*words), 6, "bytes free")
        assert contents(place) == before
    assert is_new or rows(place / "m", "select * from runs") == runs
