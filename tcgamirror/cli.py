"""The program: parse, call one command, exit code. Each command's module is imported when used."""

from __future__ import annotations

import os
import sys
import traceback
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
    "show": ("looking", "show"),
    "query": ("looking", "query"),
}
"""Module and function of each command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. The only place that catches everything."""
    try:
        given = options.parsed(arguments)
        module, function = _COMMANDS[given.command]
        command = getattr(import_module(f"tcgamirror.commands.{module}"), function)
        return int(command(given))
    except TcgaMirrorError as error:
        console.say(f"tcgamirror: {error}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        console.say("tcgamirror: interrupted")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` does; let Python's own flush not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.DONE)
    except Exception as error:  # noqa: BLE001
        return _bug(error)


def _bug(error: Exception) -> int:
    """One sentence for the user; what a developer needs only where it was asked for."""
    if os.environ.get("TCGAMIRROR_DEBUG"):
        traceback.print_exc()
    console.say(
        f"tcgamirror: a bug: {type(error).__name__}: {error}; nothing recorded is lost. Please "
        f"report it with what TCGAMIRROR_DEBUG=1 in the environment prints (version {__version__})"
    )
    return int(ExitCode.BUG)
