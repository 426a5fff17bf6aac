"""Where a mirror is, and what makes it one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tcgamirror.catalogue import Catalogue
from tcgamirror.errors import BadSettings, NotAMirror
from tcgamirror.home import CATALOGUE, FIXED, Home
from tcgamirror.model import ImageFormat, Target
from tcgamirror.settings import FILE_NAME, LOCKED, Settings
from tests.command import run, succeeded
from tests.gdc import StandIn
from tests.mirrors import addresses, made, updated

SETTINGS = Settings(target=Target(15.0, None))


def test_a_new_mirror_is_found_with_its_settings(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    Home.create(root, SETTINGS)
    assert Home.find(root, above=False) == Home(root, SETTINGS)
    assert sorted(path.name for path in root.iterdir()) == [CATALOGUE, FILE_NAME]


def test_the_nearest_of_two_mirrors_is_found_from_below(tmp_path: Path) -> None:
    inner = Home.create(tmp_path / "inner", replace(SETTINGS, seed=1))
    Home.create(tmp_path, SETTINGS)
    below = inner.root / "images" / "x"
    below.mkdir(parents=True)
    assert Home.find(below, above=True) == inner
    assert Home.find(tmp_path / "inner" / "..", above=True).root.samefile(tmp_path)


def test_a_mirror_that_is_named_is_not_looked_for_above(tmp_path: Path) -> None:
    Home.create(tmp_path, SETTINGS)
    (tmp_path / "sub").mkdir()
    with pytest.raises(NotAMirror, match=r"holds no tcgamirror\.toml"):
        Home.find(tmp_path / "sub", above=False)


@pytest.mark.parametrize("name", [FILE_NAME, CATALOGUE])
def test_no_mirror_is_made_where_one_is_or_was(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(NotAMirror, match=name):
        Home.create(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_an_init_that_was_killed_before_the_settings_can_be_made_again(tmp_path: Path) -> None:
    with Catalogue.create(tmp_path / CATALOGUE) as catalogue:
        catalogue.set_fact(FIXED, "other images")
    home = Home.create(tmp_path, SETTINGS)
    with Catalogue.open(tmp_path / CATALOGUE) as catalogue:
        home.check_target(catalogue)


def test_a_catalogue_that_was_used_is_never_replaced(tmp_path: Path) -> None:
    with Catalogue.create(tmp_path / CATALOGUE) as catalogue:
        catalogue.begin_run("update", 0.0)
    with pytest.raises(NotAMirror, match=CATALOGUE):
        Home.create(tmp_path, SETTINGS)


def test_no_mirror_is_made_in_place_of_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotAMirror):
        Home.create(tmp_path, SETTINGS)


def test_a_directory_that_holds_something_else_may_become_a_mirror(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    Home.create(tmp_path, SETTINGS)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("root", ["\0", "/proc/x/y", "/dev/null", "/dev/null/x", "x" * 300])
def test_where_there_can_be_no_directory_it_is_said(root: str) -> None:
    with pytest.raises(NotAMirror, match="choose another"):
        Home.create(Path(root), SETTINGS)


@pytest.mark.parametrize("other", [Target(15.0000001, None), Target(None, 15), Target(30.0, None)])
def test_another_target_than_the_mirrors_own_is_refused(tmp_path: Path, other: Target) -> None:
    home = Home.create(tmp_path, SETTINGS)
    with Catalogue.open(tmp_path / CATALOGUE) as catalogue:
        home.check_target(catalogue)
        for changed in (replace(SETTINGS, target=other), replace(SETTINGS, form=ImageFormat.TIFF)):
            with pytest.raises(BadSettings, match="15 µm/px, exact, png"):
                replace(home, settings=changed).check_target(catalogue)


# Of a lock file --------------------------------------------------------------------


def test_lost_settings_are_written_again_with_the_lock_that_is_given(
    small_gdc: StandIn, tmp_path: Path
) -> None:
    locks = tmp_path / "two.lock", tmp_path / "four.lock"
    for lock, slides in zip(locks, (2, 4), strict=True):
        updated(made(tmp_path / lock.stem, small_gdc, slides=slides))
        succeeded("--mirror", tmp_path / lock.stem, "lock", lock)
    for lost in ((), (LOCKED,)):
        root = tmp_path / f"lost-{len(lost)}"
        succeeded("--mirror", root, "init", "--lock", locks[0], *addresses(small_gdc))
        updated(root)
        for name in ("tcgamirror.toml", *lost):
            (root / name).unlink()
        again = succeeded("--mirror", root, "init", "--lock", locks[1], *addresses(small_gdc))
        assert "wrote the settings again" in again.out
        assert (root / LOCKED).read_bytes() == locks[1].read_bytes()
        assert "2 slides added" in updated(root).out
        assert "4 of 4 slides" in succeeded("--mirror", root, "lock", "--check", locks[1]).out


def test_an_init_that_is_refused_leaves_no_lock(small_gdc: StandIn, tmp_path: Path) -> None:
    first = made(tmp_path / "first", small_gdc, slides=2)
    updated(first)
    lock = tmp_path / "sample.lock"
    succeeded("--mirror", first, "lock", lock)
    before = sorted(first.rglob("*"))
    assert run("--mirror", first / "within", "init", "--lock", lock).code == 2
    assert sorted(first.rglob("*")) == before
