"""Answers going out over a connection, well or badly."""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from itertools import chain, repeat
from pathlib import Path

from tests.gdc.answers import Answer, Body, Content
from tests.gdc.faults import Fault
from tests.gdc.report import Record
from tests.gdc.shaping import Pace, Shaping

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_WRONG_LENGTHS: Mapping[str | None, Callable[[int], int]] = {
    "length-too-large": lambda length: length + 1000,
    "length-too-small": lambda length: max(0, length - 1000, length // 2),
}
_SPOILS = frozenset({"reset-mid-body", "cut", "stall", "drip", "endless-body", "length-too-large"})


class StoppingError(Exception):
    """The stand-in stops while something is being sent."""


def reset_on_close(connection: socket.socket) -> None:
    """Lets the close of this connection be a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def is_reset_on_close(connection: socket.socket) -> bool:
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET_ON_CLOSE))
    return option == _RESET_ON_CLOSE


def is_read(connection: socket.socket) -> bool:
    """Return whether the other end, on the same machine, has read all that was sent or has gone."""
    with suppress(OSError):
        own, other = connection.getsockname()[1], connection.getpeername()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, queues, *_ = line.split()
            ports = tuple(int(address.split(":")[1], 16) for address in (local, remote))
            unsent, unread = (int(count, 16) for count in queues.split(":"))
            if (ports == (own, other) and unsent) or (ports == (other, own) and unread):
                return False
    return True


class Wire:
    """One connection, and what is waited for on it. Every wait ends when the server stops."""

    def __init__(
        self, connection: socket.socket, shaping: Shaping, stopping: threading.Event
    ) -> None:
        self._connection = connection
        self._shaping = shaping
        self._stopping = stopping
        self._pace = Pace()

    def wait(self, seconds: float) -> None:
        if seconds > 0 and self._stopping.wait(seconds):
            raise StoppingError

    def send(self, answer: Answer, record: Record, fault: Fault | None, *, closing: bool) -> bool:
        """Send the answer the way the fault has it. Return whether the connection can go on."""
        kind = None if fault is None else fault.kind
        if kind == "reset":
            reset_on_close(self._connection)
            return False
        length: int | None = answer.body.length
        if kind in _WRONG_LENGTHS:
            length = _WRONG_LENGTHS[kind](answer.body.length)
        has_body = record.method != "HEAD" and answer.status not in (204, 304)
        closing = closing or (has_body and kind in _SPOILS)
        chunked = has_body and kind == "endless-body"
        head = _head(answer, None if chunked else length, closing=closing)
        record.status = answer.status
        for part in Content(head).chunks(1) if kind == "slow-headers" else [head]:
            self._connection.sendall(part)
            self.wait(fault.interval if fault and kind == "slow-headers" else 0)
        if has_body:
            self._send_body(answer.body, record, fault)
        return not closing

    def _send_body(self, body: Body, record: Record, fault: Fault | None) -> None:
        kind = None if fault is None else fault.kind
        left, chunks = sys.maxsize, body.chunks(1 if kind == "drip" else self._shaping.chunk)
        if fault and kind in ("reset-mid-body", "cut", "stall"):
            left = body.length // 2 if fault.after is None else fault.after
        endless = kind == "endless-body"
        end = time.monotonic() + (fault.hold if fault else 0)
        for chunk in chain(chunks, repeat(b" " * self._shaping.chunk)) if endless else chunks:
            part = chunk[:left]
            if not part or (endless and time.monotonic() > end):
                break
            left -= len(part)
            self.wait(self._shaping.pause(self._pace, len(part)))
            # Counted first: whoever has read the last byte finds it in the report.
            record.bytes_sent += len(part)
            record.ended = time.monotonic()
            self._connection.sendall(b"%x\r\n%b\r\n" % (len(part), part) if endless else part)
            self.wait(fault.interval if fault and kind == "drip" else 0)
        if fault and kind == "stall":
            self._hold(fault)
        elif kind == "reset-mid-body":
            # A reset drops what the client has not read yet; it is to have some of the body.
            while not is_read(self._connection):
                self.wait(0.01)
            reset_on_close(self._connection)

    def _hold(self, fault: Fault) -> None:
        """Send nothing until the client goes away, or the stall is over."""
        end = time.monotonic() + fault.hold
        while time.monotonic() < end and not fault.over.is_set():
            self.wait(0.05)
            readable, _, _ = select.select([self._connection], [], [], 0)
            if readable and not self._connection.recv(1, socket.MSG_PEEK):
                return


def _head(answer: Answer, length: int | None, *, closing: bool) -> bytes:
    """Status line and headers; without a length the body is chunked."""
    framing = (
        ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
    )
    headers = [("Date", formatdate(usegmt=True)), ("Server", "stand-in"), *answer.headers, framing]
    if closing:
        headers.append(("Connection", "close"))
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
