"""Names that are swapped for links and pipes while they are read: nothing outside is ever read."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.system.openat import Tree
from tests.support.command import run
from tests.support.mirrors import images
from tests.support.publishing import by_serve, got

SECRET = b"not yours"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "images" / "p").mkdir(parents=True)
    (root / "images" / "p" / "a").write_bytes(b"mine")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a").write_bytes(SECRET)
    return root


def test_plain_files_are_opened_by_their_path(tree: Path) -> None:
    with Tree(tree).open("images/p/a") as file:
        assert file.read() == b"mine"
    assert Tree(tree).stat("images/p/a").st_size == 4
    assert [name for name, _ in Tree(tree).entries("images")] == ["p"]


@pytest.mark.parametrize(
    "path", ["", ".", "..", "images/../../secret/a", "/etc/passwd", "images//p/a", "images/p/b"]
)
def test_a_path_that_leads_elsewhere_leads_nowhere(tree: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        Tree(tree).open(path)


def test_links_and_pipes_are_refused_in_any_place(tree: Path, tmp_path: Path) -> None:
    (tree / "to_file").symlink_to(tmp_path / "secret" / "a")
    (tree / "to_folder").symlink_to(tmp_path / "secret")
    os.mkfifo(tree / "pipe")
    for path in ("to_file", "to_folder/a"):
        with pytest.raises(OSError, match="a link, which is not followed"):
            Tree(tree).open(path)
    for path in ("pipe", "images"):
        with pytest.raises(OSError, match="not a regular file"):
            Tree(tree).open(path)
    with Tree(tree).open("to_folder/a", linked_folders=True) as file:
        assert file.read() == SECRET
    with pytest.raises(OSError, match="a link"):
        Tree(tree).open("to_file", linked_folders=True)


def test_the_directory_is_the_one_that_was_opened(tree: Path, tmp_path: Path) -> None:
    opened = Tree(tree)
    tree.rename(tmp_path / "moved")
    tree.symlink_to(tmp_path / "secret")
    with opened.open("images/p/a") as file:
        assert file.read() == b"mine"


def test_no_handle_is_left_open(tree: Path) -> None:
    def handles() -> int:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208

    before = handles()
    for _ in range(20):
        opened = Tree(tree)
        for path in ("images/p/a", "images", "no", "images/p/no"):
            with suppress(OSError):
                opened.open(path).close()
            with suppress(OSError):
                opened.stat(path)
        list(opened.entries("images/p"))
        del opened
    assert handles() == before


# The race -------------------------------------------------------------------------------


@contextmanager
def swapped(root: Path, outside: Path) -> Iterator[None]:
    """Swaps images, folders and small files for links and pipes, again and again.

    Not the catalogue for a pipe: SQLite opens the name that was checked, and would wait for it.
    """
    stop = threading.Event()
    names = [*images(root), "catalogue.db", "tcgamirror.toml", "images"]
    names += {name.rpartition("/")[0] for name in images(root)}

    def swap() -> None:
        chance = random.Random(4)
        while not stop.is_set():
            path = root / chance.choice(names)
            aside = path.with_name("aside")
            path.rename(aside)
            if chance.random() < 0.5 or path.name == CATALOGUE:
                path.symlink_to(outside / path.relative_to(root))
            else:
                os.mkfifo(path)
            stop.wait(chance.uniform(0, 0.002))
            path.unlink()
            aside.rename(path)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def race(tmp_path: Path, mirror: Path) -> tuple[Path, Path]:
    """A mirror, and beside it one of the same names, all of whose files are secret."""
    root = shutil.copytree(mirror, tmp_path / "m")
    outside = shutil.copytree(mirror, tmp_path / "outside")
    for path in outside.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes().replace(b"PNG", b"SEC") + SECRET)
    return root, outside


def holds_nothing_secret(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET not in path.read_bytes(), path


COMMANDS: dict[str, Callable[[Path, Path], list[str | Path]]] = {
    "sync": lambda root, to: ["sync", root, to],
    "import": lambda root, to: ["--mirror", to, "import", root],
    "verify": lambda root, _: ["--mirror", root, "verify"],
    "verify --quick": lambda root, _: ["--mirror", root, "verify", "--quick"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_swapped_name_is_followed(race: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    root, outside = race
    codes = set()
    with swapped(root, outside):
        for number in range(6):
            to = tmp_path / f"to{number}"
            result = run(*COMMANDS[name](root, to), timeout=30)
            codes.add(result.code)
            assert "a bug" not in result.err and result.code in (0, 2, 3, 5, 7), result
            holds_nothing_secret(to)
    assert codes != {0}, "nothing was swapped in time"


def test_serve_sends_nothing_from_elsewhere(race: tuple[Path, Path]) -> None:
    root, outside = race
    paths = list(images(root))
    seen: set[bool | int] = set()
    with by_serve(root) as published, swapped(root, outside):
        for turn in range(300):
            try:
                seen.add(SECRET in got(published.url + paths[turn % len(paths)]))
            except HTTPError as error:
                seen.add(error.code)
    assert True not in seen and False in seen and 404 in seen
