"""Check the executable's recipe as far as that needs no build."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.support.command import ROOT, succeeded

BUILD = ROOT / "build"


def locked(machine: str) -> dict[str, str]:
    """Return the versions of the locked packages. Fails if one has no digest."""
    lock = (BUILD / f"requirements-{machine}.lock").read_text(encoding="utf-8")
    found = dict(re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}$", lock, re.M))
    assert len(found) == lock.count("==")
    return found


def test_every_dependency_is_locked_with_a_digest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["build"]]
    missing = {re.split(r"[^\w.-]", name)[0].lower() for name in required} - set(locked("x86_64"))
    assert not missing, "make lock adds them"


def test_each_processor_gets_the_same_versions() -> None:
    assert locked("aarch64") == locked("x86_64"), "make lock writes both"


def test_man_page_and_completions_know_every_command(tmp_path: Path) -> None:
    command = [sys.executable, str(BUILD / "man_page.py"), str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, env={"SOURCE_DATE_EPOCH": "1795353255"})
    page = (tmp_path / "tcgamirror.1").read_text(encoding="utf-8")
    assert '.TH TCGAMIRROR 1 "2026-11-22"' in page
    names = re.findall(r"^    (\w+) ", succeeded("--help").out, re.MULTILINE)
    assert len(names) > 10
    for name in names:
        assert f".SS {name}\n" in page
    for path in (tmp_path / "completions").iterdir():
        assert all(name in path.read_text(encoding="utf-8") for name in names), path
