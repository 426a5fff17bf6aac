"""JPEG 2000 tiles decoded without OpenSlide, against OpenSlide on the same streams."""

from __future__ import annotations

import io
from array import array
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tcgamirror.imaging.decode import OpenSlideTiles, Pixels, TileReader
from tcgamirror.imaging.jpeg2000 import Jpeg2000Tiles, decode_as_openslide, decode_plain, is_plain
from tcgamirror.imaging.single_level import write_single_level
from tcgamirror.imaging.svs import Svs, TileTable
from tcgamirror.model.errors import BadTile
from tcgamirror.model.geometry import Grid, Size
from tcgamirror.sources.whole import LocalFile
from tests.imaging.test_tile_codec import J2K, ODD, SUBSAMPLED, changed, jpeg_2000
from tests.support.slides import SlideSpec, make_slide
from tests.support.slides_codec import Compression

ByOpenSlide = Callable[[bytes, Compression, Size], Pixels | None]
"""Returns a tile's pixels, None if OpenSlide refuses it."""


@pytest.fixture
def by_openslide(tmp_path: Path) -> ByOpenSlide:
    slides: dict[tuple[Compression, Size], bytes] = {}

    def decode(stream: bytes, compression: Compression, tile: Size) -> Pixels | None:
        path, alone = tmp_path / "slide.svs", tmp_path / "tile.svs"
        if (compression, tile) not in slides:
            spec = SlideSpec(*tile, (1,), compression=compression, tile=tile, thumbnail=False)
            slides[compression, tile] = make_slide(path, spec).read_bytes()
        slide = slides[compression, tile]
        path.write_bytes(slide + stream)
        with LocalFile(path) as file, alone.open("wb") as copy:
            table = TileTable(1, array("Q", [len(slide)]), array("Q", [len(stream)]))
            write_single_level(copy, Svs(file), 0, table)
        with OpenSlideTiles(alone, Grid(tile, tile)) as tiles:
            try:
                return tiles.read_tile(0, 0)
            except BadTile:
                return None

    return decode


def lossless(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG2000", no_jp2=True, mct=0, irreversible=False)
    return file.getvalue()


def same(found: Pixels | None, expected: Pixels | None) -> bool:
    return found is not None and expected is not None and np.array_equal(found, expected)


@pytest.mark.parametrize("luma", [0, 64, 128, 191, 255])
def test_every_chroma_has_openslides_colour(luma: int, by_openslide: ByOpenSlide) -> None:
    cb, cr = np.meshgrid(np.arange(256), np.arange(256))
    stream = lossless(np.stack([np.full_like(cb, luma), cb, cr], axis=-1).astype(np.uint8))
    tile = Size(256, 256)
    expected = by_openslide(stream, "j2k-ycbcr", tile)
    assert same(decode_as_openslide(stream, tile, rgb=False), expected)


STREAMS = [
    jpeg_2000(),
    jpeg_2000(mct=1),
    jpeg_2000(irreversible=True, quality_mode="dB", quality_layers=[30, 36, 42]),
    jpeg_2000(num_resolutions=1),
    jpeg_2000(num_resolutions=3, codeblock_size=(16, 16), progression="RPCL"),
]


@pytest.mark.parametrize("compression", ["j2k-rgb", "j2k-ycbcr"])
def test_damaged_streams_are_as_openslide_has_them(
    compression: Compression, by_openslide: ByOpenSlide, capfd: pytest.CaptureFixture[str]
) -> None:
    """Decoded streams have OpenSlide's pixels; those that it refuses are not decoded."""
    rng = np.random.default_rng(6)
    decoded = refused = 0
    for number in range(400):
        whole = STREAMS[number % len(STREAMS)]
        stream = bytearray(whole)
        if number >= len(STREAMS):
            header = number % 3 == 0
            for place in rng.integers(2, 160 if header else len(whole), 3):
                stream[place] = int(rng.integers(256))
        found = decode_as_openslide(bytes(stream), J2K.tile, rgb=compression == "j2k-rgb")
        if found is not None:
            assert same(found, by_openslide(bytes(stream), compression, J2K.tile))
        decoded, refused = decoded + (found is not None), refused + (found is None)
    assert decoded > 100 and refused > 20
    assert capfd.readouterr() == ("", "")


LARGE = (60_000).to_bytes(4, "big")
OTHERS = {
    **{name: stream for name, (codec, stream) in ODD.items() if codec is J2K},
    "a huge image": changed(jpeg_2000(), 0xFF51, 2, LARGE + LARGE),
    "two sizes": jpeg_2000()[:51] + jpeg_2000()[2:],
    "subsampled": changed(changed(jpeg_2000(), 0xFF51, 38, b"\2"), 0xFF51, 41, b"\2"),
    "signed": changed(jpeg_2000(), 0xFF51, 36, b"\x87"),
}


class BlackTiles(TileReader):
    """Stand in for OpenSlide."""

    def read_tile(self, column: int, row: int) -> Pixels | None:
        width, height = self.grid.box(column, row).size
        return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize("name", OTHERS)
def test_other_streams_are_left_to_openslide(name: str) -> None:
    assert decode_as_openslide(OTHERS[name], J2K.tile, rgb=True) is None


def test_subsampled_colours_are_openslides_within_a_grey_level(
    by_openslide: ByOpenSlide, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(7)
    tile, decoded, refused = Size(16, 16), 0, 0
    for number in range(300):
        stream = bytearray(SUBSAMPLED)
        for place in rng.integers(2, len(stream), min(number, 2)):
            stream[place] = int(rng.integers(256))
        if not is_plain(bytes(stream), tile):
            continue
        try:
            found = decode_plain(bytes(stream), rgb=False)
        except BadTile:
            refused += 1
            continue
        expected = by_openslide(bytes(stream), "j2k-ycbcr", tile)
        assert expected is not None and np.abs(found.astype(int) - expected).max() <= 1
        decoded += 1
    assert decoded > 100 and refused > 20
    assert decode_as_openslide(SUBSAMPLED, tile, rgb=False) is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("stream", "rgb"), [(SUBSAMPLED, True), (OTHERS["subsampled"], False)])
def test_other_subsampled_colours_are_not_decoded(stream: bytes, *, rgb: bool) -> None:
    """OpenSlide knows the colours, imagecodecs guesses them."""
    with pytest.raises(BadTile, match="as in no slide"):
        decode_plain(stream, rgb=rgb)


def test_a_decoder_that_could_not_be_loaded_leaves_tiles_to_openslide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """imagecodecs keeps it unloaded once memory was short."""

    def unloaded(*_: object, **__: object) -> None:
        raise imagecodecs.DelayedImportError("jpeg2k_decode")

    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", unloaded)
    assert decode_as_openslide(jpeg_2000(), J2K.tile, rgb=True) is None


def test_a_level_has_tiles_of_both_ways_cut_off_at_its_edge(tmp_path: Path) -> None:
    overwritten = frozenset({(0, 1, 0)})
    spec = SlideSpec(
        100,
        90,
        (1,),
        compression="j2k-rgb",
        tile=(64, 64),
        overwritten=overwritten,
        blank=frozenset({(0, 0, 1)}),
    )
    with LocalFile(make_slide(tmp_path / "s.svs", spec)) as file:
        slide = Svs(file)
        level = slide.levels[0]
        reader = Jpeg2000Tiles(file, level, slide.tile_table(0), BlackTiles(level.level.grid))
        own, other = reader.read_tile(1, 1), reader.read_tile(1, 0)
        assert own is not None and own.shape == (26, 36, 3) and own.any()
        assert other is not None and not other.any()
        assert reader.read_tile(0, 1) is None
