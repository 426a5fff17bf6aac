"""WSGI application that publishes a mirror, for browsers and for sync.

It serves three things: images that the catalogue records, a whole copy of the
catalogue, and the gallery. A path is looked up or split into plain names, which are
opened one below the other without following links. Source: RFC 9110 (conditions and
ranges).
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tcgamirror.mirror.directory import CATALOGUE, GALLERY
from tcgamirror.model.errors import TcgaMirrorError
from tcgamirror.model.text import format_bytes
from tcgamirror.system.openat import Tree
from tcgamirror.web.snapshot import Snapshots

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

FRONT = f"{GALLERY}/index.html"
TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
"""Content types by suffix; files with other suffixes are not served."""

_ALWAYS = (
    # An image may be replaced under its name; asking again costs an empty response.
    ("Cache-Control", "no-cache"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_MAX_PARTS = 4
_NOT_FOUND = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG, errno.ENXIO)
)
"""Errors of a missing name, of a link, and of a file that may not be read."""


@dataclass(frozen=True, slots=True)
class Reply:
    """HTTP response. file: source of the body, from its current position."""

    status: str
    headers: Sequence[tuple[str, str]]
    body: bytes = b""
    file: BinaryIO | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _File:
    """Open file to serve. changed: seconds since the epoch, None to send no date."""

    file: BinaryIO
    size: int
    kind: str
    etag: str
    changed: float | None


class Site:
    """The application, for any number of threads; it writes nothing."""

    def __init__(self, root: Path, snapshots: Snapshots) -> None:
        self._root = root
        self._snapshots = snapshots

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reply = self._reply(environ)
        start_response(reply.status, [*reply.headers, *_ALWAYS])
        if environ["REQUEST_METHOD"] == "HEAD":
            if reply.file is not None:
                reply.file.close()
            return []
        if reply.file is None:
            return [reply.body]
        body: Iterable[bytes] = environ["wsgi.file_wrapper"](reply.file, 1 << 16)
        return body

    def _reply(self, environ: WSGIEnvironment) -> Reply:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            allow = ("Allow", "GET, HEAD")
            return _text_reply("405 Method Not Allowed", "Only GET and HEAD.", allow)
        try:
            path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8")
            if path in ("", "/"):
                return self._front()
            served = self._find(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return _text_reply("404 Not Found", "Not found.")
        except (TcgaMirrorError, OSError, MemoryError):
            later = ("Retry-After", "10")
            return _text_reply("503 Service Unavailable", "The mirror cannot be read now.", later)
        return _file_reply(served, environ)

    def _find(self, path: str) -> _File:
        """Return the file at a path; raise FileNotFoundError or ValueError if there is none."""
        if path == f"/{CATALOGUE}":
            snapshot, file = self._snapshots.open()
            size = os.fstat(file.fileno()).st_size
            return _File(file, size, "application/vnd.sqlite3", _digest_etag(snapshot.sha256), None)
        image = self._snapshots.current().images.get(path[1:])
        if image is not None:
            # The catalogue's path, not that of the request.
            served = _open(self._root, image.path.split("/"))
            if image.done and served.size == image.bytes:
                return replace(served, etag=_digest_etag(image.sha256))
            return served
        names = path[1:].split("/")
        is_page = names[0] == GALLERY and 1 < len(names) <= _MAX_PARTS
        if not is_page or not all(map(_NAME.fullmatch, names)):
            raise FileNotFoundError(path)
        return _open(self._root, names)

    def _front(self) -> Reply:
        """Redirect to the gallery if there is one, else say what is there."""
        try:
            _open(self._root, FRONT.split("/")).file.close()
        except OSError:
            snapshot = self._snapshots.current()
            counts = snapshot.counts
            return _text_reply(
                "200 OK",
                f"A mirror of TCGA slides: {counts.done:,} of {counts.sampled:,} slides, "
                f"{format_bytes(counts.bytes)}, {snapshot.fixed}.\n"
                f"/{CATALOGUE} is its catalogue (SQLite). "
                "Make pages that show the slides by tcgamirror gallery.",
            )
        return _text_reply("302 Found", "See the gallery.", ("Location", f"/{FRONT}"))


def _open(root: Path, names: Sequence[str]) -> _File:
    """Open a regular file below `root`, directory by directory, without following links."""
    kind = TYPES.get(Path(names[-1]).suffix)
    if kind is None:
        raise FileNotFoundError(names[-1])
    try:
        # The root is opened each time, because its disk may be unmounted and mounted again.
        file = io.BufferedReader(Tree(root).open("/".join(names)))
    except OSError as error:
        if error.errno in _NOT_FOUND:
            raise FileNotFoundError(names[-1]) from error
        raise
    status = os.fstat(file.fileno())
    etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"'
    return _File(file, status.st_size, kind, etag, status.st_mtime)


def _digest_etag(sha256: str) -> str:
    return f'"sha256-{sha256}"'


# Conditions and ranges -------------------------------------------------------------


def _file_reply(served: _File, environ: WSGIEnvironment) -> Reply:
    headers = [("ETag", served.etag), ("Accept-Ranges", "bytes")]
    if served.changed is not None:
        headers.append(("Last-Modified", formatdate(served.changed, usegmt=True)))
    if _is_not_modified(served, environ):
        served.file.close()
        return Reply("304 Not Modified", headers)
    headers.append(("Content-Type", served.kind))
    span = None
    if environ.get("HTTP_IF_RANGE", served.etag) == served.etag:
        span = parse_range(environ.get("HTTP_RANGE", ""), served.size)
    if span is None:
        headers.append(("Content-Length", str(served.size)))
        return Reply("200 OK", headers, file=served.file)
    start, stop = span
    if start >= stop:
        served.file.close()
        place = ("Content-Range", f"bytes */{served.size}")
        return _text_reply("416 Range Not Satisfiable", "The file is shorter.", place)
    served.file.seek(start)
    headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{served.size}"))
    headers.append(("Content-Length", str(stop - start)))
    return Reply("206 Partial Content", headers, file=served.file)


def _is_not_modified(served: _File, environ: WSGIEnvironment) -> bool:
    """Return whether the client has this version of the file (RFC 9110, 13.1)."""
    tags = environ.get("HTTP_IF_NONE_MATCH")
    if tags is not None:
        known = {tag.strip().removeprefix("W/") for tag in tags[:4096].split(",")}
        return served.etag in known or "*" in known
    since = environ.get("HTTP_IF_MODIFIED_SINCE")
    if since is None or served.changed is None:
        return False
    try:
        return int(served.changed) <= parsedate_to_datetime(since[:100]).timestamp()
    except (ValueError, TypeError, OverflowError):
        return False


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Return start and stop of a Range header's bytes, or None for the whole file.

    An invalid header and several ranges stand for the whole file. The range is empty if it
    lies beyond the end.

    >>> parse_range("bytes=0-9", 100), parse_range("bytes=90-", 100), parse_range("bytes=-5", 100)
    ((0, 10), (90, 100), (95, 100))
    >>> parse_range("bytes=100-", 100), parse_range("bytes=9-0", 100)
    ((100, 100), None)
    >>> parse_range("bytes=0-1,5-6", 100)
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    start, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return None
    return min(start, size), min(last + 1, size)


# Replies without a file -------------------------------------------------------------------


def _text_reply(status: str, text: str, *headers: tuple[str, str]) -> Reply:
    body = f"{text}\n".encode()
    described = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    return Reply(status, [*described, *headers], body)
