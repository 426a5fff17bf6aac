"""One link that all connections share: how busy `range` keeps it, or else the processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from tcgamirror.system.cores import usable_cores
from tests.bench import figures, ours
from tests.bench.figures import Figure, in_turn
from tests.bench.material import Kind
from tests.bench.network import DELAY, measure_traffic
from tests.bench.plan import Plan
from tests.bench.ways import time_bare_download
from tests.gdc import StandIn

LINK = 12.5e6
"""Bytes per second: 100 Mbit/s."""
TIMES_WITHOUT = 2
"""Times as many slides come without a limit, so that the start counts little."""
OVER_BARE_DOWNLOAD = 1.15
LINK_BUSY = 85
CORES_BUSY = 85


@dataclass(frozen=True, slots=True)
class Shared:
    """`range` with as many slides in flight as it chooses.

    seconds, bare: of the run, and of downloading what is needed alone, if there is a limit.
    busy: bytes per second while slides came. cpu: part of the cores used, start and listing
    included. serving: part of the cores that the stand-in used.
    """

    seconds: float
    bare: float | None
    busy: float
    cpu: float
    serving: float


def section(plan: Plan) -> str:
    prose = (
        f"{plan.link_slides} slides of {plan.link_kind.name}, {DELAY * 1000:g} ms a request, all "
        f"connections together at {LINK * 8 / 1e6:g} Mbit/s; "
        f"{TIMES_WITHOUT * plan.link_slides} slides where they have no limit. "
        "The cores that the stand-in uses are not counted."
    )
    return figures.section("One link", prose, _figures(plan))


def _figures(plan: Plan) -> Iterator[Figure]:
    """A link that is the limit has to be busy; with any other, the processor has to be."""
    runs = {
        "100 Mbit/s": lambda: _update(plan.link_kind, plan.link_slides, LINK),
        "no limit": lambda: _update(plan.link_kind, TIMES_WITHOUT * plan.link_slides, None),
    }
    measured = in_turn(runs, plan.repetitions, lambda shared: shared.seconds / (shared.bare or 1))
    limited, unlimited = measured.values()
    if limited.bare:
        ratio = limited.seconds / limited.bare
        yield Figure("100 Mbit/s", "times the bare download", ratio, most=OVER_BARE_DOWNLOAD)
    yield Figure("100 Mbit/s", "% of the link busy", limited.busy / LINK * 100, least=LINK_BUSY)
    cores = unlimited.cpu / (1 - unlimited.serving) * 100
    yield Figure("no limit", "% of the available cores busy", cores, least=CORES_BUSY)


def _update(kind: Kind, slides: int, rate: float | None) -> Shared:
    with StandIn(kind.listing(slides)) as gdc:
        gdc.delay, gdc.link_rate = DELAY, rate
        # The stand-in's threads belong to this process, which waits meanwhile.
        before = time.process_time()
        cost = ours.update(gdc, "range", None).footprint
        served = time.process_time() - before
        moved = measure_traffic(gdc)
        bare = time_bare_download(gdc, kind)[0] if rate else None
    cpu, serving = (spent / cost.seconds / usable_cores() for spent in (cost.cpu, served))
    return Shared(cost.seconds, bare, moved.bytes / moved.seconds, cpu, serving)
