"""The memory of `update` with four slides at once, as the operating system tells it.

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
from tcgamirror.mirror.fetch import WorkerPool
from tcgamirror.model.errors import NoMemory
from tcgamirror.model.slide import Outcome, Slide
from tcgamirror.system.interrupt import Shutdown
from tests.bench.ours import peak
from tests.bench.plan import FULL, LARGEST
from tests.gdc import StandIn
from tests.support.command import run
from tests.support.mirrors import made

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
MOST = 400e6


@pytest.mark.timeout(900)
@pytest.mark.parametrize("slides", FULL.at_once if SOAK else [LARGEST])
def test_four_of_the_largest_slides_at_once_stay_under_400_mb(slides: str) -> None:
    kinds = FULL.at_once[slides]
    if not SOAK:
        *wide, alone = kinds
        kinds = (*wide, replace(alone, spec=replace(alone.spec, width=20_000, height=16_000)))
    assert peak(kinds) < MOST


def test_too_little_memory_is_told_as_that(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=2)
    for megabytes in (20, 40, 60, 80, 180, 220, 260, 320, 400):
        by = ("prlimit", f"--as={megabytes * 1_000_000}")
        result = run("--mirror", root, "update", by=by)
        if result.err.startswith("OpenBLAS error: Memory allocation"):
            continue  # It ends the process itself, while numpy is imported.
        assert result.code in (0, 6), result
        assert "a bug" not in result.err and "Traceback" not in result.err
        assert result.code == 0 or "not enough memory" in result.err.splitlines()[-1]
    assert run("--mirror", root, "update", "--retry-failed").code == 0


def test_a_lack_of_memory_within_a_command(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(_: object) -> int:
        return len(bytearray(1 << 62))

    monkeypatch.setattr(looking, "status", status)
    code = main.main(["--mirror", str(mirror), "status", "--json"])
    told = capsys.readouterr()
    assert (code, json.loads(told.out)["exit_code"]) == (6, 6)
    assert told.err.startswith("tcgamirror: not enough memory. Allow more")


def test_slides_that_need_too_much_memory_fail_and_the_others_go_on() -> None:
    slides = [Slide(str(number), f"{number}.svs") for number in range(8)]

    def fetch(slide: Slide) -> Outcome:
        if slide.file_id == "3":
            bytearray(1 << 62)
        return Outcome(slide, (), None)

    pool = WorkerPool(fetch, 1, Shutdown(), {}, lambda _: "range")
    ended = [outcome for outcomes in pool.outcomes(slides) for outcome in outcomes]
    assert len(ended) == len(slides)
    (attempt,) = [attempt for outcome in ended for attempt in outcome.attempts]
    assert attempt.fault == "no memory" and "not enough memory" in str(attempt.message)
    assert isinstance(pool.error, NoMemory) and pool.error.exit_code == 6
