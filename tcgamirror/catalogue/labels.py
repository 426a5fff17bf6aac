"""Labels that the GDC has of slides and cases: the tables `tissue` and `cases`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from tcgamirror.catalogue.database import Part, Row, placeholders, transaction
from tcgamirror.model.labels import CASE, COLUMNS, TISSUE, SlideLabels

_TISSUE, _CASE = ("file_name", *TISSUE), ("case_barcode", *CASE)
_STAGED = ("file_name", "case_barcode", *COLUMNS)


class Labels(Part):
    """Labels of slides that were ever listed."""

    def put(self, labels: Iterable[SlideLabels]) -> None:
        """Replace the labels of these slides and their cases once all of them have been read.

        Tissue is overwritten even by NULLs. A case whose number of diagnoses is missing is kept.
        """
        rows = (
            {"file_name": each.file_name, "case_barcode": each.case_barcode}
            | dict.fromkeys(COLUMNS)
            | dict(each.tissue)
            | dict(each.case)
            for each in labels
        )
        with self._database.reading() as connection:
            try:
                connection.execute(f"CREATE TEMP TABLE labels_read ({', '.join(_STAGED)})")
                with transaction(connection, writes=False):
                    connection.executemany(
                        f"INSERT INTO temp.labels_read VALUES ({placeholders(_STAGED)})", rows
                    )
                has_case = "case_barcode IS NOT NULL AND diagnoses IS NOT NULL"
                with transaction(connection):
                    put_labels(connection, _read(connection), _read(connection, has_case))
            finally:
                connection.execute("DROP TABLE IF EXISTS temp.labels_read")


def _read(connection: sqlite3.Connection, condition: str = "TRUE") -> Iterator[Row]:
    for row in connection.execute(f"SELECT * FROM temp.labels_read WHERE {condition}"):
        yield dict(zip(_STAGED, row, strict=True))


def put_labels(
    connection: sqlite3.Connection,
    tissue: Iterable[Row],
    cases: Iterable[Row],
    *,
    replace: bool = True,
) -> None:
    """Write rows of `tissue` and `cases`; slides that were never listed are left out.

    replace: whether to overwrite existing rows; otherwise they are kept.
    """
    verb = f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO"
    # The index on case_barcode ignores upper and lower case.
    for table, columns, rows, listed in (
        ("tissue", _TISSUE, tissue, "file_name = :file_name"),
        ("cases", _CASE, cases, "case_barcode = :case_barcode COLLATE NOCASE"),
    ):
        connection.executemany(
            f"{verb} {table} ({', '.join(columns)}) SELECT {placeholders(columns)} "
            f"WHERE EXISTS (SELECT 1 FROM slides WHERE {listed})",
            rows,
        )
