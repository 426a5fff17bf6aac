"""The program as a person starts it: a process of its own, never waited for without end."""

from __future__ import annotations

import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tcgamirror.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
BINARY = "TCGAMIRROR_BINARY"
"""Names the environment variable that names the program to test instead of `main.py`."""

FROM_WITHIN = pytest.mark.skipif(
    BINARY in os.environ, reason="it changes the program from within, and not an executable"
)

ALMIGHTY = ("dac_override", "dac_read_search")
"""What lets root write what is read-only."""

TIMEOUT = 60.0
"""Seconds after which a command is taken to hang, and killed."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left: its exit code, negative for a signal, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on stderr. Fails if there are more, or none, or a traceback."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]

    def json(self) -> Any:
        """What stdout says as one line of JSON."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self.out
        return json.loads(self.out)


def pass_on_interrupts() -> None:
    """Have commands that the tests start obey SIGINT, though a background run ignores it.

    An ignored signal stays ignored in child processes; one that is handled does not.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda _number, _frame: None)


def program() -> list[str]:
    """The words that start the program."""
    binary = os.environ.get(BINARY)
    return shlex.split(binary) if binary else [sys.executable, str(ROOT / "main.py")]


def surroundings(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment and `env`, but for what would lead to a mirror or a proxy."""
    left_out = (
        "TCGAMIRROR",
        "TCGAMIRROR_DEBUG",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "COLUMNS",
        "LINES",
    )
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, **(env or {})}


def run(
    *args: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = TIMEOUT,
    by: Sequence[str] = (),
) -> Result:
    """Runs one command to its end.

    env: on top of this process's own. timeout: seconds. by: words that come before the program.
    """
    return finished([*by, *program(), *map(str, args)], surroundings(env), cwd, timeout)


def finished(
    words: Sequence[str], env: Mapping[str, str], cwd: Path | None, timeout: float
) -> Result:
    """Run any command to its end, in exactly that environment."""
    ended = subprocess.run(
        words,
        env=env,
        cwd=cwd,
        timeout=timeout,
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


def succeeded(*args: str | Path, **options: Any) -> Result:
    """As `run`, for what has to end well and say nothing on stderr."""
    result = run(*args, **options)
    assert (result.code, result.err) == (0, ""), result
    return result


def inside(*args: str | Path) -> Result:
    """Run one command in this process, for tests of many small commands.

    The executable under test, if there is one, is started instead.
    """
    if BINARY in os.environ:
        return run(*args)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    written, err = io.BytesIO(), io.StringIO()
    out = io.TextIOWrapper(written, encoding="utf-8", write_through=True)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main([*map(str, args)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Result(code, written.getvalue().decode(), err.getvalue())


def went_well(*args: str | Path) -> Result:
    """Run a command by `inside` that has to succeed and write nothing to stderr."""
    result = inside(*args)
    assert (result.code, result.err) == (0, ""), result
    return result


def ordinary() -> Sequence[str]:
    """Words before the program that have it obey permissions, though root runs the tests."""
    without = ",".join(f"-{power}" for power in ALMIGHTY)
    as_root = ("setpriv", f"--bounding-set={without}", f"--inh-caps={without}")
    return as_root if os.geteuid() == 0 else ()


def on_a_terminal(
    columns: int, *args: str | Path, env: Mapping[str, str] | None = None, code: int = 0
) -> str:
    """Run one command that has to end with a code on a terminal; return all that it shows there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    command = [*program(), *map(str, args)]
    with subprocess.Popen(
        command, env=surroundings(env), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        # Linux says by an error that the other end is closed.
        with suppress(OSError):
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert process.returncode == code, shown
    return shown.decode()


@contextmanager
def started(*args: str | Path, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A command that runs meanwhile; killed at the end of the block if it still does."""
    # A terminal sends Ctrl-C to a whole group: one of its own keeps it from the tests.
    process = subprocess.Popen(
        [*program(), *map(str, args)],
        env=surroundings(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def opened(pid: int) -> set[str]:
    """The real paths of what a process has open."""
    return {os.path.realpath(handle) for handle in Path(f"/proc/{pid}/fd").iterdir()}


def ended(process: subprocess.Popen[str], timeout: float = TIMEOUT) -> Result:
    """What a started command leaves, after at most `timeout` seconds."""
    out, err = process.communicate(timeout=timeout)
    return Result(process.returncode, out, err)


def killed(*args: str | Path, after: float) -> None:
    """Run the program, and kill it after so many seconds."""
    with started(*args) as process:
        time.sleep(after)
        process.kill()
        process.wait()
