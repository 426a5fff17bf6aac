"""Runs in the executable before the program, and hides how that was started.

The launcher unpacked it and ran it by a loader of its own. What the program
starts in turn (ssh, a pager) is the host's and must not meet our libraries,
and whoever asks Python for the program's path means the executable's.
"""

import io
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130


def leave(_number: int, _frame: FrameType | None) -> None:
    """End the process at once: nothing has begun yet that would have to be tidied up."""
    os._exit(INTERRUPTED)


def let_interrupts_through() -> None:
    """Have Ctrl-C, which the launcher has held up since Python began to start, end the program."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def restore(environment: "os._Environ[str]") -> None:
    """Takes out of the environment what PyInstaller's start put in."""
    before = environment.pop("LD_LIBRARY_PATH_ORIG", None)
    environment.pop("LD_LIBRARY_PATH", None)
    if before is not None:
        environment["LD_LIBRARY_PATH"] = before
    for name in [name for name in environment if name.startswith("_PYI_")]:
        del environment[name]
    path = environment.pop("_TCGAMIRROR_PATH", None)
    if path:
        sys.executable = sys.argv[0] = path


def speak(wanted: str) -> None:
    """Gives the standard streams the encoding that Python's own variable names.

    PyInstaller's Python reads no such variables, and of them this is one that people set.
    """
    encoding, _, errors = wanted.partition(":")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # As Python itself, which has stderr never fail.
            kept = stream.errors if stream is sys.stderr else errors or stream.errors
            with suppress(LookupError):
                stream.reconfigure(encoding=encoding or None, errors=kept)


let_interrupts_through()
restore(os.environ)
speak(os.environ.get("PYTHONIOENCODING", ""))
# What `ps` and `top` show; it would be the loader's name.
with suppress(OSError), open("/proc/self/comm", "w") as name_shown:  # noqa: PTH123
    name_shown.write("tcgamirror")
