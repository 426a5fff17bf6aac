"""Read the labels of slides from the GDC API: tissue, diagnosis and person.

Source: the endpoint `/files`, which tells each slide's own tissue and its whole case. Any
nested part may be missing or of another type; its labels are then unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcgamirror.model import fields
from tcgamirror.model.labels import (
    COUNT,
    DEMOGRAPHIC,
    DIAGNOSIS,
    TISSUE,
    Label,
    SlideLabels,
    checked,
)
from tcgamirror.model.slide import Barcode
from tcgamirror.sources import gdc
from tcgamirror.sources.gdc import Page, Part, parts_of

_IS_PRIMARY, _CLASS = "diagnosis_is_primary_disease", "classification_of_tumor"
_SEX = "sex_at_birth"
_SLIDE = "cases.samples.portions.slides"
_FIELDS = (
    *("file_name", "cases.submitter_id", f"{_SLIDE}.submitter_id"),
    *(f"{_SLIDE}.{name}" for name in TISSUE),
    *(f"cases.diagnoses.{name}" for name in (*DIAGNOSIS, _IS_PRIMARY, _CLASS)),
    *(f"cases.demographic.{name}" for name in (*DEMOGRAPHIC, _SEX)),
)


def read_labels(
    client: gdc.JsonClient,
    api: str,
    file_ids: Sequence[str] | None = None,
    page_size: int = gdc.PAGE_SIZE,
) -> Iterator[Page[SlideLabels]]:
    """Yield the labels of open TCGA slides, in pages.

    Args:
        file_ids: of the slides; None for all.

    Raises:
        NetworkError: among others WrongContent, for pages that do not add up.
    """
    url = f"{api}/files"
    if file_ids is None:
        return gdc.read_pages(client, url, _labels_of_hits, page_size, field_names=_FIELDS)
    return gdc.read_batches(client, url, _labels_of_hits, "file_id", file_ids, _FIELDS)


def _labels_of_hits(_url: str, hits: Sequence[Part]) -> Iterator[SlideLabels]:
    for hit in hits:
        file_name = fields.file_name(hit.get("file_name"))
        if file_name is not None:
            yield labels_of(file_name, hit)


def labels_of(file_name: str, hit: Part) -> SlideLabels:
    """Return the labels of one slide, from its hit at `/files`."""
    barcode = Barcode.of(file_name)
    case = _part_of_barcode(parts_of(hit.get("cases")), barcode.case if barcode else None)
    samples = parts_of(case.get("samples"))
    holders = [*samples, *(part for sample in samples for part in parts_of(sample.get("portions")))]
    slides = [slide for holder in holders for slide in parts_of(holder.get("slides"))]
    return SlideLabels(
        file_name,
        barcode.case if barcode else fields.text(case.get("submitter_id")),
        checked(TISSUE, _part_of_barcode(slides, barcode.slide if barcode else None)),
        _case(case) if case else {},
    )


def _case(case: Part) -> dict[str, Label]:
    diagnoses = parts_of(case.get("diagnoses"))
    people = parts_of(case.get("demographic"))
    person = people[0] if len(people) == 1 else {}
    # Newer releases have the sex at birth in place of the gender.
    person = {**person, "gender": person.get("gender") or person.get(_SEX)}
    return {
        **checked(COUNT, {"diagnoses": len(diagnoses)}),
        **checked(DIAGNOSIS, _primary(diagnoses)),
        **checked(DEMOGRAPHIC, person),
    }


def _primary(diagnoses: Sequence[Part]) -> Part:
    """Return the primary diagnosis, empty if none or several remain.

    It is the one marked primary, else the one classified as primary, else the only one that is
    not marked as non-primary.
    """
    candidates = [each for each in diagnoses if _says(each, _IS_PRIMARY, "true")]
    candidates = candidates or [each for each in diagnoses if _says(each, _CLASS, "primary")]
    candidates = candidates or [each for each in diagnoses if not _says(each, _IS_PRIMARY, "false")]
    return candidates[0] if len(candidates) == 1 else {}


def _says(part: Part, name: str, word: str) -> bool:
    """Return whether a field says this, as text or as a truth value."""
    return str(part.get(name)).lower() == word


def _part_of_barcode(parts: Sequence[Part], barcode: str | None) -> Part:
    """Return the part of that barcode, else the only one if either barcode is missing."""
    named = [(fields.text(part.get("submitter_id")), part) for part in parts]
    for name, part in named:
        if name is not None and name == barcode:
            return part
    if len(named) == 1 and None in (named[0][0], barcode):
        return named[0][1]
    return {}
