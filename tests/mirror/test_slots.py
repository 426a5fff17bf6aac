"""Slides in flight: more while cores idle and more bytes come, and no more for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tcgamirror.mirror import fetch
from tcgamirror.mirror.settings import Bounds
from tcgamirror.mirror.slots import Slots
from tests.gdc import StandIn
from tests.support.command import FROM_WITHIN
from tests.support.mirrors import filled

SLIDE = 1_000_000
"""Bytes of each slide."""


@dataclass
class Machine:
    """Slides' way: `seconds` in the network, by a link, then to a core that takes `core` of them.

    The run is as fast as the narrowest of them.
    """

    seconds: float = 1.0
    link: float = float("inf")
    core: float = 0.0

    def rate(self, in_flight: int) -> float:
        """Slides a second with so many in flight."""
        most = 1 / self.core if self.core else float("inf")
        return min(in_flight / self.seconds, self.link / SLIDE, most)

    def counts(self, slots: Callable[[Callable[[], float]], Slots], slides: int) -> list[int]:
        """The slots after each slide of a run."""
        now = 0.0
        run, counts = slots(lambda: now), []
        for ended in range(1, slides + 1):
            now += 1 / self.rate(run.count)
            run.add_ended(1, busy_seconds=ended * self.core, bytes_moved=ended * SLIDE)
            counts.append(run.count)
        return counts


def from_8_to_32(clock: Callable[[], float]) -> Slots:
    return Slots(8, 32, clock)


def test_they_grow_to_the_most_while_the_network_is_slow_and_wide() -> None:
    assert Machine(seconds=3.0).counts(from_8_to_32, 48)[-1] == 32


def test_they_grow_to_the_most_though_it_is_hardly_more() -> None:
    machine = Machine(seconds=3.0)
    assert machine.counts(lambda clock: Slots(8, 10, clock), 200)[-1] == 10


def test_they_stay_where_the_cores_are_busy() -> None:
    assert set(Machine(seconds=0.4, core=0.1).counts(from_8_to_32, 200)) == {8}
    assert max(Machine(seconds=1.0, core=0.1).counts(from_8_to_32, 200)) == 16


def test_they_return_where_a_link_is_full_and_try_again_later() -> None:
    counts = Machine(link=5 * SLIDE).counts(from_8_to_32, 1000)
    assert set(counts) == {8, 16}
    assert 0.6 < counts.count(8) / len(counts) < 0.8
    grown = [one for one, before in zip(counts[1:], counts, strict=False) if one > before]
    assert len(grown) > 5


def test_a_link_that_widens_is_used() -> None:
    machine = Machine(link=5 * SLIDE)

    def slots(clock: Callable[[], float]) -> Slots:
        machine.link = float("inf")
        return from_8_to_32(clock)

    assert machine.counts(slots, 100)[-1] == 32


@pytest.mark.parametrize("good", [0, 8])
def test_they_are_no_more_where_nothing_comes(good: int) -> None:
    """From the start, or since the first slides, as from a host that refuses more."""
    now = 0.0
    slots, counts = from_8_to_32(lambda: now), []
    for ended in range(1, 200):
        now += 1
        slots.add_ended(1, busy_seconds=0, bytes_moved=min(ended, good) * SLIDE)
        counts.append(slots.count)
    assert set(counts[24:]) == {8}


@pytest.mark.parametrize("number", [1, 5, 64])
def test_a_set_number_is_kept(number: int) -> None:
    counts = Machine(seconds=3.0).counts(lambda clock: Slots(number, number, clock), 300)
    assert set(counts) == {number}


def test_a_first_slide_alone_is_followed_by_as_many_as_without_it() -> None:
    assert Slots(8, 8, alone=True).count == 1
    machine = Machine(seconds=3.0)
    assert set(machine.counts(lambda clock: Slots(8, 8, clock, alone=True), 300)) == {8}
    counts = machine.counts(lambda clock: Slots(8, 32, clock, alone=True), 49)
    assert (counts[0], counts[-1]) == (8, 32)


@FROM_WITHIN
def test_an_update_has_more_slides_in_flight_than_at_first(
    small_gdc: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "worker_bounds", lambda _: Bounds(1, 4))
    small_gdc.delay = 0.05
    filled(tmp_path / "m", small_gdc, slides=12)
    spans: dict[str, tuple[float, float]] = {}
    for record in small_gdc.served:
        if record.path.endswith(".svs"):
            began, ended = spans.get(record.path, (record.time, 0.0))
            spans[record.path] = began, max(ended, record.ended or 0.0)
    in_order = sorted(spans.values())
    assert len(in_order) == 12 and in_order[0][1] < in_order[1][0]
    assert any(later[0] < earlier[1] for earlier, later in pairwise(in_order))
