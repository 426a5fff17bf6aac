"""The HTTP client: bounded waits, retries, pauses, rate limit, ranged and resumed downloads.

Every method returns the right bytes, or raises a NetworkError or Interrupted, within a bounded
time, whatever the server does.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from typing import BinaryIO, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests.exceptions import InvalidHeader, InvalidSchema, InvalidURL, MissingSchema
from urllib3.exceptions import HTTPError

from tcgamirror import __version__
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import (
    Interrupted,
    NetworkError,
    RangeMismatch,
    RangeUnsupported,
    Redirected,
    SizeMismatch,
    Timeout,
    Truncated,
    Unreachable,
    UsageError,
)
from tcgamirror.model.text import display_url, printable
from tcgamirror.net.download import Download, check_etag
from tcgamirror.net.exchange import CurrentExchange, Exchange, ca_bundle_variable, open_session
from tcgamirror.net.hosts import Host, OnPause
from tcgamirror.net.proxies import find_route, is_by_proxy, proxy_failure
from tcgamirror.net.response import HttpResponse, RetryAfter, parsed, retry_after, why
from tcgamirror.net.throttle import Meter, RateLimit
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.system.parallel import POLL

__all__ = ["HttpClient", "Meter", "Part", "host_key"]

T = TypeVar("T")

_REDIRECTS = 5
_DEFAULT_CONNECTIONS = 4
"""Connections to a host without a limit of its own. `open_client` sets the settings' limits."""
_LONGEST_BACKOFF = 60.0


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes of a span, with the whole file's ETag and size (`total`, bytes)."""

    data: bytearray
    etag: str | None
    total: int


@dataclass(slots=True)
class _End:
    """The end of a run's pauses, and of its requests too if `requests` is set."""

    is_reached: Callable[[], bool] = lambda: False
    requests: bool = False


