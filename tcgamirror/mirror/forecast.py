"""Forecast of what a run would fetch, by what earlier runs moved.

Without images of before, only the bytes of whole files are known: those of a level differ
between slides by orders of magnitude, and so do networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tcgamirror.catalogue.queue import DueSlides
from tcgamirror.catalogue.reports import SourceCounts
from tcgamirror.model.errors import TcgaMirrorError

ENOUGH = 5
"""Images of a source from which its own history tells what comes."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Estimate of a run's fetching.

    source: the first of the ladder, assumed for all slides. slides: in the order of
    fetching, read one by one. bytes: over the network; None if unknown, as are seconds.
    measured: by earlier runs. error: why the listing could not be read.
    """

    source: str
    slides: DueSlides
    bytes: int | None
    seconds: float | None
    measured: bool
    error: TcgaMirrorError | None = None


def forecast(
    slides: DueSlides, source: str, workers: int, past: Mapping[str, SourceCounts]
) -> Forecast:
    """Return the forecast of fetching the slides by a source."""
    known, count = past.get(source), len(slides)
    if known is not None and known.images >= ENOUGH:
        moved = known.bytes_fetched / known.images * count
        # Fewer slides than workers take as long as one of them.
        rounds = max(count / workers, min(count, 1))
        return Forecast(source, slides, round(moved), known.seconds / known.images * rounds, True)
    if not count:
        return Forecast(source, slides, 0, 0.0, measured=False)
    total: int | None = None
    if source == "whole":
        sizes = [slide.size for slide in slides]
        total = None if None in sizes else sum(size or 0 for size in sizes)
    return Forecast(source, slides, total, None, measured=False)
