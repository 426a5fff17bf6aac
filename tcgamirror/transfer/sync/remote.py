"""What a mirror can be brought in step with: a directory, or a web server that publishes one.

A static server hands out `catalogue.db` as it lies there, even in the middle of
a change. So a copy is believed only if no journal with changes lies beside it,
if the file is the same after the download as before, and if SQLite finds it
whole (see `foreign`). `tcgamirror serve` names each copy by its digest instead,
which proves it whole at once.
"""

from __future__ import annotations

import io
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, Protocol, Self, TypeVar
from urllib.parse import quote

from tcgamirror.catalogue import database
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.journals import JOURNALS, ROLLBACK, WAL, copy_database
from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.mirror.settings import FILE_NAME
from tcgamirror.model.errors import (
    ChangedFile,
    Damaged,
    Interrupted,
    Locked,
    NotAMirror,
    NotFound,
    TooLong,
    Truncated,
    UsageError,
)
from tcgamirror.model.text import display_url
from tcgamirror.net.client import HttpClient
from tcgamirror.net.response import HttpResponse
from tcgamirror.net.throttle import Meter, RateLimit
from tcgamirror.system.files import YOUNG, disk_errors, file_digest
from tcgamirror.system.openat import Tree
from tcgamirror.transfer.untrusted import MAX_BYTES

AGAIN_AFTER = (1.0, 4.0)
"""Seconds to wait before a catalogue that is being changed is asked for again."""
BY_DIGEST = '"sha256-'
"""How the ETags of `tcgamirror serve` begin."""

_PIECE = 1 << 20

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

    @classmethod
    def of(cls, path: Path, folder: Path) -> Self:
        """Give a copy that was written to its end its name in the folder."""
        seen = cls(file_digest(path, "sha256"))
        path.replace(seen.path(folder))
        return seen

    def path(self, folder: Path) -> Path:
        """Return where a copy of it lies in a folder: under a name that no other copy has."""
        return folder / f"{self.digest}.db"


class Publisher(Protocol):
    """Where a mirror comes from. Any number of threads may fetch at once."""

    @property
    def name(self) -> str:
        """What it is called in messages, without credentials."""
        ...

    def catalogue(self, folder: Path, known: Seen | None) -> Seen | None:
        """Write a consistent copy into a folder of this process alone, under its digest.

        Return None if it is still what is `known`. Raises Locked if it is being changed all
        the time, NotAMirror if there is none.
        """
        ...

    def fetch(self, image: Image, file: BinaryIO) -> None:
        """Appends to `file` what it lacks of the image; may begin it anew.

        Raises NotFound, SizeMismatch and other NetworkErrors, Damaged, Interrupted.
        """
        ...


class Folder:
    """A mirror's directory, on this machine or mounted here."""

    def __init__(self, root: Path, rate: float | None, stop: threading.Event) -> None:
        try:
            self._tree = Tree(root)
            self._tree.open(FILE_NAME).close()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotAMirror(
                f"{root} is no mirror, it holds no {FILE_NAME}; name another source"
            ) from error
        except OSError as error:
            raise NotAMirror(
                f"{root / FILE_NAME} cannot be read ({error.strerror}); name another source"
            ) from error
        self.root = root
        self._stop = stop
        self._pace = RateLimit(rate, stop)

    @property
    def name(self) -> str:
        return str(self.root)

    def catalogue(self, folder: Path, known: Seen | None) -> Seen | None:
        del known  # A copy costs less than to find out whether it is needed.
        path = self.root / CATALOGUE
        try:
            copy = copy_database(self._tree, CATALOGUE, folder, MAX_BYTES)
        except FileNotFoundError as error:
            raise Damaged(f"{path} is missing; {database.REMEDY}") from error
        except PermissionError as error:
            raise UsageError(
                f"{path} cannot be read by this user; change its permissions"
            ) from error
        except OSError as error:
            raise Damaged(f"{path} cannot be read ({error.strerror})") from error
        return Seen.of(_settled(copy, folder), folder)

    def small(self, name: str, folder: Path, most: int) -> Path:
        """Copy settings or a lock file of at most so many bytes into a folder; where it is then.

        Raises UsageError if it cannot be read.
        """
        copy = folder / name
        try:
            opened = self._tree.open(name)
        except OSError as error:
            raise UsageError(f"{self.root / name} cannot be read: {error.strerror}") from error
        with opened as source, disk_errors(copy), copy.open("xb") as file:
            while piece := self._piece(source, name):
                file.write(piece)
                if file.tell() > most:
                    raise Damaged(f"{self.root / name} has more than {most:,} bytes")
        return copy

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
                self._pace.wait_for(len(piece))

    def _piece(self, source: io.FileIO, path: str) -> bytes:
        try:
            return source.read(min(_PIECE, self._pace.piece))
        except OSError as error:
            raise Damaged(f"{self.root / path} cannot be read ({error.strerror})") from error

    def _opened(self, path: str) -> io.FileIO:
        try:
            return self._tree.open(path)
        except FileNotFoundError as error:
            raise NotFound(f"{self.root / path} is missing") from error
        except OSError as error:
            raise Damaged(f"{self.root / path} cannot be read ({error.strerror})") from error


