"""`table`: what other programs read is what the mirror has, and what they need is all there.

Each table is read with pandas as the program of that name reads it: types, required columns,
paths joined to a folder, names without suffix.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import openslide
import pytest

from tcgamirror.cli.commands import CHOICES, COMMANDS
from tcgamirror.cli.common import replace_file
from tcgamirror.mirror import tables
from tests.gdc import Listed, StandIn
from tests.support.command import Result, inside, on_a_terminal, run, surroundings, went_well
from tests.support.crowd import crowd
from tests.support.documents import PAGES
from tests.support.mirrors import column, contents, filled, rows, says
from tests.support.publishing import change

USAGE_ERROR = 2


@pytest.fixture
def copy(mirror: Path, tmp_path: Path) -> Path:
    """A mirror of six slides, to be changed."""
    return shutil.copytree(mirror, tmp_path / "m")


@pytest.fixture(scope="module")
def tiffs(tmp_path_factory: pytest.TempPathFactory, small_slides: Sequence[Listed]) -> Path:
    """A mirror of TIFF images, which OpenSlide opens."""
    with StandIn(small_slides) as gdc:
        return filled(tmp_path_factory.mktemp("tiffs") / "m", gdc, "--format", "tiff", slides=4)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, small_slides: Sequence[Listed]) -> Path:
    """A mirror of three slides: of a living person, a dead one, and one who is not described."""
    described: list[Mapping[str, Any]] = [{"vital_status": "Alive"}, {"vital_status": "Dead"}, {}]
    slides = [
        replace(slide, demographic=labels)
        for slide, labels in zip(small_slides[:3], described, strict=True)
    ]
    with StandIn(slides) as gdc:
        return filled(tmp_path_factory.mktemp("labelled") / "m", gdc, slides=3)


def printed(root: Path, *words: str) -> list[dict[str, str]]:
    """Return the rows of a table that leaves nothing out."""
    return list(csv.DictReader(io.StringIO(went_well("--mirror", root, "table", *words).out)))


def paths(root: Path) -> list[str]:
    """Return the images' paths below `images/`, by rank."""
    found = column(root, "select path from mirror where path is not null order by sample_rank")
    return [str(path).removeprefix("images/") for path in found]


# What each program reads -----------------------------------------------------


def test_trident_finds_each_image_and_its_scale(mirror: Path) -> None:
    pandas = pytest.importorskip("pandas")
    result = inside("--mirror", mirror, "table", "trident")
    frame = pandas.read_csv(io.StringIO(result.out))
    assert list(frame.columns) == ["wsi", "mpp"]
    assert all((mirror / "images" / path).is_file() for path in frame["wsi"])
    assert frame["wsi"].tolist() == paths(mirror)
    assert frame["mpp"].tolist() == column(mirror, "select mpp_x from mirror order by sample_rank")


def test_slide2vec_finds_each_image_and_its_scale(tiffs: Path) -> None:
    pandas = pytest.importorskip("pandas")
    out = went_well("--mirror", os.path.relpath(tiffs), "table", "slide2vec").out
    frame = pandas.read_csv(io.StringIO(out), converters={"sample_id": str})
    assert list(frame.columns) == ["sample_id", "image_path", "mask_path", "spacing_at_level_0"]
    assert frame["sample_id"].is_unique and frame["mask_path"].isna().all()
    for path, spacing in zip(frame["image_path"], frame["spacing_at_level_0"], strict=True):
        assert Path(path).is_absolute()
        with openslide.OpenSlide(path) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(spacing, rel=1e-4)


def test_clam_finds_each_image_in_its_folder(mirror: Path) -> None:
    pandas = pytest.importorskip("pandas")
    where = ("--where", "project_id = 'TCGA-BRCA'")
    out = went_well("--mirror", mirror, "table", "clam", *where).out
    slides = pandas.read_csv(io.StringIO(out))["slide_id"]
    assert {(mirror / "images" / "TCGA-BRCA" / name).is_file() for name in slides} == {True}
    assert len(slides) == len(column(mirror, "select 1 from mirror where project_id='TCGA-BRCA'"))


def test_clam_s_dataset_names_features_and_labels(mirror: Path) -> None:
    found = printed(mirror, "clam", "--label", "primary_site")
    assert list(found[0]) == ["case_id", "slide_id", "label"]
    names = [os.path.splitext(row["slide_id"])[0] for row in printed(mirror, "clam")]  # noqa: PTH122
    assert [row["slide_id"] for row in found] == names
    expected = rows(mirror, "select case_barcode, primary_site from mirror order by sample_rank")
    assert [(row["case_id"], row["label"]) for row in found] == expected


