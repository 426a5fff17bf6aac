"""An HTTP response: status, headers and body, each checked before it is believed."""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPException

import requests
from urllib3.exceptions import HTTPError

from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import (
    Interrupted,
    NetworkError,
    NotFound,
    RangeMismatch,
    Refused,
    ServerError,
    SizeMismatch,
    TooLong,
    Truncated,
    WrongContent,
)
from tcgamirror.model.text import printable
from tcgamirror.net.exchange import Exchange
from tcgamirror.net.throttle import Meter, RateLimit
from tcgamirror.net.timeouts import Timeouts

_MESSAGE = 64 << 10

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


class RetryAfter(Exception):
    """A failed request, with the wait before the next try.

    `pause` is the seconds that the server asks to wait; None if a retry is useless.
    """

    def __init__(self, error: NetworkError, pause: float | None) -> None:
        super().__init__(error)
        self.error = error
        self.pause = pause


class HttpResponse:
    """Status and headers of one response, and its body as a stream.

    Attributes:
        line: The status line as sent.
        status: The status as understood: 203 is 200, or 206 with a Content-Range.
        length: Bytes of the body by the headers; None if they do not tell.
    """

    def __init__(
        self,
        response: requests.Response,
        exchange: Exchange,
        timeouts: Timeouts,
        rate: RateLimit,
        meter: Meter,
    ) -> None:
        self.name = exchange.name
        self.headers = response.headers
        self.line = f"{response.status_code} {printable(response.reason or '', 60)}".strip()
        self.status = response.status_code
        if self.status == 203:
            # A proxy changed the answer, or the file is an older version.
            self.status = 206 if "Content-Range" in self.headers else 200
        self._raw = response.raw
        self.length: int | None = response.raw.length_remaining
        self._exchange = exchange
        self._timeouts = timeouts
        self._rate = rate
        self._meter = meter

    @property
    def etag(self) -> str | None:
        return self.headers.get("ETag")

    @property
    def kind(self) -> str:
        """Return the content type without parameters, in lower case."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def pieces(self, whole: float | None = None) -> Iterator[bytes]:
        """Yield the raw body in pieces of at most 256 KiB.

        Args:
            whole: Seconds from the request's start to the body's end. The time that the caller
                and the rate limit take between pieces does not count.

        Raises:
            Timeout, Truncated, Interrupted: The body did not end in time, or was cut off.
        """
        timeouts, exchange = self._timeouts, self._exchange
        slow = f"fewer than {timeouts.least_rate:g} bytes/s came for {timeouts.stall:g} s"
        long = f"the answer was not whole after {whole:g} s" if whole is not None else slow
        end = exchange.start + whole if whole is not None else float("inf")
        since, got = time.monotonic(), 0
        while True:
            window = since + timeouts.stall
            exchange.expect(slow if window < end else long, min(window, end))
            piece = self._piece()
            if not piece:
                return
            paused = time.monotonic()
            exchange.lift_limit()
            exchange.bytes_received += len(piece)
            self._meter.add(count=len(piece))
            self._rate.wait_for(len(piece))
            exchange.check()
            yield piece
            now = time.monotonic()
            since, end, got = since + now - paused, end + now - paused, got + len(piece)
            if got >= timeouts.least_rate * timeouts.stall:
                since, got = now, 0

    def _piece(self) -> bytes:
        try:
            piece: bytes = self._raw.read1(self._rate.piece, decode_content=False)
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            raise Truncated(
                f"{self.name}: the connection broke within the body ({why(error)})"
            ) from error
        return piece

    def body(self, limit: int, whole: float | None = None) -> bytearray:
        """Return the whole body, of at most `limit` bytes. Raises TooLong, and as `pieces` does."""
        # Filled in place: many connections at once hold each of their bytes only once.
        content, size = bytearray(min(limit, self.length or 0)), 0
        for piece in self._bounded(limit, whole):
            content[size : size + len(piece)] = piece
            size += len(piece)
        del content[size:]
        return content

    def small_pieces(self, limit: int) -> Iterator[bytes]:
        """Yield the body of a small response, limited in time and to `limit` bytes."""
        return self._bounded(limit, self._timeouts.whole)

    def _bounded(self, limit: int, whole: float | None) -> Iterator[bytes]:
        self._bound(self.length or 0, limit)
        count = 0
        for piece in self.pieces(whole):
            count += len(piece)
            self._bound(count, limit)
            yield piece
        if not count and self.length is None:
            # A connection that ends within the headers looks the same.
            raise Truncated(f"{self.name}: nothing came, neither a body nor its length")

    def inflated(self, limit: int) -> bytes | bytearray:
        """Return a small response's body, decompressed if it is gzip; `limit` holds for both."""
        if self._encoding != "gzip":
            self.unpacked_only()
            return self.body(limit, self._timeouts.whole)
        unpacker = zlib.decompressobj(wbits=31)
        try:
            content = unpacker.decompress(self.body(limit, self._timeouts.whole), limit + 1)
        except zlib.error as error:
            raise WrongContent(f"{self.name}: invalid gzip in the body") from error
        self._bound(len(content), limit)
        if not unpacker.eof:
            raise Truncated(f"{self.name}: the packed body ends too early")
        return content

    def _bound(self, count: int, limit: int) -> None:
        if count > limit:
            raise TooLong(f"{self.name}: the answer is longer than {limit:,} bytes")

    @property
    def _encoding(self) -> str:
        """Return the compression of the body; empty if there is none."""
        encoding: str = self.headers.get("Content-Encoding", "").strip().lower()
        return "" if encoding == "identity" else encoding

    @property
    def is_page(self) -> bool:
        """Return whether the headers announce HTML or XML, as they may for any file."""
        return "html" in self.kind or "xml" in self.kind

    def other(self, expected: str) -> WrongContent:
        """Return the error for a well-formed response that is not what was requested."""
        size = "" if self.length is None else f" ({self.length:,} bytes)"
        came = f"{_content(self.kind)}{size}" if self.length != 0 else "an empty body"
        return WrongContent(f"{self.name}: came {came} instead of {expected}; try again later")

    def unpacked_only(self) -> None:
        """Raise WrongContent for a packed body where a file's bytes belong."""
        if self._encoding:
            raise WrongContent(f"{self.name}: came packed as {printable(self._encoding, 40)}")

    def content_range(self) -> tuple[Span, int]:
        """Return the body's span of the file, and the file's size. Raises RangeMismatch."""
        text = self.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(text.strip())
        if match is None:
            shown = printable(text, 60) or "no Content-Range"
            raise RangeMismatch(f"{self.name}: came a part, but which is not clear ({shown})")
        return Span(int(match[1]), int(match[2]) + 1), int(match[3])

    def judge(self, *accepted: int) -> None:
        """Raise the error for the status, unless it is accepted.

        Raises:
            NotFound: 404 or 410.
            ServerError: 429 or 5xx; within a RetryAfter, if the server names a time.
            SizeMismatch: 416, a range beyond the end.
            Refused: Any other 4xx.
            WrongContent: Any other status.
        """
        status = self.status
        if status in accepted:
            return
        if status in (404, 410):
            raise NotFound(f"{self.name}: not found ({status})")
        if status == 429 or status >= 500:
            error = ServerError(f"{self.name}: the server is in trouble ({status})")
            pause = retry_after(self.headers.get("Retry-After"))
            if pause is None:
                raise error
            raise RetryAfter(error, pause if pause <= self._timeouts.retry_after_limit else None)
        if status == 416:
            raise SizeMismatch(f"{self.name}: the file ends before the bytes asked for (416)")
        if 400 <= status < 500:
            raise Refused(f"{self.name}: refused ({status}{self._message()})")
        raise WrongContent(f"{self.name}: answered with status {status}, which is unexpected")

    def _message(self) -> str:
        with suppress(NetworkError, Interrupted, ValueError, RecursionError):
            content = json.loads(self.body(_MESSAGE, self._timeouts.stall))
            if isinstance(content, dict) and isinstance(content.get("message"), str):
                return f": {printable(content['message'])}"
        return ""


def parsed(name: str, kind: str, content: bytes | bytearray) -> object:
    """Return the JSON of a body. Raises WrongContent, naming what came instead."""
    try:
        value: object = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        head = content[:1024].lstrip().lower()
        page = "html" in kind or head.startswith((b"<!doctype", b"<html"))
        came = _content("html" if page else kind) if content else "an empty body"
        raise WrongContent(f"{name}: came {came} instead of JSON; try again later") from error
    return value


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _content(kind: str) -> str:
    if "html" in kind:
        return "an HTML page"
    if "xml" in kind:
        return "an XML message"
    return f"something of type {printable(kind, 40) or 'unknown'}"


def retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After, which may also be a date.

    >>> retry_after("7"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after("soon")
    (7.0, 0.0, None)
    """
    if text is None:
        return None
    if re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def why(error: BaseException) -> str:
    """Return the innermost reason of an error that libraries have wrapped."""
    error = root_cause(error)
    return printable(str(error) or type(error).__name__)


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost error of those that others were raised from."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
