"""The memory of `update` with four slides at once, and 32, as the operating system tells it.

Of the largest there are: in the soak as they are, else with a base level that is smaller.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tcgamirror.cli import main
from tcgamirror.cli import status as looking
from tests.bench.material import Kind
from tests.bench.network import serve_slowly
from tests.bench.ours import at_once, update
from tests.bench.plan import AT_ONCE, FULL, LARGEST
from tests.gdc import Listed, StandIn
from tests.support.carrying import exported
from tests.support.command import BINARY, Result, run
from tests.support.mirrors import filled, made
from tests.support.publishing import by_python
from tests.support.slides import SlideSpec

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
MOST = 300e6


@pytest.mark.timeout(900)
@pytest.mark.parametrize("slides", AT_ONCE if SOAK else [LARGEST])
def test_four_of_the_largest_slides_at_once_stay_under_300_mb(slides: str) -> None:
    kinds = AT_ONCE[slides]
    if not SOAK:
        *wide, alone = kinds
        kinds = (*wide, replace(alone, spec=replace(alone.spec, width=20_000, height=16_000)))
    assert at_once(kinds).peak < MOST


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mpp", [1.0, 0.5] if SOAK else [1.0])
def test_four_slides_at_a_fine_resolution_stay_under_300_mb(mpp: float) -> None:
    """Memory grows with a level's width, so a low slide shows as much as a high one."""
    spec = SlideSpec(width=48_000, height=36_000 if SOAK else 3_000, offsets="shared", seed=7)
    kind = Kind(f"{spec.width:,}×{spec.height:,} at {mpp:g} µm/px", spec)
    with StandIn(kind.listing(4)) as gdc:
        assert update(gdc, "range", mpp=mpp).footprint.peak < MOST


@pytest.mark.timeout(900)
def test_32_slides_in_flight_stay_under_500_mb() -> None:
    """All of them wait for a slow network first, and then for a core."""
    kind = AT_ONCE[LARGEST][0] if SOAK else FULL.link_kind
    with serve_slowly(kind.listing(32)) as gdc:
        assert update(gdc, "range", workers=32).footprint.peak < 500e6


def test_a_lack_of_memory_within_a_command(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(_: object) -> int:
        return len(bytearray(1 << 62))

    monkeypatch.setattr(looking, "do_status", status)
    code = main.main(["--mirror", str(mirror), "status", "--json"])
    told = capsys.readouterr()
    assert (code, json.loads(told.out)["exit_code"]) == (6, 6)
    assert told.err.startswith("tcgamirror: not enough memory. Allow more")


# Every command ------------------------------------------------------------------------


KILOBYTES = (90_000, 130_000, 170_000, 200_000, 240_000, 300_000)
"""Limits of address space at which libraries and threads used to end the process, or hang it."""

SOURCE_ONLY = pytest.mark.skipif(
    BINARY in os.environ, reason="the executable needs memory before the program begins"
)


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]) -> Path:
    with StandIn(small_slides) as gdc:
        root = filled(tmp_path_factory.mktemp("memory") / "m", gdc)
    exported(root, root.parent / "export")
    return root


def within(kilobytes: int) -> list[str]:
    return ["bash", "-c", f'ulimit -v {kilobytes}; exec "$@"', "bash"]


def is_told(result: Result) -> bool:
    enough = result.code == 0 and not result.err
    return enough or (result.code == 6 and "not enough memory" in result.sentence)


@SOURCE_ONLY
@pytest.mark.parametrize("kilobytes", KILOBYTES)
def test_what_needs_more_memory_says_so(carried: Path, tmp_path: Path, kilobytes: int) -> None:
    with by_python(carried) as published:
        commands: list[list[str | Path]] = [
            ["sync", published.url, tmp_path / "a"],
            ["sync", carried, tmp_path / "b"],
            ["--mirror", tmp_path / "c", "import", carried.parent / "export"],
            ["--mirror", carried, "verify", "--decode"],
            ["--mirror", carried, "export", tmp_path / "e.tar"],
        ]
        for command in commands:
            result = run(*command, by=within(kilobytes))
            assert is_told(result), (command, result)


@pytest.mark.parametrize(
    "kilobytes", [pytest.param(20_000, marks=SOURCE_ONLY), 60_000, *KILOBYTES, 400_000]
)
def test_an_update_without_memory_says_so(
    tmp_path: Path, small_gdc: StandIn, kilobytes: int
) -> None:
    root = made(tmp_path / "m", small_gdc, slides=2)
    for command in ("doctor", "update"):
        result = run("--mirror", root, command, by=within(kilobytes))
        if result.err.startswith("OpenBLAS error: Memory allocation"):
            continue  # It ends the process itself, while numpy is imported.
        assert result.code in (0, 6), result
        assert result.code == 0 or "tcgamirror: not enough memory" in result.err.splitlines()[-1]
        assert "Traceback" not in result.err and "a bug" not in result.err
    assert run("--mirror", root, "update", "--retry-failed").code == 0
