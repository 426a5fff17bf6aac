"""What the stand-in hears and says, before any of it is on the wire."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol
from xml.sax.saxutils import escape

Host = Literal["api", "bucket"]
Headers = tuple[tuple[str, str], ...]

_PREFIX = re.compile(r"^(/auth/api)?(/v0)?(?=/)")
_ONE_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


class Body(Protocol):
    """Bytes to be sent; `length` is their number."""

    @property
    def length(self) -> int: ...

    def chunks(self, size: int) -> Iterator[bytes]:
        """The bytes in order, at most `size` of them at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Content:
    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)

    def chunks(self, size: int) -> Iterator[bytes]:
        for start in range(0, len(self.data), size):
            yield self.data[start : start + size]


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes of a file from the byte `start` on."""

    path: Path
    start: int
    length: int

    def chunks(self, size: int) -> Iterator[bytes]:
        left = self.length
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left and (chunk := file.read(min(size, left))):
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True, slots=True)
class Request:
    """One request; headers have lower-case names, `target` is path and query as they came.

    fault: the kind of fault that the server has with it.
    """

    host: Host
    method: str
    target: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    fault: str | None = None

    @property
    def endpoint(self) -> str:
        """The path without the prefix of an API version.

        >>> Request("api", "GET", "", "/auth/api/v0/tile/metadata/x", {}, {}).endpoint
        '/tile/metadata/x'
        """
        return _PREFIX.sub("", self.path)

    @property
    def is_tile(self) -> bool:
        return self.host == "api" and self.endpoint.startswith("/tile/")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; Content-Length is not among the headers, it follows from the body."""

    status: int
    headers: Headers
    body: Body

    def with_header(self, name: str, value: str | None) -> Answer:
        """Return the answer with another value of a header; None leaves the header out."""
        kept = tuple(pair for pair in self.headers if pair[0] != name)
        return replace(self, headers=kept if value is None else (*kept, (name, value)))


def text(status: int, content: str, kind: str, headers: Headers = ()) -> Answer:
    return Answer(status, (("Content-Type", kind), *headers), Content(content.encode()))


def of_json(value: object, status: int = 200, headers: Headers = ()) -> Answer:
    return text(status, json.dumps(value), "application/json", headers)


def refusal(status: int, message: str) -> Answer:
    """An error as the API words it."""
    return of_json({"message": message}, status)


def s3_refusal(status: int, code: str, message: str, key: str = "") -> Answer:
    """An error as S3 words it."""
    content = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>"
        f"<Key>{escape(key)}</Key><RequestId>0123456789ABCDEF</RequestId></Error>"
    )
    return text(status, content, "application/xml")


def wanted_span(value: str | None, size: int) -> tuple[int, int] | None:
    """The half-open span of a file of `size` bytes that a Range header asks for.

    None stands for the whole file: no header, one that cannot be read, or several ranges.
    An empty span stands for one that the file does not have.

    >>> wanted_span("bytes=2-5", 10), wanted_span("bytes=-3", 10), wanted_span("bytes=8-99", 10)
    ((2, 6), (7, 10), (8, 10))
    >>> wanted_span("bytes=10-", 10), wanted_span("bytes=0-1,4-5", 10)
    ((10, 10), None)
    """
    match = _ONE_RANGE.match(value or "")
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        return max(0, size - int(match[2])), size
    start = int(match[1])
    if match[2] == "":
        return min(start, size), size
    end = int(match[2]) + 1
    if end <= start:
        return None
    return min(start, size), min(end, size)


def of_file(path: Path, request: Request, headers: Headers, *, ranges: bool) -> Answer:
    """A file, or the one range of it that was asked for."""
    size = path.stat().st_size
    ignored = request.fault == "range-ignored" or not ranges
    asked = None if ignored else request.headers.get("range")
    span = wanted_span(asked, size)
    if span is None:
        return Answer(200, headers, Span(path, 0, size))
    start, end = span
    if start == end:
        return Answer(416, (("Content-Range", f"bytes */{size}"),), Content(b""))
    content_range = ("Content-Range", f"bytes {start}-{end - 1}/{size}")
    return Answer(206, (*headers, content_range), Span(path, start, end - start))
