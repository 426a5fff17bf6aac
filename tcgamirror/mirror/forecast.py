"""Forecast of what a run would fetch: from earlier runs, or by rules of thumb.

The rules are rough: a slide has about four pixels to a byte, its levels are 1,
4, 16 and 32, its base is 0.25 µm per pixel, and a connection moves 2.5 MB/s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tcgamirror.catalogue.queue import DueSlides
from tcgamirror.catalogue.reports import SourceCounts
from tcgamirror.model.errors import TcgaMirrorError
from tcgamirror.model.slide import Target

ENOUGH = 5
"""Images of a source from which its own history is used instead of a rule."""
USUAL_SIZE = 1_000_000_000
USUAL_MPP = 0.25
USUAL_DOWNSAMPLES = (1, 4, 16, 32)
BYTES_PER_PIXEL = 0.25
TILE_BYTES_PER_PIXEL = 1.5
TILE_SIDE = 512
DIRECTORY_BYTES = 60_000
BYTES_PER_SECOND = 2_500_000.0
SECONDS_PER_REQUEST = {"range": 0.1, "tiles": 1.0, "whole": 0.1}
USUAL_REQUESTS = 12


@dataclass(frozen=True, slots=True)
class Forecast:
    """Estimate of a run's fetching.

    source: the first of the ladder, assumed for all slides. slides: in the order of
    fetching, read one by one. bytes: over the network. measured: by earlier runs, not
    by rules. error: why the listing could not be read.
    """

    source: str
    slides: DueSlides
    bytes: int
    seconds: float
    measured: bool
    error: TcgaMirrorError | None = None


def forecast(
    slides: DueSlides,
    source: str,
    target: Target,
    workers: int,
    past: Mapping[str, SourceCounts],
) -> Forecast:
    """Return the forecast of fetching the slides by a source."""
    known = past.get(source)
    if known is not None and known.images >= ENOUGH:
        count = len(slides)
        moved = known.bytes_fetched / known.images * count
        seconds = known.seconds / known.images * count / workers
        return Forecast(source, slides, round(moved), seconds, measured=True)
    moved = seconds = 0.0
    for slide in slides:
        its_bytes, its_seconds = _by_rule(slide.size or USUAL_SIZE, source, target)
        moved += its_bytes
        seconds += its_seconds / workers
    return Forecast(source, slides, round(moved), seconds, measured=False)


def _by_rule(size: int, source: str, target: Target) -> tuple[float, float]:
    """Return bytes and seconds of one slide whose file has `size` bytes."""
    pixels = size / BYTES_PER_PIXEL
    if target.mpp is not None:
        wanted = max(1.0, target.mpp / USUAL_MPP)
    else:
        wanted = max(1.0, math.sqrt(pixels * 4 / 3) / (target.max_size or 1))
    requests: float = USUAL_REQUESTS
    moved: float = size
    if source == "range":
        moved = size / max(step for step in USUAL_DOWNSAMPLES if step <= wanted) ** 2
        moved += DIRECTORY_BYTES
    elif source == "tiles":
        level = pixels / 4 ** math.floor(math.log2(wanted))
        moved, requests = level * TILE_BYTES_PER_PIXEL, 1 + level / TILE_SIDE**2
    return moved, moved / BYTES_PER_SECOND + requests * SECONDS_PER_REQUEST[source]
