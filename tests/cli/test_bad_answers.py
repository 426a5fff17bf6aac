"""Answers that end a run or prevent it: one sentence and the right exit code."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.gdc import Fault, StandIn
from tests.support.command import inside, program, run, surroundings, went_well
from tests.support.mirrors import (
    addresses,
    changes_nothing,
    column,
    contents,
    made,
    rewrite,
    says,
)
from tests.support.publishing import WAYS, change, made_up, rest

USAGE_ERROR, SOME_FAILED, UNREACHABLE, DAMAGED = 2, 3, 4, 7
NOTHING = "nothing to fetch: 2 of 2 slides done (Data Release 45.0 - December 04, 2025)\n"


@pytest.fixture
def mirror(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "m")


# The API ----------------------------------------------------------------------------


@pytest.fixture
def listing_due(mirror: Path, small_gdc: StandIn) -> Path:
    """A mirror that is done, and a GDC with a new release to list."""
    rewrite(mirror, "^api = .*", f'api = "{small_gdc.api}"')
    rewrite(mirror, "^first_byte = .*", "first_byte = 1.0")
    small_gdc.publish(small_gdc.files, "Data Release 46.0 - March 03, 2026")
    return mirror


def goes_on(root: Path, *words: str) -> None:
    """Fails unless a night tells why there is no listing, and does what there is to do: nothing."""
    before = contents(root)
    ended = run("--mirror", root, "update", timeout=30)
    assert (ended.code, ended.out) == (UNREACHABLE, NOTHING)
    assert ended.sentence.startswith("the listing stays as it was: ")
    assert [word for word in ("127.0.0.1", *words) if word not in ended.sentence] == [], ended
    assert contents(root) == before


def test_an_api_that_is_down(listing_due: Path, small_gdc: StandIn) -> None:
    small_gdc.switch("api", "refused")
    goes_on(listing_due, "/status", "cannot be reached")
    changes_nothing(listing_due, UNREACHABLE, "127.0.0.1", "/status", command="refresh")


def test_a_busy_api_is_left_alone(listing_due: Path, small_gdc: StandIn) -> None:
    small_gdc.switch("api", "503")
    before = contents(listing_due)
    ended = inside("--mirror", listing_due, "update")
    assert (ended.code, ended.out) == (UNREACHABLE, NOTHING)
    *pauses, last = ended.err.splitlines()
    assert len(pauses) == 2
    assert all("the server is busy (503). All requests to it pause for" in each for each in pauses)
    assert "/status" in last and "503" in last
    assert contents(listing_due) == before


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/status", "html", ["/status", "HTML", "JSON"]),
        ("/files", "html", ["/files", "HTML", "JSON"]),
        ("/status", "foreign-json", ["/status", "GDC", "data release"]),
        ("/files", "foreign-json", ["/files", "list of hits"]),
        ("/files", "truncated-json", ["/files", "JSON"]),
        ("/files", "endless-page", ["/files", "Try again"]),
        ("/files", "endless-body", ["/files", "bytes"]),
        ("/status", "stall", ["/status", "1 s"]),
        ("/files", "drip", ["/files", "bytes/s", "1 s"]),
        ("/status", "slow-headers", ["/status", "1 s"]),
        ("/status", "reset", ["/status"]),
        ("/status", "403", ["/status", "403"]),
        ("/status", "redirect", ["/status", "refused"]),
    ],
)
def test_an_api_that_answers_nonsense(
    listing_due: Path, small_gdc: StandIn, path: str, kind: str, words: list[str]
) -> None:
    small_gdc.faults.add(Fault(path, kind, hold=20.0, to="http://elsewhere.invalid/"))  # type: ignore[arg-type]
    goes_on(listing_due, *words)


@pytest.mark.parametrize(
    ("options", "slides", "words"),
    [
        ([], 2, "no slide can be reached: "),
        (["--via", "range", "--workers", "2"], 12, "no slide can be reached any more"),
    ],
)
def test_slides_of_servers_that_are_down_end_the_run(
    tmp_path: Path, small_gdc: StandIn, options: list[str], slides: int, words: str
) -> None:
    root = made(tmp_path / "m", small_gdc, *options, slides=slides)
    went_well("--mirror", root, "refresh")
    went_well("--mirror", root, "sample")
    small_gdc.switch("bucket", "refused")
    small_gdc.switch("api", "refused")
    result = inside("--mirror", root, "fetch")
    assert (result.code, result.out) == (UNREACHABLE, "")
    assert words in result.err.splitlines()[-1]
    assert column(root, "select distinct status from mirror") == ["pending"]
    (failed,) = column(root, "select failed from runs where exit_code = 4")
    assert failed == slides if slides == 2 else 0 < int(str(failed)) < slides


def test_failed_slides_of_a_reachable_server(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--via", "range,whole", slides=2)
    small_gdc.faults.add(Fault(r"/data/|\.svs", "reset"))
    result = inside("--mirror", root, "update")
    assert result.code == SOME_FAILED
    assert "0 slides fetched, 2 failed" in result.out


def test_steps_out_of_order_are_told_what_comes_first(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc)
    says(inside("--mirror", root, "sample"), USAGE_ERROR, "no listing yet", "refresh")
    says(inside("--mirror", root, "fetch"), USAGE_ERROR, "no slide is sampled", "update")


# Rough ends ---------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["images", "work"])
@pytest.mark.parametrize("kind", ["file", "dangling"])
def test_a_bad_folder_ends_the_run(
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
