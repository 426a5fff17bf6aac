"""Labels for files of the stand-in, in the shapes that the GDC's have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tests.gdc.listing import Listed

_STAGES = ("Stage I", "Stage IIA", "Stage IIIB", "Stage IV")


def labelled(files: Iterable[Listed]) -> list[Listed]:
    """The files with made-up labels, each in another shape: parts missing, several, elsewhere."""
    return [_labelled(file, number) for number, file in enumerate(files)]


def _labelled(file: Listed, number: int) -> Listed:
    is_frozen = file.experimental_strategy == "Tissue Slide"
    is_dead = number % 3 == 1
    person: dict[str, Any] = {
        ("sex_at_birth" if number % 4 == 3 else "gender"): ("female", "male")[number % 2],
        "race": "white",
        "ethnicity": "not hispanic or latino",
        "vital_status": "Dead" if is_dead else "Alive",
        "age_at_index": 40 + number % 45,
    }
    if is_dead:
        person["days_to_death"] = 100 + number
    return replace(
        file,
        tissue=_tissue(number) if is_frozen else {},
        demographic={} if number % 7 == 6 else person,
        diagnoses=_diagnoses(number),
        in_sample=number % 8 == 7,
    )


def _tissue(number: int) -> dict[str, str | float]:
    return {
        "section_location": "TOP",
        "percent_tumor_cells": 60 + number % 30,
        "percent_tumor_nuclei": 70.5,
        "percent_necrosis": number % 10,
        "percent_stromal_cells": 10,
        "percent_normal_cells": 0,
    }


def _diagnoses(number: int) -> list[Mapping[str, Any]]:
    """None, one, several with a primary one, or several of which none is known to be."""
    stage = _STAGES[number % len(_STAGES)]
    first = {
        "primary_diagnosis": "Adenocarcinoma, NOS",
        "morphology": "8140/3",
        "tissue_or_organ_of_origin": "Upper lobe, lung",
        "ajcc_pathologic_stage": stage,
        "age_at_diagnosis": 365 * (40 + number % 45),
        "days_to_last_follow_up": 500 + number,
    }
    others = {"primary_diagnosis": "Carcinoma, NOS", "classification_of_tumor": "metastasis"}
    match number % 6:
        case 3:
            return [others, {**first, "diagnosis_is_primary_disease": "true"}]
        case 4:
            return []
        case 5:
            return [first, {**first, "tumor_grade": "G2"}]
        case _:
            return [first]
