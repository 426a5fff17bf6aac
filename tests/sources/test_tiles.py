"""The source `tiles` against a real tile server and a slow, obvious reference."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from tcgamirror.mirror.settings import LEAST_WORK
from tcgamirror.model.errors import (
    BadSlide,
    BadTile,
    Interrupted,
    NetworkError,
    Refused,
    SlideError,
    TooLong,
    Truncated,
    WrongContent,
)
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import MppSource, Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.tiles import Tiles
from tcgamirror.sources.workspace import Workspace
from tests.gdc import Fault, Listed, StandIn, listed, listed_without_data, made_up_name
from tests.gdc.faults import Kind
from tests.gdc.tiles import TileFormat
from tests.support.fetching import (
    SHORT,
    Served,
    as_openslide_reads,
    best_shift,
    by_range,
    by_ready_tiles,
    by_tiles,
    made,
    slide_of,
    stitched,
    workspace,
)
from tests.support.mirrors import until
from tests.support.slides import SlideSpec, make_slide

SPEC = SlideSpec(width=1403, height=1109, downsamples=(1, 4))
WIDE = SlideSpec(width=2603, height=611, downsamples=(1, 4), mpp=0.2465)
EXACT_4 = Target(mpp=4.0, max_size=None)
LEVEL_OF_512 = Target(mpp=None, max_size=512)
DATA = Path(__file__).parents[3] / "shared" / "data"
PATTERN = DATA / "dzi" / "testpattern.dzi"
ICC = DATA / "faults" / "icc-140k-narrow-edge.svs"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    return listed(make_slide(tmp_path_factory.mktemp("tiles") / "plain.svs", SPEC))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    return listed(make_slide(tmp_path_factory.mktemp("tiles") / "wide.svs", WIDE))


def fetched_tiles(
    gdc: StandIn, file: Listed, served: Served, dz_level: int
) -> dict[tuple[int, int], bytes]:
    grid = served.level(dz_level)
    tiles = {}
    for column in range(grid.columns):
        for row in range(grid.rows):
            url = f"{gdc.tiles}/{file.file_id}?level={dz_level}&x={column}&y={row}"
            with urlopen(url) as answer:
                tiles[column, row] = answer.read()
    return tiles


def dzi_file(folder: Path, served: Served) -> Path:
    """Write the description of tiles cut so, which are to lie in `made_files` beside it."""
    path = folder / "made.dzi"
    path.write_text(
        f'<?xml version="1.0"?><Image TileSize="{served.tile}" Overlap="{served.overlap}" '
        'Format="png" xmlns="http://schemas.microsoft.com/deepzoom/2008">'
        f'<Size Width="{served.size.width}" Height="{served.size.height}"/></Image>'
    )
    return path


@pytest.mark.parametrize(
    ("tile", "overlap", "form"),
    [(512, 1, "png"), (510, 0, "png"), (254, 1, "jpeg")],
)
def test_every_level_is_the_one_stitched_by_hand_and_aligned_with_openslide(
    tmp_path: Path, client: HttpClient, wide: Listed, tile: int, overlap: int, form: TileFormat
) -> None:
    assert wide.path is not None
    served = Served(Size(WIDE.width, WIDE.height), tile, overlap)
    with StandIn([wide], tile_size=tile, overlap=overlap, tile_format=form) as gdc:
        source = by_tiles(gdc, client, tmp_path)
        for dz_level in range(13):
            size = served.level(dz_level).size
            target = Target(mpp=None, max_size=size.longer)
            pixels = made(source, slide_of(wide), target).pixels
            tiles = fetched_tiles(gdc, wide, served, dz_level)
            assert np.array_equal(pixels, stitched(served, dz_level, tiles)), f"level {dz_level}"
            if min(size) >= 64:
                shift, alike = best_shift(pixels, as_openslide_reads(wide.path, size))
                assert shift == (0, 0), f"level {dz_level}"
                # What JPEG itself loses is seen here, too.
                assert alike >= (40 if form == "png" else 36), f"level {dz_level}"


@pytest.mark.skipif(not PATTERN.exists(), reason="needs ../shared/data/dzi, which is absent")
def test_tiles_of_another_maker_are_stitched(tmp_path: Path, client: HttpClient) -> None:
    (file,) = listed_without_data(1, dzi=PATTERN)
    served = Served(Size(1000, 1000), 254, 1)
    with StandIn([file]) as gdc:
        source = by_ready_tiles(gdc, client, tmp_path, served.size)
        for dz_level in range(11):
            size = served.level(dz_level).size
            target = Target(mpp=None, max_size=size.longer)
            pixels = made(source, slide_of(file), target).pixels
            tiles = fetched_tiles(gdc, file, served, dz_level)
            assert np.array_equal(pixels, stitched(served, dz_level, tiles)), f"level {dz_level}"
            for (column, row), data in tiles.items():
                # The overlap, too, has to lie on the neighbours' same pixels.
                whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
                left, top = max(0, column * 254 - 1), max(0, row * 254 - 1)
                there = pixels[top : top + whole.shape[0], left : left + whole.shape[1]]
                assert np.abs(whole - there).mean() < 1


# The resolution ----------------------------------------------------------------


def test_the_header_gives_the_mpp(tmp_path: Path, client: HttpClient, wide: Listed) -> None:
    with StandIn([wide]) as gdc:
        image = made(by_tiles(gdc, client, tmp_path), slide_of(wide), EXACT_4)
        header_requests = gdc.requests(host="bucket")
        levels = {record.path.partition("level=")[2][:2] for record in gdc.requests("level=")}
    # 4 µm/px is 16.2 base pixels per pixel: four halvings of twelve.
    assert levels == {"8&"}
    width, height = round(2603 * 0.2465 / 4), round(611 * 0.2465 / 4)
    assert image.rendition.size == (width, height)
    assert image.pixels.shape == (height, width, 3)
    assert image.rendition.mpp_x == pytest.approx(0.2465 * 2603 / width, rel=1e-12)
    assert image.rendition.mpp_y == pytest.approx(0.2465 * 611 / height, rel=1e-12)
    assert len(header_requests) <= 3
    assert sum(record.bytes_sent for record in header_requests) <= 16_384


def test_a_header_without_resolution_leaves_it_unknown(tmp_path: Path, client: HttpClient) -> None:
    spec = SlideSpec(width=700, height=500, downsamples=(1,), mpp=None, app_mag=None)
    file = listed(make_slide(tmp_path / "silent.svs", spec))
    with StandIn([file]) as gdc:
        source = by_tiles(gdc, client, tmp_path / "work")
        with source.open(slide_of(file), EXACT_4, Meter()) as opened:
            assert opened.pyramid.mpp.source is MppSource.UNKNOWN
            assert opened.rendition.size == Size(700, 500)


def test_tiles_of_other_sizes_are_refused(tmp_path: Path, client: HttpClient, file: Listed) -> None:
    other = listed(file.path or Path(), dzi=dzi_file(tmp_path, Served(Size(1404, 1109), 254, 1)))
    with StandIn([other]) as gdc:
        with pytest.raises(BadSlide, match="1403×1109 pixels, its tiles 1404×1109"):
            made(by_tiles(gdc, client, tmp_path / "work"), slide_of(other), LEVEL_OF_512)
        assert not gdc.requests("level=")


def test_a_level_of_too_many_tiles_is_refused(tmp_path: Path, client: HttpClient) -> None:
    huge = Size(2_000_000, 2_000_000)
    (file,) = listed_without_data(1, dzi=dzi_file(tmp_path, Served(huge, 16, 0)))
    with StandIn([file]) as gdc, pytest.raises(BadSlide, match="15625000000 tiles"):
        source = by_ready_tiles(gdc, client, tmp_path / "work", huge)
        made(source, slide_of(file), Target(mpp=None, max_size=2_000_000))


# Tiles that are no tiles -------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("404", BadTile, "not found"),
        ("403", BadTile, "refused"),
        ("empty", WrongContent, "an empty body"),
        ("flipped", BadTile, "cannot be decoded"),
        ("truncated-json", BadTile, "cannot be decoded"),
        ("cut", Truncated, "broke within the body"),
        ("html", WrongContent, "an HTML page"),
        ("length-too-small", BadTile, "cannot be decoded"),
        ("length-too-large", Truncated, "broke within the body"),
        ("endless-body", TooLong, "longer than"),
        ("foreign-json", WrongContent, "application/json"),
        ("503", NetworkError, "in trouble"),
        ("reset", NetworkError, "reached"),
        ("stall", NetworkError, "fewer than"),
    ],
)
def test_a_tile_that_is_none_fails_the_slide_and_is_named(
    tmp_path: Path, client: HttpClient, file: Listed, kind: Kind, error: type[Exception], says: str
) -> None:
    with StandIn([file], tile_size=254) as gdc:
        gdc.faults.add(Fault(r"level=11&x=3&y=2", kind))
        target = Target(mpp=None, max_size=1403)
        with pytest.raises(error, match=rf"tile at column 3, row 2: .*{says}") as caught:
            made(by_tiles(gdc, client, tmp_path), slide_of(file), target)
    # Bytes in doubt are removed, what only did not come is gone on with.
    assert (tmp_path / file.file_id / "tiles").exists() != isinstance(caught.value, SlideError)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tile")]


@pytest.mark.parametrize("kind", ["flipped", "empty", "cut", "503", "html", "reset", "stall"])
def test_a_tile_spoiled_once_is_asked_for_again(
    tmp_path: Path, client: HttpClient, file: Listed, kind: Kind
) -> None:
    with StandIn([file]) as gdc:
        right = made(by_tiles(gdc, client, tmp_path), slide_of(file), LEVEL_OF_512).pixels
        gdc.faults.add(Fault("level=", kind, when="once", retry_after=None))
        again = made(by_tiles(gdc, client, tmp_path), slide_of(file), LEVEL_OF_512).pixels
    assert np.array_equal(right, again)


@pytest.mark.parametrize(
    ("width", "height"), [(245, 147), (247, 149), (249, 149), (247, 1), (1, 1)]
)
def test_a_tile_of_the_wrong_size_fails_the_slide_and_is_named(
    tmp_path: Path, client: HttpClient, width: int, height: int
) -> None:
    dzi = dzi_file(tmp_path, Served(Size(500, 400), 254, 1))
    folder = tmp_path / "made_files" / "9"
    folder.mkdir(parents=True)
    sizes = {(0, 0): (255, 255), (1, 0): (247, 255), (0, 1): (255, 147), (1, 1): (247, 147)}
    for (column, row), size in sizes.items():
        Image.new("RGB", size, (90, 20, 60)).save(folder / f"{column}_{row}.png")
    (file,) = listed_without_data(1, dzi=dzi)
    target = Target(mpp=None, max_size=500)
    with StandIn([file]) as gdc:
        source = by_ready_tiles(gdc, client, tmp_path / "work", Size(500, 400))
        assert (made(source, slide_of(file), target).pixels == (90, 20, 60)).all()
        Image.new("RGB", (width, height)).save(folder / "1_1.png")
        with pytest.raises(BadTile, match=r"column 1, row 1: it has \d+×\d+ pixels instead of 247"):
            made(source, slide_of(file), target)


@pytest.mark.parametrize("kind", ["404", "html", "foreign-json", "truncated-json", "500"])
def test_without_metadata_nothing_else_is_asked_for(
    tmp_path: Path, client: HttpClient, file: Listed, kind: str
) -> None:
    with StandIn([file]) as gdc:
        gdc.faults.add(Fault("/tile/metadata/", kind))  # type: ignore[arg-type]
        with pytest.raises(NetworkError):
            made(by_tiles(gdc, client, tmp_path), slide_of(file), LEVEL_OF_512)
        assert all("metadata" in record.path for record in gdc.served)


# The header ---------------------------------------------------------------------


def test_a_withheld_header_is_read_later(tmp_path: Path, client: HttpClient, file: Listed) -> None:
    with StandIn([file]) as gdc:
        gdc.withhold(file.file_id)
        source = by_tiles(gdc, client, tmp_path)
        with pytest.raises(Refused, match=r"header cannot be read: .*does not allow read access"):
            made(source, slide_of(file), EXACT_4)
        assert not gdc.requests("level=")
        gdc.withhold()
        rendition = made(source, slide_of(file), EXACT_4).rendition
    assert rendition.mpp_x == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize("kind", ["404", "403", "500", "reset", "range-ignored", "empty-200"])
def test_without_a_header_no_tile_is_fetched(
    tmp_path: Path, client: HttpClient, file: Listed, kind: Kind
) -> None:
    with StandIn([file]) as gdc:
        gdc.faults.add(Fault(r"/data/|\.svs", kind, retry_after=0))
        with pytest.raises(NetworkError, match="header cannot be read"):
            made(by_tiles(gdc, client, tmp_path), slide_of(file), EXACT_4)
        assert not gdc.requests("level=")


def test_an_invalid_slide_is_not_kept(tmp_path: Path, client: HttpClient, file: Listed) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"no slide at all" * 1000)
    other = listed(broken, file_id=file.file_id, file_name=file.file_name)
    with StandIn([file]) as gdc, StandIn([other]) as elsewhere:
        header = by_range(elsewhere, client, tmp_path / "work").read_header
        source = Tiles(client, gdc.tiles, workspace(tmp_path / "work"), header)
        with pytest.raises(BadSlide, match="header cannot be read"):
            made(source, slide_of(other), EXACT_4)
    assert not list((tmp_path / "work").rglob("*.part"))


# Tiles ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["png", "jpeg"])
@pytest.mark.parametrize("fault", ["as-html", "203"])
def test_a_tile_is_known_by_its_first_bytes(
    tmp_path: Path, client: HttpClient, file: Listed, form: TileFormat, fault: Kind
) -> None:
    with StandIn([file], tile_format=form) as gdc:
        source = by_tiles(gdc, client, tmp_path)
        right = made(source, slide_of(file), LEVEL_OF_512).pixels
        gdc.faults.add(Fault("level=", fault), Fault(r"\.svs", fault))
        assert np.array_equal(made(source, slide_of(file), LEVEL_OF_512).pixels, right)


@pytest.mark.parametrize(
    ("form", "profile"),
    [("png", 140_612), ("jpeg", 140_612), ("jpeg", 1_200_001), ("png", 13_000_000)],
)
def test_tiles_may_carry_a_profile_larger_than_their_pixels(
    tmp_path: Path, client: HttpClient, form: TileFormat, profile: int
) -> None:
    spec = SlideSpec(width=700, height=500, downsamples=(1,), thumbnail=False)
    plain = listed(make_slide(tmp_path / "plain.svs", spec))
    heavy = listed(make_slide(tmp_path / "heavy.svs", replace(spec, icc_bytes=profile)))
    target = Target(mpp=None, max_size=350)
    with StandIn([plain, heavy], tile_format=form) as gdc:
        source = by_tiles(gdc, client, tmp_path / "work")
        right = made(source, slide_of(plain), target)
        # Nothing of the profile gets into `work/`, whose limit is that of any slide.
        limited = Workspace(tmp_path / "work", LEAST_WORK, threading.Event(), min_free=0)
        header = by_range(gdc, client, tmp_path / "work").read_header
        got = made(Tiles(client, gdc.tiles, limited, header), slide_of(heavy), target)
    assert np.array_equal(got.pixels, right.pixels)
    assert got.meter.bytes > profile


@pytest.mark.skipif(not ICC.exists(), reason="needs ../shared/data/faults, which is absent")
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_a_real_profile_and_edge(tmp_path: Path, client: HttpClient, form: TileFormat) -> None:
    file = listed(ICC)
    with StandIn([file], tile_format=form) as gdc:
        source = by_tiles(gdc, client, tmp_path)
        for size in (Size(517, 250), Size(1034, 500), Size(2068, 1000)):
            target = Target(mpp=None, max_size=size.width)
            pixels = made(source, slide_of(file), target).pixels
            assert pixels.shape == (size.height, size.width, 3)
            shift, alike = best_shift(pixels, as_openslide_reads(ICC, size))
            assert shift == (0, 0)
            assert alike >= 36


# What is kept -------------------------------------------------------------------


def tile_requests(gdc: StandIn) -> list[str]:
    return [record.path for record in gdc.requests("level=")]


def test_only_missing_tiles_are_fetched(tmp_path: Path, client: HttpClient, file: Listed) -> None:
    target = Target(mpp=None, max_size=1403)
    stop = threading.Event()
    with (
        StandIn([file], tile_size=254) as gdc,
        HttpClient(timeouts=SHORT, stop=stop) as stopped,
        ThreadPoolExecutor(1) as pool,
    ):
        right = made(by_tiles(gdc, client, tmp_path / "other"), slide_of(file), target).pixels
        gdc.clear()
        gdc.tile_delay = 0.05
        fetching = pool.submit(made, by_tiles(gdc, stopped, tmp_path), slide_of(file), target)
        until(lambda: len(tile_requests(gdc)) >= 12)
        stop.set()
        assert isinstance(fetching.exception(), Interrupted)
        gdc.tile_delay = 0
        folder = tmp_path / file.file_id / "tiles"
        kept = {path.name for path in folder.rglob("*") if path.is_file()}
        assert len(kept) >= 6
        gdc.clear()
        again = made(by_tiles(gdc, client, tmp_path), slide_of(file), target).pixels
        assert len(tile_requests(gdc)) == 30 - len(kept)
    assert np.array_equal(right, again)
    assert not folder.exists()


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda data: data[:99], lambda data: data[::-1]])
def test_a_kept_tile_that_is_damaged_is_fetched_again(
    tmp_path: Path, client: HttpClient, file: Listed, spoil: Callable[[bytes], bytes]
) -> None:
    with StandIn([file], tile_size=254) as gdc:
        source = by_tiles(gdc, client, tmp_path)
        right = made(source, slide_of(file), LEVEL_OF_512).pixels
        gdc.faults.add(Fault("x=1&y=1", "503"))
        with pytest.raises(NetworkError):
            made(source, slide_of(file), LEVEL_OF_512)
        gdc.faults.clear()
        (kept,) = (path for path in tmp_path.rglob("*-0-0") if path.is_file())
        kept.write_bytes(spoil(kept.read_bytes()))
        gdc.clear()
        assert np.array_equal(made(source, slide_of(file), LEVEL_OF_512).pixels, right)
        assert sum("x=0&y=0" in path for path in tile_requests(gdc)) == 1


def test_tiles_of_old_versions_are_unused(tmp_path: Path, client: HttpClient, file: Listed) -> None:
    with StandIn([file], tile_size=254) as gdc:
        source = by_tiles(gdc, client, tmp_path)
        gdc.faults.add(Fault("x=1&y=1", "503"))
        slide = slide_of(file)
        for md5 in ("0" * 32, "1" * 32):
            gdc.clear()
            with pytest.raises(NetworkError):
                made(source, Slide(slide.file_id, slide.file_name, md5, slide.size), LEVEL_OF_512)
            assert any("x=0&y=0" in path for path in tile_requests(gdc))


# Connections ----------------------------------------------------------------------


@pytest.mark.parametrize("slides", [1, 2])
def test_tiles_come_over_a_few_connections(tmp_path: Path, file: Listed, slides: int) -> None:
    files = [file, listed(file.path or Path(), file_name=made_up_name("second"))][:slides]
    with HttpClient(timeouts=SHORT) as client, StandIn(files, tile_size=254) as gdc:
        gdc.tile_delay = 0.03
        source, target = by_tiles(gdc, client, tmp_path), Target(mpp=None, max_size=1403)
        with ThreadPoolExecutor(2) as pool:
            images = list(pool.map(lambda one: made(source, slide_of(one), target), files))
        tiles = gdc.requests("level=")
        assert len(tiles) == 30 * slides
        assert 2 <= len({record.connection for record in tiles}) <= 4
        assert gdc.connections_open_peak["api"] <= 4
    assert np.array_equal(images[0].pixels, images[-1].pixels)
