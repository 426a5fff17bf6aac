"""Processor time of a slide and memory of a run, beside the version before and bare decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from tests.bench import figures
from tests.bench.decoding import assembling, bare_decoding, by_simplejpeg
from tests.bench.figures import Figure
from tests.bench.footprint import Footprint
from tests.bench.material import MPP, Kind
from tests.bench.ours import WORKERS, at_once, beside, update
from tests.bench.plan import Plan
from tests.gdc import StandIn

OF_BEFORE = {"JPEG": 0.65, "JPEG 2000": 0.80}
"""Aims: processor time as a part of that of the version before, by compression."""
FINE_OF_BEFORE = 0.6
"""The same aim for the resolutions FINE_MPP."""
FINE_MPP = (1.0, 0.5)
MOST_MEMORY = 300e6
"""Aim: bytes of a run with a few slides at once."""
IN_FLIGHT, MOST_IN_FLIGHT = 32, 500e6
"""Many slides at once, and the aim for the bytes of a run with them."""


def section(plan: Plan) -> str:
    prose = (
        "CPU seconds of all threads of `update` by `range`, its start and listing included, over a "
        "network without delays, and its peak memory. Bare is decoding the needed tiles by "
        "simplejpeg or OpenJPEG alone. For a slide with a base level alone, only one thread is "
        "measured, which reads the level and makes the image."
    )
    rows = [*_measure_processor(plan), *_measure_memory(plan)]
    return figures.section("Processor and memory", prose, rows)


def _measure_processor(plan: Plan) -> Iterator[Figure]:
    for kind, slides in ((trial.kind, trial.range_slides) for trial in plan.trials):
        if kind.has_levels:
            most = OF_BEFORE["JPEG 2000" if "JPEG 2000" in kind.name else "JPEG"]
            now, then = _measure_costs(plan, kind, slides, plan.repetitions)
            yield _compare_cpu(
                kind.name, slides, now, then, bare_decoding(kind, MPP, by_simplejpeg), most
            )
    fine = plan.trials[0].kind
    for mpp in FINE_MPP:
        of, bare = f"{fine.name}, {mpp:g} µm/px", bare_decoding(fine, mpp, by_simplejpeg)
        now, then = _measure_costs(plan, fine, WORKERS, 1, mpp)
        yield _compare_cpu(of, WORKERS, now, then, bare, FINE_OF_BEFORE)
        yield _compare_memory(of, f"peak MB, {WORKERS} at once", now, then, MOST_MEMORY)
    for kind in plan.base_kinds:
        yield from assembling(kind, plan.repetitions)


def _measure_memory(plan: Plan) -> Iterator[Figure]:
    many = {f"{IN_FLIGHT} of {plan.link_kind.name}": (plan.link_kind,) * IN_FLIGHT}
    for of, kinds in {**plan.at_once, **many}.items():
        now, then = beside(partial(at_once, kinds), plan.before, 1, lambda cost: cost.peak)
        yield _compare_memory(
            of, "peak MB", now, then, MOST_IN_FLIGHT if of in many else MOST_MEMORY
        )


def _compare_memory(
    of: str, what: str, now: Footprint, before: Footprint | None, most: float
) -> Figure:
    """Return the figure of a run's peak memory. most: The aim, in bytes."""
    peak = None if before is None else before.peak / 1e6
    return Figure(of, what, now.peak / 1e6, peak, most=most / 1e6)


def _compare_cpu(
    of: str, slides: int, now: Footprint, then: Footprint | None, bare: float, most: float
) -> Figure:
    value, before = now.cpu / slides, then.cpu / slides if then else None
    return Figure(of, "CPU seconds a slide", value, before, bare, most_of_before=most)


def _measure_costs(
    plan: Plan, kind: Kind, slides: int, repetitions: int, mpp: float = MPP
) -> tuple[Footprint, Footprint | None]:
    """Return the cost of this version, and of the one before if the plan has it."""
    with StandIn(kind.listing(slides)) as gdc:

        def run(program: Sequence[str]) -> Footprint:
            return update(gdc, "range", program=program, mpp=mpp).footprint

        return beside(run, plan.before, repetitions, lambda cost: cost.cpu)
