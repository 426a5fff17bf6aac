"""Whatever is wrong: one sentence that names it and the way out, its exit code, nothing changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tests.gdc import StandIn, listed, made_up_name
from tests.support.command import Result, inside, program, run, went_well
from tests.support.mirrors import changes_nothing, column, contents, made, rewrite, says, updated
from tests.support.publishing import change
from tests.support.slides import SlideSpec, make_slide

USAGE_ERROR, SOME_FAILED, UNREACHABLE, DISK_FULL, DAMAGED = 2, 3, 4, 6, 7
ROW = "7ab52949-b902-4a79-a9f4-65379e221444\t{name}\t%s\t449310\treleased" % ("0" * 32)
NAME = made_up_name("manifest")


@pytest.fixture
def mirror(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "m")


# The command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("--bogus status", ["unknown argument '--bogus'. See tcgamirror --help"]),
        ("--miror tcga update", ["unknown argument '--miror'. Did you mean --mirror?"]),
        ("--limit 5 fetch", ["'--limit'. Give it after the command"]),
        ("init x --mpp 15 extra", ["unknown argument 'extra'. See tcgamirror init --help"]),
        ("update --mpp=5", ["fixed at init. Make another mirror"]),
        ("fetch --workers 5", ["Set workers in [fetch] of tcgamirror.toml"]),
        ("status --bogus", ["unknown argument '--bogus'. See tcgamirror status --help"]),
        ("get x --mp 1", ["'1'. Did you mean --mpp? See tcgamirror get --help"]),
        ("help uninstall", ["no page or command 'uninstall'. It stands in: recipes"]),
        ("help frobnicate", ["See tcgamirror help for the pages"]),
        ("show one two", ["two", "show --help"]),
        ("updaet", ["updaet", "Did you mean update?"]),
        ("frobnicate", ["frobnicate", "Choose init, update"]),
        ("update --retry-faild", ["--retry-faild", "Did you mean --retry-failed?"]),
        ("init --mpp 15 --kind tisue", ["--kind", "tisue", "Did you mean tissue?"]),
        ("show", ["SLIDE", "show --help"]),
        ("import export", ["An import makes the mirror that --mirror names"]),
        ("query", ["SQL", "query --help"]),
        ("verify --fix", ["--fix", "Did you mean --repair?"]),
        ("exclude --list", ["--list", "query 'select * from exclusions'"]),
        ("import x.tar m2", ["m2", "Did you mean --mirror m2?"]),
        ("query --csv", ["Did you mean --format csv?"]),
        ("table tridend", ["Did you mean trident?"]),
        ("get x --level 1 --mpp 2", ["--level: gives a size"]),
        ("get x --mpp 1 --max-size 2", ["--mpp", "--max-size", "not both"]),
        ("sync a b --mirror m", ["--mirror is not used. Name the two mirrors as SRC and DST"]),
        (f"update --limit {'9' * 5000}", ["--limit"]),
        (f"update --time-limit {'9' * 400}", ["--time-limit"]),
        (f"update --rate {'9' * 400}", ["--rate"]),
        ("update --time-limit soon", ["--time-limit", "'soon'", "2h"]),
        ("update --rate fast", ["--rate", "'fast'", "5M"]),
        ("init", ["is missing", "tcgamirror --mirror tcga init --mpp 15", "--max-size 2048"]),
        ("init a --slides 7", ["Add --mpp 15", "as in: tcgamirror --mirror a init --mpp 15"]),
        ("schedule", ["system", "Choose cron, systemd, slurm. See tcgamirror schedule --help"]),
        ("table", ["KIND", "Choose trident, slide2vec"]),
        ("init --mpp 15 --magnification 20", ["Give --mpp 0.5 for 20×. See"]),
        ("init --mpp 15 --max-size 2048", ["--mpp", "--max-size", "not both"]),
        ("init --mpp 0", ["--mpp is 0", "above 0"]),
        ("init --mpp nan", ["--mpp is nan", "above 0"]),
        ("init --mpp abc", ["--mpp", "'abc'", "number"]),
        ("init --max-size 0", ["--max-size", "'0'", "from 1 to"]),
        ("init --mpp 15 --slides 99999999999999999999", ["--slides", "2147483648"]),
        ("init --mpp 15 --slides many", ["--slides", "'many'", "from 1 to", "or all"]),
        ("init --mpp 15 --workers 65", ["--workers", "'65'", "from 1 to 64"]),
        ("init --mpp 15 --rate 1", ["--rate is 1", "1000"]),
        ("init --mpp 15 --seed x", ["--seed", "'x'", "whole number"]),
        ("init --mpp 15 --kind frozen", ["--kind", "'frozen'. Did you mean tissue?"]),
        ("init --mpp 15 --format gif", ["--format", "'gif'", "png"]),
        ("init --mpp 15 --via ftp", ["--via is ftp, but has", "range, tiles, whole"]),
        ("init --mpp 15 --via ", ["--via is '', but has", "range, tiles, whole"]),
        ("init --mpp 15 --via range,range", ["--via", "none of them twice"]),
        ("init --mpp 15 --api gdc", ["--api is 'gdc'", "https://"]),
        ("init --mpp 15 --api http://[x", ["--api is 'http://[x'", "https://"]),
        ("init --mpp 15 --api http://x:99999", ["--api", "99999", "https://"]),
        ("init --mpp 15 --bucket s3://b", ["--bucket is 's3://b'", "https://"]),
        ("init --mpp 15 --project breast", ["unknown project 'breast'", "ACC, BLCA, BRCA"]),
        ("init --mpp 15 --project TCGA-BRAC", ["'TCGA-BRAC'. Did you mean BRCA?"]),
        ("init --mpp 15 --project brain", ["'brain'. Choose one of ACC, BLCA"]),
        ("init --mpp 15 --project OV,GBM", ["Repeat --project for each one"]),
        ("init --mpp 15 --manifest no-such-file", ["no-such-file", "cannot be read"]),
    ],
)
def test_a_wrong_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    says(inside(*(word for word in said.split(" ") if said)), USAGE_ERROR, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("mpp", "words"), [("0.015", "so that they fail"), ("15000", "2 cm")])
def test_an_unusual_mpp_is_told(tmp_path: Path, mpp: str, words: str) -> None:
    result = inside("init", tmp_path / "m", "--mpp", mpp)
    assert result.code == 0
    assert result.sentence.startswith(f"--mpp {mpp}: ") and words in result.sentence


def test_a_mirror_named_without_its_option_is_recognized(mirror: Path) -> None:
    for words in ((mirror, "status"), ("status", mirror)):
        says(inside(*words), USAGE_ERROR, f"Did you mean --mirror {mirror}?")


def test_the_program_alone_tells_how_to_begin(tmp_path: Path) -> None:
    examples = run("--help").out
    for words in ((), ("--mirror", tmp_path)):
        result = inside(*words)
        assert (result.code, result.out) == (USAGE_ERROR, "")
        assert "offline mirror of TCGA whole-slide images" in result.err
        commands = [line.strip() for line in result.err.splitlines() if line.startswith("  ")]
        assert len(commands) == 2 and all(command in examples for command in commands)


def test_a_slide_coarser_than_the_mpp_fails_and_is_named(tmp_path: Path) -> None:
    fine, coarse = (SlideSpec(width=400, height=300, downsamples=(1,), mpp=x) for x in (0.25, 0.5))
    files = [
        listed(
            make_slide(tmp_path / f"{spec.mpp}.svs", spec), file_name=made_up_name(str(spec.mpp))
        )
        for spec in (fine, coarse)
    ]
    with StandIn(files) as gdc:
        root = made(tmp_path / "m", gdc, "--mpp", "0.25", slides=2)
        result = inside("--mirror", root, "update")
        assert result.code == SOME_FAILED
        assert result.sentence.startswith(f"failed: {files[1].file_name}: ")
        assert "0.25 µm/px" in result.sentence and "0.5 µm/px" in result.sentence
        assert "1 slide fetched, 1 failed" in result.out
        told = updated(root).out
        assert "1 failed (need another --mpp or --format, so another mirror)" in told
    (error,) = column(root, "select error from mirror where status = 'failed'")
    assert "--mpp" in str(error)
    told = went_well("--mirror", root, "status").out
    assert "failed   1 need another --mpp or --format, so another mirror\n" in told


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["query", "delete from slides"], "query"),
        (["query", "selec 1"], "query"),
        (["query", "attach 'x' as y"], "query"),
        (["show", "TCGA-XX-XXXX"], "barcode"),
    ],
)
def test_what_cannot_be_shown(mirror: Path, words: list[str], problem: str) -> None:
    before = contents(mirror)
    says(inside("--mirror", mirror, *words), USAGE_ERROR, problem)
    assert contents(mirror) == before


# The directory ----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["update", "refresh", "sample", "fetch", "status"])
def test_a_directory_that_is_no_mirror(tmp_path: Path, command: str) -> None:
    init = f"make one by: tcgamirror --mirror {tmp_path} init --mpp 15"
    says(inside("--mirror", tmp_path, command), USAGE_ERROR, f"{tmp_path}: not a mirror", init)
    missing = tmp_path / "none"
    says(
        inside("--mirror", missing, command), USAGE_ERROR, str(missing), "no such directory", "init"
    )
    says(run(command, cwd=tmp_path), USAGE_ERROR, str(tmp_path), "init", "--mirror")
    assert not list(tmp_path.iterdir())


def test_init_where_a_mirror_is_already(mirror: Path) -> None:
    command = "init --mpp 15 --slides 3"
    changes_nothing(mirror, USAGE_ERROR, str(mirror), "already", "another", command=command)


@pytest.mark.parametrize("below", [".", "m", "a/b"])
def test_init_where_no_directory_can_be(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    root = file / below
    says(inside("--mirror", root, "init", "--mpp", "15"), USAGE_ERROR, str(file), "in its way")
    assert file.read_text() == "mine"


# The catalogue ----------------------------------------------------------------------


def _another_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table recipes (name text)")


def _a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILED: Mapping[str, Callable[[Path], object]] = {
    "not SQLite": lambda path: path.write_text("file_id,file_name\n" * 1000),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:20_000]),
    "another": _another_database,
    "directory": _a_directory,
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("command", ["update", "status", "query select+1"])
@pytest.mark.parametrize("spoiled", SPOILED)
def test_an_invalid_catalogue(mirror: Path, spoiled: str, command: str) -> None:
    SPOILED[spoiled](mirror / "catalogue.db")
    changes_nothing(mirror, DAMAGED, "catalogue.db", "copy", command=command)


@pytest.mark.parametrize(
    ("version", "command", "words"),
    [
        (1000, "update", ["newer", "Upgrade"]),
        (1000, "status", ["newer", "Upgrade"]),
        (7, "status", ["older", "update"]),
    ],
)
def test_a_catalogue_of_another_version(
    mirror: Path, version: int, command: str, words: list[str]
) -> None:
    change(mirror, f"pragma user_version = {version}")
    changes_nothing(mirror, USAGE_ERROR, "catalogue.db", *words, command=command)


@pytest.mark.parametrize("command", ["status", "--help", "get --help"])
def test_output_that_finds_no_room(mirror: Path, command: str) -> None:
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(
            [*program(), "--mirror", str(mirror), *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    says(Result(said.returncode, "", said.stderr), DISK_FULL, "no room", "output")


@pytest.mark.parametrize("reader", ["full", "gone"])
def test_a_refusal_that_cannot_be_told_keeps_its_exit_code(tmp_path: Path, reader: str) -> None:
    gone, output = os.pipe()
    os.close(gone)
    if reader == "full":
        output = os.open("/dev/full", os.O_WRONLY)
    words = [*program(), "--mirror", str(tmp_path / "none"), "status"]
    refused = subprocess.run(words, stdout=output, stderr=output, timeout=30, check=False)
    assert refused.returncode == USAGE_ERROR


# The settings -----------------------------------------------------------------------

BROKEN: dict[str, tuple[str, str, list[str]]] = {
    "not-toml": ("^seed = 0", "seed 0", ["TOML", "line"]),
    "key-twice": ("^seed = 0", "seed = 0\nseed = 1", ["TOML"]),
    "endless-number": ("^seed = 0", f"seed = {'9' * 5000}", ["TOML"]),
    "endless-brackets": ("^seed = 0", f"seed = {'[' * 50_000}", ["TOML"]),
    "unknown-key": ("^seed = 0", "sede = 0", ["sample.sede", "help settings"]),
    "unknown-table": (r"^\[gdc\]", "[gcd]", ["[gcd]", "help settings"]),
    "no-table": (r"\A(?s:.*)", "[target]\nmpp = 4\n[[fetch]]\n", ["[fetch]", "table"]),
    "text-for-a-number": ("^slides = 2", 'slides = "two"', ["sample.slides", "'two'"]),
    "unknown-word": ('^order = "stable"', 'order = "random"', ["sample.order", "shuffle"]),
    "unknown-source": ('^via = .*', 'via = ["torrent"]', ["fetch.via", "torrent", "range"]),
    "slow-rate": ('^rate = .*', "rate = 3", ["fetch.rate is 3", "1000"]),
    "no-address": ("^api = .*", 'api = "gdc"', ["gdc.api", "'gdc'", "https://"]),
    "no-time": ("^stall = .*", "stall = -1", ["network.stall is -1", "above 0"]),
    "both-sizes": ("^mpp = 4.0", "mpp = 4.0\nmax_size = 9", ["target.mpp", "target.max_size"]),
    "no-size": ("^mpp = .*", "", ["target.mpp", "target.max_size"]),
    "another-target": ("^mpp = 4.0", "mpp = 8", ["8 µm/px", "4 µm/px", "[target]", "init"]),
    "nearly-the-target": ("^mpp = 4.0", "mpp = 4.0000001", ["4.0000001 µm/px", "4 µm/px"]),
    "another-format": ('^format = "png"', 'format = "jpeg"', ["jpeg", "png", "[target]"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_settings(mirror: Path, name: str) -> None:
    pattern, text, words = BROKEN[name]
    rewrite(mirror, pattern, text)
    changes_nothing(mirror, USAGE_ERROR, "tcgamirror.toml", *words)


def test_settings_that_cannot_be_read(mirror: Path) -> None:
    path = mirror / "tcgamirror.toml"
    path.write_bytes(b"\xff\x00\xfe" * 100)
    changes_nothing(mirror, USAGE_ERROR, "tcgamirror.toml", "TOML")
    path.unlink()
    path.mkdir()
    changes_nothing(mirror, USAGE_ERROR, "tcgamirror.toml", "cannot be read")


# The manifest -----------------------------------------------------------------------

HEADER = "id\tfilename\tmd5\tsize\tstate"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(f"{HEADER}\n{ROW.format(name=NAME)}\n")
    return path


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ("--project TCGA-OV", NAME, ["tells no projects", "--project"]),
        ("--kind tissue", NAME, ["none of the 1 slide", "--kind", "another"]),
        ("", "../x.svs", ["list.txt", "line 2", "../x.svs", "plain"]),
    ],
)
def test_a_manifest_without_such_a_slide(
    manifest: Path, options: str, name: str, words: list[str]
) -> None:
    manifest.write_text(f"{HEADER}\n{ROW.format(name=name)}\n")
    root = manifest.with_name("m")
    init = ("init", "--mpp", "15", "--slides", "1", "--manifest", manifest)
    says(inside("--mirror", root, *init, *options.split()), USAGE_ERROR, *words)
    assert not root.exists()


def test_projects_of_a_manifest_cannot_be_gone_round(manifest: Path) -> None:
    root = manifest.with_name("m")
    init = ("init", "--mpp", "15", "--manifest", manifest, "--by", "project_id")
    result = inside("--mirror", root, *init)
    assert (result.code, "--by project_id: a manifest" in result.sentence) == (0, True)
    rewrite(root, "^projects = .*", 'projects = ["TCGA-OV"]')
    says(inside("--mirror", root, "update"), USAGE_ERROR, "TCGA-OV", "Change [sample] back")


def test_a_manifest_that_is_spoiled_later(manifest: Path, small_gdc: StandIn) -> None:
    root = made(manifest.with_name("m"), small_gdc, "--manifest", str(manifest), slides=1)
    went_well("--mirror", root, "refresh")
    manifest.write_text(f"{HEADER}\n{ROW.format(name='../x.svs')}\n")
    changes_nothing(root, USAGE_ERROR, "list.txt", "line 2", "../x.svs")
