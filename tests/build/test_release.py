"""Build wheel and source archive as `make dist` does, from clones of this repository."""

from __future__ import annotations

import os
import platform
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.command import ROOT

PYTHON = ROOT / ".build" / platform.machine() / "venv" / "bin" / "python"
EPOCH = "1795353255"

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason="no build environment: make build makes it"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git repository to clone"),
]


def released(clone: Path, umask: int) -> dict[str, bytes]:
    """The files that a clone's release has besides executables, by name."""
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True, umask=umask)
    (clone / "dist").mkdir()
    subprocess.run(
        [PYTHON, clone / "build" / "release.py"],
        check=True,
        capture_output=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        umask=umask,
    )
    return {path.name: path.read_bytes() for path in (clone / "dist").iterdir()}


def test_each_clone_gives_the_same_bytes(tmp_path: Path) -> None:
    first = released(tmp_path / "first", 0o022)
    assert sorted(path.split(".")[-1] for path in first) == ["SHA256SUMS", "gz", "whl"]
    assert released(tmp_path / "second", 0o077) == first


def test_the_source_archive_has_the_tracked_files(tmp_path: Path) -> None:
    (name,) = (name for name in released(tmp_path / "clone", 0o022) if name.endswith(".gz"))
    with tarfile.open(tmp_path / "clone" / "dist" / name) as archive:
        packed = {member.name.partition("/")[2] for member in archive}
    listed = subprocess.run(
        ["git", "-C", tmp_path / "clone", "ls-files"], check=True, capture_output=True, text=True
    )
    assert packed == {*listed.stdout.split(), "PKG-INFO"}
