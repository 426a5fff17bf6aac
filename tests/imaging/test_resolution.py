"""Which of the places that tell a resolution is believed."""

from __future__ import annotations

import pytest

from tcgamirror.imaging.svs import aperio_properties, choose_mpp
from tcgamirror.model.slide import UNKNOWN_MPP, Mpp, MppSource

INCH, CENTIMETRE = 2, 3
QUARTER_PER_CM = 10_000 / 0.25


def test_the_header_goes_before_the_tags_and_these_before_appmag() -> None:
    told = {"MPP": "0.2325", "AppMag": "20"}
    tags = (QUARTER_PER_CM, QUARTER_PER_CM, CENTIMETRE)
    assert choose_mpp(told, *tags) == Mpp(0.2325, MppSource.HEADER)
    del told["MPP"]
    assert choose_mpp(told, *tags) == Mpp(0.25, MppSource.TIFF)
    assert choose_mpp(told, None, None, CENTIMETRE) == Mpp(0.5, MppSource.APPMAG)
    assert choose_mpp({}, None, None, INCH) == UNKNOWN_MPP


def test_a_lying_appmag_does_not_spoil_the_header() -> None:
    assert choose_mpp({"AppMag": "20", "MPP": "0.2325"}, None, None, INCH).value == 0.2325


@pytest.mark.parametrize(
    "said", ["", "unknown", "nan", "inf", "-inf", "0", "-0.25", "0.0001", "72", "1e400", "0.2.5"]
)
def test_an_implausible_header_is_passed_over(said: str) -> None:
    told = {"MPP": said, "AppMag": "40"}
    assert choose_mpp(told, None, None, INCH) == Mpp(0.25, MppSource.APPMAG)


def test_a_comma_is_a_decimal_point() -> None:
    assert choose_mpp({"MPP": "0,2520"}, None, None, INCH).value == 0.2520


@pytest.mark.parametrize("said", ["40", "40.000000", " 40 ", "40,0"])
def test_forty_times_is_a_quarter_of_a_micrometre(said: str) -> None:
    assert choose_mpp({"AppMag": said}, None, None, INCH).value == 0.25


@pytest.mark.parametrize("said", ["forty", "nan", "0", "-40", "0.5", "400", ""])
def test_an_implausible_appmag_tells_nothing(said: str) -> None:
    assert choose_mpp({"AppMag": said}, None, None, INCH) == UNKNOWN_MPP


@pytest.mark.parametrize("unit", [INCH, CENTIMETRE])
@pytest.mark.parametrize("dots", [1.0, 72.0, 96.0, 300.0])
def test_a_screens_or_printers_resolution_is_no_microscopes(dots: float, unit: int) -> None:
    assert choose_mpp({}, dots, dots, unit) == UNKNOWN_MPP


def test_dots_per_inch_are_taken_where_they_are_a_microscopes() -> None:
    found = choose_mpp({}, 25_400 / 0.5026, 25_400 / 0.5026, INCH)
    assert found.value == pytest.approx(0.5026)


@pytest.mark.parametrize("unit", [0, 1, 4])
def test_a_resolution_without_a_unit_tells_nothing(unit: int) -> None:
    assert choose_mpp({}, QUARTER_PER_CM, QUARTER_PER_CM, unit) == UNKNOWN_MPP


def test_sides_of_different_resolution_are_not_averaged() -> None:
    tags = (QUARTER_PER_CM, QUARTER_PER_CM * 1.05, CENTIMETRE)
    assert choose_mpp({}, *tags) == UNKNOWN_MPP
    assert choose_mpp({}, QUARTER_PER_CM, QUARTER_PER_CM * 1.001, CENTIMETRE).value == 0.25


@pytest.mark.parametrize(("x", "y"), [(None, 40_000.0), (40_000.0, None), (0.0, 0.0)])
def test_half_a_resolution_tells_nothing(x: float | None, y: float | None) -> None:
    assert choose_mpp({}, x, y, CENTIMETRE) == UNKNOWN_MPP


def test_properties_are_what_stands_between_bars_and_has_an_equals_sign() -> None:
    text = (
        "Aperio Image Library v10\r\nMPP = 9 (256x256)|AppMag = 40|Title|A=b=c| MPP=0.25 |MPP = 7"
    )
    assert aperio_properties(text) == {"AppMag": "40", "A": "b=c", "MPP": "7"}


@pytest.mark.parametrize("text", ["", "|", "||=", "MPP = 0.25"])
def test_a_description_that_is_not_aperios_has_no_mpp(text: str) -> None:
    assert "MPP" not in aperio_properties(text)
