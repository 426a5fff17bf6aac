"""Makes slides as the TCGA's are: Aperio SVS files, small ones pixel by pixel, huge ones quickly.

A level's tiles come first and its directory after them: base, thumbnail, coarser levels, and if
asked for label and macro. The same spec gives the same file.
"""

import io
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from tests.support.slides_codec import QUALITY, encode, overwritten, split_tables
from tests.support.slides_scene import Rgb, Scene, Window, make_scene, paint, painted, tissue
from tests.support.slides_spec import SlideSpec, blank_below, grid, is_painted, level_sizes
from tests.support.slides_tiff import UNDEFINED, Field, TiffWriter, long, rational, short, text
from tests.support.slides_zoo import zoo

__all__ = ["SlideSpec", "expected_rgb", "grid", "is_painted", "level_sizes", "make_slide", "zoo"]

PALETTE_TILES = 40
THUMBNAIL_SIDE = 1024
STRIP_ROWS = 16

# Pixels of an edge tile that lie beyond the image: the rest of a JPEG block repeats the edge, so
# that nothing bleeds into the image, and all further ones are black, so that a leak is seen.
# JPEG 2000 has no blocks and bleeds further: there the edge is repeated to the tile's end.
BLOCK = 16

_COMPRESSION_TAG = {"jpeg-rgb": 7, "jpeg-ycbcr": 7, "j2k-rgb": 33005, "j2k-ycbcr": 33003, "none": 1}
_SUBSAMPLING_TAG = {0: (1, 1), 1: (2, 1), 2: (2, 2)}


def expected_rgb(spec: SlideSpec, level: int) -> Image.Image:
    """What was painted on a level before compression; blank tiles are painted all the same."""
    if not is_painted(spec, level):
        raise ValueError(f"level {level} is patched from a palette, not painted")
    return _picture(spec, level_sizes(spec)[level])


def make_slide(path: Path, spec: SlideSpec) -> Path:
    """Writes the slide at `path` and returns `path`."""
    with path.open("wb") as file:
        tiff = TiffWriter(file, big=spec.big, order=spec.byte_order)
        _write_level(tiff, spec, 0)
        if spec.thumbnail:
            _write_thumbnail(tiff, spec)
        for level in range(1, len(spec.downsamples)):
            _write_level(tiff, spec, level)
        if spec.label_and_macro:
            _write_label(tiff)
            _write_macro(tiff, spec)
        if spec.tiled_macro is not None:
            _write_tiled_macro(tiff, spec, spec.tiled_macro)
    return path


def _write_level(tiff: TiffWriter, spec: SlideSpec, level: int) -> None:
    size, tiles = level_sizes(spec)[level], _level_tiles(spec, level)
    fields = [long(254, 0), text(270, level_description(spec, level))]
    offsets = _write_tiles(tiff, tiles, spec, level)
    _write_tiled(
        tiff, spec, size, tiles, offsets, fields + (_base_fields(spec) if not level else [])
    )


def _write_tiled(
    tiff: TiffWriter,
    spec: SlideSpec,
    size: tuple[int, int],
    tiles: Sequence[bytes],
    offsets: Sequence[int],
    fields: Sequence[Field],
) -> None:
    """Write the directory of an image whose tiles are written."""
    counts = [len(tile) for tile in tiles]
    fields = [
        *fields,
        *_image_fields(*size, _COMPRESSION_TAG[spec.compression]),
        short(262, 6 if spec.compression == "jpeg-ycbcr" else 2),
        long(322, spec.tile[0]),
        long(323, spec.tile[1]),
        tiff.offsets(324, offsets),
        tiff.narrow(325, counts) if spec.narrow_counts else tiff.offsets(325, counts),
    ]
    if spec.shared_tables:
        fields.append(Field(347, UNDEFINED, _shared_tables(spec)))
    if spec.compression == "jpeg-ycbcr":
        fields.append(short(530, *_SUBSAMPLING_TAG[spec.subsampling]))
    tiff.write_directory(fields)


