"""What the stand-in remembers of the requests it served."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from tests.gdc.answers import Host


@dataclass(slots=True)
class Record:
    """One request. It is entered when the request has been read and grows while it is served.

    time: seconds of `time.monotonic` at its arrival. ended: when the last bytes of the body that
    went so far were handed over, 0 if none were. path: with the query. range: the Range
    header. status: 0 until a status is sent, and for good if none is. bytes_sent: of the
    body. connection: a number of its own for each connection. fault: the kind of fault met.
    """

    time: float
    host: Host
    method: str
    path: str
    range: str | None
    connection: int
    status: int = 0
    bytes_sent: int = 0
    fault: str | None = None
    ended: float = 0.0


class Report:
    """Records of all hosts, safe to use from many threads."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._records: list[Record] = []

    @property
    def served(self) -> list[Record]:
        with self._lock:
            return list(self._records)

    def enter(self, record: Record) -> None:
        with self._lock:
            self._records.append(record)

    def requests(self, pattern: str = "", host: Host | None = None) -> list[Record]:
        """The requests whose path and query the pattern is found in."""
        found = re.compile(pattern)
        return [
            record
            for record in self.served
            if found.search(record.path) and host in (None, record.host)
        ]

    def bytes_sent(self, pattern: str = "", host: Host | None = None) -> int:
        """The bytes of all bodies sent for such requests."""
        return sum(record.bytes_sent for record in self.requests(pattern, host))

    def clear(self) -> None:
        with self._lock:
            self._records.clear()
