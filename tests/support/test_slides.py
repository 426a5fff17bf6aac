"""The slide maker against OpenSlide: what the other tests rely on when they use made slides."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
import pytest

from tcgamirror.imaging.decode import Pixels
from tcgamirror.imaging.svs import Svs
from tcgamirror.sources.whole import LocalFile
from tests.support.levels import ZOO, decibels, tile_spans
from tests.support.slides import expected_rgb, grid, level_sizes, make_slide

# Between painted pixels and those that OpenSlide reads; JPEG with 4:2:0 is the worst of it.
LEAST_DECIBELS = 32.0


def rgba(slide: openslide.OpenSlide, level: int) -> Pixels:
    """A whole level, shape (height, width, 4)."""
    return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))


@pytest.mark.parametrize("name", ZOO)
def test_openslide_reads_the_slide_of_the_spec(name: str, zoo_slides: Mapping[str, Path]) -> None:
    spec, path = ZOO[name], zoo_slides[name]
    assert openslide.OpenSlide.detect_format(path) == "aperio"
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == level_sizes(spec)
        assert slide.properties.get("aperio.AppMag") == spec.app_mag
        mpp = slide.properties.get("openslide.mpp-x")
        assert (None if mpp is None else float(mpp)) == spec.mpp
        assert (slide.color_profile is not None) == bool(spec.icc_bytes)
        if spec.resolution is not None:
            value = float(slide.properties["tiff.XResolution"])
            assert value == pytest.approx(spec.resolution[0], rel=1e-6)
        names = {"thumbnail"} if spec.thumbnail else set()
        assert set(slide.associated_images) == (
            names | {"label", "macro"} if spec.label_and_macro else names
        )
        for level in range(slide.level_count):
            read, painted = rgba(slide, level), np.asarray(expected_rgb(spec, level))
            visible = read[..., 3:] == 255
            if visible.any():
                # Blank pixels count as equal, and dilute the others' mean error by their share.
                near = decibels(np.where(visible, read[..., :3], painted), painted)
                assert near + 10 * np.log10(visible.mean()) > LEAST_DECIBELS


@pytest.mark.parametrize("name", ZOO)
def test_the_first_directory_lies_after_the_base(name: str, zoo_slides: Mapping[str, Path]) -> None:
    spec, path = ZOO[name], zoo_slides[name]
    layout, place = ("Q", 8) if spec.big else ("I", 4)
    (directory,) = struct.unpack_from(spec.byte_order + layout, path.read_bytes()[:16], place)
    with LocalFile(path) as file:
        ends = [span.stop for span in tile_spans(Svs(file).tile_table(0))]
    assert directory >= max(ends, default=0)


@pytest.mark.parametrize("name", [name for name, spec in ZOO.items() if spec.blank])
def test_only_blank_tiles_are_transparent(name: str, zoo_slides: Mapping[str, Path]) -> None:
    spec = ZOO[name]
    with openslide.OpenSlide(zoo_slides[name]) as slide:
        alpha = rgba(slide, 0)[..., 3]
    columns, rows = grid(spec, 0)
    for column in range(columns):
        for row in range(rows):
            left, top = column * spec.tile[0], row * spec.tile[1]
            tile = alpha[top : top + spec.tile[1], left : left + spec.tile[0]]
            assert (tile == (0 if (0, column, row) in spec.blank else 255)).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["plain", "ycbcr-420", "j2k-ycbcr"])
def test_a_shift_shows_more_than_loss(name: str, axis: int, zoo_slides: Mapping[str, Path]) -> None:
    with openslide.OpenSlide(zoo_slides[name]) as slide:
        for level in range(slide.level_count):
            read, painted = rgba(slide, level)[..., :3], np.asarray(expected_rgb(ZOO[name], level))
            assert decibels(read, painted) > decibels(np.roll(read, 1, axis), painted) + 4


def test_the_same_spec_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (make_slide(tmp_path / name, ZOO["everything"]) for name in ("1.svs", "2.svs"))
    assert one.read_bytes() == other.read_bytes()
