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
    assert Grid(Size(480, 240), Size(240, 240)).columns == 2


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


def test_a_downsample_is_the_mean_of_both_sides() -> None:
    assert downsample(Size(1000, 900), Size(250, 300)) == (4 + 3) / 2


LUNG = (1.0, 4.0003, 16.002, 32.01)


@pytest.mark.parametrize(
    ("downsamples", "wanted", "level"),
    [
        *((LUNG, wanted, 0) for wanted in (1, 3.9)),
        *((LUNG, wanted, 1) for wanted in (3.97, 4, 15.8)),
        *((LUNG, wanted, 2) for wanted in (15.9, 31.6)),
        *((LUNG, wanted, 3) for wanted in (31.7, 1e9)),
        # The base serves as any level does.
        *(((1.0, 4.0), mpp / base, 0) for mpp, base in ((0.5, 0.5026), (0.25, 0.252))),
        *(((1.0, 4.0), 0.5 / base, level) for base, level in ((0.505, 0), (0.5051, None))),
        # Levels may come in any order.
        ((1.0, 16.0, 4.0), 8.0, 2),
    ],
)
def test_a_level_one_percent_too_coarse_still_serves(
    downsamples: tuple[float, ...], wanted: float, level: int | None
) -> None:
    assert coarsest_serving(downsamples, wanted) == level


@given(SIDES, SIDES)
def test_what_a_reduction_leaves(source: int, target: int) -> None:
    factor = reduction(source, target)
    assert (factor > 1) == (source / target >= 3)
    assert factor == 1 or (1.5 if factor == 2 else 2) <= source / factor / target < 3