class HttpClient:
    """An HTTP client for any number of threads.

    Proxies and CA bundle come from the environment (also SSL_CERT_FILE).

    Args:
        limits: Connections at once, by `host_key`; 4 for others.
        rate: Bytes per second of all connections together.
        stop: Ends every wait with Interrupted within about half a second once it is set.
        on_pause: Called when all requests to a host pause, from any thread.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts | None = None,
        limits: Mapping[str, int] | None = None,
        rate: float | None = None,
        stop: threading.Event | None = None,
        on_pause: OnPause = lambda *_: None,
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self._limits = dict(limits or {})
        self._total_rate = rate
        self._sharers = 1
        self._stop = stop or threading.Event()
        self._on_pause = on_pause
        self._end = _End()
        self._rate = RateLimit(rate, self._stop)
        self._begins_pauses = True
        self._random = random.Random()
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}
        self._current = CurrentExchange()
        size = max([_DEFAULT_CONNECTIONS, *self._limits.values()])
        self._session = open_session(self._current, size, f"tcgamirror/{__version__}")
        # The many requests for parts of a file differ in a header alone.
        self._prepared = lru_cache(
            lambda url: self._session.prepare_request(requests.Request("GET", url))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections. Those in use end by `stop`."""
        self._session.close()

    def share(self, processes: int) -> None:
        """Leave the others their part of connections and rate; keep at least one connection.

        processes: that use the same limits, this one included. It may be called again.
        """
        with self._lock:
            self._sharers = processes
            self._rate.rate = self._total_rate and self._total_rate / processes
            for host in self._hosts.values():
                host.set_limit(self._limit(host.name))

    def end_pauses_when(self, over: Callable[[], bool], *, requests: bool = False) -> None:
        """Raise Interrupted in every pause once `over` returns True.

        A wait for Retry-After counts as a pause. A server that timed out is not asked again.

        Args:
            requests: Raise it in every request, too.
        """
        self._end.is_reached, self._end.requests = over, requests

    def for_optional(self, timeouts: Timeouts) -> HttpClient:
        """Return this client for requests that the run can do without, which begin no pause.

        Both share connections, pauses, rate and end.
        """
        other = copy(self)
        other._timeouts, other._begins_pauses = timeouts, False
        return other

    def ask(
        self,
        url: str,
        take: Callable[[HttpResponse], T],
        headers: Mapping[str, str],
        *,
        payload: Mapping[str, object] | None = None,
        meter: Meter | None = None,
    ) -> T:
        """Return the result of `take` for the response to a GET, or to a POST of `payload`.

        Args:
            take: Judges the status and reads as much of the body as it needs.
            payload: Sent as JSON.
        """
        counted = meter or Meter()
        return self._retry(lambda: self._ask_once(url, take, headers, counted, payload))

    def json(
        self,
        url: str,
        *,
        payload: Mapping[str, object] | None = None,
        limit: int = 64 << 20,
        meter: Meter | None = None,
    ) -> object:
        """Return the JSON at `url`, requested by GET, or by POST of `payload` as JSON.

        Args:
            limit: Most bytes of the body, compressed and decompressed.
        """
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}

        def read(response: HttpResponse) -> object:
            response.judge(200)
            return parsed(response.name, response.kind, response.inflated(limit))

        return self.ask(url, read, headers, payload=payload, meter=meter)

    def span(
        self,
        url: str,
        span: Span,
        *,
        total: int | None,
        etag: str | None = None,
        meter: Meter | None = None,
    ) -> Part:
        """Return exactly the bytes of `span` of the file at `url`, in one request.

        Args:
            total: The file's listed size in bytes; None if it is unknown.
            etag: The ETag of an earlier response; None at first.

        Raises:
            RangeUnsupported: The server sends the whole file, of which nothing is read.
            WrongContent: Any other 200.
            SizeMismatch: The file's size is not `total`.
            ChangedFile: The file's ETag is not `etag`.
        """
        if span.length <= 0 or span.start < 0:
            raise ValueError(f"{span.start} to {span.stop} is not a span of bytes")

        def read(response: HttpResponse) -> Part:
            response.judge(200, 206)
            response.unpacked_only()
            if response.status == 206:
                return _read_part(response, span, total, etag)
            if response.length is not None and response.length == total:
                raise RangeUnsupported(
                    f"{response.name}: sends whole files only; use another source"
                )
            raise response.other("a part of the file")

        headers = {"Accept-Encoding": "identity", "Range": f"bytes={span}"}
        return self.ask(url, read, headers, meter=meter)

    def download(
        self,
        url: str,
        file: BinaryIO,
        *,
        size: int | None,
        etag: str | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Append to `file`, open for reading and writing, the missing rest of the file at `url`.

        A broken connection is resumed by Range as long as bytes advance. A server without
        Range starts the file again.

        Args:
            size: The listed size in bytes; None to believe the server.
            etag: The ETag of an earlier response.

        Raises:
            SizeMismatch: The sizes differ; nothing was read.
        """
        rest = Download(file, size, etag)
        counted = meter or Meter()

        def ask() -> None:
            self._ask_once(url, rest.take, rest.headers(), counted)

        if not rest.complete:
            self._retry(ask, lambda: rest.furthest)

    def _retry(self, ask: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
        """Call `ask` until it succeeds, cannot succeed, or the tries are used up.

        Args:
            reached: Returns the bytes received so far. A try that advanced them as the least
                rate demands starts the count of tries again.
        """
        failed, before = 0, reached()
        while True:
            pause: float | None = 0
            try:
                return ask()
            except RetryAfter as again:
                error, pause = again.error, again.pause
            except NetworkError as failure:
                error = failure
            advanced = reached() - before >= self._worth
            failed, before = (0, reached()) if advanced else (failed + 1, before)
            if not error.retryable or pause is None or failed >= self._timeouts.tries:
                raise error
            longest = min(_LONGEST_BACKOFF, self._timeouts.backoff * 2 ** max(0, failed - 1))
            is_pause = pause > 0 or isinstance(error, Timeout)
            wait = max(pause, self._random.uniform(0, longest))
            self._wait_to_retry(wait, error, is_pause=is_pause)

    def _ask_once(
        self,
        url: str,
        take: Callable[[HttpResponse], T],
        headers: Mapping[str, str],
        meter: Meter,
        payload: Mapping[str, object] | None = None,
    ) -> T:
        """Return the result of `take`, after redirects on the same host."""
        target = url
        for _ in range(_REDIRECTS + 1):
            with self._connection(target) as (host, exchange):
                meter.add(requests=1)
                response = self._send(target, headers, payload, exchange)
                # Closes the connection if the body was not read to its end.
                with closing(response):
                    if response.status_code in (429, 503):
                        # A response that names the time to wait makes no other request wait.
                        has_wait = retry_after(response.headers.get("Retry-After")) is not None
                        pause = self._begins_pauses and not has_wait
                        host.record_busy(exchange.start, response.status_code, pause=pause)
                    redirect = _redirect(target, response)
                    if redirect is None:
                        rate = self._rate
                        return take(HttpResponse(response, exchange, self._timeouts, rate, meter))
            target = redirect
        raise Redirected(f"{display_url(url)}: more than {_REDIRECTS} redirects")

    @contextmanager
    def _connection(self, url: str) -> Iterator[tuple[Host, Exchange]]:
        """Hold one of the host's connections, outside of its pauses, for an exchange."""
        host = self._host(url)
        while not host.acquire():
            self._check_stop(url)
            if host.pause_left > 0 and self._end.is_reached():
                raise Interrupted(f"stopped during a pause of all requests to {host.name}")
        try:
            self._check_stop(url)
            connect, first_byte = self._timeouts.connect, self._timeouts.first_byte
            exchange = Exchange(display_url(url), host.route, connect, first_byte, self._is_over)
            self._current.exchange = exchange
            try:
                yield host, exchange
            except NetworkError as error:
                # A connection that breaks after enough bytes does not count as a reset.
                few = exchange.bytes_received < self._worth
                if is_reset(error) and few:
                    host.record_reset(exchange.start)
                elif isinstance(error, Timeout) and few and exchange.bytes_received:
                    host.record_slow(exchange.start)
                elif is_reset(error) or not error.retryable:
                    host.record_success(exchange.start)
                raise
            host.record_success(exchange.start)
        finally:
            host.release()

    def _wait_to_retry(self, seconds: float, error: NetworkError, *, is_pause: bool) -> None:
        """Wait before the next try. Raises Interrupted if the run is over first."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._stop.wait(min(left, POLL))
            if self._is_over() or (is_pause and self._end.is_reached()):
                raise Interrupted(f"stopped while waiting to ask again: {error}") from error

    def _is_over(self) -> bool:
        return self._stop.is_set() or (self._end.requests and self._end.is_reached())

    def _check_stop(self, url: str) -> None:
        if self._is_over():
            raise Interrupted(f"stopped before asking {display_url(url)}")

    @property
    def _worth(self) -> float:
        """Return the bytes that the least rate demands of one window."""
        return max(1, self._timeouts.least_rate * self._timeouts.stall)

    def _host(self, url: str) -> Host:
        key = host_key(url)
        with self._lock:
            if key not in self._hosts:
                limit = self._limit(key)
                pause = self._timeouts.pause
                self._hosts[key] = Host(key, find_route(url), limit, pause, self._on_pause)
            return self._hosts[key]

    def _limit(self, key: str) -> int:
        return max(1, self._limits.get(key, _DEFAULT_CONNECTIONS) // self._sharers)

    def _prepare(self, url: str, payload: Mapping[str, object] | None) -> requests.PreparedRequest:
        if payload is not None:
            return self._session.prepare_request(requests.Request("POST", url, json=payload))
        return self._prepared(url).copy()

    def _send(
        self,
        url: str,
        headers: Mapping[str, str],
        payload: Mapping[str, object] | None,
        exchange: Exchange,
    ) -> requests.Response:
        """Send the request and wait for the headers."""
        timeouts = self._timeouts
        name = exchange.name
        try:
            prepared = self._prepare(url, payload)
            prepared.headers.update(headers)
            response = self._session.send(
                prepared,
                stream=True,
                allow_redirects=False,
                proxies=dict(exchange.proxies),
                # The exchange has the limits; it is checked after each brief wait.
                timeout=(timeouts.connect + 1, POLL),
            )
        except (InvalidHeader, InvalidSchema, InvalidURL, MissingSchema, UnicodeError) as error:
            raise UsageError(f"{name} cannot be asked ({why(error)}): correct the URL") from error
        except requests.Timeout as error:
            raise Timeout(f"{name}: no answer in time ({why(error)})") from error
        except (requests.RequestException, HTTPError, HTTPException) as error:
            by_proxy = exchange.proxy is not None and is_by_proxy(error)
            if "certificate verify failed" in str(error).lower():
                untrusted = Unreachable(
                    f"{f'proxy {exchange.proxy}' if by_proxy else name}: the server's certificate "
                    f"is not valid ({why(error)}). Check this machine's clock, or name your "
                    "network's own authority in SSL_CERT_FILE"
                )
                raise RetryAfter(untrusted, None) from error
            if exchange.proxy and by_proxy:
                raise proxy_failure(url, name, exchange.proxy, why(error)) from error
            through = f" through proxy {exchange.proxy}" if exchange.proxy else ""
            raise Unreachable(f"{name} cannot be reached{through} ({why(error)})") from error
        except OSError as error:
            # Nothing but the trusted certificates is opened before the request.
            named = ca_bundle_variable() or "the settings"
            raise UsageError(f"{name} cannot be asked ({why(error)}): correct {named}") from error
        if response.status_code == 407 and exchange.proxy:
            response.close()
            reason = f"407 {printable(response.reason or '', 60)}"
            raise RetryAfter(proxy_failure(url, name, exchange.proxy, reason), None)
        return response


def host_key(url: str) -> str:
    """Return host and port of the URL, however it is written. Raises UsageError if it is invalid.

    >>> host_key("https://me:secret@API.gdc.cancer.gov/status"), host_key("http://[::1]:8080")
    ('api.gdc.cancer.gov:443', '::1:8080')
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise UsageError(f"{display_url(url)}: {error}. Correct the URL") from error
    return f"{parts.hostname or ''}:{port}"


def is_reset(error: NetworkError) -> bool:
    """Return whether the other side ended the connection in the middle of an exchange."""
    inner: BaseException | None = error if isinstance(error, Unreachable | Truncated) else None
    while inner is not None and not isinstance(inner, ConnectionResetError):
        inner = inner.__cause__ or inner.__context__
    return inner is not None


def _redirect(url: str, response: requests.Response) -> str | None:
    """Return the target of a redirect on the same host; None without a redirect."""
    if response.status_code not in (301, 302, 303, 307, 308):
        return None
    location = response.headers.get("Location", "")
    try:
        target = urljoin(url, location)
        here, there = urlsplit(url), urlsplit(target)
    except ValueError as error:
        raise Redirected(f"{display_url(url)}: points to no URL ({printable(location)})") from error
    if there.hostname != here.hostname or there.scheme not in ("https", here.scheme):
        raise Redirected(f"{display_url(url)}: redirect to {display_url(target)} refused")
    return target


def _read_part(response: HttpResponse, span: Span, total: int | None, etag: str | None) -> Part:
    """Return the body of a 206 that is exactly what was requested."""
    check_etag(response, etag)
    sent, size = response.content_range()
    if total is not None and size != total:
        raise SizeMismatch(f"{response.name}: has {size:,} bytes, but {total:,} are listed")
    if sent != span:
        raise RangeMismatch(f"{response.name}: expected bytes {span}, got {sent}")
    length, data = response.length, bytearray()
    if length is None or length >= span.length:
        data = response.body(span.length)
        length = len(data)
    if length < span.length:
        raise Truncated(f"{response.name}: {length:,} bytes came of {span.length:,}")
    return Part(data, response.etag, size)
