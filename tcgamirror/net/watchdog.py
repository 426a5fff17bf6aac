"""A watchdog that ends every wait on the network at its limit, or when the run is stopped.

A socket's own timeout bounds one `recv`: a server that drips bytes could hold a thread for ever,
even within the headers, which `http.client` reads. The watchdog's thread has a second handle of
each socket in use and shuts it down at the limit, which ends any blocked call.
"""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.cookiejar import DefaultCookiePolicy
from types import MappingProxyType
from typing import Any, TypeVar

import requests
import socks
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.cookies import RequestsCookieJar
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.contrib.socks import SOCKSHTTPConnectionPool, SOCKSHTTPSConnectionPool
from urllib3.exceptions import ProxyError

from tcgamirror.model.errors import Interrupted, Timeout
from tcgamirror.system.parallel import start_thread

POLL = 0.1
"""Seconds between two checks of the clock and of `stop`."""

SOCKS_PORT = 1080
"""Port of a SOCKS proxy whose address names none."""

Result = TypeVar("Result")

_Failure = OSError | ProxyError | UnicodeError | MemoryError
_FAILURES = (OSError, ProxyError, UnicodeError, MemoryError)


class Exchange:
    """One request under watch: its present limit, and the socket to shut down then.

    Attributes:
        name: Host and path of the URL, for messages.
        proxy: Address of the proxy, without credentials; None without one.
        began: Start of the request, in monotonic seconds.
        received: Bytes of the body so far.
    """

    def __init__(
        self, name: str, proxy: str | None, connect: float, first_byte: float, over: threading.Event
    ) -> None:
        self.name = name
        self.proxy = proxy
        self._subject = name if proxy is None else f"proxy {proxy}, on the way to {name}"
        self.began = time.monotonic()
        self.received = 0
        self._first_byte = first_byte
        self._over = over
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._late = False
        self._cut = False
        self.expect(f"no connection within {connect:g} s", self.began + connect)

    def expect(self, complaint: str, until: float) -> None:
        """Set the limit (monotonic seconds) and the message of its Timeout."""
        self._complaint = complaint
        self._until = until

    def expect_answer(self, sock: socket.socket | ssl.SSLSocket) -> None:
        """Start the limit of the first byte: the connection is made, the request goes out."""
        self.hold(sock)
        self._subject = self.name
        limit = self._first_byte
        self.expect(f"no answer within {limit:g} s", time.monotonic() + limit)

    def rest(self) -> None:
        """Lift the limit while this side is busy."""
        self._until = float("inf")

    def left(self) -> float:
        """Return the seconds until the limit."""
        return self._until - time.monotonic()

    def wait_for(self, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, which nothing can end, or leave it behind at the limit."""
        results: queue.SimpleQueue[Result | _Failure]
        results = queue.SimpleQueue()

        def run() -> None:
            try:
                results.put(work())
            except _FAILURES as error:
                results.put(error)

        start_thread(run, "dial")
        while True:
            self.check()
            with suppress(queue.Empty):
                result = results.get(timeout=POLL)
                break
        if isinstance(result, _FAILURES):
            raise result
        return result

    def hold(self, sock: socket.socket | ssl.SSLSocket) -> None:
        """Duplicate the socket's handle, so that nobody else closes it meanwhile."""
        handle = socket.fromfd(sock.fileno(), sock.family, sock.type)
        with self._lock:
            old, self._handle = self._handle, handle
        if old is not None:
            old.close()
        if self._cut:
            self._shut()

    def check(self) -> None:
        """Raise Interrupted or Timeout if the run is stopped or the limit is over."""
        if self._over.is_set():
            raise Interrupted(f"stopped while asking {self.name}")
        if self._late or self.left() < 0:
            raise Timeout(f"{self._subject}: {self._complaint}")

    def look(self, now: float) -> None:
        """Shut the connection down if its limit is over; called by the watchdog."""
        late = now > self._until
        if late or self._over.is_set():
            self._late = self._late or late
            self._cut = True
            self._shut()

    def end(self) -> None:
        """Release the socket, which may serve another request."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def _shut(self) -> None:
        with self._lock, suppress(OSError):
            if self._handle is not None:
                self._handle.shutdown(socket.SHUT_RDWR)


class Watchdog:
    """The thread that watches all exchanges of one client, while there are any."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self._mine = threading.local()
        self._running = False

    @property
    def current(self) -> Exchange:
        """Return the calling thread's exchange."""
        exchange: Exchange = self._mine.exchange
        return exchange

    @contextmanager
    def exchange(
        self, name: str, proxy: str | None, connect: float, first_byte: float
    ) -> Iterator[Exchange]:
        """Watch the calling thread's network use in the block."""
        exchange = Exchange(name, proxy, connect, first_byte, self._stop)
        self._mine.exchange = exchange
        with self._lock:
            if not self._running:
                start_thread(self._run, "watch")
                self._running = True
            self._exchanges.add(exchange)
        try:
            yield exchange
        finally:
            with self._lock:
                self._exchanges.discard(exchange)
            exchange.end()

    def _run(self) -> None:
        while True:
            time.sleep(POLL)
            with self._lock:
                if not self._exchanges:
                    self._running = False
                    return
                exchanges = list(self._exchanges)
            now = time.monotonic()
            for exchange in exchanges:
                exchange.look(now)


class WatchedConnection(HTTPConnection):
    """An HTTP connection whose socket the calling thread's exchange watches."""

    def __init__(self, *args: Any, watch: Watchdog, **options: Any) -> None:
        super().__init__(*args, **options)
        self._watch = watch

    def connect(self) -> None:
        super().connect()
        self._expect_answer()

    def putrequest(self, *args: Any, **options: Any) -> None:
        self._expect_answer()
        super().putrequest(*args, **options)

    def _expect_answer(self) -> None:
        if self.sock is not None:
            self._watch.current.expect_answer(self.sock)

    def _new_conn(self) -> socket.socket:
        exchange = self._watch.current
        # The exchange's limit comes first, as its error names the server or the proxy.
        seconds = exchange.left() + 1
        sock = exchange.wait_for(lambda: self._dial(self._dns_host.strip("[]"), seconds))
        for option in self.socket_options or ():
            sock.setsockopt(*option)
        exchange.hold(sock)
        # The TLS handshake is next; the watchdog's limit counts.
        sock.settimeout(max(exchange.left(), POLL))
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


class WatchedTlsConnection(WatchedConnection, HTTPSConnection):
    """The same with TLS."""


class WatchedSocksConnection(WatchedConnection):
    """The same through a SOCKS proxy, which urllib3 describes by `_socks_options`."""

    def __init__(self, *args: Any, _socks_options: Mapping[str, Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self._socks_options = _socks_options

    def _dial(self, host: str, seconds: float) -> socket.socket:
        """Return a socket that leads to the host. Raises ProxyError, OSError as `connect` does."""
        options = self._socks_options
        if not options["rdns"] and ":" not in host:
            try:
                # An IPv4 address, as not every proxy takes IPv6.
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
                proxy_port=options["proxy_port"] or SOCKS_PORT,
                proxy_username=options["username"],
                proxy_password=options["password"],
            )
        except OSError as error:
            reason = getattr(error, "socket_err", None)
            if isinstance(reason, socks.SOCKS4Error | socks.SOCKS5Error):
                # The proxy works, and reports that the host does not.
                raise reason from None
            raise ProxyError("no connection through the proxy", error) from error


class WatchedSocksTlsConnection(WatchedSocksConnection, HTTPSConnection):
    """The same with TLS."""


_WATCHED: Mapping[type[HTTPConnectionPool], type[WatchedConnection]] = MappingProxyType(
    {
        HTTPConnectionPool: WatchedConnection,
        HTTPSConnectionPool: WatchedTlsConnection,
        SOCKSHTTPConnectionPool: WatchedSocksConnection,
        SOCKSHTTPSConnectionPool: WatchedSocksTlsConnection,
    }
)


class _Adapter(HTTPAdapter):
    """Adapter for watched connections, `size` of them kept alive for each host."""

    def __init__(self, watch: Watchdog, size: int) -> None:
        self._watch = watch
        super().__init__(pool_connections=16, pool_maxsize=size, max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        pool.ConnectionCls = _WATCHED[type(pool)]
        pool.conn_kw["watch"] = self._watch
        return pool


class _NoCredentials(AuthBase):
    """Authentication that keeps requests from using ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: requests would read the whole body of a redirect, of any length."""


def session(watch: Watchdog, size: int, agent: str) -> requests.Session:
    """Return a session for many threads, without credentials, cookies or redirects of its own.

    Proxies and CA bundle come from the environment. `size` connections are kept alive for each
    host; `agent` is the User-Agent.
    """
    made = _Session()
    made.auth = _NoCredentials()
    made.cookies = RequestsCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    made.headers["User-Agent"] = agent
    made.verify = os.environ.get("SSL_CERT_FILE") or True
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Adapter(watch, size))
    return made
