"""Answers going out over a connection, well or badly."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from itertools import chain, repeat

from tests.gdc.answers import Answer, Content
from tests.gdc.faults import Fault
from tests.gdc.report import Record
from tests.gdc.shaping import Pace, Shaping

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_SPOILS = frozenset({"reset-mid-body", "cut", "stall", "drip", "endless-body", "length-too-large"})


class StoppingError(Exception):
    """The stand-in stops while something is being sent."""


def reset_on_close(connection: socket.socket) -> None:
    """Lets the close of this connection be a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def is_reset_on_close(connection: socket.socket) -> bool:
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET_ON_CLOSE))
    return option == _RESET_ON_CLOSE


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
        """Sends the answer the way the fault has it. Tells whether the connection can go on."""
        kind = fault and fault.kind
        if fault is not None and kind == "reset":
            reset_on_close(self._connection)
            return False
        length = answer.body.length
        if kind == "length-too-large":
            length += 1000
        elif kind == "length-too-small":
            length = max(0, length - 1000, length // 2)
        has_body = record.method != "HEAD" and answer.status not in (204, 304)
        endless = kind == "endless-body" and has_body
        spoils = has_body and kind in _SPOILS
        head = _head(answer, None if endless else length, closing=closing or spoils)
        record.status = answer.status
        if fault is not None and kind == "slow-headers":
            self._drip(head, fault)
        else:
            self._connection.sendall(head)
        if not has_body:
            return not closing
        if fault is not None and spoils:
            self._send_badly(answer, record, fault)
            return False
        self._send_body(answer.body.chunks(self._shaping.chunk), record)
        return not closing

    def _send_body(self, chunks: Iterable[bytes], record: Record) -> None:
        for chunk in chunks:
            self.wait(self._shaping.pause(self._pace, len(chunk)))
            # Counted first: whoever has read the last byte finds it in the report.
            record.bytes_sent += len(chunk)
            record.ended = time.monotonic()
            self._connection.sendall(chunk)

    def _send_badly(self, answer: Answer, record: Record, fault: Fault) -> None:
        if fault.kind == "drip":
            for byte in answer.body.chunks(1):
                record.bytes_sent += 1
                self._connection.sendall(byte)
                self.wait(fault.interval)
        elif fault.kind == "endless-body":
            self._send_without_end(answer, record, fault)
        elif fault.kind == "length-too-large":
            self._send_body(answer.body.chunks(self._shaping.chunk), record)
        else:
            self._send_part(answer, record, fault)

    def _send_part(self, answer: Answer, record: Record, fault: Fault) -> None:
        left = answer.body.length // 2 if fault.after is None else fault.after
        for chunk in answer.body.chunks(self._shaping.chunk):
            self._send_body([chunk[:left]], record)
            left -= len(chunk[:left])
            if left <= 0:
                break
        if fault.kind == "stall":
            self._hold(fault.hold)
        elif fault.kind == "reset-mid-body":
            # A reset drops what the client has not read yet; it is to have some of the body.
            self.wait(0.05)
            reset_on_close(self._connection)

    def _send_without_end(self, answer: Answer, record: Record, fault: Fault) -> None:
        end = time.monotonic() + fault.hold
        filler = Content(b" " * 65536)
        for chunk in chain(
            answer.body.chunks(self._shaping.chunk),
            chain.from_iterable(filler.chunks(self._shaping.chunk) for _ in repeat(None)),
        ):
            if time.monotonic() > end or self._stopping.is_set():
                return
            self._connection.sendall(f"{len(chunk):x}\r\n".encode())
            self._send_body([chunk], record)
            self._connection.sendall(b"\r\n")

    def _drip(self, data: bytes, fault: Fault) -> None:
        for place in range(len(data)):
            self._connection.sendall(data[place : place + 1])
            self.wait(fault.interval)

    def _hold(self, seconds: float) -> None:
        """Sends nothing until the client goes away, or so many seconds are over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
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
