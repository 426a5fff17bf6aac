"""Start the program, as `python -m tcgamirror`, the installed command, or the executable.

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

# Values of `ExitCode`, whose module is not imported yet.
WRONG_USE, NO_MEMORY, INTERRUPTED = 2, 6, 130


def main() -> NoReturn:
    """Run the command line and end the process with its exit code.

    Python's own end would take 0.04 s to free what the system frees anyway. It would also wait
    for every thread.
    """
    code = _run()
    # A closed stream is None. An error of output was reported before, or nobody reads the output.
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
        # Its threads take memory, and the matrices multiplied here are too small for them.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # Imported after the handler is set, because it takes most of the start.
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
    """Prepare signals and imports for a command.

    Both signals raise KeyboardInterrupt from now on, because the command may have to tidy up.
    """
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
