"""A mirror for Python programs: its slides, their images, and SQL (see `tcgamirror.open`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.reports import Cell
from tcgamirror.mirror import directory
from tcgamirror.model.errors import Damaged, UsageError
from tcgamirror.model.text import command_line, distinct

if TYPE_CHECKING:
    import pandas
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class MirrorSlide:
    """A sampled slide: the columns of the view `mirror`, and its image.

    What is unknown is None. `path` is the image file, as a path that can be opened. The
    manual's page `catalogue` gives the columns' meanings and units.
    """

    file_id: str
    file_name: str
    project_id: str | None
    primary_site: str | None
    disease_type: str | None
    sample_type: str | None
    case_barcode: str | None
    slide_barcode: str | None
    kind: str | None
    upstream: str
    status: str
    source: str | None
    level: int | None
    level_downsample: float | None
    base_mpp: float | None
    mpp_source: str | None
    mpp_x: float | None
    mpp_y: float | None
    width: int | None
    height: int | None
    path: Path | None
    bytes: int | None
    sha256: str | None
    bytes_fetched: int | None
    seconds: float | None
    fetched_at: str | None
    attempts: int
    error: str | None
    sample_rank: int
    data_release: str
    patched_tiles: int | None
    pixels_sha256: str | None
    _mirror: Path = field(repr=False)

    def image(self) -> Image:
        """Return the decoded image, whose `info` has its `mpp_x` and `mpp_y`.

        Raises:
            UsageError: the slide has no image yet.
            Damaged: the image file is missing, damaged, or not of the catalogue's size.
        """
        from tcgamirror.imaging.open_image import open_image

        if self.path is None:
            raise UsageError(
                f"{self.file_name}: it has no image, as it is {self.status}. See "
                f"{command_line('status', self._mirror)}"
            )
        try:
            with open_image(self.path) as image:
                if image.size != (self.width, self.height):
                    size = f"{image.width} × {image.height}"
                    raise Damaged(f"it has {size} pixels, not {self.width} × {self.height}")
                image.load()
        except (Damaged, OSError) as error:
            why = getattr(error, "strerror", None) or error
            remedy = f"Fetch it again by: {command_line('verify --repair', self._mirror)}"
            raise Damaged(f"{self.path}: {why}. {remedy}") from error
        image.info |= {"mpp_x": self.mpp_x, "mpp_y": self.mpp_y}
        return image


_COLUMNS = tuple(each.name for each in fields(MirrorSlide) if not each.name.startswith("_"))


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror, to be read from any thread or process, also while a run writes it.

    Each method reads one state of the catalogue and closes it again. So nothing is kept
    open, and no run has to wait. Methods raise as `tcgamirror.open` does.

    root: the mirror's directory.
    """

    root: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Return the mirror at `path`, see `tcgamirror.open`."""
        root = directory.Mirror.find(Path(path), above=False).root
        with Catalogue.open(root / directory.CATALOGUE, read_only=True):
            return cls(root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is open."""

    def slides(self, where: str | None = None, order: str = "sample_rank") -> Iterator[MirrorSlide]:
        """Return the sampled slides, those without an image too.

        Args:
            where: a condition in SQL, such as "status = 'done' and mpp_x < 5".
            order: columns in SQL, such as "project_id, bytes desc", or "random()".

        Raises:
            BadQuery: SQLite refuses the condition or the order.
        """
        # Line ends, so that a comment ends within its own part.
        condition = f"\nWHERE ({where}\n)" if where is not None else ""
        sql = f"SELECT {', '.join(_COLUMNS)} FROM mirror{condition}\nORDER BY {order}"
        _, rows = self._read(sql)
        return map(self._slide, rows)

    def query(self, sql: str) -> list[dict[str, Cell]]:
        """Return the rows of one reading statement, by column names.

        Raises:
            BadQuery: SQL that is wrong or would write.
        """
        columns, rows = self._read(sql)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def to_pandas(self, sql: str = "SELECT * FROM mirror") -> pandas.DataFrame:
        """Return the rows of one reading statement as a data frame of pandas.

        Raises:
            UsageError: pandas is not installed.
            BadQuery: SQL that is wrong or would write.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError(
                "pandas is not installed. Install it by: pip install 'tcgamirror[pandas]'"
            ) from error
        columns, rows = self._read(sql)
        return pandas.DataFrame(rows, columns=columns)

    def _read(self, sql: str) -> tuple[list[str], list[tuple[Cell, ...]]]:
        """Return columns and rows. All rows are read, so that no reader stays in a run's way."""
        with Catalogue.open(self.root / directory.CATALOGUE, read_only=True) as catalogue:
            # SQLite's memory belongs to the program that calls.
            found = catalogue.reports.query(sql, bound_memory=False)
            return distinct(found.columns), list(found.rows)

    def _slide(self, row: tuple[Any, ...]) -> MirrorSlide:
        columns = dict(zip(_COLUMNS, row, strict=True))
        path = columns.pop("path")
        return MirrorSlide(
            **columns, path=None if path is None else self.root / path, _mirror=self.root
        )
