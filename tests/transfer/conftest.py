"""Mirrors and exports that several modules read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gdc import Listed, StandIn
from tests.support.carrying import exported
from tests.support.command import succeeded
from tests.support.mirrors import made, updated
from tests.support.publishing import rest


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]) -> Path:
    """A directory with an export of the mirror `m` beside it, neither ever to be changed."""
    folder = tmp_path_factory.mktemp("export")
    with StandIn(small_slides) as gdc:
        updated(made(folder / "m", gdc, slides=3))
    return exported(folder / "m", folder / "export")


@pytest.fixture(scope="session")
def whole(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> Iterator[Path]:
    """A mirror of 12 slides with a gallery, never to be changed, whose GDC is there."""
    with StandIn(small_slides) as gdc:
        root = made(tmp_path_factory.mktemp("whole") / "m", gdc, slides=12)
        updated(root)
        succeeded("--mirror", root, "gallery")
        yield root


@pytest.fixture
def source(tmp_path: Path, mirror: Path) -> Path:
    """A mirror of six slides to be synced from, at rest."""
    root = shutil.copytree(mirror, tmp_path / "source")
    rest(root)
    return root


@pytest.fixture
def copy(export: Path, tmp_path: Path) -> Path:
    """A copy of the export, to be changed."""
    return shutil.copytree(export, tmp_path / "e")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory for a mirror, so that what a refused command leaves shows."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"
