"""A mirror of many made-up slides with tiny images: `python -m tests.support.crowd DIR 12000`.

For what has to stay quick. Its catalogue is filled by SQL, because going through `record` takes a
transaction, and a disk's timeouts, for each slide.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from PIL import Image

from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.slide import Target

NAMES = ("ACC", "BLCA", "BRCA", "CESC", "COAD", "GBM", "HNSC", "KIRC", "LGG", "LUAD", "OV")
PROJECTS = [f"TCGA-{name}" for name in NAMES]
SITES = ["Adrenal gland", "Bladder", "Breast", "Cervix uteri", "Colon", "Brain", "Larynx"]
SITES += ["Kidney", "Brain", "Bronchus and lung", "Ovary"]
STAGES = ["Stage I", "Stage IIA", "Stage IIB", "Stage IV"]
BASES = [0.2277, 0.2325, 0.25, 0.252, 0.252, 0.252, 0.5026]
PICTURES = 40
"""Different images; the slides share them, as hard links do."""

RELEASE = "Data Release 45.0 - December 04, 2025"


def crowd(root: Path, slides: int) -> Mirror:
    """A mirror at `root` in which nine of ten slides are done, and some failed."""
    mirror = Mirror.create(root, Settings(Target(15.0, None), slides=slides))
    pictures = list(_pictures(root))
    chance = random.Random(0)
    with closing(sqlite3.connect(root / CATALOGUE)) as connection, connection:
        connection.execute(
            "INSERT INTO releases (release, merged_at, listed, added, changed, reidentified, "
            "withdrawn, returned, duplicates) VALUES (?, '', ?, ?, 0, 0, 0, 0, 0)",
            (RELEASE, slides, slides),
        )
        connection.execute(
            "INSERT INTO runs (run, command, started) VALUES (1, 'update', '2026-11-22T13:14:15Z')"
        )
        for number in range(1, slides + 1):
            _add(connection, root, number, chance, pictures[number % PICTURES])
    return mirror


def _pictures(root: Path) -> Iterator[tuple[Path, str]]:
    folder = root / "images"
    folder.mkdir(parents=True)
    for number in range(PICTURES):
        path = folder / f"{number}.png"
        image = Image.radial_gradient("L").resize((120, 90 + number))
        Image.merge("RGB", (image, image.rotate(number), image)).save(path)
        yield path, hashlib.sha256(path.read_bytes()).hexdigest()


def _add(
    connection: sqlite3.Connection,
    root: Path,
    number: int,
    chance: random.Random,
    picture: tuple[Path, str],
) -> None:
    place = chance.randrange(len(PROJECTS))
    uuid = hashlib.md5(str(number).encode()).hexdigest()
    uuid = f"{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}"
    case = f"TCGA-{uuid[:2].upper()}-{uuid[2:6].upper()}"
    kind, code = chance.choice([("diagnostic", "DX1")] * 4 + [("tissue", "TSA")])
    barcode = f"{case}-01Z-00-{code}"
    name = f"{barcode}.{uuid.upper()}.svs"
    connection.execute(
        "INSERT INTO slides (file_name, file_id, md5, size, kind, project_id, primary_site, "
        "disease_type, sample_type, case_barcode, slide_barcode, position, listed_in) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, 'Ductal and Lobular Neoplasms', 'Primary Tumor', ?, ?, ?, ?)",
        (
            *(name, uuid, uuid.replace("-", ""), 10**9 + number, kind),
            *(PROJECTS[place], SITES[place], case, barcode, number, RELEASE),
        ),
    )
    _add_labels(connection, number, name, case if kind == "diagnostic" else None)
    connection.execute(
        "INSERT INTO sample (file_name, rank, sampled_at) VALUES (?, ?, '')", (name, number)
    )
    status = chance.choice(["done"] * 18 + ["failed", "pending"])
    if status == "done":
        path = root / "images" / PROJECTS[place] / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(picture[0])
        _add_image(connection, name, chance, str(path.relative_to(root)), picture)
        return
    fault = chance.choice([("not there", "404 for /data"), ("bad tile", "tile 3, 4 is not whole")])
    error = f"range: {fault[1]}" if status == "failed" else None
    connection.execute(
        "INSERT INTO images (file_name, status, error) VALUES (?, ?, ?)", (name, status, error)
    )
    if status == "failed":
        _add_attempt(connection, name, "range", 50_000, 0.4, fault)


def _add_labels(connection: sqlite3.Connection, number: int, name: str, case: str | None) -> None:
    """Add labels as the GDC has them: a frozen slide's tissue here, else those of the case."""
    if case is None:
        tissue = (name, number % 10 * 10, 2.5)
        connection.execute(
            "INSERT INTO tissue (file_name, percent_tumor_cells, percent_necrosis) "
            "VALUES (?, ?, ?)",
            tissue,
        )
        return
    stage = None if number % 5 == 0 else STAGES[number % len(STAGES)]
    connection.execute(
        "INSERT OR IGNORE INTO cases (case_barcode, diagnoses, ajcc_pathologic_stage, "
        "age_at_diagnosis) VALUES (?, 1, ?, ?)",
        (case, stage, 365 * 40 + number),
    )


def _add_image(
    connection: sqlite3.Connection,
    name: str,
    chance: random.Random,
    path: str,
    picture: tuple[Path, str],
) -> None:
    source = chance.choice(["range"] * 20 + ["tiles", "whole"])
    base = chance.choice(BASES) if chance.random() > 0.02 else None
    with Image.open(picture[0]) as image:
        width, height = image.size
    mpp = None if base is None else 15.0 + chance.uniform(-0.01, 0.01)
    moved, seconds = chance.randrange(10**6, 10**7), chance.uniform(0.5, 4)
    connection.execute(
        "INSERT INTO images (file_name, status, attempts, bytes_fetched, seconds, source, level, "
        "level_downsample, base_mpp, mpp_source, mpp_x, mpp_y, width, height, path, bytes, sha256, "
        "fetched_at) VALUES (?, 'done', 1, ?, ?, ?, 2, 16.002, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(name, moved, seconds, source, base, "header" if base else "unknown", mpp, mpp),
            *(width, height, path, picture[0].stat().st_size, picture[1], "2026-11-22T13:57:58Z"),
        ),
    )
    _add_attempt(connection, name, source, moved, seconds, (None, None))


def _add_attempt(
    connection: sqlite3.Connection,
    name: str,
    source: str,
    moved: int,
    seconds: float,
    fault: tuple[str | None, str | None],
) -> None:
    connection.execute(
        "INSERT INTO attempts (run, file_name, source, started, seconds, bytes, requests, fault, "
        "message) VALUES (1, ?, ?, '2026-11-22T13:57:58Z', ?, ?, 7, ?, ?)",
        (name, source, seconds, moved, *fault),
    )


if __name__ == "__main__":
    crowd(Path(sys.argv[1]), int(sys.argv[2]))
