"""What a made slide is to be like, and the sizes that follow from it."""

from dataclasses import dataclass
from typing import Literal

from tests.support.slides_codec import Compression
from tests.support.slides_tiff import ByteOrder

Box = tuple[float, float, float, float]

# A level of more pixels than this is patched together from a few dozen tiles of its scene.
PAINTED_JPEG_PIXELS = 120_000_000
PAINTED_JPEG_2000_PIXELS = 30_000_000


@dataclass(frozen=True, slots=True)
class SlideSpec:
    """What to make.

    width, height: base pixels; a level of nominal downsample d has width // d by height // d.
    tile: width and height in pixels.
    compression: TIFF compression 7 photometric 2, 7 photometric 6, 33005, 33003, 1.
    shared_tables: JPEG tables in tag 347, abbreviated streams in the tiles.
    subsampling: of jpeg-ycbcr: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
    mpp: micrometres per base pixel; app_mag: free text, so that it can lie. None: no such key.
    resolution: value of XResolution and YResolution, and ResolutionUnit, of the base directory.
    smooth: no fine texture, and little loss by compression: levels are alike at any resolution.
    blank: (level, column, row) of tiles of zero length.
    overwritten: (level, column, row) of tiles that do not decode.
    scrambled: tiles above a blank one of the base hold black and pixels of other places.
    tiled_macro: NewSubfileType of a tiled macro after the levels; None: no such macro.
    icc_bytes: length of an ICC profile in the base directory; a usable one from about 600.
    offsets: order of the tile data of a level; "shared" stores identical tiles once.
    narrow_counts: tile byte counts as short or long integers also in a BigTIFF.
    first_component: number of the first colour component inside jpeg-rgb streams.

    Levels for which `is_painted` is false are patched from a palette: tissue and glass lie
    where they do on the other levels, the texture does not.
    """

    width: int = 3000
    height: int = 2000
    downsamples: tuple[int, ...] = (1, 4, 16)
    tile: tuple[int, int] = (240, 240)
    compression: Compression = "jpeg-rgb"
    shared_tables: bool = False
    subsampling: int = 0
    big: bool = False
    byte_order: ByteOrder = "<"
    thumbnail: bool = True
    label_and_macro: bool = False
    mpp: float | None = 0.2520
    app_mag: str | None = "40"
    resolution: tuple[float, int] | None = None
    blank: frozenset[tuple[int, int, int]] = frozenset()
    overwritten: frozenset[tuple[int, int, int]] = frozenset()
    scrambled: bool = False
    smooth: bool = False
    tiled_macro: int | None = None
    icc_bytes: int = 0
    offsets: Literal["ascending", "shuffled", "shared"] = "ascending"
    seed: int = 0
    narrow_counts: bool = False
    first_component: Literal[0, 1] = 0


def level_sizes(spec: SlideSpec) -> tuple[tuple[int, int], ...]:
    """(width, height) of each level, finest first.

    >>> level_sizes(SlideSpec(width=3001, height=2003, downsamples=(1, 4)))
    ((3001, 2003), (750, 500))
    """
    return tuple((spec.width // d, spec.height // d) for d in spec.downsamples)


def grid(spec: SlideSpec, level: int) -> tuple[int, int]:
    """(columns, rows) of a level's tiles.

    >>> grid(SlideSpec(width=3000, height=2000, tile=(240, 240)), 0)
    (13, 9)
    """
    width, height = level_sizes(spec)[level]
    return -(-width // spec.tile[0]), -(-height // spec.tile[1])


def blank_below(spec: SlideSpec, level: int, column: int, row: int) -> bool:
    """Return whether more than a pixel of a blank tile of the base lies under a level's tile.

    >>> spec = SlideSpec(width=3000, height=2000, blank=frozenset({(0, 4, 1)}))
    >>> blank_below(spec, 1, 0, 0), blank_below(spec, 1, 1, 0)
    (False, True)
    """

    box = base_box(spec, level, column, row)
    return any(
        overlap(box, base_box(spec, *place), least=1) for place in spec.blank if place[0] == 0
    )


def tile_box(spec: SlideSpec, level: int, column: int, row: int) -> Box:
    """Return a tile's left, top, right and bottom, in pixels of its level."""
    width, height = level_sizes(spec)[level]
    left, top = column * spec.tile[0], row * spec.tile[1]
    return left, top, min(left + spec.tile[0], width), min(top + spec.tile[1], height)


def base_box(spec: SlideSpec, level: int, column: int, row: int) -> Box:
    """Return a tile's left, top, right and bottom, in pixels of the base."""
    width, height = level_sizes(spec)[level]
    left, top, right, bottom = tile_box(spec, level, column, row)
    across, down = spec.width / width, spec.height / height
    return left * across, top * down, right * across, bottom * down


def overlap(one: Box, other: Box, least: float = 0) -> bool:
    """Return whether two boxes share more than `least` pixels across and down."""
    return all(
        min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) > least for axis in (0, 1)
    )


def is_painted(spec: SlideSpec, level: int) -> bool:
    """Whether every pixel of a level is painted; packing JPEG 2000 is slow, so less of it is.

    >>> spec = SlideSpec(width=100_000, height=80_000)
    >>> [is_painted(spec, level) for level in range(3)]
    [False, False, True]
    """
    width, height = level_sizes(spec)[level]
    packed_slowly = spec.compression in ("j2k-rgb", "j2k-ycbcr")
    return width * height <= (PAINTED_JPEG_2000_PIXELS if packed_slowly else PAINTED_JPEG_PIXELS)
