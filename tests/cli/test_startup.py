"""What only looks starts at once: it imports neither pixels nor the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.command import BINARY, ROOT, surroundings
from tests.support.mirrors import filled, made

LATE = {"dataclasses", "sqlite3", "tempfile"}
HEAVY = {
    *("numpy", "PIL", "openslide", "requests", "urllib3", "simplejpeg", "isal", "tqdm"),
    *("imagecodecs", "sqlite_utils"),
}
DECODERS = HEAVY - {"requests", "urllib3"}

pytestmark = pytest.mark.skipif(BINARY in os.environ, reason="tells of modules, not of a binary")


def modules(*args: str | Path) -> set[str]:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "main.py", *map(str, args)],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line for line in told.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def imported(*args: str | Path) -> set[str]:
    return {name.partition(".")[0] for name in modules(*args)}


def test_the_measure_sees_what_is_imported(tmp_path: Path, small_gdc: StandIn) -> None:
    names = imported("--mirror", made(tmp_path / "m", small_gdc, slides=1), "update")
    assert names > HEAVY - {"openslide", "imagecodecs", "tqdm", "sqlite_utils"}
    assert not {"pandas", "imagecodecs"} & names


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["init", "--help"], ["update", "--help"]]
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    names = modules(*words)
    assert not {name.partition(".")[0] for name in names} & (HEAVY | LATE)
    own = {name for name in names if name.startswith("tcgamirror.") and name.count(".") > 1}
    assert {name.split(".")[1] for name in own} == {"cli", "model"}


def test_looking_imports_nothing_heavy(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=1)
    image = next((root / "images").rglob("*.png")).name
    for words in (
        ["status"],
        ["status", "--json"],
        ["show", f"{image.removesuffix('.png')}.svs"],
        ["query", "select 1"],
        ["table", "mirror", "--where", "mpp_x > 1"],
    ):
        assert not imported("--mirror", root, *words) & HEAVY, words


def test_what_decodes_nothing_imports_no_decoder(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=1)
    unused = DECODERS | {"obstore"}
    for words in (["update"], ["verify"], ["export", tmp_path / "export"]):
        assert not imported("--mirror", root, *words) & unused, words
    assert not imported("sync", root, tmp_path / "copy") & unused
