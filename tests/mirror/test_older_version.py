"""A mirror, its export and its lock file, as the program made them on 2026-11-23 (schema 3)."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gdc import StandIn, listed
from tests.support.command import inside, run, went_well
from tests.support.mirrors import addresses, column, images, impatient, point_to, rows
from tests.support.publishing import change

ARCHIVE = Path(__file__).with_name("older_version.tar.xz")
"""`slides/`, three of the stand-in's, `mirror/` of them at 4 µm/px, `export/`, `export.tar` and
`cited.lock`, all made by commands of that version."""


@pytest.fixture
def older(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def gdc(older: Path) -> Iterator[StandIn]:
    slides = [
        listed(path, file_name=path.name, project_id="TCGA-LUAD")
        for path in sorted((older / "slides").iterdir())
    ]
    with StandIn(slides) as gdc:
        point_to(older / "mirror", gdc)
        yield gdc


def test_an_update_migrates_a_mirror_and_fetches_nothing_again(older: Path, gdc: StandIn) -> None:
    root = older / "mirror"
    before, facts = images(root), rows(root, "select file_name, sha256, mpp_x from mirror")
    refused = run("--mirror", root, "status")
    assert refused.code == 2 and "update" in refused.sentence
    went_well("--mirror", root, "update")
    assert images(root) == before
    assert rows(root, "select file_name, sha256, mpp_x from mirror") == facts
    assert not gdc.requests(host="bucket") and not gdc.requests("/data/")
    went_well("--mirror", root, "status")
    went_well("--mirror", root, "verify", "--decode")
    went_well("--mirror", root, "lock", "--check", older / "cited.lock")
    # Without digests of pixels, those of the files are compared.
    change(root, "UPDATE images SET sha256 = ? WHERE rowid = 1", "cd" * 32)
    assert inside("--mirror", root, "lock", "--check", older / "cited.lock").code == 3


@pytest.mark.usefixtures("gdc")
def test_a_lost_catalogue_is_rebuilt_from_older_images(older: Path) -> None:
    root = older / "mirror"
    before = images(root)
    (root / "catalogue.db").unlink()
    went_well("--mirror", root, "rebuild")
    assert images(root) == before
    went_well("--mirror", root, "lock", "--check", older / "cited.lock")


@pytest.mark.parametrize("form", ["export", "export.tar", "mirror"])
def test_an_older_export_or_mirror_is_taken_over(form: str, older: Path) -> None:
    new, source = older / "new", older / form
    went_well(*(("sync", source, new) if form == "mirror" else ("--mirror", new, "import", source)))
    assert images(new) == images(older / "mirror")
    assert set(column(new, "select status from mirror")) == {"done"}
    went_well("--mirror", new, "lock", "--check", older / "cited.lock")


def test_an_older_lock_file_gives_the_same_slides(older: Path, gdc: StandIn) -> None:
    new, slides = older / "new", "select file_name, mpp_x, width from mirror order by 1"
    went_well("init", new, "--lock", older / "cited.lock", *addresses(gdc))
    impatient(new)
    went_well("--mirror", new, "update")
    assert rows(new, slides) == rows(older / "mirror", slides)
