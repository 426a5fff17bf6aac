"""Seconds against the number of slides: twice as many may take twice as long, but no longer.

The slides are small, so that the work for each of them shows and not the network's rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill

from tests.bench import ours, plot
from tests.bench.figures import LINE, cell, table
from tests.bench.material import Kind
from tests.bench.network import serve_slowly
from tests.bench.plan import FULL, A, B, Plan
from tests.bench.plot import Point
from tests.bench.ways import RANGE, time_published_a, time_published_b
from tests.support.slides import SlideSpec

SMALL = Kind("1,000×750 JPEG RGB", SlideSpec(width=1000, height=750, downsamples=(1,)))
FEW = 100
"""Slides up to which the published ways are timed, whose time is proportional to the slides."""
WORKERS = 16
DOUBLED = 2.1
PLOT = Path(__file__).with_name("slides.svg")


def section(plan: Plan) -> str:
    """Measure all points; a full run draws them, too."""
    points = [point for count in plan.plot_counts for point in _points(count)]
    if plan.plot_counts == FULL.plot_counts:
        title = f"Seconds for so many slides of {SMALL.name} pixels"
        PLOT.write_text(plot.svg(title, points), encoding="utf-8")
    prose = (
        f"Slides of {SMALL.name}, a base level alone, {WORKERS} at a time by `range`. "
        f"Aim: at most {DOUBLED} times as long as half as many."
    )
    picture = f"![Seconds against slides, both in powers of ten]({PLOT.name})"
    rows = table(
        ("slides", *(f"{way}, s" for way in (RANGE, A, B)), "range / half as many"), _rows(points)
    )
    return "\n\n".join(["## Seconds against slides", fill(prose, LINE), picture, rows])


def _points(count: int) -> Iterator[Point]:
    with serve_slowly(SMALL.listing(count, tiles=True)) as gdc:
        yield Point(RANGE, count, ours.update(gdc, "range", WORKERS).footprint.seconds)
        if count <= FEW:
            yield Point(A, count, time_published_a(gdc, SMALL)[0])
            yield Point(B, count, time_published_b(gdc, SMALL)[0])


def _rows(points: Sequence[Point]) -> Iterator[Sequence[str]]:
    """Yield a row for each number of slides of which half or twice as many were measured."""
    seconds = {(point.way, point.slides): point.seconds for point in points}
    for count in dict.fromkeys(point.slides for point in points):
        ours, half = seconds[RANGE, count], seconds.get((RANGE, count // 2))
        if half or (RANGE, 2 * count) in seconds:
            ways = (cell(seconds.get((way, count))) for way in (RANGE, A, B))
            yield f"{count:,}", *ways, cell(ours / half if half else None, most=DOUBLED)
