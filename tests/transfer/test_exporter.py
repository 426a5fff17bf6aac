"""`export`: all forms hold the same, whatever happens meanwhile, and after any kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tcgamirror.transfer.archive.format import EXPORT_LOCK
from tests.gdc import Listed, StandIn
from tests.support.carrying import (
    FORMS,
    check_sums,
    exported,
    imported,
    inside,
    is_clean,
    known,
    other_pixels,
    unpacked,
)
from tests.support.command import FROM_WITHIN, ended, killed, run, started, succeeded, went_well
from tests.support.mirrors import column, images, made, point_to, rewrite, rows, says, updated
from tests.support.publishing import change

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
BOUNDED = ("prlimit", "--fsize=2000000", "--as=4000000000")
"""Words before a program that keep it from filling disk or memory."""
SEED = int(os.environ.get("TCGAMIRROR_SEED", "5"))
PROGRAM = f"{sys.executable} main.py"


@pytest.fixture
def root(tmp_path: Path, whole: Path) -> Path:
    """A mirror of 12 slides, to be changed."""
    return shutil.copytree(whole, tmp_path / "m")


# What is in it ---------------------------------------------------------------------


@pytest.mark.parametrize("ending", FORMS)
def test_every_form_holds_all_of_the_mirror(whole: Path, tmp_path: Path, ending: str) -> None:
    path = next(iter(images(whole)))
    os.utime(whole / path, (1_700_000_000, 1_700_000_000))
    export = exported(whole, tmp_path / f"tcga{ending}")
    assert [path.name for path in tmp_path.iterdir()] == [f"tcga{ending}"]
    folder = unpacked(export, tmp_path / "out")
    check_sums(folder)
    assert folder.name == "tcga"
    assert images(folder) == images(whole)
    assert known(folder) == known(whole)
    assert (folder / path).stat().st_mtime == 1_700_000_000
    assert (folder / "gallery" / "index.html").is_file()
    page = (folder / "README.txt").read_text()
    for words in ("sha256sum -c SHA256SUMS", "import THIS", "4 µm/px", "Release 45.0", "12 done"):
        assert words in page
    assert is_clean(folder), "an export is a mirror, too"


def test_an_archive_goes_through_a_pipe(whole: Path, tmp_path: Path) -> None:
    there = tmp_path / "i"
    piped = subprocess.run(
        f"{PROGRAM} --mirror {whole} export - | {PROGRAM} --mirror {there} import - --json",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "12 slides with 12 images in standard output" in piped.stderr
    assert json.loads(piped.stdout)["images"] == 12
    assert known(there) == known(whole) and is_clean(there)
    assert not list((there / "work").glob("*"))


def test_a_pipe_that_ends_early_is_no_success(whole: Path) -> None:
    script = f"{PROGRAM} --mirror {whole} export - | head -c 50000 >/dev/null"
    script += "; echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
    assert "standard output: closed before the export was complete" in done.stderr


def test_only_takes_the_slides_that_meet_a_condition(whole: Path, tmp_path: Path) -> None:
    condition = "project_id = 'TCGA-LUAD' -- a remark"
    export = exported(whole, tmp_path / "e", "--only", condition)
    expected = rows(whole, "select * from mirror where project_id = 'TCGA-LUAD' order by 2")
    assert rows(export, "select * from mirror order by 2") == expected
    assert len(images(export)) == len(expected) and not (export / "gallery").exists()
    assert (export / "catalogue.db").read_bytes().count(b"TCGA-GBM/") == 0
    strange = "select * from attempts where file_name not in (select file_name from sample)"
    assert not column(export, strange)
    assert is_clean(export)
    imported(tmp_path / "i", export)
    assert rows(tmp_path / "i", "select * from mirror order by 2") == expected
    # Nor does it grow by what was left out.
    succeeded("--mirror", tmp_path / "i", "sample")
    assert rows(tmp_path / "i", "select * from mirror order by 2") == expected


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("nonsense", "no such column"),
        ("status = 'never'", "no sampled slide meets"),
        ("1); delete from slides --", "one statement at a time"),
        ("load_extension('a')", "not authorized"),
        ("1) union select value from facts where (1", ""),
    ],
)
def test_a_condition_only_reads(whole: Path, tmp_path: Path, condition: str, words: str) -> None:
    for dest in (tmp_path / "e.tar", tmp_path / "e"):
        result = inside("--mirror", whole, "export", dest, "--only", condition)
        assert words in result.err
        assert result.code == (2 if words else 0)
    if words:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["../a.png", "/tmp/a.png", "images/../../a.png", "a.png"])
def test_a_path_out_of_the_mirror_is_not_followed(root: Path, tmp_path: Path, path: str) -> None:
    change(root, "update images set path = ? where rowid = 1", path)
    says(inside("--mirror", root, "export", tmp_path / "e"), 7, repr(path))
    assert not (tmp_path / "e").exists() and not list(tmp_path.rglob("a.png"))


def test_a_persons_own_views_and_indexes_are_not_exported(root: Path, tmp_path: Path) -> None:
    with sqlite3.connect(root / "catalogue.db") as connection:
        connection.executescript(
            "create view lung as select * from mirror; create index mine on slides (kind);"
            "create table notes (note integer primary key autoincrement, text);"
            "insert into notes (text) values ('secret'); analyze;"
        )
    export = exported(root, tmp_path / "e")
    assert b"secret" not in (export / "catalogue.db").read_bytes()
    imported(tmp_path / "i", export)
    assert known(tmp_path / "i") == known(root)


def test_of_the_gallery_the_files_that_the_command_makes_are_exported(
    root: Path, tmp_path: Path
) -> None:
    gallery, before = root / "gallery", exported(root, tmp_path / "before")
    for name in ("a/b/page.html", ".hidden/page.html", "a\\b.html"):
        (gallery / name).parent.mkdir(parents=True, exist_ok=True)
        (gallery / name).write_text("a page")
    (gallery / "link.html").symlink_to(root / "catalogue.db")
    contained = [
        sorted(path.relative_to(export) for path in (export / "gallery").rglob("*.*"))
        for export in (before, exported(root, tmp_path / "e"))
    ]
    assert contained[0] == contained[1]


def test_a_gallery_older_than_an_exclusion_is_left_out(root: Path, tmp_path: Path) -> None:
    went_well("--mirror", root, "gallery")
    for path in (root / "gallery").iterdir():
        os.utime(path, (time.time() - 9,) * 2)
    went_well("--mirror", root, "exclude", str(column(root, "select file_name from mirror")[0]))
    result = inside("--mirror", root, "export", tmp_path / "older")
    assert result.code == 0 and "older than the last exclusion" in result.sentence
    went_well("--mirror", root, "gallery")
    went_well("--mirror", root, "export", tmp_path / "newer")
    there = [(tmp_path / name / "gallery").exists() for name in ("older", "newer")]
    assert there == [False, True]


# Since an earlier one ----------------------------------------------------------------


def test_a_chain_of_exports_makes_the_whole(root: Path, tmp_path: Path) -> None:
    rewrite(root, "^slides = 12", "slides = 13")
    first = exported(root, tmp_path / "first.tar")
    updated(root)
    second = exported(root, tmp_path / "second", "--since", first)
    assert len(images(second)) == 1
    check_sums(second)
    rewrite(root, "^slides = 13", "slides = 15")
    updated(root)
    third = exported(root, tmp_path / "third.tar", "--since", second / "SHA256SUMS")
    with tarfile.open(third) as opened:
        assert sum(name.startswith("third/images/") for name in opened.getnames()) == 2
    none = exported(root, tmp_path / "none", "--since", exported(root, tmp_path / "all"))
    assert not images(none) and "15 images are not in here" in (none / "README.txt").read_text()
    there = tmp_path / "i"
    answer = imported(there, third)
    assert (answer["images"], answer["lacking"]) == (2, 13)
    assert [imported(there, export)["images"] for export in (first, second, third)] == [12, 1, 0]
    assert is_clean(there) and known(there) == known(root)


def test_since_a_file_that_is_no_text(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"\x7fELF\x02\xff\xfe")
    (tmp_path / "SHA256SUMS").write_text("")
    (tmp_path / "SHA256SUMS.earlier").write_bytes(b"\xff")
    for since in (tmp_path / "program", tmp_path / "SHA256SUMS"):
        result = inside("--mirror", whole, "export", tmp_path / "e", "--since", since)
        says(result, 2, "is not text", f"{since}: is not an export that --since can continue")


# Damage ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", FORMS)
def test_a_damaged_image_is_left_out_and_named(root: Path, tmp_path: Path, ending: str) -> None:
    spoiled, gone, folder, pipe, link, endless = (root / path for path in list(images(root))[:6])
    data = spoiled.read_bytes()
    damaged = (spoiled, gone, folder, pipe, link, endless)
    for path in damaged:
        path.unlink()
    spoiled.write_bytes(data[:-1] + b"x")
    folder.mkdir()
    os.mkfifo(pipe)
    link.symlink_to("gone")
    endless.symlink_to("/dev/zero")
    dest = tmp_path / f"e{ending}"
    result = run("--mirror", root, "export", dest, "--json", by=BOUNDED, timeout=30)
    assert result.code == 7, result
    assert sorted(result.json()["lacking"]) == sorted(str(p.relative_to(root)) for p in damaged)
    imported(tmp_path / "i", dest)
    assert is_clean(tmp_path / "i")
    assert column(tmp_path / "i", "select count(*) from mirror where status = 'pending'") == [6]
    assert "6 slides fetched" in updated(tmp_path / "i").out
    assert is_clean(tmp_path / "i")


# While an update runs ----------------------------------------------------------------


def test_images_that_may_be_replaced_are_waited_for_together(root: Path, tmp_path: Path) -> None:
    for path in images(root):
        (root / path).unlink()
    change(root, "UPDATE images SET status = 'pending'")
    start = time.monotonic()
    answer = inside("--mirror", root, "export", tmp_path / "e", "--json").json()
    assert time.monotonic() - start < 30
    assert (answer["exit_code"], answer["images"], answer["slides"]) == (0, 0, {"pending": 12})
    assert column(tmp_path / "e", "select distinct path from mirror") == [None]


@FROM_WITHIN
def test_an_image_that_is_replaced_meanwhile_is_exported_with_its_row(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = images(root)
    kept = {path: (root / path).read_bytes() for path in (first, second)}
    for path in kept:
        (root / path).unlink()
    change(root, "UPDATE images SET status = 'pending' WHERE path IN (?, ?)", first, second)
    waits = 0

    def meanwhile(_: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            (root / first).write_bytes(kept[first])
            change(root, "UPDATE images SET status = 'done' WHERE path = ?", first)
        if waits == 4:
            # What is lost meanwhile is not waited for any longer.
            change(root, "UPDATE images SET status = 'done' WHERE path = ?", second)

    monkeypatch.setattr("tcgamirror.transfer.exporter.time.sleep", meanwhile)
    result = inside("--mirror", root, "export", tmp_path / "e", "--json")
    assert (result.code, result.json()["lacking"], waits) == (7, [second], 4)
    assert result.json()["slides"] == {"done": 11, "pending": 1}
    assert first in images(tmp_path / "e")


def test_exports_during_updates_are_clean(tmp_path: Path, small_slides: tuple[Listed, ...]) -> None:
    sets = [
        [
            other_pixels(file, tmp_path / f"{turn}-{number}.svs", seed=900 + number)
            for number, file in enumerate(small_slides)
        ]
        for turn in range(2)
    ]
    with StandIn(small_slides) as gdc:
        root = made(tmp_path / "m", gdc, slides=12)
        updated(root)
    chance = random.Random(SEED)
    for turn in range(20 if SOAK else 2):
        release = f"Data Release {46 + turn}.0 - March 04, 2026"
        with StandIn(sets[turn % 2], release=release) as gdc:
            point_to(root, gdc)
            with started("--mirror", root, "update") as update:
                time.sleep(chance.uniform(0.3, 1.5))
                dest = tmp_path / f"e{turn}{FORMS[turn % len(FORMS)]}"
                succeeded("--mirror", root, "export", dest)
                assert ended(update).code == 0
        target = tmp_path / f"i{turn}"
        imported(target, dest)
        assert is_clean(target)
        for path in (dest, target):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert is_clean(root)


# Killed ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", FORMS)
def test_killed_at_any_moment_the_next_one_ends_right(
    whole: Path, tmp_path: Path, ending: str
) -> None:
    dest = tmp_path / f"e{ending}"
    start = time.monotonic()
    exported(whole, tmp_path / f"undisturbed{ending}")
    seconds = time.monotonic() - start
    chance = random.Random(SEED)
    for _ in range(25 if SOAK else 3):
        killed("--mirror", whole, "export", dest, after=chance.uniform(0.3, 1) * seconds)
        if dest.exists():
            break
    if not dest.exists():
        exported(whole, dest)
        # A kill after the rename would leave a folder to the next export.
        assert not list(tmp_path.glob("*.part*"))
    check_sums(unpacked(dest, tmp_path / "out"))
    imported(tmp_path / "i", dest)
    assert known(tmp_path / "i") == known(whole)


def test_a_directory_is_resumed_without_its_damaged_images(root: Path, tmp_path: Path) -> None:
    work = shutil.copytree(exported(root, tmp_path / "done"), tmp_path / "e.part")
    (work / EXPORT_LOCK).touch()
    kept, half, gone, *_ = (work / path for path in images(work))
    inode = kept.stat().st_ino
    half.write_bytes(b"half")
    (work / "images" / "left.png").write_text("of another export")
    path = str(gone.relative_to(work))
    for folder in (root, work):
        (folder / path).write_bytes(b"damaged")
    result = inside("--mirror", root, "export", tmp_path / "e", "--json")
    assert (result.code, result.json()["lacking"]) == (7, [path])
    export = tmp_path / "e"
    assert (export / kept.relative_to(work)).stat().st_ino == inode
    assert images(export) == {name: sha for name, sha in images(root).items() if name != path}
    check_sums(export)
