"""Images that an earlier run finished and could not record are recorded, and not fetched again."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.command import run, succeeded
from tests.support.mirrors import column, images, made, rows, updated

FILES = r"/data/|\.svs"
KNOWN = "file_name, status, source, mpp_x, mpp_y, width, height, path, bytes, sha256, level"


def forgotten(root: Path) -> None:
    """As if the run had been killed before it recorded its first two images."""
    with closing(sqlite3.connect(root / "catalogue.db")) as catalogue, catalogue:
        columns = [row[1] for row in catalogue.execute("pragma table_info(images)")]
        kept = {"file_name", "status", "attempts", "failures"}
        empty = ", ".join(f"{name} = NULL" for name in columns if name not in kept)
        catalogue.execute(
            f"update images set status = 'pending', {empty} "
            "where file_name in (select file_name from sample order by rank limit 2)"
        )


@pytest.mark.parametrize("form", ["png", "jpeg", "tiff"])
def test_a_finished_image_without_a_row_is_recorded_without_being_fetched(
    tmp_path: Path, small_gdc: StandIn, form: str
) -> None:
    root = made(tmp_path / "m", small_gdc, "--format", form)
    updated(root)
    known, there = rows(root, f"select {KNOWN} from mirror order by 1"), images(root)
    forgotten(root)
    # Killed before what it had of the slide was removed, too.
    (file_id,) = column(root, "select file_id from mirror where sample_rank = 1")
    (root / "work" / str(file_id) / "range").mkdir(parents=True)
    small_gdc.clear()
    told = succeeded("--mirror", root, "update", "--json").json()["fetched"]
    assert (told["done"], told["failed"], told["bytes"], told["left"]) == (2, 0, 0, 0)
    assert not small_gdc.requests(FILES)
    assert rows(root, f"select {KNOWN} from mirror order by 1") == known
    assert images(root) == there and not list((root / "work").iterdir())


@pytest.mark.parametrize("spoilt", ["damaged", "another file", "of another mirror", "a folder"])
def test_what_is_not_the_slides_own_whole_image_is_fetched(
    tmp_path: Path, small_gdc: StandIn, spoilt: str
) -> None:
    root = made(tmp_path / "m", small_gdc)
    updated(root)
    there = images(root)
    (path, *_) = column(root, "select path from mirror order by sample_rank")
    file = root / str(path)
    if spoilt == "damaged":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.write_bytes(data)
    elif spoilt == "another file":
        with closing(sqlite3.connect(root / "catalogue.db")) as catalogue, catalogue:
            catalogue.execute("update slides set md5 = null")
    elif spoilt == "of another mirror":
        other = made(tmp_path / "other", small_gdc, "--mpp", "8")
        updated(other)
        file.write_bytes((other / str(path)).read_bytes())
    else:
        file.unlink()
    forgotten(root)
    small_gdc.clear()
    updated(root)
    assert small_gdc.requests(FILES)
    # Its facts say what md5 was listed.
    assert spoilt == "another file" or images(root) == there


def test_a_damaged_image_that_was_recorded_once_is_not_adopted(
    tmp_path: Path, small_gdc: StandIn
) -> None:
    root = made(tmp_path / "m", small_gdc)
    updated(root)
    with closing(sqlite3.connect(root / "catalogue.db")) as catalogue, catalogue:
        # As verify --repair leaves it: the image decodes, but is not the one recorded.
        catalogue.execute("update images set status = 'pending', sha256 = 'another'")
    small_gdc.clear()
    updated(root)
    assert len(small_gdc.requests(FILES)) >= 4


def test_finished_images_are_no_sign_that_a_site_is_there(
    tmp_path: Path, small_gdc: StandIn
) -> None:
    root = made(tmp_path / "m", small_gdc)
    updated(root)
    forgotten(root)
    with closing(sqlite3.connect(root / "catalogue.db")) as catalogue, catalogue:
        catalogue.execute("update images set status = 'pending' where status = 'done'")
    small_gdc.switch("bucket", "refused")
    small_gdc.switch("api", "refused")
    result = run("--mirror", root, "fetch")
    assert (result.code, result.out) == (4, "") and "no slide can be reached" in result.err
    assert column(root, "select count(*) from mirror where status = 'done'") == [2]


def test_a_limit_counts_for_finished_images_too(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    updated(root)
    forgotten(root)
    told = succeeded("--mirror", root, "fetch", "--time-limit", "0.001s", "--json").json()
    assert (told["fetched"]["done"], told["fetched"]["left"]) == (0, 2)
    assert told["fetched"]["stopped_by"] == "--time-limit"


def test_what_a_library_thinks_of_an_image_is_not_told(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--format", "jpeg")
    updated(root)
    forgotten(root)
    (path,) = column(root, "select file_name from mirror where sample_rank = 1")
    (file,) = (root / "images").rglob(f"{str(path).removesuffix('.svs')}.jpg")
    data = file.read_bytes()
    # Where the tag of the resolution says that its value lies: outside of all tags.
    entry = data.index(struct.pack(">HHI", 282, 5, 1))
    file.write_bytes(data[: entry + 8] + struct.pack(">I", 60_000) + data[entry + 12 :])
    assert "2 slides fetched" in updated(root).out
