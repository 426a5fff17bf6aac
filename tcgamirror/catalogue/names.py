"""Names that people give slides: barcodes, file names, file_ids, and images' names."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from tcgamirror.model.names import CASE_PARTS, without_suffix
from tcgamirror.model.slide import SLIDE_SUFFIX

_BY_NAME = (
    "SELECT file_name FROM slides WHERE file_name = :name",
    "SELECT file_name FROM slides WHERE file_id = lower(:name)",
    "SELECT file_name FROM former_ids WHERE file_id = lower(:name)",
    "SELECT file_name FROM slides WHERE slide_barcode = :name COLLATE NOCASE ORDER BY file_name",
    "SELECT file_name FROM slides WHERE case_barcode = :name COLLATE NOCASE ORDER BY file_name",
)

# Of a sample or a portion: the barcode goes on after a hyphen, which sorts before the full stop.
_BY_SAMPLE = (
    "SELECT file_name FROM slides WHERE slide_barcode COLLATE NOCASE > :name || '-' "
    "AND slide_barcode COLLATE NOCASE < :name || '.' ORDER BY file_name"
)

# The suffix may be in capitals. All names in the range begin with the stem and a dot.
_BY_STEM = (
    "SELECT file_name FROM slides WHERE file_name > :stem || '.' AND file_name < :stem || '/' "
    "AND lower(file_name) = lower(:stem || :suffix) "
    "ORDER BY file_name = :stem || :suffix DESC LIMIT 1"
)


def find_slides(connection: sqlite3.Connection, name: str) -> list[str]:
    """Return the file names of the slides that a name means, none if there is none.

    Args:
        name: a file_id (also a former one), barcode, file name with or without its suffix, or
            an image's name or path. The barcode of a case or sample means all of its slides.
    """
    values = {"name": name, "stem": without_suffix(name), "suffix": SLIDE_SUFFIX}
    by_sample = (_BY_SAMPLE,) if name.count("-") >= CASE_PARTS else ()
    for sql in (*_BY_NAME, *by_sample, _BY_STEM):
        if found := [file_name for (file_name,) in connection.execute(sql, values)]:
            return found
    return []


def resolve(connection: sqlite3.Connection, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the file names of all slides that names mean, each once, and names without any."""
    found: dict[str, None] = {}
    unknown: list[str] = []
    for name in dict.fromkeys(names):
        slides = find_slides(connection, name)
        found.update(dict.fromkeys(slides))
        if not slides:
            unknown.append(name)
    return list(found), unknown
