"""Numbers of the mirror that the overview draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.reports import Counts
from tcgamirror.web.gallery.entries import Entries, Fact, number, sanitize

MOST_BINS = 24

_FAILURES = """
SELECT coalesce(last.fault, 'not told'), coalesce(last.source, 'none'), count(*)
FROM mirror LEFT JOIN attempts AS last ON last.attempt = (
    SELECT max(attempt) FROM attempts WHERE attempts.file_name = mirror.file_name
)
WHERE mirror.status = 'failed' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""


@dataclass(frozen=True, slots=True)
class Bin:
    """Count of values from `low` to below `high`."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Count of failed slides by fault and source of their last try."""

    fault: str
    source: str
    slides: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Numbers of the overview.

    bases, images: resolutions in µm per pixel. unknown: images of unknown resolution.
    """

    counts: Counts
    bases: tuple[Bin, ...]
    images: tuple[Bin, ...]
    unknown: int
    failures: tuple[Failure, ...]


def read_statistics(catalogue: Catalogue, entries: Entries) -> Statistics:
    """Read the numbers of the overview."""
    rows = catalogue.reports.query(_FAILURES).rows
    statuses = Counter(
        (status, mpp is None)
        for status, mpp in zip(entries.column("status"), entries.column("mpp_x"), strict=True)
    )
    return Statistics(
        counts=catalogue.reports.counts(),
        bases=histogram(_numbers(entries.column("base_mpp"))),
        images=histogram(_numbers(entries.column("mpp_x"))),
        unknown=statuses["done", True],
        failures=tuple(
            Failure(str(sanitize(fault)), str(sanitize(source)), int(str(slides)))
            for fault, source, slides in rows
        ),
    )


def _numbers(facts: Iterable[Fact]) -> list[float]:
    """Return the values that are plausible resolutions, so that they fit an axis."""
    return [value for fact in facts if 1e-4 < (value := number(fact) or 0.0) < 1e6]


def histogram(values: Sequence[float]) -> tuple[Bin, ...]:
    """Return at most 24 bins of one round width that hold all values.

    >>> [(each.low, each.count) for each in histogram([15.0, 15.01, 15.03])]
    [(15.0, 1), (15.01, 1), (15.02, 0), (15.03, 1)]
    >>> histogram([0.25, 0.25])
    (Bin(low=0.25, high=0.2502, count=2),)
    """
    if not values:
        return ()
    least, most = min(values), max(values)
    width = round_up(max((most - least) / (MOST_BINS - 1), most / 2000))
    counted = Counter(math.floor(value / width + 1e-9) for value in values)
    return tuple(
        Bin(_tidy(place * width), _tidy((place + 1) * width), counted[place])
        for place in range(min(counted), max(counted) + 1)
    )


def round_up(least: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is not below `least`.

    >>> round_up(0.0031), round_up(14), round_up(5)
    (0.005, 20.0, 5.0)
    """
    power = 10.0 ** math.floor(math.log10(least))
    for times in (1, 2, 5, 10):
        if times * power >= least * (1 - 1e-9):
            return _tidy(times * power)
    return _tidy(10 * power)


def _tidy(value: float) -> float:
    """Return a value without the rounding errors of binary fractions."""
    return float(f"{value:.10g}")
