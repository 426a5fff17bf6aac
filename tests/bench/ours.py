"""Run this project by the command line a user types, in a fresh mirror each time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import figures
from tests.bench.figures import Figure, megabytes
from tests.bench.footprint import Footprint, footprint
from tests.bench.material import MPP, Kind
from tests.bench.plan import Plan
from tests.gdc import StandIn

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "main.py")]
WORKERS = 4
MOST_MEMORY = 300e6
IN_FLIGHT, MOST_IN_FLIGHT = 32, 500e6


@dataclass(frozen=True, slots=True)
class Update:
    """One `update` that fetched every slide. known: whether each image has its resolution."""

    footprint: Footprint
    known: bool


def update(
    gdc: StandIn,
    via: str,
    workers: int | None = WORKERS,
    *,
    program: Sequence[str] = PROGRAM,
    mpp: float = MPP,
) -> Update:
    """Mirror all that the stand-in lists by one source. Raises RuntimeError if a slide fails.

    workers: None for as many as the program chooses. program: this one, or the version before.
    """
    slides = len(gdc.files)
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        program = [*program, "--mirror", f"{folder}/mirror"]
        sample = ["--slides", str(slides), "--mpp", f"{mpp:g}"]
        how = ["--via", via, *([] if workers is None else ["--workers", str(workers)])]
        where = ["--api", gdc.api, "--bucket", gdc.bucket]
        _output(*program, "init", *sample, *how, *where)
        cost = footprint([*program, "update"])
        sql = "select count(*) done, count(mpp_x) known from mirror where status = 'done'"
        (counts,) = json.loads(_output(*program, "query", "--format", "json", sql))
    if counts["done"] != slides:
        raise RuntimeError(f"only {counts['done']} of {slides} slides came by {via}")
    return Update(cost, counts["known"] == slides)


def peak(kinds: Sequence[Kind], program: Sequence[str] = PROGRAM) -> int:
    """Return the bytes that `update` holds at most with one slide of each kind at once."""
    files = [kind.listing(len(kinds))[place] for place, kind in enumerate(kinds)]
    with StandIn(files) as gdc:
        return update(gdc, "range", len(kinds), program=program).footprint.peak


def memory_section(plan: Plan) -> str:
    rows = [_peak(plan, of, kinds, MOST_MEMORY) for of, kinds in plan.at_once.items()]
    many = (plan.linked,) * IN_FLIGHT
    rows.append(_peak(plan, f"{IN_FLIGHT} of {plan.linked.name}", many, MOST_IN_FLIGHT))
    prose = "Peak memory of `update` by `range`, over a network without delays."
    return figures.section("Memory of slides at once", prose, rows)


def _peak(plan: Plan, of: str, kinds: Sequence[Kind], most: float) -> Figure:
    before = peak(kinds, plan.before) if plan.before else None
    return megabytes(of, "MB", peak(kinds), before, most)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
