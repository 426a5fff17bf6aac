"""Bars on a terminal, and nothing of them elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcgamirror.cli.output import Look, beside, cells
from tests.support.command import on_a_terminal, succeeded
from tests.support.crowd import crowd


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), st.integers(10, 40))
def test_a_bar_is_as_long_as_it_is_to_be(counts: list[int], width: int) -> None:
    got = cells(counts, width)
    assert sum(got) == (width if sum(counts) else 0)
    assert all((count > 0) <= (cell > 0) for count, cell in zip(counts, got, strict=True))


def test_the_table_is_left_alone_where_there_is_no_room() -> None:
    table = "project  done\nTCGA-OV     1"
    for look in (Look(None), Look(20), Look(25)):
        assert beside(table, [(1, 0, 0)], look) == table
    assert beside(table, [(1, 0, 0)], Look(26)).splitlines()[1].endswith("█" * 10)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crowd(tmp_path_factory.mktemp("bars") / "m", 60).root


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_status_has_bars_on_a_terminal(mirror: Path, columns: int) -> None:
    env = {"TERM": "xterm", "PYTHONUTF8": "1", "NO_COLOR": "1"}
    lines = on_a_terminal(columns, "--mirror", mirror, "status", env=env).splitlines()
    bars = [line for line in lines if "█" in line and "TCGA-" in line]
    assert len(bars) == 11
    assert max(map(len, bars)) < columns


def test_colours_are_left_out_when_asked(mirror: Path) -> None:
    def shown(**env: str) -> str:
        return on_a_terminal(100, "--mirror", mirror, "status", env=env)

    assert "\033[32m" in shown(TERM="xterm", PYTHONUTF8="1", NO_COLOR="")
    assert "\033" not in shown(TERM="xterm", PYTHONUTF8="1", NO_COLOR="1")
    assert "\033" not in shown(TERM="dumb", PYTHONUTF8="1", NO_COLOR="")
    assert "#####" in shown(TERM="dumb", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")


def test_elsewhere_status_is_plain(mirror: Path) -> None:
    told = succeeded("--mirror", mirror, "status", env={"TERM": "xterm"}).out
    assert "█" not in told and "\033" not in told
