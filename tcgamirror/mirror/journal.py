"""Files of JSON objects, one a line, to which runs append: the log, and the records of shards."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path

from tcgamirror.model.errors import Damaged, UsageError
from tcgamirror.model.text import timestamp
from tcgamirror.system.files import disk_errors, sync


class Journal:
    """A file to which one run appends. A line is written whole or not at all.

    Every line has `time` (ISO 8601, UTC), `event`, and the fields of `head`.
    """

    def __init__(
        self, path: Path, remedy: str, head: Mapping[str, str], *, is_record: bool = False
    ) -> None:
        """Open the file at the beginning of a line, whether or not its last line is complete.

        Args:
            remedy: the last sentence of the UsageError that is raised if that fails.
            is_record: whether each line is forced to the disk, and no link is followed.
        """
        self._path = path
        self._head = head
        self._is_record = is_record
        flags = os.O_NOFOLLOW | os.O_NONBLOCK if is_record else 0
        try:
            with disk_errors(path):
                self._file = FileIO(
                    path, "a+", opener=lambda name, mode: os.open(name, mode | flags, 0o644)
                )
                self._end_line()
        except (UsageError, Damaged, OSError) as error:
            why = getattr(error.__cause__ or error, "strerror", None) or error
            raise UsageError(f"{path}: nothing can be appended to it ({why}). {remedy}") from error

    def close(self) -> None:
        self._file.close()

    def write(self, event: str, **fields: object) -> None:
        """Append a line. Raises as `disk_errors`."""
        values = {"time": timestamp(time.time()), "event": event, **self._head, **fields}
        # ASCII: what a terminal would obey, or takes for another direction of text, is escaped.
        line = json.dumps(values, ensure_ascii=True).encode() + b"\n"
        with disk_errors(self._path):
            size = self._file.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[self._file.write(line) :]
                if self._is_record:
                    sync(self._file.fileno())
            except OSError:
                with suppress(OSError):
                    self._file.truncate(size)
                raise

    def _end_line(self) -> None:
        if size := self._file.tell():
            self._file.seek(0)
            if self._file.read(1) != b"{":
                self._file.close()
                raise UsageError("it holds something else")
            self._file.seek(size - 1)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")
