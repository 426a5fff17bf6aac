"""Paths that cannot be used as they were named: one sentence, nothing written, nothing lost."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gdc import StandIn
from tests.support.command import Result, inside, ordinary, run, started, went_well
from tests.support.mirrors import contents, filled, images, says
from tests.support.raw_server import RawServer, whole

USAGE_ERROR = 2


@pytest.fixture
def mirror(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "m")


@pytest.fixture
def here(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory: the mirror m, one that lost its settings, and other directories."""
    monkeypatch.chdir(mirror.parent)
    shutil.copytree("m", "lost")
    Path("lost/tcgamirror.toml").unlink()
    for file in ("notes/notes.txt", "pages/gallery/index.html", "there/file"):
        Path(file).parent.mkdir(parents=True)
        Path(file).write_text("mine")
    Path("closed").mkdir(mode=0)
    Path("closed.tar").touch(mode=0)
    yield mirror.parent
    Path("closed").chmod(0o755)


LONG = "x" * 300
CLOSED = ["closed/x", "Permission denied"]
WITHIN = ["/m/images/x: it lies in the mirror /"]
TAR_ALONE = ["only directories and .tar archives are written"]
REFUSED: list[tuple[str, list[str]]] = [
    ("--mirror m export closed/x.tar", CLOSED),
    ("--mirror m export closed/x", CLOSED),
    ("--mirror m export new --since closed/x", CLOSED),
    ("--mirror m import closed/x.tar", CLOSED),
    ("--mirror new import closed/x", CLOSED),
    ("--mirror new import closed.tar", [": closed.tar cannot be read (Permission denied). Change"]),
    ("sync closed/x new", CLOSED),
    ("sync m closed/x", CLOSED),
    ("sync m closed/x --dry-run", CLOSED),
    ("--mirror closed/x status", CLOSED),
    ("--mirror closed/x init --mpp 15", CLOSED),
    ("--mirror m/tcgamirror.toml status", ["m/tcgamirror.toml: not a mirror, but a file"]),
    ("get x -o x.tif --format png", ["-o x.tif: not the name of a png image. Leave --format out"]),
    ("--mirror m exclude x", ['by: tcgamirror --mirror m query "select']),
    ("--mirror m export new --only status=done", ["--only: SQLite cannot", "write 'done'"]),
    (f"--mirror m export {LONG}", [LONG, "name too long"]),
    (f"sync {LONG} {LONG}2", [LONG, "name too long"]),
    (f"--mirror {LONG} status", [LONG, "name too long"]),
    ("--mirror m/images/x init --mpp 15", WITHIN),
    ("sync lost m/images/x", WITHIN),
    ("--mirror m/images/x import m", WITHIN),
    ("sync m notes", ["notes", "empty directory"]),
    ("sync m pages --dry-run", ["pages", "gallery", "empty directory"]),
    ("--mirror notes import m", ["notes", "notes.txt", "empty directory"]),
    ("--mirror pages import m", ["pages", "gallery", "empty directory"]),
    ("--mirror pages init --mpp 4", ["pages/gallery", "move it away"]),
    ("sync m lost", ["lost init", "again"]),
    ("--mirror lost import m", ["lost init", "again"]),
    ("--mirror lost status", ["catalogue.db", "lost init", "again"]),
    ("--mirror lost init --mpp 15", ["made for images of 4 µm/px, exact, png", "init"]),
    ("--mirror m lock there", ["there: is a directory"]),
    ("--mirror m lock none/x.lock", ["/none: no such directory. Make it"]),
    ("sync ftp://x/ new", ["ftp:", "Use http://, https:// or s3://"]),
    ("sync HTTP://x/ new", ["HTTP:", "Use http://, https:// or s3://"]),
    *(
        (f"--mirror m export x.{ending}", [f"x.{ending}", *TAR_ALONE])
        for ending in ("tar.gz", "tgz", "tar.bz2", "7z", "RAR", "tar.zst", "zip", "tar.gz.part001")
    ),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[words[:60] for words, _ in REFUSED])
def test_a_path_that_cannot_be_used_is_named(here: Path, words: str, said: list[str]) -> None:
    before = contents(here)
    refused = run(*words.split(), by=ordinary()) if "closed" in words else inside(*words.split())
    says(refused, USAGE_ERROR, *said)
    assert contents(here) == before


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


@pytest.mark.parametrize(
    ("name", "mode", "words", "said"),
    [
        (".", 0, "--mirror {m} status", ["{m}", "cannot be looked into", "Permission denied"]),
        (".", 0o555, "--mirror {m} update", ["{m}", "permissions"]),
        ("..", 0o555, "--mirror {m}2 init --mpp 15", ["{m}2", "permissions"]),
        ("catalogue.db", 0, "--mirror {m} status", ["{m}/catalogue.db", "cannot be read"]),
        ("catalogue.db", 0, "sync {m} {m}2", ["{m}/catalogue.db", "cannot be read"]),
        ("catalogue.db", 0o444, "--mirror {m} update", ["catalogue.db", "permissions"]),
        ("tcgamirror.toml", 0, "--mirror {m} status", ["tcgamirror.toml", "Change its"]),
    ],
)
def test_what_this_user_may_not_read_or_write_is_named(
    mirror: Path, name: str, mode: int, words: str, said: list[str]
) -> None:
    before = contents(mirror)
    (mirror / name).chmod(mode)
    refused = run(*words.format(m=mirror).split(), by=ordinary())
    (mirror / name).chmod(0o755)
    says(refused, USAGE_ERROR, *(word.format(m=mirror) for word in said))
    assert contents(mirror) == before


