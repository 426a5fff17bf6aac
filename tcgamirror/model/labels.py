"""Labels: what the GDC knows of a slide's tissue, and of its case.

Columns bear the GDC's own names. A value of another type, or out of range, is as good as none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tcgamirror.model import fields

Label = str | float | None
Check = Callable[[object], str | float]

MOST_DAYS = 40_000
"""Days of a long life; the GDC lets none be longer than 32,872, and some lie before the index."""

MOST_YEARS = 120

MOST_DIAGNOSES = 1000
"""Diagnoses of one case; TCGA's have fewer than ten."""


def _text(value: object) -> str:
    text = fields.text(value)
    if text is None:
        raise ValueError
    return text


def _whole(least: int, most: int) -> Check:
    """Return a check of whole numbers, which some servers write as 5.0."""
    in_range = fields.number(least, most)

    def check(value: object) -> int:
        number = in_range(value)
        if not number.is_integer():
            raise ValueError
        return int(number)

    return check


_DAYS, _YEARS = _whole(-MOST_DAYS, MOST_DAYS), _whole(0, MOST_YEARS)

_PERCENTAGES = (
    *("tumor_cells", "tumor_nuclei", "normal_cells", "stromal_cells", "necrosis"),
    *("lymphocyte_infiltration", "monocyte_infiltration", "neutrophil_infiltration"),
)

TISSUE: Mapping[str, Check] = {
    "section_location": _text,
    **{f"percent_{name}": fields.number(0, 100) for name in _PERCENTAGES},
}
"""Columns of the table `tissue`, with a row for each slide, and their checks."""

COUNT: Mapping[str, Check] = {"diagnoses": _whole(0, MOST_DIAGNOSES)}
"""The column for the number of a case's diagnoses."""

DIAGNOSIS: Mapping[str, Check] = {
    **dict.fromkeys(("primary_diagnosis", "morphology", "tissue_or_organ_of_origin"), _text),
    **dict.fromkeys(("ajcc_pathologic_stage", "tumor_grade"), _text),
    **dict.fromkeys(("age_at_diagnosis", "days_to_last_follow_up"), _DAYS),
}
"""Columns of the primary diagnosis."""

DEMOGRAPHIC: Mapping[str, Check] = {
    "age_at_index": _YEARS,
    **dict.fromkeys(("gender", "race", "ethnicity", "vital_status"), _text),
    "days_to_death": _DAYS,
}
"""Columns of the person."""

CASE: Mapping[str, Check] = {**COUNT, **DIAGNOSIS, **DEMOGRAPHIC}
"""Columns of the table `cases`, with a row for each case, and their checks."""

COLUMNS = (*TISSUE, *CASE)
"""Labels in the order of the view `labels`."""


@dataclass(frozen=True, slots=True)
class SlideLabels:
    """The labels of one slide, by column. case: empty if nothing is known of it."""

    file_name: str
    case_barcode: str | None
    tissue: Mapping[str, Label]
    case: Mapping[str, Label]


def checked(checks: Mapping[str, Check], values: Mapping[str, object]) -> dict[str, Label]:
    """Return a value for each check: None where it is missing or invalid.

    >>> checked(TISSUE, {"section_location": " TOP"})["section_location"]
    'TOP'
    >>> checked(DEMOGRAPHIC, {"days_to_death": "many"})["days_to_death"] is None
    True
    """
    return {name: _checked(check, values.get(name)) for name, check in checks.items()}


def _checked(check: Check, value: object) -> Label:
    try:
        return check(value)
    except ValueError:
        return None
