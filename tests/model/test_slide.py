"""What is made of a slide for a target, by hand; and what a slide's name tells."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from tcgamirror.model.errors import NoSuchLevel, SlideError, TooFine, UnsupportedSlide
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
    Resample,
    Target,
)

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TILE = Size(240, 240)


def pyramid(mpp: float | None, *sizes: tuple[int, int]) -> Pyramid:
    levels = [Level(Size(*size), TILE, downsample(Size(*sizes[0]), Size(*size))) for size in sizes]
    return Pyramid(tuple(levels), UNKNOWN_MPP if mpp is None else Mpp(mpp, MppSource.HEADER))


LUNG = ((46000, 32914), (11500, 8228), (2875, 2057), (1437, 1028))
"""Downsamples 1, 4.0001, 16.0003 and 32.014."""


NATIVE = Resample.NATIVE


@pytest.mark.parametrize(
    ("target", "base_mpp", "sizes", "level", "size"),
    [
        # 46000 × 0.499 / 15 = 1530.27 and 32914 × 0.499 / 15 = 1094.94; 15 / 0.499 = 30.06.
        (Target(15.0, None), 0.499, LUNG, 2, (1530, 1095)),
        (Target(0.2325, None), 0.2325, LUNG, 0, LUNG[0]),
        # A base 1 % too coarse is enlarged: 46000 × 0.5026 / 0.5 = 46239.2.
        (Target(0.5, None), 0.5026, LUNG, 0, (46239, 33085)),
        (Target(0.25, None, NATIVE), 0.252, LUNG, 0, LUNG[0]),
        # 46000, 23000, 11500, 5750, 2875, 1438: five halvings, a downsample of 32.
        (Target(None, 2048), 0.25, LUNG, 3, (1438, 1029)),
        (Target(None, 2048), 0.25, ((700, 300),), 0, (700, 300)),
        (Target(None, 46000, NATIVE), 0.25, LUNG, 0, LUNG[0]),
        (Target(None, 12000, NATIVE), 0.25, LUNG, 1, LUNG[1]),
        (Target(None, 2875, NATIVE), 0.25, LUNG, 2, LUNG[2]),
        (Target(None, 1437, NATIVE), 0.25, LUNG, 3, LUNG[3]),
        (Target(15.0, None, NATIVE), 0.25, LUNG, 3, LUNG[3]),
    ],
)
def test_a_target_gives_a_level_a_size_and_its_exact_resolution(
    target: Target,
    base_mpp: float,
    sizes: tuple[tuple[int, int], ...],
    level: int,
    size: tuple[int, int],
) -> None:
    rendition = target.rendition(pyramid(base_mpp, *sizes))
    assert (rendition.level, rendition.size) == (level, Size(*size))
    assert rendition.resample is target.resample
    assert rendition.mpp_x == pytest.approx(sizes[0][0] * base_mpp / size[0], rel=1e-15)
    assert rendition.mpp_y == pytest.approx(sizes[0][1] * base_mpp / size[1], rel=1e-15)


@pytest.mark.parametrize(
    ("mpp", "level"), [(1.0, 0), (1.98, 0), (1.981, 1), (2.0, 1), (8.0, 2), (15.84, 2), (15.85, 3)]
)
def test_the_level_is_the_coarsest_within_one_percent(mpp: float, level: int) -> None:
    assert Target(mpp, None).rendition(pyramid(0.5, *LUNG)).level == level


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (Target(0.25, None), TooFine, r"requested 0\.25 µm/px, .* base has 0\.499 µm/px"),
        (
            Target(None, 1000, NATIVE),
            UnsupportedSlide,
            "fits in 1000 px: the coarsest is 1437×1028",
        ),
        (Target(None, None, level=4), NoSuchLevel, "no level 4: the coarsest is 3"),
    ],
)
def test_a_target_that_a_slide_cannot_meet(
    target: Target, error: type[SlideError], words: str
) -> None:
    with pytest.raises(error, match=words):
        target.rendition(pyramid(0.499, *LUNG))


def test_without_a_known_mpp_the_size_falls_back() -> None:
    rendition = Target(mpp=15.0, max_size=None).rendition(pyramid(None, *LUNG))
    assert rendition == Target(None, FALLBACK_MAX_SIZE).rendition(pyramid(None, *LUNG))
    assert (rendition.mpp_x, rendition.mpp_y) == (None, None)


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


@pytest.mark.parametrize("word", ["DX10", "DXA", "TS1", "TSB", "BS2", "MS1"])
def test_the_kind_stands_in_the_name(word: str) -> None:
    kind = Kind.DIAGNOSTIC if word.startswith("DX") else Kind.TISSUE
    slide = f"TCGA-A8-A06N-01Z-00-{word}"
    barcode = Barcode.of(f"{slide}.5F1b5C33-4A9B-4B56-9F57-3F9E7C0F5C6d.svs")
    assert barcode == Barcode("TCGA-A8-A06N", slide, "Primary Tumor", kind)


@pytest.mark.parametrize(
    "form", ["", "CMU-1.svs", "{}XX1{}", "{}DX1{}.gz", "../{}DX1{}", "{}DX1{}\n"]
)
def test_other_names_are_not_slides(form: str) -> None:
    uuid = ".5f1b5c33-4a9b-4b56-9f57-3f9e7c0f5c6d.svs"
    assert Barcode.of(form.format("TCGA-A8-A06N-01Z-00-", uuid)) is None


def test_an_unknown_sample_code_leaves_the_sample_type_open() -> None:
    barcode = Barcode.of("TCGA-A8-A06N-99Z-00-DX1.5f1b5c33-4a9b-4b56-9f57-3f9e7c0f5c6d.svs")
    assert barcode is not None and barcode.sample_type is None
