"""The main job as a person does it, command by command, against the stand-in GDC."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shlex
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.gdc import Fault, Listed, StandIn
from tests.support.command import Result, inside, started, succeeded, went_well
from tests.support.mirrors import (
    MPP,
    PROJECTS,
    TISSUE,
    addresses,
    column,
    filled,
    images,
    made,
    rewrite,
    rows,
    says,
    until,
    updated,
)
from tests.support.publishing import change

RELEASE = "Data Release 45.0 - December 04, 2025"
COLUMNS = [
    *("file_id", "file_name", "project_id", "primary_site", "disease_type", "sample_type"),
    *("case_barcode", "slide_barcode", "kind", "upstream", "status", "source", "level"),
    *("level_downsample", "base_mpp", "mpp_source", "mpp_x", "mpp_y", "width", "height", "path"),
    *("bytes", "sha256", "bytes_fetched", "seconds", "fetched_at", "attempts", "error"),
    *("sample_rank", "data_release", "patched_tiles", "pixels_sha256"),
]
FILES = r"/data/|\.svs"
"""The requests for slides' bytes, of the GDC and of the bucket."""


# The main job --------------------------------------------------------------------


def test_init_and_update_mirror_the_slides(tmp_path: Path, small_gdc: StandIn) -> None:
    root = tmp_path / "m"
    made_words = went_well(
        "--mirror", root, "init", "--slides", "4", "--mpp", "4", *addresses(small_gdc)
    ).out
    assert f"next: tcgamirror --mirror {root} update" in made_words
    settings = (root / "tcgamirror.toml").read_text()
    assert f'api = "{small_gdc.api}"' in settings and f'bucket = "{small_gdc.bucket}"' in settings
    lines = updated(root).out.splitlines()
    assert lines[0] == f"{RELEASE}: {len(small_gdc.files)} added"
    assert lines[1] == "4 slides added to the sample"
    assert lines[2].startswith("4 slides fetched, 0 failed, ")
    assert lines[3] == f"4 images in {root / 'images'}"
    assert len(images(root)) == 4
    sql = "select path, width, height, pixels_sha256 from mirror"
    for path, width, height, pixels_sha256 in rows(root, sql):
        with Image.open(root / str(path)) as image:
            assert image.size == (width, height)
            assert hashlib.sha256(image.tobytes()).hexdigest() == pixels_sha256
    assert not list((root / "work").iterdir())


