"""Paths that cannot be used as they were named: one sentence, nothing written, nothing lost."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.command import inside, ordinary, run, started, succeeded
from tests.support.mirrors import contents, filled, images, says
from tests.support.raw_server import RawServer, whole

USAGE_ERROR = 2


@pytest.fixture
def mirror(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "m")


# What nobody may look into ----------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "--mirror {m} export {x}.tar",
        "--mirror {m} export {x}",
        "--mirror {m} export {new} --since {x}",
        "--mirror {m} import {x}.tar",
        "--mirror {new} import {x}",
        "sync {x} {new}",
        "sync {m} {x}",
        "sync {m} {x} --dry-run",
        "--mirror {x} status",
        "--mirror {x} init --mpp 15",
    ],
)
def test_a_path_below_a_closed_directory_is_named(mirror: Path, words: str) -> None:
    closed = mirror.parent / "closed"
    closed.mkdir(mode=0)
    new, before = mirror.parent / "new", sorted(mirror.iterdir())
    said = words.format(m=mirror, x=closed / "x", new=new).split()
    refused = run(*said, by=ordinary())
    closed.chmod(0o755)
    says(refused, USAGE_ERROR, str(closed / "x"), "Permission denied")
    assert sorted(mirror.iterdir()) == before and not list(closed.iterdir())
    assert not new.exists()


@pytest.mark.parametrize(
    "words", ["--mirror {m} export {x}", "sync {x} {x}2", "--mirror {x} status"]
)
def test_a_name_longer_than_any_is_named(mirror: Path, words: str) -> None:
    long = mirror.parent / ("x" * 300)
    says(inside(*words.format(m=mirror, x=long).split()), USAGE_ERROR, str(long), "name too long")


@pytest.mark.parametrize(
    "words", ["--mirror {x} init --mpp 15", "sync {m} {x}", "--mirror {x} import {m}"]
)
def test_no_mirror_is_made_within_another(mirror: Path, tmp_path: Path, words: str) -> None:
    source = shutil.copytree(mirror, tmp_path / "source")
    within, before = mirror / "images" / "x", contents(mirror)
    refused = inside(*words.format(m=source, x=within).split())
    says(refused, USAGE_ERROR, f"{within}: it lies in the mirror {mirror}")
    assert contents(mirror) == before


@pytest.mark.parametrize(
    ("start", "name", "within"),
    [
        ("m", "../beside", False),
        ("m/images", "../../beside", False),
        (".", "m/../beside", False),
        (".", "beside/../m/x", True),
        (".", "link/x", True),
    ],
)
def test_what_lies_within_a_mirror_is_told_by_where_it_leads(
    mirror: Path, tmp_path: Path, start: str, name: str, within: bool
) -> None:
    (tmp_path / "link").symlink_to(mirror / "images")
    if "beside/" in name:
        (tmp_path / "beside").mkdir()
    result = run("--mirror", name, "init", "--mpp", "15", cwd=tmp_path / start)
    assert result.code == (USAGE_ERROR if within else 0), result
    assert ("lies in the mirror" in result.err) is within


# A mirror that is not as it should be -----------------------------------------------


def test_a_mirror_that_may_not_be_looked_into_is_not_called_none(mirror: Path) -> None:
    mirror.chmod(0)
    refused = run("--mirror", mirror, "status", by=ordinary())
    mirror.chmod(0o755)
    says(refused, USAGE_ERROR, str(mirror), "cannot be looked into", "Permission denied")
    assert "init" not in refused.err


@pytest.mark.parametrize("words", ["--mirror {m} status", "sync {m} {m}2"])
def test_an_unreadable_catalogue_is_called_unreadable(mirror: Path, words: str) -> None:
    catalogue = mirror / "catalogue.db"
    catalogue.chmod(0)
    refused = run(*words.format(m=mirror).split(), by=ordinary())
    catalogue.chmod(0o644)
    says(refused, USAGE_ERROR, str(catalogue), "cannot be read", "permissions")


def test_lost_settings_are_written_again_by_init(mirror: Path) -> None:
    (mirror / "tcgamirror.toml").unlink()
    (mirror / "gallery").mkdir()
    says(
        inside("--mirror", mirror, "status"), USAGE_ERROR, "catalogue.db", f"{mirror} init", "again"
    )
    init = ["--mirror", str(mirror), "init", "--slides", "2", "--mpp"]
    says(
        inside(*init, "15"),
        USAGE_ERROR,
        str(mirror),
        "made for images of 4 µm/px, exact, png",
        "init",
    )
    assert not (mirror / "tcgamirror.toml").exists()
    made = inside(*init, "4")
    assert (made.code, made.err) == (0, ""), made
    assert "2 done" in inside("--mirror", mirror, "status").out
    assert inside("--mirror", mirror, "verify").code == 0


def test_lost_settings_beside_a_damaged_catalogue_have_a_way_out(mirror: Path) -> None:
    (mirror / "tcgamirror.toml").unlink()
    (mirror / "catalogue.db").write_bytes(b"damaged" * 1000)
    refused = inside("--mirror", mirror, "init", "--mpp", "4")
    says(refused, USAGE_ERROR, "catalogue.db", "move it away", "rebuild", "another directory")


# Directories of other people --------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["sync {m} {o}", "sync {m} {o} --dry-run", "--mirror {o} import {m}"]
)
@pytest.mark.parametrize("theirs", ["notes.txt", "gallery/index.html"])
def test_no_mirror_is_made_among_other_files(mirror: Path, words: str, theirs: str) -> None:
    other = mirror.parent / "other"
    (other / theirs).parent.mkdir(parents=True)
    (other / theirs).write_text("mine")
    before = contents(other)
    refused = inside(*words.format(m=mirror, o=other).split())
    says(refused, USAGE_ERROR, str(other), theirs.partition("/")[0], "empty directory")
    assert contents(other) == before and not (other / ".lock").exists()


@pytest.mark.parametrize("words", ["sync {m} {o}", "--mirror {o} import {m}"])
def test_what_a_killed_run_or_a_new_disk_left_is_gone_on_with(mirror: Path, words: str) -> None:
    other = mirror.parent / "other"
    for folder in ("lost+found", "work/import", "images/TCGA-BRCA", ".Trash-1000"):
        (other / folder).mkdir(parents=True)
    for name in (
        ".lock",
        ".sync.json",
        ".tcgamirror.toml.part",
        "catalogue.db.new",
        "sample.lock",
    ):
        (other / name).write_text("{}")
    done = inside(*words.format(m=mirror, o=other).split())
    assert (done.code, done.err) == (0, ""), done
    assert inside("--mirror", other, "verify").code == 0


def test_a_mirror_that_lost_its_settings_is_not_synced_over(mirror: Path) -> None:
    other = shutil.copytree(mirror, mirror.parent / "other")
    (other / "tcgamirror.toml").unlink()
    says(inside("sync", mirror, other), USAGE_ERROR, str(other), f"{other} init", "again")
    says(inside("--mirror", other, "import", mirror), USAGE_ERROR, str(other), f"{other} init")


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("init", "", "--mpp", "2"), "DIR"),
        (("--mirror", "", "init", "--mpp", "2"), "--mirror"),
        (("init", "--mirror=", "--mpp", "2"), "--mirror"),
        (("init", "x", "--mpp", "2", "--manifest", ""), "--manifest"),
        (("init", "x", "--mpp", "2", "--cases", ""), "--cases"),
        (("init", "x", "--lock", ""), "--lock"),
        (("get", "TCGA-3C-AALI", "-o", ""), "-o/--output"),
        (("sync", "{m}", ""), "DST"),
        (("sync", "", "x"), "SRC"),
        (("--mirror", "{m}", "export", ""), "DEST"),
        (("--mirror", "{m}", "export", "x", "--since", ""), "--since"),
        (("--mirror", "{m}", "import", ""), "SRC"),
        (("--mirror", "{m}", "lock", ""), "FILE"),
        (("--mirror", "{m}", "exclude", "--from", ""), "--from"),
        (("--mirror", "{m}", "update", "--log", ""), "--log"),
        (("doctor", "--report", ""), "--report"),
    ],
)
def test_an_empty_path_is_refused_not_taken_for_the_current_directory(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], path: str
) -> None:
    (mirror.parent / "here").mkdir()
    monkeypatch.chdir(mirror.parent / "here")
    before = contents(mirror)
    says(inside(*(word.format(m=mirror) for word in words)), USAGE_ERROR, f"{path}: empty path")
    assert not list(Path().iterdir()) and contents(mirror) == before


def test_init_among_other_things_takes_no_gallery_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "index.html").write_text("mine")
    refused = inside("--mirror", tmp_path, "init", "--mpp", "4")
    says(refused, USAGE_ERROR, str(tmp_path / "gallery"), "move it away")
    assert [path.name for path in tmp_path.iterdir()] == ["gallery"]


# Names that say something else ------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    ["tar.gz", "tgz", "tar.bz2", "7z", "RAR", "tar.zst", "zip", "tar.gz.part001", "tar.001"],
)
def test_an_archive_of_another_kind_is_not_made_as_a_directory(mirror: Path, ending: str) -> None:
    before = sorted(mirror.parent.iterdir())
    refused = inside("--mirror", mirror, "export", mirror.parent / f"x.{ending}")
    says(refused, USAGE_ERROR, f"x.{ending}", "only directories and .tar archives are written")
    assert sorted(mirror.parent.iterdir()) == before


def test_a_directory_of_an_export_may_have_a_dot_in_its_name(mirror: Path) -> None:
    assert inside("--mirror", mirror, "export", mirror.parent / "release.45").code == 0
    assert (mirror.parent / "release.45" / "catalogue.db").is_file()


@pytest.mark.parametrize("source", ["ftp://x/", "HTTP://x/"])
def test_what_is_no_known_address_is_not_synced_from(tmp_path: Path, source: str) -> None:
    refused = inside("sync", source, tmp_path / "d")
    says(refused, USAGE_ERROR, source.partition("//")[0], "Use http://, https:// or s3://")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_a_sync_that_comes_to_nothing_leaves_nothing(tmp_path: Path, there: bool) -> None:
    root = tmp_path / "a" / "b"
    if there:
        root.mkdir(parents=True)
    with RawServer(whole(b"", "404 Not Found")) as server:
        says(inside("sync", server.url("/m"), root), USAGE_ERROR, "no catalogue.db")
    left = [path.name for path in tmp_path.rglob("*")]
    assert left == (["a", "b"] if there else [])


def test_a_lock_file_is_written_where_a_directory_is_and_nowhere_else(mirror: Path) -> None:
    there, missing = mirror.parent / "there", mirror.parent / "missing"
    there.mkdir()
    says(inside("--mirror", mirror, "lock", there), USAGE_ERROR, f"{there}: is a directory")
    refused = inside("--mirror", mirror, "lock", missing / "x.lock")
    says(refused, USAGE_ERROR, f"{missing}: no such directory. Make it")
    assert not missing.exists() and not list(there.iterdir())
    assert inside("--mirror", mirror, "lock", there / "x.lock").code == 0


# Names that are not UTF-8 -------------------------------------------------------------


ANSI_C = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""A locale whose encoding is ASCII, for Python too."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    return path


@pytest.mark.parametrize("env", [{}, ANSI_C], ids=["UTF-8", "ASCII"])
def test_every_command_works_there(folder: Path, small_gdc: StandIn, env: dict[str, str]) -> None:
    root = filled(folder / "m", small_gdc, slides=2)
    held = images(root)
    for command in (
        *("status", "changes", "verify", "verify --repair", "gallery", "doctor"),
        *("update --log", "lock", "lock --check", "export"),
    ):
        words: list[str | Path] = [*command.split()]
        words += [folder / "file"] if words[-1] in ("--log", "lock", "--check", "export") else []
        if command == "update --log":
            words[-1] = folder / "log"
        elif command == "export":
            words[-1] = folder / "e.tar"
        result = run("--mirror", root, *words, env=env)
        assert result.code == 0, (command, result)
    for command in ("status", "update", "verify", "changes", "doctor"):
        told = succeeded("--mirror", root, command, "--json", env=env).out
        assert told.count("\n") == 1
    exported = succeeded("--mirror", root, "export", folder / "e", "--json", env=env).json()
    assert Path(exported["dest"]) == folder / "e"
    assert succeeded("--mirror", root, "query", "select 1", env=env).out == "1\n1\n"
    for place in ("e", "e.tar"):
        assert run("--mirror", folder / f"of-{place}", "import", folder / place, env=env).code == 0
        assert images(folder / f"of-{place}") == held
    assert run("sync", root, folder / "synced", "--json", env=env).code == 0
    assert images(folder / "synced") == held
    (root / "catalogue.db").unlink()
    assert run("--mirror", root, "rebuild", env=env).code == 0
    assert images(root) == held
    with started("--mirror", root, "serve", "--port", "0") as process:
        assert process.stdout is not None
        assert "until Ctrl-C" in process.stdout.readline()


def test_what_is_told_of_it_can_be_read_and_typed(folder: Path, small_gdc: StandIn) -> None:
    new = folder / "m"
    told = succeeded("--mirror", new, "init", "--mpp", "4", "--api", small_gdc.api).out
    assert re.search(r"next: tcgamirror --mirror \$'/.*/caf\\xe9/m' update\n", told)
    result = run("--mirror", folder / "none", "status")
    assert result.code == 2 and r"/caf\xe9/none: not a mirror" in result.sentence
    for form in ("cron", "systemd", "slurm"):
        refused = run("--mirror", new, "schedule", form)
        assert refused.code == 2 and "Rename the directory" in refused.sentence
