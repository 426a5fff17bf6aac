"""Every reader of what others wrote holds against spoiled inputs; more of them in the soak."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gdc import Listed, StandIn
from tests.support.carrying import exported, packed
from tests.support.command import ROOT
from tests.support.fuzz import READERS
from tests.support.mirrors import filled
from tests.support.slides import SlideSpec, make_slide

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
EXAMPLES = 6_000 if SOAK else 300
ROUND = 2_000
"""Examples of one process, because hypothesis keeps all that it made until it ends."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    with StandIn(small_slides) as gdc:
        filled(folder / "m", gdc, slides=2)
    packed(exported(folder / "m", folder / "export"), folder / "export.tar")
    spec = SlideSpec(width=300, height=200, downsamples=(1, 4), thumbnail=False, seed=1)
    make_slide(folder / "slide.svs", spec)
    shared = replace(spec, compression="jpeg-ycbcr", subsampling=2, shared_tables=True)
    make_slide(folder / "tables.svs", shared)
    make_slide(folder / "j2k.svs", replace(spec, compression="j2k-ycbcr"))
    (folder / "precious").write_text("precious")
    return folder


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_spoiled_inputs_are_read_or_refused(name: str, material: Path) -> None:
    for done in range(0, EXAMPLES, ROUND):
        seed = random.randrange(1 << 32) if SOAK else 1
        words = (name, min(ROUND, EXAMPLES - done), seed, material)
        command = [sys.executable, "-m", "tests.support.fuzz", *map(str, words)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        # Hypothesis prints the whole input after the traceback.
        reason = ended.stderr.partition("Failing test case")[0][-6000:]
        assert ended.returncode == 0, f"{command}\n{reason}"
