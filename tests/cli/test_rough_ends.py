"""What ends a run, or keeps one from beginning, told in order and to scripts too."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.command import inside, program, run, surroundings, went_well
from tests.support.mirrors import addresses, column, made, says, updated
from tests.support.publishing import WAYS, change, made_up, rest

USAGE_ERROR, DAMAGED = 2, 7


@pytest.mark.parametrize("folder", ["images", "work"])
@pytest.mark.parametrize("kind", ["file", "dangling"])
def test_a_folder_that_is_none_ends_the_run_before_anything_is_fetched(
    tmp_path: Path, small_gdc: StandIn, folder: str, kind: str
) -> None:
    root = made(tmp_path / "m", small_gdc)
    if kind == "file":
        (root / folder).write_text("mine")
    else:
        (root / folder).symlink_to(tmp_path / "not mounted")
    says(inside("--mirror", root, "update"), USAGE_ERROR, str(root / folder))
    assert not small_gdc.requests(r"/data/|\.svs")
    assert column(root, "select distinct status from mirror") == ["pending"]


def test_a_lost_image_folder_ends_the_run(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--workers", "1", slides=12)
    (root / "images").mkdir()
    for project in ("TCGA-BRCA", "TCGA-LUAD", "TCGA-GBM"):
        (root / "images" / project).symlink_to(tmp_path / "not mounted")
    says(inside("--mirror", root, "update"), USAGE_ERROR, str(root / "images"), "mount")
    assert column(root, "select distinct status from mirror") == ["pending"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_bug(tmp_path: Path, small_gdc: StandIn, closed: str) -> None:
    root = made(tmp_path / "m", small_gdc, slides=1)
    command = shlex.join([*program(), "--mirror", str(root), "update"])
    ended = subprocess.run(
        ["bash", "-c", f"{command} {closed}"],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert column(root, "select status from mirror") == ["done"]
    assert column(root, "pragma integrity_check") == ["ok"]


def test_columns_of_one_name_are_all_in_the_json(mirror: Path) -> None:
    sql = "select 1 as n, 2 as n, 3 as n"
    found = json.loads(went_well("--mirror", mirror, "query", sql, "--format", "json").out)
    assert found == [{"n": 1, "n_2": 2, "n_3": 3}]


def test_init_warns_of_too_small_a_manifest(tmp_path: Path, small_gdc: StandIn) -> None:
    manifest = tmp_path / "manifest.txt"
    row = "{0.file_id}\t{0.file_name}\t{0.md5}\t{0.size}\treleased"
    lines = ["id\tfilename\tmd5\tsize\tstate", *map(row.format, small_gdc.files)]
    manifest.write_text("\n".join(lines))
    root = tmp_path / "m"
    every = ("init", "--mpp", "4", "--manifest", str(manifest), *addresses(small_gdc))
    init = (*every, "--kind", "diagnostic")
    told = inside("--mirror", root, *init, "--slides", "16")
    assert told.code == 0 and "16 requested" in told.sentence
    made = went_well("--mirror", tmp_path / "n", *init, "--slides", "15").out
    assert "3 slides not of --kind diagnostic left out" in made
    # A manifest is a choice: without a word all of it is wanted.
    assert "left out" not in went_well("--mirror", tmp_path / "all", *every).out
    some = went_well("--mirror", tmp_path / "some", *every, "--slides", "15").out
    assert "3 slides beyond --slides 15 left out" in some


def test_update_reports_the_state_of_the_sample(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=3)
    assert "3 slides fetched" in updated(root).out
    told = went_well("--mirror", root, "update", "--json").json()
    assert (told["standing"]["done"], told["standing"]["pending"]) == (3, 0)


@pytest.mark.parametrize("way", ["python", "serve"])
@pytest.mark.parametrize(
    "fixed",
    [
        "at most 0 px, exact, png",
        "at most 9999999999 px, exact, png",
        "0 µm/px, exact, png",
        "1e999 µm/px, exact, png",
    ],
)
def test_a_source_of_absurd_images_makes_no_mirror(tmp_path: Path, way: str, fixed: str) -> None:
    source, root = made_up(tmp_path / "source", 1), tmp_path / "copy"
    change(source, "UPDATE facts SET value = ? WHERE key = 'fixed at init'", fixed)
    rest(source)
    with WAYS[way](source) as published:
        for options in (["--dry-run"], []):
            result = inside("sync", published.url, root, *options)
            says(result, DAMAGED, fixed, "no mirror")
            assert not root.exists()


def test_a_pipe_as_lock_file_is_refused(tmp_path: Path) -> None:
    source = made_up(tmp_path / "source", 1)
    settings = source / "tcgamirror.toml"
    settings.write_text(settings.read_text().replace('lock = ""', 'lock = "sample.lock"'))
    os.mkfifo(source / "sample.lock")
    result = run("sync", source, tmp_path / "copy", timeout=30)
    says(result, USAGE_ERROR, str(source / "sample.lock"), "not a regular file")
    assert not (tmp_path / "copy").exists()
