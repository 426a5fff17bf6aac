"""What is due is chosen at once and read a few at a time, however much it is."""

from __future__ import annotations

import gc
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.model.errors import Damaged
from tcgamirror.model.slide import Outcome, Slide
from tests.support.catalogues import LOST, NOW, PICTURE, listing, slide

MANY = 1700
"""More than are read at a time, thrice."""


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Slides of which every seventh has failed, every fifth is done, in an order of their own."""
    made = Catalogue.create(tmp_path / "catalogue.db")
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


def test_the_pending_come_before_the_failed_and_both_by_rank(catalogue: Catalogue) -> None:
    names = catalogue.sample.names()
    pending = [name for place, name in enumerate(names) if place % 5 and place % 7]
    failed = [name for place, name in enumerate(names) if place % 5 and place % 7 == 0]
    due = [each.file_name for each in catalogue.queue.due(retry_failed=True)]
    assert due == pending + failed
    assert [each.file_name for each in catalogue.queue.due(retry_failed=False)] == pending
    for limit in (0, 1, len(pending), len(pending) + 3, MANY):
        some = catalogue.queue.due(retry_failed=True, limit=limit)
        assert [each.file_name for each in some] == due[:limit]


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


def test_a_sampled_slide_without_a_row_is_damage(catalogue: Catalogue, tmp_path: Path) -> None:
    first = next(iter(catalogue.queue.due(retry_failed=False)))
    # As another program can, for which references are not on.
    with closing(sqlite3.connect(tmp_path / "catalogue.db")) as other, other:
        other.execute("DELETE FROM slides WHERE file_name = ?", (first.file_name,))
    with pytest.raises(Damaged, match="rebuild"):
        list(catalogue.queue.due(retry_failed=False))


def test_between_two_of_them_all_may_be_written(catalogue: Catalogue) -> None:
    run = catalogue.begin_run("fetch", NOW)
    due = [each.file_name for each in catalogue.queue.due(retry_failed=False)]
    for number, each in enumerate(catalogue.queue.due(retry_failed=False)):
        assert each.file_name == due[number]
        if number % 10 == 0:
            catalogue.queue.record(Outcome(each, (), PICTURE), run, NOW)
    assert catalogue.queue.count(retry_failed=False) == len(due) - len(due[::10])
