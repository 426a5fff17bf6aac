"""The source of a sync: a mirror's directory, or a web server that publishes one.

A static server sends `catalogue.db` as it is, even in the middle of a change. So a copy counts
only if no journal with changes lies beside it, if the file is the same after the download as
before, and if SQLite finds it whole. `tcgamirror serve` names each copy by its digest, which
proves that it is whole.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, Self, TypeVar
from urllib.parse import quote

from tcgamirror.catalogue import database
from tcgamirror.catalogue.images import Image
from tcgamirror.catalogue.journals import ROLLBACK, WAL
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
from tcgamirror.net.throttle import RateLimit
from tcgamirror.system.files import YOUNG, disk_errors, file_digest
from tcgamirror.system.openat import Tree
from tcgamirror.transfer.archive.format import read_pieces
from tcgamirror.transfer.fetching import check_size
from tcgamirror.transfer.untrusted import MAX_BYTES, copy_at_rest

RETRY_SECONDS = (1.0, 4.0)
"""Waits before a catalogue that is being changed, or lacks new images, is requested again."""

DIGEST_TAG = '"sha256-'
"""Prefix of the ETags of `tcgamirror serve`."""

INCOMPLETE = "incomplete.db"
"""Name of a copy that is being made."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CatalogueVersion:
    """One state of a source's catalogue.

    digest: SHA-256 of the copy. etag, modified: the server's tags. lasting: whether no
    later change could have the same tags.
    """

    digest: str
    etag: str | None = None
    modified: str | None = None
    lasting: bool = True

    @classmethod
    def of_copy(cls, copy: Path, folder: Path) -> Self:
        """Give a complete copy its name in the folder."""
        version = cls(file_digest(copy, "sha256"))
        copy.replace(version.path(folder))
        return version

    def path(self, folder: Path) -> Path:
        """Return the path of the copy in a folder. No other copy has it."""
        return folder / f"{self.digest}.db"


class RemoteMirror(ABC):
    """The mirror to copy.

    name: for messages, without credentials. place: differs from that of any other mirror.
    workers: as in `Target`.
    """

    workers = 4

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self.place = place

    @abstractmethod
    def catalogue(self, folder: Path, known: CatalogueVersion | None) -> CatalogueVersion | None:
        """Write a consistent copy to a folder of this process alone, under its digest.

        Returns:
            None if it is still the known version.

        Raises:
            Locked: if it is being changed all the time.
            NotAMirror: if there is none.
        """

    @abstractmethod
    def fetch(self, image: Image, file: BinaryIO) -> None:
        """Append the rest of an image, as ImageSource does."""


class FileMirror(RemoteMirror):
    """A mirror of which all files can be read. rate: bytes per second; None without a limit."""

    def __init__(self, name: str, place: str, rate: float | None, stop: threading.Event) -> None:
        super().__init__(name, place)
        self._stop = stop
        self._rate = RateLimit(rate, stop)

    @abstractmethod
    def copy(self, name: str, copy: Path, max_bytes: int) -> Path:
        """Copy settings or a lock file; return the copy's path."""

    def fetch(self, image: Image, file: BinaryIO) -> None:
        for piece in self._pieces(image, file.seek(0, os.SEEK_END)):
            if self._stop.is_set():
                raise Interrupted("stopped while copying; the next sync resumes")
            file.write(piece)
            self._rate.wait_for(len(piece))

    @abstractmethod
    def _pieces(self, image: Image, offset: int) -> Iterator[bytes]:
        """Yield an image from an offset on. Raises as `fetch` does."""


class DirectoryMirror(FileMirror):
    """A mirror's directory, on this machine or mounted here."""

    def __init__(self, root: Path, rate: float | None, stop: threading.Event) -> None:
        super().__init__(str(root), str(root.resolve()), rate, stop)
        try:
            self._tree = Tree(root)
            self._tree.open(FILE_NAME).close()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotAMirror(f"{root}: is not a mirror. Name another source") from error
        except OSError as error:
            raise NotAMirror(
                f"{root / FILE_NAME}: cannot be read ({error.strerror}). Name another source"
            ) from error
        self.root = root

    def catalogue(self, folder: Path, known: CatalogueVersion | None) -> CatalogueVersion | None:
        del known  # A copy costs less than to find out whether it is needed.
        path = self.root / CATALOGUE
        try:
            copy = copy_at_rest(self._tree, CATALOGUE, folder / INCOMPLETE)
        except FileNotFoundError as error:
            raise database.damage(path, "it is missing") from error
        except PermissionError as error:
            raise UsageError(
                f"{path}: cannot be read by this user. Change its permissions"
            ) from error
        except OSError as error:
            raise self._unreadable(CATALOGUE, error) from error
        return CatalogueVersion.of_copy(copy, folder)

    def copy(self, name: str, copy: Path, max_bytes: int) -> Path:
        path = self.root / name
        try:
            with self._tree.open(name) as source, disk_errors(copy), copy.open("wb") as file:
                size = os.fstat(source.fileno()).st_size
                if size > max_bytes:
                    raise Damaged(f"{path} has {size:,} bytes, more than any has")
                file.writelines(read_pieces(source.fileno(), str(path), size))
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be read ({error.strerror}). Replace it, or change its permissions"
            ) from error
        return copy

    def _pieces(self, image: Image, offset: int) -> Iterator[bytes]:
        try:
            with self._tree.open(image.path) as source:
                handle, most = source.fileno(), self._rate.piece
                check_size(image, os.fstat(handle).st_size)
                while offset < image.bytes and (piece := os.pread(handle, most, offset)):
                    yield piece
                    offset += len(piece)
        except FileNotFoundError as error:
            raise NotFound(f"{self.root / image.path} is missing") from error
        except OSError as error:
            raise self._unreadable(image.path, error) from error

    def _unreadable(self, path: str, error: OSError) -> Damaged:
        return Damaged(f"{self.root / path} cannot be read ({error.strerror})")


