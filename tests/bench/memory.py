"""The most memory that `update` holds, four slides at once, over a network without delays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench import ours
from tests.bench.footprint import Footprint
from tests.bench.material import Kind
from tests.gdc import StandIn


@dataclass(frozen=True, slots=True)
class Peak:
    """What four slides at once took; the slides in words."""

    slides: str
    footprint: Footprint


def peak(slides: str, kinds: Sequence[Kind]) -> Peak:
    """One slide of each kind, by `range`."""
    listings = [kind.listing(len(kinds)) for kind in kinds]
    files = [listing[number] for number, listing in enumerate(listings)]
    with StandIn(files) as gdc:
        return Peak(slides, ours.update(gdc, "range").footprint)
