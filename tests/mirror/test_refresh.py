"""A listing as it comes: never held, taken over whole or not at all, whatever ends it."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Journal
from tcgamirror.catalogue.listing import ListingStream
from tcgamirror.mirror import refresh as refreshing
from tcgamirror.model.errors import BadManifest, DiskFull, WrongContent
from tcgamirror.model.slide import Slide
from tcgamirror.sources import gdc
from tcgamirror.sources.manifest import read_slides, release_name
from tests.catalogue.test_queue import held
from tests.gdc.listing import listed_without_data, manifest
from tests.sources.test_gdc import API, Scripted, hit, page
from tests.support.catalogues import LATER, NOW, listing, slide


def numbered(count: int) -> Iterator[Slide]:
    return (slide(f"s{number:06}") for number in range(count))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    Catalogue.create(tmp_path / "catalogue.db").close()
    with closing(database.connect(tmp_path / "catalogue.db")) as connection:
        yield connection


def temporary(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM temp.sqlite_master")]


def test_no_slides_of_a_listing_are_held(tmp_path: Path) -> None:
    gc.collect()
    before = held()
    most = 0

    def slides(count: int) -> Iterator[Slide]:
        nonlocal most
        for number, each in enumerate(numbered(count)):
            if number % 2_000 == 1_999:
                most = max(most, held() - before)
            yield dataclasses.replace(each, size=count + number % 2)

    with Catalogue.create(tmp_path / "catalogue.db") as catalogue:
        assert catalogue.listing.merge(ListingStream("1", slides(10_000)), NOW).added == 10_000
        merged = catalogue.listing.merge(ListingStream("2", slides(10_001)), LATER)
    assert (merged.added, merged.unchanged) == (1, 10_000)
    assert 0 < most < 10


def test_a_partial_listing_changes_nothing(tmp_path: Path, connection: sqlite3.Connection) -> None:
    def broken() -> Iterator[Slide]:
        yield from numbered(30)
        raise WrongContent("the rest is missing")

    catalogue = Catalogue(tmp_path / "catalogue.db", connection)
    catalogue.listing.merge(listing(*numbered(20)), NOW)
    with pytest.raises(WrongContent, match="the rest"):
        catalogue.listing.merge(ListingStream("2", broken()), LATER)
    assert (catalogue.listing.count_merges(), catalogue.reports.counts().listed) == (1, 20)
    assert temporary(connection) == []
    assert catalogue.listing.merge(ListingStream("2", numbered(30)), LATER).added == 10


def test_a_full_temporary_disk_is_reported(tmp_path: Path, connection: sqlite3.Connection) -> None:
    catalogue = Catalogue(tmp_path / "catalogue.db", connection)
    catalogue.listing.merge(listing(*numbered(20)), NOW)
    connection.execute("PRAGMA temp.max_page_count = 20")
    with pytest.raises(DiskFull, match="SQLITE_TMPDIR"):
        catalogue.listing.merge(ListingStream("2", numbered(3_000)), LATER)
    connection.execute("PRAGMA temp.max_page_count = 100000")
    assert (catalogue.listing.count_merges(), temporary(connection)) == (1, [])
    assert catalogue.listing.merge(ListingStream("2", numbered(3_000)), LATER).added == 2_980


@pytest.mark.parametrize("journal", list(Journal))
def test_a_merge_that_is_killed_is_whole_or_never_was(tmp_path: Path, journal: Journal) -> None:
    files = listed_without_data(2_100)
    old, new = tmp_path / "list.txt", tmp_path / "new" / "list.txt"
    new.parent.mkdir()
    old.write_text(manifest(files[:2_000]))
    renamed = [dataclasses.replace(file, md5="0" * 32) for file in files[100:300]]
    new.write_text(manifest([*files[300:], *renamed]))
    path, copy = tmp_path / "catalogue.db", tmp_path / "copy.db"
    Catalogue.create(path).close()
    _merge(path, old, journal)
    before = _rows(path)
    shutil.copy(path, copy)
    assert _merge(copy, new, journal) == 0
    after = _rows(copy)
    assert before != after
    ends = []
    for power in itertools.count(14):
        shutil.copy(path, copy)
        ends.append(_merge(copy, new, journal, int(2 ** (power / 1.5))))
        with Catalogue.open(copy) as catalogue:
            catalogue.check_integrity()
        assert _rows(copy) == (after if ends[-1] == 0 else before)
        if ends[-1] == 0:
            break
    assert len(ends) > 5 and set(ends[:-1]) == {-9}


def _merge(path: Path, manifest: Path, journal: Journal, steps: int = 0) -> int:
    """Merge a manifest in a child process, killed after so many steps of SQLite's.

    Return its exit code.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with Catalogue.open(path, journal=journal) as catalogue:
                with catalogue.reading() as connection:
                    # So few pages are kept that changes reach the file before they are whole.
                    connection.execute("PRAGMA cache_size = 10")
                    if steps:
                        connection.set_progress_handler(lambda: os.kill(os.getpid(), 9), steps)
                stream = ListingStream(release_name(manifest), read_slides(manifest))
                catalogue.listing.merge(stream, NOW)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _rows(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_a_gdc_listing_that_changes_meanwhile_is_merged_once(tmp_path: Path) -> None:
    totals = iter((2, 3, 3, 3, 3))
    server = Scripted(lambda start, _size: page([hit(start + 1)], next(totals)))
    merged: list[object] = []
    with Catalogue.create(tmp_path / "catalogue.db") as catalogue:

        def merge(slides: Iterator[Slide]) -> None:
            merged.append(catalogue.listing.merge(ListingStream("1", slides), NOW))

        gdc.stream_slides(server, API, merge, page_size=1)
        assert (
            len(merged),
            catalogue.listing.count_merges(),
            catalogue.reports.counts().listed,
        ) == (1, 1, 3)


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_late_release_may_not_be_the_listings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool, forced: bool
) -> None:
    """The next run then reads the listing again, which in general waits for a new release."""
    begun, server = threading.Event(), Scripted(lambda _start, _size: page([hit(1)], 1))

    class Gdc:
        def json(self, url: str, **options: Any) -> object:
            if url.endswith("/status"):
                # The first page comes first.
                assert begun.wait(60)
                time.sleep(1.0 * late)
            begun.set()
            return server.json(url, **options)

    with Catalogue.create(tmp_path / "catalogue.db") as catalogue:
        if forced:
            refreshing.from_gdc(catalogue, Gdc(), API, accept_shrink=False)
        begun.clear()
        monkeypatch.setattr(refreshing, "_LATE_SECONDS", 0.0 if late else 60.0)
        for force in (forced, False):
            refreshing.from_gdc(catalogue, Gdc(), API, accept_shrink=False, force=force)
    assert len(server.requests) == forced + 1 + late


def test_an_unchanged_manifest_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.txt"
    path.write_text(manifest(listed_without_data(3)))
    with Catalogue.create(tmp_path / "catalogue.db") as catalogue:
        assert refresh(catalogue, path)
        monkeypatch.setattr(refreshing, "read_slides", None)
        assert not refresh(catalogue, path)
        monkeypatch.undo()
        path.write_text(manifest(listed_without_data(4)))
        assert refresh(catalogue, path)
        path.write_text(f"{path.read_text()}and then rubbish\n")
        with pytest.raises(BadManifest, match="line 6"):
            refresh(catalogue, path)
        assert (catalogue.listing.count_merges(), catalogue.reports.counts().listed) == (2, 4)


def refresh(catalogue: Catalogue, path: Path) -> bool:
    merged = refreshing.from_manifest(catalogue, path, accept_shrink=False, warn=print)
    return merged is not None
