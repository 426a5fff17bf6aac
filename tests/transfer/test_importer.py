"""`import`: what is newer comes in, what is here stays, and a killed one is gone on with."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.database import Journal
from tcgamirror.model.text import timestamp
from tcgamirror.system.lock import Lock
from tests.gdc import Listed, StandIn
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
from tests.support.command import run, started
from tests.support.mirrors import column, contents, images, made, rewrite, rows, until, updated
from tests.support.publishing import change

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
SEED = int(os.environ.get("TCGAMIRROR_SEED", "6"))


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> Iterator[tuple[Path, Path]]:
    """A mirror of 12 slides and an export of it, never to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    with StandIn(small_slides) as gdc:
        root = made(folder / "m", gdc, slides=12)
        updated(root)
        yield root, exported(root, folder / "export")


@pytest.fixture
def export(whole: tuple[Path, Path]) -> Path:
    return whole[1]


@pytest.mark.parametrize("ending", FORMS)
def test_a_new_mirror_is_what_the_old_one_was(
    whole: tuple[Path, Path], tmp_path: Path, ending: str
) -> None:
    answer = imported(tmp_path / "i", exported(whole[0], tmp_path / f"e{ending}"))
    assert (answer["new"], answer["images"], answer["slides"]) == (True, 12, 12)
    assert known(tmp_path / "i") == known(whole[0])
    assert images(tmp_path / "i") == images(whole[0])
    assert is_clean(tmp_path / "i")
    assert "nothing to fetch: 12 of 12" in updated(tmp_path / "i").out


def test_what_others_packed_and_the_plain_mirror_itself_can_be_imported(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "copy")
    for number, source in enumerate((packed(whole[1], tmp_path / "a.tar"), tmp_path / "copy")):
        imported(tmp_path / str(number), source)
        assert known(tmp_path / str(number)) == known(whole[0])


def test_one_directory_in_another_is_taken_only_where_it_is_alone(
    export: Path, tmp_path: Path
) -> None:
    above = tmp_path / "above"
    shutil.copytree(export, above / "inner")
    (above / ".DS_Store").touch()
    imported(tmp_path / "m", above)
    assert images(tmp_path / "m") == images(export)
    (above / "README.md").touch()
    refused = run("--mirror", tmp_path / "n", "import", above)
    assert refused.code == 2 and "beside inner/: name that directory itself" in refused.sentence
    assert not (tmp_path / "n").exists()


def test_imported_again_nothing_changes(export: Path, tmp_path: Path) -> None:
    root = tmp_path / "i"
    imported(root, export)
    before = contents(root)
    answer = imported(root, export)
    assert (answer["new"], answer["images"], answer["same"]) == (False, 0, 12)
    assert contents(root) == before


def test_people_read_what_was_done(export: Path, tmp_path: Path) -> None:
    first = inside("--mirror", tmp_path / "i", "import", export).out
    assert "made a mirror in" in first and "12 slides added, 12 images taken in" in first
    assert "12 here already" in inside("--mirror", tmp_path / "i", "import", export).out


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
    export: Path, tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    with StandIn(small_slides) as gdc:
        root = made(tmp_path / "m", gdc, "--mpp", "8")
    before = contents(root)
    result = inside("--mirror", root, "import", export)
    assert result.code == 2
    assert "images of 4 µm/px" in result.err and "made for 8 µm/px" in result.err
    assert contents(root) == before


def renewed(root: Path, slides: tuple[Listed, ...]) -> None:
    """Has a mirror fetch its first image again, of another file that the slide has become."""
    name = column(root, "select file_name from mirror where sample_rank = 1")[0]
    files = [
        other_pixels(file, root.with_name("a.svs")) if file.file_name == name else file
        for file in slides
    ]
    with StandIn(files, release="Data Release 46.0 - March 04, 2026") as gdc:
        for key, value in (("api", gdc.api), ("tiles", gdc.tiles), ("bucket", gdc.bucket)):
            rewrite(root, f"^{key} = .*", f'{key} = "{value}"')
        updated(root)