def _image_fields(width: int, height: int, compression: int) -> list[Field]:
    size = [long(256, width), long(257, height)]
    return [*size, short(258, 8, 8, 8), short(259, compression), short(277, 3), short(284, 1)]


def _base_fields(spec: SlideSpec) -> list[Field]:
    fields: list[Field] = []
    if spec.resolution is not None:
        value, unit = spec.resolution
        fields += [rational(282, value), rational(283, value), short(296, unit)]
    if spec.icc_bytes:
        fields.append(Field(34675, UNDEFINED, _icc_profile(spec.icc_bytes)))
    return fields


def _icc_profile(size: int) -> bytes:
    """An sRGB profile filled up to `size` bytes that do not compress; if that is too few, a
    header without tags.
    """
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if size < len(profile):
        profile = profile[:128]
    dated = profile[:24] + bytes.fromhex("07D900010001000000000000") + profile[36:]
    left = max(0, size - len(dated))
    filler = bytes(left) if len(dated) == 128 else np.random.default_rng(size).bytes(left)
    return (size.to_bytes(4, "big") + dated[4:] + filler)[:size]


def _write_tiles(
    tiff: TiffWriter, tiles: Sequence[bytes], spec: SlideSpec, level: int
) -> list[int]:
    """Writes the tiles of a level in the spec's order; their offsets, row by row."""
    order = np.arange(len(tiles))
    if spec.offsets == "shuffled":
        order = np.random.default_rng((spec.seed, level)).permutation(order)
    offsets = [0] * len(tiles)
    places: dict[bytes, int] = {}
    for index in order.tolist():
        tile = tiles[index]
        if not tile:
            # The count alone says that a tile is blank: some offsets must look like real ones.
            offsets[index] = 0 if index % 2 else tiff.write(b"")
        elif spec.offsets == "shared" and tile in places:
            offsets[index] = places[tile]
        else:
            offsets[index] = places[tile] = tiff.write(tile)
    return offsets


def _level_tiles(spec: SlideSpec, level: int) -> list[bytes]:
    """A level's tile data row by row; blank tiles are empty."""
    streams = (
        _painted_tiles(spec, level) if is_painted(spec, level) else _patched_tiles(spec, level)
    )
    places = product(range(grid(spec, level)[1]), range(grid(spec, level)[0]))
    tiles = []
    for (row, column), stream in zip(places, streams, strict=True):
        place = level, column, row
        broken = place in spec.overwritten
        tile = overwritten(stream, spec.compression) if broken else stream
        tiles.append(b"" if place in spec.blank else tile)
    return tiles


def _painted_tiles(spec: SlideSpec, level: int) -> Iterator[bytes]:
    size = width, height = level_sizes(spec)[level]
    tile_width, tile_height = spec.tile
    for top in range(0, height, tile_height):
        rows = min(tile_height, height - top)
        window = Window(_step(spec, size), (0, top), (width, rows))
        band = painted(spec.width, spec.height, spec.seed, window, smooth=spec.smooth)
        for left in range(0, width, tile_width):
            tile = band[:, left : left + tile_width]
            place = level, left // tile_width, top // tile_height
            if spec.scrambled and level and blank_below(spec, *place):
                tile = _scrambled(tile)
            yield _encoded(_padded(tile, spec), spec)


