"""Labels in the GDC's shapes: nested, missing, several, hostile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tcgamirror.model.errors import WrongContent
from tcgamirror.model.labels import CASE, COLUMNS, DIAGNOSIS, TISSUE, Label
from tcgamirror.sources.labels import labels_of, read_labels
from tests.sources.test_gdc import API, Scripted, hit, page, serving

CASE_BARCODE, SLIDE = "TCGA-22-0001", "TCGA-22-0001-01Z-00-DX1"
FILE_NAME = str(hit(1)["file_name"])
STAGE = "ajcc_pathologic_stage"


def case(**more: Any) -> dict[str, Any]:
    return {"submitter_id": CASE_BARCODE, **more}


def of_diagnoses(*diagnoses: Mapping[str, object]) -> tuple[Label, Label]:
    """The number of diagnoses, and the stage of the one taken."""
    found = read(case(diagnoses=list(diagnoses))).case
    return found["diagnoses"], found[STAGE]


def read(*cases: object) -> Any:
    return labels_of(FILE_NAME, {"cases": list(cases)})


def tissue(*slides: dict[str, object], where: str = "portions") -> Label:
    """The percentage of necrosis of these slides of one sample."""
    holder = {"slides": list(slides)}
    sample = holder if where == "sample" else {"portions": [{}, holder]}
    value: Label = read(case(samples=[{}, sample])).tissue["percent_necrosis"]
    return value


def test_every_label_of_a_hit_is_read() -> None:
    slide = {"submitter_id": SLIDE, **dict.fromkeys(TISSUE, 80), "section_location": "TOP"}
    diagnosis: dict[str, object] = dict.fromkeys(DIAGNOSIS, "x")
    diagnosis |= {"age_at_diagnosis": 24_477.0, "days_to_last_follow_up": -3}
    person = {"age_at_index": 67, "gender": "female", "race": "white", "ethnicity": "other"}
    person |= {"vital_status": "Dead", "days_to_death": 415}
    whole = case(
        samples=[{"portions": [{"slides": [slide]}]}], diagnoses=[diagnosis], demographic=person
    )
    found = read({"submitter_id": "TCGA-99-9999"}, whole)
    assert (found.file_name, found.case_barcode) == (FILE_NAME, CASE_BARCODE)
    values = {**found.tissue, **found.case}
    assert tuple(values) == COLUMNS
    assert values == {
        **dict.fromkeys(TISSUE, 80.0),
        "section_location": "TOP",
        "diagnoses": 1,
        **diagnosis,
        **person,
    }
    assert type(values["age_at_diagnosis"]) is int


def test_the_fields_asked_for_are_those_of_the_labels() -> None:
    server = serving(*map(hit, range(1, 8)))
    pages = [
        (len(each.items), each.seen, each.total) for each in read_labels(server, API, page_size=3)
    ]
    assert pages == [(3, 3, 7), (3, 6, 7), (1, 7, 7)]
    fields = str(server.requests[0]["fields"]).split(",")
    assert {name.split(".")[-1] for name in fields} >= {*COLUMNS} - {"diagnoses"}
    assert '"TCGA"' in json.dumps(server.requests[0]["filters"])


def test_slides_of_a_manifest_are_asked_for_by_file_id() -> None:
    server = serving(hit(1))
    ids = [f"id-{number}" for number in range(700)]
    assert [len(each.items) for each in read_labels(server, API, ids)] == [1, 1]
    filters = [json.dumps(request["filters"]) for request in server.requests]
    assert ["id-499" in each for each in filters] == [True, False]
    assert ["id-500" in each for each in filters] == [False, True]


def test_a_total_that_changes_meanwhile_is_an_error_of_the_network() -> None:
    server = Scripted(lambda start, _size: page([hit(start + 1)], 5 + start))
    with pytest.raises(WrongContent, match="5 files became 6"):
        list(read_labels(server, API, page_size=1))


# The slide's own part -----------------------------------------------------------


def test_a_slide_is_found_by_its_barcode_wherever_it_hangs() -> None:
    other = {"submitter_id": "TCGA-22-0001-01A-01-TS1", "percent_necrosis": 9}
    own = {"submitter_id": SLIDE, "percent_necrosis": 12.5}
    for where in ("portions", "sample"):
        assert tissue(other, own, where=where) == 12.5
        assert tissue({"percent_necrosis": 7}, where=where) == 7.0
        assert tissue(other, where=where) is None
        assert tissue({"percent_necrosis": 7}, {"percent_necrosis": 7}, where=where) is None


@pytest.mark.parametrize(
    "value", [-1, 101, "50", True, None, [50], {"a": 1}, 1e999, float("nan"), 10**400]
)
def test_a_percentage_that_is_none_is_missing(value: object) -> None:
    assert tissue({"submitter_id": SLIDE, "percent_necrosis": value}) is None


# The case -----------------------------------------------------------------------


def test_the_primary_diagnosis_is_taken() -> None:
    first, second = {STAGE: "Stage I"}, {STAGE: "Stage II"}
    primary, other = "diagnosis_is_primary_disease", "classification_of_tumor"
    assert of_diagnoses() == (0, None)
    assert of_diagnoses(first) == (1, "Stage I")
    assert of_diagnoses({**first, primary: False}) == (1, None)
    assert of_diagnoses(first, second) == (2, None)
    for yes in (True, "true", "True"):
        assert of_diagnoses(first, {**second, primary: yes}) == (2, "Stage II")
    assert of_diagnoses({**first, primary: "false"}, second) == (2, "Stage II")
    assert of_diagnoses(first, {**second, other: "primary"}, first) == (3, "Stage II")
    assert of_diagnoses({**first, other: "primary"}, {**second, primary: "true"}) == (2, "Stage II")
    assert of_diagnoses({**first, primary: "true"}, {**second, primary: "true"}) == (2, None)


@pytest.mark.parametrize("diagnoses", [None, [], {}, "x", 7, [None], ["x"], [[]]])
def test_a_case_without_diagnoses_has_none(diagnoses: object) -> None:
    found = read(case(diagnoses=diagnoses, demographic=diagnoses)).case
    assert found["diagnoses"] in (0, 1)
    assert {value for name, value in found.items() if name != "diagnoses"} == {None}


@pytest.mark.parametrize(
    "cases", [(), ({},), (None,), ("x",), ({"submitter_id": "TCGA-99-9999", "diagnoses": [{}]},)]
)
def test_of_no_case_and_of_anothers_nothing_is_known(cases: Sequence[object]) -> None:
    found = read(*cases)
    assert (found.case_barcode, found.case) == (CASE_BARCODE, {})


def test_a_part_that_comes_as_a_list_of_one_or_by_itself_is_read() -> None:
    for person in ({"gender": "male"}, [{"gender": "male"}]):
        assert read(case(demographic=person)).case["gender"] == "male"
    assert read(case(demographic=[{"gender": "male"}] * 2)).case["gender"] is None
    assert read(case(diagnoses={STAGE: "Stage I"})).case[STAGE] == "Stage I"


def test_the_sex_at_birth_stands_in_for_the_gender() -> None:
    assert read(case(demographic={"sex_at_birth": "male"})).case["gender"] == "male"
    both = {"sex_at_birth": "male", "gender": "female"}
    assert read(case(demographic=both)).case["gender"] == "female"


def test_hostile_values_are_cleaned_cut_or_missing() -> None:
    person: dict[str, object] = {"race": "\x1b[31mwhite\n", "ethnicity": "e" * 900}
    person |= {"vital_status": ["Dead"], "days_to_death": 10**30}
    person |= {"age_at_index": 12.5, "gender": {"$ne": ""}}
    found = read(case(demographic=person, diagnoses=[{}] * 2_000)).case
    assert (found["race"], found["ethnicity"]) == ("[31mwhite", "e" * 500)
    assert {found[name] for name in CASE if name not in ("race", "ethnicity")} == {None}
