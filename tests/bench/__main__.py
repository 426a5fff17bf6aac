"""Runs the bench and prints its tables; the package tells what it is."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench import aims
from tests.bench.aims import Aim
from tests.bench.decoding import decoding
from tests.bench.link import LINK, WORKERS, shared
from tests.bench.machine import machine
from tests.bench.memory import peak
from tests.bench.plan import FULL, QUICK, Plan
from tests.bench.plot import svg
from tests.bench.profiling import profile
from tests.bench.report import Results, markdown
from tests.bench.scaling import SMALL, scaling
from tests.bench.ways import BARE, RANGE, TILES, WHOLE, A, B, Timing, middle, timed

RESULTS = Path(__file__).with_name("RESULTS.md")
REPETITIONS = 3
"""Of the runs over one link."""
PLOT = Path(__file__).with_name("slides.svg")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute, and RESULTS.md is left")
    quick = parser.parse_args().quick
    results = run(QUICK if quick else FULL)
    text = markdown(results, PLOT.name)
    print(text)
    if not quick:
        RESULTS.write_text(f"{text}\n", encoding="utf-8")
        title = f"Seconds for so many slides of {SMALL.name} pixels"
        PLOT.write_text(svg(title, results.points), encoding="utf-8")


def run(plan: Plan) -> Results:
    on = machine()
    say("making the slides that no earlier run made")
    for kind in dict.fromkeys(plan.kinds):
        say(f"  {kind.path.stat().st_size / 1e6:4.0f} MB  {kind.name}")
    for trial in plan.trials:
        trial.kind.listing(1, tiles=True)
    say("the ways that move whole files")
    timings = _slow(plan)
    say("the ways that move less")
    timings += _fast(plan)
    say("one link for all")
    links = [shared(plan.linked, plan.links, rate, REPETITIONS) for rate in (LINK, None)]
    busy = profile(plan.linked, plan.links, WORKERS)
    say("decoding")
    decodings = [decoding(kind, plan.decodings) for kind in plan.decoded]
    say("memory")
    peaks = [peak(slides, kinds) for slides, kinds in plan.at_once.items()]
    say("more slides")
    points = scaling(plan.counts)
    reached = [
        *_aims(plan, timings),
        *(aim for measured in links for aim in aims.of_link(measured)),
        *aims.of_profile(busy),
        *aims.of_scaling(points),
        *(aim for measured in decodings for aim in aims.of_decoding(measured)),
        *aims.of_memory(peaks),
    ]
    return Results(on, _sorted(plan, timings), links, busy, points, decodings, peaks, reached)


def _slow(plan: Plan) -> list[Timing]:
    """All at the same time: they wait for connections of their own, and need next to no work."""
    wanted = [(A, trial.kind, 1) for trial in plan.trials if trial.by_a]
    wanted += [(WHOLE, trial.kind, trial.whole) for trial in plan.trials if trial.whole]
    with ThreadPoolExecutor(len(wanted)) as pool:
        return [done.result() for done in [pool.submit(timed, *each) for each in wanted]]


def _fast(plan: Plan) -> list[Timing]:
    """One after another, in turn, so that a busy minute of the machine hits all of them."""
    timings = []
    for trial in plan.trials:
        slides = {RANGE: trial.fast, B: 1, BARE: trial.fast}
        taken = defaultdict(list)
        for _ in range(trial.repetitions):
            for way, count in slides.items():
                taken[way].append(timed(way, trial.kind, count))
        timings += [middle(several) for several in taken.values()]
        timings.append(timed(TILES, trial.kind, trial.fast // 2))
    return timings


def _sorted(plan: Plan, timings: list[Timing]) -> list[Timing]:
    """By kind as the plan has them, then as one reads them."""
    kinds = [trial.kind for trial in plan.trials]
    ways = [A, B, WHOLE, TILES, RANGE, BARE]
    return sorted(timings, key=lambda each: (kinds.index(each.kind), ways.index(each.way)))


def _aims(plan: Plan, timings: list[Timing]) -> Iterator[Aim]:
    by = {(timing.kind, timing.way): timing for timing in timings}
    for trial in plan.trials:
        if trial.judged:
            kind = trial.kind
            yield from aims.of_range(by[kind, RANGE], by.get((kind, A)), by[kind, B])


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
