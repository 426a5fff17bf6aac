"""HTTP requests of which every wait ends at a limit, or when the run is stopped.

A socket's own timeout bounds a single `recv`. A server that drips bytes, even of the headers,
could thus hold a thread for ever. So each `recv` waits only briefly, and the limit is checked
in between. Connecting cannot be cut short, so it runs in a thread that may be left behind.
"""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from ssl import SSLEOFError
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import requests
import socks
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.contrib.socks import SOCKSHTTPConnectionPool, SOCKSHTTPSConnectionPool
from urllib3.exceptions import ProxyError

from tcgamirror.model.errors import Interrupted, Timeout
from tcgamirror.net.proxies import Route
from tcgamirror.system.parallel import POLL, in_thread

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


CA_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Environment variables that name trusted certificates; the first that is not empty counts."""

_SOCKS_PORT = 1080
"""Port of a SOCKS proxy if its address names none."""


class Exchange:
    """One request: the limit of its current wait, and the host that it waits for.

    Attributes:
        name: Host and path of the URL, for messages.
        proxies: The proxies, as requests takes them.
        proxy: Address of the proxy, without credentials; None without one.
        start: Time at which the request began, in monotonic seconds.
        bytes_received: Bytes of the body so far.
    """

    def __init__(
        self,
        name: str,
        route: Route,
        connect: float,
        first_byte: float,
        is_over: Callable[[], bool],
    ) -> None:
        self.name = name
        self.proxies, self.proxy = route.proxies, route.proxy
        self.start = time.monotonic()
        self.bytes_received = 0
        self._subject = name if self.proxy is None else f"proxy {self.proxy}, on the way to {name}"
        self._first_byte = first_byte
        self._is_over = is_over
        self.expect(f"no connection within {connect:g} s", self.start + connect)

    def expect(self, complaint: str, until: float) -> None:
        """Set the limit (`until`, in monotonic seconds) and what its Timeout says (`complaint`)."""
        self._complaint = complaint
        self._until = until

    def expect_answer(self) -> None:
        """Set the limit of the answer's first byte, after the connection was made."""
        self._subject = self.name
        limit = self._first_byte
        self.expect(f"no answer within {limit:g} s", time.monotonic() + limit)

    def lift_limit(self) -> None:
        """Lift the limit until the next `expect`, because this side is busy."""
        self._until = float("inf")

    @property
    def seconds_left(self) -> float:
        """The seconds until the limit; negative after it."""
        return self._until - time.monotonic()

    def check(self) -> None:
        """Raise Interrupted if the run is over, Timeout if the limit has passed."""
        if self._is_over():
            raise Interrupted(f"stopped while asking {self.name}")
        if self.seconds_left < 0:
            raise Timeout(f"{self._subject}: {self._complaint}")


class CurrentExchange(threading.local):
    """The exchange of the calling thread."""

    exchange: Exchange


