"""Destinations of an export: obstacles, room, which disk is synced, and archives for any tar."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tcgamirror.model.errors import UsageError
from tcgamirror.system.lock import Lock
from tcgamirror.transfer.archive.format import EXPORT_LOCK, UNFINISHED
from tcgamirror.transfer.archive.tar import TarWriter, tar_members
from tcgamirror.transfer.content import FileContent
from tcgamirror.transfer.destination import open_destination
from tests.support.carrying import FORMS, exported, inside, unpacked
from tests.support.command import FROM_WITHIN, run
from tests.support.mirrors import contents, images, rewrite, says
from tests.support.publishing import change

BOUNDED = ("prlimit", "--fsize=2000000", "--as=4000000000")
"""Words before a program that keep it from filling disk or memory."""
OTHER_DISK = Path("/dev/shm")


@pytest.fixture
def root(tmp_path: Path, mirror: Path) -> Path:
    """A mirror of six slides."""
    return shutil.copytree(mirror, tmp_path / "m")


def in_the_way(root: Path, dest: Path) -> str:
    """Return the refusal of an export for what is at DEST.part, which stays."""
    work = dest.with_name(f"{dest.name}.part")
    before = contents(work)
    result = inside("--mirror", root, "export", dest)
    says(result, 2, f"{work}: is in the way")
    assert contents(work) == before and not dest.exists()
    return result.sentence


# What is in the way -------------------------------------------------------------------


def test_an_impossible_export_writes_nothing(mirror: Path, tmp_path: Path) -> None:
    for name in ("there", "way.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("a person's")
    (tmp_path / "empty.tar").mkdir()
    cases: list[tuple[Path, tuple[str, ...], str]] = [
        (tmp_path / "there", (), "exists already"),
        (tmp_path / "empty.tar", (), "empty.tar: exists already"),
        (tmp_path / "way", (), "is in the way"),
        (tmp_path / "no" / "e", (), "is not a directory"),
        (mirror / "e", (), "inside the mirror"),
        (tmp_path / "e.tar", ("--since", str(tmp_path / "june.zip")), "does not exist"),
        (tmp_path / "e.tar", ("--since", str(tmp_path / "there")), "is not an export"),
        (Path("/dev/shm"), (), "Name a directory or an archive in it"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for dest, options, words in cases:
        says(inside("--mirror", mirror, "export", dest, *options), 2, words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("ending", FORMS)
def test_what_comes_to_lie_there_meanwhile_stays(mirror: Path, tmp_path: Path, ending: str) -> None:
    dest = tmp_path / f"e{ending}"
    with pytest.raises(UsageError, match=str(dest)), open_destination(dest, mirror, 0):
        dest.write_text("a person's")
    assert dest.read_text() == "a person's"


def test_an_archive_whose_name_was_taken_meanwhile_is_kept(mirror: Path, tmp_path: Path) -> None:
    dest, other = tmp_path / "e.tar", tmp_path / "e-3.tar"
    (tmp_path / "e-2.tar").touch()
    words = f"{dest}: was made meanwhile. The export is complete in {other}"
    with (
        pytest.raises(UsageError, match=re.escape(words)),
        open_destination(dest, mirror, 0) as (_, archive),
    ):
        archive.write("README.txt", FileContent.of_text("whole"))
        dest.touch()
    with tarfile.open(other) as made:
        assert [Path(name).name for name in made.getnames()] == ["README.txt"]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("ending", FORMS)
def test_what_no_export_left_is_in_the_way(mirror: Path, tmp_path: Path, ending: str) -> None:
    other = shutil.copytree(mirror, tmp_path / f"e{ending}.part")
    assert (other / ".lock").is_file()
    assert "older tcgamirror" in in_the_way(mirror, tmp_path / f"e{ending}")
    # Also one that was made of what a killed export left.
    (other / EXPORT_LOCK).touch()
    in_the_way(mirror, tmp_path / f"e{ending}")
    if os.geteuid() == 0:
        # And a directory of another user.
        (tmp_path / f"f{ending}.part").mkdir()
        (tmp_path / f"f{ending}.part" / EXPORT_LOCK).touch()
        os.chown(tmp_path / f"f{ending}.part", 12_345, 12_345)
        in_the_way(mirror, tmp_path / f"f{ending}")


def test_a_killed_archive_is_removed_and_no_link_followed(mirror: Path, tmp_path: Path) -> None:
    work, other = tmp_path / "e.tar.part", tmp_path / "other"
    (work / "images").mkdir(parents=True)
    other.mkdir()
    (other / "mine").touch()
    for name in (EXPORT_LOCK, "catalogue.db", "catalogue.db-journal", "e.tar", "images/a.png"):
        (work / name).write_text("left")
    (work / "link").symlink_to(other)
    exported(mirror, tmp_path / "e.tar")
    assert not work.exists() and (other / "mine").exists()


def test_a_link_in_a_killed_export_is_not_followed(mirror: Path, tmp_path: Path) -> None:
    work, other = tmp_path / "e.part", tmp_path / "other"
    other.write_bytes(b"mine")
    for name in (*images(mirror), "catalogue.db", "SHA256SUMS", ".SHA256SUMS.part"):
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(other)
    (work / EXPORT_LOCK).touch()
    exported(mirror, tmp_path / "e")
    assert other.read_bytes() == b"mine"
    assert not [path for path in (tmp_path / "e").rglob("*") if path.is_symlink()]
    assert images(tmp_path / "e") == images(mirror)


def test_an_empty_directory_is_not_in_the_way(mirror: Path, tmp_path: Path) -> None:
    for name in ("e", "e.tar"):
        (tmp_path / f"{name}.part").mkdir()
        exported(mirror, tmp_path / name)
        assert not (tmp_path / f"{name}.part").exists()
    assert not (tmp_path / "e" / EXPORT_LOCK).exists()


def test_where_nothing_was_made_nothing_is_left(tmp_path: Path) -> None:
    for name, file in (("e.part", EXPORT_LOCK), ("e", "mine")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    opened = open_destination(tmp_path / "e", tmp_path, 0)
    with pytest.raises(UsageError, match="exists already"), opened:
        pass
    assert not (tmp_path / "e.part").exists()


def test_two_runs_do_not_make_the_same_export(mirror: Path, tmp_path: Path) -> None:
    with Lock(tmp_path / "e.tar.part" / EXPORT_LOCK, "export"):
        assert inside("--mirror", mirror, "export", tmp_path / "e.tar").code == 5


# Disks --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", FORMS)
def test_a_full_disk_leaves_no_export(root: Path, tmp_path: Path, ending: str) -> None:
    path = next(iter(images(root)))
    data = (root / path).read_bytes() + random.Random(5).randbytes(3_000_000)
    (root / path).write_bytes(data)
    change(
        root,
        "UPDATE images SET bytes = ?, sha256 = ? WHERE path = ?",
        *(len(data), hashlib.sha256(data).hexdigest(), path),
    )
    dest = tmp_path / f"e{ending}"
    result = run("--mirror", root, "export", dest, by=BOUNDED)
    assert (result.code, dest.exists()) == (6, False)
    assert f"{dest}.part/{dest.name if ending else path}" in result.sentence
    assert path in images(unpacked(exported(root, dest), tmp_path / "out"))


@FROM_WITHIN
def test_only_another_disk_is_waited_for(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip(f"{OTHER_DISK} is no other disk here")
    synced: list[Path] = []
    monkeypatch.setattr("tcgamirror.transfer.destination.sync_disk", synced.append)
    exported(mirror, tmp_path / "e")
    away = OTHER_DISK / f"tcgamirror-{os.getpid()}"
    try:
        assert images(exported(mirror, away)) == images(mirror)
    finally:
        shutil.rmtree(away, ignore_errors=True)
    assert synced == [away.with_name(f"{away.name}{UNFINISHED}")]


@pytest.mark.parametrize("ending", FORMS)
def test_a_missing_lock_file_is_named(root: Path, tmp_path: Path, ending: str) -> None:
    dest = tmp_path / f"e{ending}"
    rewrite(root, r"^lock = .*", 'lock = "sample.lock"')
    says(inside("--mirror", root, "export", dest), 2, f"{root / 'sample.lock'}: is missing")
    assert not dest.exists()


# Archives -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("SHA256SUMS", 1_700_000_000),
        (f"images/TCGA-OV/{'a' * 96}.png", 0),
        (f"images/TCGA-OV/{'a' * 97}.png", 8**11),
        (f"images/{'b' * 200}/a.png", -1),
        ("images/Zürich/a.png", 8**11 - 1),
    ],
)
def test_every_tar_reads_every_name_and_time(tmp_path: Path, name: str, time: int) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        archive = TarWriter(file.write, "tcga")
        for text in ("", "text"):
            content = FileContent.of_text(text)
            archive.write(f"{name}{text}", content._replace(mtime_ns=time * 10**9))
        archive.finish()
    expected = [(f"tcga/{name}", 0), (f"tcga/{name}text", 4)]
    assert [member[:2] for member in tar_members(path)] == expected
    with tarfile.open(path) as opened:
        members = [(member.name, member.size) for member in opened]
        assert members == expected
        assert {(member.mtime, member.mode) for member in opened} == {(time, 0o644)}
    for program in filter(shutil.which, ("tar", "bsdtar")):
        subprocess.run([program, "-xf", path, "-C", tmp_path], check=True)
        written = tmp_path / "tcga" / f"{name}text"
        assert (written.read_text(), written.stat().st_mtime) == ("text", time)
        shutil.rmtree(tmp_path / "tcga")