def _scrambled(tile: Rgb) -> Rgb:
    """Return a tile as scanners leave it above a missing one: in wrong places, and black."""
    height, width = (side // 2 for side in tile.shape[:2])
    wrong = np.roll(tile, (height, width), axis=(0, 1))
    wrong[:height, :width] = 0
    return wrong


def _patched_tiles(spec: SlideSpec, level: int) -> Iterator[bytes]:
    """Tiles of glass where the scene has glass, and a seeded choice of tissue elsewhere."""
    scene = make_scene(spec.width, spec.height, spec.seed, smooth=spec.smooth)
    (columns, rows), step = grid(spec, level), _step(spec, level_sizes(spec)[level])
    tile_step = step[0] * spec.tile[0], step[1] * spec.tile[1]
    amount = tissue(scene, Window(tile_step, (0, 0), (columns, rows)))
    rng = np.random.default_rng((spec.seed, level))
    origins = rng.permutation(np.argwhere(amount > 0.5))[:PALETTE_TILES]
    palette = [_tile_at(scene, spec, step, column, row) for row, column in origins.tolist()]
    glass_row, glass_column = np.unravel_index(int(amount.argmin()), amount.shape)
    palette.append(_tile_at(scene, spec, step, int(glass_column), int(glass_row)))
    choice = np.where(amount > 0.1, rng.integers(len(origins), size=amount.shape), len(origins))
    return (palette[index] for index in choice.ravel().tolist())


def _tile_at(
    scene: Scene, spec: SlideSpec, step: tuple[float, float], column: int, row: int
) -> bytes:
    origin = column * spec.tile[0], row * spec.tile[1]
    return _encoded(paint(scene, Window(step, origin, spec.tile)), spec)


def _encoded(pixels: Rgb, spec: SlideSpec) -> bytes:
    image = Image.fromarray(pixels)
    stream = encode(
        image, spec.compression, spec.subsampling, spec.first_component, fine=spec.smooth
    )
    return split_tables(stream)[1] if spec.shared_tables else stream


def _shared_tables(spec: SlideSpec) -> bytes:
    """The tables of every JPEG of this spec: they come from the quality, not from the pixels."""
    grey = Image.new("RGB", (16, 16))
    return split_tables(encode(grey, spec.compression, spec.subsampling, fine=spec.smooth))[0]


def _padded(pixels: Rgb, spec: SlideSpec) -> Rgb:
    """The pixels filled up to a whole tile, shape (tile height, tile width, 3)."""
    block = BLOCK if spec.compression in ("jpeg-rgb", "jpeg-ycbcr") else max(spec.tile)
    for axis, side in ((0, spec.tile[1]), (1, spec.tile[0])):
        missing = side - pixels.shape[axis]
        repeated = min(missing, -pixels.shape[axis] % block)
        for width, mode in ((repeated, "edge"), (missing - repeated, "constant")):
            if width:
                widths = [(0, width if a == axis else 0) for a in range(3)]
                pixels = np.pad(pixels, widths, mode=mode)  # type: ignore[call-overload]
    return pixels


def _step(spec: SlideSpec, size: tuple[int, int]) -> tuple[float, float]:
    """Base pixels per pixel, across and down, of the whole slide shown at `size`."""
    return spec.width / size[0], spec.height / size[1]


def _picture(spec: SlideSpec, size: tuple[int, int]) -> Image.Image:
    window = Window(_step(spec, size), (0, 0), size)
    pixels = painted(spec.width, spec.height, spec.seed, window, smooth=spec.smooth)
    return Image.fromarray(pixels)


def _write_thumbnail(tiff: TiffWriter, spec: SlideSpec) -> None:
    shrink = max(1.0, max(spec.width, spec.height) / THUMBNAIL_SIDE)
    size = max(1, int(spec.width / shrink)), max(1, int(spec.height / shrink))
    _write_jpeg_strips(tiff, _picture(spec, size), 0, thumbnail_description(spec, *size))


def _write_macro(tiff: TiffWriter, spec: SlideSpec) -> None:
    image = _picture(spec, (640, 215))
    _write_jpeg_strips(tiff, image, 9, library(f"macro {image.width}x{image.height}"))


def _write_tiled_macro(tiff: TiffWriter, spec: SlideSpec, subfile: int) -> None:
    """Write the slide squeezed into an oblong, in tiles, as other writers have macros."""
    columns, rows = 3, 1
    size = columns * spec.tile[0], rows * spec.tile[1]
    pixels = np.asarray(_picture(spec, size))
    tiles = [
        _encoded(pixels[:, left : left + spec.tile[0]], spec)
        for left in range(0, size[0], spec.tile[0])
    ]
    offsets = [tiff.write(tile) for tile in tiles]
    fields = [long(254, subfile), text(270, library(f"macro {size[0]}x{size[1]}"))]
    _write_tiled(tiff, spec, size, tiles, offsets, fields)


def _write_jpeg_strips(
    tiff: TiffWriter, image: Image.Image, subfile: int, description: str
) -> None:
    tops = range(0, image.height, STRIP_ROWS)
    boxes = [(0, top, image.width, min(image.height, top + STRIP_ROWS)) for top in tops]
    strips = [encode(image.crop(box), "jpeg-rgb") for box in boxes]
    fields = [*_image_fields(*image.size, 7), long(278, STRIP_ROWS)]
    _write_stripped(tiff, strips, [*fields, long(254, subfile), text(270, description)])


def _write_label(tiff: TiffWriter) -> None:
    """A label as Aperio has it, LZW: Pillow packs it in a TIFF of its own, the strips are taken."""
    image = Image.radial_gradient("L").resize((387, 463)).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression="tiff_lzw")
    with Image.open(buffer) as packed:
        wanted = {tag: packed.tag_v2[tag] for tag in (273, 278, 279)}  # type: ignore[attr-defined]
    data = buffer.getvalue()
    strips = [data[at : at + n] for at, n in zip(wanted[273], wanted[279], strict=True)]
    fields = [*_image_fields(*image.size, 5), long(278, wanted[278])]
    description = library(f"label {image.width}x{image.height}")
    _write_stripped(tiff, strips, [*fields, long(254, 1), text(270, description)])


