"""Forecast of what a run would fetch, by what earlier runs moved.

Without images of before, only the bytes of whole files are known: those of a level differ
between slides by orders of magnitude, and so do networks. With few that differ much, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from tcgamirror.catalogue.queue import DueSlides
from tcgamirror.model.errors import TcgaMirrorError

ENOUGH = 5
"""Slides of a source from which its own history tells what comes."""


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


def forecast(slides: DueSlides, source: str, past: Sequence[tuple[int, float]]) -> Forecast:
    """Return the forecast of fetching the slides by a source.

    past: bytes of each slide whose image is from the source, and seconds that it added to its run.
    """
    count = len(slides)
    if len(past) >= ENOUGH:
        mean_bytes, mean_seconds = (_mean(values, count) for values in zip(*past, strict=True))
        moved = None if mean_bytes is None else round(mean_bytes * count)
        seconds = None if mean_seconds is None else mean_seconds * count
        return Forecast(source, slides, moved, seconds, measured=True)
    if not count:
        return Forecast(source, slides, 0, 0.0, measured=False)
    total: int | None = None
    if source == "whole":
        sizes = [slide.size for slide in slides]
        total = None if None in sizes else sum(size or 0 for size in sizes)
    return Forecast(source, slides, total, None, measured=False)


def _mean(past: Sequence[float], count: int) -> float | None:
    """Return the mean; None if that of `count` others may well be half of it, or twice.

    >>> _mean([5, 6, 5, 4, 5], 100), _mean([1, 1, 1, 1, 40], 100), _mean([1, 1, 1, 1, 40], 0)
    (5.0, None, 8.8)
    >>> _mean([9.1, 9.1, 9.1, 9.1, 9.1, 0.2], 18)
    """
    mean = fmean(past)
    # Close to Student's t, within which 19 of 20 such means lie.
    times = 2 + 3 / (len(past) - 1)
    deviation = stdev(past) * math.sqrt(1 / len(past) + 1 / max(count, 1))
    return mean if not count or times * deviation <= mean / 2 else None
