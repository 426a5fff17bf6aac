"""How a run is stopped: also where the signal meets the main thread inside the event's own lock."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tcgamirror.system.interrupt import Brake

SIGNALLED_INSIDE_THE_LOCK = """
import os, signal, sys
from tcgamirror.system.interrupt import Brake
brake = Brake()
brake.in_hand = 1
brake.listen()
with brake.stop._cond:
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
        # Bytecodes, between which the handler runs.
        sum(range(1000))
assert brake.stop.wait(10)
assert brake.pressed and not brake.waits
"""


@pytest.mark.parametrize("signals", [["15"], ["2", "2"]])
def test_a_signal_inside_the_events_lock_blocks_nothing(signals: list[str]) -> None:
    words = [sys.executable, "-c", SIGNALLED_INSIDE_THE_LOCK, *signals]
    subprocess.run(words, timeout=30, check=True)


def test_a_press_waits_for_what_is_in_hand_and_the_next_one_does_not() -> None:
    brake = Brake()
    brake.in_hand = 1
    brake.press()
    assert brake.pressed and brake.waits and not brake.stop.is_set()
    brake.press()
    assert not brake.waits and brake.stop.is_set()


def test_a_press_while_nothing_is_in_hand_stops_at_once() -> None:
    brake = Brake()
    brake.press()
    assert brake.stop.is_set() and not brake.waits
