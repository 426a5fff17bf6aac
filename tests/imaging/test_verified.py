"""Which images need not be read again to be copied: right ones alone, and of none a word too much.

That the file system tells of every change is the kernel's promise, and tried here on the one
the temporary files lie on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tcgamirror.imaging.verified import FILE, Compared, same, sign
from tcgamirror.system.files import YOUNG, sync_disk
from tcgamirror.transfer.archive.format import UNFINISHED
from tests.gdc import Listed, StandIn
from tests.support.carrying import exported, inside
from tests.support.command import run, succeeded
from tests.support.levels import bounded
from tests.support.mirrors import column, contents, images, made, updated

SHA = "5e" * 32
OTHER_DISK = Path("/dev/shm")


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> Iterator[Path]:
    """A mirror of six slides, fetched and never looked at again, not to be changed."""
    with StandIn(small_slides) as gdc:
        root = made(tmp_path_factory.mktemp("whole") / "m", gdc, slides=6)
        updated(root)
        yield root


@pytest.fixture
def mirror(tmp_path: Path, whole: Path) -> Path:
    """A copy all of whose images are noted, as if it had been verified."""
    root = shutil.copytree(whole, tmp_path / "m")
    Compared(root).add(each for each in signed(root) if each is not None)
    return root


def aged(root: Path) -> Path:
    """The mirror, when its images are as old as `verify` wants those that it notes."""
    newest = max((root / path).stat().st_ctime for path in images(root))
    time.sleep(max(0.0, newest + YOUNG + 0.1 - time.time()))
    return root


def signed(root: Path) -> set[str | None]:
    """What stands for the mirror's images as they lie there now and as they are recorded."""
    told = column(root, "select path from mirror"), column(root, "select sha256 from mirror")
    return {sign((root / str(path)).stat(), str(sha)) for path, sha in zip(*told, strict=True)}


def first(root: Path) -> Path:
    return root / next(iter(images(root)))


def forge(root: Path, image: Path) -> None:
    """Notes a damaged image as right, as if its disk had changed it and the system not known."""
    (sha256,) = column(
        root, f"select sha256 from mirror where path = '{image.relative_to(root).as_posix()}'"
    )
    forged = sign(image.stat(), str(sha256))
    assert forged is not None
    Compared(root).add([forged])


# Who notes what ---------------------------------------------------------------------


def test_what_is_fetched_is_noted(whole: Path) -> None:
    assert signed(whole) <= Compared(whole).signs()


def test_what_verify_read_is_noted_once(whole: Path, tmp_path: Path) -> None:
    root = shutil.copytree(whole, tmp_path / "m")
    # What may have changed twice within a tick of the clock is not noted yet.
    for options in ([], ["--quick"]):
        succeeded("--mirror", root, "verify", *options)
        assert not signed(root) & Compared(root).signs()
    succeeded("--mirror", aged(root), "verify")
    assert signed(root) <= Compared(root).signs()
    before = contents(root)
    succeeded("--mirror", root, "verify")
    assert contents(root) == before


def test_what_is_damaged_is_not_noted(mirror: Path) -> None:
    image = first(mirror)
    in_place(image)
    assert run("--mirror", aged(mirror), "verify").code == 7
    here = image.stat()
    assert not any(f" {here.st_ctime_ns}" in each for each in Compared(mirror).signs())


def test_what_is_found_damaged_is_noted_no_more(mirror: Path, tmp_path: Path) -> None:
    image = first(mirror)
    in_place(image)
    forge(mirror, image)
    assert run("--mirror", mirror, "verify").code == 7
    result = inside("--mirror", mirror, "export", tmp_path / "e", "--json")
    assert (result.code, result.json()["lacking"]) == (7, [str(image.relative_to(mirror))])
    assert len(signed(mirror) & Compared(mirror).signs()) == len(images(mirror)) - 1


def test_where_a_note_cannot_be_taken_back_there_is_none(mirror: Path, tmp_path: Path) -> None:
    image = first(mirror)
    in_place(image)
    forge(mirror, image)
    by = ("prlimit", f"--fsize={(mirror / FILE).stat().st_size}")
    assert run("--mirror", mirror, "verify", by=by).code == 7
    assert not (mirror / FILE).exists()
    result = inside("--mirror", mirror, "export", tmp_path / "e", "--json")
    assert result.json()["lacking"] == [str(image.relative_to(mirror))]


def test_what_an_archive_found_damaged_no_directory_takes_for_right(
    mirror: Path, tmp_path: Path
) -> None:
    image = first(mirror)
    in_place(image)
    forge(mirror, image)
    lacking = [str(image.relative_to(mirror))]
    for name in ("e.tar", "e"):
        result = inside("--mirror", mirror, "export", tmp_path / name, "--json")
        assert (result.code, result.json()["lacking"]) == (7, lacking)


def test_what_is_taken_back_counts_again_once_it_is_added_again(tmp_path: Path) -> None:
    note = Compared(tmp_path)
    ours, theirs = (f"{digit * 64} 7 10 99" for digit in "ab")
    note.take_back(["a" * 64])
    assert not (tmp_path / FILE).exists()
    note.add([ours, theirs, f"{ours}9"])
    note.take_back(["a" * 64])
    assert note.signs() == {theirs}
    note.add([ours])
    assert note.signs() == {ours, theirs}


def test_two_at_once_do_not_undo_each_other(tmp_path: Path) -> None:
    signs = [f"{number:064x} 7 10 99" for number in range(2_000)]
    Compared(tmp_path).add(signs)

    def take_back(start: int) -> None:
        for number in range(start, 1_000, 2):
            Compared(tmp_path).take_back([f"{number:064x}"])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take_back, (0, 1)))
    assert Compared(tmp_path).signs() == set(signs[1_000:])


