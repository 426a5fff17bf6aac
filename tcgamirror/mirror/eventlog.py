"""The log of runs for other programs.

Its lines are `begin` and `end` of each run, `listing` for each listing merged, `slide` for
each slide that ended.
"""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tcgamirror import __version__
from tcgamirror.catalogue.listing import MergeCounts
from tcgamirror.mirror.journal import Journal
from tcgamirror.model.errors import DiskFull, ExitCode, TcgaMirrorError
from tcgamirror.model.slide import Outcome
from tcgamirror.system.files import exit_code_of, known_failure

_ADDRESS = re.compile(
    r"([a-z][a-z0-9+.-]*://)(?:[^\s'\"<>/]*@)?([^\s'\"<>?#]*)[^\s'\"<>]*", re.IGNORECASE
)


def without_secrets(text: str) -> str:
    """Return the text with user, password, query and fragment removed from each address.

    >>> without_secrets("no answer from https://me:pw@host/data/1?token=x, sorry")
    'no answer from https://host/data/1 sorry'
    """
    return _ADDRESS.sub(r"\1\2", text)


class EventLog:
    """The log of one run. Without a file it writes nothing. On a full disk it raises DiskFull.

    Its end as a context manager writes the run's end, with the exit code.
    """

    def __init__(self, path: Path | None, command: str) -> None:
        """Open the file for appending. Raises UsageError if that fails."""
        self._journal = None
        if path is not None:
            self._journal = Journal(path, "Name another file by --log", {"command": command})
        self._begun = time.time()
        self._done = self._failed = self._bytes = 0
        self._left: int | None = None
        self._error: TcgaMirrorError | None = None

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
            if self._journal is not None:
                self._journal.close()

    def begin(self, target: str, workers: int, release: str | None) -> None:
        """Write that the run holds the lock. target: of the images, in words."""
        about = {"version": __version__, "target": target, "workers": workers}
        self._write("begin", **about, data_release=release)

    def add_listing(self, release: str | None, merged: MergeCounts) -> None:
        """Write that a listing was merged."""
        self._write("listing", data_release=release, **dataclasses.asdict(merged))

    def add_slide(self, outcome: Outcome) -> None:
        """Write the outcome of a slide, with bytes, seconds and requests of all sources tried."""
        attempts, last = outcome.attempts, outcome.attempts[-1]
        moved, is_done = sum(each.bytes_fetched for each in attempts), outcome.picture is not None
        self._bytes += moved
        self._done += is_done
        self._failed += not is_done
        self._write(
            "slide",
            file_name=outcome.slide.file_name,
            file_id=outcome.slide.file_id,
            status="done" if is_done else "failed",
            source=last.source,
            bytes=moved,
            seconds=round(sum(attempt.seconds for attempt in attempts), 3),
            requests=sum(attempt.requests for attempt in attempts),
            fault=last.fault,
            message=last.message,
        )

    def finish(self, left: int, error: TcgaMirrorError | None) -> None:
        """Note that the run completed.

        left: slides for the next run. error: of the listing, if the run went on without.
        """
        self._left, self._error = left, error

    def _end(self, error: BaseException | None) -> None:
        try:
            self._write(
                "end",
                exit_code=int(self._exit_code(error)),
                done=self._done,
                failed=self._failed,
                left=self._left,
                bytes=self._bytes,
                seconds=round(time.time() - self._begun, 3),
                error=None if error is None else str(known_failure(error) or error),
            )
        except DiskFull:
            # What ended the run comes first; without it, the full disk does.
            if error is None:
                raise

    def _exit_code(self, error: BaseException | None) -> ExitCode:
        if error is not None:
            return exit_code_of(error)
        return ExitCode.SOME_FAILED if self._failed else ExitCode.DONE

    def _write(self, event: str, **fields: object) -> None:
        if self._journal is None:
            return
        values = {
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        self._journal.write(event, **values)