def test_slideflow_finds_each_slide_by_its_name(mirror: Path) -> None:
    found = printed(mirror, "slideflow", "--label", "project_id")
    # A label that is a column anyway stands there once.
    assert list(found[0])[:2] == ["patient", "slide"] and list(found[0]).count("project_id") == 1
    files = {path.name.rpartition(".")[0] for path in (mirror / "images").rglob("*.png")}
    assert {row["slide"] for row in found} == files
    assert all(row["slide"].startswith(f"{row['patient']}-") for row in found)


def test_stamp_s_slide_table_names_the_features_of_each_tiff(tiffs: Path) -> None:
    found = printed(tiffs, "stamp")
    images = [Path("x", path).with_suffix(".h5").relative_to("x") for path in paths(tiffs)]
    assert [row["FILENAME"] for row in found] == list(map(str, images))
    assert [row["PATIENT"] for row in found] == column(
        tiffs, "select case_barcode from mirror order by sample_rank"
    )


def test_stamp_s_clini_table_has_a_row_for_each_patient(copy: Path) -> None:
    change(copy, "update slides set case_barcode = 'TCGA-AA-0001', sample_type = 'Primary Tumor'")
    assert printed(copy, "stamp", "--label", "sample_type") == [
        {"PATIENT": "TCGA-AA-0001", "sample_type": "Primary Tumor"}
    ]
    result = inside("--mirror", copy, "table", "stamp", "--label", "primary_site")
    assert result.out == "PATIENT,primary_site\n"
    assert "1 case left out: primary_site is unknown, or not the same" in result.sentence


def sizes(script: str) -> dict[str, tuple[float, float]]:
    """Return what the script for QuPath sets, by file name."""
    lines = re.findall(r"^(?:lines << ''')?([\d.]+)\t([\d.]+)\t(.+)$", script, re.MULTILINE)
    return {name: (float(across), float(down)) for across, down, name in lines}


def test_qupath_s_script_sets_the_size_of_each_image(mirror: Path) -> None:
    script = went_well("--mirror", mirror, "table", "qupath").out
    view = rows(mirror, "select path, mpp_x, mpp_y from mirror")
    assert sizes(script) == {Path(str(path)).name: (x, y) for path, x, y in view}


@pytest.mark.skipif(shutil.which("groovy") is None, reason="there is no groovy")
def test_qupath_s_script_runs(copy: Path, tmp_path: Path) -> None:
    strange = "it's\\a µ.png"
    change(
        copy,
        f"update images set path = 'images/x/{strange.replace(chr(39), chr(39) * 2)}' "
        "where rowid = 1",
    )
    went_well("--mirror", copy, "table", "qupath", "--output", tmp_path / "sizes.groovy")
    (tmp_path / "run.groovy").write_text(
        "class Server { def getURIs() { [new File(System.getenv('IMAGE')).toURI()] } }\n"
        "class QuPath extends Script { def run() {}\n"
        "    def getCurrentServer() { new Server() }\n"
        "    def setPixelSizeMicrons(Number across, Number down) { println 'set ' + across } }\n"
        "def made = new org.codehaus.groovy.control.CompilerConfiguration()\n"
        "made.scriptBaseClass = 'QuPath'\n"
        "def shell = new GroovyShell(this.class.classLoader, new Binding(), made)\n"
        "shell.evaluate(new File(args[0]))\n",
        encoding="utf-8",
    )
    java = Path(str(shutil.which("java"))).resolve().parent.parent
    for name, expected in ((strange, "set 4.0"), ("other.png", "not in the mirror")):
        ran = subprocess.run(
            ["groovy", tmp_path / "run.groovy", tmp_path / "sizes.groovy"],
            env=surroundings(
                {"IMAGE": f"/data/{name}", "JAVA_HOME": str(java), "LC_ALL": "C.UTF-8"}
            ),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert expected in ran.stdout


def test_mirror_is_the_whole_view(copy: Path) -> None:
    change(copy, "update images set status = 'failed', path = null where rowid = 2")
    query = ("query", "select * from mirror order by sample_rank", "--format", "csv")
    assert (
        went_well("--mirror", copy, "table", "mirror").out
        == went_well("--mirror", copy, *query).out
    )
    # A condition on labels brings none of their columns.
    where = ("--where", "vital_status is null or 1")
    assert printed(copy, "mirror", *where) == printed(copy, "mirror")


# Rows that are left out ------------------------------------------------------


@pytest.mark.parametrize("kind", [name for name in CHOICES["KIND"] if name != "mirror"])
def test_only_slides_with_an_image_that_are_not_excluded_are_listed(copy: Path, kind: str) -> None:
    change(copy, "update images set status = 'pending', path = null where rowid = 1")
    change(copy, "update images set status = 'failed', path = null where rowid = 2")
    change(copy, "update images set status = 'excluded' where rowid = 3")
    change(copy, "update images set status = 'failed' where rowid = 4")
    result = inside("--mirror", copy, "table", kind)
    listed = {
        Path(str(path)).stem for path in column(copy, "select path from images where rowid>3")
    }
    assert set(re.findall(r"TCGA-[\w-]+\.[\w-]{36}", result.out)) == listed


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("trident", "2 slides left out: mpp_x is unknown"),
        ("slide2vec", "2 slides left out: mpp_x is unknown"),
        ("qupath", "2 slides left out: mpp_x is unknown"),
        ("clam --label primary_site", "1 slide left out: primary_site is unknown"),
    ],
)
def test_slides_that_lack_a_value_are_counted(copy: Path, words: str, why: str) -> None:
    change(copy, "update images set mpp_x = null, mpp_y = null where rowid <= 2")
    first = "(select file_name from sample where rank = 1)"
    change(copy, f"update slides set primary_site = null where file_name = {first}")
    result = inside("--mirror", copy, "table", *words.split())
    assert result.code == 0 and result.out.count("\n") >= 4
    assert f"table {words.split()[0]}: {why}" in result.err.splitlines()


