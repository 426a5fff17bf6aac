"""`sync`: from a directory or any web server, refused or killed at any moment."""

from __future__ import annotations

import functools
import json
import math
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from sqlite3 import OperationalError
from typing import BinaryIO
from urllib.request import urlopen

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Journal
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.mirror.settings import read_settings
from tcgamirror.model.errors import Unreachable
from tcgamirror.net.client import HttpClient
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.transfer.sync.plan import SyncState
from tcgamirror.transfer.sync.remote import CatalogueVersion, HttpMirror
from tcgamirror.transfer.sync.synchronizer import synchronize
from tcgamirror.transfer.sync.target import DirectoryTarget
from tests.gdc import Fault, Listed, StandIn
from tests.support.carrying import is_clean, moved_projects
from tests.support.command import ended, inside, killed, run, started, succeeded
from tests.support.mirrors import column, contents, images, made, rewrite, rows, says, until
from tests.support.publishing import (
    WAYS,
    by_python,
    by_serve,
    change,
    dump,
    made_up,
    paths,
    replace_image,
    rest,
    synced,
    verified,
)

SLIDES = 6
MANY = 12_000 if os.environ.get("TCGAMIRROR_SOAK") else 3_000
PROMISED, LOOSE = 1.0, 6.0
"""Seconds of a sync without news; what a busy machine may make of them."""
KILLS = 50 if os.environ.get("TCGAMIRROR_SOAK") else 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The path of the copy."""
    return tmp_path / "copy"


# Ways ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_every_way_makes_an_equal_mirror(way: str, root: Path, source: Path) -> None:
    with WAYS[way](source) as published:
        answer = synced(published.url, root)
        assert (answer["fetched"], answer["failed"]) == (SLIDES, [])
        assert images(root) == images(source)
        assert dump(root) == dump(source)
        before = len(published.requests())
        answer = synced(published.url, root)
        assert len(published.requests()) - before <= 2
        assert (answer["kept"], answer["changed"], answer["fetched"]) == (SLIDES, False, 0)
        replace_image(source, paths(source)[3])
        time.sleep(1.1 if way == "serve" else 0)
        assert synced(published.url, root)["fetched"] == 1
    verified(root)
    verified(source)
    assert dump(root) == dump(source)
    assert f": {SLIDES} done, 0 pending" in inside("--mirror", root, "status").out
    assert inside("--mirror", root, "query", "select count(*) from mirror").out
    assert not list(root.glob(".catalogue*"))


def test_a_new_mirror_of_a_web_server_has_the_plan_of_its_source(root: Path, source: Path) -> None:
    rewrite(source, '^kind = "diagnostic"', 'kind = "all"')
    plan = "json_set(value, '$.kind', 'all')"
    change(source, f"UPDATE facts SET value = {plan} WHERE key = 'plan fixed at init'")
    rest(source)
    with by_python(source) as published:
        synced(published.url, root)
    verified(root)


def test_no_news_of_many_images_takes_a_second(tmp_path: Path, root: Path) -> None:
    source = made_up(tmp_path / "source", MANY)
    shutil.copytree(source, root)
    rest(source)
    with by_python(source) as published:
        assert synced(published.url, root)["kept"] == MANY
        before = len(published.requests())
        start = time.monotonic()
        answer = synced(published.url, root)
        took = time.monotonic() - start
        requests = published.requests()[before:]
    assert (answer["kept"], answer["changed"]) == (MANY, False)
    assert len(requests) == 2 and "304" in requests[0] and "catalogue.db-wal" in requests[1]
    print(f"no news of {MANY:,} images: {took:.2f} s of {PROMISED} s promised, by HTTP")
    assert took < LOOSE


# What moves ------------------------------------------------------------------------


def test_a_file_that_is_there_is_read_before_it_is_fetched(root: Path, source: Path) -> None:
    shutil.copytree(source / "images", root / "images")
    answer = synced(source, root)
    assert (answer["adopted"], answer["fetched"]) == (SLIDES, 0)
    (root / paths(root)[0]).unlink()
    assert synced(source, root)["fetched"] == 1
    verified(root)


@pytest.mark.parametrize("way", WAYS)
def test_partial_images_are_resumed(way: str, root: Path, source: Path) -> None:
    first, second, third = paths(source)[:3]
    for path, data in (
        (first, (source / first).read_bytes()[:500]),
        (second, b"of another image"),
        (third, (source / third).read_bytes() + b"too long"),
    ):
        part = (root / path).with_name(f".{Path(path).name}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
    with WAYS[way](source) as published:
        assert synced(published.url, root)["fetched"] == SLIDES
        if way == "nginx":
            rest_of_it = (source / first).stat().st_size - 500
            assert f"GET /{first} 206 {rest_of_it}" in published.requests()
    assert images(root) == images(source)


def test_an_image_with_another_path_replaces_the_old_one(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    root, source = moved_projects(tmp_path, small_slides)
    place = "select path from mirror where sample_rank = 2"
    (old,), (new,) = column(root, place), column(source, place)
    (source / str(new)).rename(tmp_path / "away")
    kept = shutil.copytree(root, tmp_path / "kept")
    assert inside("sync", source, kept).code == 3
    assert (kept / str(old)).exists() and not (kept / str(new)).exists()
    (tmp_path / "away").rename(source / str(new))
    assert synced(source, root)["fetched"] == 1
    assert dump(root) == dump(source) and is_clean(root)
    assert set(images(root)) == set(paths(source))


def test_what_the_source_lacks_stays_until_delete_is_given(root: Path, source: Path) -> None:
    synced(source, root)
    gone = str(column(source, "select file_name from mirror where sample_rank = 3")[0])
    path = paths(source)[2]
    labels = dump(root).count('INTO "tissue"')
    for table in ("attempts", "images", "sample", "tissue"):
        change(source, f"DELETE FROM {table} WHERE file_name = ?", gone)
    assert synced(source, root)["others"] == 1
    assert dump(root).count('INTO "tissue"') == labels > 0
    assert (root / path).exists() and len(paths(root)) == SLIDES
    assert column(root, f"select status from mirror where file_name = '{gone}'") == ["done"]
    verified(root)
    before = contents(root)
    answer = synced(source, root, "--delete", "--dry-run")
    assert (answer["removed"], answer["dry_run"]) == (1, True)
    assert contents(root) == before
    assert synced(source, root, "--delete")["removed"] == 1
    assert not (root / path).exists() and dump(root) == dump(source)
    verified(root)


@pytest.mark.parametrize(
    "changed",
    [
        {"images": math.inf},
        {"seen": {"digest": "x", "etag": "a\r\nb: c"}},
        {"seen": {"digest": "x", "modified": 0}},
    ],
)
def test_a_state_that_no_sync_wrote_is_ignored(changed: Mapping[str, object]) -> None:
    text = SyncState.of("source", CatalogueVersion("x", "tag")).json()
    assert SyncState.parse(text, "source") is not None
    assert SyncState.parse(json.dumps({**json.loads(text), **changed}), "source") is None


def test_a_dry_run_changes_nothing_and_counts_the_same(tmp_path: Path, root: Path) -> None:
    source = made_up(tmp_path / "source", 2)
    made_up(root, 5)
    change(root, "UPDATE images SET status = 'pending', path = NULL, sha256 = NULL")
    others = [synced(source, root, *options)["others"] for options in (["--dry-run"], [])]
    assert others == [3, 3]
    one = made_up(tmp_path / "one", 1)
    synced(one, tmp_path / "same")
    assert (
        inside("sync", one, tmp_path / "same").out == "nothing new: 1 image is as at the source\n"
    )
    new = tmp_path / "new"
    out = inside("sync", source, new, "--dry-run").out
    assert out.startswith("would fetch 2 images (") and not new.exists()


def test_an_image_that_is_damaged_there_is_pending_here(root: Path, source: Path) -> None:
    path, *_ = paths(source)
    right = (source / path).read_bytes()
    (source / path).write_bytes(right[:-1] + b"?")
    result = inside("sync", source, root)
    assert result.code == 3 and path in result.sentence
    statuses = rows(root, "select status, count(*) from mirror group by 1 order by 1")
    assert statuses == [("done", SLIDES - 1), ("pending", 1)]
    verified(root)
    (source / path).write_bytes(right)
    assert synced(source, root)["fetched"] == 1
    assert dump(root) == dump(source)


def test_settings_come_from_a_directory_and_else_fit_the_images(
    tmp_path: Path, source: Path
) -> None:
    succeeded("--mirror", source, "gallery")
    synced(source, tmp_path / "a")
    theirs, ours = (read_settings(root / "tcgamirror.toml") for root in (source, tmp_path / "a"))
    assert ours == theirs
    assert not (tmp_path / "a/gallery").exists(), "pages are not copied"
    with by_python(source) as published:
        synced(published.url, tmp_path / "b")
    text = (tmp_path / "b/tcgamirror.toml").read_text()
    assert "mpp = 4.0" in text and f"slides = {SLIDES} " in text


# What is refused -------------------------------------------------------------------


def test_images_of_another_target_are_refused(root: Path, source: Path) -> None:
    succeeded("--mirror", root, "init", "--mpp", "8")
    before = contents(root)
    says(inside("sync", source, root), 2, "4 µm/px, exact, png", "8 µm/px, exact, png")
    assert contents(root) == before


def test_a_torn_catalogue_and_none_at_all_are_refused(root: Path, source: Path) -> None:
    data = bytearray((source / "catalogue.db").read_bytes())
    data[8192:20480] = random.Random(1).randbytes(12288)
    (source / "catalogue.db").write_bytes(data)
    with by_python(source) as published:
        says(inside("sync", published.url, root), 7)
        (source / "catalogue.db").write_text("<html>")
        says(inside("sync", published.url, root), 7)
        says(inside("sync", f"{published.url}elsewhere", root), 2, "publishes no mirror")
    says(inside("sync", source / "nowhere", root), 2)
    says(inside("sync", source, source), 2)
    assert not root.exists()


def test_a_source_that_is_written_meanwhile_is_copied_whole(tmp_path: Path, source: Path) -> None:
    with Catalogue.open(source / "catalogue.db", journal=Journal.WAL) as catalogue:
        catalogue.begin_run("update", time.time())
        assert (source / "catalogue.db-wal").stat().st_size
        assert synced(source, tmp_path / "a")["fetched"] == SLIDES
        with by_serve(source) as published:
            assert synced(published.url, tmp_path / "b")["fetched"] == SLIDES
    assert len(column(tmp_path / "a", "select * from runs where ended is null")) == 1
    verified(tmp_path / "b")


class _NoImages(SimpleHTTPRequestHandler):
    """A server whose disk of images is gone."""

    def send_head(self) -> BytesIO | BinaryIO | None:
        if not self.path.startswith("/images/"):
            return super().send_head()
        self.send_error(503)
        return None


def test_a_site_that_sends_no_image_any_more_ends_it(root: Path, source: Path) -> None:
    stop = threading.Event()
    handler = functools.partial(_NoImages, directory=str(source))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with (
            HttpClient(timeouts=Timeouts(tries=1, pause=0.01), stop=stop) as client,
            pytest.raises(Unreachable, match=r"sends no image any more. The last: .*503"),
        ):
            quiet = ProgressDisplay(quiet=True)
            web = HttpMirror(url, client, stop)
            synchronize(web, DirectoryTarget(root), quiet, Shutdown(), delete=False)
        server.shutdown()
    assert synced(source, root)["fetched"] == SLIDES


def test_images_that_a_served_catalogue_lacks_yet_are_fetched(root: Path, source: Path) -> None:
    with by_serve(source) as published:
        urlopen(f"{published.url}/catalogue.db").close()
        for path in paths(source):
            replace_image(source, path)
        assert synced(published.url, root)["failed"] == []
    assert images(root) == images(source)


def test_two_never_write_to_one_mirror(root: Path, source: Path) -> None:
    with started("sync", source, root, "--rate", "1k") as first:
        until((root / "images").exists)
        says(inside("sync", source, root), 5, "another run (sync, pid")
        first.send_signal(signal.SIGINT)
        assert ended(first).code == 130
    assert synced(source, root)["failed"] == []


# Killed ----------------------------------------------------------------------------


def test_killed_at_any_moment_the_next_one_ends_right(root: Path, source: Path) -> None:
    chance = random.Random(7)
    for number in range(KILLS):
        killed("sync", source, root, "--rate", "60k", after=chance.uniform(0.15, 0.9))
        if (root / "tcgamirror.toml").exists():
            result = inside("--mirror", root, "verify")
            assert result.code == 0, (number, result)
        if number % 5 == 2:
            # The next ones have images to replace, too.
            synced(source, root)
            for path in paths(source)[number % SLIDES :]:
                replace_image(source, path)
    assert synced(source, root)["failed"] == []
    assert images(root) == images(source) and dump(root) == dump(source)
    verified(root)


def test_a_row_is_never_done_without_its_image(root: Path, source: Path) -> None:
    synced(source, root)
    for path in paths(source):
        replace_image(source, path)
    wrong = []
    with started("sync", source, root, "--rate", "40k") as process:
        while process.poll() is None:
            wrong += _mismatches(root)
    wrong += _mismatches(root)
    assert wrong == [] and dump(root) == dump(source)


def test_a_row_done_here_is_requeued_for_an_image_to_fetch_again_there(
    root: Path, source: Path
) -> None:
    synced(source, root)
    for path in paths(source):
        replace_image(source, path)
    change(source, "UPDATE slides SET md5 = lower(hex(randomblob(16)))")
    change(source, "UPDATE images SET status = 'pending'")
    # All images but the last can be moved to their places: as after a kill between the two.
    *moved, last = paths(root)
    (root / last).unlink()
    (root / last).mkdir()
    says(inside("sync", source, root), 2, last)
    assert all((root / path).read_bytes() == (source / path).read_bytes() for path in moved)
    assert _mismatches(root) == []
    (root / last).rmdir()
    synced(source, root)
    assert dump(root) == dump(source) and images(root) == images(source)


def _mismatches(root: Path) -> list[object]:
    """Return paths of done images whose files have another size than their rows."""
    done = "select path, bytes from mirror where status = 'done'"
    with suppress(OperationalError):
        odd = [row for row in rows(root, done) if (root / str(row[0])).stat().st_size != row[1]]
        # A file may have been moved since the rows were read; then its row is another by now.
        return [row for row in odd if row in rows(root, done)]
    return []


def test_failures_come_along(tmp_path: Path, small_gdc: StandIn) -> None:
    source = made(tmp_path / "source", small_gdc, slides=3)
    small_gdc.faults.add(Fault(r"/data/|\.svs", "404"))
    assert run("--mirror", source, "update").code == 3
    root = tmp_path / "root"
    for _ in range(2):
        synced(source, root)
        for sql in ("select * from images order by 1", "select * from attempts order by 1"):
            assert rows(root, sql) == rows(source, sql) != []
        assert run("--mirror", source, "fetch", "--retry-failed").code == 3
