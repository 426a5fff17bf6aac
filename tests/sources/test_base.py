"""The contract of `Source`, held against every source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tcgamirror.model.errors import (
    BadSlide,
    BadTile,
    Damaged,
    DiskFull,
    Interrupted,
    NetworkError,
    TooFine,
    Truncated,
    Unfit,
)
from tcgamirror.model.slide import Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.base import Source
from tests.gdc import Fault, Listed, StandIn, listed
from tests.support.fetching import SHORT, by_range, by_tiles, by_whole, made, slide_of
from tests.support.slides import SlideSpec, make_slide

TARGET = Target(mpp=None, max_size=400)
BY: dict[str, Callable[[StandIn, HttpClient, Path], Source]] = {
    "range": by_range,
    "tiles": by_tiles,
    "whole": by_whole,
}


@dataclass(frozen=True, slots=True)
class Case:
    """One source, a server with one slide, and the folder `work/`."""

    source: Source
    gdc: StandIn
    file: Listed
    work: Path

    @property
    def requests_for_bytes(self) -> list[str]:
        """The requests since the last `clear`, without those for the tile server's metadata."""
        return [record.path for record in self.gdc.served if "metadata" not in record.path]

    @property
    def kept(self) -> bool:
        return (self.work / self.file.file_id / self.source.name).exists()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    spec = SlideSpec(width=1403, height=1109, downsamples=(1, 4))
    return listed(make_slide(tmp_path_factory.mktemp("slide") / "slide.svs", spec))


@pytest.fixture(params=BY)
def case(request: pytest.FixtureRequest, file: Listed, tmp_path: Path) -> Iterator[Case]:
    with StandIn([file]) as gdc, HttpClient(timeouts=SHORT) as client:
        yield Case(BY[request.param](gdc, client, tmp_path), gdc, file, tmp_path)


def test_its_name_is_that_of_the_settings(case: Case) -> None:
    assert case.source.name in BY


def test_it_gives_the_same_pixels_every_time_and_leaves_nothing(case: Case) -> None:
    one, other = (made(case.source, slide_of(case.file), TARGET) for _ in range(2))
    assert np.array_equal(one.pixels, other.pixels)
    assert one.rendition == other.rendition
    assert one.meter.bytes > 0
    assert not list(case.work.iterdir())


@pytest.mark.parametrize("error", [DiskFull, Damaged, Interrupted, KeyboardInterrupt, Truncated])
def test_an_interruption_keeps_the_bytes(case: Case, error: type[BaseException]) -> None:
    with pytest.raises(error), case.source.open(slide_of(case.file), TARGET, Meter()):
        raise error("stopped")
    case.gdc.clear()
    made(case.source, slide_of(case.file), TARGET)
    assert case.requests_for_bytes == []
    assert not list(case.work.iterdir())


@pytest.mark.parametrize("error", [BadSlide, BadTile])
def test_an_error_of_the_slide_removes_its_bytes(case: Case, error: type[Exception]) -> None:
    with pytest.raises(error), case.source.open(slide_of(case.file), TARGET, Meter()):
        raise error("a tile is damaged")
    assert not case.kept


def test_a_failure_of_the_network_is_a_network_error(case: Case) -> None:
    case.gdc.faults.add(Fault(case.file.file_id, "503", retry_after=None))
    with pytest.raises(NetworkError):
        made(case.source, slide_of(case.file), TARGET)


def test_a_target_finer_than_the_base_is_final(case: Case) -> None:
    assert issubclass(TooFine, Unfit)
    with pytest.raises(TooFine):
        made(case.source, slide_of(case.file), Target(mpp=0.1, max_size=None))
    assert not case.kept
