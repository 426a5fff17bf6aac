"""The network of the bench: a stand-in GDC as slow as the real one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.gdc import Listed, StandIn

DELAY = 0.1
"""Seconds before each answer: the way there and back."""
TILE_DELAY = 0.2
"""Further seconds that a tile, or the tiles' metadata, takes to be made."""
RATE = 2.6e6
"""Bytes per second of each connection."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic of the images, without the listing. bytes: of all bodies. seconds: elapsed."""

    bytes: int
    requests: int
    seconds: float


@contextmanager
def shaped(files: Sequence[Listed]) -> Iterator[StandIn]:
    """Start a stand-in with the delays and the rate of the bench."""
    with StandIn(files) as gdc:
        gdc.delay, gdc.tile_delay, gdc.rate = DELAY, TILE_DELAY, RATE
        yield gdc


def traffic(gdc: StandIn) -> Traffic:
    served = [record for record in gdc.served if not record.path.startswith(("/status", "/files"))]
    seconds = max(record.ended for record in served) - min(record.time for record in served)
    return Traffic(sum(record.bytes_sent for record in served), len(served), seconds)
