"""A mirror as a web site, to be looked at and to be synced from: a WSGI application.

Only three things are there: the images the catalogue tells of, a whole copy of
the catalogue, and the pages of the gallery. A path is looked up or taken apart
into plain names; it is never joined and followed, and no link is. Sources: RFC
9110 (conditions and ranges).
"""

from __future__ import annotations

import errno
import html
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tcgamirror.mirror.directory import CATALOGUE, GALLERY
from tcgamirror.model.errors import TcgaMirrorError
from tcgamirror.model.text import format_bytes
from tcgamirror.system.openat import Tree
from tcgamirror.web.snapshot import Snapshot, Snapshots

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
"""What of the gallery is served, and as what; nothing else is."""

_ALWAYS = (
    # Asking again costs an empty answer; an image may be replaced under its name.
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
_MOST_FOLDERS = 4
_NOT_FOR_US = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG, errno.ENXIO)
)
"""How the system says that there is nothing of that name, or a link, or nothing to be read."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer without its body. file: what the body is read from, from where it stands."""

    status: str
    headers: Sequence[tuple[str, str]]
    body: bytes = b""
    file: BinaryIO | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Thing:
    """A file to answer with. changed: seconds since the epoch; None if that is not to be told."""

    file: BinaryIO
    size: int
    kind: str
    etag: str
    changed: float | None


