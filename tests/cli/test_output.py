"""What people and scripts see."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import select
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcgamirror.cli.output import beside, cells, in_thousands, table, write_rows
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.model.slide import Outcome
from tcgamirror.model.text import format_bytes, format_duration, plain
from tests.gdc import StandIn
from tests.support.catalogues import FETCHED, LOST, PICTURE, slide
from tests.support.command import on_a_terminal, program, succeeded, surroundings
from tests.support.crowd import crowd
from tests.support.mirrors import made
from tests.support.publishing import made_up

GOOD = Outcome(slide("a"), (FETCHED,), PICTURE)
BAD = Outcome(slide("b"), (FETCHED, LOST), None)


@pytest.mark.parametrize(
    ("form", "value", "words"),
    [
        (format_bytes, 0, "0 B"),
        (format_bytes, 999, "999 B"),
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


def test_status_counts_as_all_else_does(tmp_path: Path) -> None:
    root = made_up(tmp_path / "m", 1200)
    told = succeeded("--mirror", root, "status").out
    assert "1,200 done, 0 pending" in told and "1,200 of unknown resolution" in told
    assert "range    1,200      0" in told


def test_csv_and_json_keep_values_as_they_are() -> None:
    columns, rows = ("n", "s"), [(1 / 3, 'a "b"\nc'), (None, b"\x01")]
    out = io.StringIO()
    write_rows(columns, rows, "csv", out)
    assert list(csv.reader(io.StringIO(out.getvalue()))) == [
        ["n", "s"],
        [repr(1 / 3), 'a "b"\nc'],
        ["", "01"],
    ]
    out = io.StringIO()
    write_rows(columns, rows, "json", out)
    assert json.loads(out.getvalue()) == [{"n": 1 / 3, "s": 'a "b"\nc'}, {"n": None, "s": "01"}]


def test_csv_shows_a_terminal_nothing_that_it_obeys() -> None:
    row = (1 / 3, "\x1b[2J\x9b31mµ\ra", b"\x1b")
    reader, writer = pty.openpty()
    with os.fdopen(reader, "rb", buffering=0) as seen, os.fdopen(writer, "w") as out:
        write_rows(["n", "s", "b"], [row], "csv", out)
        out.flush()
        told = b""
        while not told.endswith(b"1b\r\n"):
            told += seen.read(1000)
    assert told.decode().splitlines() == ["n,s,b", f"{1 / 3!r}, [2J 31mµ a,1b"]
    piped = io.StringIO(newline="")
    write_rows(["n", "s", "b"], [row], "csv", piped)
    assert "\x1b[2J\x9b31mµ\ra" in piped.getvalue()


def test_json_escapes_what_a_terminal_obeys() -> None:
    out = io.StringIO()
    signs = "\x1b[31m\x9b2K\u202eµ\u2066\x7f"
    write_rows(["a"], [(signs,)], "json", out)
    assert out.getvalue().isascii() and out.getvalue().replace("\n", "").isprintable()
    assert json.loads(out.getvalue()) == [{"a": signs}]


# Progress ---------------------------------------------------------------------------


def test_without_a_terminal_only_failures_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ProgressDisplay()
    progress.listing(1, 2)
    progress.start_fetch(2, workers=2)
    progress.add_outcome(GOOD)
    progress.add_outcome(BAD)
    progress.show_fetch(1000, 0, stopping=False)
    progress.close()
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "failed: b.svs: tiles: 404 for /tile\n")


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


def test_stopping_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ProgressDisplay()
    progress.start_fetch(3, workers=2)
    for _ in range(3):
        progress.show_fetch(0, 1, stopping=True)
    assert capsys.readouterr().err == "finishing 1 slide; Ctrl-C again lets go of them at once\n"


def test_quiet_means_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ProgressDisplay(quiet=True)
    progress.start_fetch(1, workers=2)
    progress.add_outcome(BAD)
    progress.show_fetch(0, 1, stopping=True)
    progress.close()
    assert capsys.readouterr().err == ""


@contextmanager
def _terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A terminal of 80 columns in place of stderr; what it shows can be read from the handle."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        yield ours
    os.close(ours)


def _shown(terminal: int) -> str:
    time.sleep(0.05)
    return os.read(terminal, 65536).decode() if select.select([terminal], [], [], 0)[0] else ""


def test_a_terminal_shows_a_bar_that_fits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with _terminal(monkeypatch) as terminal:
        progress = ProgressDisplay()
        progress.listing(0, 0)
        progress.listing(1000, 30_000)
        assert "listing 1,000 of 30,000 slides" in _shown(terminal)
        progress.start_fetch(1500, workers=2)
        progress.add_outcome(GOOD)
        progress.add_outcome(BAD)
        progress.show_fetch(123_456_789, 2, stopping=False)
        progress.close()
        shown = _shown(terminal)
    assert "failed: b.svs: tiles: 404 for /tile" in shown
    last = shown.rstrip().rpartition("\r")[2]
    assert "fetching 1,500 slides, up to 2 at a time" in shown
    assert last.startswith("2 of 1,500 slides |") and "123.5 MB at " in last
    assert "1 failed" in last and last.endswith(" left")
    assert len(last) <= 80


def test_a_progress_line_is_wiped_before_other_output(monkeypatch: pytest.MonkeyPatch) -> None:
    with _terminal(monkeypatch) as terminal:
        progress = ProgressDisplay()
        progress.listing(0, 0)
        progress.close()
        assert _shown(terminal).endswith("asking for the listing ...\r\x1b[K")


# Bars ---------------------------------------------------------------------------------


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


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_status_has_bars_on_a_terminal(crowded: Path, columns: int) -> None:
    env = {"TERM": "xterm", "PYTHONUTF8": "1", "NO_COLOR": "1"}
    lines = on_a_terminal(columns, "--mirror", crowded, "status", env=env).splitlines()
    bars = [line for line in lines if "█" in line and "TCGA-" in line]
    assert len(bars) == 11
    assert max(map(len, bars)) < columns


def test_colours_are_left_out_when_asked(crowded: Path) -> None:
    def shown(**env: str) -> str:
        return on_a_terminal(100, "--mirror", crowded, "status", env=env)

    assert "\033[32m" in shown(TERM="xterm", PYTHONUTF8="1", NO_COLOR="")
    assert "\033" not in shown(TERM="xterm", PYTHONUTF8="1", NO_COLOR="1")
    assert "\033" not in shown(TERM="dumb", PYTHONUTF8="1", NO_COLOR="")
    ascii = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    assert "done  failed  images\n" in shown(TERM="dumb", **ascii).replace("\r", "")


def test_elsewhere_status_is_plain(crowded: Path) -> None:
    told = succeeded("--mirror", crowded, "status", env={"TERM": "xterm"}).out
    assert "█" not in told and "\033" not in told


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


def test_a_json_report_is_alone_on_stdout(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=2)
    result = succeeded("--mirror", root, "update", "--json")
    assert "\r" not in result.out + result.err and "\x1b" not in result.out + result.err
    report = result.json()
    assert report["fetched"]["done"] == 2 and report["exit_code"] == 0
    assert report["added"] == 2 and report["merged"]["added"] == 18
    assert succeeded("--mirror", root, "fetch", "--json").json()["fetched"]["done"] == 0


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
