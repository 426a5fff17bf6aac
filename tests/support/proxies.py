"""Real proxies on the loopback interface: SOCKS5 by RFC 1928 and 1929, HTTP, and a plain relay."""

from __future__ import annotations

import base64
import re
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.raw_server import Listener


class _Proxy(Listener):
    """A listener and its relays. requests: (host, port) of every requested connection.

    All connections lead to this machine, whatever the host's name. user, password: what
    is demanded, if anything.
    """

    scheme = ""

    def __init__(self, user: str = "", password: str = "", certificate: Path | None = None) -> None:
        self.user, self.password = user, password
        self.requests: list[tuple[str, int]] = []
        super().__init__(certificate)

    def url(self, credentials: str = "") -> str:
        return f"{self.scheme}{'s' if self._tls else ''}://{credentials}127.0.0.1:{self.port}"

    def _relay(self, client: socket.socket, port: int, first: bytes = b"") -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as server:
            self._open.add(server)
            server.settimeout(None)
            server.sendall(first)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for sock in (source, sink):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class Socks5(_Proxy):
    """A SOCKS5 proxy. reply: the code it answers each request by; 0 is success."""

    scheme = "socks5h"

    def __init__(self, user: str = "", password: str = "", reply: int = 0) -> None:
        self._reply = reply
        super().__init__(user, password)

    def converse(self, client: socket.socket) -> None:
        _, methods = _exactly(client, 2)
        wanted = 2 if self.user else 0
        if wanted not in _exactly(client, methods):
            client.sendall(b"\x05\xff")
            return
        client.sendall(bytes([5, wanted]))
        if self.user:
            _, length = _exactly(client, 2)
            user = _exactly(client, length).decode()
            password = _exactly(client, _exactly(client, 1)[0]).decode()
            right = (user, password) == (self.user, self.password)
            client.sendall(bytes([1, 0 if right else 1]))
            if not right:
                return
        _, _, _, kind = _exactly(client, 4)
        if kind == 3:
            host = _exactly(client, _exactly(client, 1)[0]).decode()
        else:
            family, length = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, _exactly(client, length))
        port = int.from_bytes(_exactly(client, 2), "big")
        self.requests.append((host, port))
        client.sendall(bytes([5, self._reply, 0, 1]) + bytes(6))
        if not self._reply:
            self._relay(client, port)


class HttpProxy(_Proxy):
    """An HTTP proxy. refusal: the status line it answers each request by instead."""

    scheme = "http"

    def __init__(
        self,
        user: str = "",
        password: str = "",
        refusal: str = "",
        certificate: Path | None = None,
    ) -> None:
        self._refusal = refusal
        super().__init__(user, password, certificate)

    def converse(self, client: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += _exactly(client, 1)
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        self.requests.append((parts.hostname or "", parts.port or 80))
        proof = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        refusal = self._refusal
        if self.user and f"proxy-authorization: basic {proof}".lower() not in map(str.lower, lines):
            refusal = "407 Proxy Authentication Required"
        if refusal:
            client.sendall(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n".encode())
        elif method == "CONNECT":
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._relay(client, parts.port or 443, rest)
        else:
            self._relay(client, parts.port or 80, data)


class Relay(_Proxy):
    """A plain way to one port of this machine. lines: the first line of every HTTP request.

    cuts: bytes of the server after which the next connections are cut, each once.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.lines: list[str] = []
        self.cuts: list[int] = []
        super().__init__()

    def converse(self, client: socket.socket) -> None:
        left = self.cuts.pop(0) if self.cuts else None
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as server:
            self._open.add(server)
            server.settimeout(None)
            threading.Thread(target=self._send, args=(client, server), daemon=True).start()
            if left is None:
                _pump(server, client)
                return
            # With 0 the server has done what was asked, and its answer is lost.
            while data := server.recv(65536):
                client.sendall(data[:left])
                left -= len(data)
                if left <= 0:
                    break
        client.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Cut every connection."""
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                found = re.match(rb"[A-Z]+ /\S* HTTP/1\.1\r\n", data)
                if found:
                    self.lines.append(found[0].decode().strip())
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionError("the client has gone")
        data += piece
    return data
