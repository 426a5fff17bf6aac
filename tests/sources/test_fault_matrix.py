"""No fault of the network makes a wrong image, a hang, or a failure without its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.gdc import Listed, StandIn, listed
from tests.support.fault_matrix import LONGEST, Cell, Seen, cells, mirrored, noted, spoiled
from tests.support.slides import SlideSpec, make_slide

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
CELLS = cells(None if SOAK else 24, seed=20)

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
"""Faults that asking again is not expected to help against, even if they come once."""


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    folder = tmp_path_factory.mktemp("fault-matrix")
    spec = SlideSpec(width=1500, height=1100, downsamples=(1, 4), tile=(64, 64), seed=3)
    return listed(make_slide(folder / "slide.svs", spec))


@pytest.fixture(scope="module")
def undisturbed(slide: Listed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """Each source's image where nothing goes wrong."""
    with StandIn([slide]) as gdc:
        folder = tmp_path_factory.mktemp("undisturbed")
        return {
            source: mirrored(folder / source, gdc, source) for source in ("whole", "tiles", "range")
        }


MOST_SPOILED = 0.3
"""Of the image's pixels: a fault flips five bytes of an answer, and the level has 30 tiles."""


def cannot_be_seen(cell: Cell, pixels: np.ndarray, right: np.ndarray) -> bool:
    """A part of a file has no checksum of its own: JPEG tells of some flipped bits, not of all.

    Such flips stay within their tiles.
    """
    if cell.kind != "flipped" or cell.source != "range" or pixels.shape != right.shape:
        return False
    return float((pixels != right).any(axis=2).mean()) <= MOST_SPOILED


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_fault_ends_in_the_right_image_or_in_its_name(
    cell: Cell,
    slide: Listed,
    undisturbed: dict[str, Seen],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    seen = spoiled(tmp_path / "mirror", slide, cell)
    assert seen.seconds < LONGEST
    right = undisturbed[cell.source].pixels
    assert right is not None
    if seen.status == "done":
        assert seen.pixels is not None
        same = np.array_equal(seen.pixels, right)
        assert same or cannot_be_seen(cell, seen.pixels, right)
        noted(record_property, cell, seen, "right" if same else "flips unseen")
    else:
        assert (seen.status, seen.pixels) == ("failed", None)
        assert seen.fault in NAMES[cell.kind]
        noted(record_property, cell, seen, seen.fault)
    if cell.when == "once" and cell.kind not in FINAL:
        assert seen.status == "done", seen.fault


def test_flips_are_excused_within_a_few_tiles_of_range_alone() -> None:
    right = np.zeros((100, 100, 3), np.uint8)
    few, all_over, smaller = right.copy(), right + 1, right[1:]
    few[:20] = 1
    flipped = Cell("range", "flipped", "third")
    assert cannot_be_seen(flipped, few, right)
    assert not cannot_be_seen(flipped, all_over, right)
    assert not cannot_be_seen(flipped, smaller, right)
    assert not cannot_be_seen(Cell("whole", "flipped", "third"), few, right)
