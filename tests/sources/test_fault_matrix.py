"""No fault of the network makes a wrong image, a hang, or a failure without its name.

Every fault strikes once, each third time and always, at every source; some of these in each run,
all of them in the soak.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
from PIL import Image

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.fetch import FetchOptions
from tcgamirror.mirror.settings import Settings
from tcgamirror.mirror.update import UpdateOptions, run_update
from tcgamirror.model.slide import Target
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.system.interrupt import Shutdown
from tests.gdc import Fault, Listed, StandIn, listed
from tests.gdc.faults import Kind
from tests.support.slides import SlideSpec, make_slide

When = Literal["once", "third", "always"]
SOURCES = ("whole", "tiles", "range")
FILES = r"/data/|/tile/|\.svs"
"""Requests for a slide, and none for the listing."""
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

NAMES = {
    "403": {"refused"},
    "404": {"not there"},
    "429": {"server error"},
    "500": {"server error"},
    "503": {"server error"},
    "redirect": {"redirected"},
    "reset": {"unreachable"},
    "reset-mid-body": {"cut short"},
    "cut": {"cut short"},
    "stall": {"too slow"},
    "drip": {"too slow"},
    "slow-headers": {"too slow"},
    "empty": {"cut short", "wrong content", "wrong total", "bad tile"},
    "html": {"wrong content", "bad tile"},
    "length-too-large": {"cut short", "wrong total", "too long"},
    "length-too-small": {"wrong content", "wrong total", "cut short", "wrong span"},
    "flipped": {"checksum mismatch", "bad slide", "unusual slide", "bad tile", "wrong content"},
    "range-ignored": {"range ignored"},
    "empty-200": {"wrong content"},
    "slice-200": {"wrong content", "wrong total"},
    "wrong-content-range": {"wrong span"},
    "wrong-total": {"wrong total"},
    "changed-etag": {"changed file"},
    "endless-body": {"too long", "wrong content", "range ignored", "wrong span", "cut short"},
}
"""What a failure may be called. Which it is depends on how the source meets the fault."""

FINAL = {"403", "404", "redirect", "flipped", "endless-body"}
"""Faults that a retry is not expected to help against, even if they come once."""
MOST_SPOILED = 0.3
"""Share of pixels that may differ: a fault flips five bytes, and the level has 30 tiles."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a fault of a kind, as often as `when` says, met by one source."""

    source: str
    kind: Kind
    when: When

    def __str__(self) -> str:
        return f"{self.source}-{self.kind}-{self.when}"


KINDS: list[Kind] = [kind for kind in get_args(Kind) if kind in NAMES or kind in ("203", "as-html")]
CELLS = [Cell(*cell) for cell in product(SOURCES, KINDS, get_args(When))]
if not os.environ.get("TCGAMIRROR_SOAK"):
    CELLS = random.Random(20).sample(CELLS, 24)


@dataclass(frozen=True, slots=True)
class Outcome:
    """fault: why the last source failed. pixels: the image. None: there is none."""

    status: object
    fault: object
    pixels: np.ndarray | None


def mirrored(root: Path, gdc: StandIn, source: str) -> Outcome:
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
    options = UpdateOptions(refresh=True, sample=True, fetch=FetchOptions())
    run_update(mirror, "update", options, ProgressDisplay(quiet=True), Shutdown())
    with Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
        status, fault, path = next(catalogue.reports.query(OUTCOME).rows)
    return Outcome(status, fault, np.asarray(Image.open(root / str(path))) if path else None)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    folder = tmp_path_factory.mktemp("fault-matrix")
    spec = SlideSpec(width=1500, height=1100, downsamples=(1, 4), tile=(64, 64), seed=3)
    return listed(make_slide(folder / "slide.svs", spec))


@pytest.fixture(scope="module")
def undisturbed(
    slide: Listed, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray | None]:
    """Each source's image where nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with StandIn([slide]) as gdc:
        return {source: mirrored(folder / source, gdc, source).pixels for source in SOURCES}


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_fault_ends_in_the_right_image_or_in_its_name(
    cell: Cell, slide: Listed, undisturbed: dict[str, np.ndarray | None], tmp_path: Path
) -> None:
    fault = Fault(FILES, cell.kind, cell.when, retry_after=0, to="http://other.invalid/")
    begun = time.monotonic()
    with StandIn([slide]) as gdc:
        gdc.faults.add(fault)
        outcome = mirrored(tmp_path / "mirror", gdc, cell.source)
    assert time.monotonic() - begun < LONGEST
    if cell.when == "once" and cell.kind not in FINAL:
        assert outcome.status == "done", outcome.fault
    if outcome.status != "done":
        assert (outcome.status, outcome.pixels) == ("failed", None)
        assert outcome.fault in NAMES[cell.kind]
        return
    right = undisturbed[cell.source]
    assert outcome.pixels is not None and right is not None
    assert outcome.pixels.shape == right.shape
    spoiled = float((outcome.pixels != right).any(axis=2).mean())
    # A part of a file has no checksum: JPEG shows some flips, which stay within their tiles.
    assert spoiled <= (MOST_SPOILED if (cell.source, cell.kind) == ("range", "flipped") else 0)
