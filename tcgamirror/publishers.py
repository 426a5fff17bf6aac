"""What a mirror can be brought in step with: a directory, or a web server that publishes one.

A static server hands out `catalogue.db` as it lies there, even in the middle of
a change. So a copy is believed only if no journal with changes lies beside it,
if the file is the same after the download as before, and if SQLite finds it
whole (see `foreign`). `tcgamirror serve` names each copy by its digest instead,
which proves it whole at once.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import quote

from tcgamirror import database
from tcgamirror.answers import Answer, Meter, Pace, place
from tcgamirror.errors import (
    ChangedFile,
    CutShort,
    Damaged,
    Interrupted,
    Locked,
    NotAMirror,
    NotThere,
    TooLong,
)
from tcgamirror.files import YOUNG, digest, room
from tcgamirror.foreign import MOST_BYTES, Image
from tcgamirror.home import CATALOGUE, check_readable
from tcgamirror.settings import FILE_NAME
from tcgamirror.transport import Transport

AGAIN_AFTER = (1.0, 4.0)
"""Seconds to wait before a catalogue that is being changed is asked for again."""
BY_DIGEST = '"sha256-'
"""How the ETags of `tcgamirror serve` begin."""

_PIECE = 1 << 20
_JOURNALS = ("-wal", "-journal")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """One state of a source's catalogue.

    digest: SHA-256 of the copy. etag, modified: what the server called it.
    lasting: whether no change soon after it could be called the same.
    """

    digest: str
    etag: str | None = None
    modified: str | None = None
    lasting: bool = True


class Publisher(Protocol):
    """Where a mirror comes from. Any number of threads may fetch at once."""

    @property
    def name(self) -> str:
        """What it is called in messages, without credentials."""
        ...

    def catalogue(self, target: Path, known: Seen | None) -> Seen | None:
        """Writes a consistent copy at `target`; None if it is still what is `known`.

        Raises Locked if it is being changed all the time, NotAMirror if there is none.
        """
        ...

    def fetch(self, image: Image, file: BinaryIO) -> None:
        """Appends to `file` what it lacks of the image; may begin it anew.

        Raises NotThere, WrongTotal and other NetworkErrors, Damaged, Interrupted.
        """
        ...


class Folder:
    """A mirror's directory, on this machine or mounted here."""

    def __init__(self, root: Path, rate: float | None, stop: threading.Event) -> None:
        if not (root / FILE_NAME).is_file():
            raise NotAMirror(f"{root} is no mirror, it holds no {FILE_NAME}; name another source")
        self.root = root
        self._stop = stop
        self._pace = Pace(rate, stop)

    @property
    def name(self) -> str:
        return str(self.root)

    def catalogue(self, target: Path, known: Seen | None) -> Seen | None:
        del known  # A copy costs less than to find out whether it is needed.
        path = self.root / CATALOGUE
        if not path.is_file():
            raise Damaged(f"{path} is missing; {database.WAY_OUT}")
        check_readable(path)
        if path.stat().st_size > MOST_BYTES:
            raise Damaged(f"{path} has {path.stat().st_size:,} bytes, more than any catalogue has")
        target.unlink(missing_ok=True)
        with database.translated(path):
            _copy_pages(path, target)
        return Seen(digest(target, "sha256"))

    def fetch(self, image: Image, file: BinaryIO) -> None:
        with self._opened(image.path) as source:
            size = os.fstat(source.fileno()).st_size
            if size != image.bytes:
                raise Damaged(f"{image.path} has {size:,} bytes, recorded are {image.bytes:,}")
            source.seek(file.seek(0, os.SEEK_END))
            while piece := self._piece(source, image.path):
                if self._stop.is_set():
                    raise Interrupted("stopped while copying; the next sync goes on")
                file.write(piece)
                self._pace.keep(len(piece))

    def _piece(self, source: BinaryIO, path: str) -> bytes:
        try:
            return source.read(min(_PIECE, self._pace.piece))
        except OSError as error:
            raise Damaged(f"{self.root / path} cannot be read ({error.strerror})") from error

    @contextmanager
    def _opened(self, path: str) -> Iterator[BinaryIO]:
        try:
            # Without waiting: a pipe of that name would keep this process for ever.
            handle = os.open(self.root / path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise NotThere(f"{self.root / path} is missing") from error
        except OSError as error:
            raise Damaged(f"{self.root / path} cannot be read ({error.strerror})") from error
        with os.fdopen(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Damaged(f"{self.root / path} is no file")
            yield file


def _copy_pages(path: Path, target: Path) -> None:
    """A consistent copy of a catalogue, whatever others write meanwhile.

    Its schema is not read, as `database.connect` does: that may be such that it takes for ever.
    A journal that a killed writer left is finished or rolled back, by opening the file for
    writing; on a read-only medium it is read as one that nobody changes, if there is no journal.
    """
    journals = any(path.with_name(path.name + suffix).exists() for suffix in _JOURNALS)
    modes = ["ro", "rw"] if journals else ["ro", "rw", "ro&immutable=1"]
    for mode in modes:
        address = f"{path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(address, uri=True, timeout=database.BUSY_SECONDS)) as source:
            try:
                source.execute("PRAGMA schema_version").fetchone()
            except sqlite3.OperationalError as error:
                unwritable = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
                if mode == modes[-1] or error.sqlite_errorcode & 0xFF not in unwritable:
                    raise
            else:
                with database.translated(target), closing(sqlite3.connect(target)) as copy:
                    source.backup(copy)
                return


class Web:
    """A mirror's directory as a web server publishes it, whether or not it knows Range."""

    def __init__(self, address: str, transport: Transport, stop: threading.Event) -> None:
        self._address = address.rstrip("/")
        self._transport = transport
        self._stop = stop
        self.meter = Meter()

    @property
    def name(self) -> str:
        return place(self._address)

    def _url(self, path: str) -> str:
        return f"{self._address}/{quote(path)}"

    def _ask(self, path: str, take: Callable[[Answer], T], headers: Mapping[str, str]) -> T:
        plain = {"Accept-Encoding": "identity", **headers}
        return self._transport.ask(self._url(path), take, plain, meter=self.meter)

    def fetch(self, image: Image, file: BinaryIO) -> None:
        self._transport.download(self._url(image.path), file, size=image.bytes, meter=self.meter)

    def catalogue(self, target: Path, known: Seen | None) -> Seen | None:
        for pause in (*AGAIN_AFTER, None):
            seen = self._copied(target, known)
            if seen is not None and _named_by_digest(seen):
                return seen
            if seen is None and known is not None and _named_by_digest(known):
                return None
            changing = self._changing(seen)
            if changing is None:
                return seen
            if pause is None:
                raise Locked(
                    f"{self.name} is being changed ({changing}), and a plain web server cannot "
                    "give a whole catalogue meanwhile: try again when the update there has ended, "
                    "or publish it by tcgamirror serve"
                )
            if self._stop.wait(pause):
                break
        raise Interrupted("stopped while waiting for the source's catalogue")

    def _copied(self, target: Path, known: Seen | None) -> Seen | None:
        """The catalogue as it lies there, whole or not; None if it is still what is known."""

        def taken(answer: Answer) -> Seen | None:
            if answer.status == 304:
                return None
            answer.judge(200)
            answer.unpacked_only()
            if answer.is_page:
                raise answer.other("the catalogue")
            return _written(answer, target)

        try:
            return self._ask(CATALOGUE, taken, {} if known is None else _unless(known))
        except NotThere as error:
            raise NotAMirror(
                f"{self.name} publishes no mirror, it has no {CATALOGUE}; correct the address"
            ) from error

    def _changing(self, seen: Seen | None) -> str | None:
        """Why the catalogue there is not at rest; None if it is."""
        # Of a catalogue that is as it was only new changes beside it would be news.
        for suffix in _JOURNALS[:1] if seen is None else _JOURNALS:
            if self._ask(CATALOGUE + suffix, _has_bytes, {"Range": "bytes=0-0"}):
                return f"{CATALOGUE}{suffix} is not empty"
        if seen is None or not (headers := _unless(seen)):
            return None
        same = self._ask(CATALOGUE, lambda answer: answer.status == 304, headers)
        return None if same else f"{CATALOGUE} is another one after its download"


def _unless(seen: Seen) -> dict[str, str]:
    """The headers that have the server send nothing if the catalogue is still the same."""
    told = {"If-None-Match": seen.etag, "If-Modified-Since": seen.modified}
    return {name: value for name, value in told.items() if value is not None}


def _has_bytes(answer: Answer) -> bool:
    if answer.status in (403, 404, 410, 416):
        return False
    answer.judge(200, 206)
    return answer.length != 0


def _written(answer: Answer, target: Path) -> Seen:
    """Puts the body at `target`. Raises TooLong, CutShort, and NoRoom as `files.room` does."""
    if (answer.length or 0) > MOST_BYTES:
        raise TooLong(f"{answer.name}: a catalogue of {answer.length:,} bytes is none")
    taken = hashlib.sha256(usedforsecurity=False)
    count = 0
    with room(target), target.open("wb") as file:
        for piece in answer.pieces():
            count += len(piece)
            if count > MOST_BYTES:
                raise TooLong(f"{answer.name}: longer than {MOST_BYTES:,} bytes")
            taken.update(piece)
            file.write(piece)
    if answer.length and count != answer.length:
        raise CutShort(f"{answer.name}: ended after {count:,} bytes of {answer.length:,}")
    modified = answer.headers.get("Last-Modified")
    seen = Seen(taken.hexdigest(), answer.etag, modified, _is_lasting(answer))
    if (seen.etag or "").startswith(BY_DIGEST) and not _named_by_digest(seen):
        raise ChangedFile(f"{answer.name}: the bytes that came are not those it names")
    return seen


def _named_by_digest(seen: Seen) -> bool:
    return seen.etag == f'{BY_DIGEST}{seen.digest}"'


def _is_lasting(answer: Answer) -> bool:
    """Whether the file had been left alone for a while, by the server's own clock.

    Servers make their tags of the file's time, and file systems tell that to a second or two.
    """
    changed = answer.headers.get("Last-Modified")
    if changed is None:
        return True
    try:
        now, then = map(parsedate_to_datetime, (answer.headers.get("Date", ""), changed))
        return now.timestamp() - then.timestamp() > YOUNG
    except (ValueError, TypeError, OverflowError):
        return False
