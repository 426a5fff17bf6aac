"""A GDC manifest file to a listing, for mirrors that follow a fixed list of slides.

Source: `/files` with `return_type=manifest`, tab-separated `id filename md5
size state`. Whoever edited the file since may have changed its line ends, its
columns' order or anything else, so every row is checked.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from tcgamirror import values
from tcgamirror.errors import BadManifest
from tcgamirror.model import Barcode, Listing, Slide

COLUMNS = ("id", "filename", "md5", "size", "state")

MOST_FILE_BYTES = 500_000_000
MOST_LINE_CHARACTERS = 10_000

_SIZE = re.compile(r"[0-9]{1,15}")


def read_manifest(path: Path) -> Listing:
    """The TCGA slides of a manifest, all of them held in memory. Raises BadManifest."""
    return Listing(release=release_of(path), slides=tuple(slides_of(path)))


def release_of(path: Path) -> str:
    """What a manifest's listing is called."""
    return f"manifest {path.name}"


def identity(path: Path) -> str:
    """What tells a manifest from every other one, before it is read. Raises BadManifest."""
    with _opened(path) as file:
        return f"{release_of(path)} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def slides_of(path: Path) -> Iterator[Slide]:
    """The TCGA slides of a manifest, in its order; files of other types are left out.

    Raises BadManifest, which names the file and the line, for anything that is
    not a manifest; what comes before the line has been given then.
    """
    # Digests take a third of the memory of what they stand for, and no line numbers are kept:
    # of what seems to stand there twice, the file is asked again.
    taken: set[int] = set()
    none = True
    for number, (file_id, file_name, md5, size, state) in _rows(path):
        fault = _fault(file_id, file_name, md5, size)
        if fault is not None:
            raise BadManifest(f"{path}, line {number}: {fault}")
        file_id = file_id.lower()
        barcode = Barcode.of(file_name)
        for key in (file_id,) if barcode is None else (file_id, file_name):
            if hash(key) in taken and (first := _first_line(path, key, number)) < number:
                raise BadManifest(f"{path}, line {number}: {key} stands in line {first} already")
            taken.add(hash(key))
        if barcode is not None:
            none = False
            yield Slide(
                file_id=file_id,
                file_name=file_name,
                md5=md5.lower() or None,
                size=values.size(int(size)),
                kind=barcode.kind,
                sample_type=barcode.sample_type,
                case_barcode=barcode.case,
                slide_barcode=barcode.slide,
                state=values.text(state),
            )
    if none:
        raise BadManifest(f"{path} names no TCGA slide (TCGA-….svs)")


def _first_line(path: Path, key: str, last: int) -> int:
    """Number of the first line with this file_id or file name, `last` if there is none before."""
    found = (number for number, cells in _rows(path) if key in (cells[0].lower(), cells[1]))
    return next(found, last)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The manifest's file; what goes wrong with it within the block is told as BadManifest."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise BadManifest(f"{path} is {kind}; give the manifest file itself")
        if found.st_size > MOST_FILE_BYTES:
            raise BadManifest(
                f"{path} has {found.st_size:,} bytes; a manifest has at most {MOST_FILE_BYTES:,}"
            )
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise BadManifest(f"{path} cannot be read: {error.strerror or error}") from error


def _rows(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The numbers of the lines and their cells in the order of COLUMNS, unchecked."""
    with _opened(path) as file:
        lines = _lines(path, file)
        number, header = next(lines, (1, ""))
        columns = header.split("\t")
        if not set(COLUMNS) <= set(columns) or len(set(columns)) < len(columns):
            raise BadManifest(
                f"{path}, line {number}: a manifest begins with the columns {' '.join(COLUMNS)}, "
                f"this file with {' '.join(columns)[:80]!r}"
            )
        cells_of = itemgetter(*map(columns.index, COLUMNS))
        for number, line in lines:
            cells = line.split("\t")
            if len(cells) != len(columns):
                raise BadManifest(
                    f"{path}, line {number}: {len(columns)} columns expected, {len(cells)} found"
                )
            yield number, cells_of(cells)


def _fault(file_id: str, file_name: str, md5: str, size: str) -> str | None:
    """What is wrong with a row's cells, if anything."""
    if values.file_id(file_id) is None:
        return f"a UUID expected as id, {file_id[:60]!r} found"
    if not _is_plain(file_name):
        return f"a plain file name expected, {file_name[:120]!r} found"
    if md5 and values.md5(md5) is None:
        return f"32 hexadecimal digits expected as md5, {md5[:60]!r} found"
    if _SIZE.fullmatch(size) is None:
        return f"a number of bytes expected as size, {size[:60]!r} found"
    return None


def _is_plain(file_name: str) -> bool:
    """Slides' names are held to the strict rule; other files only must not be paths.

    They are left out anyway, and some have brackets or plus signs.
    """
    if values.file_name(file_name) is not None:
        return True
    return (
        not file_name.lower().endswith(".svs")
        and file_name.isprintable()
        and not file_name.startswith((".", " "))
        and not set(file_name) & set("/\\:")
        and file_name != ""
    )


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered from 1, whatever their ends."""
    number = 0
    while raw := file.readline(MOST_LINE_CHARACTERS * 4 + 2):
        number += 1
        if b"\0" in raw:
            raise BadManifest(f"{path}, line {number}: text expected, binary data found")
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise BadManifest(f"{path}, line {number}: UTF-8 text expected") from error
        if len(line) > MOST_LINE_CHARACTERS:
            raise BadManifest(
                f"{path}, line {number}: longer than {MOST_LINE_CHARACTERS:,} characters"
            )
        if line.strip():
            yield number, line
    if number == 0:
        raise BadManifest(
            f"{path} is empty; a manifest begins with the columns {' '.join(COLUMNS)}"
        )
