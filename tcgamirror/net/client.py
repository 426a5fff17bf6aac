"""The HTTP client: bounded waits, retries, pauses, rate limit, ranged and resumed downloads.

Every method returns the right bytes, or raises a NetworkError or Interrupted, within a bounded
time, whatever the server does.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from types import TracebackType
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
from tcgamirror.net.download import Download, same_etag
from tcgamirror.net.pauses import OnPause, Pauses
from tcgamirror.net.proxies import is_by_proxy, proxy_failure, proxy_for
from tcgamirror.net.response import HttpResponse, RetryAfter, parsed, retry_after, why
from tcgamirror.net.throttle import Meter, RateLimit
from tcgamirror.net.timeouts import Timeouts
from tcgamirror.net.watchdog import POLL, Exchange, Watchdog, session

__all__ = ["HttpClient", "Meter", "Part", "host_key"]

T = TypeVar("T")

_REDIRECTS = 5
_CONNECTIONS = 4
_LONGEST_BACKOFF = 60.0


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes of a span, with the whole file's ETag and size (`total`, bytes)."""

    data: bytes
    etag: str | None
    total: int


@dataclass(frozen=True, slots=True)
class _Request:
    url: str
    headers: Mapping[str, str]
    meter: Meter
    payload: Mapping[str, object] | None = None