def _write_stripped(tiff: TiffWriter, strips: Sequence[bytes], fields: Sequence[Field]) -> None:
    offsets = [tiff.write(strip) for strip in strips]
    counts = [len(strip) for strip in strips]
    tiff.write_directory(
        [*fields, short(262, 2), tiff.offsets(273, offsets), tiff.offsets(279, counts)]
    )


# Descriptions -------------------------------------------------------------------------


_WORDS = {
    "jpeg-rgb": "JPEG/RGB",
    "jpeg-ycbcr": "JPEG/YCC",
    "j2k-rgb": "J2K/KDU",
    "j2k-ycbcr": "J2K/YUV16",
    "none": "RAW",
}


def level_description(spec: SlideSpec, level: int) -> str:
    width, height = level_sizes(spec)[level]
    across, down = spec.tile
    shrunk = f" -> {width}x{height}" if level else ""
    scan = f"{_scan_size(spec)} [0,100 {spec.width}x{spec.height}] ({across}x{down}){shrunk}"
    line = f"{scan} {_WORDS[spec.compression]} Q={QUALITY}"
    return library(line if level else line + _properties(spec))


def thumbnail_description(spec: SlideSpec, width: int, height: int) -> str:
    return library(f"{_scan_size(spec)} -> {width}x{height} - {_properties(spec)}")


def _scan_size(spec: SlideSpec) -> str:
    return f"{spec.width}x{spec.height + 100}"


def library(line: str) -> str:
    """The first line that tells readers that Aperio made this, and the line after it."""
    return f"Aperio Image Library v10.0.51\r\n{line}"


def _properties(spec: SlideSpec) -> str:
    """Return Aperio's key = value pairs, each after a bar."""
    magnification = "" if spec.app_mag is None else f"|AppMag = {spec.app_mag}"
    mpp = "" if spec.mpp is None else f"|MPP = {spec.mpp:.4f}"
    scan = "|StripeWidth = 2040|ScanScope ID = SS1302|Filename = 10001|Date = 12/29/09"
    camera = "|Left = 25.691574|Top = 23.449873|LineCameraSkew = -0.000424|Focus Offset = 0.000000"
    size = f"|OriginalWidth = {spec.width}|Originalheight = {spec.height + 100}"
    return f"{magnification}{scan}{mpp}{camera}{size}"
