"""Run this project by the command line a user types, in a fresh mirror each time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from tests.bench.figures import in_turn
from tests.bench.footprint import Footprint, footprint
from tests.bench.material import MPP, Kind
from tests.gdc import StandIn

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "main.py")]
WORKERS = 4

T = TypeVar("T")


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


def beside(
    run: Callable[[Sequence[str]], T], before: Sequence[str], times: int, key: Callable[[T], float]
) -> tuple[T, T | None]:
    """Return the median results of this program and of the version before, which take turns."""
    runs = {"now": partial(run, PROGRAM)} | ({"before": partial(run, before)} if before else {})
    results = in_turn(runs, times, key)
    return results["now"], results.get("before")


def at_once(kinds: Sequence[Kind], program: Sequence[str] = PROGRAM) -> Footprint:
    """Return the footprint of `update` with one slide of each kind at once."""
    files = [kind.listing(len(kinds))[place] for place, kind in enumerate(kinds)]
    with StandIn(files) as gdc:
        return update(gdc, "range", len(kinds), program=program).footprint


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
