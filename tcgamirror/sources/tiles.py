"""Deep Zoom tiles of one level, from the server of the GDC's viewer.

The server tells no resolution: that has to come from the slide's own header,
where some origin lets it be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tcgamirror.decode import Pixels
from tcgamirror.deepzoom import DeepZoom, decoded
from tcgamirror.errors import BadSlide, BadTile, NotThere, Refused
from tcgamirror.files import room
from tcgamirror.geometry import Grid
from tcgamirror.model import UNKNOWN_MPP, Slide, Target
from tcgamirror.sources import Opened
from tcgamirror.sources.reading import work_folder
from tcgamirror.svs import Base
from tcgamirror.transport import Meter, Transport

AT_ONCE = 4
"""Tiles of one slide that are asked for at the same time."""
TRIES = 3
"""How often a tile is asked for that comes, but damaged."""
MOST_TILE_BYTES = 64 << 20
MOST_METADATA_BYTES = 1 << 20

ReadHeader = Callable[[Slide, Meter], Base | None]
"""Reads a slide's size and resolution from its header; None where nobody lets it be read."""


class Tiles:
    """Gets the level at or above the target, tile by tile."""

    name = "tiles"

    def __init__(
        self, transport: Transport, address: str, work: Path, read_header: ReadHeader
    ) -> None:
        """address: of the tile server, without a final slash."""
        self._transport = transport
        self._address = address
        self._work = work
        self._read_header = read_header

    @contextmanager
    def open(self, slide: Slide, target: Target, meter: Meter) -> Iterator[Opened]:
        with work_folder(self._work, slide.file_id, self.name) as folder:
            url = f"{self._address}/metadata/{slide.file_id}"
            zoom = DeepZoom.of(self._transport.json(url, limit=MOST_METADATA_BYTES, meter=meter))
            base = self._read_header(slide, meter)
            if base is not None and base.size != zoom.size:
                raise BadSlide(f"the slide has {base.size} pixels, its tiles {zoom.size}")
            pyramid = zoom.pyramid(base.mpp if base is not None else UNKNOWN_MPP)
            rendition = target.rendition(pyramid)
            level = _ServedLevel(
                zoom, zoom.last_level - rendition.level, folder, f"{self._address}/{slide.file_id}"
            )
            self._fetch(level, meter)
            yield Opened(pyramid, rendition, level)

    def _fetch(self, level: _ServedLevel, meter: Meter) -> None:
        """Has every tile of the level in `work/`, several at a time; the first failure ends it."""
        missing = [place for place in level.places() if not level.path(*place).exists()]
        with ThreadPoolExecutor(AT_ONCE, "tile") as pool:
            waiting = [pool.submit(self._fetch_tile, level, *place, meter) for place in missing]
            try:
                for fetched in waiting:
                    fetched.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _fetch_tile(self, level: _ServedLevel, column: int, row: int, meter: Meter) -> None:
        for tries_left in reversed(range(TRIES)):
            try:
                data = self._transport.read(
                    level.url(column, row), limit=MOST_TILE_BYTES, meter=meter
                )
                level.keep(column, row, data)
            except BadTile:
                if not tries_left:
                    raise
            except (NotThere, Refused) as error:
                raise BadTile(f"the tile at column {column}, row {row}: {error}") from error
            else:
                return


class _ServedLevel:
    """One Deep Zoom level whose tiles lie in `folder` as they came."""

    def __init__(self, zoom: DeepZoom, dz_level: int, folder: Path, url: str) -> None:
        self.grid: Grid = zoom.grid(dz_level)
        self._zoom = zoom
        self._dz_level = dz_level
        self._folder = folder
        self._url = url

    def places(self) -> Iterator[tuple[int, int]]:
        for row in range(self.grid.rows):
            for column in range(self.grid.columns):
                yield column, row

    def url(self, column: int, row: int) -> str:
        return f"{self._url}?level={self._dz_level}&x={column}&y={row}"

    def path(self, column: int, row: int) -> Path:
        size = f"{self.grid.size.width}x{self.grid.size.height}"
        return self._folder / f"{size}-{self._zoom.tile}-{self._zoom.overlap}-{column}-{row}"

    def keep(self, column: int, row: int, data: bytes) -> None:
        """Writes the tile down if it is whole. Raises BadTile, naming its place, if it is not."""
        self._decoded(data, column, row)
        path = self.path(column, row)
        part = path.with_suffix(".part")
        with room(path):
            part.write_bytes(data)
            part.replace(path)

    def tile(self, column: int, row: int) -> Pixels:
        return self._decoded(self.path(column, row).read_bytes(), column, row)

    def _decoded(self, data: bytes, column: int, row: int) -> Pixels:
        own = self.grid.box(column, row)
        try:
            return decoded(data, self._zoom.served_box(self.grid, column, row), own)
        except BadTile as error:
            raise BadTile(f"the tile at column {column}, row {row}: {error}") from error
