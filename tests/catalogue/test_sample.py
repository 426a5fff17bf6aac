"""The sample in the catalogue: drawn by SQL as by the plain functions, its ranks for ever."""

from __future__ import annotations

import random
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.model.sampling import Plan
from tcgamirror.model.slide import Kind, Listing, Slide
from tests.model.test_sampling import PLANS, ordered
from tests.support.catalogues import LATER, NOW, in_memory, listing, mirror_row, slide

SLIDES = st.lists(
    st.builds(
        Slide,
        file_id=st.uuids().map(str),
        file_name=st.text("abcdef", min_size=1, max_size=4),
        kind=st.sampled_from((*Kind, None)),
        project_id=st.sampled_from(("TCGA-BRCA", "TCGA-LUAD", "TCGA-OV", None)),
        primary_site=st.sampled_from(("Breast", "Lung", None)),
    ),
    unique_by=lambda each: each.file_name,
    min_size=1,
    max_size=30,
)


@settings(max_examples=50)
@given(SLIDES, PLANS, st.data())
def test_the_order_of_the_listed_is_that_of_the_plain_function(
    slides: list[Slide], plan: Plan, data: st.DataObject
) -> None:
    left = data.draw(st.sets(st.sampled_from(slides), min_size=1).map(list))
    with in_memory() as catalogue:
        for now in (slides, left):
            catalogue.listing.merge(Listing("R", tuple(now)), NOW, accept_shrink=True)
            listed = catalogue.sample.candidates()
            assert [each.file_name for each in listed] == [each.file_name for each in now]
            assert catalogue.sample.order(plan) == ordered(listed, plan)
            sampled = set(catalogue.sample.names())
            unsampled = [name for name in ordered(listed, plan) if name not in sampled]
            assert catalogue.sample.unsampled(plan) == unsampled
            assert catalogue.sample.order(plan, 3) == ordered(listed, plan)[:3]
            assert catalogue.sample.unsampled(plan, 3) == unsampled[:3]
            catalogue.sample.add(unsampled[:5], NOW)


@pytest.fixture
def catalogue() -> Catalogue:
    made = in_memory()
    made.listing.merge(listing(*(slide(f"s{number:03}") for number in range(100))), NOW)
    return made


def test_ranks_are_given_in_the_order_told_and_stay(catalogue: Catalogue) -> None:
    names = [each.file_name for each in catalogue.sample.candidates()]
    random.Random(7).shuffle(names)
    catalogue.sample.add(names[:10], NOW)
    catalogue.sample.add(names[5:40] + names[8:9], LATER)
    catalogue.sample.add([], LATER)
    catalogue.sample.add(names[::-1], LATER)
    assert catalogue.sample.names() == names[:40] + names[:39:-1]
    assert mirror_row(catalogue, names[39])["sample_rank"] == 40
    assert (catalogue.sample.count(), catalogue.queue.status_counts(NOW).pending) == (100, 100)


def test_what_lies_side_by_side_is_what_is_joined(catalogue: Catalogue) -> None:
    names = [each.file_name for each in catalogue.sample.candidates()]
    random.Random(7).shuffle(names)
    catalogue.sample.add(names, NOW)
    for table in ("slides", "sample", "images"):
        assert catalogue.column(f"select file_name from {table} order by rowid") == sorted(names)


def test_a_slide_that_is_not_listed_is_not_sampled(catalogue: Catalogue) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        catalogue.sample.add(["s001.svs", "nobody.svs"], NOW)
    assert catalogue.sample.names() == []
    catalogue.sample.add(["s001.svs"], NOW)
    assert catalogue.sample.names() == ["s001.svs"]
