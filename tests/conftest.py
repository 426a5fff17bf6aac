"""What several test modules share: made slides, and a stand-in GDC with small ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fault_matrix import pytest_terminal_summary as pytest_terminal_summary
from tests.gdc import Listed, StandIn
from tests.levels import ZOO, MadeSlides

pytest.register_assert_rewrite("tests.command", "tests.mirrors")

# How long one example takes tells of the machine's other work.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

from tests.mirrors import DIAGNOSTIC, TISSUE, made, small_slide, updated  # noqa: E402


@pytest.fixture(scope="session")
def zoo_slides(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The path of every slide of `tests.slides.zoo()` by its name.

    Made once a session, each at its first use: a module that asks for three
    pays for three. Read them, do not write to them.
    """
    return MadeSlides(tmp_path_factory.mktemp("zoo"), ZOO)


@pytest.fixture(scope="session")
def small_slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Listed, ...]:
    """Slides of three projects, the last ones frozen, each of its own size."""
    folder = tmp_path_factory.mktemp("small-slides")
    return tuple(small_slide(folder, number) for number in range(DIAGNOSTIC + TISSUE))


@pytest.fixture
def small_gdc(small_slides: tuple[Listed, ...]) -> Iterator[StandIn]:
    """A stand-in that lists the small slides."""
    with StandIn(small_slides) as gdc:
        yield gdc


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]) -> Path:
    """A mirror that is done, its GDC gone, for commands that only look."""
    with StandIn(small_slides) as gdc:
        root = made(tmp_path_factory.mktemp("done") / "mirror", gdc, slides=6)
        updated(root)
        return root


@pytest.fixture(scope="session")
def pattern(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> Iterator[Path]:
    """A mirror of two slides that is done, its GDC there, for tests to spoil a copy of."""
    with StandIn(small_slides) as gdc:
        root = made(tmp_path_factory.mktemp("pattern") / "m", gdc, slides=2)
        updated(root)
        yield root
