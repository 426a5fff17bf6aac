"""The program: parse, call one command, exit code. Each command's module is imported when used."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module

from tcgamirror import __version__, console, options
from tcgamirror.errors import ExitCode, TcgaMirrorError

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("making", "init"),
    "update": ("filling", "update"),
    "refresh": ("filling", "refresh"),
    "sample": ("filling", "sample"),
    "fetch": ("filling", "fetch"),
    "status": ("looking", "status"),
    "changes": ("looking", "changes"),
    "show": ("looking", "show"),
    "query": ("looking", "query"),
    "verify": ("keeping", "verify"),
    "rebuild": ("keeping", "rebuild"),
    "schedule": ("scheduling", "schedule"),
    "gallery": ("showing", "gallery"),
    "lock": ("showing", "lock"),
    "export": ("carrying", "export_mirror"),
    "import": ("carrying", "import_into"),
    "sync": ("publishing", "sync"),
    "serve": ("publishing", "serve"),
    "doctor": ("helping", "doctor"),
    "licenses": ("helping", "licenses"),
    "completion": ("helping", "completion"),
}
"""Module and function of each command."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. The only place that catches everything."""
    _open_streams()
    # What Pillow thinks of an image's tags is not for people: what is wrong is told in our words.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A µ or a path that the terminal's encoding lacks is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _ended(arguments)
    except TcgaMirrorError as error:
        console.say(f"tcgamirror: {error}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        console.say("tcgamirror: interrupted")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` does.
        _close_stdout()
        return int(ExitCode.DONE)
    except OSError as error:
        return _refused(error)
    except Exception as error:  # noqa: BLE001
        return _bug(error)


def _ended(arguments: Sequence[str] | None) -> int:
    try:
        given = options.parsed(arguments)
        module, function = _COMMANDS[given.command]
        command = getattr(import_module(f"tcgamirror.commands.{module}"), function)
        return int(command(given))
    finally:
        # Here, where a reader that has gone is no traceback yet; --help comes by too.
        sys.stdout.flush()


def _open_streams() -> None:
    """Has what was closed (`>&-`) lead nowhere.

    In this order each gets its own number back; else the catalogue might get it,
    and with it what a library writes to number 2.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def _close_stdout() -> None:
    """Has what is still to be written go nowhere, so that Python's own flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused(error: OSError) -> int:
    """What the system says of the user's own paths and disks is no mistake of this program."""
    if error.errno in _FULL:
        return _no_room(error)
    # Only now: help and version need no files.
    from tcgamirror.files import refusal

    told = refusal(error)
    if told is None:
        return _bug(error)
    console.say(f"tcgamirror: {told}")
    return int(told.exit_code)


def _no_room(error: OSError) -> int:
    """What is written by nothing that knows a name for it: in general the output itself."""
    _close_stdout()
    console.say(f"tcgamirror: no room to write {error.filename or 'the output'} ({error.strerror})")
    return int(ExitCode.NO_ROOM)


def _bug(error: Exception) -> int:
    """One sentence for the user; what a developer needs only where it was asked for."""
    if os.environ.get("TCGAMIRROR_DEBUG"):
        traceback.print_exc()
    console.say(
        f"tcgamirror: a bug: {type(error).__name__}: {error}; nothing recorded is lost. Please "
        f"report it with what TCGAMIRROR_DEBUG=1 in the environment prints (version {__version__})"
    )
    return int(ExitCode.BUG)
