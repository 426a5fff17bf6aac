"""Images of sampled slides: what is recorded of them, checked against it, and restored."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from tcgamirror.catalogue.database import Part, Row, Value, dicts
from tcgamirror.catalogue.exclusions import apply_exclusions
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import Mpp, MppSource, Picture, Slide, Status
from tcgamirror.model.text import timestamp

PICTURE_COLUMNS = (
    *("source", "level", "level_downsample", "base_mpp", "mpp_source", "mpp_x", "mpp_y"),
    *("width", "height", "path", "bytes", "sha256", "fetched_at", "patched_tiles"),
    "pixels_sha256",
)
"""Columns of `images` that describe an image, and stay while its slide is pending again."""

_PLAIN_COLUMNS = tuple(field.name for field in fields(Picture) if field.name not in ("mpp", "size"))

STATUS_COLUMNS = (
    *("status", "attempts", "bytes_fetched", "seconds", "error", "failures", "retry_at"),
)
"""Columns of `images` that tell how fetching went."""

_COLUMNS = (*STATUS_COLUMNS, *PICTURE_COLUMNS)

REQUEUE = (
    "UPDATE images SET status = 'pending', error = NULL, failures = 0, retry_at = NULL "
    "WHERE +status <> 'excluded' AND "
)
"""SQL that makes slides pending; the condition has to be added."""

CHANGE_IS_LOGGED = (
    "EXISTS (SELECT 1 FROM images AS image "
    "JOIN changes USING (file_name) JOIN releases USING (merge) "
    "WHERE image.file_name = slides.file_name AND image.status <> 'done' "
    "AND what = 'changed' AND merged_at > fetched_at)"
)
"""SQL condition on a row of `slides`: its file changed since its image was made, by the log."""

OUTDATED = f"(slides.upstream = 'changed' OR {CHANGE_IS_LOGGED})"
"""SQL condition on a row of `slides`: its file changed since its image, if any, was made.

The log of changes tells it of slides that were withdrawn since.
"""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image file found, of a slide as it was listed at `made`, seconds since the epoch."""

    slide: Slide
    picture: Picture
    made: float


@dataclass(frozen=True, slots=True)
class Image:
    """An image file that the catalogue records. Texts that were never recorded are empty.

    path: relative to the mirror. size: pixels. done: whether the file must exist; else its slide
    is to be fetched again.
    """

    file_name: str
    path: str
    bytes: int
    sha256: str
    size: Size
    pixels_sha256: str | None
    done: bool

    @classmethod
    def of_row(cls, row: Row) -> Image:
        """Return the image that a row of `images` records. Raises sqlite3.DataError for none."""
        texts = [row[column] or "" for column in ("file_name", "path", "sha256")]
        counts = [row[column] or 0 for column in ("bytes", "width", "height")]
        are_typed = {*map(type, texts)} == {str} and {*map(type, counts)} == {int}
        if not are_typed or min(map(int, counts)) < 0:
            raise sqlite3.DataError(f"{texts[1]!r:.80} of {counts[0]!r:.80} bytes is not an image")
        name, path, sha256 = map(str, texts)
        size, width, height = map(int, counts)
        pixels = row["pixels_sha256"] if isinstance(row["pixels_sha256"], str) else None
        is_done = row["status"] == Status.DONE
        return cls(name, path, size, sha256, Size(width, height), pixels, is_done)


