"""This project's way, by the command line a user types, in a fresh mirror each time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.footprint import Footprint, footprint
from tests.bench.material import MPP
from tests.gdc import StandIn

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "main.py")]
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Update:
    """One `update` that got every slide. known: whether each image's resolution is."""

    footprint: Footprint
    known: bool


def update(
    gdc: StandIn, via: str, workers: int = WORKERS, updating: Sequence[str] = PROGRAM
) -> Update:
    """Mirrors all that the stand-in lists by one source. Raises RuntimeError if a slide fails.

    updating: what is run as the program for the update itself.
    """
    slides = len(gdc.files)
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        mirror = ["--mirror", f"{folder}/mirror"]
        program = [*PROGRAM, *mirror]
        wanted = ["--slides", str(slides), "--mpp", f"{MPP:g}"]
        how = ["--via", via, "--workers", str(workers)]
        where = ["--api", gdc.api, "--bucket", gdc.bucket]
        _said(*program, "init", *wanted, *how, *where)
        cost = footprint([*updating, *mirror, "update"])
        sql = "select count(*) done, count(mpp_x) known from mirror where status = 'done'"
        (counts,) = json.loads(_said(*program, "query", "--format", "json", sql))
    if counts["done"] != slides:
        raise RuntimeError(f"only {counts['done']} of {slides} slides came by {via}")
    return Update(cost, counts["known"] == slides)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
