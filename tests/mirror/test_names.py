"""Names of slides: `exclude`, `init --cases`, a manifest and `get` understand them by one rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gdc import Listed, StandIn
from tests.gdc.listing import listed
from tests.support.command import inside
from tests.support.mirrors import addresses, column, made

UUID = "B3C0F5C4-0000-4000-A000-00000000000"
FILES = (
    f"TCGA-AA-0001-01A-01-TS1.{UUID}0.svs",
    f"TCGA-AA-0001-01A-02-TS1.{UUID}1.svs",
    f"TCGA-AA-0001-11A-01-TS1.{UUID}2.svs",
    f"TCGA-AA-0002-01A-01-TS1.{UUID}3.svs",
)
NAMES = {
    "case": ("tcga-aa-0001", 3),
    "sample": ("TCGA-AA-0001-01A", 2),
    "small sample": ("tcga-aa-0001-01a", 2),
    "portion": ("TCGA-AA-0001-01A-02", 1),
    "slide": ("tcga-aa-0001-01a-02-ts1", 1),
    "stem": (FILES[1].removesuffix(".svs"), 1),
    "file": (FILES[1], 1),
    "image": (f"images/TCGA-BRCA/{FILES[1].removesuffix('.svs')}.png", 1),
    "file_id": ("", 1),
}
"""Names of the second file, and how many slides each means."""


@pytest.fixture(scope="module")
def gdc(small_slides: tuple[Listed, ...]) -> Iterator[StandIn]:
    files = [
        replace(listed(file.path, file_name=name), project_id="TCGA-BRCA")
        for file, name in zip(small_slides, FILES, strict=False)
        if file.path
    ]
    with StandIn(files) as gdc:
        yield gdc


@pytest.fixture(scope="module")
def root(gdc: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = made(tmp_path_factory.mktemp("names") / "m", gdc, "--kind", "all")
    assert inside("--mirror", root, "refresh").code == 0
    return root


@pytest.mark.parametrize("sort", NAMES)
def test_a_name_has_one_meaning(root: Path, gdc: StandIn, tmp_path: Path, sort: str) -> None:
    name, slides = NAMES[sort]
    name = name or gdc.files[1].file_id.upper()
    said = inside("--mirror", root, "exclude", name, "--json")
    assert (said.code, said.err) == (0, ""), said
    excluded = column(root, "select file_name from exclusions order by 1")
    assert len(excluded) == slides and FILES[1] in excluded
    assert inside("--mirror", root, "include", name).code == 0

    got = inside("get", name, "--mpp", "4", "-o", f"{tmp_path}/got/", "--json", *addresses(gdc))
    assert sorted(image["file_name"] for image in got.json()["images"]) == excluded

    (tmp_path / "cases").write_text(name)
    (tmp_path / "cart").write_text(
        "\n".join(("id\tfilename", *(f"{file.file_id}\t{file.file_name}" for file in gdc.files)))
    )
    cart = ("--cases", tmp_path / "cases", "--manifest", tmp_path / "cart")
    made_of = inside("init", tmp_path / "m", "--mpp", "4", *cart, *addresses(gdc))
    assert f"{4 - slides} slide" in made_of.out
    assert inside("--mirror", tmp_path / "m", "refresh").code == 0
    assert inside("--mirror", tmp_path / "m", "sample").code == 0
    assert column(tmp_path / "m", "select file_name from mirror order by 1") == excluded


@pytest.mark.parametrize(
    "name", ["TCGA-AA", "TCGA-AA-000", "TCGA-AA-0001-0", "TCGA-AA-0001-01", "0"]
)
def test_part_of_a_barcode_is_no_name(root: Path, gdc: StandIn, tmp_path: Path, name: str) -> None:
    assert inside("--mirror", root, "exclude", name).code == 2
    assert inside("get", name, "--mpp", "4", "-o", f"{tmp_path}/", *addresses(gdc)).code == 2
