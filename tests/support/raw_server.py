"""A server on the loopback interface that plays exact bytes, pauses and ends of connections."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Self

from tcgamirror.model.byteranges import Span
from tcgamirror.net.client import HttpClient
from tcgamirror.net.timeouts import Timeouts
from tests.gdc.wire import is_read


class Reset:
    """Ends the connection with a TCP reset, once the client has read what was sent."""


class Close:
    """Ends the connection as usual."""


Step = bytes | float | Reset | Close


@dataclass(frozen=True)
class Request:
    """One request as it came. headers: names in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Script = Callable[[Request], Iterable[Step]]


class Listener:
    """A server on the loopback interface. connections: accepted so far.

    A subclass says by `converse` what is done with each connection, in a thread of its own.
    certificate: with its key in the same file, for TLS.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if self._tls and certificate:
            self._tls.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self.connections = 0
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def converse(self, client: socket.socket) -> None:
        raise NotImplementedError

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._open.add(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            if self._tls:
                with self._tls.wrap_socket(sock, server_side=True) as secured:
                    self.converse(secured)
            else:
                self.converse(sock)


class RawServer(Listener):
    """Plays the scripts one request each, in order; the last one for ever.

    peak: most requests under way at once. sent: bytes that the system took from the server.
    """

    def __init__(self, *scripts: Script, certificate: Path | None = None) -> None:
        self._scripts = list(scripts)
        self._lock = threading.Lock()
        self._active = 0
        self.requests: list[Request] = []
        self.peak = 0
        self.sent = 0
        super().__init__(certificate)

    def url(self, path: str = "/data/1", host: str = "127.0.0.1") -> str:
        return f"http{'s' if self._tls else ''}://{host}:{self.port}{path}"

    def converse(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (request := _read_request(client)) is not None:
            with self._lock:
                self.requests.append(request)
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                self._active += 1
                self.peak = max(self.peak, self._active)
            try:
                is_open = self._play(client, script(request))
            finally:
                with self._lock:
                    self._active -= 1
            if not is_open:
                return

    def _play(self, sock: socket.socket, steps: Iterable[Step]) -> bool:
        for step in steps:
            if isinstance(step, bytes):
                view = memoryview(step)
                while view:
                    took = sock.send(view[:65536])
                    self.sent += took
                    view = view[took:]
            elif isinstance(step, float):
                time.sleep(step)
            elif isinstance(step, Reset):
                # A reset drops what has not been read yet.
                while not is_read(sock):
                    time.sleep(0.01)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            else:
                return False
        return True


def _read_request(sock: socket.socket) -> Request | None:
    """The next request; None if the client closed the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    while len(body) < int(headers.get("content-length", "0")):
        body += sock.recv(65536)
    method, path, _ = first.split(" ")
    return Request(method, path, headers, body)


def head(status: str, *lines: str) -> bytes:
    """A status line and headers: `head("200 OK", "Content-Length: 3")`."""
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def plays(*steps: Step) -> Script:
    return lambda _: steps


def whole(body: bytes, status: str = "200 OK", *lines: str) -> Script:
    """A right answer with all of the body."""
    return plays(head(status, f"Content-Length: {len(body)}", *lines) + body)


def ranged(content: bytes, *lines: str) -> Script:
    """What a server does that has the file and knows Range."""

    def script(request: Request) -> Iterable[Step]:
        span = request.headers.get("range")
        if span is None:
            return [head("200 OK", f"Content-Length: {len(content)}", *lines) + content]
        first, _, last = span.removeprefix("bytes=").partition("-")
        start = int(first)
        stop = min(int(last) + 1, len(content)) if last else len(content)
        if start >= len(content):
            size = f"Content-Range: bytes */{len(content)}"
            return [head("416 Range Not Satisfiable", size, "Content-Length: 0")]
        place = f"Content-Range: bytes {start}-{stop - 1}/{len(content)}"
        length = f"Content-Length: {stop - start}"
        return [head("206 Partial Content", place, length, *lines) + content[start:stop]]

    return script


def dripped(data: bytes, before: bytes = b"", every: float = 0.05) -> Script:
    """The data byte by byte, `every` so many seconds."""

    def script(_: Request) -> Iterable[Step]:
        yield before
        for index in range(len(data)):
            yield data[index : index + 1]
            yield every

    return script


def endless(before: bytes, piece: bytes) -> Script:
    def script(_: Request) -> Iterable[Step]:
        yield before
        yield from repeat(piece)

    return script


QUICK = Timeouts(
    connect=0.5,
    first_byte=0.4,
    stall=0.3,
    whole=1,
    least_rate=10_000,
    tries=2,
    backoff=0.01,
    pause=0.01,
)
BOUND = 15.0
"""Seconds within which every fault must have ended, all tries together, on a busy machine."""

CONTENT = random.Random(1).randbytes(200_000)
SPAN = Span(1_000, 9_000)
PART = CONTENT[SPAN.start : SPAN.stop]
RIGHT_RANGE = "Content-Range: bytes 1000-8999/200000"
RIGHT_HEAD = head("206 Partial Content", RIGHT_RANGE, "Content-Length: 8000")
CHUNKED = head("200 OK", "Transfer-Encoding: chunked")
HTML = whole(b"<html><body>Maintenance</body></html>", "200 OK", "Content-Type: text/html; a=b")


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port at which nobody listens, and that nobody else is given meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails if the block takes `seconds` or more."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@contextmanager
def asking(*scripts: Script) -> Iterator[tuple[RawServer, HttpClient]]:
    """A server that plays the scripts, and an impatient client."""
    with RawServer(*scripts) as server, HttpClient(timeouts=QUICK) as client:
        yield server, client
