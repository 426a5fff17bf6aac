"""The order of slides: reproducible anywhere, stable when the listing grows, fair to strata."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise, permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcgamirror.model.sampling import By, Order, Plan, arranged
from tcgamirror.model.slide import Kind, Slide
from tcgamirror.sources.manifest import read_manifest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

PROJECTS = st.sampled_from(("TCGA-BRCA", "TCGA-LUAD", "TCGA-OV", None))
KINDS = st.sampled_from((*Kind, None))
SLIDES = st.lists(
    st.builds(
        Slide,
        file_id=st.just(""),
        file_name=st.text("abcdef", min_size=1, max_size=4),
        kind=KINDS,
        project_id=PROJECTS,
        primary_site=st.sampled_from(("Breast", "Lung", None)),
    ),
    unique_by=lambda slide: slide.file_name,
    max_size=30,
)
PLANS = st.builds(
    Plan,
    seed=st.integers(-5, 2**40),
    order=st.sampled_from(Order),
    by=st.sampled_from(By),
    kinds=st.sampled_from((frozenset(Kind), *(frozenset({kind}) for kind in Kind))),
    projects=st.sampled_from((frozenset[str](), frozenset({"TCGA-LUAD", "TCGA-OV"}))),
)


def named(*names: str, kind: Kind | None = Kind.DIAGNOSTIC) -> list[Slide]:
    return [Slide("", name, kind=kind) for name in names]


def stratum(slide: Slide, plan: Plan) -> str | None:
    return None if plan.by is By.NONE else getattr(slide, plan.by)


def ordered(slides: Iterable[Slide], plan: Plan) -> list[str]:
    """Return the file names of all allowed slides in sampling order."""
    allowed = (
        (slide.file_name, stratum(slide, plan), place)
        for place, slide in enumerate(slides)
        if plan.allows(slide)
    )
    return list(arranged(allowed, plan))


@given(SLIDES, PLANS)
def test_an_order_holds_each_allowed_slide_once(slides: list[Slide], plan: Plan) -> None:
    allowed = [
        each.file_name
        for each in slides
        if (each.kind in plan.kinds or (each.kind is None and plan.kinds == frozenset(Kind)))
        and (not plan.projects or each.project_id in plan.projects)
    ]
    assert sorted(ordered(slides, plan)) == sorted(allowed)


@given(SLIDES, st.integers(), st.integers(0, 30), st.sampled_from(By))
def test_new_slides_do_not_change_the_stable_order_of_the_old_ones(
    slides: list[Slide], seed: int, known: int, by: By
) -> None:
    plan = Plan(seed, by=by)
    old = slides[:known]
    stratum_of = {each.file_name: stratum(each, plan) for each in old}
    for place in set(stratum_of.values()):
        before = [name for name in ordered(old, plan) if stratum_of[name] == place]
        after = [name for name in ordered(slides, plan) if stratum_of.get(name, "-") == place]
        assert before == after


def test_the_stable_order_does_not_depend_on_the_listing_order() -> None:
    orders = {tuple(ordered(named(*names), Plan(7))) for names in permutations("abcd")}
    assert len(orders) == 1


@given(st.integers(), st.integers(0, 200))
def test_shuffle_is_what_random_shuffle_makes_of_the_rows(seed: int, number: int) -> None:
    rows = list(range(number))
    random.seed(seed)
    random.shuffle(rows)
    slides = named(*map(str, range(number)))
    assert ordered(slides, Plan(seed, Order.SHUFFLE)) == [str(row) for row in rows]


def test_shuffle_counts_only_the_rows_that_may_be_taken() -> None:
    wanted = named(*"abcde", kind=Kind.TISSUE)
    plan = Plan(3, Order.SHUFFLE, kinds=frozenset({Kind.TISSUE}))
    assert ordered([*named("x", "y"), *wanted], plan) == ordered(wanted, plan)


@given(SLIDES, st.integers())
def test_strata_are_visited_in_turn(slides: list[Slide], seed: int) -> None:
    plan = Plan(seed, by=By.PROJECT)
    strata = {each.file_name: each.project_id for each in slides}
    rounds: list[list[str | None]] = [[]]
    for name in ordered(slides, plan):
        if strata[name] in rounds[-1]:
            rounds.append([])
        rounds[-1].append(strata[name])
    for round_ in rounds:
        assert round_ == sorted(round_, key=lambda name: (name is None, name or ""))
    for earlier, later in pairwise(rounds):
        assert set(later) <= set(earlier)


def test_a_slide_of_unknown_kind_is_taken_only_where_all_are() -> None:
    unknown = named("a", kind=None)
    assert ordered(unknown, Plan(1)) == ["a"]
    assert ordered(unknown, Plan(1, kinds=frozenset({Kind.DIAGNOSTIC}))) == []


@pytest.fixture(scope="module")
def diagnostic() -> list[Slide]:
    path = DATA / "manifests" / "tcga-diagnostic-2024-08.txt"
    if not path.exists():
        pytest.skip("../shared/data holds no real manifests")
    return list(read_manifest(path).slides)


def test_the_published_samplers_picks_can_be_had_again(diagnostic: list[Slide]) -> None:
    rows = list(range(11765))
    random.seed(42)
    random.shuffle(rows)
    expected = [diagnostic[row].file_name for row in rows[:100]]
    assert ordered(diagnostic, Plan(42, Order.SHUFFLE))[:100] == expected


def test_a_hundred_real_slides_are_the_beginning_of_a_thousand(diagnostic: list[Slide]) -> None:
    half = ordered(diagnostic[::2], Plan(42))
    kept = set(half)
    assert [name for name in ordered(diagnostic, Plan(42)) if name in kept] == half
    assert ordered(diagnostic, Plan(42))[:1000][:100] == ordered(diagnostic, Plan(42))[:100]
