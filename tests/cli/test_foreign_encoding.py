"""A mirror below a directory whose name is not UTF-8, as home directories of old systems are."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.command import run, started, succeeded
from tests.support.mirrors import images, made, updated

ANSI_C = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""A locale whose encoding is ASCII, for Python too."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    return path


@pytest.mark.parametrize("env", [{}, ANSI_C], ids=["UTF-8", "ASCII"])
def test_every_command_works_there(folder: Path, small_gdc: StandIn, env: dict[str, str]) -> None:
    root = made(folder / "m", small_gdc, slides=2)
    updated(root)
    held = images(root)
    for command in (
        *("status", "changes", "verify", "verify --repair", "gallery", "doctor"),
        *("update --log", "lock", "lock --check", "export"),
    ):
        words: list[str | Path] = [*command.split()]
        words += [folder / "file"] if words[-1] in ("--log", "lock", "--check", "export") else []
        if command == "update --log":
            words[-1] = folder / "log"
        elif command == "export":
            words[-1] = folder / "e.tar"
        result = run("--mirror", root, *words, env=env)
        assert result.code == 0, (command, result)
    for command in ("status", "update", "verify", "changes", "doctor"):
        told = succeeded("--mirror", root, command, "--json", env=env).out
        assert told.count("\n") == 1
    exported = succeeded("--mirror", root, "export", folder / "e", "--json", env=env).json()
    assert Path(exported["dest"]) == folder / "e"
    assert succeeded("--mirror", root, "query", "select 1", env=env).out == "1\n1\n"
    for place in ("e", "e.tar"):
        assert run("--mirror", folder / f"of-{place}", "import", folder / place, env=env).code == 0
        assert images(folder / f"of-{place}") == held
    assert run("sync", root, folder / "synced", "--json", env=env).code == 0
    assert images(folder / "synced") == held
    (root / "catalogue.db").unlink()
    assert run("--mirror", root, "rebuild", env=env).code == 0
    assert images(root) == held
    with started("--mirror", root, "serve", "--port", "0") as process:
        assert process.stdout is not None
        assert "until Ctrl-C" in process.stdout.readline()


def test_what_is_told_of_it_can_be_read_and_typed(folder: Path, small_gdc: StandIn) -> None:
    new = folder / "m"
    told = succeeded("--mirror", new, "init", "--mpp", "4", "--api", small_gdc.api).out
    assert re.search(r"next: tcgamirror --mirror \$'/.*/caf\\xe9/m' update\n", told)
    result = run("--mirror", folder / "none", "status")
    assert result.code == 2 and r"/caf\xe9/none: not a mirror" in result.sentence
    for form in ("cron", "systemd", "slurm"):
        refused = run("--mirror", new, "schedule", form)
        assert refused.code == 2 and "Rename the directory" in refused.sentence
