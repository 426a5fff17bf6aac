"""The memory of `update` with four slides at once, as the operating system tells it.

Of the largest there are: in the soak as they are, else with a base level that is smaller.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.bench.memory import peak
from tests.bench.plan import FULL, LARGEST

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
MOST = 400e6


@pytest.mark.timeout(900)
@pytest.mark.parametrize("slides", FULL.at_once if SOAK else [LARGEST])
def test_four_of_the_largest_slides_at_once_stay_under_400_mb(slides: str) -> None:
    kinds = FULL.at_once[slides]
    if not SOAK:
        *wide, alone = kinds
        kinds = (*wide, replace(alone, spec=replace(alone.spec, width=20_000, height=16_000)))
    assert peak(slides, kinds).footprint.peak < MOST
