"""One link that all connections share: how busy `range` keeps it, or else the processor."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median_low

from tcgamirror.system.parallel import usable_cores
from tests.bench import ours
from tests.bench.material import Kind
from tests.bench.network import DELAY, traffic
from tests.bench.ways import bare_download
from tests.gdc import StandIn

LINK = 12.5e6
"""Bytes per second: 100 Mbit/s."""
WORKERS = 8


@dataclass(frozen=True, slots=True)
class Shared:
    """`range` with WORKERS slides at a time, over one link.

    rate: of the link, in bytes per second; None where nothing but DELAY holds it up.
    seconds, bare: of the whole run, and of downloading the level's tiles alone over as many
    connections. busy: part of the link that was used while slides came, cpu: part of the cores
    that was, start and listing included. serving: part of the cores that the stand-in took, which
    nobody else could have.
    """

    kind: Kind
    rate: float | None
    slides: int
    seconds: float
    bare: float
    busy: float | None
    cpu: float
    serving: float

    @property
    def over_bare(self) -> float:
        return self.seconds / self.bare

    @property
    def cpu_of_left(self) -> float:
        """Part of what the stand-in left of the cores."""
        return self.cpu / (1 - self.serving)


def shared(kind: Kind, slides: int, rate: float | None, repetitions: int) -> Shared:
    """The median of several runs, each beside a bare download."""
    taken = [_once(kind, slides, rate) for _ in range(repetitions)]
    middle = median_low([each.over_bare for each in taken])
    return next(each for each in taken if each.over_bare == middle)


def _once(kind: Kind, slides: int, rate: float | None) -> Shared:
    with StandIn(kind.listing(slides)) as gdc:
        gdc.delay, gdc.link_rate = DELAY, rate
        # The stand-in's threads are of this process, which waits meanwhile.
        before = time.process_time()
        cost = ours.update(gdc, "range", WORKERS).footprint
        served = time.process_time() - before
        moved = traffic(gdc)
        bare, _ = bare_download(gdc, kind)
    busy = None if rate is None else moved.bytes / rate / moved.seconds
    cpu, serving = (spent / cost.seconds / usable_cores() for spent in (cost.cpu, served))
    return Shared(kind, rate, slides, cost.seconds, bare, busy, cpu, serving)
