"""The bench's own arithmetic."""

from __future__ import annotations

import pytest

from tests.bench.network import count_rounds
from tests.gdc.report import Record

ONE_AFTER_ANOTHER = [(0, 1), (1, 2), (5, 6)]
SIDE_BY_SIDE = [(0, 3), (1, 4), (2, 5)]
WHILE_A_LONG_ONE_LASTS = [(0, 10), (0, 1), (2, 3), (4, 5)]
ONE_ANSWERED = [(0, 0), (1, 2), (3, 0)]
A_LATE_ONE_OVERLAPS_TWO = [(0, 2), (1, 4), (3, 6), (4, 7)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], 0),
        (ONE_AFTER_ANOTHER, 3),
        (SIDE_BY_SIDE, 1),
        (WHILE_A_LONG_ONE_LASTS, 3),
        (ONE_ANSWERED, 1),
        (A_LATE_ONE_OVERLAPS_TWO, 2),
    ],
)
def test_rounds_are_the_longest_chain(times: list[tuple[float, float]], expected: int) -> None:
    served = [Record(begun, "bucket", "GET", "/a", None, 1, ended=ended) for begun, ended in times]
    assert count_rounds(reversed(served)) == expected
