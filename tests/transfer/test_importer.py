"""`import`: newer images are added, the others stay, and a killed import resumes."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Journal
from tcgamirror.model.text import timestamp
from tcgamirror.system.lock import Lock
from tcgamirror.transfer.archive.reader import Export
from tests.gdc import Fault, Listed, StandIn
from tests.support.carrying import (
    FORMS,
    entry,
    exported,
    imported,
    inside,
    is_clean,
    known,
    moved_projects,
    other_pixels,
    packed,
)
from tests.support.command import FROM_WITHIN, killed, opened, run, started, succeeded
from tests.support.mirrors import (
    addresses,
    column,
    contents,
    finished_images,
    images,
    made,
    point_to,
    rows,
    says,
    until,
    updated,
)
from tests.support.publishing import change

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
SEED = int(os.environ.get("TCGAMIRROR_SEED", "6"))
RELEASE = "Data Release 46.0 - March 04, 2026"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    """An export of the mirror `whole`, never to be changed."""
    return exported(whole, tmp_path_factory.mktemp("export") / "export")


@pytest.mark.parametrize("form", [*FORMS, "packed by tar", "the mirror itself"])
def test_a_new_mirror_is_what_the_old_one_was(
    whole: Path, export: Path, tmp_path: Path, form: str
) -> None:
    if form in FORMS:
        source = exported(whole, tmp_path / f"e{form}")
    else:
        source = packed(export, tmp_path / "a.tar") if form == "packed by tar" else whole
    answer = imported(tmp_path / "i", source)
    assert (answer["new"], answer["images"], answer["slides"]) == (True, 12, 12)
    assert known(tmp_path / "i") == known(whole)
    assert images(tmp_path / "i") == images(whole)
    assert is_clean(tmp_path / "i")
    assert "nothing to fetch: 12 of 12" in updated(tmp_path / "i").out


def test_one_directory_in_another_is_imported_only_if_alone(export: Path, tmp_path: Path) -> None:
    above = tmp_path / "above"
    shutil.copytree(export, above / "inner")
    (above / ".DS_Store").touch()
    imported(tmp_path / "m", above)
    assert images(tmp_path / "m") == images(export)
    (above / "README.md").touch()
    result = inside("--mirror", tmp_path / "n", "import", above)
    says(result, 2, "beside inner/: name that directory itself")
    assert not (tmp_path / "n").exists()


def test_imported_again_nothing_changes(export: Path, tmp_path: Path) -> None:
    root = tmp_path / "i"
    first = inside("--mirror", root, "import", export).out
    assert "made a mirror in" in first and "12 slides added, 12 images taken in" in first
    before = contents(root)
    answer = imported(root, export)
    assert (answer["new"], answer["images"], answer["same"]) == (False, 0, 12)
    assert "12 here already" in inside("--mirror", root, "import", export).out
    with Lock(root / ".lock", "update"):
        assert inside("--mirror", root, "import", export).code == 5
    assert contents(root) == before


def test_a_mirror_in_use_is_imported_as_of_one_moment(whole: Path, tmp_path: Path) -> None:
    source = shutil.copytree(whole, tmp_path / "m")
    with Catalogue.open(source / "catalogue.db", journal=Journal.WAL) as catalogue:
        catalogue.set_fact("note", "in the journal alone")
        assert (source / "catalogue.db-wal").stat().st_size
        imported(tmp_path / "i", source)
    assert known(tmp_path / "i") == known(whole)
    (source / "catalogue.db-journal").symlink_to(tmp_path)
    says(inside("--mirror", tmp_path / "j", "import", source), 2, "catalogue.db")
    assert not (tmp_path / "j").exists()


# Merged into a mirror that is there ---------------------------------------------------


def test_samples_are_put_together(
    export: Path, tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    with StandIn(small_slides) as gdc:
        root = made(tmp_path / "m", gdc, "--seed", "9", slides=5)
        updated(root)
        mine = images(root)
        imported(root, export)
        assert is_clean(root)
        assert {**images(export), **mine}.keys() == images(root).keys()
        ranks = column(root, "select sample_rank from mirror")
        assert len(set(ranks)) == len(ranks) == len(images(root))
        assert all(images(root)[path] == sha256 for path, sha256 in mine.items())
        assert column(root, "select distinct upstream from mirror") == ["current"]
        assert "nothing to fetch" in updated(root).out


def test_another_target_is_refused_with_the_difference_named(
    export: Path, tmp_path: Path, small_gdc: StandIn
) -> None:
    root = made(tmp_path / "m", small_gdc, "--mpp", "8")
    before = contents(root)
    says(inside("--mirror", root, "import", export), 2, "images of 4 µm/px", "images of 8 µm/px")
    assert contents(root) == before


def renewed(root: Path, slides: tuple[Listed, ...]) -> None:
    """Have a mirror fetch its first image again, of another file that the slide has become."""
    name = column(root, "select file_name from mirror where sample_rank = 1")[0]
    files = [
        other_pixels(file, root.with_name("a.svs")) if file.file_name == name else file
        for file in slides
    ]
    with StandIn(files, release=RELEASE) as gdc:
        point_to(root, gdc)
        updated(root)


def test_the_newer_image_wins_whichever_is_imported(
    whole: Path, export: Path, tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    root, new = tmp_path / "i", shutil.copytree(whole, tmp_path / "new")
    renewed(new, small_slides)
    newer = exported(new, tmp_path / "newer")
    imported(root, export)
    assert imported(root, newer)["images"] == 1
    assert known(root) == known(new)
    assert images(root) == images(new) and is_clean(root)
    # The older one replaces nothing.
    answer = imported(root, export)
    assert (answer["images"], answer["older"], answer["same"]) == (0, 1, 11)
    assert images(root) == images(new)


def test_a_damaged_image_does_not_keep_the_others_out(
    whole: Path, export: Path, tmp_path: Path
) -> None:
    root, copy = tmp_path / "i", shutil.copytree(export, tmp_path / "e")
    spoiled, gone = (copy / path for path in list(images(copy))[:2])
    data = bytearray(spoiled.read_bytes())
    data[-40] ^= 1
    spoiled.write_bytes(data)
    gone.unlink()
    result = inside("--mirror", root, "import", copy, "--json")
    assert result.code == 3
    answer = result.json()
    assert (answer["images"], answer["lacking"], len(answer["refused"])) == (10, 1, 1)
    assert "digest" in answer["refused"][0]["what"]
    assert is_clean(root)
    assert imported(root, export)["images"] == 2
    assert known(root) == known(whole)


def test_an_image_made_by_a_clock_that_is_ahead_is_older_than_the_next_one(
    whole: Path, tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    root = tmp_path / "i"
    ahead = shutil.copytree(whole, tmp_path / "ahead")
    change(ahead, "UPDATE images SET fetched_at = '9999-12-31T23:59:59Z'")
    imported(root, ahead)
    assert max(map(str, column(root, "select fetched_at from mirror"))) <= timestamp(time.time())
    assert all((root / path).stat().st_mtime < time.time() + 1 for path in images(root))
    newer = shutil.copytree(whole, tmp_path / "newer")
    renewed(newer, small_slides)
    # So much may the clocks of two machines differ.
    soon = timestamp(time.time() + 3600)
    change(newer, "UPDATE images SET fetched_at = ? WHERE sha256 <> ''", soon)
    answer = imported(root, newer)
    assert (answer["images"], answer["same"]) == (1, 11)
    assert column(root, "select max(fetched_at) from mirror") == [soon]


# A slide that was moved to another project ---------------------------------------------


@pytest.fixture(scope="module")
def moved(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> tuple[Path, Path]:
    return moved_projects(tmp_path_factory.mktemp("moved"), small_slides)


@pytest.mark.parametrize("ending", [*FORMS, "the mirror itself"])
@pytest.mark.parametrize("into", ["a new mirror", "one of before"])
def test_an_image_is_found_wherever_it_was_written(
    moved: tuple[Path, Path], tmp_path: Path, ending: str, into: str
) -> None:
    before, now = moved
    source = now if ending not in FORMS else exported(now, tmp_path / f"e{ending}")
    root = tmp_path / "i"
    if into == "one of before":
        shutil.copytree(before, root)
    answer = imported(root, source)
    assert answer["images"] == (6 if into == "a new mirror" else 1)
    assert set(images(root)) == set(column(root, "select path from mirror"))
    same = "select file_name, project_id, status, sha256 from mirror order by sample_rank"
    assert rows(root, same) == rows(now, same)
    assert is_clean(root)
    # The older one replaces nothing.
    assert imported(root, before)["images"] == 0
    assert is_clean(root)


def test_rebuild_finds_all_images_of_an_export(moved: tuple[Path, Path], tmp_path: Path) -> None:
    export = exported(moved[1], tmp_path / "e")
    assert images(export) == images(moved[1])
    (export / "catalogue.db").unlink()
    result = inside("--mirror", export, "rebuild", "--offline", "--json")
    assert (result.code, result.json()["images"], result.json()["refused"]) == (0, 6, [])


# Sources and runs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.tar", "does not exist"),
        ("text", "Name an export"),
        ("a.zip", "Unpack it"),
        ("a.tar.zst", "pipe it as a plain tar to tcgamirror import -"),
        ("a.tar.part001", "pipe it as a plain tar"),
        ("empty", "it has no tcgamirror.toml"),
    ],
)
def test_other_sources_are_refused(tmp_path: Path, name: str, words: str) -> None:
    if name == "empty":
        (tmp_path / name).mkdir()
    elif name != "none.tar":
        (tmp_path / name).write_text("a")
    says(inside("--mirror", tmp_path / "i", "import", tmp_path / name), 2, words)
    assert not (tmp_path / "i").exists()


def test_a_lock_file_that_names_the_sample_is_imported(
    whole: Path, tmp_path: Path, small_gdc: StandIn
) -> None:
    lock, root = tmp_path / "a.lock", tmp_path / "m"
    succeeded("--mirror", whole, "lock", lock)
    succeeded("--mirror", root, "init", "--lock", lock, *addresses(small_gdc))
    imported(tmp_path / "i", exported(root, tmp_path / "e.tar"))
    locks = [(each / "sample.lock").read_bytes() for each in (root, tmp_path / "i")]
    assert locks[0] == locks[1]


# Killed, and read meanwhile -----------------------------------------------------------


def test_killed_at_any_moment_it_is_clean_and_the_next_one_ends_right(
    whole: Path, tmp_path: Path
) -> None:
    source = exported(whole, tmp_path / "e.tar")
    start = time.monotonic()
    assert run("--mirror", tmp_path / "undisturbed", "import", source).code == 0
    undisturbed = time.monotonic() - start
    chance = random.Random(SEED)
    root = tmp_path / "i"
    for _ in range(50 if SOAK else 4):
        if chance.random() < 0.3:
            shutil.rmtree(root, ignore_errors=True)
        seconds = chance.uniform(0.5, 1) * undisturbed
        killed("--mirror", root, "import", source, after=seconds)
        if (root / "tcgamirror.toml").exists():
            result = run("--mirror", root, "verify")
            assert result.code == 0, result
    imported(root, source)
    assert known(root) == known(whole) and is_clean(root)


@pytest.mark.parametrize("into", ["a new mirror", "one that is there"])
def test_the_next_import_removes_what_a_killed_one_left(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: str
) -> None:
    # So many files that it can be killed while it reads them.
    others = ((entry(f"x/gallery/{number}"), b"a") for number in range(10_000))
    source = packed(export, tmp_path / "e.tar", *others)
    temporary, root = tmp_path / "tmp", tmp_path / "i"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    if into == "one that is there":
        assert inside("--mirror", root, "init", "--mpp", "4").code == 0
    scratch = root / "work" / "import"
    with started("--mirror", root, "import", source) as process:
        until(lambda: list(scratch.glob("*")))
        process.kill()
    assert list(scratch.iterdir())
    imported(root, source)
    assert not scratch.exists() and not list(temporary.iterdir())
    assert is_clean(root)


@FROM_WITHIN
def test_the_copy_of_a_piped_archive_is_closed_before_it_is_removed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS keeps an open file under another name, and with it the directory."""
    folder, found = tmp_path / "i" / "work" / "import", list[list[str]]()

    def remove(path: Path, **_: object) -> None:
        found.append([name for name in opened(os.getpid()) if name.startswith(str(path))])

    with exported(whole, tmp_path / "e.tar").open() as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        monkeypatch.setattr("shutil.rmtree", remove)
        assert inside("--mirror", tmp_path / "i", "import", "-").code == 0
    assert (folder / "copy.tar").exists() and found == [[], []]


