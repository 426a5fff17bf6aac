"""The tables `tissue` and `cases`, and the view `labels`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.model.errors import UsageError, WrongContent
from tcgamirror.model.labels import CASE, COLUMNS, TISSUE, SlideLabels
from tests.support.catalogues import make_older, three_slides

LISTED = (
    *("file_name", "file_id", "case_barcode", "slide_barcode", "project_id", "primary_site"),
    *("disease_type", "sample_type"),
)


def labels(letter: str, necrosis: float | None, stage: str | None = None) -> SlideLabels:
    case = {**dict.fromkeys(CASE), "diagnoses": 1, "ajcc_pathologic_stage": stage}
    tissue = {**dict.fromkeys(TISSUE), "percent_necrosis": necrosis}
    return SlideLabels(f"{letter}.svs", f"TCGA-{letter.upper()}", tissue, case)


def view(catalogue: Catalogue) -> list[tuple[object, ...]]:
    sql = "SELECT file_name, percent_necrosis, ajcc_pathologic_stage FROM labels ORDER BY 1"
    return list(catalogue.reports.query(sql).rows)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Catalogue]:
    """Slides a, b and c, of which a and b are sampled."""
    with three_slides(tmp_path / CATALOGUE) as catalogue:
        yield catalogue


def test_the_view_has_a_row_for_each_sampled_slide(three: Catalogue) -> None:
    assert three.reports.query("SELECT * FROM labels").columns == (*LISTED, *COLUMNS)
    assert view(three) == [("a.svs", None, None), ("b.svs", None, None)]
    three.labels.put([labels("a", 12.5, "Stage I"), labels("c", 3), labels("unknown", 1)])
    assert view(three) == [("a.svs", 12.5, "Stage I"), ("b.svs", None, None)]
    three.check_integrity()
    assert list(three.reports.query("SELECT case_barcode FROM cases").rows) == [
        ("TCGA-A",),
        ("TCGA-C",),
    ]


def test_newer_labels_replace_those_of_the_same_slides_alone(three: Catalogue) -> None:
    three.labels.put([labels("a", 1, "Stage I"), labels("b", 2, "Stage II")])
    three.labels.put([labels("a", None, "Stage III")])
    assert view(three) == [("a.svs", None, "Stage III"), ("b.svs", 2.0, "Stage II")]
    three.labels.put([SlideLabels("a.svs", "TCGA-A", dict.fromkeys(TISSUE), {})])
    assert view(three)[0] == ("a.svs", None, "Stage III")


def test_labels_that_break_off_change_nothing(three: Catalogue) -> None:
    three.labels.put([labels("a", 1)])

    def broken() -> Iterator[SlideLabels]:
        yield labels("a", 2)
        raise WrongContent("the rest is missing")

    with pytest.raises(WrongContent, match="the rest"):
        three.labels.put(broken())
    assert view(three)[0] == ("a.svs", 1.0, None)
    three.labels.put([labels("a", 2)])
    assert view(three)[0] == ("a.svs", 2.0, None)


def test_a_slide_is_shown_with_its_labels_sampled_or_not(three: Catalogue) -> None:
    three.labels.put([labels("a", 12.5, "Stage I"), labels("c", 3)])
    shown = three.reports.show("a.svs")
    assert (shown["percent_necrosis"], shown["ajcc_pathologic_stage"]) == (12.5, "Stage I")
    assert three.reports.show("c.svs")["percent_necrosis"] == 3.0
    assert three.reports.show("b.svs")["diagnoses"] is None


@pytest.mark.parametrize("own", ["CREATE TABLE cases (a)", "CREATE VIEW labels AS SELECT 1"])
def test_a_name_that_somebody_took_is_told_and_left(
    three: Catalogue, tmp_path: Path, own: str
) -> None:
    three.close()
    make_older(tmp_path, 6)
    with closing(sqlite3.connect(tmp_path / CATALOGUE)) as connection:
        connection.execute(own)
        before = list(connection.iterdump())
    with pytest.raises(UsageError, match=r"(cases|labels) already exists\). Drop that"):
        Catalogue.open(tmp_path / CATALOGUE)
    with closing(sqlite3.connect(tmp_path / CATALOGUE)) as connection:
        assert list(connection.iterdump()) == before