class HttpClient:
    """An HTTP client for any number of threads.

    Proxies and CA bundle come from the environment (also SSL_CERT_FILE).

    Args:
        limits: Connections at once, by `host_key` or by host alone; 4 for others.
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
        self._stop = stop or threading.Event()
        self.pauses = Pauses(self._timeouts.pause, self._stop, on_pause)
        self._rate = RateLimit(rate, self._stop)
        self._random = random.Random()
        self._lock = threading.Lock()
        self._slots: dict[str, threading.Semaphore] = {}
        self._watch = Watchdog(self._stop)
        size = max([_CONNECTIONS, *self._limits.values()])
        self._session = session(self._watch, size, f"tcgamirror/{__version__}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections. Those in use end by `stop`."""
        self._session.close()
        self._watch.close()

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
        request = _Request(url, headers, meter or Meter(), payload)
        return self._tried(lambda: self._asked(request, take))

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

        def taken(answer: HttpResponse) -> object:
            answer.judge(200)
            content = answer.inflated(limit, self._timeouts.whole)
            return parsed(answer.name, answer.kind, content)

        return self.ask(url, taken, headers, payload=payload, meter=meter)

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

        def taken(answer: HttpResponse) -> Part:
            answer.judge(200, 206)
            answer.unpacked_only()
            if answer.status == 200 and answer.length is not None and answer.length == total:
                raise RangeUnsupported(f"{answer.name}: sends whole files only; use another source")
            if answer.status == 200:
                raise answer.other("a part of the file")
            return _part(answer, span, total, etag)

        headers = {"Accept-Encoding": "identity", "Range": f"bytes={span}"}
        return self.ask(url, taken, headers, meter=meter)

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
            self._asked(_Request(url, rest.headers(), counted), rest.take)

        if not rest.complete:
            self._tried(ask, lambda: rest.furthest)

    def _tried(self, ask: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
        """Retry `ask` until it succeeds, cannot succeed, or the tries are used up.

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
            if self._stop.wait(max(pause, self._random.uniform(0, longest))):
                raise Interrupted("stopped while waiting to ask again") from error

    def _asked(self, request: _Request, take: Callable[[HttpResponse], T]) -> T:
        """Return the result of `take`, after redirects on the same host."""
        url = request.url
        for _ in range(_REDIRECTS + 1):
            with (
                self._slot(url) as host,
                self._exchange(url) as exchange,
                self._noted(host, exchange),
            ):
                request.meter.add(requests=1)
                response = self._sent(url, request, exchange)
                try:
                    busy = response.status_code in (429, 503)
                    if busy and retry_after(response.headers.get("Retry-After")) is None:
                        self.pauses.busy(host, exchange.began, response.status_code)
                    target = _redirect(url, response)
                    if target is None:
                        return take(
                            HttpResponse(
                                response, exchange, self._timeouts, self._rate, request.meter
                            )
                        )
                finally:
                    # Closes the connection if the body was not read to its end.
                    response.close()
            url = target
        raise Redirected(f"{display_url(request.url)}: more than {_REDIRECTS} redirects")

    @contextmanager
    def _noted(self, host: str, exchange: Exchange) -> Iterator[None]:
        """Register whether the host answered the request in the block or reset the connection.

        A connection that breaks after enough bytes does not count as a reset.
        """
        try:
            yield
        except NetworkError as error:
            if is_reset(error) and exchange.received < self._worth:
                self.pauses.reset(host, exchange.began)
            elif is_reset(error) or not error.retryable:
                self.pauses.answered(host, exchange.began)
            raise
        self.pauses.answered(host, exchange.began)

    @property
    def _worth(self) -> float:
        """Return the bytes that the least rate demands of one window."""
        return max(1, self._timeouts.least_rate * self._timeouts.stall)

    @contextmanager
    def _slot(self, url: str) -> Iterator[str]:
        """Hold one of the host's connections, outside of its pauses."""
        key = host = host_key(url)
        if key not in self._limits and key.rpartition(":")[0] in self._limits:
            key = key.rpartition(":")[0]
        with self._lock:
            limit = self._limits.get(key, _CONNECTIONS)
            slot = self._slots.setdefault(key, threading.Semaphore(limit))
        while not slot.acquire(timeout=POLL):
            if self._stop.is_set():
                raise Interrupted(f"stopped while waiting to ask {display_url(url)}")
        try:
            self.pauses.wait(host)
            yield host
        finally:
            slot.release()

    @contextmanager
    def _exchange(self, url: str) -> Iterator[Exchange]:
        if self._stop.is_set():
            raise Interrupted(f"stopped before asking {display_url(url)}")
        timeouts = self._timeouts
        with self._watch.exchange(
            display_url(url), proxy_for(url), timeouts.connect, timeouts.first_byte
        ) as exchange:
            yield exchange

    def _sent(self, url: str, request: _Request, exchange: Exchange) -> requests.Response:
        """Send the request and wait for the headers."""
        timeouts = self._timeouts
        name = exchange.name
        try:
            response = self._session.request(
                "GET" if request.payload is None else "POST",
                url,
                json=request.payload,
                headers=dict(request.headers),
                stream=True,
                allow_redirects=False,
                # The watchdog has shorter limits; these hold for connections it cannot watch.
                timeout=(timeouts.connect + 1, max(timeouts.first_byte, timeouts.stall) + 1),
            )
        except (InvalidHeader, InvalidSchema, InvalidURL, MissingSchema) as error:
            raise UsageError(f"{name} cannot be asked ({why(error)}): correct the URL") from error
        except requests.Timeout as error:
            exchange.check()
            raise Timeout(f"{name}: no answer in time ({why(error)})") from error
        except (requests.RequestException, HTTPError, HTTPException) as error:
            exchange.check()
            by_proxy = exchange.proxy is not None and is_by_proxy(error)
            if "certificate verify failed" in str(error).lower():
                whose = f"proxy {exchange.proxy}" if by_proxy else name
                raise RetryAfter(_untrusted(whose, error), None) from error
            if exchange.proxy and by_proxy:
                raise proxy_failure(url, name, exchange.proxy, why(error)) from error
            through = f" through proxy {exchange.proxy}" if exchange.proxy else ""
            raise Unreachable(f"{name} cannot be reached{through} ({why(error)})") from error
        except OSError as error:
            raise UsageError(f"{name} cannot be asked ({why(error)}): see the settings") from error
        try:
            # Headers cut off by the watchdog look complete to http.client.
            exchange.check()
            if response.status_code == 407 and exchange.proxy:
                reason = f"407 {printable(response.reason or '', 60)}"
                raise RetryAfter(proxy_failure(url, name, exchange.proxy, reason), None)
        except (Interrupted, Timeout, RetryAfter):
            response.close()
            raise
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


def _untrusted(name: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"{name}: the server's certificate is not valid ({why(error)}). Check this machine's "
        "clock, or name your network's own authority in SSL_CERT_FILE"
    )


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


def _part(answer: HttpResponse, span: Span, total: int | None, etag: str | None) -> Part:
    """Return the body of a 206 that is exactly what was requested."""
    same_etag(answer, etag)
    came, whole = answer.content_range()
    if total is not None and whole != total:
        raise SizeMismatch(f"{answer.name}: has {whole:,} bytes, but {total:,} are listed")
    if came != span:
        raise RangeMismatch(f"{answer.name}: expected bytes {span}, got {came}")
    if answer.length is not None and answer.length < span.length:
        raise Truncated(f"{answer.name}: {answer.length:,} bytes came of {span.length:,}")
    data = answer.body(span.length, None)
    if len(data) < span.length:
        raise Truncated(f"{answer.name}: {len(data):,} bytes came of {span.length:,}")
    return Part(data, answer.etag, whole)
