"""Deep Zoom tiles of one level, from the server of the GDC's viewer.

The server tells no resolution: that comes from the slide's own header. A slide
whose header cannot be read now is not fetched now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tcgamirror.imaging.decode import LevelReader, Pixels
from tcgamirror.imaging.deepzoom import (
    DeepZoom,
    Stream,
    decoded,
    is_png_or_jpeg,
    remove_ancillary_data,
)
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
from tcgamirror.model.geometry import Grid
from tcgamirror.model.slide import Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.response import HttpResponse
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.workspace import Lease, Workspace
from tcgamirror.system.files import disk_errors
from tcgamirror.system.parallel import for_each

AT_ONCE = 4
"""Tiles of one slide that are asked for at the same time."""
TRIES = 3
"""How often a tile is asked for that comes, but damaged."""
MOST_BYTES_PER_PIXEL = 8
"""More than PNG or JPEG take for any picture of 8 bits a channel."""
USUAL_BYTES_PER_PIXEL = 3
"""Of a tile in `work/`: as many as it has channels, for a picture that packs to nothing less."""
BLOCK = 4096
"""Bytes that a file takes on the disk at least."""
MOST_BYTES_BESIDE = 1 << 16
"""A tile's headers, at most."""
MOST_PROFILE_BYTES = 32 << 20
"""A tile's colour profile and the like, at most: 13 MB are known, and JPEG can hold 17 MB."""
MOST_METADATA_BYTES = 1 << 20

ReadHeader = Callable[[Slide, Meter], SlideHeader]
"""Reads a slide's size and resolution from its header. Raises NetworkError, SlideError."""


class Tiles:
    """Gets the level at or above the target, tile by tile."""

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
            zoom = DeepZoom.of(self._client.json(url, limit=MOST_METADATA_BYTES, meter=meter))
            base = self._header(slide, meter)
            if base.size != zoom.size:
                raise BadSlide(f"the slide has {base.size} pixels, its tiles {zoom.size}")
            pyramid = zoom.pyramid(base.mpp)
            rendition = target.rendition(pyramid)
            dz_level = zoom.last_level - rendition.level
            url = f"{self._address}/{slide.file_id}"
            version = lease.folder / (slide.md5 or "unknown")
            level = _ServedLevel(zoom, dz_level, version, url)
            self._fetch(level, lease, meter)
            yield LevelReader(pyramid, rendition, level)

    def _header(self, slide: Slide, meter: Meter) -> SlideHeader:
        """Return what the header tells. Raises what keeps it from being read, saying so."""
        try:
            return self._read_header(slide, meter)
        except (NetworkError, SlideError) as error:
            raise type(error)(f"the slide's header cannot be read: {error}") from error

    def _fetch(self, level: _ServedLevel, lease: Lease, meter: Meter) -> None:
        """Has every tile of the level in `work/`, several at a time; the first failure ends it."""
        tiles = level.grid.columns * level.grid.rows
        if tiles > MAX_TILES:
            raise BadSlide(f"its Deep Zoom level has {tiles} tiles")
        lease.grow(sum(level.usual_bytes(*place) for place in level.places()))

        def fetch(place: tuple[int, int]) -> None:
            if not level.has(*place):
                self._fetch_tile(level, *place, meter)

        for_each(fetch, level.places(), AT_ONCE, "tile")

    def _fetch_tile(self, level: _ServedLevel, column: int, row: int, meter: Meter) -> None:
        for tries_left in reversed(range(TRIES)):
            try:
                url, most = level.url(column, row), level.most_bytes(column, row)
                level.keep(column, row, fetch_tile(self._client, url, most, meter))
            except BadTile:
                if not tries_left:
                    raise
            except NetworkError as error:
                named = f"the tile at column {column}, row {row}: {error}"
                kind = BadTile if isinstance(error, NotFound | Refused) else type(error)
                raise kind(named) from error
            else:
                return


def fetch_tile(client: HttpClient, url: str, most: int, meter: Meter | None = None) -> bytes:
    """Return the tile at `url`, known by its first bytes, without its colour profile.

    most: bytes without the profile. Raises NetworkError; WrongContent for no picture.
    """

    def taken(answer: HttpResponse) -> bytes:
        answer.judge(200)
        answer.unpacked_only()
        stream = Stream(answer.small_pieces(most + MOST_PROFILE_BYTES))
        if not is_png_or_jpeg(stream.peek(8)):
            raise answer.other("a tile")
        try:
            return remove_ancillary_data(stream, most)
        except TooLong as error:
            raise TooLong(f"{answer.name}: {error}") from error

    return client.ask(url, taken, {"Accept-Encoding": "identity"}, meter=meter)


class _ServedLevel:
    """One Deep Zoom level whose tiles lie on the disk as they came.

    version: path that the tiles' names begin with, one version's of the slide.
    """

    def __init__(self, zoom: DeepZoom, dz_level: int, version: Path, url: str) -> None:
        self.grid: Grid = zoom.grid(dz_level)
        self.size = self.grid.size
        self.scale = 1
        self._zoom = zoom
        self._dz_level = dz_level
        self._version = version
        self._url = url

    def places(self) -> Iterator[tuple[int, int]]:
        for row in range(self.grid.rows):
            for column in range(self.grid.columns):
                yield column, row

    def url(self, column: int, row: int) -> str:
        return f"{self._url}?level={self._dz_level}&x={column}&y={row}"

    def most_bytes(self, column: int, row: int) -> int:
        """Return how many bytes a tile of these pixels has at most, without its profile."""
        return MOST_BYTES_BESIDE + MOST_BYTES_PER_PIXEL * self._most_pixels(column, row)

    def usual_bytes(self, column: int, row: int) -> int:
        """Return how many bytes the tile has on the disk, in whole blocks."""
        return BLOCK + USUAL_BYTES_PER_PIXEL * self._most_pixels(column, row)

    def _most_pixels(self, column: int, row: int) -> int:
        """Return the pixels of a tile one larger than nominal each way, which is taken too."""
        width, height = self._zoom.served_box(self.grid, column, row).size
        return (width + 1) * (height + 1)

    def has(self, column: int, row: int) -> bool:
        """Whether an earlier run left the tile, and whole: a power cut may leave it empty."""
        try:
            self.tile(column, row)
        except BadTile:
            return False
        return True

    def path(self, column: int, row: int) -> Path:
        size = f"{self.grid.size.width}x{self.grid.size.height}"
        cut = f"{size}-{self._zoom.tile}-{self._zoom.overlap}-{column}-{row}"
        return self._version.with_name(f"{self._version.name}-{cut}")

    def keep(self, column: int, row: int, data: bytes) -> None:
        """Writes the tile down if it is whole. Raises BadTile, naming its place, if it is not."""
        self._decoded(data, column, row)
        path = self.path(column, row)
        part = path.with_suffix(".part")
        with disk_errors(path):
            part.write_bytes(data)
            part.replace(path)

    def tile(self, column: int, row: int) -> Pixels:
        """Return the tile's pixels. Raises BadTile if not whole, Damaged by a bad disk."""
        path, data = self.path(column, row), b""
        with disk_errors(path), suppress(FileNotFoundError):
            data = path.read_bytes()
        return self._decoded(data, column, row)

    def _decoded(self, data: bytes, column: int, row: int) -> Pixels:
        own = self.grid.box(column, row)
        try:
            return decoded(data, self._zoom.served_box(self.grid, column, row), own)
        except BadTile as error:
            raise BadTile(f"the tile at column {column}, row {row}: {error}") from error
