"""How a run is stopped: also where the signal meets the main thread inside the event's own lock."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tcgamirror.system.interrupt import Shutdown

SIGNALLED_INSIDE_THE_LOCK = """
import os, signal, sys
from tcgamirror.system.interrupt import Shutdown
shutdown = Shutdown()
shutdown.in_flight = 1
shutdown.install_handlers()
with shutdown.stop._cond:
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
        # Bytecodes, between which the handler runs.
        sum(range(1000))
assert shutdown.stop.wait(10)
assert shutdown.requested and not shutdown.draining
"""


@pytest.mark.parametrize("signals", [["15"], ["2", "2"]])
def test_a_signal_inside_the_events_lock_blocks_nothing(signals: list[str]) -> None:
    words = [sys.executable, "-c", SIGNALLED_INSIDE_THE_LOCK, *signals]
    subprocess.run(words, timeout=30, check=True)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    code = """
import signal
from tcgamirror.system.interrupt import Shutdown
signal.signal(signal.SIGINT, signal.SIG_IGN)
shutdown = Shutdown()
shutdown.install_handlers()
signal.raise_signal(signal.SIGINT)
assert not shutdown.requested
shutdown.restore_handlers()
signal.raise_signal(signal.SIGINT)
shutdown.install_handlers()
signal.raise_signal(signal.SIGTERM)
assert shutdown.requested
"""
    subprocess.run([sys.executable, "-c", code], timeout=30, check=True)


def test_a_press_waits_for_what_is_in_hand_and_the_next_one_does_not() -> None:
    shutdown = Shutdown()
    shutdown.in_flight = 1
    shutdown.request()
    assert shutdown.requested and shutdown.draining and not shutdown.stop.is_set()
    shutdown.request()
    assert not shutdown.draining and shutdown.stop.is_set()


def test_a_press_while_nothing_is_in_hand_stops_at_once() -> None:
    shutdown = Shutdown()
    shutdown.request()
    assert shutdown.stop.is_set() and not shutdown.draining
