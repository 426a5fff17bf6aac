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
from tests.bench.figures import at_most
from tests.bench.footprint import Footprint, footprint
from tests.bench.material import MPP, Kind
from tests.bench.plan import Plan
from tests.gdc import StandIn

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "main.py")]
WORKERS = 4
MOST_MEMORY = 300e6


@dataclass(frozen=True, slots=True)
class Update:
    """One `update` that fetched every slide. known: whether each image has its resolution."""

    footprint: Footprint
    known: bool


def update(gdc: StandIn, via: str, workers: int = WORKERS) -> Update:
    """Mirror all that the stand-in lists by one source. Raises RuntimeError if a slide fails."""
    slides = len(gdc.files)
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        program = [*PROGRAM, "--mirror", f"{folder}/mirror"]
        sample = ["--slides", str(slides), "--mpp", f"{MPP:g}"]
        how = ["--via", via, "--workers", str(workers)]
        where = ["--api", gdc.api, "--bucket", gdc.bucket]
        _output(*program, "init", *sample, *how, *where)
        cost = footprint([*program, "update"])
        sql = "select count(*) done, count(mpp_x) known from mirror where status = 'done'"
        (counts,) = json.loads(_output(*program, "query", "--format", "json", sql))
    if counts["done"] != slides:
        raise RuntimeError(f"only {counts['done']} of {slides} slides came by {via}")
    return Update(cost, counts["known"] == slides)


def peak(kinds: Sequence[Kind]) -> int:
    """Return the bytes that `update` holds at most with one slide of each kind at once."""
    files = [kind.listing(len(kinds))[place] for place, kind in enumerate(kinds)]
    with StandIn(files) as gdc:
        return update(gdc, "range").footprint.peak


def memory_section(plan: Plan) -> str:
    rows = [
        at_most(slides, "MB", peak(kinds) / 1e6, MOST_MEMORY / 1e6)
        for slides, kinds in plan.at_once.items()
    ]
    prose = "Peak memory of `update` by `range`, over a network without delays."
    return figures.section("Memory, four slides at once", prose, rows)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
