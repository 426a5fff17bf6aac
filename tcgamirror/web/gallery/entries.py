"""Sampled slides as the gallery shows them, with sanitized values of the catalogue."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.columns import TABLES
from tcgamirror.catalogue.reports import Cell
from tcgamirror.model.labels import COLUMNS

MOST_TEXT = 2000
"""Limit of characters of one value; an error that names three sources has about 500."""

_SQL = f"""
SELECT mirror.*, slides.md5, slides.size,
    (SELECT group_concat(file_id, ' ') FROM former_ids
     WHERE former_ids.file_name = mirror.file_name) AS former_ids,
    {", ".join(COLUMNS)}
FROM mirror JOIN slides ON slides.file_name = mirror.file_name
LEFT JOIN tissue ON tissue.file_name = slides.file_name
LEFT JOIN cases ON cases.case_barcode = slides.case_barcode
ORDER BY mirror.project_id IS NULL, mirror.project_id, mirror.sample_rank
"""

Fact = str | int | float | None


@dataclass(frozen=True, slots=True)
class Image:
    """Image file. path: relative to the mirror, with slashes. sha256: of the file."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """Sampled slide. facts: its row of the catalogue, in the order of `columns`."""

    name: str
    project: str | None
    image: Image | None
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Entries:
    """All sampled slides, by project, then by rank in the sample."""

    columns: tuple[str, ...]
    rows: Sequence[Entry]

    def column(self, name: str) -> Iterator[Fact]:
        """Yield one column, slide by slide."""
        place = self.columns.index(name)
        return (entry.facts[place] for entry in self.rows)


def read_entries(catalogue: Catalogue) -> Entries:
    """Read all at once, so that no writer waits while thumbnails are made."""
    answer = catalogue.reports.query(_SQL)
    name, project, path, sha256 = map(
        answer.columns.index, ("file_name", "project_id", "path", "sha256")
    )

    def entry(row: Sequence[Cell]) -> Entry:
        facts = tuple(map(sanitize, row))
        return Entry(
            name=str(facts[name]),
            project=None if facts[project] is None else str(facts[project]),
            image=_image(row[path], row[sha256]),
            facts=facts,
        )

    return Entries(answer.columns, [entry(row) for row in answer.rows])


def _image(path: Cell, sha256: Cell) -> Image | None:
    with suppress(ValueError):
        if TABLES["images"]["path"](path) is not None and sha256 is not None:
            return Image(str(path), str(sha256))
    return None


def sanitize(value: Cell) -> Fact:
    r"""Return a value that is safe in JSON and a browser, in one line.

    Characters that do not print (controls, direction marks, lone surrogates) become U+FFFD.

    >>> sanitize("a\u202eb\x00"), sanitize(float("inf")), sanitize(b"\x01\xff"), sanitize(0.25)
    ('a\ufffdb\ufffd', 'inf', '01ff', 0.25)
    """
    if isinstance(value, bytes):
        value = value[:MOST_TEXT].hex()
    if not isinstance(value, str):
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value
    if len(value) > MOST_TEXT:
        value = value[:MOST_TEXT] + "…"
    if not value.isprintable():
        value = "".join(sign if sign.isprintable() else "\ufffd" for sign in value)
    # Thousands of slides share a few short values.
    return sys.intern(value) if len(value) < 40 else value
