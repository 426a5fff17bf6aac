"""Every fault of a network, at every source, once, now and then, and always: what comes of it.

A plugin of pytest: the outcomes are printed as a table at the end of the run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
from PIL import Image

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.cli.output import table
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.fetch import FetchOptions
from tcgamirror.mirror.settings import Settings
from tcgamirror.mirror.update import UpdateOptions, run_update
from tcgamirror.model.slide import Target
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.system.interrupt import Shutdown
from tests.gdc import Fault, Listed, StandIn
from tests.gdc.faults import Kind

When = Literal["once", "third", "always"]
SOURCES = ("whole", "tiles", "range")
FILES = r"/data/|/tile/|\.svs"
"""Requests for a slide, and none for the listing."""
KINDS: tuple[Kind, ...] = tuple(
    kind
    for kind in get_args(Kind)
    if kind not in ("endless-page", "truncated-json", "foreign-json", "504")
)
HASTY = Timeouts(
    connect=1.0,
    first_byte=0.6,
    stall=0.5,
    whole=2.0,
    tries=3,
    backoff=0.01,
    pause=0.01,
    retry_after_limit=0.2,
)
LONGEST = 20.0
"""Seconds that a cell may take whatever the fault."""
MAX_SIZE = 150
OUTCOME = (
    "select status, (select fault from attempts order by rowid desc limit 1), path from mirror"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a fault of a kind, as often as `when` says, met by one source."""

    source: str
    kind: Kind
    when: When

    def __str__(self) -> str:
        return f"{self.source}-{self.kind}-{self.when}"


def cells(sampled: int | None, seed: int) -> list[Cell]:
    """All of the matrix, or so many cells of it as the seed picks."""
    every = [Cell(*cell) for cell in product(SOURCES, KINDS, get_args(When))]
    return every if sampled is None else random.Random(seed).sample(every, sampled)


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a cell.

    fault: why the last source failed. pixels: the image. None: there is none.
    seconds: the run's.
    """

    status: str
    fault: str | None
    pixels: np.ndarray | None
    seconds: float


def mirrored(root: Path, gdc: StandIn, source: str) -> Seen:
    """Mirrors the stand-in's one slide by one source alone."""
    settings = Settings(
        target=Target(None, MAX_SIZE),
        slides=None,
        via=(source,),
        api=gdc.api,
        tiles=gdc.tiles,
        bucket=gdc.bucket,
        timeouts=HASTY,
    )
    Mirror.create(root, settings)
    mirror = Mirror(root, settings)  # with the short timeouts, which the file cannot hold whole
    started = time.monotonic()
    options = UpdateOptions(refresh=True, sample=True, fetch=FetchOptions())
    run_update(mirror, "update", options, ProgressDisplay(quiet=True), Shutdown())
    seconds = time.monotonic() - started
    with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
        row = next(catalogue.reports.query(OUTCOME).rows)
    status, fault, path = (None if value is None else str(value) for value in row)
    pixels = np.asarray(Image.open(root / path)) if path else None
    return Seen(status or "", fault, pixels, seconds)


def spoiled(root: Path, slide: Listed, cell: Cell) -> Seen:
    """One cell's run."""
    with StandIn([slide]) as gdc:
        gdc.faults.add(
            Fault(FILES, cell.kind, cell.when, hold=30.0, retry_after=0, to="http://other.invalid/")
        )
        return mirrored(root, gdc, cell.source)


Record = Callable[[str, object], None]
"""Pytest's record_property, which also finds its way out of parallel processes."""


def noted(record: Record, cell: Cell, seen: Seen, words: str) -> None:
    """Keeps a cell's outcome for the table."""
    record(str(cell), f"{words} {seen.seconds:.1f} s")


def _lines(outcomes: Mapping[str, object]) -> Iterator[list[object]]:
    for source, kind in product(SOURCES, KINDS):
        message = [outcomes.get(str(Cell(source, kind, when)), "") for when in get_args(When)]
        if any(message):
            yield [source, kind, *message]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)
    ]
    outcomes = dict(pair for report in reports for pair in report.user_properties)
    lines = list(_lines(outcomes))
    if lines:
        terminalreporter.section("faults of the network, and what came of them")
        terminalreporter.write_line(table(("source", "fault", *get_args(When)), lines))
