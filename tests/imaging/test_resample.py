"""The image made in strips against the one made of the whole level at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tcgamirror.imaging import blocks, resample
from tcgamirror.imaging.decode import Pixels, TileReader
from tcgamirror.model.errors import BadSlide, BadTile
from tcgamirror.model.geometry import Grid, Size, reduction
from tests.support.levels import by_openslide, real_slide, worst_block


class ArrayTiles(TileReader):
    """A plain array given a level's interface; tiles in `blank` are not there."""

    def __init__(
        self, pixels: Pixels, tile: Size, blank: frozenset[tuple[int, int]] = frozenset()
    ) -> None:
        super().__init__(Grid(Size(*pixels.shape[1::-1]), tile))
        self.pixels = pixels
        self.blank = blank

    def read_tile(self, column: int, row: int) -> Pixels | None:
        box = self.grid.box(column, row)
        if (column, row) in self.blank:
            return None
        return self.pixels[box.top : box.bottom, box.left : box.right]


def grainy(width: int, height: int, seed: int = 0) -> Pixels:
    """Noise on slow waves: what shows both a misplaced pixel and a lost one."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(width) / 37)[None, :] * np.cos(np.arange(height) / 23)[:, None]
    noisy = 128 + 60 * waves[..., None] + rng.normal(0, 30, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def rendered(reader: ArrayTiles, size: Size) -> Pixels:
    return np.concatenate(list(resample.render(reader, size)))


def by_pillow(pixels: Pixels, size: Size) -> Pixels:
    """The whole level at once: reduced, then resized down, then across."""
    height, width, _ = pixels.shape
    fx, fy = reduction(width, size.width), reduction(height, size.height)
    image = Image.fromarray(pixels).reduce((fx, fy))
    lanczos = Image.Resampling.LANCZOS
    image = image.resize((image.width, size.height), lanczos, (0, 0, image.width, height / fy))
    return np.asarray(image.resize(size, lanczos, (0, 0, width / fx, size.height)))


@settings(max_examples=60)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    tile=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    scale=st.floats(0.99, 60),
    chunk=st.sampled_from([1, 20_000, 2_000_000]),
    strip=st.sampled_from([1, 5_000, 8_000_000]),
)
def test_strips_are_the_pixels_pillow_makes_of_the_whole_level(
    width: int, height: int, tile: tuple[int, int], scale: float, chunk: int, strip: int
) -> None:
    size = Size(max(1, round(width / scale)), max(1, round(height / scale)))
    pixels = grainy(width, height)
    tiles = ArrayTiles(pixels, Size(max(tile[0], 1 + width // 40), max(tile[1], 1 + height // 40)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resample, "CHUNK_PIXELS", chunk)
        patch.setattr(blocks, "STRIP_PIXELS", strip)
        made = rendered(tiles, size)
    assert made.shape == (size.height, size.width, 3)
    # Either pass may round a pixel the other way than Pillow, which has finer weights.
    difference = np.abs(made.astype(int) - by_pillow(pixels, size))
    assert difference.max() <= 2
    assert difference.size < 10_000 or difference.mean() <= 0.05


def test_at_the_levels_own_size_nothing_is_resampled() -> None:
    pixels = grainy(500, 300)
    assert np.array_equal(rendered(ArrayTiles(pixels, Size(64, 48)), Size(500, 300)), pixels)


def test_a_blank_tile_is_white() -> None:
    tiles = ArrayTiles(grainy(300, 200), Size(100, 100), frozenset({(1, 0)}))
    made = rendered(tiles, Size(300, 200))
    assert (made[:100, 100:200] == 255).all()
    assert np.array_equal(made[100:], tiles.pixels[100:])


def test_a_tile_of_another_size_is_refused_by_its_place() -> None:
    class Short(ArrayTiles):
        def read_tile(self, column: int, row: int) -> Pixels | None:
            pixels = super().read_tile(column, row)
            return pixels[:-1] if pixels is not None and (column, row) == (2, 1) else pixels

    with pytest.raises(BadTile, match=r"column 2, row 1 has 100×99 pixels instead of 100×100"):
        rendered(Short(grainy(300, 200), Size(100, 100)), Size(60, 40))


def test_reducing_first_stays_close_to_lanczos_alone() -> None:
    pixels = grainy(2400, 1800)
    size = Size(160, 120)
    alone = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    error = (rendered(ArrayTiles(pixels, Size(240, 240)), size).astype(float) - alone) ** 2
    assert 10 * np.log10(255**2 / error.mean()) >= 45


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "tcga-cr-7395-ts1.svs"])
def test_tissue_stays_close_to_lanczos_alone(name: str) -> None:
    pixels = by_openslide(real_slide(name), 0)
    for factor in (3, 3.4, 3.75, 4, 5.9, 6, 8.3, 12, 20):
        size = Size(*(round(side / factor) for side in pixels.shape[1::-1]))
        made = rendered(ArrayTiles(pixels, Size(240, 240)), size)
        alone = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        difference = made - alone.astype(float)
        assert 10 * np.log10(255**2 / (difference**2).mean()) >= 44, factor
        assert worst_block(made, alone) >= 36.5, factor
        assert np.abs(difference).mean() <= 0.8, factor


def one_colour(grid: Grid) -> ArrayTiles:
    """A level of any size, which takes no room."""
    return ArrayTiles(np.broadcast_to(np.uint8(200), (*grid.size[::-1], 3)), grid.tile)


@pytest.mark.parametrize("size", [Size(6000, 4096), Size(5900, 4028)], ids=str)
def test_a_row_of_tiles_is_held_once(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "STRIP_PIXELS", 400_000)
    grid = Grid(Size(6000, 4096), Size(256, 4096))
    tracemalloc.start()
    rows = sum(map(len, resample.render(one_colour(grid), size)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == size.height
    assert peak < 1.4 * 3 * grid.size.width * grid.tile.height


@pytest.mark.parametrize(
    ("grid", "size"),
    [
        (Grid(Size(30_000, 9_000), Size(256, 4096)), Size(30_000, 9_000)),
        (Grid(Size(300_000, 9_000), Size(256, 256)), Size(285_000, 8_550)),
        (Grid(Size(2_000_000, 9_000), Size(256, 256)), Size(200, 1)),
    ],
    ids=str,
)
def test_a_level_too_wide_to_be_held_is_refused(grid: Grid, size: Size) -> None:
    with pytest.raises(BadSlide, match="is too wide"):
        list(resample.render(one_colour(grid), size))


def test_a_slide_of_common_tiles_is_not_too_wide() -> None:
    widest = Grid(Size(250_000, 300), Size(240, 240))
    for size in (widest.size, Size(120, 1)):
        assert sum(map(len, resample.render(one_colour(widest), size))) == size.height


def test_a_level_reduced_a_thousandfold_is_its_mean() -> None:
    pixels = grainy(2000, 1000)
    made = rendered(ArrayTiles(pixels, Size(256, 256)), Size(2, 1))
    assert np.abs(made - pixels.mean(axis=(0, 1))).max() < 20
