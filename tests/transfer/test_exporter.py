"""`export`: every form holds the same, whatever happens beside it, and however it is killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcgamirror.system.files import sync_disk
from tcgamirror.system.lock import Lock
from tcgamirror.transfer.archive.format import EXPORT_LOCK, UNFINISHED
from tests.gdc import Listed, StandIn
from tests.support.carrying import (
    FORMS,
    exported,
    imported,
    inside,
    is_clean,
    known,
    other_pixels,
    unpacked,
)
from tests.support.command import ended, run, started, succeeded
from tests.support.mirrors import column, images, made, rewrite, rows, updated
from tests.support.publishing import change

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
BOUNDED = ("prlimit", "--fsize=2000000", "--as=4000000000")
"""Words before a program that keep it from filling disk or memory."""
OTHER_DISK = Path("/dev/shm")
SEED = int(os.environ.get("TCGAMIRROR_SEED", "5"))


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> Iterator[tuple[Path, StandIn]]:
    """A mirror of 12 slides with a gallery, never to be changed, and its GDC."""
    with StandIn(small_slides) as gdc:
        root = made(tmp_path_factory.mktemp("whole") / "m", gdc, slides=12)
        updated(root)
        succeeded("--mirror", root, "gallery")
        yield root, gdc


@pytest.fixture
def mirror(tmp_path: Path, whole: tuple[Path, StandIn]) -> Path:
    return shutil.copytree(whole[0], tmp_path / "m")


def checked(folder: Path) -> None:
    """Fails if `sha256sum -c` does, or leaves a file unchecked."""
    run_ = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert run_.stdout.count(": OK\n") == len(files) - 1


# What is in it ---------------------------------------------------------------------


@pytest.mark.parametrize("ending", FORMS)
def test_every_form_holds_all_of_the_mirror_by_anyones_tools(
    whole: tuple[Path, StandIn], tmp_path: Path, ending: str
) -> None:
    root = whole[0]
    export = exported(root, tmp_path / f"tcga{ending}")
    assert [path.name for path in tmp_path.iterdir()] == [f"tcga{ending}"]
    folder = unpacked(export, tmp_path / "out")
    checked(folder)
    assert folder.name == "tcga"
    assert images(folder) == images(root)
    assert known(folder) == known(root)
    assert (folder / "gallery" / "index.html").is_file()
    page = (folder / "README.txt").read_text()
    for words in ("sha256sum -c SHA256SUMS", "import THIS", "4 µm/px", "Release 45.0", "12 done"):
        assert words in page
    assert is_clean(folder), "an export is a mirror, too"


def test_times_of_files_are_kept(whole: tuple[Path, StandIn], tmp_path: Path) -> None:
    path = next(iter(images(whole[0])))
    os.utime(whole[0] / path, (1_700_000_000, 1_700_000_000))
    assert (exported(whole[0], tmp_path / "e") / path).stat().st_mtime == 1_700_000_000
    with tarfile.open(exported(whole[0], tmp_path / "e.tar")) as tar:
        assert tar.getmember(f"e/{path}").mtime == 1_700_000_000


def test_an_archive_goes_through_a_pipe(whole: tuple[Path, StandIn], tmp_path: Path) -> None:
    python = f"{sys.executable} main.py"
    here, there = whole[0], tmp_path / "i"
    piped = subprocess.run(
        f"{python} --mirror {here} export - | {python} --mirror {there} import - --json",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "12 slides with 12 images in standard output" in piped.stderr
    assert json.loads(piped.stdout)["images"] == 12
    assert known(there) == known(here) and is_clean(there)
    assert sorted(path.name for path in (there / "work").glob("*")) == []


def test_a_pipe_that_ends_early_is_no_success(whole: tuple[Path, StandIn]) -> None:
    python = f"{sys.executable} main.py"
    script = f"{python} --mirror {whole[0]} export - | head -c 50000 >/dev/null"
    script += "; echo ${PIPESTATUS[0]}"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "2\n"
    assert "standard output: closed before the export was complete" in ended.stderr


def test_only_takes_the_slides_that_meet_a_condition(
    whole: tuple[Path, StandIn], tmp_path: Path
) -> None:
    condition = "project_id = 'TCGA-LUAD' -- a remark"
    export = exported(whole[0], tmp_path / "e", "--only", condition)
    wanted = rows(whole[0], "select * from mirror where project_id = 'TCGA-LUAD' order by 2")
    assert rows(export, "select * from mirror order by 2") == wanted
    assert len(images(export)) == len(wanted) and not (export / "gallery").exists()
    assert (export / "catalogue.db").read_bytes().count(b"TCGA-GBM/") == 0
    strange = "select * from attempts where file_name not in (select file_name from sample)"
    assert not column(export, strange)
    assert is_clean(export)
    imported(tmp_path / "i", export)
    assert rows(tmp_path / "i", "select * from mirror order by 2") == wanted
    # Nor does it grow by what was left out.
    succeeded("--mirror", tmp_path / "i", "sample")
    assert rows(tmp_path / "i", "select * from mirror order by 2") == wanted


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
def test_a_condition_only_reads(
    whole: tuple[Path, StandIn], tmp_path: Path, condition: str, words: str
) -> None:
    for dest in (tmp_path / "e.tar", tmp_path / "e"):
        result = inside("--mirror", whole[0], "export", dest, "--only", condition)
        assert words in result.err
        assert result.code == (2 if words else 0)
    if words:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["../a.png", "/tmp/a.png", "images/../../a.png", "a.png"])
def test_a_path_that_leads_out_of_the_mirror_is_not_followed(
    mirror: Path, tmp_path: Path, path: str
) -> None:
    change(mirror, "update images set path = ? where rowid = 1", path)
    result = inside("--mirror", mirror, "export", tmp_path / "e")
    assert (result.code, repr(path) in result.sentence) == (7, True), result
    assert not (tmp_path / "e").exists() and not list(tmp_path.rglob("a.png"))


def test_an_impossible_export_is_refused_before_anything_is_written(
    whole: tuple[Path, StandIn], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("a person's")
    (tmp_path / "way.part").mkdir()
    (tmp_path / "way.part" / "file").write_text("a person's")
    cases: list[tuple[Path, tuple[str, ...], str]] = [
        (tmp_path / "there", (), "exists already"),
        (tmp_path / "way", (), "is in the way"),
        (tmp_path / "no" / "e", (), "is not a directory"),
        (whole[0] / "e", (), "inside the mirror"),
        (tmp_path / "e.tar", ("--since", str(tmp_path / "june.zip")), "does not exist"),
        (
            tmp_path / "e.tar",
            ("--since", str(tmp_path / "there")),
            "is not an export",
        ),
        (Path("/dev/shm"), (), "Name a directory or an archive in it"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for dest, options, words in cases:
        result = inside("--mirror", whole[0], "export", dest, *options)
        assert result.code == 2 and words in result.sentence, result
    assert sorted(tmp_path.rglob("*")) == before


# Since an earlier one ----------------------------------------------------------------


def test_since_holds_what_is_new_and_a_chain_of_them_makes_the_whole(
    mirror: Path, tmp_path: Path
) -> None:
    rewrite(mirror, "^slides = 12", "slides = 13")
    first = exported(mirror, tmp_path / "first.tar")
    updated(mirror)
    second = exported(mirror, tmp_path / "second", "--since", first)
    assert len(images(second)) == 1
    checked(second)
    rewrite(mirror, "^slides = 13", "slides = 15")
    updated(mirror)
    third = exported(mirror, tmp_path / "third.tar", "--since", second / "SHA256SUMS")
    with tarfile.open(third) as opened:
        assert sum(name.startswith("third/images/") for name in opened.getnames()) == 2
    root = tmp_path / "i"
    answer = imported(root, third)
    assert (answer["images"], answer["lacking"]) == (2, 13)
    assert [imported(root, export)["images"] for export in (first, second, third)] == [12, 1, 0]
    assert is_clean(root) and known(root) == known(mirror)


def test_since_nothing_new_there_is_no_image(mirror: Path, tmp_path: Path) -> None:
    exported(mirror, tmp_path / "a")
    export = exported(mirror, tmp_path / "b", "--since", tmp_path / "a")
    assert not images(export) and "12 images are not in here" in (export / "README.txt").read_text()


# Damage ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", ".tar"])
def test_a_damaged_image_is_left_out_and_named(mirror: Path, tmp_path: Path, ending: str) -> None:
    spoiled, gone = (mirror / path for path in list(images(mirror))[:2])
    spoiled.write_bytes(spoiled.read_bytes()[:-1] + b"x")
    gone.unlink()
    result = inside("--mirror", mirror, "export", tmp_path / f"e{ending}", "--json")
    assert result.code == 7
    lacking = result.json()["lacking"]
    assert sorted(lacking) == sorted(str(path.relative_to(mirror)) for path in (spoiled, gone))
    imported(tmp_path / "i", tmp_path / f"e{ending}")
    assert is_clean(tmp_path / "i")
    assert column(tmp_path / "i", "select count(*) from mirror where status = 'pending'") == [2]
    assert "2 slides fetched" in updated(tmp_path / "i").out
    assert is_clean(tmp_path / "i")


@pytest.mark.parametrize("ending", FORMS)
def test_whatever_lies_in_an_images_place_is_named_and_nobody_waits_for_it(
    mirror: Path, tmp_path: Path, ending: str
) -> None:
    paths = [mirror / path for path in list(images(mirror))[:4]]
    for path in paths:
        path.unlink()
    folder, pipe, nowhere, endless = paths
    folder.mkdir()
    os.mkfifo(pipe)
    nowhere.symlink_to("gone")
    endless.symlink_to("/dev/zero")
    dest = tmp_path / f"e{ending}"
    result = run("--mirror", mirror, "export", dest, "--json", by=BOUNDED, timeout=30)
    assert result.code == 7, result
    lacking = result.json()["lacking"]
    assert sorted(lacking) == sorted(str(path.relative_to(mirror)) for path in paths)


def test_a_damaged_image_does_not_stay_in_an_export_that_is_resumed(
    mirror: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported(mirror, tmp_path / "done"), tmp_path / "e.part")
    (tmp_path / "e.part" / EXPORT_LOCK).touch()
    path = next(iter(images(mirror)))
    for root in (mirror, tmp_path / "e.part"):
        (root / path).write_bytes(b"damaged")
    result = inside("--mirror", mirror, "export", tmp_path / "e", "--json")
    assert (result.code, result.json()["lacking"]) == (7, [path])
    assert path not in images(tmp_path / "e")
    checked(tmp_path / "e")


@pytest.mark.parametrize("ending", FORMS)
def test_a_full_disk_is_reported_and_nothing_stands_under_the_name(
    mirror: Path, tmp_path: Path, ending: str
) -> None:
    path = next(iter(images(mirror)))
    data = (mirror / path).read_bytes() + random.Random(SEED).randbytes(3_000_000)
    (mirror / path).write_bytes(data)
    change(
        mirror,
        "UPDATE images SET bytes = ?, sha256 = ? WHERE path = ?",
        *(len(data), hashlib.sha256(data).hexdigest(), path),
    )
    dest = tmp_path / f"e{ending}"
    result = run("--mirror", mirror, "export", dest, by=BOUNDED)
    assert (result.code, dest.exists()) == (6, False)
    assert f"{dest}.part/{dest.name if ending else path}" in result.sentence
    assert path in images(unpacked(exported(mirror, dest), tmp_path / "out"))


def test_a_persons_own_views_and_indexes_stay_at_home(mirror: Path, tmp_path: Path) -> None:
    with sqlite3.connect(mirror / "catalogue.db") as connection:
        connection.executescript(
            "create view lung as select * from mirror; create index mine on slides (kind);"
            "create table notes (note integer primary key autoincrement, text);"
            "insert into notes (text) values ('secret'); analyze;"
        )
    export = exported(mirror, tmp_path / "e")
    assert b"secret" not in (export / "catalogue.db").read_bytes()
    imported(tmp_path / "i", export)
    assert known(tmp_path / "i") == known(mirror)


# Which disk is waited for ---------------------------------------------------------------


def test_only_another_disk_is_waited_for(
    whole: tuple[Path, StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip(f"{OTHER_DISK} is no other disk here")
    waited: list[Path] = []

    def seen(path: Path) -> None:
        waited.append(path)
        sync_disk(path)

    monkeypatch.setattr("tcgamirror.transfer.destination.sync_disk", seen)
    exported(whole[0], tmp_path / "e")
    assert not waited
    away = OTHER_DISK / f"tcgamirror-{os.getpid()}"
    try:
        exported(whole[0], away)
        assert waited == [away.with_name(f"{away.name}{UNFINISHED}")]
        assert images(away) == images(whole[0])
    finally:
        shutil.rmtree(away, ignore_errors=True)


# While an update runs ----------------------------------------------------------------


def test_made_while_an_update_replaces_images_it_imports_and_verifies_clean(
    tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    times = 50 if SOAK else 5
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
    for turn in range(times):
        release = f"Data Release {46 + turn}.0 - March 04, 2026"
        with StandIn(sets[turn % 2], release=release) as gdc:
            for key, value in (("api", gdc.api), ("tiles", gdc.tiles), ("bucket", gdc.bucket)):
                rewrite(root, f"^{key} = .*", f'{key} = "{value}"')
            with started("--mirror", root, "update") as update:
                time.sleep(chance.uniform(0.3, 1.5))
                dest = tmp_path / f"e{turn}{FORMS[turn % len(FORMS)]}"
                result = run("--mirror", root, "export", dest, "--json")
                assert (result.code, result.err) == (0, ""), result
                assert ended(update).code == 0
        target = tmp_path / f"i{turn}"
        imported(target, dest)
        assert is_clean(target)
        for path in (dest, target):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert is_clean(root)


# Killed ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", ".tar"])
def test_killed_at_any_moment_the_next_one_ends_right(
    whole: tuple[Path, StandIn], tmp_path: Path, ending: str
) -> None:
    dest = tmp_path / f"e{ending}"
    start = time.monotonic()
    exported(whole[0], tmp_path / f"undisturbed{ending}")
    seconds = time.monotonic() - start
    chance = random.Random(SEED)
    for _ in range(25 if SOAK else 3):
        with started("--mirror", whole[0], "export", dest) as process:
            time.sleep(chance.uniform(0.3, 1) * seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
        if dest.exists():
            break
    if not dest.exists():
        exported(whole[0], dest)
    checked(unpacked(dest, tmp_path / "out"))
    imported(tmp_path / "i", dest)
    assert known(tmp_path / "i") == known(whole[0])
    assert not list(tmp_path.glob("*.part*"))


def test_a_directory_is_resumed(whole: tuple[Path, StandIn], tmp_path: Path) -> None:
    done = exported(whole[0], tmp_path / "done")
    work = tmp_path / "e.part"
    shutil.copytree(done, work)
    (work / EXPORT_LOCK).touch()
    kept, spoiled, *_ = sorted((work / "images").rglob("*.png"))
    spoiled.write_bytes(b"half")
    (work / "images" / "left.png").write_text("of another export")
    inode = kept.stat().st_ino
    export = exported(whole[0], tmp_path / "e")
    assert (export / kept.relative_to(work)).stat().st_ino == inode
    assert images(export) == images(whole[0])
    checked(export)


def test_two_runs_do_not_make_the_same_export(whole: tuple[Path, StandIn], tmp_path: Path) -> None:
    with Lock(tmp_path / "e.tar.part" / EXPORT_LOCK, "export"):
        assert inside("--mirror", whole[0], "export", tmp_path / "e.tar").code == 5
