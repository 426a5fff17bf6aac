"""Seconds against the number of slides: twice as many have to take twice as long, and no longer.

Of small slides, so that what shows is not the network's rate but the work for each of them,
which grows with the catalogue and the mirror if anything does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.bench import ours
from tests.bench.material import Kind
from tests.bench.network import shaped
from tests.bench.ways import RANGE, A, B, published_a, published_b
from tests.support.slides import SlideSpec

SMALL = Kind("1,000×750 JPEG RGB", SlideSpec(width=1000, height=750, downsamples=(1,)))
FEW = 100
"""Slides up to which the ways are timed that nobody doubts to be straight lines."""
WORKERS = 16


@dataclass(frozen=True, slots=True)
class Point:
    """So many seconds of one way on so many slides."""

    way: str
    slides: int
    seconds: float


def scaling(counts: Sequence[int]) -> list[Point]:
    """All ways on few slides, and `range` on all of `counts`."""
    return [point for count in counts for point in _points(count)]


def _points(count: int) -> Iterator[Point]:
    with shaped(SMALL.listing(count, tiles=True)) as gdc:
        yield Point(RANGE, count, ours.update(gdc, "range", WORKERS).footprint.seconds)
        if count <= FEW:
            yield Point(A, count, published_a(gdc, SMALL)[0])
            yield Point(B, count, published_b(gdc, SMALL)[0])


def doublings(points: Sequence[Point]) -> list[tuple[int, float]]:
    """A number of slides, and how many times as long twice as many took by `range`."""
    seconds = {point.slides: point.seconds for point in points if point.way == RANGE}
    return [
        (count, seconds[2 * count] / seconds[count]) for count in seconds if 2 * count in seconds
    ]
