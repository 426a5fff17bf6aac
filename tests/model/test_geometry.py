"""Sizes, tiles and levels, by hand and by what must hold of any numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcgamirror.model.geometry import (
    Box,
    Grid,
    Size,
    at_mpp,
    coarsest_serving,
    downsample,
    halved,
    halvings_to_fit,
    reduction,
)

SIDES = st.integers(1, 2_000_000)
SIZES = st.builds(Size, SIDES, SIDES)


def test_the_last_tiles_are_cut_off_at_the_edge() -> None:
    grid = Grid(Size(1000, 500), Size(240, 240))
    assert (grid.columns, grid.rows) == (5, 3)
    assert grid.box(0, 0) == Box(0, 0, 240, 240)
    assert grid.box(4, 2).size == Size(40, 20)


def test_a_whole_number_of_tiles_leaves_no_empty_ones() -> None:
    assert (Grid(Size(480, 240), Size(240, 240)).columns) == 2


@given(
    st.builds(Size, st.integers(1, 600), st.integers(1, 600)),
    st.builds(Size, st.integers(20, 700), st.integers(20, 700)),
)
def test_tiles_cover_every_pixel_once(size: Size, tile: Size) -> None:
    grid = Grid(size, tile)
    boxes = [grid.box(column, row) for row in range(grid.rows) for column in range(grid.columns)]
    assert all(min(box.size) >= 1 for box in boxes)
    assert sum(box.size.width * box.size.height for box in boxes) == size.width * size.height
    assert boxes[-1][2:] == size


@given(SIZES, st.integers(0, 21))
def test_halving_at_once_is_halving_step_by_step(size: Size, times: int) -> None:
    stepwise = size
    for _ in range(times):
        stepwise = Size(math.ceil(stepwise.width / 2), math.ceil(stepwise.height / 2))
    assert halved(size, times) == stepwise


@given(SIZES, SIDES)
def test_the_longer_side_is_halved_until_it_fits_and_no_further(size: Size, limit: int) -> None:
    times = halvings_to_fit(size, limit)
    assert halved(size, times).longer <= limit
    assert times == 0 or halved(size, times - 1).longer > limit


@given(SIZES, st.floats(0.05, 20), st.floats(0.05, 2000))
def test_a_size_at_an_mpp_is_within_half_a_pixel(size: Size, base: float, mpp: float) -> None:
    made = at_mpp(size, base, mpp)
    for side, wanted in zip(made, (size.width * base / mpp, size.height * base / mpp), strict=True):
        assert abs(side - wanted) <= 0.5 or (side == 1 and wanted < 1)


def test_a_slide_far_smaller_than_a_pixel_is_one_pixel() -> None:
    assert at_mpp(Size(10, 3), 0.25, 1000) == Size(1, 1)


def test_a_downsample_is_the_mean_of_both_sides() -> None:
    assert downsample(Size(1000, 900), Size(250, 300)) == (4 + 3) / 2


@pytest.mark.parametrize(
    ("wanted", "level"),
    [(1, 0), (3.9, 0), (3.97, 1), (4, 1), (15.8, 1), (15.9, 2), (31.6, 2), (31.7, 3), (1e9, 3)],
)
def test_a_level_one_percent_too_coarse_still_serves(wanted: float, level: int) -> None:
    assert coarsest_serving((1.0, 4.0003, 16.002, 32.01), wanted) == level


@pytest.mark.parametrize(
    ("base", "mpp", "level"),
    [(0.5026, 0.5, 0), (0.252, 0.25, 0), (0.505, 0.5, 0), (0.5051, 0.5, None), (1.0, 0.5, None)],
)
def test_the_base_serves_as_any_level_does(base: float, mpp: float, level: int | None) -> None:
    assert coarsest_serving((1.0, 4.0), mpp / base) == level


def test_levels_may_come_in_any_order() -> None:
    assert coarsest_serving((1.0, 16.0, 4.0), 8.0) == 2


@given(SIDES, SIDES)
def test_what_a_reduction_leaves(source: int, target: int) -> None:
    factor = reduction(source, target)
    assert (factor > 1) == (source / target >= 3)
    assert factor == 1 or (1.5 if factor == 2 else 2) <= source / factor / target < 3
