"""Slides that failed: tried again by themselves at growing distances, or at once if asked for."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.queue import DAY, DELAYS, HOUR, is_permanent, retry_time
from tcgamirror.model.slide import Attempt, Outcome
from tcgamirror.model.text import command_line, timestamp
from tests.gdc import StandIn
from tests.gdc.faults import Fault
from tests.support.catalogues import LOST, NOW, done, listing, slide
from tests.support.command import inside, went_well
from tests.support.mirrors import column, made

PAST_ALL = NOW + 40 * DAY


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Slides a and b, sampled; a done."""
    made_one = Catalogue.create(tmp_path / "catalogue.db")
    made_one.listing.merge(listing(slide("a"), slide("b")), NOW)
    made_one.sample.add(["a.svs", "b.svs"], NOW)
    done(made_one, "a")
    return made_one


def fail(catalogue: Catalogue, now: float, attempt: Attempt = LOST) -> None:
    run_number = catalogue.begin_run("fetch", now)
    catalogue.queue.record(Outcome(slide("b"), (attempt,), None), run_number, now)


def due(catalogue: Catalogue, now: float) -> list[str]:
    names = [each.file_name for each in catalogue.queue.due(retry_failed=False, now=now)]
    assert catalogue.queue.count(retry_failed=False, now=now) == len(names)
    return names


def test_the_distance_grows_up_to_a_month(catalogue: Catalogue) -> None:
    now = NOW
    for distance in (*DELAYS, DELAYS[-1]):
        fail(catalogue, now)
        assert due(catalogue, now + distance - 2) == []
        assert due(catalogue, now + distance + 1) == ["b.svs"]
        assert catalogue.queue.status_counts(now).next == timestamp(now + distance)
        now += distance + 1
    assert DELAYS[0] == HOUR and 29 * DAY < DELAYS[-1] < 30 * DAY


def test_a_nightly_run_that_begins_a_little_earlier_still_takes_it(catalogue: Catalogue) -> None:
    fail(catalogue, NOW)
    fail(catalogue, NOW + DAY)
    assert due(catalogue, NOW + 2 * DAY - 2 * HOUR) == ["b.svs"]


def test_a_success_begins_the_distances_anew(catalogue: Catalogue) -> None:
    for days in range(4):
        fail(catalogue, NOW + days * DAY)
    done(catalogue, "b")
    catalogue.listing.merge(listing(slide("a"), slide("b", md5="new"), release="2"), NOW)
    fail(catalogue, NOW)
    assert due(catalogue, NOW + HOUR + 1) == ["b.svs"]


def test_a_clock_that_ran_ahead_blocks_nothing(catalogue: Catalogue) -> None:
    fail(catalogue, NOW + 400 * DAY)
    assert due(catalogue, NOW) == ["b.svs"]


@pytest.mark.parametrize("fault", ["too fine", "too large", "no such level"])
def test_an_unfit_slide_is_retried_only_on_demand(catalogue: Catalogue, fault: str) -> None:
    fail(catalogue, NOW, dataclasses.replace(LOST, fault=fault))
    assert due(catalogue, PAST_ALL) == []
    counts = catalogue.queue.status_counts(NOW)
    assert (counts.unfit, counts.never, counts.failed) == (1, 1, 1)
    assert catalogue.queue.count(retry_failed=True) == 1


@pytest.mark.parametrize(
    ("source", "fault", "md5", "final"),
    [
        ("whole", "bad slide", "m", True),
        ("whole", "bad slide", None, False),
        ("whole", "cut short", "m", False),
        ("range", "bad slide", "m", False),
        ("range", "too large", None, True),
    ],
)
def test_what_lasts(source: str, fault: str, md5: str | None, final: bool) -> None:
    attempt = dataclasses.replace(LOST, source=source, fault=fault)
    outcome = Outcome(slide("b", md5=md5), (attempt,), None)
    assert is_permanent(outcome) is final
    assert (retry_time(outcome, 1, NOW) is None) is final


def test_what_is_withdrawn_waits_until_it_is_asked_for_or_returns(catalogue: Catalogue) -> None:
    fail(catalogue, NOW)
    catalogue.listing.merge(listing(slide("a"), release="2"), NOW)
    assert due(catalogue, PAST_ALL) == []
    fail(catalogue, NOW)
    assert due(catalogue, PAST_ALL) == []
    catalogue.listing.merge(listing(slide("a"), slide("b"), release="3"), NOW)
    assert due(catalogue, NOW) == ["b.svs"]


def test_a_new_file_id_is_a_new_chance(catalogue: Catalogue) -> None:
    fail(catalogue, NOW)
    catalogue.listing.merge(listing(slide("a"), slide("b", file_id="other"), release="2"), NOW)
    assert [each.file_id for each in catalogue.queue.due(retry_failed=False)] == ["other"]


def test_an_update_waits_and_then_tries_again(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--via", "range", slides=2)
    small_gdc.faults.add(Fault(r"/data/|\.svs", "404"))
    assert inside("--mirror", root, "update").code == 3
    small_gdc.faults.clear()
    waiting = went_well("--mirror", root, "update").out
    (again,) = column(root, "select min(retry_at) from images")
    assert (
        f"2 failed (again from {again}, at once by {command_line('update --retry-failed', root)})"
        in waiting
    )
    status = went_well("--mirror", root, "status").out
    assert f"failed   2 later, the first from {again}" in status
    told = went_well("--mirror", root, "status", "--json").json()["retries"]
    assert told == {"due": 0, "later": 2, "next": again, "never": 0, "unfit": 0}
    with closing(sqlite3.connect(root / "catalogue.db")) as connection, connection:
        connection.execute("update images set retry_at = '2020-01-01T00:00:00Z'")
    assert "failed   2 due again at the next run" in went_well("--mirror", root, "status").out
    assert "2 slides fetched, 0 failed" in went_well("--mirror", root, "update").out
