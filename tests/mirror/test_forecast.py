"""`update --dry-run` tells all that an update would fetch, however much, and does nothing of it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from tcgamirror.model.sampling import By, Order
from tests.gdc import StandIn, listed_without_data
from tests.support.command import inside, program, run, started, went_well
from tests.support.mirrors import addresses, column, contents, made, updated
from tests.support.publishing import change

SLIDES = 18
IN_ORDER = "select file_name from mirror order by sample_rank"


@pytest.fixture
def mirror(tmp_path: Path, small_gdc: StandIn) -> Path:
    """Made, and never updated."""
    root = made(tmp_path / "m", small_gdc, "--kind", "all", slides=SLIDES)
    # What it leaves beside the settings, it leaves once.
    went_well("--mirror", root, "update", "--dry-run")
    return root


@pytest.mark.parametrize(("order", "by"), [(Order.STABLE, By.NONE), (Order.SHUFFLE, By.PROJECT)])
def test_the_forecast_comes_true(tmp_path: Path, small_gdc: StandIn, order: Order, by: By) -> None:
    options = ("--kind", "all", "--order", order, "--by", by)
    root = made(tmp_path / "m", small_gdc, *options, slides=SLIDES)
    told = _forecast(root)
    assert told.keys() == {"source", "slides", "bytes", "seconds", "measured", "exit_code"}
    assert (told["source"], told["measured"]) == ("range", False)
    assert (told["bytes"], told["seconds"]) == (None, None)
    updated(root)
    assert [slide["file_name"] for slide in told["slides"]] == column(root, IN_ORDER)
    again = _forecast(root)
    assert (again["slides"], again["bytes"], again["measured"]) == ([], 0, True)


def test_an_estimate_is_within_a_factor_of_two_or_unknown(
    tmp_path: Path, small_gdc: StandIn
) -> None:
    root = made(tmp_path / "m", small_gdc, "--kind", "all", slides=SLIDES)
    went_well("--mirror", root, "update", "--limit", "8")
    # On a busy machine they may differ too much for an estimate.
    change(root, "update attempts set seconds = 1")
    measured = _forecast(root)
    # A few slides of a hundred times the bytes, of which the next ones may have many or none.
    change(root, "update attempts set bytes = bytes * 100 where attempt % 4 = 0")
    unknown = _forecast(root)
    assert (unknown["measured"], unknown["bytes"]) == (True, None)
    assert 0 < unknown["seconds"] <= SLIDES
    people = went_well("--mirror", root, "update", "--dry-run").out
    assert "unknown bytes in about" in people and "differ too much" in people
    done = went_well("--mirror", root, "update", "--json").json()["fetched"]
    assert measured["measured"] and measured["seconds"] > 0
    assert 0.5 <= measured["bytes"] / done["bytes"] <= 2
    assert "no slide is due" in went_well("--mirror", root, "update", "--dry-run").out


def test_whole_files_are_forecast_by_their_sizes(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--kind", "all", "--via", "whole", slides=SLIDES)
    told = _forecast(root)
    assert told["bytes"] == sum(slide["size"] for slide in told["slides"])


def test_people_are_told_the_first_ones_and_the_number(mirror: Path) -> None:
    before = contents(mirror)
    people = went_well("--mirror", mirror, "update", "--dry-run", "--limit", "3").out
    names = [slide["file_name"] for slide in _forecast(mirror, "--limit", "3")["slides"]]
    assert [line.split()[0] for line in people.splitlines()[:3]] == names
    assert "3 slides would be fetched by range" in people and "Nothing was changed" in people
    assert contents(mirror) == before


def test_a_dry_run_without_the_api(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--kind", "all", slides=SLIDES)
    went_well("--mirror", root, "update", "--limit", str(SLIDES - 2))
    small_gdc.switch("api", "refused")
    try:
        words = ("--mirror", root, "update", "--dry-run")
        told, people = run(*words, "--json"), run(*words)
    finally:
        small_gdc.switch("api", "up")
    assert (told.code, people.code) == (4, 4)
    assert len(told.json()["slides"]) == 2
    assert told.json()["exit_code"] == 4 and "cannot be reached" in told.json()["error"]
    assert "2 slides would be fetched by range" in people.out
    assert "the listing stays as it was" in people.err


def test_an_error_amid_it_leaves_no_torn_line(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--kind", "all", slides=SLIDES)
    went_well("--mirror", root, "update", "--limit", str(SLIDES - 3))
    first = "select file_name from mirror where status = 'pending' order by sample_rank limit 1"
    change(root, f"delete from slides where file_name = ({first})")
    result = inside("--mirror", root, "update", "--dry-run", "--json")
    assert result.code == 7
    assert result.json()["exit_code"] == 7
    assert f"{root / 'catalogue.db'}: it lacks a slide" in result.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_blocked_dry_run(tmp_path: Path, number: signal.Signals) -> None:
    with StandIn(listed_without_data(3_000)) as gdc:
        root = tmp_path / "m"
        went_well("--mirror", root, "init", "--slides", "all", "--mpp", "15", *addresses(gdc))
        with started("--mirror", root, "update", "--dry-run", "--json") as process:
            assert process.stdout is not None
            process.stdout.read(1)
            process.send_signal(number)
            assert process.wait(timeout=20) == 130


def test_a_full_place_of_the_output_is_named(mirror: Path) -> None:
    words = (*program(), "--mirror", str(mirror), "update", "--dry-run", "--json")
    with Path("/dev/full").open("w") as out:
        ended = subprocess.run(words, stdout=out, stderr=PIPE, text=True, check=False)
    assert ended.returncode == 6 and "no room to write the output" in ended.stderr


def _forecast(root: Path, *options: str) -> Any:
    return went_well("--mirror", root, "update", "--dry-run", "--json", *options).json()
