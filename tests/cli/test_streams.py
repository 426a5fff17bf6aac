"""What goes to stdout, to stderr, to a terminal and to a pipe that is cut off."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.command import on_a_terminal, program, succeeded, surroundings
from tests.support.mirrors import made, updated


def test_output_may_be_cut_off_by_head(mirror: Path) -> None:
    long = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000) "
    sql = long + "select i from n"
    command = shlex.join([*program(), "--mirror", str(mirror), "query", sql, "--format", "csv"])
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -n 2"],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, "i\n1\n", "")


def test_a_json_report_is_alone_on_stdout(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=2)
    report = succeeded("--mirror", root, "update", "--json").json()
    assert report["fetched"]["done"] == 2 and report["exit_code"] == 0
    assert report["added"] == 2 and report["merged"]["added"] == 18
    assert succeeded("--mirror", root, "fetch", "--json").json()["fetched"]["done"] == 0


def test_where_there_is_no_terminal_progress_is_quiet(tmp_path: Path, small_gdc: StandIn) -> None:
    result = updated(made(tmp_path / "m", small_gdc, slides=2))
    assert "\r" not in result.out and "\x1b" not in result.out


@pytest.mark.parametrize(
    "words", [[], *([name] for name in ("init", "update", "fetch", "status", "show", "query"))]
)
def test_help_goes_to_stdout_with_defaults_and_examples(words: list[str]) -> None:
    out = succeeded(*words, "--help").out
    assert out.startswith("usage: tcgamirror")
    assert "\nexample" in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_terminal_shows_progress(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=6)
    small_gdc.delay = 0.05
    shown = on_a_terminal(100, "--mirror", root, "update")
    frames = shown.split("\r")
    bar = [frame for frame in frames if "of 6 slides" in frame]
    assert any("kB at " in frame and "/s" in frame for frame in bar)
    assert any(" left" in frame for frame in bar)
    assert "6 slides fetched, 0 failed" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")
