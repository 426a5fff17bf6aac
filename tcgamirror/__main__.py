"""The program's start: also `python -m tcgamirror`, the installed command and the executable.

Ctrl-C ends the process at once while there is nothing to tidy up: while modules are
imported, and after the command. Python's own handler would raise in the middle of
an import, and print a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

NO_MEMORY, INTERRUPTED = 6, 130


def main() -> int:
    """Run the command line and return the exit code."""
    try:
        _set_handler(_leave)
        # numpy's linear algebra is not used, but would take memory for each of its threads.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # Only now: these imports take most of the start.
        from tcgamirror.cli.main import main as run

        return run(begins=_give_back)
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        sys.stderr.write("tcgamirror: not enough memory to start. Allow more\n")
        return NO_MEMORY
    finally:
        _set_handler(_leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _give_back() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again, for a command that may have to tidy up."""
    _set_handler(signal.default_int_handler)


def _set_handler(handler: Callable[[int, FrameType | None], object]) -> None:
    """Set what Ctrl-C does, unless the caller has it ignored, as a shell does for `command &`."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


if __name__ == "__main__":
    sys.exit(main())
