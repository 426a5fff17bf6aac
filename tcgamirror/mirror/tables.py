"""Tables of a mirror's images as other programs read them.

Each was written after reading the program's source, in the version that the manual's page
`table` names: which columns it requires, and how it makes paths and names of their values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.reports import Cell, QueryResult
from tcgamirror.model import text
from tcgamirror.model.errors import BadQuery, UsageError

LABEL = "{label}"
"""Stands for the column that --label names."""

TRIDENT_LIMIT = 2.4
"""µm per pixel from which on TRIDENT refuses an image."""

ABSOLUTE = "path"
"""SQL of a path that is made absolute; not by SQLite, as it may not be UTF-8."""

_RELATIVE = "substr(path, 8)"
"""The path without `images/`."""

_NAME = f"substr({_RELATIVE}, instr({_RELATIVE}, '/') + 1)"

_STEM = f"substr({_NAME}, 1, length({_NAME}) - 4)"
"""The name without its suffix, four characters with the dot."""

_FEATURES = f"substr({_RELATIVE}, 1, length({_RELATIVE}) - 4) || '.h5'"


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a program reads, or the whole view for any program.

    Attributes:
        columns: SQL of each column's value, in terms of the view; none for the whole view.
        needs: columns of the view; a slide for which one is NULL is left out.
        labelled: the table with --label; None if the program takes no labels.
        by_case: whether the table has a row for each case. The first column is its barcode.
        limit: µm per pixel from which on the program refuses an image. It is compared with the
            first column of `needs`.
    """

    columns: Mapping[str, str]
    needs: tuple[str, ...] = ()
    labelled: Table | None = None
    by_case: bool = False
    limit: float | None = None


_CASE = ("case_barcode",)
_SLIDEFLOW = {"patient": "case_barcode", "slide": _STEM} | {
    name: name for name in ("project_id", "primary_site", "disease_type", "sample_type", "kind")
}

KINDS: Mapping[str, Table] = {
    "trident": Table({"wsi": _RELATIVE, "mpp": "mpp_x"}, ("mpp_x",), limit=TRIDENT_LIMIT),
    "slide2vec": Table(
        {
            "sample_id": _STEM,
            "image_path": ABSOLUTE,
            "mask_path": "NULL",
            "spacing_at_level_0": "mpp_x",
        },
        ("mpp_x",),
    ),
    "clam": Table(
        {"slide_id": _NAME},
        labelled=Table({"case_id": "case_barcode", "slide_id": _STEM, "label": LABEL}, _CASE),
    ),
    "slideflow": Table(_SLIDEFLOW, _CASE, Table({**_SLIDEFLOW, LABEL: LABEL}, _CASE)),
    "stamp": Table(
        {"PATIENT": "case_barcode", "FILENAME": _FEATURES},
        _CASE,
        Table({"PATIENT": "case_barcode", LABEL: LABEL}, _CASE, by_case=True),
    ),
    "qupath": Table({"mpp_x": "mpp_x", "mpp_y": "mpp_y", "name": _NAME}, ("mpp_x", "mpp_y")),
    "mirror": Table({}),
}


class FilledTable:
    """A table of one mirror.

    Attributes:
        columns: their names.
        rows: to be iterated over once.
        count: the rows so far.
    """

    def __init__(self, table: Table, needs: Sequence[str], found: QueryResult, root: Path) -> None:
        self.columns = found.columns[: len(found.columns) - len(needs)]
        self.rows = self._complete(found.rows)
        self.count = 0
        self._table, self._needs, self._root = table, needs, root
        self._left_out = Counter[str]()
        self._too_coarse = 0

    def _complete(self, rows: Iterator[tuple[Cell, ...]]) -> Iterator[Sequence[Cell]]:
        """Yield the rows for which all is known that the program needs."""
        width, limit = len(self.columns), self._table.limit
        values = list(self._table.columns.values())
        place = values.index(ABSOLUTE) if ABSOLUTE in values else None
        for row in rows:
            cells, needed = row[:width], row[width:]
            if None in needed:
                self._left_out[self._needs[needed.index(None)]] += 1
                continue
            if limit is not None and isinstance(needed[0], float) and needed[0] >= limit:
                self._too_coarse += 1
            self.count += 1
            if place is None:
                yield cells
            else:
                path = str(self._root / str(cells[place]))
                yield (*cells[:place], path, *cells[place + 1 :])

    def notes(self) -> Iterator[str]:
        """Yield a sentence on whatever was left out or will be refused."""
        for column, count in self._left_out.items():
            if self._table.by_case:
                what = f"{count:,} case{'' if count == 1 else 's'}"
                why = "unknown, or not the same for all slides"
            else:
                what, why = text.slides(count), "unknown"
            yield f"{what} left out: {column} is {why}"
        if self._too_coarse:
            yield (
                f"{text.slides(self._too_coarse)} of {self._table.limit} µm/px or coarser, which "
                "the program refuses. Use a mirror with a finer --mpp"
            )


