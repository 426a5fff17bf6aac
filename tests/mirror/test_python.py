"""A mirror from Python: its slides are the view's rows, its images the files' pixels."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tcgamirror
from tcgamirror.catalogue import database
from tcgamirror.mirror.python import MirrorSlide
from tcgamirror.model import errors
from tcgamirror.model.errors import (
    BadQuery,
    BadSettings,
    Damaged,
    Locked,
    NotAMirror,
    TcgaMirrorError,
    UsageError,
)
from tests.gdc import StandIn
from tests.support.catalogues import make_older
from tests.support.command import started, surroundings
from tests.support.documents import PAGES
from tests.support.mirrors import column, made, rows, until, updated
from tests.support.publishing import change

DONE = "status = 'done'"


@pytest.fixture
def copy(pattern: Path, tmp_path: Path) -> Path:
    """A mirror of two slides, to be spoilt."""
    return shutil.copytree(pattern, tmp_path / "m")


def first(root: Path) -> MirrorSlide:
    return next(tcgamirror.open(root).slides())


# What there is ---------------------------------------------------------------


def test_nothing_else_is_public() -> None:
    assert tcgamirror.__all__ == ["Mirror", "MirrorSlide", "open"]
    assert tcgamirror.MirrorSlide is MirrorSlide
    with pytest.raises(AttributeError, match="no attribute 'Slide'"):
        _ = tcgamirror.Slide  # type: ignore[attr-defined]


def test_slides_are_the_rows_of_the_view_with_its_columns(mirror: Path) -> None:
    names = [each.name for each in fields(MirrorSlide) if each.name[0] != "_"]
    assert names == column(mirror, "select name from pragma_table_info('mirror')")
    with tcgamirror.open(mirror) as opened:
        slides = [[getattr(slide, name) for name in names] for slide in opened.slides()]
    place = names.index("path")
    view = rows(mirror, "select * from mirror order by sample_rank")
    for slide, row in zip(slides, view, strict=True):
        assert slide == [*row[:place], mirror / str(row[place]), *row[place + 1 :]]


def test_slides_are_chosen_and_ordered_by_sql(mirror: Path) -> None:
    opened = tcgamirror.open(str(mirror))
    where = "project_id = 'TCGA-BRCA' -- of the breast"
    found = [slide.width for slide in opened.slides(where, "width desc -- the largest first")]
    expected = "select width from mirror where project_id = 'TCGA-BRCA' order by width desc"
    assert found == column(mirror, expected)
    assert found
    assert len({slide.file_id for slide in opened.slides(order="random()")}) == 6


def test_an_image_has_its_pixels_and_its_scale(mirror: Path) -> None:
    for slide in tcgamirror.open(mirror).slides():
        assert slide.path is not None
        image = slide.image()
        assert image.size == (slide.width, slide.height)
        assert (image.info["mpp_x"], image.info["mpp_y"]) == (slide.mpp_x, slide.mpp_y)
        with Image.open(slide.path) as other:
            assert np.array_equal(np.asarray(image), np.asarray(other))


@pytest.mark.parametrize(
    "options", ["--format tiff", "--format jpeg", "--format tiff --resample native"]
)
def test_images_of_other_formats_are_decoded(
    tmp_path: Path, small_gdc: StandIn, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    root = made(tmp_path / "m", small_gdc, *options.split(), "--mpp", "1", slides=1)
    updated(root)
    slide = first(root)
    # Pillow refuses a TIFF of twice as many, as if it were one by an attacker.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert slide.image().size == (slide.width, slide.height)
    assert slide.image().info["mpp_x"] == slide.mpp_x


def test_query_gives_rows_by_name(mirror: Path) -> None:
    opened = tcgamirror.open(mirror)
    assert opened.query("select 1 as n, 2 as n, null as x") == [{"n": 1, "n_2": 2, "x": None}]
    assert len(opened.query("select * from slides")) == len(rows(mirror, "select * from slides"))


def test_pandas_has_the_view(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "pandas", None)
        with pytest.raises(UsageError, match=r"pip install 'tcgamirror\[pandas\]'"):
            tcgamirror.open(mirror).to_pandas()
    pytest.importorskip("pandas")
    frame = tcgamirror.open(mirror).to_pandas()
    assert list(frame.columns) == column(mirror, "select name from pragma_table_info('mirror')")
    assert list(frame["mpp_x"]) == column(mirror, "select mpp_x from mirror")
    assert len(tcgamirror.open(mirror).to_pandas("select 1 where 0")) == 0


# Beside others ---------------------------------------------------------------


def test_threads_and_processes_share_a_mirror(mirror: Path) -> None:
    opened = pickle.loads(pickle.dumps(tcgamirror.open(mirror)))
    slides = pickle.loads(pickle.dumps(list(opened.slides())))
    with ThreadPoolExecutor(3) as pool:
        sizes = [image.size for image in pool.map(MirrorSlide.image, slides)]
        assert list(pool.map(opened.query, ["select 1 as n"] * 6)) == [[{"n": 1}]] * 6
    assert sizes == [(slide.width, slide.height) for slide in slides]


def test_a_run_writes_beside_it(tmp_path: Path, small_gdc: StandIn) -> None:
    root = made(tmp_path / "m", small_gdc, slides=8)
    with tcgamirror.open(root) as mirror:
        assert list(mirror.slides()) == []
        with started("--mirror", root, "update") as process:
            until(lambda: list(mirror.slides(DONE)))
            waiting = mirror.slides(DONE)
            assert next(waiting).image()
            assert process.wait(timeout=60) == 0
        assert len(list(mirror.slides(DONE))) == 8
    assert not list(root.glob("catalogue.db-*")), "a journal is left, as a reader kept it open"


# Errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (shutil.rmtree, NotAMirror, "not a mirror"),
        (lambda root: (root / "tcgamirror.toml").write_text("["), BadSettings, "tcgamirror.toml"),
        (lambda root: (root / "catalogue.db").unlink(), Damaged, "rebuild"),
        (lambda root: (root / "catalogue.db").write_text("?"), Damaged, "rebuild"),
        (lambda root: change(root, "pragma user_version = 99"), UsageError, "Upgrade"),
        (lambda root: make_older(root, 5), UsageError, "older tcgamirror"),
    ],
)
def test_what_cannot_be_opened_is_told_in_a_sentence(
    copy: Path, spoil: Callable[[Path], object], error: type[TcgaMirrorError], words: str
) -> None:
    opened = tcgamirror.open(copy)
    spoil(copy)
    with pytest.raises(error, match=words) as caught:
        tcgamirror.open(copy)
    assert type(caught.value) is error
    if error is not BadSettings:
        with pytest.raises(TcgaMirrorError):
            opened.query("select 1")


def test_a_locked_catalogue_is_told(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    opened = tcgamirror.open(copy)
    with closing(sqlite3.connect(copy / "catalogue.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        for read in (lambda: tcgamirror.open(copy), opened.slides):
            with pytest.raises(Locked, match="another process is writing it"):
                read()
    assert len(list(opened.slides())) == 2


WRONG = ("nonsense", "1; drop table slides", "(", "1) union select (1", "attach 'x' as x")


@pytest.mark.parametrize("sql", [*WRONG, "delete from slides", "pragma user_version=7"])
def test_wrong_sql_is_refused_at_once_and_nothing_is_written(copy: Path, sql: str) -> None:
    before = (copy / "catalogue.db").read_bytes()
    for read in (tcgamirror.open(copy).slides, tcgamirror.open(copy).query):
        with pytest.raises(BadQuery):
            read(sql)
    assert (copy / "catalogue.db").read_bytes() == before


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "No such file"),
        (lambda path: os.truncate(path, path.stat().st_size - 40), "cannot be decoded"),
        (lambda path: Image.new("RGB", (10, 10)).save(path), "10 × 10 pixels"),
        (_pipe, "not a regular file"),
        (lambda path: path.write_text("text"), "no PNG"),
    ],
)
def test_a_spoilt_image_is_damaged(copy: Path, spoil: Callable[[Path], object], words: str) -> None:
    slide = first(copy)
    assert slide.path is not None
    spoil(slide.path)
    with pytest.raises(Damaged, match=words) as caught:
        slide.image()
    assert str(slide.path) in str(caught.value)
    assert f"tcgamirror --mirror {copy} verify --repair" in str(caught.value)


def test_a_slide_without_an_image_has_none(copy: Path) -> None:
    change(copy, "UPDATE images SET path = NULL, status = 'pending'")
    slide = first(copy)
    assert slide.path is None
    with pytest.raises(UsageError, match="pending"):
        slide.image()


# The manual ------------------------------------------------------------------


def test_the_manual_s_errors_are_those_there_are() -> None:
    page = PAGES["python"].read_text(encoding="utf-8")
    named = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    for name in named[named.index("NotAMirror") :]:
        assert issubclass(getattr(errors, name), TcgaMirrorError)


def python(line: str) -> set[str]:
    """Return the words that a line prints in a process of its own."""
    command = [sys.executable, "-c", f"import sys, tcgamirror; {line}"]
    told = subprocess.run(command, env=surroundings(), capture_output=True, text=True, check=True)
    return set(told.stdout.split())


def test_import_and_open_are_light(mirror: Path) -> None:
    heavy = {"numpy", "PIL", "openslide", "requests", "pandas", "sqlite_utils"}
    assert not python("print(*sys.modules)") & {*heavy, "sqlite3", "dataclasses"}
    looking = f"list(tcgamirror.open({str(mirror)!r}).slides())"
    assert not python(f"{looking}; print(*sys.modules)") & heavy


def test_the_memory_of_the_caller_s_sqlite_stays_unbounded(mirror: Path) -> None:
    query = f"tcgamirror.open({str(mirror)!r}).query('select 1')"
    limit = "sqlite3.connect(':memory:').execute('pragma hard_heap_limit').fetchone()"
    assert python(f"import sqlite3; {query}; print(*{limit})") == {"0"}
