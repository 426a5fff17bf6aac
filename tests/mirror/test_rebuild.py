"""`rebuild` makes the same catalogue again, whatever is left, and believes no image blindly."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tcgamirror.imaging.image_reader import read_header
from tcgamirror.imaging.image_writer import write_image
from tcgamirror.imaging.metadata import parse_metadata
from tcgamirror.model.errors import Damaged
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat
from tcgamirror.system.lock import Lock
from tests.gdc import Listed, StandIn
from tests.gdc.listing import manifest
from tests.support.catalogues import make_older
from tests.support.command import Result, inside, went_well
from tests.support.mirrors import column, contents, filled, images, point_to, rewrite, rows, updated

ANEW = ("attempts", "seconds", "bytes_fetched", "fetched_at")
"""Columns of the view that only the lost catalogue knew."""


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> Iterator[tuple[Path, StandIn]]:
    """A mirror of 12 slides that is done, never to be changed, and its GDC."""
    with StandIn(small_slides) as gdc:
        root = filled(tmp_path_factory.mktemp("whole") / "m", gdc, "--by", "project_id", slides=12)
        yield root, gdc


@pytest.fixture
def mirror(tmp_path: Path, whole: tuple[Path, StandIn]) -> Path:
    whole[1].clear()
    return shutil.copytree(whole[0], tmp_path / "m")


def view(root: Path) -> list[dict[str, object]]:
    """The view's rows by rank, but for what is made anew."""
    with closing(sqlite3.connect(f"file:{root / 'catalogue.db'}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("select * from mirror order by sample_rank").fetchall()
    return [{key: row[key] for key in row.keys() if key not in ANEW} for row in found]  # noqa: SIM118


def rebuilt(root: Path, *options: str) -> Result:
    return inside("--mirror", root, "rebuild", *options)


def kept(root: Path) -> list[Path]:
    return sorted(root.glob("catalogue.db.damaged-*"))


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(50_000))
    path.with_name("catalogue.db-journal").write_bytes(os.urandom(5000))
    path.with_name("catalogue.db-wal").write_bytes(os.urandom(5000))
    path.with_name("catalogue.db.rebuilt").write_bytes(b"left by a rebuild that was killed")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30_000])


def spoiled_inside(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:40_000] = os.urandom(40_000 - 4096)
    path.write_bytes(data)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


# In every state --------------------------------------------------------------------


@pytest.mark.parametrize("state", [Path.unlink, garbage, cut_off, spoiled_inside, a_folder])
def test_the_same_rows_come_back(mirror: Path, state: Callable[[Path], None]) -> None:
    before, files = view(mirror), images(mirror)
    path = mirror / "catalogue.db"
    state(path)
    was = path.read_bytes() if path.is_file() else None
    result = rebuilt(mirror)
    assert (result.code, result.err) == (0, ""), result
    assert "12 images taken, 0 to fetch" in result.out
    assert view(mirror) == before
    assert images(mirror) == files
    old = [file for file in kept(mirror) if file.name.endswith(tuple("0123456789"))]
    if state is Path.unlink:
        assert not old
    else:
        assert len(old) == 1 and re.search(r"damaged-\d{8}-\d{6}$", old[0].name)
        assert old[0].is_dir() if was is None else old[0].read_bytes() == was
    assert not list(mirror.glob("catalogue.db-*")), "no journal of the old one is left to play"
    assert not list(mirror.glob("*.rebuilt*"))


def test_all_commands_go_on_after_it(mirror: Path, whole: tuple[Path, StandIn]) -> None:
    (mirror / "catalogue.db").unlink()
    assert "not in the new catalogue: " in rebuilt(mirror).out
    assert inside("--mirror", mirror, "verify").out.startswith("12 images read: all as recorded")
    told = inside("--mirror", mirror, "status").out
    by = "by seed 0 (stable, by project_id)"
    assert f"12 slides {by}: 12 done, 0 pending, 0 failed" in told
    whole[1].clear()
    assert updated(mirror).out.startswith("nothing to fetch: 12 of 12")
    # The second request is for the labels, which were lost.
    assert [record.path for record in whole[1].served] == ["/status", "/files"]


def test_a_link_to_a_catalogue_on_another_disk_stays_one(mirror: Path, tmp_path: Path) -> None:
    before = view(mirror)
    elsewhere = tmp_path / "local"
    elsewhere.mkdir()
    (mirror / "catalogue.db").rename(elsewhere / "c.db")
    (mirror / "catalogue.db").symlink_to(elsewhere / "c.db")
    (elsewhere / "c.db").write_bytes(b"rubbish")
    assert rebuilt(mirror).code == 0
    assert (mirror / "catalogue.db").is_symlink() and view(mirror) == before


