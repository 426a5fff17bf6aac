"""How a run is stopped in order: by Ctrl-C, by a signal, by what ends every slide."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Brake:
    """Pressed once, no further slide begins; pressed again, those in hand are let go.

    stop: set when waits and transfers are to end at once. in_hand: slides being
    fetched; while there are none the first press ends the run at once.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.in_hand = 0
        self._pressed = False

    @property
    def pressed(self) -> bool:
        return self._pressed

    def press(self) -> None:
        if self._pressed or not self.in_hand:
            self.stop.set()
        self._pressed = True

    def press_hard(self) -> None:
        """Lets go of the slides in hand, too."""
        self._pressed = True
        self.stop.set()

    def listen(self) -> None:
        """Has Ctrl-C press, and a request to terminate press hard. For the main thread."""
        signal.signal(signal.SIGINT, self._interrupted)
        signal.signal(signal.SIGTERM, self._interrupted)

    def _interrupted(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.press()
        else:
            self.press_hard()
