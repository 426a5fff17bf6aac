"""Code that runs in the executable before the program, and hides how it was started.

The launcher unpacked the program and ran it by a loader of its own. The program's path
is the executable's.
"""

import io
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130


def exit_interrupted(_number: int, _frame: FrameType | None) -> None:
    """End the process at once: nothing has begun yet that needs cleaning up."""
    os._exit(INTERRUPTED)


def unblock_interrupts() -> None:
    """Let Ctrl-C end the program; the launcher blocked it while Python started."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, exit_interrupted)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def restore_environment(environment: "os._Environ[str]") -> None:
    """Remove from the environment what the launcher and PyInstaller's start added."""
    for name in [name for name in environment if name.startswith("_PYI_")]:
        del environment[name]
    path = environment.pop("_TCGAMIRROR_PATH", None)
    if path:
        sys.executable = sys.argv[0] = path


def set_encoding(setting: str) -> None:
    """Set the standard streams' encoding as PYTHONIOENCODING names it.

    PyInstaller's Python does not read this variable, which people set.
    """
    encoding, _, errors = setting.partition(":")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Python's own rule: stderr never fails.
            kept = stream.errors if stream is sys.stderr else errors or stream.errors
            with suppress(LookupError):
                stream.reconfigure(encoding=encoding or None, errors=kept)


unblock_interrupts()
restore_environment(os.environ)
set_encoding(os.environ.get("PYTHONIOENCODING", ""))
