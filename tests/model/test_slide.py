"""What is made of a slide for a target, by hand; and what a slide's name tells."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from tcgamirror.model.errors import TooFine, UnsupportedSlide
from tcgamirror.model.geometry import Size, downsample
from tcgamirror.model.slide import (
    FALLBACK_MAX_SIZE,
    UNKNOWN_MPP,
    Barcode,
    Kind,
    Level,
    Mpp,
    MppSource,
    Pyramid,
    Rendition,
    Resample,
    Target,
)

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TILE = Size(240, 240)


def pyramid(mpp: float | None, *sizes: tuple[int, int]) -> Pyramid:
    levels = [Level(Size(*size), TILE, downsample(Size(*sizes[0]), Size(*size))) for size in sizes]
    known = UNKNOWN_MPP if mpp is None else Mpp(mpp, MppSource.HEADER)
    return Pyramid(tuple(levels), known)


LUNG = ((46000, 32914), (11500, 8228), (2875, 2057), (1437, 1028))
"""Downsamples 1, 4.0001, 16.0003 and 32.014."""


def test_an_mpp_gives_the_size_and_its_exact_resolution() -> None:
    made = Target(mpp=15.0, max_size=None).rendition(pyramid(0.499, *LUNG))
    # 46000 × 0.499 / 15 = 1530.27 and 32914 × 0.499 / 15 = 1094.94; 15 / 0.499 = 30.06.
    assert (made.level, made.size) == (2, Size(1530, 1095))
    assert made.mpp_x == pytest.approx(46000 * 0.499 / 1530, rel=1e-15)
    assert made.mpp_y == pytest.approx(32914 * 0.499 / 1095, rel=1e-15)


@pytest.mark.parametrize(
    ("mpp", "level"), [(1.0, 0), (1.98, 0), (1.981, 1), (2.0, 1), (8.0, 2), (15.84, 2), (15.85, 3)]
)
def test_the_level_is_the_coarsest_within_one_percent(mpp: float, level: int) -> None:
    assert Target(mpp, None).rendition(pyramid(0.5, *LUNG)).level == level


def test_the_bases_own_resolution_can_be_asked_for() -> None:
    made = Target(mpp=0.2325, max_size=None).rendition(pyramid(0.2325, *LUNG))
    assert made == Rendition(0, Size(46000, 32914), 0.2325, 0.2325)


def test_finer_than_the_base_is_too_fine() -> None:
    with pytest.raises(TooFine, match=r"requested 0\.25 µm/px, .* base has 0\.499 µm/px"):
        Target(mpp=0.25, max_size=None).rendition(pyramid(0.499, *LUNG))


def test_a_base_one_percent_too_coarse_is_enlarged_to_the_target() -> None:
    made = Target(mpp=0.5, max_size=None).rendition(pyramid(0.5026, *LUNG))
    # 46000 × 0.5026 / 0.5 = 46239.2 and 32914 × 0.5026 / 0.5 = 33085.2.
    assert (made.level, made.size) == (0, Size(46239, 33085))
    assert made.mpp_x == pytest.approx(0.5, rel=1e-5)


def test_native_keeps_the_pixels_of_a_base_one_percent_too_coarse() -> None:
    made = Target(0.25, None, Resample.NATIVE).rendition(pyramid(0.252, *LUNG))
    assert made == Rendition(0, Size(46000, 32914), 0.252, 0.252, Resample.NATIVE)


def test_a_largest_size_halves_the_base_until_it_fits() -> None:
    made = Target(mpp=None, max_size=2048).rendition(pyramid(0.25, *LUNG))
    # 46000, 23000, 11500, 5750, 2875, 1438: five halvings, a downsample of 32.
    assert (made.level, made.size) == (3, Size(1438, 1029))
    assert made.mpp_x == 0.25 * 46000 / 1438


def test_a_largest_size_does_not_enlarge() -> None:
    made = Target(mpp=None, max_size=2048).rendition(pyramid(0.25, (700, 300)))
    assert (made.level, made.size) == (0, Size(700, 300))


@pytest.mark.parametrize(("max_size", "level"), [(46000, 0), (12000, 1), (2875, 2), (1437, 3)])
def test_native_takes_the_finest_level_that_fits(max_size: int, level: int) -> None:
    target = Target(None, max_size, Resample.NATIVE)
    made = target.rendition(pyramid(0.25, *LUNG))
    assert (made.level, made.size) == (level, Size(*LUNG[level]))


def test_native_without_a_level_that_fits_is_unusual() -> None:
    with pytest.raises(
        UnsupportedSlide, match="no level fits in 1000 px: the coarsest is 1437×1028"
    ):
        Target(None, 1000, Resample.NATIVE).rendition(pyramid(0.25, *LUNG))


def test_native_at_an_mpp_keeps_the_levels_pixels_and_tells_their_resolution() -> None:
    made = Target(15.0, None, Resample.NATIVE).rendition(pyramid(0.25, *LUNG))
    assert (made.level, made.size) == (3, Size(1437, 1028))
    assert made.mpp_x == 0.25 * 46000 / 1437
    assert made.mpp_y == 0.25 * 32914 / 1028


def test_without_a_known_mpp_the_size_falls_back() -> None:
    asked = Target(mpp=15.0, max_size=None).rendition(pyramid(None, *LUNG))
    fallback = Target(mpp=None, max_size=FALLBACK_MAX_SIZE).rendition(pyramid(None, *LUNG))
    assert asked == fallback
    assert (asked.mpp_x, asked.mpp_y) == (None, None)


def test_a_target_is_named_in_words() -> None:
    assert str(Target(15.0, None)) == "15 µm/px, exact"
    assert str(Target(None, 2048, Resample.NATIVE)) == "at most 2048 px, native"


def manifest_names(file: str) -> list[str]:
    path = DATA / "manifests" / file
    if not path.is_file():
        pytest.skip(f"no {file} in ../shared/data/manifests")
    with path.open(newline="") as lines:
        return [row["filename"] for row in csv.DictReader(lines, delimiter="\t")]


@pytest.mark.parametrize(
    ("file", "slides"), [("tcga-diagnostic-2024-08.txt", 11_765), ("tcga-luad-2020-09.txt", 530)]
)
def test_every_diagnostic_slide_of_a_manifest_is_named_as_one(file: str, slides: int) -> None:
    names = manifest_names(file)
    barcodes = [Barcode.of(name) for name in names]
    assert len(names) == slides
    assert Counter(barcode and barcode.kind for barcode in barcodes) == {Kind.DIAGNOSTIC: slides}
    assert all(barcode and barcode.sample_type for barcode in barcodes)


def test_other_files_of_a_manifest_are_no_slides() -> None:
    names = manifest_names("release-13-mixed-cnv-and-slides.txt")
    assert all((Barcode.of(name) is not None) == name.endswith(".svs") for name in names) and {
        name.rpartition(".")[2] for name in names
    } >= {"svs", "txt"}


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("DX10", Kind.DIAGNOSTIC),
        ("DXA", Kind.DIAGNOSTIC),
        ("TS1", Kind.TISSUE),
        ("TSB", Kind.TISSUE),
        ("BS2", Kind.TISSUE),
        ("MS1", Kind.TISSUE),
    ],
)
def test_the_kind_stands_in_the_name(kind: str, found: Kind) -> None:
    name = f"TCGA-A8-A06N-01Z-00-{kind}.5F1b5C33-4A9B-4B56-9F57-3F9E7C0F5C6d.svs"
    barcode = Barcode.of(name)
    assert barcode == Barcode("TCGA-A8-A06N", f"TCGA-A8-A06N-01Z-00-{kind}", "Primary Tumor", found)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "CMU-1.svs",
        "TCGA-A8-A06N-01Z-00-XX1.5f1b5c33-4a9b-4b56-9f57-3f9e7c0f5c6d.svs",
        "TCGA-A8-A06N-01Z-00-DX1.5f1b5c33-4a9b-4b56-9f57-3f9e7c0f5c6d.svs.gz",
        "../TCGA-A8-A06N-01Z-00-DX1.5f1b5c33-4a9b-4b56-9f57-3f9e7c0f5c6d.svs",
        "TCGA-A8-A06N-01Z-00-DX1.5f1b5c33-4a9b-4b56-9f57-3f9e7c0f5c6d.svs\n",
    ],
)
def test_other_names_tell_nothing(name: str) -> None:
    assert Barcode.of(name) is None


def test_an_unknown_sample_code_leaves_the_sample_type_open() -> None:
    name = "TCGA-A8-A06N-99Z-00-DX1.5f1b5c33-4a9b-4b56-9f57-3f9e7c0f5c6d.svs"
    barcode = Barcode.of(name)
    assert barcode is not None
    assert barcode.sample_type is None