class HttpMirror(RemoteMirror):
    """A mirror's directory that a web server publishes, with or without Range."""

    def __init__(self, address: str, client: HttpClient, stop: threading.Event) -> None:
        self._address = address.rstrip("/")
        super().__init__(display_url(self._address), self._address)
        self._client = client
        self._stop = stop

    def _url(self, path: str) -> str:
        return f"{self._address}/{quote(path)}"

    def _get(self, path: str, take: Callable[[HttpResponse], T], headers: Mapping[str, str]) -> T:
        plain = {"Accept-Encoding": "identity", **headers}
        return self._client.ask(self._url(path), take, plain)

    def fetch(self, image: Image, file: BinaryIO) -> None:
        self._client.download(self._url(image.path), file, size=image.bytes)

    def catalogue(self, folder: Path, known: CatalogueVersion | None) -> CatalogueVersion | None:
        for pause in (*RETRY_SECONDS, None):
            version = self._download(folder, known)
            # The server named the copy by its digest, or says that the known one is current.
            if _is_proved(version or known):
                return version
            change = self._change(version)
            if change is None:
                return version
            if pause is None:
                raise Locked(
                    f"{self.name}: is being changed ({change}), and a plain web server cannot "
                    "send a whole catalogue meanwhile. Retry when the update there has ended, or "
                    "publish it by tcgamirror serve"
                )
            if self._stop.wait(pause):
                break
        raise Interrupted("stopped while waiting for the source's catalogue")

    def _download(self, folder: Path, known: CatalogueVersion | None) -> CatalogueVersion | None:
        """Return the catalogue as it is there, whole or not; None if it is the known version."""

        def take(response: HttpResponse) -> CatalogueVersion | None:
            if response.status == 304:
                return None
            response.judge(200)
            response.unpacked_only()
            if response.is_page:
                raise response.other("the catalogue")
            return _write_body(response, folder)

        try:
            return self._get(CATALOGUE, take, _conditions(known))
        except NotFound as error:
            raise NotAMirror(
                f"{self.name}: publishes no mirror, as it has no {CATALOGUE}. Correct the address"
            ) from error

    def _change(self, version: CatalogueVersion | None) -> str | None:
        """Return a sign that the catalogue is being changed; None if there is none."""
        # A catalogue that has not changed can only have changes in a WAL.
        for suffix in (WAL,) if version is None else (WAL, ROLLBACK):
            if self._get(CATALOGUE + suffix, _has_bytes, {"Range": "bytes=0-0"}):
                return f"{CATALOGUE}{suffix} is not empty"
        if not (headers := _conditions(version)):
            return None
        is_same = self._get(CATALOGUE, lambda response: response.status == 304, headers)
        return None if is_same else f"{CATALOGUE} differs after its download"


def _conditions(version: CatalogueVersion | None) -> dict[str, str]:
    """Return headers that have the server send nothing if the catalogue is the same."""
    if version is None:
        return {}
    headers = {"If-None-Match": version.etag, "If-Modified-Since": version.modified}
    return {name: value for name, value in headers.items() if value is not None}


def _has_bytes(response: HttpResponse) -> bool:
    if response.status in (403, 404, 410, 416):
        return False
    response.judge(200, 206)
    return response.length != 0


def _write_body(response: HttpResponse, folder: Path) -> CatalogueVersion:
    """Write the catalogue to the folder. Raises TooLong, Truncated, ChangedFile and DiskFull."""
    if (response.length or 0) > MAX_BYTES:
        raise TooLong(f"{response.name}: {response.length:,} bytes, more than any catalogue has")
    path = folder / INCOMPLETE
    with disk_errors(path), path.open("wb") as file:
        for piece in response.pieces():
            file.write(piece)
            if file.tell() > MAX_BYTES:
                raise TooLong(f"{response.name}: longer than {MAX_BYTES:,} bytes")
        count = file.tell()
    if response.length and count != response.length:
        raise Truncated(f"{response.name}: ended after {count:,} bytes of {response.length:,}")
    version = replace(
        CatalogueVersion.of_copy(path, folder),
        etag=response.etag,
        modified=response.headers.get("Last-Modified"),
        lasting=_is_lasting(response),
    )
    if (version.etag or "").startswith(DIGEST_TAG) and not _is_proved(version):
        raise ChangedFile(f"{response.name}: the bytes differ from the digest in its ETag")
    return version


def _is_proved(version: CatalogueVersion | None) -> bool:
    """Return whether the server named the copy by its digest."""
    return version is not None and version.etag == f'{DIGEST_TAG}{version.digest}"'


def _is_lasting(response: HttpResponse) -> bool:
    """Return whether the file had not changed for a while, by the server's own clock.

    Servers make their tags of the file's time, which file systems round to a second or two.
    """
    changed = response.headers.get("Last-Modified")
    if changed is None:
        return True
    try:
        now, then = map(parsedate_to_datetime, (response.headers.get("Date", ""), changed))
        return now.timestamp() - then.timestamp() > YOUNG
    except (ValueError, TypeError, OverflowError):
        return False