@pytest.mark.parametrize(("name", "mode"), [(".", 0o555), ("catalogue.db", 0o444)])
def test_a_mirror_may_be_looked_at_without_writing(mirror: Path, name: str, mode: int) -> None:
    (mirror / name).chmod(mode)
    shown = run("--mirror", mirror, "status", by=ordinary())
    (mirror / name).chmod(0o755)
    assert (shown.code, "2 done" in shown.out) == (0, True)


@pytest.mark.parametrize("words", ["table mirror --output", "lock", "export"])
@pytest.mark.parametrize("name", ["x", "x.tar"])
def test_a_folder_that_may_only_be_written_is_written_to(
    mirror: Path, tmp_path: Path, words: str, name: str
) -> None:
    (tmp_path / "in").mkdir(mode=0o333)
    made = run("--mirror", mirror, *words.split(), tmp_path / "in" / name, by=ordinary())
    (tmp_path / "in").chmod(0o755)
    assert (made.code, made.err) == (0, "")
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name]


@pytest.mark.parametrize("words", ["status", "init --mpp 2", "init --mpp 4 --seed 7"])
def test_lost_settings_are_written_again_by_init(mirror: Path, words: str) -> None:
    (mirror / "tcgamirror.toml").unlink()
    (mirror / "gallery").mkdir()
    refused = inside("--mirror", mirror, *words.split())
    says(refused, USAGE_ERROR, "tcgamirror.toml", f": tcgamirror --mirror {mirror} init --mpp 4 ")
    went_well(*shlex.split(refused.sentence.rpartition(" tcgamirror ")[2]))
    assert "2 done" in inside("--mirror", mirror, "status").out
    assert inside("--mirror", mirror, "verify").code == 0


def test_lost_settings_beside_a_damaged_catalogue_have_a_way_out(mirror: Path) -> None:
    (mirror / "tcgamirror.toml").unlink()
    (mirror / "catalogue.db").write_bytes(b"damaged" * 1000)
    refused = inside("--mirror", mirror, "init", "--mpp", "4")
    says(refused, USAGE_ERROR, "catalogue.db", "move it away", "rebuild", "another directory")


# Directories of other people --------------------------------------------------------


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


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("init", "", "--mpp", "2"), "DIR"),
        (("--mirror", "", "init", "--mpp", "2"), "--mirror"),
        (("get", "TCGA-3C-AALI", "-o", ""), "-o/--output"),
        (("sync", "{m}", ""), "DST"),
        (("sync", "", "x"), "SRC"),
        (("--mirror", "{m}", "export", ""), "DEST"),
        (("--mirror", "{m}", "export", "x", "--since", ""), "--since"),
        (("--mirror", "{m}", "lock", ""), "FILE"),
        (("--mirror", "{m}", "exclude", "--from", ""), "--from"),
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


# Names that say something else ------------------------------------------------------


def test_a_directory_of_an_export_may_have_a_dot_in_its_name(mirror: Path) -> None:
    assert inside("--mirror", mirror, "export", mirror.parent / "release.45").code == 0
    assert (mirror.parent / "release.45" / "catalogue.db").is_file()


@pytest.mark.parametrize("there", [False, True])
def test_a_sync_that_comes_to_nothing_leaves_nothing(tmp_path: Path, there: bool) -> None:
    root = tmp_path / "a" / "b"
    if there:
        root.mkdir(parents=True)
    with RawServer(whole(b"", "404 Not Found")) as server:
        says(inside("sync", server.url("/m"), root), USAGE_ERROR, "no catalogue.db")
    left = [path.name for path in tmp_path.rglob("*")]
    assert left == (["a", "b"] if there else [])


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
    def done(*words: str | Path) -> Result:
        result = run(*words, env=env) if env else inside(*words)
        assert result.code == 0, (words, result)
        return result

    root = filled(folder / "m", small_gdc, slides=2)
    held, lock = images(root), folder / "file"
    for command in ("status", "changes", "verify", "verify --repair", "gallery", "doctor"):
        done("--mirror", root, *command.split())
    done("--mirror", root, "update", "--log", folder / "log")
    done("--mirror", root, "lock", lock)
    done("--mirror", root, "lock", "--check", lock)
    for command in ("status", "update", "verify", "changes", "doctor"):
        assert done("--mirror", root, command, "--json").out.count("\n") == 1
    done("--mirror", root, "export", folder / "e.tar")
    exported = done("--mirror", root, "export", folder / "e", "--json").json()
    assert Path(exported["dest"]) == folder / "e"
    assert done("--mirror", root, "query", "select 1").out == "1\n1\n"
    for place in ("e", "e.tar"):
        done("--mirror", folder / f"of-{place}", "import", folder / place)
        assert images(folder / f"of-{place}") == held
    done("sync", root, folder / "synced", "--json")
    assert images(folder / "synced") == held
    (root / "catalogue.db").unlink()
    done("--mirror", root, "rebuild")
    assert images(root) == held
    with started("--mirror", root, "serve", "--port", "0") as process:
        assert process.stdout is not None
        assert "until Ctrl-C" in process.stdout.readline()


def test_what_is_told_of_it_can_be_read_and_typed(folder: Path, small_gdc: StandIn) -> None:
    new = folder / "m"
    told = went_well("--mirror", new, "init", "--mpp", "4", "--api", small_gdc.api).out
    assert re.search(r"next: tcgamirror --mirror \$'/.*/caf\\xe9/m' update\n", told)
    result = inside("--mirror", folder / "none", "status")
    assert result.code == 2 and r"/caf\xe9/none: not a mirror" in result.sentence
    for form in ("cron", "systemd", "slurm"):
        refused = inside("--mirror", new, "schedule", form)
        assert refused.code == 2 and "Rename the directory" in refused.sentence
