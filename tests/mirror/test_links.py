"""Links that somebody put into a mirror: no command writes, or removes, what they lead to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.command import run
from tests.support.mirrors import made, says

Link = Callable[[Path, Path], None]


@pytest.fixture
def root(tmp_path: Path, mirror: Path) -> Path:
    return shutil.copytree(mirror, tmp_path / "m")


def writing(command: str, root: Path, other: Path) -> list[str | Path]:
    """Return the words of a command that writes to the mirror at `root`."""
    words: dict[str, list[str | Path]] = {
        "update": ["--mirror", root, "update"],
        "import": ["--mirror", root, "import", other],
        "sync": ["sync", other, root],
    }
    return words[command]


@pytest.mark.parametrize(("link", "said"), [(os.symlink, "a link"), (os.link, "second name")])
@pytest.mark.parametrize("command", ["update", "import", "sync"])
def test_what_lies_in_the_locks_place_is_not_written_through(
    root: Path, mirror: Path, tmp_path: Path, command: str, link: Link, said: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (root / ".lock").unlink()
    link(victim, root / ".lock")
    says(run(*writing(command, root, mirror)), 2, said, str(root / ".lock"))
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("command", ["import", "sync"])
def test_what_a_linked_work_leads_to_is_not_removed(
    root: Path, mirror: Path, tmp_path: Path, command: str
) -> None:
    kept = tmp_path / "home" / command / "kept"
    kept.parent.mkdir(parents=True)
    kept.touch()
    (root / "work").rmdir()
    (root / "work").symlink_to(tmp_path / "home")
    says(run(*writing(command, root, mirror)), 2, "a link", str(root / "work"))
    assert kept.exists()


def test_an_update_tidies_no_linked_work(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=1)
    kept = tmp_path / "home" / "kept"
    kept.parent.mkdir()
    kept.touch()
    (root / "work").symlink_to(kept.parent)
    result = run("--mirror", root, "update")
    assert result.code == 2 and f"{root / 'work'}: it is a link" in result.err, result
    assert kept.exists()
