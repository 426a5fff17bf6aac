"""Spans and sets of them, against plain sets of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tcgamirror.model.byteranges import Span, SpanSet, coalesce, split

PLACES = st.integers(0, 60)
SPANS = st.tuples(PLACES, st.integers(0, 20)).map(lambda at: Span(at[0], at[0] + at[1]))
SOME_SPANS = st.lists(SPANS, max_size=12)


def bytes_of(*spans: Span) -> set[int]:
    return {place for span in spans for place in range(span.start, span.stop)}


def is_ascending_and_apart(spans: list[Span]) -> bool:
    return all(span.length > 0 for span in spans) and all(
        one.stop < other.start for one, other in pairwise(spans)
    )


@given(SOME_SPANS)
def test_a_span_set_holds_what_was_added(spans: list[Span]) -> None:
    made = SpanSet(spans)
    assert made == SpanSet(reversed(spans))
    assert bytes_of(*made) == bytes_of(*spans)
    assert made.total == len(bytes_of(*spans))
    assert is_ascending_and_apart(list(made))


@given(SOME_SPANS, SPANS)
def test_gaps_are_what_the_set_lacks_of_a_span(spans: list[Span], wanted: Span) -> None:
    gaps = SpanSet(spans).gaps(wanted)
    assert bytes_of(*gaps) == bytes_of(wanted) - bytes_of(*spans)
    assert is_ascending_and_apart(gaps)
    filled = SpanSet([*spans, *gaps])
    assert not filled.gaps(wanted)
    assert bytes_of(*filled) == bytes_of(wanted, *spans)


@given(SOME_SPANS, st.integers(0, 9))
def test_coalesced_spans_cover_all_and_only_small_gaps_more(spans: list[Span], gap: int) -> None:
    joined = coalesce(spans, gap)
    assert bytes_of(*joined) >= bytes_of(*spans)
    assert all(after.start - before.stop > gap for before, after in pairwise(joined))
    for extra in SpanSet(spans).gaps(Span(0, 100)):
        covered = bytes_of(extra) & bytes_of(*joined)
        assert not covered or (covered == bytes_of(extra) and extra.length <= gap)


@given(SPANS, st.integers(1, 8), st.integers(1, 8))
def test_parts_are_nearly_equal_few_and_long_enough(span: Span, parts: int, least: int) -> None:
    cut = split(span, parts, least)
    assert 1 <= len(cut) <= parts
    assert (cut[0].start, cut[-1].stop) == (span.start, span.stop)
    assert all(one.stop == other.start for one, other in pairwise(cut))
    lengths = [part.length for part in cut]
    assert max(lengths) - min(lengths) <= 1
    assert len(cut) == 1 or min(lengths) >= least
