"""The slide maker against OpenSlide: what the other tests rely on when they use made slides."""

import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray

from tests.support.slides import (
    SlideSpec,
    expected_rgb,
    grid,
    is_painted,
    level_sizes,
    make_slide,
    zoo,
)

ZOO = zoo()
EVERY_KIND = pytest.mark.parametrize("name", ZOO)

# Between what was painted and what OpenSlide reads; JPEG with 4:2:0 is the worst of it.
LEAST_DECIBELS = 32.0

Pixels = NDArray[np.uint8]


@pytest.fixture
def made(zoo_slides: Mapping[str, Path]) -> Mapping[str, Path]:
    return zoo_slides


def rgba(slide: openslide.OpenSlide, level: int) -> Pixels:
    """A whole level, shape (height, width, 4)."""
    region = slide.read_region((0, 0), level, slide.level_dimensions[level])
    return np.asarray(region)


def painted_rgb(spec: SlideSpec, level: int) -> Pixels:
    """A whole level as it was painted, shape (height, width, 3)."""
    return np.asarray(expected_rgb(spec, level))


def decibels(one: Pixels, other: Pixels) -> float:
    error = one.astype(np.float32) - other
    return float(10 * np.log10(255**2 / max(float(np.mean(error * error)), 1e-9)))


def header(path: Path) -> tuple[str, bool, int]:
    """(struct's byte order, whether it is a BigTIFF, offset of the first directory)."""
    with path.open("rb") as file:
        start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    (version,) = struct.unpack(order + "H", start[2:4])
    if version == 43:
        return order, True, int(struct.unpack(order + "Q", start[8:16])[0])
    assert version == 42
    return order, False, int(struct.unpack(order + "I", start[4:8])[0])


def end_of_tiles(path: Path) -> int:
    """Where the last byte of the base level's tile data lies, by the first directory itself."""
    order, big, directory = header(path)
    data = path.read_bytes()
    word, entry = ("Q", 20) if big else ("I", 12)
    head = struct.calcsize("=Q" if big else "=H")
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, directory)
    arrays: dict[int, tuple[int, ...]] = {}
    for place in range(directory + head, directory + head + count * entry, entry):
        tag, kind, length = struct.unpack_from(f"{order}HH{word}", data, place)
        if tag in (324, 325):
            letter = {3: "H", 4: "I", 16: "Q"}[kind]
            layout = f"{order}{length}{letter}"
            inline = place + 4 + struct.calcsize("=" + word)
            fits = struct.calcsize(layout) <= struct.calcsize("=" + word)
            (there,) = (inline,) if fits else struct.unpack_from(order + word, data, inline)
            arrays[tag] = struct.unpack_from(layout, data, there)
    return max(start + size for start, size in zip(arrays[324], arrays[325], strict=True))


@EVERY_KIND
def test_openslide_takes_every_made_slide_for_aperio(name: str, made: Mapping[str, Path]) -> None:
    assert openslide.OpenSlide.detect_format(str(made[name])) == "aperio"
    with openslide.OpenSlide(str(made[name])) as slide:
        assert slide.level_dimensions == level_sizes(ZOO[name])


@EVERY_KIND
def test_a_made_slide_says_what_it_was_asked_to_say(name: str, made: Mapping[str, Path]) -> None:
    spec = ZOO[name]
    with openslide.OpenSlide(str(made[name])) as slide:
        assert slide.properties.get("aperio.AppMag") == spec.app_mag
        said = slide.properties.get("openslide.mpp-x")
        assert (None if said is None else float(said)) == spec.mpp
        assert (slide.color_profile is not None) == bool(spec.icc_bytes)
        if spec.resolution is not None:
            value = float(slide.properties["tiff.XResolution"])
            assert value == pytest.approx(spec.resolution[0], rel=1e-6)


@EVERY_KIND
def test_pixels_read_are_near_those_painted(name: str, made: Mapping[str, Path]) -> None:
    spec = ZOO[name]
    with openslide.OpenSlide(str(made[name])) as slide:
        for level in range(slide.level_count):
            read = rgba(slide, level)
            painted = painted_rgb(spec, level)
            seen = read[..., 3:] == 255
            if seen.any():
                # Unseen pixels agree, and the seen ones' mean error is diluted by their share.
                dilution = -10 * np.log10(seen.mean())
                near = decibels(np.where(seen, read[..., :3], painted), painted)
                assert near - dilution > LEAST_DECIBELS


