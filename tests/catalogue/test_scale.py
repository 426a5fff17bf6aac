"""Catalogues of many slides: what is held and what is asked do not grow with them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.model.sampling import Plan
from tcgamirror.sources.manifest import read_manifest
from tests.bench.catalogue import MILLION, measured, rows_table
from tests.bench.footprint import footprint
from tests.bench.ours import PROGRAM
from tests.gdc.listing import listed_without_data, manifest
from tests.support.catalogues import NOW, listing, slide
from tests.support.command import succeeded
from tests.support.mirrors import impatient

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
MANY = 50_000
A_SLIDE = 1_300
"""Bytes that each takes which is held in memory."""

STEP = """
import sys
from pathlib import Path
from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.sources.manifest import release_name, read_slides
from tcgamirror.catalogue.listing import ListingStream
# As small as they are beside a catalogue of a million.
database.TEMPORARY_BYTES = database.CACHE_BYTES = 2_000_000
path, manifest = map(Path, sys.argv[2:])
with Catalogue.open(path, read_only=sys.argv[1].startswith("fetch")) as catalogue:
    if sys.argv[1] == "merge":
        catalogue.listing.merge(ListingStream(release_name(manifest), read_slides(manifest)), 1.0)
    elif sys.argv[1] == "due":
        assert sum(1 for _ in catalogue.queue.due(retry_failed=True)) == 50_000
    elif sys.argv[1].startswith("fetch"):
        from tcgamirror.cli.main import main
        main(["--mirror", str(path.parent), *sys.argv[1].split()])
    elif sys.argv[1] == "look":
        catalogue.reports.counts(), catalogue.queue.status_counts(1.0)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A catalogue whose slides are all sampled, and a manifest that has another md5 for each."""
    folder = tmp_path_factory.mktemp("scale")
    files = listed_without_data(MANY)
    path, changed = folder / "catalogue.db", folder / "list.txt"
    changed.write_text(manifest(files))
    with Catalogue.create(path) as catalogue:
        catalogue.listing.merge(read_manifest(changed), NOW)
        catalogue.sample.add(catalogue.sample.order(Plan(0)), NOW)
    changed.write_text(manifest(replace(file, md5="0" * 32) for file in files))
    return path, changed


@pytest.mark.parametrize(("step", "share"), [("merge", 0.4), ("due", 0.1), ("look", 0.1)])
def test_many_slides_are_not_held_in_memory(
    made: tuple[Path, Path], tmp_path: Path, step: str, share: float
) -> None:
    def peak(step: str) -> int:
        shutil.copy(made[0], tmp_path / "catalogue.db")
        paths = (tmp_path / "catalogue.db", made[1])
        return footprint([sys.executable, "-c", STEP, step, *map(str, paths)]).peak

    assert peak(step) - peak("nothing") < share * MANY * A_SLIDE


def test_a_run_holds_only_what_it_fetches(made: tuple[Path, Path], tmp_path: Path) -> None:
    root = tmp_path / "mirror"
    nowhere = ("--api", "http://127.0.0.1:9", "--bucket", "none")
    succeeded("--mirror", root, "init", "--mpp", "15", "--slides", "all", *nowhere)
    impatient(root)

    def peak(fetch: str) -> int:
        shutil.copy(made[0], root / "catalogue.db")
        paths = (root / "catalogue.db", made[1])
        return footprint([sys.executable, "-c", STEP, fetch, *map(str, paths)]).peak

    assert peak("fetch") - peak("fetch --limit 100") < 0.1 * MANY * A_SLIDE


def test_a_manifest_is_not_held_in_memory_by_init(made: tuple[Path, Path], tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text(manifest(listed_without_data(10)))

    def peak(name: str, path: Path) -> int:
        asked = ["--mpp", "15", "--kind", "all", "--slides", "5", "--manifest", str(path)]
        return footprint([*PROGRAM, "--mirror", str(tmp_path / name), "init", *asked]).peak

    assert peak("many", made[1]) - peak("few", few) < 0.3 * MANY * A_SLIDE


def test_many_slides_take_as_many_queries_as_few(made: tuple[Path, Path], tmp_path: Path) -> None:
    few = tmp_path / "few.db"
    with Catalogue.create(few) as catalogue:
        catalogue.listing.merge(listing(slide("a"), slide("b")), NOW)
        catalogue.sample.add(["a.svs"], NOW)
    assert _questions(few) == _questions(made[0]) <= 14


def _questions(path: Path) -> int:
    """Statements run to tell how a catalogue stands, what is due first and in which order."""
    asked: list[str] = []
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        connection.set_trace_callback(asked.append)
        catalogue = Catalogue(path, connection)
        catalogue.reports.counts()
        catalogue.queue.status_counts(NOW)
        assert len(catalogue.queue.due(retry_failed=False, limit=1)) == 1
        assert catalogue.sample.order(Plan(0))
    return len(asked)


@pytest.mark.skipif(not SOAK, reason="takes five minutes and 4 GB: make soak")
@pytest.mark.timeout(3600)
def test_a_million_slides_fit_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(measured(tmp_path / "million", MILLION))
    with capsys.disabled():
        print(f"\n{rows_table(rows)}")
    refreshed = [row for row in rows if row.what.startswith(("refresh", "update"))]
    assert len(refreshed) == 3 and all(row.cost.peak < 500e6 for row in refreshed)
