"""The state of a resumable download of one file."""

from __future__ import annotations

import os
from typing import BinaryIO

from tcgamirror.model.errors import (
    ChangedFile,
    RangeMismatch,
    SizeMismatch,
    TooLong,
    Truncated,
    WrongContent,
)
from tcgamirror.net.response import HttpResponse


def check_etag(response: HttpResponse, etag: str | None) -> None:
    """Raise ChangedFile if the response has another ETag than the one known."""
    if etag is not None and response.etag is not None and response.etag != etag:
        raise ChangedFile(f"{response.name}: the file was replaced meanwhile; fetch it anew")


class Download:
    """A file being downloaded. `furthest` is the most bytes that it ever had."""

    def __init__(self, file: BinaryIO, size: int | None, etag: str | None) -> None:
        self._file = file
        self._size = size
        self._given = etag
        self._etag = etag
        self._place = file.seek(0, os.SEEK_END)
        self._ranged = True
        if size is not None and self._place > size:
            self._restart()
        self.furthest = self._place

    @property
    def complete(self) -> bool:
        return self._size is not None and self._place == self._size

    @property
    def _resumes(self) -> bool:
        """Return whether the next request is for the rest alone."""
        return self._place > 0 and self._ranged

    def headers(self) -> dict[str, str]:
        ranged = {"Range": f"bytes={self._place}-"} if self._resumes else {}
        return {"Accept-Encoding": "identity", **ranged}

    def take(self, response: HttpResponse) -> None:
        """Append the response's body, if its headers continue the file."""
        if response.status == 416 and self._place and self._size is None:
            self._check_ended(response)
            return
        response.judge(200, 206) if self._place else response.judge(200)
        response.unpacked_only()
        if response.status == 200:
            self._refuse_other(response)
        self._unchanged(response)
        total = self._total(response)
        for piece in response.pieces():
            if self._place + len(piece) > total:
                raise TooLong(f"{response.name}: longer than its {total:,} bytes")
            self._file.write(piece)
            self._place += len(piece)
            self.furthest = max(self.furthest, self._place)
        if self._place < total:
            raise Truncated(f"{response.name}: ended after {self._place:,} bytes of {total:,}")

    def _refuse_other(self, response: HttpResponse) -> None:
        """Raise WrongContent for a 200 without the whole file, before anything is overwritten.

        A 200 whose length is the listed size is the whole file, whatever its type.
        """
        length = response.length
        if length is not None and length == self._size:
            return
        if self._resumes:
            # Without a known length, the next try requests the whole file.
            self._ranged = self._size is not None and length is not None
            raise response.other("the rest of the file")
        if length == 0 or response.is_page:
            raise response.other("the file")

    def _total(self, response: HttpResponse) -> int:
        """Return the file's size in bytes; truncate the file if the body is all of it."""
        length = response.length
        if response.status == 206:
            sent, total = response.content_range()
            if sent.start != self._place or sent.stop != total:
                raise RangeMismatch(
                    f"{response.name}: expected bytes from {self._place}, got {sent}"
                )
            promised = total if length is None else self._place + length
        else:
            if self._place:
                self._restart()
            known = self._size if length is None else length
            if known is None:
                raise WrongContent(
                    f"{response.name}: the server says no length, and none is listed"
                )
            total = promised = known
        for size in (total, promised):
            if self._size is not None and size != self._size:
                raise SizeMismatch(
                    f"{response.name}: has {size:,} bytes, {self._size:,} are listed"
                )
        return total

    def _unchanged(self, response: HttpResponse) -> None:
        """Keep the first ETag. Raises ChangedFile, and truncates the file, for another one."""
        if response.status == 200 and self._given is None:
            self._etag = None
        try:
            check_etag(response, self._etag)
        except ChangedFile:
            self._restart()
            self._etag = self._given
            raise
        self._etag = self._etag or response.etag

    def _check_ended(self, response: HttpResponse) -> None:
        """Handle a 416 for a file of unknown size: it is complete, or was replaced."""
        if response.headers.get("Content-Range", "").strip() != f"bytes */{self._place}":
            self._restart()
            raise ChangedFile(f"{response.name}: is shorter than the part downloaded; restarted")

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate(0)
        self._place = 0
