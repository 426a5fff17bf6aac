"""A GDC manifest file to a listing, for mirrors that follow a fixed list of slides.

Source: `/files` with `return_type=manifest`, tab-separated `id filename md5
size state`. Whoever edited the file since may have changed its line ends, its
columns' order or anything else, so every row is checked.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
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
    """The TCGA slides of a manifest, in its order; files of other types are left out.

    The listing's release is `manifest` and the file's name. Raises BadManifest,
    which names the file and the line, for anything that is not a manifest.
    """
    try:
        with _opened(path) as file:
            slides = tuple(_slides(path, file))
    except OSError as error:
        raise BadManifest(f"{path} cannot be read: {error.strerror or error}") from error
    if not slides:
        raise BadManifest(f"{path} names no TCGA slide (TCGA-….svs)")
    return Listing(release=f"manifest {path.name}", slides=slides)


def _opened(path: Path) -> BinaryIO:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise BadManifest(f"{path} is {kind}; give the manifest file itself")
    if found.st_size > MOST_FILE_BYTES:
        raise BadManifest(
            f"{path} has {found.st_size:,} bytes; a manifest has at most {MOST_FILE_BYTES:,}"
        )
    return path.open("rb")


def _slides(path: Path, file: BinaryIO) -> Iterator[Slide]:
    lines = _lines(path, file)
    number, header = next(lines, (1, ""))
    columns = header.split("\t")
    if not set(COLUMNS) <= set(columns) or len(set(columns)) < len(columns):
        raise BadManifest(
            f"{path}, line {number}: a manifest begins with the columns {' '.join(COLUMNS)}, "
            f"this file with {' '.join(columns)[:80]!r}"
        )
    cells_of = itemgetter(*map(columns.index, COLUMNS))
    ids: dict[str, int] = {}
    names: dict[str, int] = {}
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise BadManifest(
                f"{path}, line {number}: {len(columns)} columns expected, {len(cells)} found"
            )
        file_id, file_name, md5, size, state = cells_of(cells)
        fault = _fault(file_id, file_name, md5, size)
        if fault is not None:
            raise BadManifest(f"{path}, line {number}: {fault}")
        barcode = Barcode.of(file_name)
        keys = (
            ((ids, file_id.lower()), (names, file_name)) if barcode else ((ids, file_id.lower()),)
        )
        for taken, key in keys:
            first = taken.setdefault(key, number)
            if first != number:
                raise BadManifest(f"{path}, line {number}: {key} stands in line {first} already")
        if barcode is not None:
            yield Slide(
                file_id=file_id.lower(),
                file_name=file_name,
                md5=values.md5(md5),
                size=values.size(int(size)),
                kind=barcode.kind,
                sample_type=barcode.sample_type,
                case_barcode=barcode.case,
                slide_barcode=barcode.slide,
                state=values.text(state),
            )


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
