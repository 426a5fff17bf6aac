"""The lock file: cited beside a paper, checked, and a mirror made from it elsewhere."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import subprocess
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Journal
from tcgamirror.mirror import lockfile, provenance
from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.mirror.lockfile import MOST_SLIDES, LockedSlide, LockFile
from tcgamirror.mirror.settings import LOCKED, Settings, read_settings
from tcgamirror.model.errors import BadLockFile, BadSettings
from tcgamirror.model.sampling import By, Order, Plan
from tcgamirror.model.slide import ImageFormat, Resample, Target
from tests.gdc import Listed, StandIn
from tests.gdc.listing import made_up_id, made_up_name, manifest
from tests.support.catalogues import NOW, listing, slide
from tests.support.command import inside, went_well
from tests.support.mirrors import (
    MPP,
    addresses,
    column,
    contents,
    filled,
    images,
    impatient,
    made,
    rewrite,
    says,
    updated,
    write_lock,
)
from tests.support.publishing import made_up

LATER = "Data Release 46.0 - March 04, 2026"
SETTINGS = Settings(
    Target(7.25, None, Resample.NATIVE),
    slides=None,
    plan=Plan(-3, Order.SHUFFLE, By.SITE, projects=frozenset({"TCGA-OV", "TCGA-GBM"})),
    form=ImageFormat.JPEG,
    lock=LOCKED,
)


def locked(name: str, sha256: str | None = "ab" * 32, mpp: float | None = 15.1) -> LockedSlide:
    md5 = hashlib.md5(name.encode()).hexdigest()
    return LockedSlide(made_up_name(name), made_up_id(name), md5, sha256, mpp, mpp, sha256)


MANY = list(map(str, range(20_000)))
LOCK = LockFile(
    "tcgamirror 0.1.0",
    "Data Release 45.0 - December 04, 2025",
    SETTINGS,
    (locked("a", mpp=0.1 + 0.2), locked("b", None, None), locked("c", mpp=None)),
)


def written(lock: LockFile) -> bytes:
    return b"".join(lockfile.lock_lines(lock))


def parsed(data: bytes) -> LockFile:
    return lockfile.parse_lock(io.BytesIO(data))


def signed(text: str) -> bytes:
    """The text with a digest that is right, as whoever means harm would write it."""
    head, _, body = text.partition("\n")[2].partition("\n")
    digest = hashlib.sha256(body.encode()).hexdigest()
    title = text.partition("\n")[0]
    return f"{title}\n{head[:-64]}{digest}\n{body}".encode()


# The file ------------------------------------------------------------------------


def test_reading_gives_what_was_written() -> None:
    assert parsed(written(LOCK)) == LOCK
    assert b"\t0.30000000000000004\t" in written(LOCK)
    assert written(parsed(written(LOCK))) == written(LOCK)
    # Mail and git leave other line ends.
    assert parsed(written(LOCK).replace(b"\n", b"\r\n")) == LOCK
    whole = replace(SETTINGS, target=Target(None, 2048), slides=7, plan=Plan(-3))
    assert parsed(written(replace(LOCK, settings=whole))).settings == whole


def test_standard_tools_verify_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "sample.lock"
    path.write_bytes(written(LOCK))
    shell = f"tail -n +3 {path} | sha256sum | cut -d' ' -f1"
    answer = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == path.read_text().splitlines()[1].split()[-1]


def test_any_changed_byte_and_any_missing_end_is_noticed() -> None:
    data = written(LOCK)
    for place in range(0, len(data), 7):
        for bad in (data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], data[:place]):
            with pytest.raises(BadLockFile):
                parsed(bad)


HOSTILE = {
    made_up_name("a"): ["../../etc/passwd", "a/b.svs", "\x1b[31m.svs", made_up_name("b")],
    made_up_id("a"): ["not-an-id"],
    "ab" * 32: ["../x"],
    "ab" * 32 + "\n": ["../x\n"],
    "0.30000000000000004": ["nan", "1e999", "-1", "0", "-"],
    "seed\t-3": ["seed\t" + "9" * 5000, "seed\t1_0", "seed\t-3\nseed\t4"],
    "slides\tall": ["slides\t0", "slides\t-1"],
    "mpp\t7.25\n": ["mpp\t0\n", "mpp\t7.25\nmax_size\t5\n", ""],
    "format\tjpeg": ["format\texe", "form\tjpeg"],
    "kind\tall": ["kind\tnone"],
    "projects\tTCGA-GBM,": ["projects\t,", "projects\tTCGA-\x1b[31m,"],
    "release\tData": ["release\t\x1b]0;Data"],
    "program\t": ["path\t/etc\nprogram\t"],
    "file_name\tfile_id": ["file_id\tfile_name"],
    "# tcgamirror lock 1": ["# tcgamirror lock 2"],
}


@pytest.mark.parametrize(("old", "new"), [(old, new) for old in HOSTILE for new in HOSTILE[old]])
def test_what_a_lock_file_cannot_say_is_refused(old: str, new: str) -> None:
    text = written(LOCK).decode()
    assert old in text
    with pytest.raises((BadLockFile, BadSettings)) as refusal:
        parsed(signed(text.replace(old, new, 1)))
    assert len(str(refusal.value)) < 400
    assert str(refusal.value).isprintable()


def test_as_many_slides_as_a_mirror_may_have_fit_in_it() -> None:
    longest = replace(locked("a", mpp=1.2345678901234567e-105), file_name="a" * 197 + ".svs")
    lines = written(replace(LOCK, slides=(longest,))).splitlines(keepends=True)
    assert len(lines[-1]) * MOST_SLIDES < lockfile.MOST_BYTES - 1_000_000
    assert lockfile.MOST_BYTES > 38_000_000


def test_what_is_too_long_is_neither_written_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    many = frozenset(f"TCGA-{number:04d}" for number in range(200))
    projects = replace(SETTINGS, plan=Plan(-3, projects=many))
    assert parsed(written(replace(LOCK, settings=projects))).settings == projects
    with pytest.raises(BadLockFile, match="how this sample was drawn"):
        written(replace(LOCK, settings=replace(SETTINGS, plan=Plan(10**41))))
    monkeypatch.setattr(lockfile, "MOST_BYTES", len(written(LOCK)))
    assert parsed(written(LOCK)) == LOCK
    monkeypatch.setattr(lockfile, "MOST_BYTES", len(written(LOCK)) - 1)
    with pytest.raises(BadLockFile, match="3 slides are more than"):
        written(LOCK)
    monkeypatch.undo()
    monkeypatch.setattr(lockfile, "MOST_SLIDES", 1)
    with pytest.raises(BadLockFile, match="more than 1 slides"):
        parsed(written(LOCK))


def test_reading_takes_hardly_more_memory_than_the_slides(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with path.open("wb") as file:
        file.writelines(lockfile.lock_lines(replace(LOCK, slides=tuple(map(locked, MANY)))))
    tracemalloc.start()
    lock = lockfile.read_lock(path)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(lock.slides) == len(MANY)
    assert most - kept < path.stat().st_size


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**12)


@pytest.mark.parametrize("make", [Path.mkdir, Path.exists, Path.touch, os.mkfifo, huge])
def test_another_kind_of_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "given")
    result = inside("--mirror", tmp_path / "m", "init", "--lock", tmp_path / "given")
    assert result.code == 2
    assert "lock file" in result.sentence and ". Name " in result.sentence
    assert not (tmp_path / "m").exists()


# Mirrors -------------------------------------------------------------------------


def relocked(root: Path) -> bytes:
    return went_well("--mirror", root, "lock").out.encode()


def remade(root: Path, gdc: StandIn, lock: Path, *options: str) -> Path:
    went_well("--mirror", root, "init", "--lock", lock, *addresses(gdc), *options)
    return root


def test_a_mirror_is_made_again_elsewhere(small_gdc: StandIn, tmp_path: Path) -> None:
    first = filled(tmp_path / "first", small_gdc, "--seed", "5", "--by", "project_id", slides=6)
    lock = tmp_path / "sample.lock"
    assert went_well("--mirror", first, "lock", lock).out == f"{lock} names 6 slides\n"
    again = remade(tmp_path / "again", small_gdc, lock)
    assert relocked(again) != lock.read_bytes(), "nothing is sampled yet"
    updated(again)
    assert images(again) == images(first)
    assert relocked(again) == lock.read_bytes() == relocked(first)
    told = went_well("--mirror", again, "lock", "--check", lock)
    assert told.out == "6 of 6 slides are as locked\n"


def test_the_sample_is_that_of_the_lock(
    small_slides: tuple[Listed, ...], small_gdc: StandIn, tmp_path: Path
) -> None:
    with StandIn(small_slides[:5]) as before:
        lock = write_lock(tmp_path / "first", before, slides=3)
    again = remade(tmp_path / "again", small_gdc, lock)
    updated(again)
    names = "SELECT file_name FROM mirror ORDER BY sample_rank"
    assert column(again, names) == column(tmp_path / "first", names)
    assert updated(again).out.startswith("nothing to fetch: 3 of 3 slides done")
    rewrite(again, r"^seed = 0", "seed = 99")
    (image,) = column(again, "SELECT path FROM mirror WHERE sample_rank = 2")
    (again / str(image)).unlink()
    (again / CATALOGUE).unlink()
    went_well("--mirror", again, "rebuild")
    assert set(column(again, names)) == set(column(tmp_path / "first", names))


def test_what_cannot_be_had_any_more_is_told_until_it_is_listed_again(
    small_slides: tuple[Listed, ...], small_gdc: StandIn, tmp_path: Path
) -> None:
    lock = write_lock(tmp_path / "first", small_gdc, "--kind", "all", slides=18)
    gone, changed, *same = small_slides
    other = replace(changed, path=same[0].path, md5=same[0].md5, size=same[0].size)
    with StandIn([other, *same], release=LATER) as later:
        again = remade(tmp_path / "again", later, lock)
        told = updated(again).out
        assert f"of {LOCKED} not to be had any more (not listed): {gone.file_name}\n" in told
        assert f"(listed with another md5): {changed.file_name}\n" in told
        assert "nothing to fetch: 17 of 17 slides done" in updated(again).out
        checked = inside("--mirror", again, "lock", "--check", lock)
        assert checked.code == 3
        assert f"missing      {gone.file_name}\n" in checked.out
        assert f"changed      {changed.file_name}\n" in checked.out
        later.publish([gone, other, *same], "Data Release 47.0 - June 10, 2026")
        assert "1 slide added to the sample\n" in updated(again).out


def test_a_manifest_tells_at_once_what_is_missing(
    small_slides: tuple[Listed, ...], small_gdc: StandIn, tmp_path: Path
) -> None:
    lock = write_lock(tmp_path / "first", small_gdc, slides=15)
    path = tmp_path / "manifest.txt"
    path.write_text(manifest(small_slides[1:]))
    words = ("init", tmp_path / "again", "--lock", lock, "--manifest", path)
    told = went_well(*words, *addresses(small_gdc))
    assert f"not to be had any more (not listed): {small_slides[0].file_name}" in told.out


def test_images_of_another_target_are_not_compared(small_gdc: StandIn, tmp_path: Path) -> None:
    lock = write_lock(tmp_path / "first", small_gdc, slides=2)
    options = ("--mpp", "6", "--format", "jpeg", *addresses(small_gdc))
    made = inside("--mirror", tmp_path / "again", "init", "--lock", lock, *options)
    assert made.code == 0 and "each 6 µm/px, exact, jpeg" in made.out
    here, there = "6 µm/px, exact, jpeg", f"{MPP:g} µm/px, exact, png"
    assert made.sentence == f"images are not compared: {lock} has {there}, not {here}"
    impatient(tmp_path / "again")
    assert "2 slides fetched, 0 failed" in updated(tmp_path / "again").out
    told = inside("--mirror", tmp_path / "again", "lock", "--check", lock)
    assert told.code == 0 and "2 of 2 slides are as locked" in told.out
    assert "images are not compared" in told.sentence
    names = "select file_name from mirror order by sample_rank"
    assert column(tmp_path / "again", names) == column(tmp_path / "first", names)


def test_equal_pixels_of_another_format_are_as_locked(small_gdc: StandIn, tmp_path: Path) -> None:
    lock = write_lock(tmp_path / "first", small_gdc, slides=2)
    again = tmp_path / "again"
    options = ("--format", "tiff", *addresses(small_gdc))
    assert inside("--mirror", again, "init", "--lock", lock, *options).code == 0
    updated(again)
    told = inside("--mirror", again, "lock", "--check", lock)
    assert told.code == 0 and told.out == "2 of 2 slides are as locked\n"
    assert told.sentence.startswith("images are compared by their pixels alone")
    locked, tiff = lockfile.read_lock(lock), read_settings(again / "tcgamirror.toml")
    older = tuple(replace(slide, pixels_sha256=None) for slide in locked.slides)
    assert lockfile.compares_pixels(locked, tiff)
    assert not lockfile.compares_pixels(replace(locked, slides=older), tiff)
    with sqlite3.connect(again / CATALOGUE) as catalogue:
        catalogue.execute("UPDATE images SET pixels_sha256 = ? WHERE rowid = 1", ("cd" * 32,))
        catalogue.execute("UPDATE images SET mpp_x = mpp_x + 1 WHERE rowid = 2")
    told = inside("--mirror", again, "lock", "--check", lock)
    assert told.code == 3 and told.out.count("other image") == 2
    assert f"2 slides of {LOCKED} with another image than locked" in updated(again).out


def test_jpeg_images_are_not_said_to_be_compared(small_gdc: StandIn, tmp_path: Path) -> None:
    """They have no digest of pixels, as these depend on the decoder."""
    lock = write_lock(tmp_path / "first", small_gdc, slides=1)
    options = ("--format", "jpeg", *addresses(small_gdc))
    made = inside("--mirror", tmp_path / "again", "init", "--lock", lock, *options)
    assert made.code == 0 and made.sentence.startswith("images are not compared")


def test_a_shortened_lock_file_is_accepted(small_gdc: StandIn, tmp_path: Path) -> None:
    lock = write_lock(tmp_path / "first", small_gdc, slides=3)
    lock.write_text("".join(lock.read_text().splitlines(keepends=True)[:-1]))
    where = addresses(small_gdc)
    made = inside("--mirror", tmp_path / "again", "init", "--lock", lock, *where)
    assert made.code == 0 and "the 2 slides of" in made.out
    assert "not the lock file that was cited" in made.sentence
    impatient(tmp_path / "again")
    assert "2 slides added to the sample" in updated(tmp_path / "again").out
    assert inside("--mirror", tmp_path / "again", "lock", tmp_path / "l").code == 0
    assert "seed\t-\n" in (tmp_path / "l").read_text()


def test_slides_and_images_are_the_locks_affair(small_gdc: StandIn, tmp_path: Path) -> None:
    lock = write_lock(tmp_path / "first", small_gdc, slides=2)
    for options in (("--seed", "0"), ("--slides", "5"), ("--project", "TCGA-OV"), ("--seed", "1")):
        result = inside("--mirror", tmp_path / "again", "init", "--lock", lock, *options)
        assert (result.code, "--lock" in result.sentence) == (2, True)
    again = remade(tmp_path / "again", small_gdc, lock, "--via", "whole", "--workers", "2")
    settings = (again / "tcgamirror.toml").read_text()
    assert f"mpp = {MPP}" in settings and 'via = ["whole"]' in settings
    (again / LOCKED).unlink()
    result = inside("--mirror", again, "update")
    assert (result.code, LOCKED in result.sentence) == (2, True)
    # A mirror that exists keeps its own.
    (tmp_path / "first" / LOCKED).write_text("mine")
    assert inside("--mirror", tmp_path / "first", "init", "--lock", lock).code == 2
    assert (tmp_path / "first" / LOCKED).read_text() == "mine"


def test_another_file_is_never_written_over(small_gdc: StandIn, tmp_path: Path) -> None:
    root = filled(tmp_path / "m", small_gdc, slides=2)
    (root / "notes.txt").write_text("mine")
    filled(tmp_path / "other", small_gdc, slides=3)
    went_well("--mirror", tmp_path / "other", "lock", root / "other.lock")
    before = contents(root)
    for name in ("tcgamirror.toml", "catalogue.db", "notes.txt", "other.lock"):
        refused = inside("--mirror", root, "lock", root / name)
        says(refused, 2, f"{root / name}: ", "Name another file")
    assert contents(root) == before
    for _ in range(2):
        went_well("--mirror", root, "lock", tmp_path / "same.lock")


def test_a_lock_is_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made_up(tmp_path / "m", 3)
    settings = read_settings(root / "tcgamirror.toml")
    with Catalogue.open(root / "catalogue.db", journal=Journal.WAL) as writer:
        for key, value in provenance.addition_facts(writer, settings.plan, 3).items():
            writer.set_fact(key, value)

        def plan_after_an_update(catalogue: Catalogue, now: Plan) -> Plan | None:
            writer.listing.merge(
                listing(slide("a"), release="Data Release 2"), NOW, accept_shrink=True
            )
            writer.sample.add(["a.svs"], NOW)
            return provenance.sample_plan(catalogue, now)

        monkeypatch.setattr(lockfile, "sample_plan", plan_after_an_update)
        with Catalogue.open(root / "catalogue.db", read_only=True) as reader:
            lock = lockfile.make_lock(settings, reader)
    assert (len(lock.slides), lock.release) == (3, "Data Release 1")
    assert lock.plan == settings.plan


def test_a_slide_without_an_image_has_no_digest(small_gdc: StandIn, tmp_path: Path) -> None:
    root = made(tmp_path / "m", small_gdc, slides=3)
    went_well("--mirror", root, "refresh")
    went_well("--mirror", root, "sample")
    told = went_well("--mirror", root, "lock", tmp_path / "l")
    assert told.out.endswith("names 3 slides, 3 of them without an image yet\n")
    with Catalogue.open(root / "catalogue.db", read_only=True) as catalogue:
        lock = lockfile.read_lock(tmp_path / "l")
        assert len(lockfile.compare(lock, lock.settings, catalogue)["waiting"]) == 3
    rewrite(root, "^slides = .*", "slides = 5")
    went_well("--mirror", root, "sample")
    checked = inside("--mirror", root, "lock", "--check", tmp_path / "l")
    assert "0 of 3 slides are as locked; 2 slides of the mirror not in the lock file" in checked.out


def test_exclusions_are_locked(small_gdc: StandIn, tmp_path: Path) -> None:
    first = tmp_path / "first"
    filled(first, small_gdc, slides=4)
    names = [str(name) for name in column(first, "select file_name from mirror")]
    went_well("--mirror", first, "exclude", *names[:2])
    told = went_well("--mirror", first, "lock", tmp_path / "l")
    assert told.out.endswith("names 4 slides\n")
    remade(tmp_path / "a", small_gdc, tmp_path / "l")
    for command, waiting in (("status", "missing"), ("refresh", "waiting")):
        assert "excluded here" not in went_well("--mirror", tmp_path / "a", command).out
        checked = inside("--mirror", tmp_path / "a", "lock", "--check", tmp_path / "l").out
        assert [line.split()[0] for line in checked.splitlines()] == [waiting, waiting, "2"]
    went_well("--mirror", tmp_path / "a", "include", names[0])
    checked = inside("--mirror", tmp_path / "a", "lock", "--check", tmp_path / "l").out
    assert checked.count("exclusion  ") == 1
