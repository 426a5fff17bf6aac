"""Output for people and scripts."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcgamirror.cli.output import beside, cells, in_thousands, table, write_rows
from tcgamirror.cli.parser import make_parser
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.model.slide import Outcome
from tcgamirror.model.text import format_bytes, format_duration, plain
from tests.gdc import Fault, StandIn
from tests.support.catalogues import FETCHED, LOST, PICTURE, slide
from tests.support.command import on_a_terminal, program, surroundings, went_well
from tests.support.crowd import crowd
from tests.support.mirrors import made, rows
from tests.support.publishing import made_up

GOOD = Outcome(slide("a"), (FETCHED,), PICTURE)
BAD = Outcome(slide("b"), (FETCHED, LOST), None)
SIGNS = "\x1b[2J\x9b31mµ\ra\u202e\x7f"
"""Text with signs that a terminal obeys."""


@pytest.mark.parametrize(
    ("form", "value", "words"),
    [
        (format_bytes, 0, "0 B"),
        (format_bytes, 1000, "1.0 kB"),
        (format_bytes, 999_949, "999.9 kB"),
        (format_bytes, 999_960, "1.0 MB"),
        (format_bytes, 10**16, "10000.0 TB"),
        (format_duration, 0, "0.0 s"),
        (format_duration, 9.94, "9.9 s"),
        (format_duration, 9.97, "10 s"),
        (format_duration, 59.4, "59 s"),
        (format_duration, 59.7, "1 min 0 s"),
        (format_duration, 3599.9, "1 h 0 min"),
        (format_duration, 86_399.8, "1 d 0 h"),
        (plain, 0.0, "0.0"),
        (plain, 15.0, "15.0"),
        (plain, -0.001234567, "-0.001235"),
        (plain, 123456789.123456, "123456789.1235"),
        (plain, float("inf"), "inf"),
        (plain, "one\ntwo\tthree \x1b[2J", "one two three  [2J"),
        (plain, b"\xff\0", "ff00"),
    ],
)
def test_values_are_written_for_people(
    form: Callable[[Any], str], value: object, words: str
) -> None:
    assert form(value) == words


def test_a_table_has_numbers_to_the_right_and_no_trailing_blanks() -> None:
    lines = [*table(("name", "n", "x"), [("a", 1, None), ("bbb", 1000, 0.25)])]
    assert lines == ["name     n     x", "a        1", "bbb   1000  0.25"]
    lines = [*table(("name", "n"), [("a", None), ("bbb", 12345)], in_thousands)]
    assert lines == ["name       n", "a", "bbb   12,345"]
    assert [*table(("a", "b"), [])] == ["a  b"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_csv_and_json_keep_values_as_they_are() -> None:
    columns, rows = ("n", "s", "n"), [(1 / 3, f'a "b"\nc{SIGNS}', 2), (None, b"\x01", 3)]
    out = io.StringIO(newline="")
    write_rows(columns, rows, "csv", out)
    read = list(csv.reader(io.StringIO(out.getvalue(), newline="")))
    assert read == [["n", "s", "n"], [repr(1 / 3), rows[0][1], "2"], ["", "01", "3"]]
    out = io.StringIO()
    write_rows(columns, rows, "json", out)
    first, second = {"n": 1 / 3, "s": rows[0][1], "n_2": 2}, {"n": None, "s": "01", "n_2": 3}
    assert json.loads(out.getvalue()) == [first, second]


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_a_terminal_is_shown_nothing_that_it_obeys(form: str) -> None:
    out = _Terminal()
    write_rows(["n", "s", "b"], [(1 / 3, SIGNS, b"\x1b")], form, out)
    assert out.getvalue().replace("\n", "").isprintable()


# Progress ---------------------------------------------------------------------------


def test_without_a_terminal_only_failures_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        progress = ProgressDisplay(quiet=quiet)
        progress.listing(1, 2)
        progress.start_fetch(2, workers=2)
        progress.add_outcome(GOOD)
        progress.add_outcome(BAD)
        progress.show_fetch(1000, 0, stopping=False)
        progress.close()
        shown = capsys.readouterr()
        assert (shown.out, shown.err) == (
            "",
            "" if quiet else "failed: b.svs: tiles: 404 for /tile\n",
        )


def test_without_a_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcgamirror.cli.progress.QUIET_SECONDS", 0.0)
    progress = ProgressDisplay()
    progress.start_fetch(3, workers=2)
    progress.add_outcome(GOOD)
    progress.show_fetch(2_000_000, 1, stopping=False)
    line = capsys.readouterr().err
    assert line.startswith("1 of 3 slides, 2.0 MB at ") and line.endswith(" left\n")
    progress = ProgressDisplay()
    progress.start_fetch(3, workers=2)
    progress.show_fetch(0, 2, False, 2)
    assert capsys.readouterr().err == "0 of 3 slides, 0 B moved, making 2 images\n"


def test_a_stop_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ProgressDisplay()
    progress.start_fetch(3, workers=2)
    for _ in range(3):
        progress.show_fetch(0, 1, stopping=True)
    assert capsys.readouterr().err == "finishing 1 slide; Ctrl-C again abandons them\n"


def test_a_terminal_shows_a_bar_that_fits_it(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, "--via", "range", slides=15)
    small_gdc.delay = 0.03
    lost = small_gdc.files[0]
    small_gdc.faults.add(Fault(lost.file_id, "404"))
    shown = on_a_terminal(80, "--mirror", root, "update", code=3)
    assert "asking for the listing ...\r\x1b[K" in shown
    assert "fetching 15 slides, up to " in shown and "14 slides fetched, 1 failed" in shown
    assert f"failed: {lost.file_name}: range: " in shown
    bars = [frame for frame in re.split("[\r\n]", shown) if " of 15 slides |" in frame]
    assert any("kB at " in bar and "/s" in bar and bar.endswith(" left") for bar in bars)
    assert max(map(len, bars)) <= 80
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")


@pytest.mark.parametrize("stderr", ["terminal", "full", "reader"])
def test_a_run_goes_on_whose_messages_cannot_be_written(
    tmp_path: Path, small_gdc: StandIn, stderr: str
) -> None:
    root = made(tmp_path / "m", small_gdc, "--via", "range", slides=15)
    small_gdc.delay = 0.03
    small_gdc.faults.add(Fault(small_gdc.files[0].file_id, "404"))
    ours, theirs = pty.openpty() if stderr == "terminal" else os.pipe()
    if stderr == "full":
        os.close(theirs)
        theirs = os.open("/dev/full", os.O_WRONLY)
    words = [*program(), "--mirror", str(root), "update"]
    with subprocess.Popen(
        words, env=surroundings(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        if stderr == "terminal":
            shown = b""
            while b"fetching" not in shown:
                shown += os.read(ours, 4096)
        os.close(ours)
        result, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert b"14 slides fetched, 1 failed" in result
    assert rows(root, "select done, failed, exit_code from runs") == [(14, 1, 3)]


# Status -----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), st.integers(10, 40))
def test_a_bar_is_as_long_as_it_is_to_be(counts: list[int], width: int) -> None:
    got = cells(counts, width)
    assert sum(got) == (width if sum(counts) else 0)
    assert all((count > 0) <= (cell > 0) for count, cell in zip(counts, got, strict=True))


def test_the_table_is_left_alone_where_there_is_no_room() -> None:
    lines = ["project  done", "TCGA-OV     1"]
    for columns in (0, 20, 25):
        assert [*beside(lines, [(1, 0, 0)], columns)] == lines
    assert "█" * 10 in [*beside(lines, [(1, 0, 0)], 26)][1]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crowd(tmp_path_factory.mktemp("bars") / "m", 60).root


ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}


@pytest.mark.parametrize(
    ("columns", "env", "bars", "colours"),
    [
        (60, {"NO_COLOR": "1"}, 11, False),
        (80, {"NO_COLOR": "1"}, 11, False),
        (200, {"TERM": "dumb"}, 11, False),
        (100, {}, 11, True),
        (100, ASCII, 0, False),
    ],
)
def test_status_has_bars_on_a_terminal(
    crowded: Path, columns: int, env: dict[str, str], bars: int, colours: bool
) -> None:
    env = {"TERM": "xterm", "PYTHONUTF8": "1", "NO_COLOR": "", **env}
    shown = on_a_terminal(columns, "--mirror", crowded, "status", env=env)
    lines = [line for line in shown.splitlines() if "█" in line and "TCGA-" in line]
    assert (len(lines), "\033[32m" in shown) == (bars, colours)
    assert colours or ("\033" not in shown and max(map(len, lines), default=0) < columns)


def test_status_is_plain_elsewhere_and_counts_in_thousands(tmp_path: Path) -> None:
    shown = went_well("--mirror", made_up(tmp_path / "m", 1200), "status").out
    assert "1,200 done, 0 pending" in shown and "1,200 of unknown resolution" in shown
    assert "range    1,200      0" in shown
    assert "█" not in shown and "\033" not in shown


# Streams ------------------------------------------------------------------------------


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


def test_a_json_report_has_the_counts_of_a_run(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=3)
    report = went_well("--mirror", root, "update", "--json").json()
    assert (report["added"], report["merged"]["added"], report["exit_code"]) == (3, 18, 0)
    assert (report["standing"]["done"], report["standing"]["pending"]) == (3, 0)
    assert report["fetched"]["done"] == 3
    assert went_well("--mirror", root, "fetch", "--json").json()["fetched"]["done"] == 0


def test_each_help_has_examples_and_fits_100_columns() -> None:
    program, commands = make_parser()
    for parser in (program, *commands.values()):
        shown = parser.format_help()
        assert shown.startswith("usage: tcgamirror") and "\nexample" in shown
        assert max(map(len, shown.splitlines())) <= 100
