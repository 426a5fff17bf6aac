"""The source `tiles`: Deep Zoom tiles of one level, from the server of the GDC's viewer.

That server tells no resolution, so it is read in the slide's own header. While the header
cannot be read, the slide is not fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tcgamirror.imaging.decode import Pixels, TileReader
from tcgamirror.imaging.deepzoom import (
    DeepZoom,
    PieceReader,
    decode_tile,
    is_png_or_jpeg,
    remove_ancillary_data,
)
from tcgamirror.imaging.level_reader import LevelReader
from tcgamirror.imaging.svs import MAX_TILES, SlideHeader
from tcgamirror.model.errors import (
    BadSlide,
    BadTile,
    NetworkError,
    NotFound,
    Refused,
    SlideError,
    TooLong,
)
from tcgamirror.model.slide import Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.response import HttpResponse
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.workspace import Lease, Workspace
from tcgamirror.system.files import disk_errors, partial_path
from tcgamirror.system.parallel import for_each

PARALLEL_REQUESTS = 4
"""Requests for one slide in flight."""
TRIES = 3
"""Requests for a tile that arrives damaged."""
MAX_BYTES_PER_PIXEL = 8
"""Bytes of a PNG or JPEG for any image of 8 bits a channel."""
USUAL_BYTES_PER_PIXEL = 3
"""Bytes reserved in `work/`: one a channel, as for an image that does not compress."""
BLOCK = 4096
"""Bytes that the smallest file takes on the disk."""
MAX_HEADER_BYTES = 1 << 16
"""Bytes of a tile's image headers."""
MAX_PROFILE_BYTES = 32 << 20
"""Bytes of a tile's colour profile and the like: 13 MB are known, and JPEG can hold 17 MB."""
MAX_METADATA_BYTES = 1 << 20

ReadHeader = Callable[[Slide, Meter], SlideHeader]
"""Reads a slide's header. Raises NetworkError or SlideError."""


class Tiles:
    """Fetches the level for the target tile by tile."""

    name = "tiles"

    def __init__(
        self, client: HttpClient, address: str, work: Workspace, read_header: ReadHeader
    ) -> None:
        """address: of the tile server, without a final slash."""
        self._client = client
        self._address = address
        self._work = work
        self._read_header = read_header

    @contextmanager
    def open(self, slide: Slide, target: Target, meter: Meter) -> Iterator[LevelReader]:
        with self._work.lease(slide.file_id, self.name) as lease:
            url = f"{self._address}/metadata/{slide.file_id}"
            response = self._client.json(url, limit=MAX_METADATA_BYTES, meter=meter)
            zoom = DeepZoom.from_metadata(response)
            header = self._header(slide, meter)
            if header.size != zoom.size:
                raise BadSlide(f"the slide has {header.size} pixels, its tiles {zoom.size}")
            pyramid = zoom.pyramid(header.mpp)
            rendition = target.rendition(pyramid)
            dz_level = zoom.last_dz_level - rendition.level
            url = f"{self._address}/{slide.file_id}"
            version = lease.folder / (slide.md5 or "unknown")
            level = _ServedLevel(zoom, dz_level, version, url)
            self._fetch_level(level, lease, meter)
            yield LevelReader(pyramid, rendition, level)

    def _header(self, slide: Slide, meter: Meter) -> SlideHeader:
        """Return the slide's header. Any error says that the header cannot be read."""
        try:
            return self._read_header(slide, meter)
        except (NetworkError, SlideError) as error:
            raise type(error)(f"the slide's header cannot be read: {error}") from error

    def _fetch_level(self, level: _ServedLevel, lease: Lease, meter: Meter) -> None:
        """Fetch the missing tiles to `work/`, several at a time; the first failure ends it."""
        count = level.grid.columns * level.grid.rows
        if count > MAX_TILES:
            raise BadSlide(f"its Deep Zoom level has {count} tiles")
        lease.reserve(sum(level.usual_bytes(*tile) for tile in level.tiles()))

        def fetch(tile: tuple[int, int]) -> None:
            if not level.has(*tile):
                self._fetch_tile(level, *tile, meter)

        for_each(fetch, level.tiles(), PARALLEL_REQUESTS, "tile")

    def _fetch_tile(self, level: _ServedLevel, column: int, row: int, meter: Meter) -> None:
        for tries_left in reversed(range(TRIES)):
            try:
                url, max_bytes = level.url(column, row), level.max_bytes(column, row)
                level.write(column, row, fetch_tile(self._client, url, max_bytes, meter))
            except BadTile:
                if not tries_left:
                    raise
            except NetworkError as error:
                message = f"the tile at column {column}, row {row}: {error}"
                kind = BadTile if isinstance(error, NotFound | Refused) else type(error)
                raise kind(message) from error
            else:
                return


