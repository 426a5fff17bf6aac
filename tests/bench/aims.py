"""What the project is to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.bench.decoding import BARE, OPENSLIDE, OURS, OURS_FAST, OURS_NATIVE, Decoding
from tests.bench.link import Shared
from tests.bench.material import needed
from tests.bench.memory import Peak
from tests.bench.profiling import Profile
from tests.bench.scaling import Point, doublings
from tests.bench.ways import Timing

FASTER_THAN_A = 150
FASTER_THAN_B = 15
BYTES_OVER_TILES, BYTES_BESIDES = 1.10, 100_000
REQUESTS_BESIDES_DIRECTORIES = 6
DECODING_OVER_BARE = 1.5
FASTER_THAN_OPENSLIDE = 3
FASTER_THAN_EXACT = 1.5
MOST_DIFFERENCE = 1
MOST_MEMORY = 300_000_000
OVER_BARE_DOWNLOAD = 1.3
LINK_BUSY = 85
CORES_BUSY = 85
MAKING = 85
DOUBLED = 2.1


@dataclass(frozen=True, slots=True)
class Aim:
    """One figure: what it is of, what it came to, what it is to be, in words."""

    what: str
    of: str
    came: str
    aim: str
    reached: bool


def of_range(ours: Timing, a: Timing | None, b: Timing) -> Iterator[Aim]:
    """What `range` is to reach on slides with a level near the target."""
    kind = ours.kind.name
    if a is not None:
        yield _at_least("times faster than A", kind, a.seconds / ours.seconds, FASTER_THAN_A)
    yield _at_least("times faster than B", kind, b.seconds / ours.seconds, FASTER_THAN_B)
    need = needed(ours.kind)
    yield _at_most(
        "kB a slide",
        kind,
        ours.bytes / 1e3,
        (BYTES_OVER_TILES * need.tile_bytes + BYTES_BESIDES) / 1e3,
    )
    most = need.directories + REQUESTS_BESIDES_DIRECTORIES
    yield _at_most("requests a slide", kind, ours.requests, most)


def of_decoding(measured: Decoding) -> Iterator[Aim]:
    kind = measured.kind.name
    for way, name in ((OURS, "reduced"), (OURS_NATIVE, "native")):
        over = measured.times(way, BARE)
        yield _at_most(f"times bare decoding, {name}", kind, over, DECODING_OVER_BARE)
    faster = measured.times(OPENSLIDE, OURS)
    yield _at_least("times faster than OpenSlide", kind, faster, FASTER_THAN_OPENSLIDE)
    faster = measured.times(OURS, OURS_FAST)
    yield _at_least("times faster than exact, fast", kind, faster, FASTER_THAN_EXACT)
    yield _at_most("grey levels from exact, fast", kind, measured.difference, MOST_DIFFERENCE)


def of_memory(peaks: Sequence[Peak]) -> Iterator[Aim]:
    for peak in peaks:
        yield _at_most("MB of memory", peak.slides, peak.footprint.peak / 1e6, MOST_MEMORY / 1e6)


def of_link(measured: Shared) -> Iterator[Aim]:
    """With a link that is the limit it has to be busy, and with any other the processor."""
    kind = measured.kind.name
    if measured.busy is None:
        left = measured.cpu_of_left * 100
        yield _at_least("% of the cores it could have, no link's limit", kind, left, CORES_BUSY)
        return
    yield _at_least("% of the link busy", kind, measured.busy * 100, LINK_BUSY)
    over = measured.over_bare
    yield _at_most("times a bare download over the link", kind, over, OVER_BARE_DOWNLOAD)


def of_profile(measured: Profile) -> Iterator[Aim]:
    kind = measured.kind.name
    yield _at_least("% of its time on a core spent on images", kind, measured.making * 100, MAKING)


def of_scaling(points: Sequence[Point]) -> Iterator[Aim]:
    for count, times in doublings(points):
        yield _at_most("times as long for twice the slides", f"{count:,} slides", times, DOUBLED)


def _at_least(what: str, of: str, value: float, least: float) -> Aim:
    return Aim(what, of, number(value), f"≥ {number(least)}", value >= least)


def _at_most(what: str, of: str, value: float, most: float) -> Aim:
    return Aim(what, of, number(value), f"≤ {number(most)}", value <= most)


def number(value: float) -> str:
    """Three digits are enough.

    >>> number(0.4567), number(15), number(1234.5)
    ('0.457', '15', '1,234')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
