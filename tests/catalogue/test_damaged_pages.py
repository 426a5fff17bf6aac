"""Pages of a catalogue that are damaged: whoever reads it in a copy names the catalogue itself."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.system.files import YOUNG
from tests.support.carrying import inside
from tests.support.command import run, started
from tests.support.mirrors import rows, until
from tests.support.publishing import got, rest

SOAK = bool(os.environ.get("TCGAMIRROR_SOAK"))
NO_TEXT = "no text"
PAGES = ("images", "sample", "slides", "facts", "releases", "sqlite_autoindex_images_1", "attempts")


@pytest.fixture
def root(tmp_path: Path, mirror: Path) -> Path:
    return shutil.copytree(mirror, tmp_path / "m")


def spoil(root: Path, name: str) -> None:
    """Write random bytes into a table's or an index's first page, or no UTF-8 into a path."""
    path = root / "catalogue.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        if name == NO_TEXT:
            connection.execute("UPDATE images SET path = CAST(x'696d61676573ff' AS TEXT)")
            return
        sql = "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = ?"
        page, size = connection.execute(sql, (name,)).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(random.Random(name).randbytes(size))


@pytest.mark.parametrize("name", [*PAGES, NO_TEXT])
@pytest.mark.parametrize("options", [(), ("--only", "project_id <> 'a'")])
def test_an_export_names_the_mirrors_catalogue(
    root: Path, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    spoil(root, name)
    for dest in (tmp_path / "e.tar", tmp_path / "e"):
        result = inside("--mirror", root, "export", dest, *options)
        assert result.code == 7, result
        assert f"{root}/catalogue.db: it is damaged" in result.sentence
        assert ".part" not in result.sentence and not dest.exists()


@pytest.mark.parametrize("name", ["images", "sample", "facts", NO_TEXT])
def test_serve_names_the_mirrors_catalogue(root: Path, name: str) -> None:
    spoil(root, name)
    result = run("--mirror", root, "serve", "--port", "0")
    assert result.code == 7, result
    assert f"{root}/catalogue.db: it is damaged" in result.sentence


def test_what_is_served_stays_and_the_damage_is_told_once(root: Path) -> None:
    rest(root)
    with started("--mirror", root, "serve", "--port", "0") as process:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().split(" at ")[1].split()[0]
        whole = got(f"{url}catalogue.db")
        shutil.copy(root / "catalogue.db", root / "kept")
        spoil(root, "images")
        begun = time.monotonic()
        while time.monotonic() - begun < 2 * YOUNG:
            assert got(f"{url}catalogue.db") == whole
            time.sleep(0.3)
        (root / "kept").replace(root / "catalogue.db")
        (path,) = rows(root, "select path from mirror where sample_rank = 1")[0]
        until(lambda: got(f"{url}{path}"))
        process.terminate()
        assert process.wait(60) == 0
        told = process.stderr.read().splitlines()
    assert len(told) == 1 and f"{root}/catalogue.db: it is damaged" in told[0], told


COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("query", "select * from mirror order by sample_rank"),
    ("show", "TCGA"),
    ("changes",),
    ("verify", "--quick"),
    ("lock", "{new}"),
    ("export", "{new}"),
    ("gallery",),
    ("update", "--dry-run"),
)


@pytest.mark.parametrize("seed", range(400 if SOAK else 12))
def test_no_changed_bytes_end_in_a_bug(root: Path, tmp_path: Path, seed: int) -> None:
    path, chance = root / "catalogue.db", random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 10, 100, 1000))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)
    for number, command in enumerate(COMMANDS):
        words = [word.format(new=tmp_path / str(number)) for word in command]
        result = inside("--mirror", root, *words)
        assert result.code != 1 and "Traceback" not in result.err, (command, result)
