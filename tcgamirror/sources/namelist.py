"""Read lists of cases, slides or file_ids, one a line.

A list is plain text with `#` comments, or a table whose first column of such names counts, one of
slides before one of cases: a manifest, a sample sheet, or the CSV of CLAM and its kin. A first line
without a barcode, file name or UUID is a header, which is left out.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

from tcgamirror.model.errors import UsageError
from tcgamirror.model.slide import SLIDE_SUFFIX
from tcgamirror.system.files import open_regular

MOST_BYTES = 50_000_000
"""Bytes of a list; a table of all slides of TCGA has less than 10 MB."""

_TCGA = re.compile(rf"(.*/)?TCGA-\w{{2}}-\w{{4}}.*|.*{re.escape(SLIDE_SUFFIX)}", re.I | re.ASCII)
_SLIDE = re.compile(
    rf"(.*/)?TCGA-\w{{2}}-\w{{4}}-\w{{3}}-\w{{2}}-.*|.*{re.escape(SLIDE_SUFFIX)}", re.I | re.ASCII
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_FORMS = (_SLIDE, _TCGA, _UUID)
"""Forms of names. A table's column of slides counts before one of cases, and that of file_ids last:
a case means slides that the table does not name."""


def read_names(path: Path) -> list[str]:
    """Return the names of a list, each once. Raises UsageError for a list without any.

    path: `-` is standard input.
    """
    try:
        with sys.stdin.buffer if path == Path("-") else open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: the list cannot be read ({why}). Name another file") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path}: more than {MOST_BYTES:,} bytes. Name a list of slides")
    rows = [_cells(line) for line in data.decode("utf-8-sig", "replace").splitlines()]
    rows = [row for row in rows if any(row)]
    header = rows and not any(form.fullmatch(cell) for form in _FORMS for cell in rows[0])
    if header:
        del rows[0]
    for form in _FORMS:
        matches = (
            column for row in rows for column, cell in enumerate(row) if form.fullmatch(cell)
        )
        column = min(matches, default=None)
        if column is None:
            continue
        if not header and all(form.fullmatch(cell) for row in rows for cell in filter(None, row)):
            # Names side by side, as `TCGA-3C-AALI, TCGA-3C-AALJ`.
            return list(dict.fromkeys(cell for row in rows for cell in row if cell))
        cells = [row[column] if column < len(row) else "" for row in rows]
        # A table of cases may name slides of some of them only.
        if form is not _SLIDE or all(cells):
            return list(dict.fromkeys(filter(None, cells)))
    raise UsageError(
        f"{path}: no barcode, file name or file_id in it. Name a list of them, one a line"
    )


def _cells(line: str) -> list[str]:
    """Return the cells of a line, without comments and blanks around them."""
    plain = line.partition("#")[0].replace("\0", " ").strip()
    delimiter = "\t" if "\t" in plain else ","
    try:
        cells = next(csv.reader([plain], delimiter=delimiter), [])
    except csv.Error:
        cells = plain.split(delimiter)
    return [cell.strip() for cell in cells]
