"""One link that all connections share: how busy `range` keeps it, or else the processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from tcgamirror.system.parallel import usable_cores
from tests.bench import figures, ours
from tests.bench.figures import Figure, at_least, at_most, in_turn
from tests.bench.material import Kind
from tests.bench.network import DELAY, traffic
from tests.bench.plan import Plan
from tests.bench.ways import bare_download
from tests.gdc import StandIn

LINK = 12.5e6
"""Bytes per second: 100 Mbit/s."""
TIMES_WITHOUT = 2
"""Times as many slides come without a limit, so that the start counts little."""
REPETITIONS = 3
OVER_BARE_DOWNLOAD = 1.15
LINK_BUSY = 85
CORES_BUSY = 85


@dataclass(frozen=True, slots=True)
class Shared:
    """`range` with as many slides in flight as it chooses.

    slides: that came. seconds, bare: of the run, and of downloading what is needed alone.
    busy: bytes per second while slides came. cpu: part of the cores used, start and listing
    included. serving: part of the cores that the stand-in used.
    """

    slides: int
    seconds: float
    bare: float
    busy: float
    cpu: float
    serving: float


def section(plan: Plan) -> str:
    prose = (
        f"{plan.links} slides of {plan.linked.name}, {DELAY * 1000:g} ms a request. All "
        f"connections together get {LINK * 8 / 1e6:g} Mbit/s, or as much as they can take, and "
        f"then there are {TIMES_WITHOUT * plan.links} slides. `range` has as many in flight as it "
        "chooses. The bare download moves the level's tiles and the base's counts of their bytes, "
        "from where both are known to lie, and makes no image. The cores that the stand-in uses "
        "are not counted."
    )
    return figures.section("One link", prose, _figures(plan))


def _figures(plan: Plan) -> Iterator[Figure]:
    """A link that is the limit has to be busy; with any other, the processor has to be."""
    runs = {
        "100 Mbit/s": lambda: _update(plan.linked, plan.links, LINK),
        "no limit": lambda: _update(plan.linked, TIMES_WITHOUT * plan.links, None),
    }
    measured = in_turn(runs, REPETITIONS, lambda shared: shared.seconds / shared.bare)
    for of, shared in measured.items():
        yield Figure(of, "seconds a slide", shared.seconds / shared.slides)
    limited, unlimited = measured.values()
    ratio = limited.seconds / limited.bare
    yield at_most("100 Mbit/s", "times the bare download", ratio, OVER_BARE_DOWNLOAD)
    yield at_least("100 Mbit/s", "% of the link busy", limited.busy / LINK * 100, LINK_BUSY)
    cores = unlimited.cpu / (1 - unlimited.serving) * 100
    yield at_least("no limit", "% of the available cores busy", cores, CORES_BUSY)


def _update(kind: Kind, slides: int, rate: float | None) -> Shared:
    with StandIn(kind.listing(slides)) as gdc:
        gdc.delay, gdc.link_rate = DELAY, rate
        # The stand-in's threads belong to this process, which waits meanwhile.
        before = time.process_time()
        cost = ours.update(gdc, "range", None).footprint
        served = time.process_time() - before
        moved = traffic(gdc)
        bare, _ = bare_download(gdc, kind)
    cpu, serving = (spent / cost.seconds / usable_cores() for spent in (cost.cpu, served))
    return Shared(slides, cost.seconds, bare, moved.bytes / moved.seconds, cpu, serving)
