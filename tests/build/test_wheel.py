"""Build the wheel, and run what is in it, beside the installed dependencies."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from tcgamirror import __version__
from tests.support.command import BINARY, ROOT, surroundings

pytestmark = pytest.mark.skipif(BINARY in os.environ, reason="tests the wheel, not a binary")

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "tcgamirror")


def sources(root: Path) -> Iterator[Path]:
    """Yield the package's files that are source, relative to the root."""
    for path in (root / "tcgamirror").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            yield path.relative_to(root)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy, as setuptools writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in [*sources(ROOT), *map(Path, SOURCES[:-1])]:
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / path).write_bytes((ROOT / path).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if "No matching distribution found for setuptools" in built.stderr:
        pytest.skip("pip cannot download setuptools, which builds the wheel")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name) for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert b"tcgamirror = tcgamirror.__main__:main" in archive.read(entry_points)
    assert names == set(sources(ROOT))
    assert {Path("tcgamirror/py.typed"), Path("tcgamirror/manual/python.md")} < names


def test_its_version_is_that_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == __version__
    assert wheel.name == f"tcgamirror-{__version__}-py3-none-any.whl"
    assert "pandas" in metadata.get_all("Provides-Extra", [])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "tcgamirror", "--version"], f"tcgamirror {__version__}\n"),
        (["-m", "tcgamirror", "help", "python"], None),
        (
            ["-c", "import tcgamirror; print(tcgamirror.__file__)"],
            "{wheel}/tcgamirror/__init__.py\n",
        ),
    ],
)
def test_it_runs_from_an_empty_directory(
    wheel: Path, tmp_path: Path, words: list[str], told: str | None
) -> None:
    ran = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=surroundings({"PYTHONPATH": str(wheel)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    page = (ROOT / "tcgamirror" / "manual" / "python.md").read_text(encoding="utf-8")
    assert ran.stdout == (page if told is None else told.format(wheel=wheel))
