"""The log of runs for other programs: one JSON object a line, in ASCII.

`begin` and `end` of each run, `listing` for each listing merged, `slide` for
each slide that ended. Every line has `time` (ISO 8601, UTC) and `event`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from tcgamirror import __version__
from tcgamirror.catalogue.listing import MergeCounts
from tcgamirror.model.errors import (
    Damaged,
    DiskFull,
    ExitCode,
    Interrupted,
    TcgaMirrorError,
    UsageError,
)
from tcgamirror.model.slide import Outcome
from tcgamirror.model.text import timestamp
from tcgamirror.system.files import disk_errors

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<rest>[^\s'\"<>]*)", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Return the text with user, password, query and fragment removed from each address.

    >>> without_secrets("no answer from https://me:pw@host/data/1?token=x, sorry")
    'no answer from https://host/data/1 sorry'
    """
    return _ADDRESS.sub(_bare, text)


def _bare(match: re.Match[str]) -> str:
    host, slash, path = match["rest"].partition("/")
    plain = re.split("[?#]", host.rpartition("@")[2] + slash + path, maxsplit=1)[0]
    return match["scheme"] + plain


class EventLog:
    """The log of one run. Without a file it writes nothing.

    Its end as a context manager writes the run's end, with the exit code. On a full
    disk a write raises DiskFull, and nothing more is written.
    """

    def __init__(self, path: Path | None, command: str) -> None:
        """Open the file for appending. Raises UsageError or DiskFull if that fails."""
        self._path = path
        self._command = command
        self._begun = time.time()
        self._done = self._failed = self._bytes = 0
        self._left: int | None = None
        self._error: TcgaMirrorError | None = None
        self._file = None if path is None else _opened(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._end(error or self._error)
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None

    def begin(self, target: str, workers: int, release: str | None) -> None:
        """Write that the run holds the lock. target: of the images, in words."""
        self._write(
            "begin",
            version=__version__,
            target=target,
            workers=workers,
            data_release=release,
        )

    def add_listing(self, release: str | None, merged: MergeCounts) -> None:
        """Write that a listing was merged."""
        self._write("listing", data_release=release, **dataclasses.asdict(merged))

    def add_slide(self, outcome: Outcome) -> None:
        """Write the outcome of a slide, with bytes, seconds and requests of all sources tried."""
        attempts, last = outcome.attempts, outcome.attempts[-1] if outcome.attempts else None
        moved, is_done = sum(each.bytes_fetched for each in attempts), outcome.picture is not None
        self._bytes += moved
        self._done += is_done
        self._failed += not is_done
        self._write(
            "slide",
            file_name=outcome.slide.file_name,
            file_id=outcome.slide.file_id,
            status="done" if is_done else "failed",
            source=last.source if last else None,
            bytes=moved,
            seconds=round(sum(attempt.seconds for attempt in attempts), 3),
            requests=sum(attempt.requests for attempt in attempts),
            fault=last.fault if last else None,
            message=last.message if last else None,
        )

    def finish(self, left: int, error: TcgaMirrorError | None) -> None:
        """Note that the run completed.

        left: slides for the next run. error: of the listing, if the run went on without.
        """
        self._left, self._error = left, error

    def _end(self, error: BaseException | None) -> None:
        code = exit_code_of(error, failed=bool(self._failed))
        try:
            self._write(
                "end",
                exit_code=int(code),
                done=self._done,
                failed=self._failed,
                left=self._left,
                bytes=self._bytes,
                seconds=round(time.time() - self._begun, 3),
                error=None if error is None else str(error),
            )
        except DiskFull:
            # What ended the run comes first; without it, the full disk does.
            if error is None:
                raise

    def _write(self, event: str, **fields: object) -> None:
        if self._file is None or self._path is None:
            return
        values = {
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        head = {"time": timestamp(time.time()), "event": event, "command": self._command}
        # ASCII: what a terminal would obey, or takes for another direction of text, is escaped.
        line = json.dumps({**head, **values}, ensure_ascii=True).encode() + b"\n"
        try:
            with disk_errors(self._path):
                self._file.write(line)
        except BaseException:
            self._file.close()
            self._file = None
            raise


def exit_code_of(error: BaseException | None, *, failed: bool) -> ExitCode:
    """Return the exit code of a run. error: that ended it. failed: whether any slide failed."""
    if isinstance(error, TcgaMirrorError):
        return error.exit_code
    if error is not None:
        stopped = isinstance(error, KeyboardInterrupt)
        return Interrupted.exit_code if stopped else ExitCode.BUG
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _opened(path: Path) -> FileIO:
    """Open the file at the beginning of a line, whether or not its last line is complete."""
    try:
        with disk_errors(path):
            file = path.open("a+b", buffering=0)
            if size := file.tell():
                file.seek(0)
                if file.read(1) != b"{":
                    file.close()
                    raise UsageError("it holds something else")
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            return file
    except (UsageError, Damaged, OSError) as error:
        why = getattr(error.__cause__ or error, "strerror", None) or error
        raise UsageError(
            f"{path}: no log can be written to it ({why}). Name another file by --log"
        ) from error
