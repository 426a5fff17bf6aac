"""Many nights of releases, faults, kills, damage, exports, imports, syncs and rebuilds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.nights import Nights

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
SEEDS = range(8) if SOAK else [int(os.environ.get("TCGAMIRROR_SEED", "1"))]
NIGHTS = int(os.environ.get("TCGAMIRROR_NIGHTS", "60" if SOAK else "12"))


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_each_mirror_has_what_it_must(tmp_path: Path, seed: int) -> None:
    with StandIn([]) as gdc:
        nights = Nights(tmp_path, seed, gdc)
        try:
            nights.run(NIGHTS)
        except BaseException:
            print("\n".join(nights.acts))
            raise