@EVERY_KIND
def test_the_first_directory_lies_after_all_tiles_of_the_base(
    name: str, made: Mapping[str, Path]
) -> None:
    order, big, directory = header(made[name])
    assert order == ZOO[name].byte_order
    assert big == ZOO[name].big
    assert directory >= end_of_tiles(made[name])


@pytest.mark.parametrize("name", [name for name, spec in ZOO.items() if spec.blank])
def test_blank_tiles_of_the_base_are_transparent_and_no_others(
    name: str, made: Mapping[str, Path]
) -> None:
    spec = ZOO[name]
    with openslide.OpenSlide(str(made[name])) as slide:
        alpha = rgba(slide, 0)[..., 3]
    columns, rows = grid(spec, 0)
    for column in range(columns):
        for row in range(rows):
            left, top = column * spec.tile[0], row * spec.tile[1]
            tile = alpha[top : top + spec.tile[1], left : left + spec.tile[0]]
            assert (tile == (0 if (0, column, row) in spec.blank else 255)).all()


def test_associated_images_are_those_asked_for(made: Mapping[str, Path]) -> None:
    with openslide.OpenSlide(str(made["label-and-macro"])) as slide:
        sizes = {name: image.size for name, image in slide.associated_images.items()}
    assert sizes == {"thumbnail": (1024, 770), "label": (387, 463), "macro": (640, 215)}
    with openslide.OpenSlide(str(made["no-thumbnail"])) as slide:
        assert not slide.associated_images


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["plain", "ycbcr-420", "j2k-ycbcr"])
def test_a_shift_of_one_pixel_costs_more_than_compression(
    name: str, axis: int, level: int, made: Mapping[str, Path]
) -> None:
    painted = painted_rgb(ZOO[name], level)
    with openslide.OpenSlide(str(made[name])) as slide:
        read = rgba(slide, level)[..., :3]
    assert decibels(read, painted) > decibels(np.roll(read, 1, axis), painted) + 4


@pytest.mark.parametrize("level", [1, 2])
def test_a_coarser_level_is_the_average_of_the_base(level: int) -> None:
    spec = SlideSpec(width=2400, height=1600)
    factor = spec.downsamples[level]
    averaged = np.asarray(expected_rgb(spec, 0).reduce(factor))
    assert decibels(averaged, painted_rgb(spec, level)) > 45


def test_the_same_spec_gives_the_same_bytes(tmp_path: Path) -> None:
    spec = ZOO["everything"]
    one, other = (make_slide(tmp_path / name, spec) for name in ("one.svs", "other.svs"))
    assert one.read_bytes() == other.read_bytes()


def test_shared_tiles_are_stored_once(made: Mapping[str, Path]) -> None:
    assert made["shared"].stat().st_size < made["plain"].stat().st_size


def test_a_huge_slide_is_made_in_bounded_time_and_room(tmp_path: Path) -> None:
    spec = SlideSpec(
        width=100_000,
        height=80_000,
        downsamples=(1, 4, 16, 32),
        tile=(256, 256),
        offsets="shared",
    )
    started = time.monotonic()
    path = make_slide(tmp_path / "huge.svs", spec)
    assert time.monotonic() - started < 120
    assert path.stat().st_size < 50_000_000
    assert not is_painted(spec, 0)
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.level_dimensions == level_sizes(spec)
        width, height = slide.level_dimensions[3]
        place = 100_000 - 200 * 32, 80_000 - 100 * 32
        corner = np.asarray(slide.read_region(place, 3, (200, 100)))
        painted = expected_rgb(spec, 3).crop((width - 200, height - 100, width, height))
    assert decibels(corner[..., :3], np.asarray(painted)) > LEAST_DECIBELS


def test_a_patched_base_holds_as_much_data_as_a_real_one(tmp_path: Path) -> None:
    spec = SlideSpec(width=40_000, height=30_000, downsamples=(1,))
    path = make_slide(tmp_path / "base.svs", spec)
    assert 100_000_000 < path.stat().st_size < 400_000_000
    with openslide.OpenSlide(str(path)) as slide:
        alpha = np.asarray(slide.read_region((39_500, 29_500), 0, (500, 500)))[..., 3]
    assert (alpha == 255).all()