def fill_table(
    catalogue: Catalogue,
    root: Path,
    name: str,
    *,
    where: str | None = None,
    label: str | None = None,
) -> FilledTable:
    """Return the table of a kind.

    Excluded slides and slides without an image are left out, but not of `mirror`. A pending or
    failed slide that still has an older image is listed.

    Args:
        root: the mirror's directory.
        name: of the kind.
        where: condition in SQL on columns of the views `mirror` and `labels`.
        label: column of one of these views.

    Raises:
        UsageError: an unknown column, or a kind that takes no labels.
        BadQuery: SQLite refuses the condition.
    """
    view, more = (_columns(catalogue, each) for each in ("mirror", "labels"))
    table = KINDS[name] if label is None else _labelled(name, label, [*view, *more], root)
    of_label = "" if label is None else f'"{label}"'
    if table.by_case:
        of_label = f"CASE WHEN min({of_label}) = max({of_label}) THEN min({of_label}) END"
    # By name, as a label may be a column that the table has anyway.
    columns = {
        name.replace(LABEL, label or ""): value.replace(LABEL, of_label)
        for name, value in table.columns.items()
    }
    selected = [f'{value} AS "{name}"' for name, value in columns.items()] or view
    needs = {column: column for column in table.needs}
    if label is not None:
        needs[label] = of_label
    conditions = ["path IS NOT NULL", "status <> 'excluded'"] if columns else ["TRUE"]
    source = "mirror"
    if more and not (where is None and label is None):
        others = ", ".join(f"labels.{each}" for each in more if each not in view)
        source = f"(SELECT mirror.*, {others} FROM mirror LEFT JOIN labels USING (file_name))"
    if where is not None:
        # Nested, so that no parenthesis or comment in it undoes the other conditions.
        source = f"(SELECT * FROM {source} WHERE (\n{where}\n/**/))"
    sql = (
        f"SELECT {', '.join([*selected, *needs.values()])} FROM {source} "
        f"WHERE {' AND '.join(conditions)} "
        f"{'GROUP BY case_barcode ORDER BY 1' if table.by_case else 'ORDER BY sample_rank'}"
    )
    try:
        found = catalogue.reports.query(sql)
    except BadQuery as error:
        raise BadQuery(f"--where: {error}") from error
    return FilledTable(table, list(needs), found, root.absolute())


def _columns(catalogue: Catalogue, view: str) -> list[str]:
    """Return the names of a view's columns; none if there is no such view."""
    sql = f"SELECT name FROM pragma_table_info('{view}')"
    return [str(name) for (name,) in catalogue.reports.query(sql).rows]


def _labelled(name: str, label: str, known: Sequence[str], root: Path) -> Table:
    table = KINDS[name].labelled
    if table is None:
        others = ", ".join(other for other, kind in KINDS.items() if kind.labelled)
        raise UsageError(f"--label: {name} takes no labels. Leave it out, or choose {others}")
    if label not in known:
        hint = text.did_you_mean(label, known)
        hint = hint or f"List them by: {text.command_line('query --schema', root)}"
        raise UsageError(f"--label: there is no column {label!r:.60}. {hint}")
    return table