def _settled(copy: Path, folder: Path) -> Path:
    """Return a copied database in one file, its journals played back in a further copy.

    Its schema is not read, as `database.connect` does: that may be such that it takes for ever.
    """
    journals = [copy.with_name(copy.name + suffix) for suffix in JOURNALS]
    if not any(path.exists() and path.stat().st_size for path in journals):
        return copy
    target = folder / "settled.db"
    target.unlink(missing_ok=True)
    with (
        database.translate_errors(copy),
        closing(sqlite3.connect(copy)) as source,
        closing(sqlite3.connect(target)) as settled,
    ):
        source.backup(settled)
    for path in (copy, *journals):
        path.unlink(missing_ok=True)
    return target


class Web:
    """A mirror's directory as a web server publishes it, whether or not it knows Range."""

    def __init__(self, address: str, client: HttpClient, stop: threading.Event) -> None:
        self._address = address.rstrip("/")
        self._client = client
        self._stop = stop
        self.meter = Meter()

    @property
    def name(self) -> str:
        return display_url(self._address)

    def _url(self, path: str) -> str:
        return f"{self._address}/{quote(path)}"

    def _ask(self, path: str, take: Callable[[HttpResponse], T], headers: Mapping[str, str]) -> T:
        plain = {"Accept-Encoding": "identity", **headers}
        return self._client.ask(self._url(path), take, plain, meter=self.meter)

    def fetch(self, image: Image, file: BinaryIO) -> None:
        self._client.download(self._url(image.path), file, size=image.bytes, meter=self.meter)

    def catalogue(self, folder: Path, known: Seen | None) -> Seen | None:
        for pause in (*AGAIN_AFTER, None):
            seen = self._copied(folder, known)
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

    def _copied(self, folder: Path, known: Seen | None) -> Seen | None:
        """The catalogue as it lies there, whole or not; None if it is still what is known."""

        def taken(answer: HttpResponse) -> Seen | None:
            if answer.status == 304:
                return None
            answer.judge(200)
            answer.unpacked_only()
            if answer.is_page:
                raise answer.other("the catalogue")
            return _written(answer, folder)

        try:
            return self._ask(CATALOGUE, taken, {} if known is None else _unless(known))
        except NotFound as error:
            raise NotAMirror(
                f"{self.name} publishes no mirror, it has no {CATALOGUE}; correct the address"
            ) from error

    def _changing(self, seen: Seen | None) -> str | None:
        """Why the catalogue there is not at rest; None if it is."""
        # Of a catalogue that is as it was only new changes beside it would be news.
        for suffix in (WAL,) if seen is None else (WAL, ROLLBACK):
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


def _has_bytes(answer: HttpResponse) -> bool:
    if answer.status in (403, 404, 410, 416):
        return False
    answer.judge(200, 206)
    return answer.length != 0


def _written(answer: HttpResponse, folder: Path) -> Seen:
    """Put the body into the folder. Raises TooLong, Truncated and DiskFull."""
    if (answer.length or 0) > MAX_BYTES:
        raise TooLong(f"{answer.name}: a catalogue of {answer.length:,} bytes is none")
    arriving = folder / "arriving.db"
    count = 0
    with disk_errors(arriving), arriving.open("wb") as file:
        for piece in answer.pieces():
            count += len(piece)
            if count > MAX_BYTES:
                raise TooLong(f"{answer.name}: longer than {MAX_BYTES:,} bytes")
            file.write(piece)
    if answer.length and count != answer.length:
        raise Truncated(f"{answer.name}: ended after {count:,} bytes of {answer.length:,}")
    modified = answer.headers.get("Last-Modified")
    seen = replace(
        Seen.of(arriving, folder), etag=answer.etag, modified=modified, lasting=_is_lasting(answer)
    )
    if (seen.etag or "").startswith(BY_DIGEST) and not _named_by_digest(seen):
        raise ChangedFile(f"{answer.name}: the bytes that came are not those it names")
    return seen


def _named_by_digest(seen: Seen) -> bool:
    return seen.etag == f'{BY_DIGEST}{seen.digest}"'


def _is_lasting(answer: HttpResponse) -> bool:
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
