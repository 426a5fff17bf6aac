"""What the project is to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.bench.decoding import BARE, OPENSLIDE, OURS, OURS_NATIVE, Decoding
from tests.bench.material import needed
from tests.bench.memory import Peak
from tests.bench.ways import Timing

FASTER_THAN_A = 150
FASTER_THAN_B = 15
BYTES_OVER_TILES, BYTES_BESIDES = 1.10, 100_000
REQUESTS_BESIDES_DIRECTORIES = 6
DECODING_OVER_BARE = 1.5
FASTER_THAN_OPENSLIDE = 3
MOST_MEMORY = 300_000_000


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


def of_memory(peaks: Sequence[Peak]) -> Iterator[Aim]:
    for peak in peaks:
        yield _at_most("MB of memory", peak.slides, peak.footprint.peak / 1e6, MOST_MEMORY / 1e6)


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
