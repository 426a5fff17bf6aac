"""Zip archives read, of which only plain files in the two usual ways of packing are taken."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tcgamirror.errors import BadExport
from tcgamirror.transfer.layout import MOST_ENTRIES
from tcgamirror.transfer.members import FREE_RATIO, MOST_RATIO, Joined, Member, Names

_END, _LOCATOR, _WIDE = 22, 20, 56
"""Bytes of the records at an archive's end; the latter two only of a large one."""

_MOST_CENTRAL = 1 << 27
_ENCRYPTED = 1


class Zip:
    """A zip archive, in one file or several."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def members(self) -> Iterator[Member]:
        with Joined(self._files) as file, _unpacking():
            _check_central(file)
            with zipfile.ZipFile(io.BufferedReader(file)) as archive:
                yield from self._of(archive)

    def _of(self, archive: zipfile.ZipFile) -> Iterator[Member]:
        names = Names()
        for info in archive.infolist():
            if info.is_dir():
                continue
            name = names.checked(info.orig_filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if kind not in (0, stat.S_IFREG) or not plain or info.flag_bits & _ENCRYPTED:
                raise BadExport(f"{name} in it is a link, encrypted, or packed in an odd way")
            if info.file_size > FREE_RATIO + MOST_RATIO * info.compress_size:
                raise BadExport(f"{name} in it unpacks to more than {MOST_RATIO} times its size")
            reader = _ZipReader(archive, info)
            yield Member(name, info.file_size, reader.read)
            reader.close()


class _ZipReader:
    """One member, opened when it is first read."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._archive = archive
        self._info = info
        self._opened: BinaryIO | None = None

    def read(self, count: int) -> bytes:
        with _unpacking():
            if self._opened is None:
                self._opened = self._archive.open(self._info)  # type: ignore[assignment]
            assert self._opened is not None
            return self._opened.read(count)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


@contextmanager
def _unpacking() -> Iterator[None]:
    """Raises what `zipfile` raises for a damaged archive as BadExport."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadExport(f"it is no zip archive, or damaged ({error})") from error
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise BadExport(f"it is no zip archive, or damaged ({error})") from error


def _check_central(file: Joined) -> None:
    """`zipfile` reads the central directory at once: so it has to be of bearable size.

    The end record is looked for where `zipfile` looks first, and nowhere else.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(size - min(size, _WIDE + _LOCATOR + _END))
    tail = b""
    while data := file.read(_WIDE + _LOCATOR + _END):
        tail += data
    file.seek(0)
    end = tail[-_END:]
    if end[:4] != b"PK\5\6" or end[20:] != b"\0\0":
        raise BadExport("it does not end as a zip archive does")
    found = [struct.unpack("<HI", end[10:16])]
    if len(tail) == _WIDE + _LOCATOR + _END and tail[:4] == b"PK\6\6":
        found.append(struct.unpack("<QQ", tail[32:48]))
    for count, length in found:
        believable = count <= MOST_ENTRIES and length <= _MOST_CENTRAL
        if not believable and (count, length) != (0xFFFF, 0xFFFFFFFF):
            raise BadExport(f"it says that it has {count:,} files, listed in {length:,} bytes")
