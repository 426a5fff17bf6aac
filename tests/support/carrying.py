"""Exports made, packed by other tools, and compared with what they were made of."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from tests.gdc import Listed, StandIn, listed
from tests.support.command import inside as inside
from tests.support.command import went_well
from tests.support.mirrors import column, filled, rows, says, updated
from tests.support.slides import SlideSpec, make_slide

T = TypeVar("T", Path, str)

FORMS = ("", ".tar")

_SAME = (
    "select * from mirror order by sample_rank",
    "select * from slides order by file_name",
    "select * from former_ids order by 1, 2",
    "select * from releases order by merge",
    "select * from changes order by change",
    "select * from sample order by rank",
    "select file_name, failures, retry_at from images order by file_name",
    "select file_name, source, started, seconds, bytes, requests, fault, message "
    "from attempts order by file_name, attempt",
    "select value from facts where key = 'fixed at init'",
)


def exported(root: Path, dest: T, *options: str | Path) -> T:
    """Make an export without an error; return its place."""
    went_well("--mirror", root, "export", dest, *options)
    return dest


def imported(root: Path, source: Path | str) -> dict[str, object]:
    """Return the answer of an import that succeeds."""
    answer = went_well("--mirror", root, "import", source, "--json").json()
    assert isinstance(answer, dict)
    return answer


def known(root: Path) -> list[list[tuple[object, ...]]]:
    """Return all rows of a catalogue, but for runs."""
    return [rows(root, sql) for sql in _SAME]


def is_clean(root: Path) -> bool:
    result = inside("--mirror", root, "verify", "--decode", "--json")
    return result.code == 0 and not result.json()["strays"]


def refused(root: Path, source: Path) -> str:
    """Return the sentence of an import that is refused and leaves nothing."""
    before = sorted(root.parent.iterdir())
    result = inside("--mirror", root, "import", source)
    says(result, 2)
    assert sorted(root.parent.iterdir()) == before, "it left something"
    return result.sentence.removeprefix("tcgamirror: ")


def packed(folder: Path, tar: Path, *more: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Return a tar of an export's directory as GNU tar makes it, with more entries."""
    with tarfile.open(tar, "w") as out:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                out.add(path, f"x/{path.relative_to(folder)}")
        for info, data in more:
            info.size = len(data) or info.size
            out.addfile(info, io.BytesIO(data) if data else None)
    return tar


def entry(name: str, **what: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in what.items():
        setattr(info, key, value)
    return info


@contextmanager
def catalogue(folder: Path) -> Iterator[sqlite3.Connection]:
    """Yield the catalogue in an export's directory, to be changed; then correct its digest."""
    with closing(sqlite3.connect(folder / "catalogue.db")) as connection:
        yield connection
        connection.commit()
    resummed(folder)


def resummed(folder: Path) -> None:
    """Write SHA256SUMS again, as an attacker who changes an export would."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def check_sums(folder: Path) -> None:
    """Fail if `sha256sum -c` does, or leaves a file unchecked."""
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert checked.stdout.count(": OK\n") == len(files) - 1


def other_pixels(file: Listed, path: Path, seed: int = 77) -> Listed:
    """Return the same slide as another file."""
    spec = SlideSpec(width=512, height=400, downsamples=(1, 4), thumbnail=False, seed=seed)
    fresh = listed(make_slide(path, spec), file_name=file.file_name)
    return dataclasses.replace(file, path=fresh.path, md5=fresh.md5, size=fresh.size)


def unpacked(export: Path, folder: Path) -> Path:
    """Return the directory that `tar` makes of an export."""
    if export.is_dir():
        return export
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xf", export, "-C", folder], check=True)
    (only,) = folder.iterdir()
    return only


def moved_projects(folder: Path, slides: Sequence[Listed]) -> tuple[Path, Path]:
    """Return a mirror before and after a release that moved two slides to another project.

    The second one's file changed, too: its image was made again, in the new project's folder.
    """
    with StandIn(slides) as gdc:
        root = filled(folder / "m", gdc, slides=6)
        before = shutil.copytree(root, folder / "before")
        first, second = column(root, "select file_name from mirror order by sample_rank limit 2")
        files = {file.file_name: file for file in slides}
        files[str(second)] = other_pixels(files[str(second)], folder / "a.svs")
        for name in (str(first), str(second)):
            files[name] = dataclasses.replace(files[name], project_id="TCGA-NEW")
        gdc.publish(list(files.values()), "Data Release 46.0 - March 04, 2026")
        time.sleep(1.1)
        updated(root)
    projects = column(root, "select path like '%TCGA-NEW%' from mirror order by sample_rank")
    assert projects == [0, 1, 0, 0, 0, 0]
    return before, root
