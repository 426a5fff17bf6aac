"""The listening side: connections, keep-alive, and one request after another."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.gdc.answers import Answer, Host, Request
from tests.gdc.faults import Faults, instead, misread, spoiled
from tests.gdc.report import Record, Report
from tests.gdc.shaping import Shaping
from tests.gdc.wire import StoppingError, Wire, is_reset_on_close


@dataclass(slots=True)
class Inside:
    """What all connections of a stand-in share."""

    shaping: Shaping
    answer: Callable[[Request], Answer]
    faults: Faults = field(default_factory=Faults)
    report: Report = field(default_factory=Report)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


class Door(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, host: Host, port: int, inside: Inside) -> None:
        self.host = host
        self.inside = inside
        self.stopping = threading.Event()
        self.peak = 0
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Conversation)

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host's name, which can take seconds.
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        with self._changed:
            self._open.add(request)
            self.peak = max(self.peak, len(self._open))
            return True

    def shutdown_request(self, request: Any) -> None:
        # A shutdown before the close would be an orderly end, not a reset.
        if is_reset_on_close(request):
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def close_request(self, request: Any) -> None:
        super().close_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def forget_peak(self) -> None:
        with self._changed:
            self.peak = len(self._open)

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Ends all connections and waits for their threads, a few seconds at most."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._changed:
            for connection in self._open:
                # The other side may have ended it already.
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            self._changed.wait_for(lambda: not self._open, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not self.stopping.is_set():
            super().handle_error(request, client_address)


class Conversation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._door = cast(Door, self.server)
        self._number = next(self._door.inside.numbers)
        self._wire = Wire(self.connection, self._door.inside.shaping, self._door.stopping)

    def handle_one_request(self) -> None:
        try:
            self.raw_requestline = self.rfile.readline(65537)
            if self.raw_requestline and self.parse_request():
                self.close_connection = not self._serve() or self.close_connection
            else:
                self.close_connection = True
        except (OSError, StoppingError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the report tells more."""

    def _serve(self) -> bool:
        """Reads the request and answers it. Tells whether the connection can go on."""
        inside = self._door.inside
        request = self._request()
        record = Record(
            time=time.monotonic(),
            host=request.host,
            method=request.method,
            path=request.target,
            range=request.headers.get("range"),
            connection=self._number,
        )
        fault = inside.faults.take(request)
        record.fault = None if fault is None else fault.kind
        inside.report.enter(record)
        self._wire.wait(inside.shaping.delay)
        if request.is_tile:
            self._wire.wait(inside.shaping.tile_delay)
        answer = instead(fault, request.host) or inside.answer(misread(fault, request))
        answer = spoiled(fault, answer)
        return self._wire.send(answer, record, fault, closing=self.close_connection)

    def _request(self) -> Request:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = urlsplit(self.path)
        return Request(
            host=self._door.host,
            method=self.command,
            target=self.path,
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
        )
