"""The catalogue's SQL for its upkeep: what `verify` compares with, what `rebuild` puts back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path

from tcgamirror.catalogue.listing import SLIDE_COLUMNS
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import Picture, Slide, Status, Upstream
from tcgamirror.model.text import timestamp


@dataclass(frozen=True, slots=True)
class Kept:
    """An image that is done, as the catalogue has it.

    rank: of its slide in the sample. path: relative to the mirror. bytes,
    sha256: of the file. size: pixels. None, or zeros, if it was never recorded.
    """

    rank: int
    file_name: str
    path: str | None
    bytes: int | None
    sha256: str | None
    size: Size


@dataclass(frozen=True, slots=True)
class Restored:
    """An image found in the mirror. slide: as it was listed then. made: seconds since the epoch."""

    slide: Slide
    picture: Picture
    made: float


def kept(connection: sqlite3.Connection, name: str | None = None) -> list[Kept]:
    """What is done, by rank; with a name, that slide alone."""
    # Said only where one is given: SQLite would go through all of them to find it.
    of_name, names = ("", ()) if name is None else ("AND file_name = ?", (name,))
    rows = connection.execute(
        "SELECT rank, file_name, path, bytes, sha256, coalesce(width, 0), coalesce(height, 0) "
        f"FROM images JOIN sample USING (file_name) WHERE status = 'done' {of_name} ORDER BY rank",
        names,
    )
    return [
        Kept(rank, file_name, path, size, sha256, Size(width, height))
        for rank, file_name, path, size, sha256, width, height in rows
    ]


def awaited(connection: sqlite3.Connection) -> int:
    """How many images there were once whose slides are to be fetched again."""
    sql = "SELECT count(*) FROM images WHERE status <> 'done' AND path IS NOT NULL"
    (count,) = connection.execute(sql).fetchone()
    return int(count)


def unrepaired(connection: sqlite3.Connection) -> list[str]:
    """File names of slides of which there was an image once, and that were to be fetched again.

    Those that an update has had fetched again, because there is another file, count
    only once that has failed.
    """
    sql = (
        "SELECT file_name FROM images JOIN slides USING (file_name) WHERE path IS NOT NULL "
        "AND (status = 'failed' OR (status = 'pending' AND upstream <> 'changed'))"
    )
    return [name for (name,) in connection.execute(sql)]


def path_of(connection: sqlite3.Connection, name: str) -> str | None:
    """Where that slide's image lies, if it ever had one."""
    row = connection.execute("SELECT path FROM images WHERE file_name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def recorded_paths(connection: sqlite3.Connection) -> set[str]:
    """Where images lie, also those of slides that are to be fetched again."""
    rows = connection.execute("SELECT path FROM images WHERE path IS NOT NULL")
    return {path for (path,) in rows}


def sampled_slides(connection: sqlite3.Connection) -> list[Slide]:
    """The slides of the sample by rank, with what says where their images lie."""
    rows = connection.execute(
        "SELECT file_id, file_name, project_id FROM slides JOIN sample USING (file_name) "
        "ORDER BY rank"
    )
    return [
        Slide(file_id=file_id, file_name=name, project_id=project_id)
        for file_id, name, project_id in rows
    ]


def complaints(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong inside the file, the first few; nothing if it is whole."""
    rows = connection.execute("PRAGMA integrity_check(10)").fetchall()
    found = [str(row[0]) for row in rows if row[0] != "ok"]
    strays = connection.execute("PRAGMA foreign_key_check").fetchmany(10)
    return [*found, *(f"{table}: row {row} belongs to no {of}" for table, row, of, _ in strays)]


def fact_of(path: Path, key: str) -> str | None:
    """What a catalogue in any state says under the key; None if it cannot say.

    The file and its journals are left as they are, byte for byte: any other way
    to open it would play a journal back, into what may be damaged already.
    """
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            row = connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])


def adopt(connection: sqlite3.Connection, slides: Sequence[Slide], upstream: Upstream) -> None:
    """Adds slides that images tell of and no listing does, after those that are listed."""
    (last,) = connection.execute("SELECT coalesce(max(position), 0) FROM slides").fetchone()
    columns = ", ".join(SLIDE_COLUMNS)
    marks = ", ".join("?" * (len(SLIDE_COLUMNS) + 3))
    connection.executemany(
        f"INSERT INTO slides ({columns}, position, upstream, listed_in) VALUES ({marks}) "
        "ON CONFLICT (file_name) DO NOTHING",
        (
            (*astuple(slide), position, upstream, slide.data_release or "unknown")
            for position, slide in enumerate(slides, start=last + 1)
        ),
    )


def restore(connection: sqlite3.Connection, images: Sequence[Restored]) -> int:
    """Give sampled slides their images back; return how many are to be fetched again.

    Those are of a file that has changed since, or their slide's header may never have
    been read. They stay in their place until then.
    """
    again = 0
    for image in images:
        slide, name = image.slide, image.slide.file_name
        differs, file_id = connection.execute(
            "SELECT coalesce(md5 <> ?, size <> ?, 0), file_id FROM slides WHERE file_name = ?",
            (slide.md5, slide.size, name),
        ).fetchone()
        stale = bool(differs or image.picture.in_doubt)
        again += stale
        _put(connection, image, Status.PENDING if stale else Status.DONE)
        if differs:
            connection.execute(
                "UPDATE slides SET upstream = 'changed' "
                "WHERE file_name = ? AND upstream = 'current'",
                (name,),
            )
        if file_id != slide.file_id:
            connection.execute(
                "INSERT OR IGNORE INTO former_ids (file_id, file_name) VALUES (?, ?)",
                (slide.file_id, name),
            )
    return again


def _put(connection: sqlite3.Connection, image: Restored, status: Status) -> None:
    picture = image.picture
    connection.execute(
        "UPDATE images SET status = ?, source = ?, level = ?, level_downsample = ?, base_mpp = ?, "
        "mpp_source = ?, mpp_x = ?, mpp_y = ?, width = ?, height = ?, path = ?, bytes = ?, "
        "sha256 = ?, fetched_at = ?, patched_tiles = ? WHERE file_name = ?",
        (
            status,
            picture.source,
            picture.level,
            picture.level_downsample,
            picture.mpp.value,
            picture.mpp.source,
            picture.mpp_x,
            picture.mpp_y,
            *picture.size,
            picture.path,
            picture.bytes,
            picture.sha256,
            timestamp(image.made),
            picture.patched_tiles,
            image.slide.file_name,
        ),
    )


@dataclass(frozen=True, slots=True)
class Image:
    """An image the catalogue tells of.

    path: relative to the mirror. done: whether it must be there.
    """

    file_name: str
    path: str
    bytes: int
    sha256: str
    done: bool


def images_of(connection: sqlite3.Connection) -> list[Image]:
    """Every image that is recorded, by rank; also those that are to be fetched again.

    Raises ValueError for values that tell of none.
    """
    rows = connection.execute(
        "SELECT file_name, path, images.bytes, sha256, status = 'done' "
        "FROM images JOIN sample USING (file_name) "
        "WHERE path IS NOT NULL AND images.bytes IS NOT NULL AND sha256 IS NOT NULL ORDER BY rank"
    )
    return [_image(*row) for row in rows]


def _image(name: object, path: object, size: object, sha256: object, done: object) -> Image:
    texts = isinstance(name, str) and isinstance(path, str) and isinstance(sha256, str)
    if not texts or not isinstance(size, int) or size < 0:
        raise ValueError(f"{path!r:.80} of {size!r:.80} bytes is no image")
    return Image(str(name), str(path), size, str(sha256), bool(done))
