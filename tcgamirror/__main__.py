"""The program's start: also `python -m tcgamirror`, the installed command and the executable.

Ctrl-C and SIGTERM end the process at once while there is nothing to tidy up: while modules
are imported, and after the command. Python's own handler would raise in the middle of an
import, and print a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

WRONG_USE, NO_MEMORY, INTERRUPTED = 2, 6, 130


def main() -> NoReturn:
    """Run the command line and end the process with its exit code.

    Python's own end takes 0.04 s for what the system does anyway, and waits for every thread.
    """
    code = _run()
    # Closed streams are None. What does not go out was reported, or has no reader.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _run() -> int:
    if sys.platform == "win32":
        sys.stderr.write(
            "tcgamirror: Windows is not supported. Run it in the Windows Subsystem for Linux, "
            "which `wsl --install` installs\n"
        )
        return WRONG_USE
    try:
        _set_handler(_leave)
        # Products of matrices are too small for threads, each of which would take memory.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # Only now: these imports take most of the start.
        from tcgamirror.cli.main import main as run

        return run(begins=_begin)
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        sys.stderr.write("tcgamirror: not enough memory to start. Allow more\n")
        return NO_MEMORY
    finally:
        _set_handler(_leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _begin() -> None:
    """Begin a command, which may have to tidy up: have both signals raise KeyboardInterrupt."""
    _set_handler(signal.default_int_handler)
    from tcgamirror.system.memory import guard_imports

    guard_imports()


def _set_handler(handler: Callable[[int, FrameType | None], object]) -> None:
    """Set what Ctrl-C and SIGTERM do, unless they are ignored, as Ctrl-C is for `command &`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