def fetch_tile(client: HttpClient, url: str, max_bytes: int, meter: Meter | None = None) -> bytes:
    """Return the tile at `url` without its colour profile.

    Raises NetworkError, which is WrongContent if the first bytes are not an image's.

    Args:
        max_bytes: without the profile.
    """

    def read(response: HttpResponse) -> bytes:
        response.judge(200)
        response.unpacked_only()
        reader = PieceReader(response.small_pieces(max_bytes + MAX_PROFILE_BYTES))
        if not is_png_or_jpeg(reader.peek(8)):
            raise response.other("a tile")
        try:
            return remove_ancillary_data(reader, max_bytes)
        except TooLong as error:
            raise TooLong(f"{response.name}: {error}") from error

    return client.ask(url, read, {"Accept-Encoding": "identity"}, meter=meter)


class _ServedLevel(TileReader):
    """One Deep Zoom level whose tiles are files, as the server sent them.

    version: path that the files' names begin with, of one version of the slide.
    """

    def __init__(self, zoom: DeepZoom, dz_level: int, version: Path, url: str) -> None:
        super().__init__(zoom.grid(dz_level))
        self._zoom = zoom
        self._dz_level = dz_level
        self._version = version
        self._url = url

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Yield column and row of every tile."""
        for row in range(self.grid.rows):
            for column in range(self.grid.columns):
                yield column, row

    def url(self, column: int, row: int) -> str:
        return f"{self._url}?level={self._dz_level}&x={column}&y={row}"

    def max_bytes(self, column: int, row: int) -> int:
        """Return the bytes of the largest valid tile, without its profile."""
        return MAX_HEADER_BYTES + MAX_BYTES_PER_PIXEL * self._max_pixels(column, row)

    def usual_bytes(self, column: int, row: int) -> int:
        """Return the bytes to reserve for the tile, in whole blocks."""
        return BLOCK + USUAL_BYTES_PER_PIXEL * self._max_pixels(column, row)

    def _max_pixels(self, column: int, row: int) -> int:
        """Return the pixels of a tile one pixel larger than nominal each way, still valid."""
        width, height = self._zoom.served_box(self.grid, column, row).size
        return (width + 1) * (height + 1)

    def has(self, column: int, row: int) -> bool:
        """Return whether an earlier run left the whole tile: a power cut may leave an empty one."""
        try:
            self.read_tile(column, row)
        except BadTile:
            return False
        return True

    def write(self, column: int, row: int, data: bytes) -> None:
        """Write a tile's file. Raises BadTile if the data are not a whole tile."""
        self._decode(data, column, row)
        path = self._path(column, row)
        part = Path(partial_path(str(path)))
        with disk_errors(path):
            part.write_bytes(data)
            part.replace(path)

    def read_tile(self, column: int, row: int) -> Pixels:
        """Return the tile's pixels. Raises BadTile if its file is missing or not whole."""
        path, data = self._path(column, row), b""
        with disk_errors(path), suppress(FileNotFoundError):
            data = path.read_bytes()
        return self._decode(data, column, row)

    def _path(self, column: int, row: int) -> Path:
        size = f"{self.grid.size.width}x{self.grid.size.height}"
        tile = f"{size}-{self._zoom.tile}-{self._zoom.overlap}-{column}-{row}"
        return self._version.with_name(f"{self._version.name}-{tile}")

    def _decode(self, data: bytes, column: int, row: int) -> Pixels:
        box = self.grid.box(column, row)
        try:
            return decode_tile(data, self._zoom.served_box(self.grid, column, row), box)
        except BadTile as error:
            raise BadTile(f"the tile at column {column}, row {row}: {error}") from error