def test_verify_raises_no_false_alarm_during_an_import(
    export: Path, tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    """Every image is replaced by a newer one while `verify` reads again and again."""
    files = [other_pixels(file, tmp_path / f"{n}.svs") for n, file in enumerate(small_slides)]
    with StandIn(files, release=RELEASE) as gdc:
        newer = made(tmp_path / "newer", gdc, slides=12)
        updated(newer)
    source = exported(newer, tmp_path / "e.tar")
    root = tmp_path / "i"
    imported(root, export)
    # The newer file is another one upstream, which alone would make rows pending first.
    md5s = "select file_name, md5, size from slides"
    here = {name: (md5, size) for name, md5, size in rows(root, md5s)}
    assert any(here[str(name)] != (md5, size) for name, md5, size in rows(newer, md5s))
    with started("--mirror", root, "import", source) as process:
        while process.poll() is None:
            result = run("--mirror", root, "verify")
            assert result.code == 0, result
    assert is_clean(root)


@FROM_WITHIN
@pytest.mark.parametrize(
    ("command", "forced"),
    [("import", "intake.sync_paths"), ("sync", "sync.target.sync_paths")],
)
def test_a_power_cut_leaves_no_place_without_its_image_and_no_row_without_its_place(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    forced: str,
) -> None:
    root, count = tmp_path / "i", len(images(whole))
    seen = []

    def look(_: object) -> None:
        done = rows(root, "select count(*) from images where status = 'done'")
        seen.append((len(finished_images(root)), *done[0]))

    for name in forced.split():
        monkeypatch.setattr(f"tcgamirror.transfer.{name}", look)
    ways = {"import": ("--mirror", root, "import", whole), "sync": ("sync", whole, root)}
    assert inside(*ways[command]).code == 0
    assert (seen[0], set(seen[1:])) == ((0, 0), {(count, 0)})
    assert is_clean(root)


@FROM_WITHIN
def test_a_disk_that_the_first_image_fills_is_reported(
    export: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Export, "fetch", fetch)
    says(inside("--mirror", place / "i", "import", export), 6, "no room to write")


# Failures -----------------------------------------------------------------------------

TRIES = (
    "select file_name, status, attempts, failures, retry_at, error, bytes_fetched from images "
    "order by file_name"
)
ATTEMPTS = "select file_name, source, started, fault from attempts order by 1, 3, 2"


def test_parts_fetched_elsewhere_come_back_with_their_failures(
    tmp_path: Path, small_gdc: StandIn
) -> None:
    root = made(tmp_path / "m", small_gdc, slides=12)
    succeeded("--mirror", root, "refresh")
    succeeded("--mirror", root, "sample")
    parts = []
    for number in (1, 2):
        condition = f"shard(file_name, 2) = {number} and status <> 'done'"
        part = tmp_path / f"part-{number}"
        imported(part, exported(root, tmp_path / f"{number}.tar", "--only", condition))
        parts.append(part)
        small_gdc.faults.clear()
        if number == 2:
            small_gdc.faults.add(Fault(r"/data/|\.svs", "404"))
        assert run("--mirror", part, "fetch").code == (0, 3)[number - 1]
    small_gdc.faults.clear()
    for _ in range(2):
        answers = [imported(root, exported(part, part.with_suffix(".tar"))) for part in parts]
        for part in parts:
            part.with_suffix(".tar").unlink()
        assert rows(root, TRIES) == sorted(rows(parts[0], TRIES) + rows(parts[1], TRIES))
        assert rows(root, ATTEMPTS) == sorted(rows(parts[0], ATTEMPTS) + rows(parts[1], ATTEMPTS))
    failed = column(parts[1], "select count(*) from images where status = 'failed'")
    assert failed == column(parts[1], "select count(*) from images") != [0]
    assert [answer["failed"] for answer in answers] == [0, 0]
    assert "nothing to fetch" in updated(root).out
    assert succeeded("--mirror", root, "fetch", "--retry-failed").code == 0
    # What failed there is done here: an older failure changes nothing any more.
    before = rows(root, TRIES)
    imported(root, exported(parts[1], tmp_path / "again.tar"))
    assert rows(root, TRIES) == before
    assert {row[1:3] for row in before} == {("done", 1), ("done", 2)}


def test_of_two_failures_the_newer_one_counts(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "a", small_gdc, slides=3)
    small_gdc.faults.add(Fault(r"/data/|\.svs", "404"))
    assert run("--mirror", root, "update").code == 3
    first = exported(root, tmp_path / "first.tar")
    there = tmp_path / "b"
    imported(there, first)
    assert rows(there, TRIES) == rows(root, TRIES) and rows(there, ATTEMPTS) == rows(root, ATTEMPTS)
    # Tried again there, once, and here, earlier, twice.
    for _ in range(2):
        assert run("--mirror", root, "fetch", "--retry-failed").code == 3
    change(root, "update attempts set started = '2001' || substr(started, 5) where run > 1")
    # Attempts are told apart by the second.
    time.sleep(1)
    assert run("--mirror", there, "fetch", "--retry-failed").code == 3
    change(there, "update images set error = 'newer', retry_at = '2999-01-01T00:00:00Z'")
    newer = exported(there, tmp_path / "newer.tar")
    answer = imported(root, newer)
    assert answer["failed"] == 3
    found = column(root, "select distinct error || retry_at from images")
    assert found == ["newer2999-01-01T00:00:00Z"]
    assert set(column(root, "select attempts from images")) == {4}
    state = rows(root, TRIES), rows(root, ATTEMPTS)
    # The same again, and an older one, count nothing twice and change nothing.
    for source in (newer, first):
        assert imported(root, source)["failed"] == 0
        assert (rows(root, TRIES), rows(root, ATTEMPTS)) == state