class Site:
    """The application. It may be called by any number of threads, and writes nothing."""

    def __init__(self, root: Path, snapshots: Snapshots) -> None:
        self._root = root
        self._snapshots = snapshots

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reply = self._reply(environ)
        start_response(reply.status, [*reply.headers, *_ALWAYS])
        if environ["REQUEST_METHOD"] == "HEAD" or reply.file is None:
            if reply.file is not None:
                reply.file.close()
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.body]
        sent: Iterable[bytes] = environ["wsgi.file_wrapper"](reply.file, 1 << 16)
        return sent

    def _reply(self, environ: WSGIEnvironment) -> Reply:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _words("405 Method Not Allowed", "Only GET and HEAD.", ("Allow", "GET, HEAD"))
        try:
            path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8")
            if path in ("", "/"):
                return self._front()
            thing = self._thing(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return _words("404 Not Found", "There is no such thing here.")
        except (TcgaMirrorError, OSError, MemoryError):
            later = ("Retry-After", "10")
            return _words("503 Service Unavailable", "The mirror cannot be read now.", later)
        return _answer(thing, environ)

    def _thing(self, path: str) -> _Thing:
        """The file at that path. Raises FileNotFoundError, ValueError or what keeps it from us."""
        if path == f"/{CATALOGUE}":
            snapshot, file = self._snapshots.opened()
            size = os.fstat(file.fileno()).st_size
            return _Thing(file, size, "application/vnd.sqlite3", _by_digest(snapshot.sha256), None)
        image = self._snapshots.now().images.get(path[1:])
        if image is not None:
            # The name that was looked up, so without anything that leads elsewhere.
            thing = _open(self._root, image.path.split("/"))
            if image.done and thing.size == image.bytes:
                return _Thing(
                    thing.file, thing.size, thing.kind, _by_digest(image.sha256), thing.changed
                )
            return thing
        names = path[1:].split("/")
        if names[0] != GALLERY or not 1 < len(names) <= _MOST_FOLDERS:
            raise FileNotFoundError(path)
        if not all(map(_NAME.fullmatch, names)):
            raise FileNotFoundError(path)
        return _open(self._root, names)

    def _front(self) -> Reply:
        """The gallery, if there is one, else what there is in numbers."""
        try:
            _open(self._root, FRONT.split("/")).file.close()
        except OSError:
            page = _page(self._snapshots.now()).encode()
            kind = ("Content-Type", TYPES[".html"])
            return Reply("200 OK", [kind, ("Content-Length", str(len(page)))], page)
        return _words("302 Found", "See the gallery.", ("Location", f"/{FRONT}"))


def _open(root: Path, names: Sequence[str]) -> _Thing:
    """The plain file of that name, reached from `root` folder by folder without any link."""
    kind = TYPES.get(Path(names[-1]).suffix)
    if kind is None:
        raise FileNotFoundError(names[-1])
    try:
        # A handle for each, as the disk of a mirror may go away and come back.
        file = io.BufferedReader(Tree(root).open("/".join(names)))
    except OSError as error:
        if error.errno in _NOT_FOR_US:
            raise FileNotFoundError(names[-1]) from error
        raise
    found = os.fstat(file.fileno())
    etag = f'"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"'
    return _Thing(file, found.st_size, kind, etag, found.st_mtime)


def _by_digest(sha256: str) -> str:
    return f'"sha256-{sha256}"'


# Conditions and ranges -------------------------------------------------------------


def _answer(thing: _Thing, environ: WSGIEnvironment) -> Reply:
    headers = [("ETag", thing.etag), ("Accept-Ranges", "bytes")]
    if thing.changed is not None:
        headers.append(("Last-Modified", formatdate(thing.changed, usegmt=True)))
    if _is_known(thing, environ):
        thing.file.close()
        return Reply("304 Not Modified", headers)
    headers.append(("Content-Type", thing.kind))
    span = None
    if environ.get("HTTP_IF_RANGE", thing.etag) == thing.etag:
        span = wanted(environ.get("HTTP_RANGE", ""), thing.size)
    if span is None:
        headers.append(("Content-Length", str(thing.size)))
        return Reply("200 OK", headers, file=thing.file)
    start, stop = span
    if start >= stop:
        thing.file.close()
        place = ("Content-Range", f"bytes */{thing.size}")
        return _words("416 Range Not Satisfiable", "It has no such bytes.", place)
    thing.file.seek(start)
    headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{thing.size}"))
    headers.append(("Content-Length", str(stop - start)))
    return Reply("206 Partial Content", headers, file=thing.file)


def _is_known(thing: _Thing, environ: WSGIEnvironment) -> bool:
    """Whether the client says that it has it as it is."""
    tags = environ.get("HTTP_IF_NONE_MATCH")
    if tags is not None:
        known = {tag.strip().removeprefix("W/") for tag in tags[:4096].split(",")}
        return thing.etag in known or "*" in known
    since = environ.get("HTTP_IF_MODIFIED_SINCE")
    if since is None or thing.changed is None:
        return False
    try:
        return int(thing.changed) <= parsedate_to_datetime(since[:100]).timestamp()
    except (ValueError, TypeError, OverflowError):
        return False


def wanted(text: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last that a Range asks for; None for all of them.

    What is no range, or several, asks for all; none of the bytes if it lies beyond the end.

    >>> wanted("bytes=0-9", 100), wanted("bytes=90-", 100), wanted("bytes=-5", 100)
    ((0, 10), (90, 100), (95, 100))
    >>> wanted("bytes=100-", 100), wanted("bytes=9-0", 100), wanted("bytes=0-1,5-6", 100)
    ((100, 100), None, None)
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


# What is no file -------------------------------------------------------------------


def _words(status: str, words: str, *headers: tuple[str, str]) -> Reply:
    body = f"{words}\n".encode()
    about = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    return Reply(status, [*about, *headers], body)


def _page(snapshot: Snapshot) -> str:
    counts = snapshot.counts
    facts = {
        "images": f"{counts.done:,} of {counts.sampled:,} slides, {format_bytes(counts.bytes)}",
        "each": snapshot.fixed,
        "listing": counts.release or "none yet",
        "pending, failed": f"{counts.pending:,}, {counts.failed:,}",
    }
    rows = "".join(
        f"<tr><th scope=row>{html.escape(name)}<td>{html.escape(words)}\n"
        for name, words in facts.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta name="color-scheme" content="light dark">\n<title>TCGA mirror</title>\n'
        f"<h1>A mirror of TCGA slides</h1>\n<table>\n{rows}</table>\n"
        f'<p><a href="/{CATALOGUE}">{CATALOGUE}</a> is its catalogue (SQLite).\n'
        "<p>Pages that show the slides are made by <code>tcgamirror gallery</code>.\n</html>\n"
    )
