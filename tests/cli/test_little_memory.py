"""Too little memory is told in one sentence, by every command that starts threads or decodes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.gdc import Listed, StandIn
from tests.support.carrying import exported
from tests.support.command import BINARY, Result, run
from tests.support.mirrors import made, updated
from tests.support.publishing import by_python

KILOBYTES = (90_000, 130_000, 170_000, 200_000, 240_000, 300_000)
"""Limits of address space at which libraries and threads used to end the process, or hang it."""

pytestmark = pytest.mark.skipif(
    BINARY in os.environ, reason="the executable needs memory before the program begins"
)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]) -> Path:
    with StandIn(small_slides) as gdc:
        root = made(tmp_path_factory.mktemp("memory") / "m", gdc)
        updated(root)
    exported(root, root.parent / "export")
    return root


def within(kilobytes: int) -> list[str]:
    return ["bash", "-c", f'ulimit -v {kilobytes}; exec "$@"', "bash"]


def is_told(result: Result) -> bool:
    enough = result.code == 0 and not result.err
    return enough or (result.code == 6 and "not enough memory" in result.sentence)


@pytest.mark.parametrize("kilobytes", KILOBYTES)
def test_what_needs_more_memory_says_so(mirror: Path, tmp_path: Path, kilobytes: int) -> None:
    with by_python(mirror) as published:
        commands: list[list[str | Path]] = [
            ["sync", published.url, tmp_path / "a"],
            ["sync", mirror, tmp_path / "b"],
            ["--mirror", tmp_path / "c", "import", mirror.parent / "export"],
            ["--mirror", mirror, "verify", "--decode"],
            ["--mirror", mirror, "export", tmp_path / "e.tar"],
        ]
        for command in commands:
            result = run(*command, by=within(kilobytes))
            assert is_told(result), (command, result)


@pytest.mark.parametrize("kilobytes", KILOBYTES)
def test_an_update_without_memory_says_so(
    tmp_path: Path, small_slides: tuple[Listed, ...], kilobytes: int
) -> None:
    with StandIn(small_slides) as gdc:
        root = made(tmp_path / "m", gdc)
        for command in ("doctor", "update"):
            result = run("--mirror", root, command, by=within(kilobytes))
            assert result.code in (0, 6), result
            last = result.err.splitlines()[-1:]
            assert result.code == 0 or "tcgamirror: not enough memory" in last[0], result
            assert "Traceback" not in result.err and "a bug" not in result.err
        shutil.rmtree(root)