def test_the_three_steps_by_themselves_are_an_update(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    assert "18 added" in went_well("--mirror", root, "refresh").out
    assert went_well("--mirror", root, "refresh").out == f"nothing new: {RELEASE}\n"
    assert not column(root, "select * from mirror")
    assert went_well("--mirror", root, "sample").out == "4 slides added to the sample\n"
    assert went_well("--mirror", root, "sample").out == "nothing to add: 4 slides are sampled\n"
    assert column(root, "select distinct status from mirror") == ["pending"]
    small_gdc.clear()
    assert "4 slides fetched" in went_well("--mirror", root, "fetch").out
    assert not small_gdc.requests("/status|/files")
    assert column(root, "select distinct status from mirror") == ["done"]


def test_a_larger_sample_keeps_what_was_there(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=3)
    before, ranks = images(root), rows(root, "select file_name, sample_rank from mirror")
    rewrite(root, "^slides = 3", "slides = 7")
    small_gdc.clear()
    assert "4 slides fetched" in updated(root).out
    assert before.items() <= images(root).items() and len(images(root)) == 7
    assert set(ranks) < set(rows(root, "select file_name, sample_rank from mirror"))
    fetched = {record.path.split("/")[1] for record in small_gdc.requests(FILES)}
    new = column(root, "select file_id from mirror where sample_rank > 3")
    assert fetched == set(new)
    # A smaller one deletes nothing.
    rewrite(root, "^slides = 7", "slides = 1")
    assert "nothing to fetch: 7 of 7 slides done" in updated(root).out
    assert len(images(root)) == 7


def test_a_failed_slide_is_named_and_can_be_retried(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--via", "range")
    sampled(root)
    (lost,) = rows(root, "select file_name, file_id from mirror where sample_rank = 1")
    small_gdc.faults.add(Fault(str(lost[1]), "404"))
    failed = inside("--mirror", root, "update")
    assert failed.code == 3
    assert failed.sentence.startswith(f"failed: {lost[0]}: range: ")
    assert "3 slides fetched, 1 failed" in failed.out
    assert rows(root, "select file_name, attempts from mirror where status = 'failed'") == [
        (lost[0], 1)
    ]
    small_gdc.faults.clear()
    again = went_well("--mirror", root, "update").out
    assert "3 of 4 slides done, 1 failed" in again and "--retry-failed" in again
    assert "1 slide fetched, 0 failed" in went_well("--mirror", root, "fetch", "--retry-failed").out
    assert column(root, "select count(*) from mirror where status = 'done'") == [4]


# What may be asked for ------------------------------------------------------------


def sampled(root: Path) -> Result:
    went_well("--mirror", root, "refresh")
    return inside("--mirror", root, "sample")


@pytest.mark.parametrize(
    ("options", "count", "sql", "values"),
    [
        ("--kind diagnostic", 15, "select kind from mirror", {"diagnostic"}),
        ("--kind tissue", TISSUE, "select kind from mirror", {"tissue"}),
        ("--kind all", 18, "select kind from mirror", {"diagnostic", "tissue"}),
        ("--project brca --project gbm", 10, "select project_id from mirror", {*PROJECTS[::2]}),
    ],
)
def test_options_choose_the_slides(
    tmp_path: Path, small_gdc: StandIn, options: str, count: int, sql: str, values: set[str]
) -> None:
    root = made(tmp_path / "m", small_gdc, *options.split(), "--slides", "all")
    assert sampled(root).out == f"{count} slides added to the sample\n"
    assert set(column(root, sql)) == values


def test_projects_that_are_not_listed_are_named(tmp_path: Path, small_gdc: StandIn) -> None:
    wanted = ("--project", PROJECTS[0], "--project", "TCGA-UVM")
    root = made(tmp_path / "m", small_gdc, *wanted, slides=12)
    result = sampled(root)
    assert (result.code, result.out) == (0, "5 slides added to the sample\n")
    assert result.err.splitlines() == [
        "12 slides are asked for, but there are only 5 of kind diagnostic: all are taken",
        "no slide of --project TCGA-UVM is listed",
    ]
    assert "TCGA-UVM" not in inside("--mirror", root, "sample").err


@pytest.mark.parametrize("by", ["project_id", "primary_site"])
def test_by_goes_round_the_strata(tmp_path: Path, small_gdc: StandIn, by: str) -> None:
    root = made(tmp_path / "m", small_gdc, "--by", by, slides=6)
    sampled(root)
    strata = column(root, f"select {by} from mirror order by sample_rank")
    assert strata[:3] == strata[3:] and len(set(strata)) == 3


@pytest.mark.parametrize("options", ["--slides all", "--slides 5", "--slides 5 --kind all"])
def test_a_project_that_is_not_listed(tmp_path: Path, small_gdc: StandIn, options: str) -> None:
    root = made(tmp_path / "m", small_gdc, "--project", "uvm", *options.split())
    others = "Listed projects: TCGA-BRCA, TCGA-GBM, TCGA-LUAD"
    unlisted = "slide matches --project TCGA-UVM: make another mirror by init. "
    says(inside("--mirror", root, "update"), 2, unlisted + others)


def test_a_kind_that_a_project_lacks(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    others = [slide for slide in small_slides if "-TS" not in slide.file_name]
    tissue = [slide for slide in small_slides if slide not in others]
    with StandIn([*others, *(slide for slide in tissue if slide.project_id == "TCGA-GBM")]) as gdc:
        options = ("--project", "TCGA-OV", "--project", "TCGA-BRCA", "--kind", "tissue")
        result = inside("--mirror", made(tmp_path / "m", gdc, *options), "update")
        lack = "no listed tissue slide matches --project TCGA-BRCA, TCGA-OV: "
        says(result, 2, lack, "Listed projects: TCGA-GBM")
    with StandIn(others) as gdc:
        root = made(tmp_path / "n", gdc, "--kind", "tissue", "--slides", "all")
        says(inside("--mirror", root, "update"), 2, "no tissue slide is listed")


def test_rate_holds_the_whole_run_down(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    small_gdc.clear()
    begun = time.monotonic()
    went_well("--mirror", root, "update", "--rate", "50k")
    assert small_gdc.bytes_sent(FILES) / (time.monotonic() - begun) < 50_000


@pytest.mark.parametrize("form", [("png", ".png"), ("jpeg", ".jpg"), ("tiff", ".tif")])
def test_images_have_the_format_asked_for(
    tmp_path: Path, small_gdc: StandIn, form: tuple[str, str]
) -> None:
    root = filled(tmp_path / "m", small_gdc, "--format", form[0], slides=1)
    (path,) = map(str, column(root, "select path from mirror"))
    with Image.open(root / path) as image:
        assert (str(image.format).lower(), Path(path).suffix) == form
        image.load()


def test_max_size_bounds_the_longer_side(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, "--max-size", "100", slides=2)
    assert all(50 < int(str(width)) <= 100 for width in column(root, "select width from mirror"))


# Where the mirror is ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "env", "cwd"),
    [
        ("status", {"TCGAMIRROR": "{m}"}, "."),
        ("--mirror {m} status", {"TCGAMIRROR": "/"}, "."),
        ("status --mirror {m}", {}, "."),
        ("status", {}, "{m}/images/TCGA-BRCA"),
        ("--mirror {m} status", {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, "."),
    ],
    ids=["environment", "option first", "option last", "nearest above", "ASCII"],
)
def test_the_mirror_is_found(
    mirror: Path, tmp_path: Path, words: str, env: dict[str, str], cwd: str
) -> None:
    env = {name: value.format(m=mirror) for name, value in env.items()}
    place = tmp_path / cwd.format(m=mirror)
    status = succeeded(*words.format(m=mirror).split(), env=env, cwd=place)
    assert "6 slides by seed 0 (stable): 6 done" in status.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--mpp 4", "100 slides by seed 0 (stable), each 4 µm/px, exact, png"),
        (
            "--by primary_site --kind all --project TCGA-OV --slides 3 --max-size 300",
            "3 slides by seed 0 (stable, by primary_site, kind all, projects TCGA-OV), "
            "each at most 300 px, exact, png",
        ),
    ],
)
def test_init_says_what_it_made_and_the_next_step(tmp_path: Path, options: str, words: str) -> None:
    root = tmp_path / "with spaces & more"
    first, last = went_well("--mirror", root, "init", *options.split()).out.splitlines()
    assert first == f"made a mirror in {root}: {words}"
    step = shlex.split(last.removeprefix("next: "))
    assert step == ["tcgamirror", "--mirror", str(root), "update"]


# What only looks --------------------------------------------------------------------


def test_status_shows_the_mirror_in_numbers(mirror: Path) -> None:
    out = went_well("--mirror", mirror, "status").out
    assert f"({MPP:g} µm/px, exact, png)" in out
    assert f"listing  {RELEASE}: 18 slides" in out
    assert "sample   6 slides by seed 0 (stable): 6 done, 0 pending, 0 failed" in out
    for table in ("project ", "source ", "run "):
        assert f"\n\n{table}" in out
    found = went_well("--mirror", mirror, "status", "--json").json()
    assert (found["listed"], found["sampled"], found["done"]) == (18, 6, 6)
    assert (found["release"], found["drawn"]["seed"]) == (RELEASE, 0)
    assert sum(row["sampled"] for row in found["by_project"]) == 6
    assert found["runs"][0]["command"] == "update"


def test_status_shows_the_images_own_target_and_unknown_resolutions(
    mirror: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(mirror, tmp_path / "m")
    rewrite(root, "^mpp = .*", "mpp = 9.0")
    change(root, "UPDATE images SET mpp_x = NULL, mpp_y = NULL WHERE rowid < 3")
    out = went_well("--mirror", root, "status").out
    assert f"({MPP:g} µm/px, exact, png; tcgamirror.toml asks for 9 µm/px, exact, png," in out
    assert " moved; 2 of unknown resolution\n" in out
    found = went_well("--mirror", root, "status", "--json").json()
    assert (found["target"], found["unknown_mpp"]) == (f"{MPP:g} µm/px, exact, png", 2)


@pytest.mark.parametrize("name", ["file_id", "file_name", "slide_barcode", "case_barcode"])
def test_show_finds_a_slide_by_any_of_its_names(mirror: Path, name: str) -> None:
    called, file_name = rows(mirror, f"select {name}, file_name from mirror limit 1")[0]
    out = went_well("--mirror", mirror, "show", str(called)).out
    assert str(file_name) in out and "base_mpp" in out and "\ntries\n" in out
    told = went_well("--mirror", mirror, "show", str(called), "--json").json()
    assert told["file_name"] == file_name
    assert set(COLUMNS) < set(told)


def test_query_answers_as_a_table_csv_or_json(mirror: Path) -> None:
    sql = "select file_name, mpp_x, error from mirror order by 1"
    expected = rows(mirror, sql)
    table = went_well("--mirror", mirror, "query", sql).out.splitlines()
    assert table[0].split() == ["file_name", "mpp_x", "error"] and len(table) == 7
    text = went_well("--mirror", mirror, "query", sql, "--format", "csv").out
    read = list(csv.reader(io.StringIO(text)))
    assert read[0] == ["file_name", "mpp_x", "error"]
    assert [(name, float(mpp), error or None) for name, mpp, error in read[1:]] == expected
    objects = json.loads(went_well("--mirror", mirror, "query", sql, "--format", "json").out)
    assert [tuple(row.values()) for row in objects] == expected


def test_the_view_has_the_columns_that_people_rely_on(mirror: Path) -> None:
    assert column(mirror, "select name from pragma_table_info('mirror')") == COLUMNS
    for row in rows(mirror, "select * from mirror"):
        found = dict(zip(COLUMNS, row, strict=True))
        assert [name for name, value in found.items() if value is None] == ["error"]
        assert (mirror / str(found["path"])).stat().st_size == found["bytes"]


def test_looking_changes_nothing(mirror: Path) -> None:
    before = (mirror / "catalogue.db").read_bytes()
    for words in (["status"], ["show", "TCGA"], ["query", "select 1"], ["query", "drop view x"]):
        inside("--mirror", mirror, *words)
    assert (mirror / "catalogue.db").read_bytes() == before


def test_a_reader_works_while_an_update_runs(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--workers", "1", slides=12)
    small_gdc.delay = 0.05
    query = "select project_id, count(*), avg(mpp_x) from mirror group by 1"
    seen = set()
    with started("--mirror", root, "update") as update:
        until(lambda: column(root, "select * from mirror"))
        while update.poll() is None:
            assert all(count for _, count, _ in rows(root, query))
            seen.add(column(root, "select count(*) from mirror where status = 'done'")[0])
            went_well("--mirror", root, "status")
        assert update.returncode == 0
    assert len(seen) > 3
    # Where `status` was reading as the run ended, its journal is left to the next writer.
    updated(root)
    assert not list(root.glob("catalogue.db-*"))
    for _, count, mpp in rows(root, query):
        assert count == 4 and mpp == pytest.approx(MPP, rel=0.05)
