"""The results that the bench wrote."""

from __future__ import annotations

from tests.bench.__main__ import RESULTS


def test_results_are_short_enough_to_read() -> None:
    assert len(RESULTS.read_text(encoding="utf-8").splitlines()) < 150
