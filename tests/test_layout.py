"""Hold the layout of the code: ten packages, nothing loose, no file too long."""

from __future__ import annotations

from tests.support.command import ROOT

PACKAGE = ROOT / "tcgamirror"
LONGEST = 500
"""Lines of a file, so that it can be read at once."""


def test_nothing_lies_loose_beside_the_packages() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_each_package_says_in_its_first_line_what_it_is_for() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_no_file_is_too_long_to_be_read_at_once() -> None:
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "main.py"]
    assert not [path.name for path in files if len(path.read_text().splitlines()) > LONGEST]
