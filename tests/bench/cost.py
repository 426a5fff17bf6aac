"""Processor time and memory of one slide, beside the version before."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench import figures
from tests.bench.figures import Figure, against, in_turn, megabytes
from tests.bench.footprint import Footprint
from tests.bench.material import MPP, Kind
from tests.bench.ours import MOST_MEMORY, WORKERS, update
from tests.bench.plan import Plan
from tests.gdc import StandIn

REPETITIONS = 3
OF_BEFORE = {"JPEG": 0.65, "JPEG 2000": 0.80}
FINE_OF_BEFORE = 0.6
FINE_MPP = (1.0, 0.5)


def section(plan: Plan) -> str:
    prose = (
        "CPU seconds of all threads of `update` by `range`, its start and listing included, over a "
        "network without delays, and its peak memory."
    )
    return figures.section("The processor", prose, _figures(plan))


def _figures(plan: Plan) -> Iterator[Figure]:
    for kind in (trial.kind for trial in plan.trials if len(trial.kind.spec.downsamples) > 1):
        most = OF_BEFORE["JPEG 2000" if "JPEG 2000" in kind.name else "JPEG"]
        costs = _costs(plan, kind, plan.measured, REPETITIONS)
        yield from _cpu(kind.name, costs, plan.measured, most)
    fine = plan.trials[0].kind
    for mpp in FINE_MPP:
        of = f"{fine.name}, {mpp:g} µm/px"
        costs = _costs(plan, fine, WORKERS, 1, mpp)
        yield from _cpu(of, costs, WORKERS, FINE_OF_BEFORE)
        before = costs["before"].peak if plan.before else None
        yield megabytes(of, f"{WORKERS} at once: MB", costs["now"].peak, before, MOST_MEMORY)


def _costs(
    plan: Plan, kind: Kind, slides: int, repetitions: int, mpp: float = MPP
) -> dict[str, Footprint]:
    with StandIn(kind.listing(slides)) as gdc:
        runs = {"now": lambda: update(gdc, "range", mpp=mpp).footprint}
        if plan.before:
            runs["before"] = lambda: update(gdc, "range", program=plan.before, mpp=mpp).footprint
        return in_turn(runs, repetitions, lambda cost: cost.cpu)


def _cpu(of: str, costs: dict[str, Footprint], slides: int, most: float) -> Iterator[Figure]:
    now, *before = (costs[name].cpu / slides for name in ("now", "before") if name in costs)
    yield against(of, "CPU seconds a slide", now, before[0] if before else None, most)
