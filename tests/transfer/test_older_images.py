"""Mirrors whose TIFF images an older version wrote, in strips."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.gdc import Listed, StandIn
from tests.support.carrying import exported, imported, is_clean
from tests.support.command import inside
from tests.support.mirrors import column, images, made, point_to, updated
from tests.support.strip_tiffs import put_in_strips


@pytest.fixture
def old(tmp_path: Path, small_slides: tuple[Listed, ...]) -> Path:
    """A mirror with images of an older version; its GDC is gone."""
    with StandIn(small_slides) as gdc:
        root = made(tmp_path / "old", gdc, "--format", "tiff", slides=3)
        updated(root)
    put_in_strips(root)
    return root


def test_verify_takes_both_kinds_of_tiff(old: Path, small_slides: tuple[Listed, ...]) -> None:
    assert is_clean(old)
    (old / str(column(old, "select path from mirror")[0])).unlink()
    with StandIn(small_slides) as gdc:
        point_to(old, gdc)
        assert inside("--mirror", old, "verify", "--repair").code == 0
    paths = map(str, column(old, "select path from mirror"))
    assert sorted(Image.open(old / path).getexif().get(322, 0) for path in paths) == [0, 0, 256]
    assert is_clean(old)


def test_import_sync_and_rebuild_take_them(old: Path, tmp_path: Path) -> None:
    assert imported(tmp_path / "imported", exported(old, tmp_path / "export"))["images"] == 3
    assert inside("sync", old, tmp_path / "synced").code == 0
    rebuilt = shutil.copytree(old, tmp_path / "rebuilt")
    (rebuilt / "catalogue.db").unlink()
    assert inside("--mirror", rebuilt, "rebuild", "--offline").code == 0
    facts = "select file_name, path, sha256, mpp_x from mirror order by 1"
    for copy in (tmp_path / "imported", tmp_path / "synced", rebuilt):
        assert images(copy) == images(old)
        assert column(copy, facts) == column(old, facts)
        assert is_clean(copy)