class Images(Part):
    """The image of each sampled slide."""

    def done(self, name: str | None = None) -> list[Image]:
        """Return the images that are done, by rank; with a file name, that slide's alone."""
        # No condition that is always true: SQLite would go through all slides to find one.
        of_name, names = ("", ()) if name is None else ("AND file_name = ?", (name,))
        with self._database.reading() as connection:
            return images_of(connection, f"status = 'done' {of_name}", *names)

    def recorded(self, names: Iterable[str] | None = None) -> list[Image]:
        """Return the images that have a file, by rank; also those to be fetched again.

        names: of the slides whose images are wanted; None for all.
        """
        with self._database.reading() as connection:
            if names is None:
                return images_of(connection)
            of_names = "file_name IN (SELECT value FROM json_each(?))"
            return images_of(connection, f"{_WITH_FILE} AND {of_names}", json.dumps([*names]))

    def total_bytes(self) -> int:
        """Return the bytes of all images that have a file."""
        sql = f"SELECT coalesce(sum(bytes), 0) FROM images WHERE {_WITH_FILE}"
        return int(self._database.value(sql))

    def count_outdated(self) -> int:
        """Return how many images exist of slides that are to be fetched again."""
        sql = (
            "SELECT count(*) FROM images WHERE status IN ('pending', 'failed') AND path IS NOT NULL"
        )
        return int(self._database.value(sql))

    def to_repair(self) -> list[str]:
        """Return file names of slides whose recorded image is to be fetched again.

        A slide whose file changed upstream is left to `update` until that fails.
        """
        return self._database.column(
            "SELECT file_name FROM images JOIN slides USING (file_name) WHERE path IS NOT NULL "
            f"AND (status = 'failed' OR (status = 'pending' AND NOT {OUTDATED}))"
        )

    def path_of(self, name: str) -> str | None:
        """Return the path of a sampled slide's image, also if it is to be fetched again."""
        path: str | None
        path = self._database.value("SELECT path FROM images WHERE file_name = ?", name)
        return path

    def paths(self) -> set[str]:
        """Return the paths of all images, also of those that are to be fetched again."""
        return set(self._database.column("SELECT path FROM images WHERE path IS NOT NULL"))

    def clear(self, names: Iterable[str]) -> None:
        """Record no images for these slides. Those that are done become pending."""
        empty = ", ".join(f"{column} = NULL" for column in PICTURE_COLUMNS)
        with self._database.change() as connection:
            connection.executemany(
                f"UPDATE images SET {empty}, "
                "status = CASE status WHEN 'done' THEN 'pending' ELSE status END "
                "WHERE file_name = ?",
                ((name,) for name in names),
            )

    def accept_kept(self, names: Iterable[str]) -> None:
        """Make slides done whose kept image is whole, unless their file has changed since."""
        with self._database.change() as connection:
            connection.executemany(
                f"UPDATE images SET status = '{Status.DONE}' WHERE file_name = ? "
                "AND status = 'pending' AND sha256 IS NOT NULL AND EXISTS (SELECT 1 FROM slides "
                f"WHERE slides.file_name = images.file_name AND NOT {OUTDATED})",
                ((name,) for name in names),
            )

    def restore(self, images: Sequence[FoundImage]) -> int:
        """Record images found of sampled slides; return how many are to be fetched again.

        Those show a file that has changed since, or a slide whose header may never have
        been read. They stay in their place until then.
        """
        rows: list[Row] = []
        with self._database.change() as connection:
            for image in images:
                slide, name = image.slide, image.slide.file_name
                differs, file_id = connection.execute(
                    "SELECT coalesce(md5 <> ?, size <> ?, 0), file_id FROM slides "
                    "WHERE file_name = ?",
                    (slide.md5, slide.size, name),
                ).fetchone()
                stale = differs or image.picture.in_doubt
                status = Status.PENDING if stale else Status.DONE
                rows.append({**picture_row(name, image.picture, image.made), "status": status})
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
            write_images(connection, rows)
            apply_exclusions(connection)
        return sum(row["status"] == Status.PENDING for row in rows)


def picture_row(file_name: str, picture: Picture, made: float) -> dict[str, Value]:
    """Return the columns that describe an image. made: seconds since the epoch."""
    return {
        "file_name": file_name,
        **{name: getattr(picture, name) for name in _PLAIN_COLUMNS},
        "base_mpp": picture.mpp.value,
        "mpp_source": picture.mpp.source,
        "width": picture.size.width,
        "height": picture.size.height,
        "fetched_at": timestamp(made),
    }


def picture_of(row: Mapping[str, Any]) -> Picture:
    """Return the image that such columns describe."""
    return Picture(
        mpp=Mpp(row["base_mpp"], MppSource(row["mpp_source"])),
        size=Size(row["width"], row["height"]),
        **{name: row[name] for name in _PLAIN_COLUMNS},
    )


def write_images(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Set columns of sampled slides' images; those of other tables are left out."""
    for columns, same in groupby(rows, lambda row: [name for name in _COLUMNS if name in row]):
        values = ", ".join(f"{name} = :{name}" for name in columns)
        connection.executemany(f"UPDATE images SET {values} WHERE file_name = :file_name", same)


_WITH_FILE = "path IS NOT NULL AND bytes IS NOT NULL AND sha256 IS NOT NULL"


def images_of(
    connection: sqlite3.Connection, condition: str = _WITH_FILE, *values: str
) -> list[Image]:
    """Return the images for which an SQL condition holds, by rank, see `Image.of_row`."""
    sql = (
        "SELECT file_name, path, sha256, pixels_sha256, status, bytes, width, height "
        f"FROM images JOIN sample USING (file_name) WHERE {condition} ORDER BY rank"
    )
    return [Image.of_row(row) for row in dicts(connection, sql, *values)]


def fact_of(path: Path, key: str) -> str | None:
    """Return a fact of a catalogue in any state; None if it cannot be read.

    The file and its journals stay byte for byte as they are. Opening a damaged file
    otherwise would play a journal into it.
    """
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            row = connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])
