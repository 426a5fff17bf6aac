"""Hold the layout of the code: ten packages and nothing loose."""

from __future__ import annotations

from tests.support.command import ROOT

PACKAGE = ROOT / "tcgamirror"


def test_nothing_lies_loose_beside_the_packages() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_each_package_says_in_its_first_line_what_it_is_for() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path
