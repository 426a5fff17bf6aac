"""How SQLite goes about what is asked of a catalogue: by its indexes, as it says itself."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.model.errors import Damaged
from tcgamirror.model.sampling import By, Order, Plan
from tcgamirror.model.slide import Outcome
from tests.support.catalogues import LATER, LOST, NOW, done, listing, slide

LARGE = {"slides", "sample", "images", "attempts", "changes", "former_ids", "mirror"}
ALIASES = {"old": "slides", "newer": "slides"}

_STEP = re.compile(r"(?P<how>SCAN|SEARCH) (?:TABLE )?(?P<table>\S+)(?P<rest>.*)")
_INDEX = re.compile(r"USING (?:COVERING )?INDEX (\S+)")


class Explaining(sqlite3.Connection):
    """Has SQLite say how it goes about each statement before it does."""

    told: list[tuple[str, list[str]]]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)", sql):
            steps = super().execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
            self.told.append((sql, [step for *_, step in steps]))
        return super().execute(sql, parameters)

    def plan(self, act: Callable[[], object]) -> list[tuple[str, list[str]]]:
        """The statements that `act` runs, each with the steps taken."""
        self.told = []
        act()
        return self.told


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Explaining]:
    """A catalogue in which a little of everything has happened."""
    path = tmp_path / "catalogue.db"
    with Catalogue.create(path) as catalogue:
        catalogue.listing.merge(listing(*map(slide, ("a", "b", "c", "d", "e", "xy"))), NOW)
        catalogue.sample.add([f"{letter}.svs" for letter in "abcd"], NOW)
        done(catalogue, "a")
        run = catalogue.begin_run("fetch", NOW)
        catalogue.queue.record(Outcome(slide("b"), (LOST,), None), run, NOW)
    # Without a cache, in which an explanation outlives the index it speaks of.
    with closing(
        sqlite3.connect(path, isolation_level=None, factory=Explaining, cached_statements=0)
    ) as connection:
        connection.told = []
        yield connection


@pytest.fixture
def catalogue(connection: Explaining, tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path / "catalogue.db", connection)


def scanned(plan: list[tuple[str, list[str]]]) -> set[str]:
    """The large tables whose rows are all read, and not an index in their place."""
    steps = [step for _, steps in plan for step in map(_STEP.match, steps) if step]
    tables = {
        ALIASES.get(step["table"], step["table"])
        for step in steps
        if step["how"] == "SCAN" and "COVERING INDEX" not in step["rest"]
    }
    return tables & LARGE


def used(plan: list[tuple[str, list[str]]]) -> set[str]:
    return set(_INDEX.findall("\n".join(step for _, steps in plan for step in steps)))


def sorts(plan: list[tuple[str, list[str]]]) -> list[str]:
    """The statements that put in order what they have read, but for the slides of one barcode."""
    found = [sql for sql, steps in plan for step in steps if "TEMP B-TREE" in step]
    return [sql for sql in found if "_barcode = :name" not in sql]


def look(catalogue: Catalogue) -> None:
    """All that is told of a catalogue without reading rows by the thousand."""
    catalogue.reports.counts()
    catalogue.queue.status_counts(NOW)
    for merge in catalogue.reports.merges():
        catalogue.reports.changes(merge.merge)
    catalogue.queue.unfinished(["id-a"])
    for name in ("a.svs", "ID-A", "tcga-a", "tcga-x"):
        catalogue.reports.show(name)


def test_reports_scan_and_sort_nothing(connection: Explaining, catalogue: Catalogue) -> None:
    plan = connection.plan(lambda: look(catalogue))
    assert (scanned(plan), sorts(plan)) == (set(), [])


@pytest.mark.parametrize(
    ("act", "index"),
    [
        (lambda c: c.exclusions.resolve(["TCGA-3C-AALI-01A"]), "slides_by_slide"),
        (lambda c: c.images.done("a.svs"), "sqlite_autoindex_images_1"),
        (lambda c: c.images.recorded(["a.svs"]), "sqlite_autoindex_images_1"),
        (lambda c: c.sample.add(["e.svs"], NOW), ""),
        (lambda c: c.queue.record(Outcome(slide("b"), (LOST,), None), 1, NOW), ""),
    ],
    ids=["names", "an image", "images", "additions", "outcomes"],
)
def test_single_slides_are_found_by_index(
    connection: Explaining, catalogue: Catalogue, act: Callable[[Catalogue], object], index: str
) -> None:
    plan = connection.plan(lambda: act(catalogue))
    assert scanned(plan) == set() and {index} - {""} <= used(plan)
    if index:
        assert index == "slides_by_slide" or "images_by_status" not in used(plan)
    else:
        assert sorts(plan) == []


def test_due_slides_are_found_by_status(connection: Explaining, catalogue: Catalogue) -> None:
    plan = connection.plan(lambda: catalogue.queue.due(retry_failed=False, now=LATER, limit=1))
    assert scanned(plan) == set()
    assert {"images_by_status", "sqlite_autoindex_sample_1"} <= used(plan)
    assert all(sql.startswith("SELECT rank FROM images") for sql in sorts(plan))


@pytest.mark.parametrize("by", By)
@pytest.mark.parametrize("order", Order)
def test_an_order_reads_the_slides_once_and_page_by_page(
    connection: Explaining, catalogue: Catalogue, order: Order, by: By
) -> None:
    plan = connection.plan(lambda: catalogue.sample.order(Plan(1, order, by)))
    assert [steps for _, steps in plan] == [["SCAN slides"]]


def test_unsampled_slides_are_found_by_index(connection: Explaining, catalogue: Catalogue) -> None:
    plan = connection.plan(lambda: catalogue.sample.unsampled(Plan(1)))
    assert scanned(plan) == {"slides"} and sorts(plan) == []
    assert "sqlite_autoindex_sample_1" in used(plan)


def test_a_merge_reads_the_slides_once(connection: Explaining, catalogue: Catalogue) -> None:
    changed = listing(slide("a", md5="new"), slide("b", file_id="new"), slide("f"), slide("c"))
    successors = {"id-d": "id-f", "id-e": "id-e"}
    plan = connection.plan(
        lambda: catalogue.listing.merge(changed, LATER, successors_of=lambda _: successors)
    )
    whole = [sql for sql, steps in plan if scanned([(sql, steps)])]
    assert len(whole) == 1 and whole[0].startswith("UPDATE slides SET listed_in = ?")
    assert [sql for sql in sorts(plan) if "position" not in sql] == []
    joined = [steps for sql, steps in plan if "INSERT INTO temp.compared" in sql]
    assert "sqlite_autoindex_slides_1" in "".join(joined[0])
    aside = next(steps for sql, steps in plan if "EXCEPT" in sql)
    assert [step for step in aside if step.startswith("SCAN")] == [
        "SCAN slides USING COVERING INDEX sqlite_autoindex_slides_1",
        "SCAN temp.incoming USING COVERING INDEX incoming_by_name",
    ]


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("status = 'failed'", "images_by_status"),
        ("upstream = 'changed'", "slides_by_upstream"),
        ("project_id = 'TCGA-OV' and status = 'done'", "slides_by_project"),
        ("file_name = 'a.svs'", "sqlite_autoindex_slides_1"),
        ("file_id = 'id-a'", "slides_by_file_id"),
        ("case_barcode = 'tcga-a' collate nocase", "slides_by_case"),
        ("sample_rank <= 10", "sqlite_autoindex_sample_2"),
    ],
)
def test_common_conditions_use_an_index(connection: Explaining, sql: str, index: str) -> None:
    plan = connection.plan(lambda: connection.execute(f"SELECT * FROM mirror WHERE {sql}"))
    assert scanned(plan) == set() and index in used(plan)


def test_counts_and_first_rows_are_read_from_indexes(connection: Explaining) -> None:
    sql = "SELECT count(*) FROM images WHERE status = 'done' AND mpp_x IS NULL"
    ((_, (step,)),) = connection.plan(lambda: connection.execute(sql))
    assert "USING COVERING INDEX images_by_status (status=?)" in step
    first = "SELECT * FROM mirror ORDER BY sample_rank LIMIT 10"
    assert sorts(connection.plan(lambda: connection.execute(first))) == []


def named_indexes() -> list[str]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as blank:
        database.migrate(blank)
        rows = blank.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql NOT NULL")
        return [name for (name,) in rows]


@pytest.mark.parametrize("index", named_indexes())
def test_every_index_is_needed(connection: Explaining, catalogue: Catalogue, index: str) -> None:
    assert index in used(connection.plan(lambda: look(catalogue)))
    connection.execute(f"DROP INDEX {index}")
    try:
        plan = connection.plan(lambda: look(catalogue))
    except Damaged as error:
        assert f"no such index: {index}" in str(error)
    else:
        assert scanned(plan) or sorts(plan)