@pytest.mark.parametrize("spoil", [b"ab\n" * 5_000_000, b"\n" * 20_000_000, b"a" * 20_000_000])
def test_a_spoiled_note_takes_no_memory(tmp_path: Path, spoil: bytes) -> None:
    ours = f"{'a' * 64} 7 10 99"
    (tmp_path / FILE).write_bytes(spoil)
    Compared(tmp_path).add([ours])
    del spoil
    with bounded(seconds=60, megabytes=20):
        assert Compared(tmp_path).signs() == {ours}


def test_a_note_of_images_that_are_no_more_is_begun_anew(mirror: Path) -> None:
    Compared(mirror).add(f"{number:064x} {number:020} 1 2" for number in range(20_000))
    before = (mirror / FILE).stat().st_size
    Compared(mirror).trim(10_000)
    assert (mirror / FILE).stat().st_size == before
    succeeded("--mirror", mirror, "verify", "--quick")
    assert (mirror / FILE).stat().st_size == before
    succeeded("--mirror", aged(mirror), "verify")
    assert Compared(mirror).signs() - {""} == signed(mirror)


@pytest.mark.parametrize("spoil", [b"\xff\xfe", bytes(1000)])
def test_a_spoiled_note_does_not_grow_for_ever(mirror: Path, spoil: bytes) -> None:
    with (mirror / FILE).open("ab") as note:
        note.write(spoil)
    before = contents(mirror)
    succeeded("--mirror", aged(mirror), "verify")
    assert contents(mirror) == before


def test_a_note_of_any_size_is_begun_anew(mirror: Path) -> None:
    with (mirror / FILE).open("r+b") as note:
        note.truncate(1 << 40)
    succeeded("--mirror", aged(mirror), "verify", timeout=30)
    assert Compared(mirror).signs() - {""} == signed(mirror)


# What the file system tells -----------------------------------------------------------


def in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def by_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def with_its_time(path: Path) -> None:
    """As a program does that hides what it did."""
    look = path.stat()
    in_place(path)
    os.utime(path, ns=(look.st_atime_ns, look.st_mtime_ns))


@pytest.mark.parametrize("touch", [in_place, by_another, with_its_time])
def test_every_touch_tells(tmp_path: Path, touch: Callable[[Path], None]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"data")
    before = path.stat()
    assert same(before, path.stat()) and sign(before, SHA) == sign(path.stat(), SHA)
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        touch(path)
    assert not same(before, path.stat()) and sign(before, SHA) != sign(path.stat(), SHA)


def test_a_file_system_that_tells_whole_seconds_is_not_believed(tmp_path: Path) -> None:
    # Only its time is made up: no file system here is so coarse.
    look = tmp_path.stat()
    coarse = os.stat_result(look[:10], {"st_ctime_ns": 1_700_000_000_000_000_000})
    assert sign(look, SHA) is not None
    assert sign(coarse, SHA) is None


# What an export makes of it -------------------------------------------------------------


def test_an_image_that_was_touched_is_read_again(mirror: Path, tmp_path: Path) -> None:
    image, other = (mirror / path for path in list(images(mirror))[:2])
    with_its_time(image)
    other.chmod(0o600)
    result = inside("--mirror", mirror, "export", tmp_path / "e", "--json")
    assert (result.code, result.json()["lacking"]) == (7, [str(image.relative_to(mirror))])


def test_an_image_that_was_not_is_copied_unread_and_found_where_it_arrives(
    mirror: Path, tmp_path: Path
) -> None:
    image = first(mirror)
    in_place(image)
    forge(mirror, image)
    export = exported(mirror, tmp_path / "e")
    result = inside("--mirror", tmp_path / "i", "import", export, "--json")
    assert result.code == 7
    assert str(image.relative_to(mirror)) in result.out
    # An archive's images are read in any case.
    assert inside("--mirror", mirror, "export", tmp_path / "e.tar").code == 7


@pytest.mark.parametrize("spoil", ["bytes", "folder", "pipe", "held pipe", "link", "torn"])
def test_whatever_lies_in_the_notes_place_nothing_is_lost(
    mirror: Path, tmp_path: Path, spoil: str
) -> None:
    note = mirror / FILE
    text = note.read_bytes()
    note.unlink()
    match spoil:
        case "bytes":
            note.write_bytes(os.urandom(5000))
        case "folder":
            note.mkdir()
        case "pipe" | "held pipe":
            os.mkfifo(note)
        case "link":
            note.symlink_to("/dev/zero")
        case _:
            note.write_bytes(text[:-40])
    with ExitStack() as held:
        if spoil == "held pipe":
            held.callback(os.close, os.open(note, os.O_RDWR))
        for command in (("verify",), ("export", tmp_path / "e")):
            succeeded("--mirror", aged(mirror), *command, timeout=30)
    assert images(tmp_path / "e") == images(mirror)
    if spoil == "torn":
        assert signed(mirror) <= Compared(mirror).signs()


# Which disk is waited for ---------------------------------------------------------------


def test_only_another_disk_is_waited_for(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip(f"{OTHER_DISK} is no other disk here")
    waited: list[Path] = []

    def seen(path: Path) -> None:
        waited.append(path)
        sync_disk(path)

    monkeypatch.setattr("tcgamirror.transfer.destination.sync_disk", seen)
    exported(mirror, tmp_path / "e")
    assert not waited
    away = OTHER_DISK / f"tcgamirror-{os.getpid()}"
    try:
        exported(mirror, away)
        assert waited == [away.with_name(f"{away.name}{UNFINISHED}")]
        assert images(away) == images(mirror)
    finally:
        shutil.rmtree(away, ignore_errors=True)
