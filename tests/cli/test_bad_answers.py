"""An API that is down or answers nonsense: one sentence, the right exit code, nothing changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.gdc import Fault, StandIn
from tests.support.command import inside, run, went_well
from tests.support.mirrors import changes_nothing, column, contents, made, rewrite, says

USAGE_ERROR, SOME_FAILED, UNREACHABLE = 2, 3, 4
NOTHING = "nothing to fetch: 2 of 2 slides done (Data Release 45.0 - December 04, 2025)\n"


@pytest.fixture
def mirror(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "m")


# The API ----------------------------------------------------------------------------


@pytest.fixture
def listing_due(mirror: Path, small_gdc: StandIn) -> Path:
    """A mirror that is done, and a GDC with a new release to list."""
    rewrite(mirror, "^api = .*", f'api = "{small_gdc.api}"')
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
    assert column(root, "select count(*) > 0 from mirror where status = 'pending'") == [slides > 2]


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
