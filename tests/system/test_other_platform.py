"""The commands on a platform that lacks what only Linux has, as macOS does."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tcgamirror.model.errors import ExitCode
from tests.gdc import StandIn
from tests.support.command import BINARY, ROOT, run, succeeded
from tests.support.mirrors import column, images, made


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The uses of F_FULLFSYNC, one a line."""
    path = tmp_path / "record"
    words = (sys.executable, "-m", "tests.support.other_platform", str(path))
    monkeypatch.setenv(BINARY, shlex.join(words))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return path


def test_the_main_job_there(tmp_path: Path, small_gdc: StandIn, record: Path) -> None:
    root, copy, tar = tmp_path / "m", tmp_path / "copy", tmp_path / "m.tar"
    made(root, small_gdc)
    succeeded("--mirror", root, "update")
    assert column(root, "select distinct status from mirror") == ["done"]
    flushed = record.read_text().count("full\n")
    # Each image and its directory, at least.
    assert flushed >= 2 * len(images(root))
    succeeded("--mirror", root, "verify", "--decode")
    succeeded("--mirror", root, "export", tar)
    succeeded("sync", root, copy)
    succeeded("--mirror", copy, "import", tar)
    assert images(copy) == images(root)
    (root / "catalogue.db").unlink()
    succeeded("--mirror", root, "rebuild")
    assert column(root, "select distinct status from mirror") == ["done"]
    report = run("--mirror", root, "doctor")
    assert report.code == ExitCode.DONE and "macOS 26.1" in report.out and not report.err


def test_windows_is_refused_with_a_remedy() -> None:
    words = "import sys; sys.platform = 'win32'; from tcgamirror.__main__ import main; main()"
    ended = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, cwd=ROOT)
    assert "Windows Subsystem for Linux" in ended.stderr and "Traceback" not in ended.stderr
