"""Read the slides of a manifest, for mirrors of a fixed list.

A manifest is any table with a column for the file_id and one for the file name: the GDC's own
(`id filename md5 size state`), the `MANIFEST.txt` of a GDC archive, a sample sheet, or any like
them. A row is refused only if it is ambiguous which file is meant.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import sqlite3
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import NamedTuple

from tcgamirror.catalogue.database import translate_errors
from tcgamirror.model import fields
from tcgamirror.model.errors import BadManifest
from tcgamirror.model.slide import SLIDE_SUFFIX, Barcode, Listing, Slide
from tcgamirror.system.files import open_file_digest, open_regular

MAX_FILE_BYTES = 500_000_000
"""Bytes of the file, and of its uncompressed text."""
MAX_SLIDES = 3_000_000
"""Many times the slides of TCGA; they are read into a temporary database."""
MAX_LINE_CHARACTERS = 100_000

_NAMES_SHOWN = 5
_GZIP = b"\x1f\x8b"
_COLUMNS = {
    "file_id": ("fileid", "id"),
    "file_name": ("filename",),
    "md5": ("md5", "md5sum"),
    "size": ("size", "filesize"),
    "state": ("state",),
}
"""Names of columns in lower case without `_`, `-` and blanks; the first one found counts."""
_EXPECTED = "expected a table with columns such as id, filename, md5, size and state"
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "--", "'--"})
"""Cells without a value as programs write them, in lower case."""
_SIZE = re.compile(r"([0-9]{1,15})(?:\.0*)?", re.ASCII)
_TYPE = re.compile(r"(?:\.[A-Za-z0-9]{1,8})?\.gz\Z|\.[A-Za-z][A-Za-z0-9]{0,8}\Z", re.I)


class _Row(NamedTuple):
    """The relevant cells of one row, stripped, empty if they have no value."""

    number: int
    file_id: str
    file_name: str
    md5: str
    size: str
    state: str


def read_manifest(path: Path) -> Listing:
    """Return all slides of a manifest, held in memory. Raises BadManifest."""
    return Listing(release=release_name(path), slides=tuple(read_slides(path)))


def release_name(path: Path) -> str:
    """Return the name of a manifest's listing."""
    return f"manifest {path.name}"


def read_identity(path: Path) -> str:
    """Return a manifest's name and SHA-256. Raises BadManifest."""
    with _open(path) as file:
        return f"{release_name(path)} {open_file_digest(file, 'sha256')}"


def read_slides(path: Path, others: Counter[str] | None = None) -> Iterator[Slide]:
    """Yield the slides of a manifest in its order, each once.

    Args:
        others: counts the rows of other files, by the end of their names.

    Raises:
        BadManifest: names the file and the line. Slides of earlier lines have been
            yielded by then.
    """
    others = Counter() if others is None else others
    # A temporary file of SQLite's, so that memory does not grow with the rows.
    with closing(sqlite3.connect("")) as rows, translate_errors(path):
        # Images of slides whose names differ only in case may have the same path.
        rows.execute(
            "CREATE TABLE slides (number INTEGER PRIMARY KEY, file_id UNIQUE, "
            "file_name UNIQUE COLLATE NOCASE, md5, size)"
        )
        for row in _rows(path):
            if not row.file_name.lower().endswith(SLIDE_SUFFIX):
                if not row.file_name:
                    raise _row_error(path, row, "missing file name")
                others[_type_of(row.file_name)] += 1
                continue
            slide = _slide(path, row)
            values = (row.number, slide.file_id, slide.file_name, slide.md5, slide.size)
            added = rows.execute("INSERT OR IGNORE INTO slides VALUES (?, ?, ?, ?, ?)", values)
            if not added.rowcount:
                _check_agreement(path, row, slide, rows)
                continue
            if rows.total_changes > MAX_SLIDES:
                raise _row_error(path, row, f"a manifest has at most {MAX_SLIDES:,} slides")
            yield slide
        if not rows.total_changes:
            more = f"; {describe_other_files(others)}" if others else ""
            raise BadManifest(f"{path}: no slide (.svs) in it{more}")


def _check_agreement(path: Path, row: _Row, slide: Slide, rows: sqlite3.Connection) -> None:
    """Raise BadManifest if an earlier row has the slide's file_id and other values, or its name."""
    first = rows.execute(
        "SELECT number, file_name, md5, size FROM slides WHERE file_id = ?", (slide.file_id,)
    ).fetchone()
    if first is None:
        (number,) = rows.execute(
            "SELECT number FROM slides WHERE file_name = ?", (slide.file_name,)
        ).fetchone()
        raise _row_error(
            path, row, f"{slide.file_name} has another id in line {number}. Remove one of them"
        )
    for field, one in zip(("file_name", "md5", "size"), first[1:], strict=True):
        other = getattr(slide, field)
        if one is not None and other is not None and one != other:
            raise _row_error(
                path,
                row,
                f"{slide.file_id} has {field} {other}, but {one} in line {first[0]}. "
                "Remove one of them",
            )


def describe_other_files(others: Counter[str]) -> str:
    """Describe the rows of other files than slides.

    >>> describe_other_files(Counter({".txt": 3, ".bam": 1}))
    '4 files of other types left out: 3 .txt, 1 .bam'
    """
    shown = [f"{count:,} {kind}" for kind, count in others.most_common(_NAMES_SHOWN)]
    more = [f"and {len(others) - _NAMES_SHOWN:,} more types"] if len(others) > _NAMES_SHOWN else []
    total = others.total()
    files = f"{total:,} file{'' if total == 1 else 's'} of other types"
    return f"{files} left out: {', '.join(shown + more)}"


def _row_error(path: Path, row: _Row, problem: str) -> BadManifest:
    return BadManifest(f"{path}, line {row.number}: {problem}")


