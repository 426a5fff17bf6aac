"""A mirror of many made-up slides with tiny images: `python -m tests.support.crowd DIR 12000`.

SQL fills in the images, because recording one takes a transaction.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

from PIL import Image

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.slide import Barcode, Kind, Listing, Slide, Target

NAMES = ("ACC", "BLCA", "BRCA", "CESC", "COAD", "GBM", "HNSC", "KIRC", "LGG", "LUAD", "OV")
PROJECTS = [f"TCGA-{name}" for name in NAMES]
SITES = ["Adrenal gland", "Bladder", "Breast", "Cervix uteri", "Colon", "Brain", "Larynx"]
SITES += ["Kidney", "Brain", "Bronchus and lung", "Ovary"]
STAGES = ["Stage I", "Stage IIA", "Stage IIB", "Stage IV"]
BASES = [0.2277, 0.2325, 0.25, 0.252, 0.252, 0.252, 0.5026]
PICTURES = 40
"""Different images; the slides share them, as hard links do."""
RELEASE = "Data Release 45.0 - December 04, 2025"
NOW = 1795353255.9
FAULTS = (("not there", "404 for /data"), ("bad tile", "tile 3, 4 is not whole"))

_DONE = """
UPDATE images SET status = 'done', attempts = 1, bytes_fetched = ?, seconds = ?, source = ?,
    level = 2, level_downsample = 16.002, base_mpp = ?, mpp_source = ?, mpp_x = ?, mpp_y = ?,
    width = ?, height = ?, path = ?, bytes = ?, sha256 = ?, fetched_at = '2026-11-22T13:57:58Z'
WHERE file_name = ?
"""
_FAILED = "UPDATE images SET status = 'failed', error = ? WHERE file_name = ?"
_ATTEMPT = """
INSERT INTO attempts (run, source, seconds, bytes, fault, message, file_name, started, requests)
VALUES (1, ?, ?, ?, ?, ?, ?, '2026-11-22T13:57:58Z', 7)
"""


def crowd(root: Path, slides: int) -> Mirror:
    """A mirror at `root` in which nine of ten slides are done, and some failed."""
    mirror = Mirror.create(root, Settings(Target(15.0, None), slides=slides))
    pictures = list(_pictures(root))
    chance = random.Random(0)
    listed = [_slide(number, chance) for number in range(1, slides + 1)]
    with Catalogue.open(root / CATALOGUE) as catalogue:
        catalogue.listing.merge(Listing(RELEASE, tuple(listed)), NOW)
        catalogue.sample.add([slide.file_name for slide in listed], NOW)
        catalogue.begin_run("update", NOW)
    with closing(sqlite3.connect(root / CATALOGUE)) as connection, connection:
        for number, slide in enumerate(listed, 1):
            case = slide.case_barcode if slide.kind is Kind.DIAGNOSTIC else None
            _add_labels(connection, number, slide.file_name, case)
            status = chance.choice(["done"] * 18 + ["failed", "pending"])
            if status == "done":
                _add_image(connection, root, slide, chance, pictures[number % PICTURES])
            elif status == "failed":
                fault = chance.choice(FAULTS)
                connection.execute(_FAILED, (f"range: {fault[1]}", slide.file_name))
                connection.execute(_ATTEMPT, ("range", 0.4, 50_000, *fault, slide.file_name))
    return mirror


def _pictures(root: Path) -> Iterator[tuple[Path, str]]:
    (root / "images").mkdir()
    for number in range(PICTURES):
        path = root / "images" / f"{number}.png"
        image = Image.radial_gradient("L").resize((120, 90 + number))
        Image.merge("RGB", (image, image.rotate(number), image)).save(path)
        yield path, hashlib.sha256(path.read_bytes()).hexdigest()


def _slide(number: int, chance: random.Random) -> Slide:
    place = chance.randrange(len(PROJECTS))
    file_id = str(UUID(hashlib.md5(str(number).encode()).hexdigest())).upper()
    code = chance.choice(["DX1"] * 4 + ["TSA"])
    name = f"TCGA-{file_id[:2]}-{file_id[2:6]}-01Z-00-{code}.{file_id}.svs"
    barcode = Barcode.of(name)
    assert barcode is not None
    return Slide(
        file_id=file_id.lower(),
        file_name=name,
        md5=file_id.replace("-", "").lower(),
        size=10**9 + number,
        kind=barcode.kind,
        project_id=PROJECTS[place],
        primary_site=SITES[place],
        disease_type="Ductal and Lobular Neoplasms",
        sample_type=barcode.sample_type,
        case_barcode=barcode.case,
        slide_barcode=barcode.slide,
    )


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
    root: Path,
    slide: Slide,
    chance: random.Random,
    picture: tuple[Path, str],
) -> None:
    path = root / "images" / str(slide.project_id) / f"{slide.file_name}.png"
    path.parent.mkdir(exist_ok=True)
    path.hardlink_to(picture[0])
    source = chance.choice(["range"] * 20 + ["tiles", "whole"])
    base = chance.choice(BASES) if chance.random() > 0.02 else None
    mpp = None if base is None else 15.0 + chance.uniform(-0.01, 0.01)
    moved, seconds = chance.randrange(10**6, 10**7), chance.uniform(0.5, 4)
    with Image.open(path) as image:
        size = image.size
    file = (str(path.relative_to(root)), path.stat().st_size, picture[1], slide.file_name)
    known = (base, "header" if base else "unknown", mpp, mpp)
    connection.execute(_DONE, (moved, seconds, source, *known, *size, *file))
    connection.execute(_ATTEMPT, (source, seconds, moved, None, None, slide.file_name))


if __name__ == "__main__":
    crowd(Path(sys.argv[1]), int(sys.argv[2]))
