"""`init --cases`, `--sample-type`, `--disease` and `--one-per-case` narrow the sample."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from tests.gdc import Listed, StandIn
from tests.gdc.faults import Fault
from tests.support.carrying import inside
from tests.support.mirrors import column, made, rewrite, rows

SAMPLED = "select file_name from mirror order by sample_rank"


@pytest.fixture
def gdc(small_slides: tuple[Listed, ...]) -> Iterator[StandIn]:
    """Slides of which the first six are of two cases, and of two sample types and diseases."""
    files = list(small_slides)
    for number in range(6):
        name = f"TCGA-AA-000{number % 2}-{'01' if number < 3 else '11'}Z-00-DX{number}.svs"
        disease = "Gliomas" if number < 4 else "Cystic, Mucinous and Serous Neoplasms"
        kind = "Primary Tumor" if number < 3 else "Solid Tissue Normal"
        files[number] = replace(
            files[number], file_name=name, disease_type=disease, sample_type=kind
        )
    with StandIn(files) as gdc:
        yield gdc


def sampled(root: Path) -> list[str]:
    result = inside("--mirror", root, "sample")
    assert result.code == 0, result
    return [str(name) for name in column(root, SAMPLED)]


def listed(root: Path, gdc: StandIn, *options: str | Path, slides: int = 100) -> Path:
    made(root, gdc, "--slides", str(slides), *map(str, options))
    assert inside("--mirror", root, "refresh").code == 0
    return root


def test_only_the_slides_of_a_list_are_sampled(gdc: StandIn, tmp_path: Path) -> None:
    third = gdc.files[7]
    names = tmp_path / "patients.csv"
    lines = ("patient,age", "tcga-aa-0001,60", f"{gdc.files[0].file_name},50", "TCGA-ZZ-ZZZZ,1")
    names.write_text("\n".join((*lines, "# TCGA-AA-0000", third.file_name.removesuffix(".svs"))))
    root = listed(tmp_path / "m", gdc, "--cases", names)
    told = inside("--mirror", root, "sample")
    assert "1 name of --cases without a listed slide: TCGA-ZZ-ZZZZ" in told.err
    assert "tcga-aa-0001" in (root / "tcgamirror.toml").read_text()
    expected = {gdc.files[number].file_name for number in (0, 1, 3, 5, 7)}
    assert {str(name) for name in column(root, SAMPLED)} == expected
    assert inside("--mirror", root, "lock", tmp_path / "l").code == 0
    again = tmp_path / "again"
    assert inside("--mirror", again, "init", "--lock", tmp_path / "l").code == 0
    assert (again / "tcgamirror.toml").read_text().count("tcga-aa-0001") == 1
    (root / "catalogue.db").unlink()
    (root / "images").mkdir()
    assert inside("--mirror", root, "rebuild").code == 0
    assert {str(name) for name in column(root, SAMPLED)} == expected


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "--kind"),
        (("--kind", "all", "--sample-type", "01"), "--sample-type"),
        (("--disease", "Gliomas"), "--kind or --disease"),
    ],
)
def test_names_whose_slides_other_options_leave_out_are_told(
    gdc: StandIn, tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    frozen, kept = "TCGA-AB-0007-11A-01-TSA", gdc.files[0].file_name
    slide = replace(
        gdc.files[7],
        file_id=str(UUID(int=7)),
        file_name=f"{frozen}.svs",
        experimental_strategy="Tissue Slide",
        sample_type="Solid Tissue Normal",
        disease_type="Adenomas",
    )
    gdc.publish((*gdc.files, slide), "Data Release 46.0 - January 15, 2026")
    (tmp_path / "names").write_text(f"{frozen}\n{kept}\n")
    (tmp_path / "more").write_text("TCGA-ZZ-0001\n")
    lists = ("--cases", tmp_path / "names", "--cases", tmp_path / "more")
    root = listed(tmp_path / "m", gdc, *lists, *options)
    told = inside("--mirror", root, "sample")
    assert told.code == 0 and column(root, SAMPLED) == [kept]
    assert told.err.splitlines()[:2] == [
        "1 name of --cases without a listed slide: TCGA-ZZ-0001",
        f"1 name of --cases of another {why}: {frozen}",
    ]


def test_thousands_of_names_are_kept_in_the_settings(gdc: StandIn, tmp_path: Path) -> None:
    names = tmp_path / "names"
    many = [f"TCGA-AA-{number:04}-01Z-00-DX1.{'0' * 8}.svs" for number in range(9000)]
    names.write_text("\n".join(many))
    root = made(tmp_path / "m", gdc, "--cases", str(names))
    assert inside("--mirror", root, "status").code == 0
    names.write_text("\n".join(f"{number}{'x' * 90}.svs" for number in range(9000)))
    refused = inside("--mirror", tmp_path / "n", "init", "--mpp", "4", "--cases", names)
    assert refused.code == 2 and "--manifest" in refused.sentence


def test_sample_types_and_diseases_narrow(gdc: StandIn, tmp_path: Path) -> None:
    normal = listed(tmp_path / "normal", gdc, "--sample-type", "11", "--disease", "Gliomas")
    assert sampled(normal) == [gdc.files[3].file_name]
    types = ("--sample-type", "11", "--sample-type", "Metastatik", "--kind", "all")
    root = listed(tmp_path / "some", gdc, *types, "--disease", "Gliomas", "--disease", "Gliomaz")
    told = inside("--mirror", root, "sample").err
    assert "no slide of --sample-type Metastatik is listed\n" in told
    assert "no slide of --disease Gliomaz is listed\n" in told
    root = listed(tmp_path / "none", gdc, "--disease", "Gliom")
    refused = inside("--mirror", root, "sample")
    assert refused.code == 2 and "Gliomas" in refused.sentence


@pytest.mark.parametrize(
    ("options", "used", "unused"),
    [
        ((), "no listed diagnostic slide matches --cases: make", ("--sample", "--disease")),
        (
            ("--sample-type", "11", "--kind", "all"),
            "no listed slide matches --cases and --sample-type Solid Tissue Normal: make",
            ("--disease", "diseases"),
        ),
        (
            ("--disease", "Gliomas"),
            "--cases and --disease Gliomas: make",
            ("--sample", "sample types"),
        ),
    ],
)
def test_names_that_match_nothing_are_told_and_only_the_filters_in_use_are_blamed(
    gdc: StandIn, tmp_path: Path, options: tuple[str, ...], used: str, unused: tuple[str, ...]
) -> None:
    (tmp_path / "names").write_text("slide_id\nTCGA-ZZ-0001\nTCGA-ZZ-0002\n")
    root = listed(tmp_path / "m", gdc, "--cases", tmp_path / "names", *options)
    refused = inside("--mirror", root, "sample")
    told, error = refused.err.splitlines()
    assert refused.code == 2
    assert told == "2 names of --cases without a listed slide: TCGA-ZZ-0001, TCGA-ZZ-0002"
    assert used in error and not any(word in error for word in unused)


@pytest.mark.parametrize("order", ["stable", "shuffle"])
def test_one_slide_of_each_case(gdc: StandIn, tmp_path: Path, order: str) -> None:
    plan = ("--order", order, "--seed", "3")
    every = sampled(listed(tmp_path / "every", gdc, *plan))
    some = listed(tmp_path / "some", gdc, *plan, "--one-per-case", slides=6)
    first: dict[str, str] = {}
    for name in every:
        first.setdefault(name[:12], name)
    assert sampled(some) == list(first.values())[:6]
    assert inside("--mirror", some, "sample", "--slides", "all").code == 0
    assert [str(name) for name in column(some, SAMPLED)] == list(first.values())
    assert rows(some, "select max(n) from (select count(*) n from mirror group by case_barcode)")


def of_cart(folder: Path, gdc: StandIn, *lines: str) -> Path:
    """Make a mirror of a manifest with these lines."""
    (folder / "cart.txt").write_text("\n".join(("id\tfilename", *lines)))
    return made(folder / "m", gdc, "--manifest", str(folder / "cart.txt"), "--slides", "all")


def test_a_manifest_is_completed_by_the_api(gdc: StandIn, tmp_path: Path) -> None:
    cart = gdc.files[10:17]
    root = of_cart(tmp_path, gdc, *(f"{file.file_id}\t{file.file_name}" for file in cart))
    rewrite(root, f'^api = "{gdc.api}"', 'api = "http://127.0.0.1:9"')
    told = "select file_name, project_id, primary_site, disease_type from mirror order by 1"
    assert inside("--mirror", root, "update").code == 0
    assert rows(root, told) == sorted((file.file_name, None, None, None) for file in cart)
    rewrite(root, '^api = "http://127.0.0.1:9"', f'api = "{gdc.api}"')
    assert inside("--mirror", root, "update").code == 0
    assert rows(root, told) == sorted(
        (file.file_name, file.project_id, file.primary_site, file.disease_type) for file in cart
    )
    assert inside("--mirror", root, "verify").code == 0


def test_a_manifest_is_completed_by_one_request(gdc: StandIn, tmp_path: Path) -> None:
    """A GDC that is down costs one request and one line a night, slides of others one in all."""
    ours, other = gdc.files[10], "7ab52949-b902-4a79-a9f4-65379e221444\tTCGA-ZZ-0001.svs"
    root = of_cart(tmp_path, gdc, f"{ours.file_id}\t{ours.file_name}", other)
    gdc.faults.add(Fault("/files", "503", retry_after=None))
    for _ in range(2):
        gdc.clear()
        began = time.monotonic()
        night = inside("--mirror", root, "refresh")
        assert night.code == 0 and time.monotonic() - began < 30
        assert "are looked up another time (" in night.sentence
        # One for projects and sites, one for labels.
        assert len(gdc.requests("/files")) == 2
    gdc.faults.clear()
    gdc.clear()
    for _ in range(2):
        assert inside("--mirror", root, "refresh").err == ""
        assert len(gdc.requests("/files")) == 2
    known = "select file_name from slides where project_id is not null"
    assert column(root, known) == [ours.file_name]