def orphaned(path: Path) -> None:
    """Damages it such that it can still be read: a sampled slide is gone from the listing."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "delete from slides where file_name = (select max(file_name) from sample)"
        )
        connection.commit()


def test_a_catalogue_of_an_older_version_is_judged_as_any(mirror: Path) -> None:
    make_older(mirror, 3)
    result = rebuilt(mirror)
    assert result.code == 2 and "not damaged" in result.sentence
    path = mirror / "catalogue.db"
    ((page,),) = rows(mirror, "select rootpage from sqlite_master where name = 'attempts'")
    with path.open("r+b") as file:
        file.seek((int(str(page)) - 1) * 4096)
        file.write(b"\xa5" * 4096)
    assert rebuilt(mirror).code == 0
    updated(mirror)


def test_a_catalogue_that_is_whole_is_left_alone(mirror: Path, whole: tuple[Path, StandIn]) -> None:
    before = contents(mirror)
    result = rebuilt(mirror)
    assert result.code == 2
    assert "not damaged" in result.sentence and "move it away" in result.sentence
    assert contents(mirror) == before and not whole[1].served
    rows_before = view(mirror)
    (mirror / "catalogue.db").rename(mirror / "catalogue.db.mine")
    assert rebuilt(mirror).code == 0
    assert view(mirror) == rows_before


@pytest.mark.parametrize("left", ["nothing", "file", "dangling link"])
def test_images_on_a_disk_that_is_not_mounted_are_not_forgotten(mirror: Path, left: str) -> None:
    folder = mirror / "images"
    folder.rename(mirror / "elsewhere")
    if left == "file":
        folder.write_bytes(b"")
    elif left == "dangling link":
        folder.symlink_to(mirror / "nowhere")
    orphaned(mirror / "catalogue.db")
    before = contents(mirror)
    result = rebuilt(mirror)
    assert result.code == 2 and f"{folder} is no directory: mount" in result.sentence
    assert contents(mirror) == before
    folder.unlink(missing_ok=True)
    (mirror / "elsewhere").rename(folder)
    assert "12 images taken" in rebuilt(mirror).out


# The listing -----------------------------------------------------------------------


def test_without_the_gdc_nothing_changes(mirror: Path, whole: tuple[Path, StandIn]) -> None:
    cut_off(mirror / "catalogue.db")
    before = contents(mirror)
    whole[1].switch("api", "refused")
    try:
        result = rebuilt(mirror)
    finally:
        whole[1].switch("api", "up")
    assert result.code == 4 and result.sentence
    assert contents(mirror) == before


def test_offline_takes_the_images_alone(mirror: Path, whole: tuple[Path, StandIn]) -> None:
    before = view(mirror)
    (mirror / "catalogue.db").unlink()
    result = rebuilt(mirror, "--offline", "--json")
    assert (result.code, result.json()["images"]) == (0, 12)
    assert not whole[1].served
    for old, new in zip(before, view(mirror), strict=True):
        assert new == old | {"data_release": new["data_release"]}
    assert "nothing to fetch: 12 of 12" in updated(mirror).out
    assert view(mirror) == before


def test_a_manifest_is_read_again(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    path = tmp_path / "manifest.txt"
    path.write_text(manifest(small_slides))
    with StandIn(small_slides) as gdc:
        root = filled(tmp_path / "m", gdc, "--manifest", str(path), "--order", "shuffle")
        before = view(root)
        gdc.clear()
        (root / "catalogue.db").unlink()
        assert rebuilt(root).code == 0
        assert not gdc.served
        # The next update looks up what the manifest does not tell.
        updated(root)
    assert view(root) == before


def test_upstream_changes_are_noticed(mirror: Path, small_slides: tuple[Listed, ...]) -> None:
    first, second, third = (str(row["file_name"]) for row in view(mirror)[:3])
    files = []
    for file in small_slides:
        if file.file_name == first:
            file = dataclasses.replace(file, md5="0" * 32)
        if file.file_name == second:
            file = dataclasses.replace(file, file_id="0" * 8 + file.file_id[8:])
        if file.file_name != third:
            files.append(file)
    (mirror / "catalogue.db").unlink()
    with StandIn(files, release="Data Release 46.0 - March 04, 2026") as gdc:
        point_to(mirror, gdc)
        told = rebuilt(mirror, "--json").json()
    assert (told["changed"], told["unlisted"], told["sampled"]) == (1, 1, 12)
    state = {
        name: (upstream, status)
        for name, upstream, status in rows(mirror, "select file_name, upstream, status from mirror")
    }
    assert state[first] == ("changed", "pending")
    assert state[second] == ("current", "done")
    assert state[third] == ("withdrawn", "done")
    assert column(mirror, "select file_name from former_ids") == [second]
    for release, listed in ((47, [file for file in files if file.file_name != first]), (48, files)):
        with StandIn(listed, release=f"Data Release {release}.0 - March 04, 2027") as gdc:
            point_to(mirror, gdc)
            went_well("--mirror", mirror, "refresh")
    state_of = f"select upstream, status from mirror where file_name = '{first}'"
    assert rows(mirror, state_of) == [("changed", "pending")]


def test_images_never_fetched_are_pending_again_and_the_sample_is_kept(mirror: Path) -> None:
    rewrite(mirror, "^slides = 12", "slides = 5")
    before = view(mirror)
    (mirror / "catalogue.db").unlink()
    assert rebuilt(mirror).code == 0
    assert view(mirror) == before
    rewrite(mirror, "^slides = 5", "slides = 12")
    gone = mirror / str(before[4]["path"])
    gone.unlink()
    (mirror / "catalogue.db").unlink()
    assert "11 images taken, 1 to fetch" in rebuilt(mirror).out
    assert "1 slide fetched" in updated(mirror).out
    assert view(mirror) == before


# Who may ---------------------------------------------------------------------------


def test_neither_beside_another_run_nor_for_other_images(mirror: Path) -> None:
    before = contents(mirror)
    with Lock(mirror / ".lock", "update"):
        assert rebuilt(mirror).code == 5
    assert contents(mirror) == before
    rewrite(mirror, "^mpp = 4.0", "mpp = 8.0")
    result = rebuilt(mirror)
    assert result.code == 2 and "made for" in result.sentence
    (mirror / "catalogue.db").unlink()
    assert "0 images taken" in rebuilt(mirror).out


# Images that are not believed --------------------------------------------------------


def read_metadata(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        found = json.loads(read_header(file, ImageFormat.PNG).metadata)
    assert isinstance(found, dict)
    return found


def png(facts: object) -> bytes:
    file, size = io.BytesIO(), Size(30, 25)
    pixels = np.zeros((size.height, size.width, 3), np.uint8)
    write_image(file, ImageFormat.PNG, size, [pixels], None, facts)  # type: ignore[arg-type]
    return file.getvalue()


def test_what_is_no_image_of_this_mirror_is_told_and_left(mirror: Path) -> None:
    paths = [mirror / str(row["path"]) for row in view(mirror)]
    facts = read_metadata(paths[0])
    data = bytearray(paths[0].read_bytes())
    data[-40] ^= 1
    paths[0].write_bytes(data)
    shutil.copy(paths[2], paths[1])
    paths[3].unlink()
    paths[3].symlink_to(paths[4])
    paths[5].write_bytes(png({**read_metadata(paths[5]), "mpp_x": 9.0, "mpp_y": 9.0}))
    folder = mirror / "images" / "TCGA-LUAD"
    (folder / "x.png").write_bytes(png({**facts, "file_name": "../../../x.svs"}))
    (folder / "y.png").write_bytes(png({**facts, "file_name": "y.svs", "project_id": "../.."}))
    (folder / "z.txt").write_text("a person's")
    (mirror / "catalogue.db").unlink()
    before = images(mirror)
    told = rebuilt(mirror, "--json").json()
    assert told["images"] == 12 - 4
    refused = {Path(stray["path"]).name: stray["what"] for stray in told["refused"]}
    assert set(refused) == {paths[place].name for place in (0, 1, 3, 5)} | {
        "x.png",
        "y.png",
        "z.txt",
    }
    assert "it is an image of " in refused[paths[1].name] and "µm/px" in refused[paths[5].name]
    assert images(mirror) == before
    assert "4 slides fetched" in updated(mirror).out
    assert inside("--mirror", mirror, "verify").code == 0


ABSURD: Mapping[str, Sequence[object]] = {
    "file_id": ["not an id"],
    "file_name": ["../a.svs", None, ["a"]],
    "kind": ["human", {}],
    "source": ["rm -rf", []],
    "level": [-1, 10**30, True],
    "level_downsample": [0, float("nan"), "4"],
    "base_mpp": [1e308, None],
    "mpp_source": ["guess", "unknown"],
    "mpp_x": [float("inf"), -4.0],
    "mpp_y": [None],
}


@pytest.mark.parametrize(("key", "value"), [(key, x) for key in ABSURD for x in ABSURD[key]])
def test_absurd_facts_are_refused(whole: tuple[Path, StandIn], key: str, value: object) -> None:
    facts = read_metadata(whole[0] / str(view(whole[0])[0]["path"]))
    assert parse_metadata(json.dumps(facts)).slide.file_id == facts["file_id"]
    with pytest.raises(Damaged):
        parse_metadata(json.dumps({**facts, key: value}))
    for text in ("", "{", "[]", "7", "null", "[" * 60_000, '"' + "9" * 9000):
        with pytest.raises(Damaged):
            parse_metadata(text)


@pytest.mark.parametrize("form", ["jpeg", "tiff"])
def test_other_formats_come_back_too(
    tmp_path: Path, small_slides: tuple[Listed, ...], form: str
) -> None:
    with StandIn(small_slides) as gdc:
        root = filled(tmp_path / "m", gdc, "--format", form, "--max-size", "100", slides=3)
        before = view(root)
        assert went_well("--mirror", root, "verify", "--decode").out.startswith("3 images decoded")
        (root / "catalogue.db").unlink()
        assert rebuilt(root).code == 0
    assert view(root) == before


def test_warnings_of_the_image_library_are_not_shown(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, "--format", "jpeg")
    (path,) = column(root, "select path from mirror where sample_rank = 1")
    file = root / str(path)
    data = file.read_bytes()
    # The offset of the resolution's value lies outside of all tags.
    entry = data.index(struct.pack(">HHI", 282, 5, 1))
    file.write_bytes(data[: entry + 8] + struct.pack(">I", 60_000) + data[entry + 12 :])
    (root / "catalogue.db").unlink()
    assert not went_well("--mirror", root, "rebuild").err
