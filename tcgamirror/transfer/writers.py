"""Exports written: a directory's files, or one archive, which may be cut in parts.

An archive is written from its beginning to its end, without a step back, so that
its parts can be closed one after another and be joined again by `cat`.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Protocol, cast

from tcgamirror.errors import WrongUse
from tcgamirror.files import room
from tcgamirror.transfer.layout import MOST_PARTS, Form, part_name

_BLOCK, _RECORD = 512, 10240
_HELD = 1 << 20
"""Bytes that are written at once: of small images, a dozen."""
_ZIP_LIMIT = 1 << 31
_LEVEL = 3
_MODE = 0o644


class Writer(Protocol):
    """What files are put into, one after another."""

    def put(self, name: str, size: int, made: float, pieces: Iterable[bytes]) -> None:
        """One file of `size` bytes. made: seconds since the epoch."""
        ...

    def end(self) -> list[Path]:
        """Writes what comes last; the files that were made, all of them on the disk."""
        ...

    def close(self) -> None:
        """Closes what is open, also of an archive that was not ended."""
        ...


class _Parts(io.RawIOBase):
    """A file that goes on in another one when it has reached its size."""

    def __init__(self, path: Path, split: int | None) -> None:
        super().__init__()
        self._path = path
        self._split = split
        self._left = 0
        self._held = bytearray()
        self._file: io.FileIO | None = None
        self.files: list[Path] = []

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if len(view) >= _HELD:
            self._write_held()
            self._write_now(view)
            return len(view)
        self._held += view
        if len(self._held) >= _HELD:
            self._write_held()
        return len(view)

    def _write_held(self) -> None:
        with memoryview(self._held) as view:
            self._write_now(view)
        self._held.clear()

    def _write_now(self, view: memoryview) -> None:
        place = 0
        while place < len(view):
            if self._file is None or self._left == 0:
                self._next()
            assert self._file is not None
            count = len(view) - place if self._split is None else min(self._left, len(view) - place)
            with room(self._path):
                count = self._file.write(view[place : place + count])
            self._left -= count
            place += count

    def _next(self) -> None:
        self._end_part()
        number = len(self.files) + 1
        if number > MOST_PARTS:
            raise WrongUse(
                f"more than {MOST_PARTS} parts would be needed: give --split a larger size"
            )
        name = self._path.name if self._split is None else part_name(self._path.name, number)
        self.files.append(self._path.with_name(name))
        self._left = -1 if self._split is None else self._split
        with room(self._path):
            self._file = io.FileIO(self.files[-1], "w")

    def _end_part(self) -> None:
        """Has the part at hand reach the disk."""
        if self._file is not None:
            with room(self._path), self._file as file:
                os.fsync(file.fileno())
            self._file = None

    def end_file(self) -> None:
        """Writes what is held still, and has all of it reach the disk."""
        self._write_held()
        self._end_part()

    def close(self) -> None:
        """What is held still is dropped: of an archive that was not ended."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()


def archive(path: Path, form: Form, top: str, split: int | None) -> Writer:
    """A writer of an archive at `path`, in whose directory `top` all files are."""
    parts = _Parts(path, split)
    return _Zip(parts, top) if form is Form.ZIP else _Tar(parts, top, packed=form is Form.ZSTD)


class _Tar:
    def __init__(self, parts: _Parts, top: str, *, packed: bool) -> None:
        self._parts = parts
        self._top = top
        self._length = 0
        self._open = ExitStack()
        self._open.callback(parts.close)
        self._out: _Out = _packed(parts) if packed else parts

    def put(self, name: str, size: int, made: float, pieces: Iterable[bytes]) -> None:
        head = tarfile.TarInfo(f"{self._top}/{name}")
        head.size, head.mtime, head.mode = size, int(made), _MODE
        self._write(head.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        for piece in pieces:
            self._write(piece)
        self._write(bytes(-self._length % _BLOCK))

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._length += len(data)

    def end(self) -> list[Path]:
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._length % _RECORD))
        if self._out is not self._parts:
            self._out.close()
        self._parts.end_file()
        return self._parts.files

    def close(self) -> None:
        self._open.close()


class _Out(Protocol):
    def write(self, data: bytes, /) -> int: ...

    def close(self) -> None: ...


def _packed(parts: _Parts) -> _Out:
    try:
        import zstandard
    except ImportError as error:
        raise WrongUse(
            "writing .tar.zst needs the Python package zstandard: install it, or export to a "
            ".tar, which is hardly larger"
        ) from error
    packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    return packer.stream_writer(cast("IO[bytes]", parts), closefd=False)


class _Zip:
    def __init__(self, parts: _Parts, top: str) -> None:
        self._parts = parts
        self._top = top
        self._zip = zipfile.ZipFile(parts, "w")

    def put(self, name: str, size: int, made: float, pieces: Iterable[bytes]) -> None:
        # Zip knows no year before 1980.
        info = zipfile.ZipInfo(
            f"{self._top}/{name}", max(time.gmtime(made)[:6], (1980, 1, 1, 0, 0, 0))
        )
        info.file_size = size
        info.external_attr = _MODE << 16
        # Images are packed already; packing them again would take time and save nothing.
        if not name.startswith("images/"):
            info.compress_type = zipfile.ZIP_DEFLATED
        with self._zip.open(info, "w", force_zip64=size >= _ZIP_LIMIT) as file:
            for piece in pieces:
                file.write(piece)

    def end(self) -> list[Path]:
        self._zip.close()
        self._parts.end_file()
        return self._parts.files

    def close(self) -> None:
        # Else it would write the archive's end when it is collected, ended or not.
        self._zip.fp = None
        self._parts.close()
