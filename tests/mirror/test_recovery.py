"""Images that an earlier run finished and did not record."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path

from tests.gdc import StandIn
from tests.support.command import went_well
from tests.support.mirrors import column, images, made, rows, updated

KNOWN = "file_name, status, source, mpp_x, mpp_y, width, height, path, bytes, sha256, level"


def test_an_image_without_a_row_is_fetched_again(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    updated(root)
    known, there = rows(root, f"select {KNOWN} from mirror order by 1"), images(root)
    with closing(sqlite3.connect(root / "catalogue.db")) as catalogue, catalogue:
        # As if the run had been killed between an image's rename and its row.
        first = "(select file_name from sample where rank = 1)"
        catalogue.execute(f"delete from images where file_name in {first}")
        catalogue.execute(
            f"insert into images (file_name, status, attempts) select *, 'pending', 0 from {first}"
        )
    told = went_well("--mirror", root, "update", "--json").json()["fetched"]
    assert (told["done"], told["failed"], told["left"]) == (1, 0, 0) and told["bytes"]
    assert rows(root, f"select {KNOWN} from mirror order by 1") == known
    assert images(root) == there and not list((root / "work").iterdir())


def test_warnings_of_the_image_library_are_not_shown(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--format", "jpeg")
    updated(root)
    (path,) = column(root, "select path from mirror where sample_rank = 1")
    file = root / str(path)
    data = file.read_bytes()
    # The offset of the resolution's value lies outside of all tags.
    entry = data.index(struct.pack(">HHI", 282, 5, 1))
    file.write_bytes(data[: entry + 8] + struct.pack(">I", 60_000) + data[entry + 12 :])
    (root / "catalogue.db").unlink()
    assert not went_well("--mirror", root, "rebuild").err
