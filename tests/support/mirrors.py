"""Small mirrors of a stand-in GDC, and what is in them."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.gdc import Listed, StandIn, listed, made_up_name
from tests.support.command import Result, run, went_well
from tests.support.slides import SlideSpec, make_slide

PROJECTS = ("TCGA-BRCA", "TCGA-LUAD", "TCGA-GBM")
SITES = ("Breast", "Bronchus and lung", "Brain")
DIAGNOSTIC, TISSUE = 15, 3
MPP = 4.0

_PATIENT = re.compile(r"(?ms)^\[network\].*")
_IMPATIENT = "[network]\nconnect = 10.0\nfirst_byte = 10.0\nstall = 1.0\n"
_IMPATIENT += "tries = 2\nbackoff = 0.01\npause = 0.01\n"


def small_slide(folder: Path, number: int) -> Listed:
    """The slide of that number, made in the folder: 500 to 636 by 400 pixels."""
    spec = SlideSpec(
        width=500 + 8 * number, height=400, downsamples=(1, 4), thumbnail=False, seed=number
    )
    return listed(
        make_slide(folder / f"{number}.svs", spec),
        file_name=made_up_name(str(number), "DX1" if number < DIAGNOSTIC else "TSA"),
        project_id=PROJECTS[number % len(PROJECTS)],
        primary_site=SITES[number % len(SITES)],
    )


def addresses(gdc: StandIn) -> tuple[str, ...]:
    return ("--api", gdc.api, "--bucket", gdc.bucket)


def made(root: Path, gdc: StandIn, *options: str, slides: int = 4) -> Path:
    """Make a new mirror at `root`, with short timeouts."""
    size = () if {"--mpp", "--max-size"} & set(options) else ("--mpp", str(MPP))
    number = ("--slides", str(slides))
    went_well("--mirror", root, "init", *size, *number, *addresses(gdc), *options)
    impatient(root)
    return root


def repointed(pattern: Path, root: Path, gdc: StandIn) -> Path:
    """Copy a mirror to `root` and have it use this stand-in."""
    shutil.copytree(pattern, root)
    point_to(root, gdc)
    return root


def point_to(root: Path, gdc: StandIn) -> None:
    rewrite(root, "^api = .*", f'api = "{gdc.api}"')
    rewrite(root, "^tiles = .*", f'tiles = "{gdc.tiles}"')
    rewrite(root, "^bucket = .*", f'bucket = "{gdc.bucket}"')


def impatient(root: Path) -> None:
    rewrite(root, _PATIENT.pattern, _IMPATIENT)


def rewrite(root: Path, pattern: str, text: str) -> None:
    """Edits the mirror's settings, as a person would, where the pattern is found."""
    path = root / "tcgamirror.toml"
    old = path.read_text(encoding="utf-8")
    new = re.sub(pattern, lambda _: text, old, count=1, flags=re.MULTILINE)
    assert new != old, f"{pattern} changes nothing"
    path.write_text(new, encoding="utf-8")


def updated(root: Path) -> Result:
    return went_well("--mirror", root, "update")


def filled(root: Path, gdc: StandIn, *options: str, slides: int = 4) -> Path:
    """Make and update a mirror at `root`."""
    updated(made(root, gdc, *options, slides=slides))
    return root


def write_lock(root: Path, gdc: StandIn, *options: str, slides: int = 2) -> Path:
    """Return the lock file of a new, updated mirror at `root`."""
    filled(root, gdc, *options, slides=slides)
    lock = root.with_suffix(".lock")
    went_well("--mirror", root, "lock", lock)
    return lock


def rows(root: Path, sql: str) -> list[tuple[object, ...]]:
    """What the catalogue answers to another program."""
    address = f"{(root / 'catalogue.db').absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=10)) as connection:
        return connection.execute(sql).fetchall()


def column(root: Path, sql: str) -> list[object]:
    return [first for first, *_ in rows(root, sql)]


def images(root: Path) -> dict[str, str]:
    """The digest of every file under `images/` of a mirror that no run writes to, by path."""
    files = sorted(path for path in (root / "images").rglob("*") if path.is_file())
    return {str(path.relative_to(root)): _digest(path) for path in files}


def finished_images(root: Path) -> list[Path]:
    """The images that are there whole, though a run still writes others."""
    return list(root.glob("images/*/[!.]*"))


def contents(root: Path) -> dict[str, str]:
    """All that is in a directory, by path: digests of files, and the catalogue by its rows.

    Left out: the lock, and that a run was begun and ended.
    """
    return {
        str(path.relative_to(root)): _content(path)
        for path in sorted(root.rglob("*"))
        if path.name != ".lock"
    }


def _content(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return "no file"
    return _dump(path) if path.name == "catalogue.db" else _digest(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _dump(path: Path) -> str:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            lines = [line for line in connection.iterdump() if '"runs"' not in line]
    except sqlite3.DatabaseError:
        return _digest(path)
    return "\n".join(lines)


def until(there: Callable[[], object], seconds: float = 60.0, pause: float = 0.01) -> None:
    """Waits until something is there; fails if it does not come. pause: between two looks."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(pause)


def says(result: Result, code: int, *words: str) -> None:
    """Fails unless the result is one sentence with these words in it, and this exit code."""
    assert result.code == code, result
    assert result.out == ""
    assert result.sentence.startswith("tcgamirror: ")
    assert [word for word in words if word not in result.sentence] == [], result.sentence


def changes_nothing(root: Path, code: int, *words: str, command: str = "update") -> None:
    """Fails unless the command is refused with these words and leaves the mirror as it was."""
    before = contents(root)
    says(run("--mirror", root, *command.split(), timeout=30), code, *words)
    assert contents(root) == before
