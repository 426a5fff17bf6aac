"""Half-open intervals of bytes, and sets of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple


class Span(NamedTuple):
    """The bytes from `start` up to, but without, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        """Return the span as HTTP writes it, with an inclusive end.

        >>> str(Span(0, 16))
        '0-15'
        """
        return f"{self.start}-{self.stop - 1}"


class SpanSet:
    """A set of byte positions, kept as ascending spans that neither touch nor overlap."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for span in spans:
            self.add(span)

    def __iter__(self) -> Iterator[Span]:
        return map(Span, self._starts, self._stops)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpanSet) and list(self) == list(other)

    @property
    def total(self) -> int:
        """Return the number of bytes in the set."""
        return sum(self._stops) - sum(self._starts)

    def add(self, span: Span) -> None:
        """Add a span, joined with those it touches.

        >>> fetched = SpanSet([Span(0, 4), Span(8, 12)])
        >>> fetched.add(Span(4, 8))
        >>> list(fetched)
        [Span(start=0, stop=12)]
        """
        if span.length <= 0:
            return
        first = bisect_left(self._stops, span.start)
        last = bisect_right(self._starts, span.stop)
        if first < last:
            span = Span(min(span.start, self._starts[first]), max(span.stop, self._stops[last - 1]))
        self._starts[first:last] = [span.start]
        self._stops[first:last] = [span.stop]

    def gaps(self, span: Span) -> list[Span]:
        """Return the parts of `span` that are not in the set, ascending.

        >>> SpanSet([Span(0, 4), Span(8, 12)]).gaps(Span(2, 14))
        [Span(start=4, stop=8), Span(start=12, stop=14)]
        """
        missing = []
        place = span.start
        for index in range(bisect_right(self._stops, span.start), len(self._starts)):
            start, stop = self._starts[index], self._stops[index]
            if start >= span.stop:
                break
            if start > place:
                missing.append(Span(place, start))
            place = stop
        if place < span.stop:
            missing.append(Span(place, span.stop))
        return missing


def coalesce(spans: Iterable[Span], gap: int) -> list[Span]:
    """Return ascending spans that cover `spans`, joined across gaps of at most `gap` bytes.

    >>> coalesce([Span(10, 20), Span(0, 4), Span(24, 30)], gap=4)
    [Span(start=0, stop=4), Span(start=10, stop=30)]
    """
    joined: list[Span] = []
    for span in sorted(span for span in spans if span.length > 0):
        if joined and span.start - joined[-1].stop <= gap:
            joined[-1] = Span(joined[-1].start, max(joined[-1].stop, span.stop))
        else:
            joined.append(span)
    return joined


def split(span: Span, parts: int, least: int) -> list[Span]:
    """Cut a span into at most `parts` nearly equal ones, none shorter than `least` bytes.

    >>> split(Span(0, 10), parts=4, least=3)
    [Span(start=0, stop=3), Span(start=3, stop=6), Span(start=6, stop=10)]
    """
    count = max(1, min(parts, span.length // least))
    edges = [span.start + span.length * index // count for index in range(count + 1)]
    return [Span(start, stop) for start, stop in pairwise(edges)]
