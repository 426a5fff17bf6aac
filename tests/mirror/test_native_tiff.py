"""Mirrors of levels as they are: TIFF images of the slides' own tiles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

import tcgamirror
from tcgamirror.imaging.image_reader import read_header
from tcgamirror.model.slide import ImageFormat
from tests.gdc import Listed, StandIn, listed
from tests.support.carrying import exported, imported, is_clean
from tests.support.command import inside, went_well
from tests.support.levels import by_openslide
from tests.support.mirrors import addresses, column, images, made, rows, updated
from tests.support.slides import SlideSpec, make_slide
from tests.support.slides_codec import Compression

NATIVE = ("--mpp", "1", "--resample", "native", "--format")
COMPRESSIONS: tuple[Compression, ...] = ("jpeg-rgb", "jpeg-ycbcr", "j2k-rgb", "j2k-ycbcr")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Listed]:
    """One of each compression."""
    folder = tmp_path_factory.mktemp("native-slides")
    made_slides = []
    for number, compression in enumerate(COMPRESSIONS):
        spec = SlideSpec(2000, 1000, compression=compression, downsamples=(1, 4), thumbnail=False)
        name = f"TCGA-22-000{number}-01Z-00-DX1.svs"
        path = make_slide(folder / f"{number}.svs", spec)
        made_slides.append(listed(path, file_name=name, project_id="TCGA-LUSC"))
    return made_slides


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory, slides: Sequence[Listed]) -> Path:
    """A native TIFF mirror that no test changes."""
    with StandIn(slides) as gdc:
        root = made(tmp_path_factory.mktemp("native") / "m", gdc, *NATIVE, "tiff", slides=4)
        updated(root)
    return root


def facts(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        answer = json.loads(read_header(file, ImageFormat.TIFF).metadata)
    assert isinstance(answer, dict)
    return answer


def test_update_copies_the_tiles_of_the_level(mirror: Path, slides: Sequence[Listed]) -> None:
    files = {slide.file_name: slide.path for slide in slides if slide.path is not None}
    assert column(mirror, "select distinct pixels_sha256 from mirror") == [None]
    sql = "select path, file_name, width, height, mpp_x, mpp_y, source from mirror"
    for path, name, width, height, x, y, source in rows(mirror, sql):
        assert source == "range" and facts(mirror / str(path))["copied_tiles"] == 6
        with openslide.OpenSlide(mirror / str(path)) as slide:
            assert slide.dimensions == (width, height) == (500, 250)
            found = [float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy"]
            assert found == pytest.approx([x, y], abs=1e-4)
        expected = by_openslide(files[str(name)], 1)
        assert np.array_equal(by_openslide(mirror / str(path), 0), expected)
    for each in tcgamirror.open(mirror).slides():
        assert np.array_equal(np.asarray(each.image()), by_openslide(files[each.file_name], 1))


def test_every_command_takes_them(mirror: Path, tmp_path: Path) -> None:
    assert is_clean(mirror)
    assert imported(tmp_path / "imported", exported(mirror, tmp_path / "export"))["images"] == 4
    assert inside("sync", mirror, tmp_path / "synced").code == 0
    rebuilt = shutil.copytree(mirror, tmp_path / "rebuilt")
    (rebuilt / "catalogue.db").unlink()
    assert inside("--mirror", rebuilt, "rebuild", "--offline").code == 0
    for copy in (tmp_path / "imported", tmp_path / "synced", rebuilt):
        assert images(copy) == images(mirror)
        assert is_clean(copy)
    # It says so if an image has no thumbnail.
    went_well("--mirror", rebuilt, "gallery")


def test_a_changed_byte_is_found(mirror: Path, tmp_path: Path) -> None:
    root = shutil.copytree(mirror, tmp_path / "m")
    for path in column(root, "select path from mirror"):
        file = root / str(path)
        data = bytearray(file.read_bytes())
        data[2000:2040] = b"\xff\xd9" * 20
        file.write_bytes(data)
    result = inside("--mirror", root, "verify", "--json")
    assert (result.code, len(result.json()["wrong"])) == (7, 4)


def test_tiles_of_the_viewer_are_decoded(slides: Sequence[Listed], tmp_path: Path) -> None:
    """They are PNG, at the viewer's own levels."""
    with StandIn(slides) as gdc:
        root = made(tmp_path / "m", gdc, *NATIVE, "tiff", "--via", "tiles", slides=1)
        updated(root)
    (path,) = column(root, "select path from mirror where status = 'done'")
    assert "copied_tiles" not in facts(root / str(path))
    assert is_clean(root)


def test_get_copies_a_level(slides: Sequence[Listed], tmp_path: Path) -> None:
    slide, output = slides[0], tmp_path / "a.tif"
    with StandIn(slides) as gdc:
        words = ("get", slide.file_id, "--level", "0", "-o")
        assert inside(*words, output, *addresses(gdc)).code == 0
    assert slide.path is not None
    assert facts(output)["encoded_tiles"] == 0
    assert np.array_equal(np.asarray(Image.open(output)), by_openslide(slide.path, 0))
