"""A disk that fills up, a mirror that may not be written, a `work/` full of rubbish."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.command import program, run, surroundings
from tests.support.mirrors import column, filled, images, made, says, updated

SLIDES = 6


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A mount at `place` for the block; skips, saying so, where mounting is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid():
        pytest.skip("only root may mount a disk that is full")
    done = subprocess.run(["mount", *options, place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def small_disk(place: Path, size: str) -> tuple[Path, str, str, str, str, str]:
    return (place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def leftovers(root: Path) -> list[Path]:
    return list((root / "images").rglob("*.part"))


def test_images_that_find_no_room_end_the_run_in_order(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "mirror", small_gdc, slides=SLIDES)
    with mounted(*small_disk(root / "images", "16k")) as full:
        (full / "filler").write_bytes(b"\0" * 12_000)
        result = run("--mirror", root, "update")
        assert result.code == 6
        assert "no room" in result.sentence
        assert not leftovers(root)
        done = column(root, "select count(*) from mirror where status = 'done'")
        assert done == [len(list(full.rglob("*.png")))]
    updated(root)
    assert column(root, "select count(*) from mirror where status != 'done'") == [0]


def test_an_init_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with mounted(*small_disk(tmp_path / "disk", "16k")) as full:
        (full / "filler").write_bytes(b"\0" * 16_384)
        result = run("init", full / "m", "--mpp", "15")
        assert result.code == 6 and str(full / "m") in result.sentence
        assert [path.name for path in full.iterdir()] == ["filler"]


def test_a_full_work_folder_ends_the_run_early(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "mirror", small_gdc, slides=SLIDES)
    with mounted(*small_disk(root / "work", "64m")):
        small_gdc.clear()
        result = run("--mirror", root, "update")
        assert result.code == 6
        assert "free" in result.sentence
        assert not small_gdc.requests(r"\?level=")
    updated(root)


def test_a_quota_on_a_files_size_is_no_room(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "mirror", small_gdc, slides=SLIDES)
    command = shlex.join([*program(), "--mirror", str(root), "update"])
    limited = subprocess.run(
        ["bash", "-c", f"ulimit -f 8; {command}"],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert limited.returncode == 6, limited.stderr
    assert len(limited.stderr.splitlines()) == 1
    assert not leftovers(root)
    updated(root)
    assert len(images(root)) == SLIDES


def test_a_read_only_mirror_can_be_queried(tmp_path: Path, small_gdc: StandIn) -> None:
    root = filled(tmp_path / "mirror", small_gdc, slides=SLIDES)
    with mounted(tmp_path / "frozen", "--bind", str(root)) as frozen:
        subprocess.run(["mount", "-o", "remount,ro,bind", frozen], check=True)
        assert run("--mirror", frozen, "status").code == 0
        assert run("--mirror", frozen, "query", "select count(*) from mirror").code == 0
        result = run("--mirror", frozen, "update")
        assert result.code == 2
        assert str(frozen) in result.sentence


def test_rubbish_in_work_is_removed(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "mirror", small_gdc, slides=SLIDES)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    work = root / "work"
    (work / "a" / "b" / "c").mkdir(parents=True)
    (work / "a" / "b" / "c" / "file").write_bytes(b"\0" * 1000)
    (work / "notes.txt").write_text("mine?")
    (work / "link").symlink_to(outside)
    (work / "00000000-0000-4000-8000-000000000000" / "range").mkdir(parents=True)
    updated(root)
    assert not list(work.iterdir())
    assert (outside / "precious").read_text() == "keep"
    assert len(images(root)) == SLIDES


def test_leftovers_of_a_due_slide_may_be_anything(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "mirror", small_gdc, slides=SLIDES)
    assert run("--mirror", root, "refresh").code == run("--mirror", root, "sample").code == 0
    for number, file_id in enumerate(column(root, "select file_id from mirror")):
        folder = root / "work" / str(file_id)
        if number % 3 == 0:
            (folder / "range").mkdir(parents=True)
            (folder / "range" / "slide.part").write_bytes(os.urandom(5000))
            (folder / "range" / "slide.part.spans").write_bytes(os.urandom(500))
        elif number % 3 == 1:
            (folder / "range" / "slide.part").mkdir(parents=True)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.write_text("a file where a folder is to be")
    updated(root)
    assert len(images(root)) == SLIDES


# Links --------------------------------------------------------------------------------


COMMANDS = ("--mirror {root} update", "--mirror {root} import {other}", "sync {other} {root}")


@pytest.mark.parametrize(("link", "problem"), [(os.symlink, "a link"), (os.link, "second name")])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_in_the_locks_place_is_not_written_through(
    mirror: Path, tmp_path: Path, command: str, link: Callable[[Path, Path], None], problem: str
) -> None:
    root = shutil.copytree(mirror, tmp_path / "m")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (root / ".lock").unlink()
    link(victim, root / ".lock")
    result = run(*command.format(root=root, other=mirror).split())
    says(result, 2, problem, str(root / ".lock"))
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_linked_work_is_not_emptied(
    mirror: Path, tmp_path: Path, small_gdc: StandIn, command: str
) -> None:
    root = made(tmp_path / "m", small_gdc)
    kept = [tmp_path / "home" / name / "kept" for name in ("import", "sync", "other")]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.touch()
    (root / "work").symlink_to(tmp_path / "home")
    result = run(*command.format(root=root, other=mirror).split())
    assert result.code == 2 and f"{root / 'work'}: it is a link" in result.err, result
    assert all(path.exists() for path in kept)