class _Stream(io.RawIOBase):
    """The bytes of a socket. The exchange's limit bounds every wait for them."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, exchange: Exchange) -> None:
        """raw: the socket's own stream, which keeps it open until this one is closed."""
        self._sock = sock
        self._raw = raw
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while True:
            self._exchange.check()
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                continue

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """A response. The exchange's limits bound every wait for its headers and body."""

    def __init__(self, exchange: Exchange, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        file: Any = self.fp
        self.fp = io.BufferedReader(_Stream(sock, file.detach(), exchange))


class BoundedConnection(HTTPConnection):
    """An HTTP connection whose waits the calling thread's exchange bounds."""

    def __init__(self, *args: Any, current: CurrentExchange, **options: Any) -> None:
        super().__init__(*args, **options)
        self._current = current
        self.response_class: Any = lambda *args, **more: _Response(self._exchange, *args, **more)

    def connect(self) -> None:
        self._exchange = self._current.exchange
        in_thread(super().connect, "connect", self._exchange.check)
        self.sock.settimeout(POLL)
        self._exchange.expect_answer()

    def putrequest(self, *args: Any, **options: Any) -> None:
        if self.sock is not None:
            self._exchange = self._current.exchange
            self._exchange.expect_answer()
            # TLS within TLS, which is no socket, would lose bytes at a timeout.
            if isinstance(self.sock, socket.socket):
                self.sock.settimeout(POLL)
        super().putrequest(*args, **options)

    def send(self, data: Any) -> None:
        """Send bytes within the exchange's limit."""
        if self.sock is None:
            self.connect()
        rest = memoryview(data)
        while rest:
            self._exchange.check()
            try:
                rest = rest[self.sock.send(rest) :]
            except TimeoutError:
                continue
            except SSLEOFError as error:
                # As without TLS: urllib3 then reads the answer that came before the end.
                raise BrokenPipeError(*error.args) from error

    def _new_conn(self) -> socket.socket:
        # One second more, so that the exchange's limit ends first: its error names the server.
        sock = self._dial(self._dns_host.strip("[]"), self._exchange.seconds_left + 1)
        for option in self.socket_options or ():
            sock.setsockopt(*option)
        # For the TLS handshake, which is next.
        sock.settimeout(max(self._exchange.seconds_left + 1, POLL))
        return sock

    def _dial(self, host: str, seconds: float) -> socket.socket:
        """Return a socket connected to the first of the host's addresses that answers.

        The time is divided among the addresses, so that a dead one does not take all of it.
        """
        until = time.monotonic() + seconds
        addresses: list[Any] = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        failure = OSError(f"{host} has no address")
        for index, (*_, address) in enumerate(addresses):
            share = (until - time.monotonic()) / (len(addresses) - index)
            try:
                return socket.create_connection(address[:2], max(share, POLL))
            except OSError as error:
                failure = error
        raise failure


class BoundedTlsConnection(BoundedConnection, HTTPSConnection):
    """A bounded connection with TLS."""


class BoundedSocksConnection(BoundedConnection):
    """A bounded connection through a SOCKS proxy, which urllib3 describes in `_socks_options`."""

    def __init__(self, *args: Any, _socks_options: Mapping[str, Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self._socks_options = _socks_options

    def _dial(self, host: str, seconds: float) -> socket.socket:
        """Return a socket to the host. Raises ProxyError, or OSError if the host fails."""
        options = self._socks_options
        if not options["rdns"] and ":" not in host:
            try:
                # An IPv4 address, because some proxies take no IPv6.
                host = socket.gethostbyname(host)
            except socket.gaierror as error:
                error.strerror = f"{error.strerror}; socks5h:// has the proxy look names up"
                raise
        try:
            return socks.create_connection(
                (host, self.port),
                timeout=int(seconds) + 1,
                proxy_type=options["socks_version"],
                proxy_addr=options["proxy_host"],
                proxy_port=options["proxy_port"] or _SOCKS_PORT,
                proxy_username=options["username"],
                proxy_password=options["password"],
            )
        except OSError as error:
            reason = getattr(error, "socket_err", None)
            if isinstance(reason, socks.SOCKS4Error | socks.SOCKS5Error):
                # The proxy works, and reports that the host does not.
                raise reason from None
            raise ProxyError("no connection through the proxy", error) from error


class BoundedSocksTlsConnection(BoundedSocksConnection, HTTPSConnection):
    """A bounded connection through a SOCKS proxy, with TLS."""


_CONNECTIONS: Mapping[type[HTTPConnectionPool], type[BoundedConnection]] = MappingProxyType(
    {
        HTTPConnectionPool: BoundedConnection,
        HTTPSConnectionPool: BoundedTlsConnection,
        SOCKSHTTPConnectionPool: BoundedSocksConnection,
        SOCKSHTTPSConnectionPool: BoundedSocksTlsConnection,
    }
)


class _Adapter(HTTPAdapter):
    """Adapter for bounded connections, of which up to `size` are kept alive for each host."""

    def __init__(self, current: CurrentExchange, size: int) -> None:
        self._current = current
        super().__init__(pool_connections=16, pool_maxsize=size, max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        pool.ConnectionCls = _CONNECTIONS[type(pool)]
        pool.conn_kw["current"] = self._current
        return pool


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, because requests would read all of a redirect's body, however long."""


def ca_bundle_variable() -> str | None:
    """Return the environment variable of CA_BUNDLES that counts; None if all are empty."""
    return next(filter(os.environ.get, CA_BUNDLES), None)


def open_session(current: CurrentExchange, size: int, agent: str) -> requests.Session:
    """Return a session for many threads, without credentials, cookies or redirects of its own.

    The CA bundle comes from the environment.

    Args:
        size: Connections kept alive for each host.
        agent: The User-Agent.
    """
    session = _Session()
    # Otherwise each request would read ~/.netrc and the environment's proxies.
    session.trust_env = False
    session.cookies = RequestsCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    session.headers["User-Agent"] = agent
    named = ca_bundle_variable()
    session.verify = True if named is None else os.environ[named]
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(current, size))
    return session
