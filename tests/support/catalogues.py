"""Small catalogues for tests: slides a, b and c, and what came of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tcgamirror.catalogue import database
from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import Attempt, Kind, Listing, Mpp, MppSource, Outcome, Picture, Slide

NOW = 1795353255.9
LATER = NOW + 86400
PICTURE = Picture(
    source="range",
    level=2,
    level_downsample=16.002,
    mpp=Mpp(0.25, MppSource.HEADER),
    mpp_x=8.001,
    mpp_y=7.999,
    size=Size(400, 300),
    path="images/TCGA-OV/a.png",
    bytes=1234,
    sha256="ab" * 32,
)
FETCHED = Attempt("range", NOW, 1.5, 1000, 7)
LOST = Attempt("tiles", NOW, 0.5, 10, 1, "not there", "404 for /tile")


def make_older(root: Path, version: int) -> None:
    """Replace a mirror's catalogue by one of an older schema that tells the same."""
    path, newer = root / CATALOGUE, root / "newer"
    path.rename(newer)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        database.migrate(connection, version)
        connection.execute("ATTACH ? AS newer", (str(newer),))
        tables = "SELECT name FROM main.sqlite_master WHERE type = 'table'"
        for (table,) in connection.execute(tables).fetchall():
            names = f"SELECT name FROM pragma_table_info('{table}', 'main')"
            columns = ", ".join(name for (name,) in connection.execute(names))
            connection.execute(
                f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}"
            )
    newer.unlink()


def slide(
    letter: str,
    *,
    file_id: str = "",
    md5: str | None = "",
    project_id: str | None = "TCGA-OV",
    updated: str | None = None,
) -> Slide:
    return Slide(
        file_id=file_id or f"id-{letter}",
        file_name=f"{letter}.svs",
        md5=f"md5-{letter}" if md5 == "" else md5,
        size=5,
        kind=Kind.TISSUE,
        project_id=project_id,
        case_barcode=f"TCGA-{letter.upper()[0]}",
        slide_barcode=f"TCGA-{letter.upper()}",
        updated=updated,
    )


def listing(*slides: Slide, release: str = "Data Release 1") -> Listing:
    return Listing(release, slides)


def in_memory() -> Catalogue:
    """Return an empty catalogue without a file, which `reports.query` cannot read."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    database.migrate(connection)
    return Catalogue(Path("catalogue.db"), connection)


def mirror_row(catalogue: Catalogue, name: str) -> dict[str, Any]:
    with catalogue.reading() as connection:
        (row,) = database.dicts(connection, "SELECT * FROM mirror WHERE file_name = ?", name)
    return row


def done(catalogue: Catalogue, letter: str) -> None:
    run = catalogue.begin_run("fetch", NOW)
    catalogue.queue.record(Outcome(slide(letter), (LOST, FETCHED), PICTURE), run, NOW)
    catalogue.end_run(run, exit_code=0, now=LATER)


def three_slides(path: Path | None = None) -> Catalogue:
    """Slides a, b and c, of which b and a are sampled, in that order."""
    catalogue = in_memory() if path is None else Catalogue.create(path)
    catalogue.listing.merge(listing(slide("a"), slide("b", project_id=None), slide("c")), NOW)
    catalogue.sample.add(["b.svs", "a.svs"], NOW)
    return catalogue