def test_the_newer_image_wins_whichever_is_imported(
    whole: tuple[Path, Path], tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    time.sleep(1.1)
    renewed(shutil.copytree(whole[0], tmp_path / "new"), small_slides)
    newer = exported(tmp_path / "new", tmp_path / "newer")
    imported(tmp_path / "i", whole[1])
    assert imported(tmp_path / "i", newer)["images"] == 1
    assert known(tmp_path / "i") == known(tmp_path / "new")
    assert images(tmp_path / "i") == images(tmp_path / "new") and is_clean(tmp_path / "i")
    # And the other way round: the older one takes nothing back.
    answer = imported(tmp_path / "i", whole[1])
    assert (answer["images"], answer["older"], answer["same"]) == (0, 1, 11)
    assert images(tmp_path / "i") == images(tmp_path / "new")


def test_a_damaged_image_does_not_keep_the_others_out(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(whole[1], tmp_path / "e")
    spoiled, gone = (copy / path for path in list(images(copy))[:2])
    data = bytearray(spoiled.read_bytes())
    data[-40] ^= 1
    spoiled.write_bytes(data)
    gone.unlink()
    result = inside("--mirror", tmp_path / "i", "import", copy, "--json")
    assert result.code == 3
    answer = result.json()
    assert (answer["images"], answer["lacking"], len(answer["refused"])) == (10, 1, 1)
    assert "digest" in answer["refused"][0]["what"]
    assert is_clean(tmp_path / "i")
    # From a whole export, or from the GDC, the rest comes.
    assert imported(tmp_path / "i", whole[1])["images"] == 2
    assert known(tmp_path / "i") == known(whole[0])


def test_an_image_made_by_a_clock_that_is_ahead_is_older_than_the_next_one(
    whole: tuple[Path, Path], tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    root = tmp_path / "i"
    ahead = shutil.copytree(whole[0], tmp_path / "ahead")
    change(ahead, "UPDATE images SET fetched_at = '9999-12-31T23:59:59Z'")
    imported(root, ahead)
    assert max(map(str, column(root, "select fetched_at from mirror"))) <= timestamp(time.time())
    assert all((root / path).stat().st_mtime < time.time() + 1 for path in images(root))
    time.sleep(1.1)
    newer = shutil.copytree(whole[0], tmp_path / "newer")
    renewed(newer, small_slides)
    # So much may the clocks of two machines differ.
    soon = timestamp(time.time() + 3600)
    change(newer, "UPDATE images SET fetched_at = ? WHERE sha256 <> ''", soon)
    answer = imported(root, newer)
    assert (answer["images"], answer["same"]) == (1, 11)
    assert column(root, "select max(fetched_at) from mirror") == [soon]


def test_a_mirror_in_use_is_imported_as_of_one_moment(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    source = shutil.copytree(whole[0], tmp_path / "m")
    with Catalogue.open(source / "catalogue.db", journal=Journal.WAL) as catalogue:
        catalogue.set_fact("note", "in the journal alone")
        assert (source / "catalogue.db-wal").stat().st_size
        imported(tmp_path / "i", source)
    assert known(tmp_path / "i") == known(whole[0])
    (source / "catalogue.db-journal").symlink_to(tmp_path)
    result = inside("--mirror", tmp_path / "j", "import", source)
    assert result.code == 2 and "catalogue.db" in result.sentence
    assert not (tmp_path / "j").exists()


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
    # And the other way round: what is older takes nothing back.
    assert imported(root, before)["images"] == 0
    assert is_clean(root)


def test_a_catalogue_can_be_made_anew_of_an_export(
    moved: tuple[Path, Path], tmp_path: Path
) -> None:
    export = exported(moved[1], tmp_path / "e")
    assert images(export) == images(moved[1])
    (export / "catalogue.db").unlink()
    result = inside("--mirror", export, "rebuild", "--offline", "--json")
    assert (result.code, result.json()["images"], result.json()["refused"]) == (0, 6, [])


# Who may -----------------------------------------------------------------------------


def test_another_run_keeps_it_out(export: Path, tmp_path: Path) -> None:
    imported(tmp_path / "i", export)
    with Lock(tmp_path / "i" / ".lock", "update"):
        assert inside("--mirror", tmp_path / "i", "import", export).code == 5


def test_what_is_no_export_is_told(tmp_path: Path) -> None:
    for name in ("text", "a.zip", "a.tar.zst", "a.tar.part001"):
        (tmp_path / name).write_text("a")
    (tmp_path / "empty").mkdir()
    for source, words in (
        (tmp_path / "none.tar", "does not exist"),
        (tmp_path / "text", "Name an export"),
        (tmp_path / "a.zip", "Unpack it"),
        (tmp_path / "a.tar.zst", "pipe it as a plain tar to tcgamirror import -"),
        (tmp_path / "a.tar.part001", "pipe it as a plain tar"),
        (tmp_path / "empty", "it has no tcgamirror.toml"),
    ):
        result = inside("--mirror", tmp_path / "i", "import", source)
        assert result.code == 2 and words in result.err
    assert not (tmp_path / "i").exists()


def test_a_lock_file_that_names_the_sample_comes_along(
    whole: tuple[Path, Path], tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    assert inside("--mirror", whole[0], "lock", tmp_path / "a.lock").code == 0
    with StandIn(small_slides) as gdc:
        options = ("--lock", tmp_path / "a.lock", "--api", gdc.api, "--bucket", gdc.bucket)
        assert inside("--mirror", tmp_path / "m", "init", *options).code == 0
        imported(tmp_path / "i", exported(tmp_path / "m", tmp_path / "e.tar"))
    locks = [(tmp_path / root / "sample.lock").read_bytes() for root in ("m", "i")]
    assert locks[0] == locks[1]


# Killed, and looked at meanwhile ------------------------------------------------------


def test_killed_at_any_moment_it_is_clean_and_the_next_one_ends_right(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    source = exported(whole[0], tmp_path / "e.tar")
    start = time.monotonic()
    assert run("--mirror", tmp_path / "undisturbed", "import", source).code == 0
    seconds = time.monotonic() - start
    chance = random.Random(SEED)
    root = tmp_path / "i"
    for _ in range(50 if SOAK else 4):
        if chance.random() < 0.3:
            shutil.rmtree(root, ignore_errors=True)
        with started("--mirror", root, "import", source) as process:
            time.sleep(chance.uniform(0.5, 1) * seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
        if (root / "tcgamirror.toml").exists():
            result = run("--mirror", root, "verify")
            assert result.code == 0, result
    imported(root, source)
    assert known(root) == known(whole[0]) and is_clean(root)


@pytest.mark.parametrize("into", ["a new mirror", "one that is there"])
def test_what_a_killed_one_looked_at_is_removed_by_the_next(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: str
) -> None:
    # So many that there is time to kill it while it looks at them.
    others = ((entry(f"x/gallery/{number}"), b"a") for number in range(10_000))
    source = packed(whole[1], tmp_path / "e.tar", *others)
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


def test_verify_beside_it_raises_no_false_alarm(
    whole: tuple[Path, Path], tmp_path: Path, small_slides: tuple[Listed, ...]
) -> None:
    """Every image is replaced by a newer one while `verify` reads again and again."""
    with StandIn(small_slides) as gdc:
        newer = made(tmp_path / "newer", gdc, slides=12)
        files = [other_pixels(file, tmp_path / f"{n}.svs") for n, file in enumerate(small_slides)]
    time.sleep(1.1)
    with StandIn(files, release="Data Release 46.0 - March 04, 2026") as gdc:
        for key, value in (("api", gdc.api), ("tiles", gdc.tiles), ("bucket", gdc.bucket)):
            rewrite(newer, f"^{key} = .*", f'{key} = "{value}"')
        updated(newer)
    source = exported(newer, tmp_path / "e.tar")
    root = tmp_path / "i"
    imported(root, whole[1])
    # The newer file is another one upstream, which alone would make rows pending first.
    md5s = "select file_name, md5, size from slides"
    here = {name: (md5, size) for name, md5, size in rows(root, md5s)}
    assert any(here[str(name)] != (md5, size) for name, md5, size in rows(newer, md5s))
    with started("--mirror", root, "import", source) as process:
        while process.poll() is None:
            result = run("--mirror", root, "verify")
            assert result.code == 0, result
    assert is_clean(root)
