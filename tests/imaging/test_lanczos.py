"""Lanczos by small products of whole numbers: exact in any order, and bounded in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcgamirror.imaging import lanczos
from tcgamirror.imaging.blocks import Block, Row
from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.lanczos import Floats, Kernels, Part, build_kernels, resize
from tcgamirror.model.geometry import Size

RNG = np.random.default_rng(0)


def every(axis: Kernels) -> Iterator[tuple[slice, slice, Floats]]:
    """Yield the inputs, outputs and weights of each of an axis' matrices."""
    return Part(axis, range(len(axis.firsts))).matrices()


def rows(strips: Iterable[Pixels], width: int = 2000) -> Iterator[Row]:
    """Yield each strip as a row of blocks of this width."""
    top = 0
    for strip in strips:
        lefts = range(0, strip.shape[1], width)
        blocks = (Block(left, strip[:, left : left + width]) for left in lefts)
        yield Row(top, top + len(strip), blocks)
        top += len(strip)


def by_whole_numbers(pixels: Pixels, span: float, count: int) -> Pixels:
    """Resize the first axis by sums of 64-bit whole numbers, one output at a time."""
    length = len(pixels)
    made = []
    for inputs, _, matrix in every(build_kernels(length, span, count)):
        weights = np.rint(matrix.astype(np.float64) * 2**14).astype(np.int64)
        sums = np.tensordot(weights, pixels[inputs].astype(np.int64), axes=(0, 0))
        made.append(np.rint(sums / 2**14).clip(0, 255).astype(np.uint8))
    return np.concatenate(made)


@pytest.mark.parametrize(
    ("length", "size"),
    [
        (Size(333, 211), Size(170, 117)),
        (Size(333, 211), Size(333, 100)),
        (Size(50, 40), Size(51, 41)),
        (Size(9, 700), Size(1, 240)),
        (Size(2000, 70), Size(3, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("most", [1, 50, 1 << 30])
def test_sums_are_exact_whatever_is_summed_at_once(
    length: Size, size: Size, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = RNG.integers(0, 256, (length.height, length.width, 3), np.uint8)
    span = (length.width - 0.3, length.height - 0.6)
    down = by_whole_numbers(pixels, span[1], size.height)
    expected = by_whole_numbers(down.swapaxes(0, 1), span[0], size.width).swapaxes(0, 1)
    monkeypatch.setattr(lanczos, "MOST_INPUTS", Size(most, most))
    strips = (pixels[top : top + 37] for top in range(0, length.height, 37))
    made = np.concatenate(list(resize(rows(strips, 23), length, span, size)))
    assert np.array_equal(made, expected)


@given(st.integers(1, 3000), st.floats(0.9, 30))
def test_weights_are_multiples_that_float32_sums_exactly(length: int, scale: float) -> None:
    count = max(1, round(length / scale))
    for _, _, matrix in every(build_kernels(length, length, count)):
        weights = matrix.astype(np.float64) * 2**14
        assert np.array_equal(weights, np.rint(weights))
        assert (weights.sum(axis=0) == 2**14).all()
        assert (255 * np.abs(weights).sum(axis=0) < 2**24).all()


def test_one_colour_stays_and_the_own_size_changes_nothing() -> None:
    white: Pixels = np.full((100, 90, 3), 255, np.uint8)
    length = Size(90, 100)
    (made, *rest) = resize(rows([white]), length, (90, 100), Size(47, 53))
    assert all((part == 255).all() for part in (made, *rest))
    pixels = RNG.integers(0, 256, white.shape, np.uint8)
    same = np.concatenate(list(resize(rows([pixels]), length, (90, 100), length)))
    assert np.array_equal(same, pixels)


@pytest.mark.parametrize(("width", "height"), [(100_000, 400), (250_000, 160)])
def test_a_wide_level_takes_the_rows_of_one_kernel(width: int, height: int) -> None:
    length, size = Size(width, height), Size(width // 2, height // 2)
    strip: Pixels = np.broadcast_to(np.uint8(200), (40, width, 3))
    tracemalloc.start()
    made = sum(map(len, resize(rows([strip] * (height // 40)), length, (width, height), size)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made == size.height
    # The rows of one group, and what they become.
    assert peak < 100e6


def test_the_weights_of_the_widest_level_are_held_in_one_table() -> None:
    tracemalloc.start()
    build_kernels(2_000_000, 2_000_000, 1_900_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300e6