@pytest.mark.parametrize(("mpp", "many"), [(2.399, None), (2.4, "6 slides of 2.4")])
def test_images_that_trident_refuses_are_counted(copy: Path, mpp: float, many: str | None) -> None:
    change(copy, f"update images set mpp_x = {mpp}")
    result = inside("--mirror", copy, "table", "trident")
    assert result.code == 0 and result.out.count("\n") == 7
    assert result.sentence.count(many) == 1 if many else not result.err


# Conditions and labels -------------------------------------------------------


@pytest.mark.parametrize("kind", CHOICES["KIND"])
def test_a_condition_chooses_slides(mirror: Path, kind: str) -> None:
    names = column(mirror, "select file_name from mirror where width > 33")
    where = "width > 33 -- the wider ones"
    out = inside("--mirror", mirror, "table", kind, "--where", where).out
    stems = {str(name).removesuffix(".svs") for name in names}
    assert 0 < len(stems) < 6
    assert set(re.findall(r"TCGA-[\w-]+\.[\w-]{36}", out)) == stems


@pytest.mark.parametrize("where", ["1) or (1=1", "0 or 1"])
def test_no_condition_lists_slides_that_are_left_out(copy: Path, where: str) -> None:
    change(copy, "update images set status = 'excluded' where rowid = 1")
    change(copy, "update images set status = 'failed', path = null where rowid = 2")
    listed = printed(copy, "slideflow")
    assert len(listed) == 4
    assert printed(copy, "slideflow", "--where", where) == listed


@pytest.mark.parametrize("kind", ["clam", "slideflow", "stamp"])
def test_the_gdc_s_labels_are_learnt(labelled: Path, kind: str) -> None:
    result = inside("--mirror", labelled, "table", kind, "--label", "vital_status")
    found = list(csv.reader(io.StringIO(result.out)))
    known = "select case_barcode, vital_status from labels where vital_status is not null"
    assert sorted((row[0], row[-1]) for row in found[1:]) == sorted(rows(labelled, known))
    assert found[0][-1] == ("label" if kind == "clam" else "vital_status")
    assert len(found) == 3 and "1 " in result.sentence
    assert "left out: vital_status is unknown" in result.sentence


def test_a_condition_may_be_on_the_gdc_s_labels(labelled: Path) -> None:
    (row,) = printed(labelled, "slideflow", "--where", "vital_status = 'Dead'")
    (expected,) = rows(labelled, "select case_barcode from labels where vital_status = 'Dead'")
    assert row["patient"] == expected[0] and "vital_status" not in row


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("clam --where mpp_x>", "--where: SQLite cannot run"),
        ("clam --where no_column=1", "no_column"),
        ("clam --where '1; drop table slides'", "--where"),
        ("clam --where \"load_extension('x')\"", "--where"),
        ("clam --where x=?", "--where"),
        ("clam --where '1)) /*'", "--where"),
        ("clam --label primary_sit", "Did you mean primary_site?"),
        ("clam --label 'kind\" from slides --'", "no column"),
        *(
            (f"{kind} --label primary_site", f"--label: {kind} takes no labels. Leave it out")
            for kind in ("trident", "slide2vec", "qupath", "mirror")
        ),
        ("trident --label kind", "choose clam, slideflow, stamp"),
        ("tridend", "Did you mean trident?"),
    ],
)
def test_wrong_use_changes_nothing(mirror: Path, words: str, said: str) -> None:
    before = contents(mirror)
    says(inside("--mirror", mirror, "table", *shlex.split(words)), USAGE_ERROR, said)
    assert contents(mirror) == before


