"""The program: parse, call one command, exit code. Each command's module is imported when used."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from tcgamirror import __version__
from tcgamirror.cli import output, parser
from tcgamirror.model.errors import (
    Bug,
    DiskFull,
    ExitCode,
    Interrupted,
    TcgaMirrorError,
    lack_of_memory,
)

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("init", "init"),
    "update": ("update", "update"),
    "refresh": ("update", "refresh"),
    "sample": ("update", "sample"),
    "fetch": ("update", "fetch"),
    "status": ("status", "status"),
    "changes": ("status", "changes"),
    "show": ("status", "show"),
    "query": ("status", "query"),
    "verify": ("verify", "verify"),
    "rebuild": ("verify", "rebuild"),
    "schedule": ("schedule", "schedule"),
    "gallery": ("web", "gallery"),
    "lock": ("lock", "lock"),
    "export": ("transfer", "export_mirror"),
    "import": ("transfer", "import_into"),
    "sync": ("transfer", "sync"),
    "serve": ("web", "serve"),
    "doctor": ("support", "doctor"),
    "help": ("help", "help_topic"),
    "licenses": ("support", "licenses"),
    "completion": ("support", "completion"),
}
"""Module and function of each command."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def main(
    arguments: Sequence[str] | None = None, *, begins: Callable[[], None] = lambda: None
) -> int:
    """Run one command and return its exit code. The only place that catches everything.

    With --json, an error is told as one JSON object too, whatever the command and the error.

    Args:
        arguments: The command line without the program's name; None for the process's own.
        begins: Called when all is imported and the command begins.
    """
    _open_streams()
    # What Pillow thinks of an image's tags is not for people: what is wrong is told in our words.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A µ or a path that the terminal's encoding lacks is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else arguments
    # Looked for by itself: a command line that cannot be parsed has its error as JSON too.
    as_json = "--json" in words
    try:
        try:
            return _ended(words, begins)
        except BrokenPipeError:
            raise
        except TcgaMirrorError as error:
            told = error
        except KeyboardInterrupt:
            told = Interrupted("interrupted")
        except OSError as error:
            told = lack_of_memory(error) or _refusal(error)
        except Exception as error:  # noqa: BLE001
            told = lack_of_memory(error) or _bug(error)
        try:
            output.fail(told, as_json=as_json)
        except BrokenPipeError:
            raise
        except OSError:
            # The output itself may be what is full.
            _close_stdout()
            output.fail(told, as_json=False)
        return int(told.exit_code)
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` does.
        _close_stdout()
        return int(ExitCode.DONE)


def _ended(words: Sequence[str], begins: Callable[[], None]) -> int:
    try:
        given = parser.parsed(words)
        module, function = _COMMANDS[given.command]
        command = getattr(import_module(f"tcgamirror.cli.{module}"), function)
        begins()
        return int(command(given))
    except KeyboardInterrupt:
        # A reader that does not read on would keep the flush below waiting.
        if not select.select([], [sys.stdout], [], 0)[1]:
            _close_stdout()
        raise
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


def _refusal(error: OSError) -> TcgaMirrorError:
    """Return the error to tell: what the system says of the user's own paths is no bug."""
    if error.errno in _FULL:
        # Nothing that knows a name for it was writing: in general it is the output itself.
        _close_stdout()
        place = error.filename or "the output"
        return DiskFull(f"no room to write {place} ({error.strerror})")
    # Only now: help and version need no files.
    from tcgamirror.system.files import path_error

    return path_error(error) or _bug(error)


def _bug(error: Exception) -> Bug:
    """Return one sentence for the user; a developer gets the traceback where it was asked for."""
    if os.environ.get("TCGAMIRROR_DEBUG"):
        traceback.print_exception(error)
    return Bug(
        f"a bug: {type(error).__name__}: {error}; nothing recorded is lost. Please "
        f"report it with what TCGAMIRROR_DEBUG=1 in the environment prints (version {__version__})"
    )
