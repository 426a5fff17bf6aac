"""The program: parse the command line, run one command, return its exit code."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror import __version__
from tcgamirror.cli import output
from tcgamirror.cli.parser import handler, parse
from tcgamirror.model.errors import (
    Bug,
    DiskFull,
    ExitCode,
    NetworkError,
    TcgaMirrorError,
    lack_of_memory,
)
from tcgamirror.model.text import command_line

if TYPE_CHECKING:
    import argparse

    from _typeshed import ReadableBuffer


def main(
    arguments: Sequence[str] | None = None, *, begins: Callable[[], None] = lambda: None
) -> int:
    """Run one command and return its exit code; no other function catches every error.

    With --json, an error is printed as one JSON object too.

    Args:
        arguments: The command line without the program's name; None for that of the process.
        begins: Called when the command line is parsed and the command begins.
    """
    _open_streams()
    # Pillow's warnings about an image's tags do not help users; the program checks tags itself.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal's encoding lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else arguments
    # Not parsed, so that errors of parsing are JSON too.
    as_json = "--json" in words
    try:
        return _run(words, begins)
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does.
        _close_stdout()
        return int(ExitCode.DONE)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        failure = _failure(error)
    try:
        output.fail(failure, as_json=as_json)
    except OSError:
        # The output itself may be what is full, or nobody reads it.
        _close_stdout()
        output.fail(failure, as_json=False)
    return int(failure.exit_code)


def _run(arguments: Sequence[str], begins: Callable[[], None]) -> int:
    try:
        args = parse(arguments)
        begins()
        try:
            return int(handler(args.command)(args))
        except NetworkError as error:
            # The doctor knows the GDC's servers, not what sync reads, nor a Dask scheduler.
            if args.command != "sync" and getattr(args, "dask", None) is None:
                error.add_note(f"Find the cause by {_doctor(args)}")
            raise
    except KeyboardInterrupt:
        # The flush below would wait for a reader that stopped reading.
        import select

        if not select.select([], [sys.stdout], [], 0)[1]:
            _close_stdout()
        raise
    finally:
        # Here errors of the output are still reported; the flush at the process's end is silent.
        sys.stdout.flush()


def _doctor(args: argparse.Namespace) -> str:
    """Return the command that looks at the servers that a command asked."""
    import shlex

    from tcgamirror.cli.common import named_mirror
    from tcgamirror.mirror.eventlog import without_secrets

    words = ["doctor"]
    for name in ("api", "tiles", "bucket"):
        if value := getattr(args, name, None):
            words += [f"--{name}", without_secrets(value)]
    return command_line(shlex.join(words), named_mirror(args) or Path())


class _Messages(io.FileIO):
    """The process's stderr, which loses what it cannot write, so that no message ends a run.

    The terminal may have been closed, the log's disk be full, or its reader have ended.
    """

    def write(self, data: ReadableBuffer) -> int:
        # None is the result for a reader that is late and must not be waited for.
        written: int | None = None
        with suppress(OSError):
            written = super().write(data)
        return memoryview(data).nbytes if written is None else written


def _open_streams() -> None:
    """Open closed streams (`>&-`) on /dev/null, and stderr so that it raises no error.

    In this order each gets its own number back. Otherwise the catalogue could get number 2,
    to which libraries write.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    own = sys.__stderr__
    # A caller within this process may have set another one.
    if own is not None and own is sys.stderr:
        raw = io.BufferedWriter(_Messages(own.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, own.encoding, own.errors, line_buffering=True)


def _close_stdout() -> None:
    """Send unwritten output to /dev/null, so that no later flush fails or waits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failure(error: BaseException) -> TcgaMirrorError:
    """Return the error to report: a user's, one of the user's own paths, or a bug.

    Print a bug's traceback if TCGAMIRROR_DEBUG is set.
    """
    # First, because an import takes memory.
    if (memory := lack_of_memory(error)) is not None:
        return memory
    from tcgamirror.system.files import known_failure

    if (failure := known_failure(error)) is not None:
        if isinstance(failure, DiskFull) and failure is not error:
            # Files of the mirror have an error of their own, so it is the output.
            _close_stdout()
        return failure
    if os.environ.get("TCGAMIRROR_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return Bug(
        f"a bug: {type(error).__name__}: {error}; nothing recorded is lost. Please "
        f"report it with what TCGAMIRROR_DEBUG=1 in the environment prints (version {__version__})"
    )