# Where it is written ---------------------------------------------------------


def to_file(root: Path, kind: str, path: Path) -> Result:
    return inside("--mirror", root, "table", kind, "--output", path)


@pytest.mark.parametrize("kind", CHOICES["KIND"])
def test_a_file_holds_what_is_printed(mirror: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "table"
    path.touch()
    for _ in range(2):
        result = to_file(mirror, kind, path)
        assert result.out == f"{path}: 6 rows\n"
    assert path.read_text(encoding="utf-8") == inside("--mirror", mirror, "table", kind).out
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_write_one_file(mirror: Path, tmp_path: Path) -> None:
    path = tmp_path / "table"
    words = ("--mirror", mirror, "table", "mirror", "--output", path)
    with replace_file(path) as file:
        file.write(b"half")
        file.flush()
        assert run(*words).code == 0
        assert path.read_text() == went_well(*words[:-2]).out
        file.write(b" and whole")
    assert path.read_bytes() == b"half and whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", ["table mirror --output", "lock"])
@pytest.mark.parametrize("name", [".lock", "catalogue.db-journal", "images/t.csv", "work/t.csv"])
def test_a_mirror_s_own_files_stay(copy: Path, command: str, name: str) -> None:
    # A lock file that was replaced would let two runs write at once.
    before = contents(copy)
    (copy / ".lock").write_bytes(b"")
    result = inside("--mirror", copy, *command.split(), copy / name)
    says(result, USAGE_ERROR, str(copy / name), "keeps its own files there", "Name another file")
    assert contents(copy) == before
    assert (copy / ".lock").read_bytes() == b""


@pytest.mark.parametrize(
    "name", ["catalogue.db", "tcgamirror.toml", "images", "link", "brca.csv", "pipe"]
)
def test_no_other_file_is_replaced(copy: Path, name: str) -> None:
    (copy / "brca.csv").write_text("file_id,file_name\n")
    (copy / "link").symlink_to("catalogue.db")
    os.mkfifo(copy / "pipe")
    before = contents(copy)
    says(to_file(copy, "mirror", copy / name), USAGE_ERROR, str(copy / name), "Name a")
    says(to_file(copy, "mirror", copy / "no" / name), USAGE_ERROR, f"{copy}/no: no such directory")
    assert contents(copy) == before


def test_a_mirror_below_a_name_that_is_not_utf_8(copy: Path, tmp_path: Path) -> None:
    root = copy.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    path = tmp_path / "manifest.csv"
    assert to_file(root, "slide2vec", path).code == 0
    first = path.read_bytes().splitlines()[1].split(b",")[1]
    assert Path(os.fsdecode(first)).is_file()


def test_no_terminal_obeys_what_a_table_holds(copy: Path) -> None:
    change(copy, "update slides set primary_site = 'x' || char(27) || '[2J,\"y\"'")
    assert "\x1b[2J" in went_well("--mirror", copy, "table", "slideflow").out
    shown = on_a_terminal(200, "--mirror", copy, "table", "slideflow")
    assert "[2J" in shown and "\x1b" not in shown


# The whole -------------------------------------------------------------------


def test_the_kinds_are_those_of_the_command_and_the_manual() -> None:
    page = PAGES["table"].read_text(encoding="utf-8")
    assert (
        list(tables.KINDS) == list(CHOICES["KIND"]) == re.findall(r"^## (.*)$", page, re.MULTILINE)
    )
    assert all(f"tcga table {kind}" in page for kind in tables.KINDS)
    assert re.findall(r"^  (\w+)  ", COMMANDS["table"], re.MULTILINE) == list(tables.KINDS)


def test_a_large_mirror_takes_no_second_and_java_its_literals(tmp_path: Path) -> None:
    crowd(tmp_path / "m", 3000)
    began = time.process_time()
    printed(tmp_path / "m", "mirror")
    assert time.process_time() - began < 1
    script = inside("--mirror", tmp_path / "m", "table", "qupath").out
    literals = script.split("'''")[1::2]
    assert max(map(len, literals)) < 65_000 and len(literals) > 2
    assert len(sizes(script)) == script.count(".png")