def _type_of(file_name: str) -> str:
    """Return the suffix of a file's name in lower case.

    >>> [_type_of(name) for name in ("a.b.seg.TXT", "a.vcf.gz", "README", "x.[2J")]
    ['.txt', '.vcf.gz', 'without a type', 'without a type']
    """
    match = _TYPE.search(file_name)
    return match[0].lower() if match else "without a type"


def _slide(path: Path, row: _Row) -> Slide:
    """Return the row's slide. Raises BadManifest if a cell is invalid."""
    file_id = fields.file_id(row.file_id)
    if file_id is None:
        raise _row_error(path, row, f"expected a UUID as id, got {row.file_id[:60]!r}")
    # GDC archives name a file by its path `id/name`.
    folder, slash, name = row.file_name.rpartition("/")
    file_name = fields.file_name(name)
    if file_name is None or (slash and folder.lower() != file_id):
        raise _row_error(path, row, f"expected a plain file name, got {row.file_name[:120]!r}")
    md5 = fields.md5(row.md5)
    if row.md5 and md5 is None:
        raise _row_error(path, row, f"expected 32 hexadecimal digits as md5, got {row.md5[:60]!r}")
    size = _SIZE.fullmatch(row.size)
    if row.size and size is None:
        raise _row_error(path, row, f"expected a number of bytes as size, got {row.size[:60]!r}")
    barcode = Barcode.of(file_name)
    return Slide(
        file_id=file_id,
        file_name=file_name,
        md5=md5,
        size=None if size is None else fields.size(int(size[1])),
        kind=barcode.kind if barcode else None,
        sample_type=barcode.sample_type if barcode else None,
        case_barcode=barcode.case if barcode else None,
        slide_barcode=barcode.slide if barcode else None,
        state=fields.text(row.state),
    )


# The table -------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[_Row]:
    """Yield the rows that are not blank. Raises BadManifest if the file is not such a table."""
    with _open(path) as file:
        lines = _lines(path, file)
        number, header = next(lines, (1, ""))
        if not header:
            raise BadManifest(f"{path}: the file is empty, {_EXPECTED}")
        delimiter = "\t" if "\t" in header else ","
        columns = _cells(path, number, header, delimiter)
        indices = _column_indices(path, number, columns)
        for number, line in lines:
            cells = _cells(path, number, line, delimiter)
            if any(cells[len(columns) :]):
                raise BadManifest(
                    f"{path}, line {number}: expected {len(columns)} columns, got {len(cells)}"
                )
            known = [cells[index] if index < len(cells) else "" for index in indices]
            yield _Row(number, *("" if cell.lower() in _MISSING else cell for cell in known))


def _cells(path: Path, number: int, line: str, delimiter: str) -> list[str]:
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    try:
        # One line at a time: an unclosed quote would hide the rows after it.
        (cells,) = csv.reader([line], delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise BadManifest(
            f"{path}, line {number}: invalid quotes ({error}). Close them in the same line"
        ) from error
    return [cell.strip() for cell in cells]


def _column_indices(path: Path, number: int, columns: list[str]) -> list[int]:
    """Return the index of each of _COLUMNS, beyond the last one if it is missing."""
    plain = [re.sub(r"[\s_-]", "", column).lower() for column in columns]
    indices = []
    for field, names in _COLUMNS.items():
        found = next((name for name in names if name in plain), None)
        if found is None and field in ("file_id", "file_name"):
            shown = " ".join(columns)[:80]
            raise BadManifest(
                f"{path}, line {number}: {_EXPECTED}, got {shown!r}. Name a GDC manifest; a lock "
                "file is for --lock"
            )
        if found is not None and plain.count(found) > 1:
            column = columns[plain.index(found)]
            raise BadManifest(
                f"{path}, line {number}: two columns {column[:40]!r}. Rename one of them"
            )
        indices.append(len(columns) if found is None else plain.index(found))
    return indices


# The text --------------------------------------------------------------------------


@contextmanager
def _open(path: Path) -> Iterator[BufferedReader]:
    """Open the manifest's file; system errors within the block are raised as BadManifest."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise BadManifest(
                    f"{path} has {size:,} bytes; a manifest has at most {MAX_FILE_BYTES:,}"
                )
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadManifest(f"{path}: damaged gzip ({error}). Download it again") from error
    except OSError as error:
        why = error.strerror or error
        raise BadManifest(f"{path} cannot be read: {why}. Name the manifest file") from error


def _lines(path: Path, file: BufferedReader) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank and their numbers from 1; they end in CR, LF or both."""
    compressed = file.peek(2)[:2] == _GZIP
    plain = gzip.GzipFile(fileobj=file) if compressed else file
    # Cells that are not UTF-8 are replaced here, since only relevant ones are checked later.
    text = io.TextIOWrapper(plain, encoding=_encoding(plain), errors="replace", newline=None)
    total = 0
    for number in count(1):
        line = text.readline(MAX_LINE_CHARACTERS + 1)
        if not line:
            return
        total += len(line)
        if "\0" in line:
            raise BadManifest(f"{path}, line {number}: expected text, got binary data")
        if len(line) > MAX_LINE_CHARACTERS:
            raise BadManifest(
                f"{path}, line {number}: longer than {MAX_LINE_CHARACTERS:,} characters"
            )
        if total > MAX_FILE_BYTES:
            raise BadManifest(
                f"{path}, line {number}: a manifest has at most {MAX_FILE_BYTES:,} characters"
            )
        if not line.isspace():
            yield number, line


def _encoding(file: BufferedReader | gzip.GzipFile) -> str:
    begin = file.peek(2)[:2]
    return "utf-16" if begin in (BOM_UTF16_BE, BOM_UTF16_LE) else "utf-8-sig"
