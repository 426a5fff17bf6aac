"""What is due is chosen at once and read a few at a time, however much it is."""

from __future__ import annotations

import dataclasses
import gc
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.queue import DAY, HOUR, SLIDE_RETRY_DELAYS, is_permanent, retry_time
from tcgamirror.model.errors import Damaged
from tcgamirror.model.slide import Attempt, Outcome, Slide
from tcgamirror.model.text import command_line, timestamp
from tests.gdc import StandIn
from tests.gdc.faults import Fault
from tests.support.catalogues import LOST, NOW, PICTURE, done, in_memory, listing, slide
from tests.support.command import inside, went_well
from tests.support.mirrors import column, made

MANY = 1700
"""More than are read at a time, thrice."""


@pytest.fixture
def catalogue() -> Catalogue:
    """Slides of which every seventh has failed, every fifth is done, in an order of their own."""
    made = in_memory()
    slides = [slide(f"s{number * 7919 % MANY:04}") for number in range(MANY)]
    made.listing.merge(listing(*slides), NOW)
    made.sample.add([each.file_name for each in slides], NOW)
    run = made.begin_run("fetch", NOW)
    for number, each in enumerate(slides):
        if number % 5 == 0:
            made.queue.record(Outcome(each, (), PICTURE), run, NOW)
        elif number % 7 == 0:
            made.queue.record(Outcome(each, (LOST,), None), run, NOW)
    return made


def names(slides: Iterable[Slide]) -> list[str]:
    return [each.file_name for each in slides]


def test_the_pending_come_before_the_failed_and_both_by_rank(catalogue: Catalogue) -> None:
    sampled = list(enumerate(catalogue.sample.names()))
    pending = [name for place, name in sampled if place % 5 and place % 7]
    failed = [name for place, name in sampled if place % 5 and place % 7 == 0]
    assert names(catalogue.queue.due(retry_failed=True)) == pending + failed
    assert names(catalogue.queue.due(retry_failed=False)) == pending
    for limit in (0, 1, len(pending), len(pending) + 3, MANY):
        some = catalogue.queue.due(retry_failed=True, limit=limit)
        assert names(some) == (pending + failed)[:limit]


def test_no_more_slides_are_held_than_are_read_at_a_time(catalogue: Catalogue) -> None:
    gc.collect()
    before = held()
    most = 0
    for number, _ in enumerate(catalogue.queue.due(retry_failed=True)):
        if number % 100 == 0:
            most = max(most, held() - before)
    assert 0 < most <= 501


def held() -> int:
    return sum(isinstance(each, Slide) for each in gc.get_objects())


def test_a_sampled_slide_without_a_row_is_damage(catalogue: Catalogue) -> None:
    first = next(iter(catalogue.queue.due(retry_failed=False)))
    with catalogue.reading() as connection:
        # As in another program.
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM slides WHERE file_name = ?", (first.file_name,))
    with pytest.raises(Damaged, match="rebuild"):
        list(catalogue.queue.due(retry_failed=False))


def test_between_two_of_them_all_may_be_written(catalogue: Catalogue) -> None:
    run = catalogue.begin_run("fetch", NOW)
    due = names(catalogue.queue.due(retry_failed=False))
    for number, each in enumerate(catalogue.queue.due(retry_failed=False)):
        assert each.file_name == due[number]
        if number % 10 == 0:
            catalogue.queue.record(Outcome(each, (), PICTURE), run, NOW)
    assert len(catalogue.queue.due(retry_failed=False)) == len(due) - len(due[::10])


# Retries ------------------------------------------------------------------------------


PAST_ALL = NOW + 40 * DAY


@pytest.fixture
def two() -> Catalogue:
    """Slides a and b, sampled; a done."""
    catalogue = in_memory()
    catalogue.listing.merge(listing(slide("a"), slide("b")), NOW)
    catalogue.sample.add(["a.svs", "b.svs"], NOW)
    done(catalogue, "a")
    return catalogue


def fail(two: Catalogue, now: float, attempt: Attempt = LOST) -> None:
    run_number = two.begin_run("fetch", now)
    two.queue.record(Outcome(slide("b"), (attempt,), None), run_number, now)


def due(two: Catalogue, now: float) -> list[str]:
    return names(two.queue.due(retry_failed=False, now=now))


def test_delays_grow_up_to_a_month(two: Catalogue) -> None:
    now = NOW
    for delay in (*SLIDE_RETRY_DELAYS, SLIDE_RETRY_DELAYS[-1]):
        fail(two, now)
        assert due(two, now + delay - 2) == []
        assert due(two, now + delay + 1) == ["b.svs"]
        assert two.queue.status_counts(now).next == timestamp(now + delay)
        now += delay + 1
    assert SLIDE_RETRY_DELAYS[0] == HOUR and 29 * DAY < SLIDE_RETRY_DELAYS[-1] < 30 * DAY
    # A success resets the delays.
    done(two, "b")
    two.listing.merge(listing(slide("a"), slide("b", md5="new"), release="2"), NOW)
    fail(two, NOW)
    assert due(two, NOW + HOUR + 1) == ["b.svs"]


def test_a_nightly_run_that_begins_a_little_earlier_still_takes_it(two: Catalogue) -> None:
    fail(two, NOW)
    fail(two, NOW + DAY)
    assert due(two, NOW + 2 * DAY - 2 * HOUR) == ["b.svs"]
    # Nor does a clock that ran ahead block it.
    fail(two, NOW + 400 * DAY)
    assert due(two, NOW) == ["b.svs"]


@pytest.mark.parametrize("fault", ["too fine", "too large", "no such level"])
def test_an_unfit_slide_is_retried_only_on_demand(two: Catalogue, fault: str) -> None:
    fail(two, NOW, dataclasses.replace(LOST, fault=fault))
    assert due(two, PAST_ALL) == []
    counts = two.queue.status_counts(NOW)
    assert (counts.unfit, counts.never, counts.failed) == (1, 1, 1)
    assert len(two.queue.due(retry_failed=True)) == 1


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


def test_what_is_withdrawn_waits_until_it_is_asked_for_or_returns(two: Catalogue) -> None:
    fail(two, NOW)
    two.listing.merge(listing(slide("a"), release="2"), NOW)
    assert due(two, PAST_ALL) == []
    fail(two, NOW)
    assert due(two, PAST_ALL) == []
    two.listing.merge(listing(slide("a"), slide("b"), release="3"), NOW)
    assert due(two, NOW) == ["b.svs"]


def test_a_new_file_id_is_a_new_chance(two: Catalogue) -> None:
    fail(two, NOW)
    two.listing.merge(listing(slide("a"), slide("b", file_id="other"), release="2"), NOW)
    assert [each.file_id for each in two.queue.due(retry_failed=False)] == ["other"]


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
