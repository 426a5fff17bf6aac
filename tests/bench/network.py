"""The network of the bench: a stand-in GDC, at most as slow as the real one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.gdc import Listed, StandIn
from tests.gdc.report import Record

DELAY = 0.1
"""Seconds before each answer: a round trip."""
TILE_DELAY = 0.2
"""Seconds more before a Deep Zoom tile, or the metadata of the tiles."""
RATE = 2.6e6
"""Bytes per second of each connection."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic of the images, without the listing.

    bytes: Bytes of all bodies. seconds: From the first request to the end of the last answer.
    """

    bytes: int
    requests: int
    seconds: float


@contextmanager
def serve_slowly(files: Sequence[Listed]) -> Iterator[StandIn]:
    """Run a stand-in with the delays and the rate of the bench."""
    with StandIn(files) as gdc:
        gdc.delay, gdc.tile_delay, gdc.rate = DELAY, TILE_DELAY, RATE
        yield gdc


def measure_traffic(gdc: StandIn) -> Traffic:
    served = _list_image_requests(gdc)
    seconds = max(record.ended for record in served) - min(record.time for record in served)
    return Traffic(sum(record.bytes_sent for record in served), len(served), seconds)


def measure_rounds(gdc: StandIn) -> int:
    return count_rounds(_list_image_requests(gdc))


def count_rounds(served: Iterable[Record]) -> int:
    """Return the most requests of which each began after the one before had ended."""
    count, ended = 0, 0.0
    answered = (record for record in served if record.ended)
    for record in sorted(answered, key=lambda record: record.ended):
        if record.time >= ended:
            count, ended = count + 1, record.ended
    return count


def _list_image_requests(gdc: StandIn) -> list[Record]:
    return [record for record in gdc.served if not record.path.startswith(("/status", "/files"))]
