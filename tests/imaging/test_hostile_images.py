"""Images that would take forever, or all memory, as `import` and `gallery` meet them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tcgamirror.imaging.image_reader import read_header
from tcgamirror.model.geometry import Size
from tcgamirror.model.slide import ImageFormat
from tests.gdc import Listed, StandIn
from tests.imaging.test_image_reader import head, overlapping, png, scans
from tests.support.carrying import catalogue, exported
from tests.support.command import ended, run, started
from tests.support.mirrors import MPP, column, filled, until
from tests.support.strip_tiffs import forged_tiff

LIMITED = ("prlimit", f"--as={1_500_000_000}")
"""Words before the program: of this, libraries take a third before anything is read."""


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory, small_slides: tuple[Listed, ...]
) -> Callable[[ImageFormat], Path]:
    """Exports of one slide by the format of its image, never to be changed."""
    folder = tmp_path_factory.mktemp("exports")

    def export(form: ImageFormat) -> Path:
        path = folder / form
        if not path.exists():
            root = folder / f"{form}-mirror"
            with StandIn(small_slides) as gdc:
                filled(root, gdc, "--format", form, slides=1)
            exported(root, path)
        return path

    return export


def facts(export: Path, form: ImageFormat) -> str:
    """Those of the export's image, with the resolution that fits an image of any size."""
    with (export / str(column(export, "select path from mirror")[0])).open("rb") as file:
        metadata = json.loads(read_header(file, form).metadata)
    return json.dumps({**metadata, "mpp_x": MPP, "mpp_y": MPP})


def forged(export: Path, folder: Path, image: bytes, size: Size) -> Path:
    """A copy of the export with another image, and a row that tells its size and digest."""
    copy = shutil.copytree(export, folder)
    (copy / str(column(copy, "select path from mirror")[0])).write_bytes(image)
    with catalogue(copy) as connection:
        connection.execute(
            "UPDATE images SET pixels_sha256 = NULL, "
            "sha256 = ?, bytes = ?, width = ?, height = ?, mpp_x = ?, mpp_y = ?",
            (hashlib.sha256(image).hexdigest(), len(image), *size, MPP, MPP),
        )
    return copy


def jpeg(size: Size, text: str, **how: object) -> bytes:
    exif = Image.Exif()
    exif[270] = text
    file = io.BytesIO()
    Image.new("RGB", size, "pink").save(file, "JPEG", exif=exif, **how)
    return file.getvalue()


def rescanned(size: Size, text: str) -> bytes:
    before, scan = scans(jpeg(size, text, progressive=True))
    first = scan[: scan.index(b"\xff\xc4")]
    return before + scan + first * 3000 + b"\xff\xd9"


def text_chunk(text: str) -> tuple[bytes, bytes]:
    return b"tEXt", b"tcgamirror\0" + text.encode()


def profiled(size: Size, text: str) -> bytes:
    profile = b"p\0\0" + zlib.compress(bytes(300 << 20))
    pixels = zlib.compress(bytes((1 + 3 * size.width) * size.height))
    chunks = (head(*size), text_chunk(text), (b"iCCP", profile), (b"IDAT", pixels), (b"IEND", b""))
    return png(*chunks)


def blank(size: Size, text: str) -> bytes:
    """A PNG as this program could have made it, without packing all of its pixels here."""
    left = (1 + 3 * size.width) * size.height
    packer = zlib.compressobj(wbits=-15)
    part = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(left % (1 << 24))) + packer.flush()
    sum_of_zeros = struct.pack(">I", (left % 65521) << 16 | 1)
    packed = zlib.compress(b"")[:2] + part * (left >> 24) + rest + sum_of_zeros
    return png(head(*size), text_chunk(text), (b"IDAT", packed), (b"IEND", b""))


LARGE = Size(14_000, 14_000)
BOMBS: dict[str, tuple[ImageFormat, Size, Callable[[Size, str], bytes], str]] = {
    "40,000 strips at one place": (
        ImageFormat.TIFF,
        Size(1_000_000, 800_000),
        lambda size, text: overlapping(size, 20, text),
        "more than this program writes",
    ),
    "strips at one place": (
        ImageFormat.TIFF,
        Size(33_000, 40_000),
        lambda size, text: overlapping(size, 1, text),
        "overlap",
    ),
    "one scan 3,000 times": (ImageFormat.JPEG, Size(3000, 3000), rescanned, "baseline"),
    "progressive": (
        ImageFormat.JPEG,
        LARGE,
        lambda size, text: jpeg(size, text, progressive=True),
        "baseline",
    ),
    "profile": (ImageFormat.PNG, Size(200, 160), profiled, "a chunk b'iCCP'"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_an_image_that_would_take_too_much_is_refused_at_once(
    exports: Callable[[ImageFormat], Path], tmp_path: Path, name: str
) -> None:
    form, size, made_by, why = BOMBS[name]
    export = exports(form)
    copy = forged(export, tmp_path / "e", made_by(size, facts(export, form)), size)
    root = tmp_path / "m"
    result = run("--mirror", root, "import", "--decode", copy, by=LIMITED, timeout=40)
    assert result.code == 2 and why in result.sentence, result
    assert not root.exists()


def test_a_large_image_takes_little_memory(
    exports: Callable[[ImageFormat], Path], tmp_path: Path
) -> None:
    export = exports(ImageFormat.JPEG)
    image = jpeg(LARGE, facts(export, ImageFormat.JPEG))
    copy = forged(export, tmp_path / "e", image, LARGE)
    result = run("--mirror", tmp_path / "m", "import", copy, "--json", by=LIMITED)
    assert (result.code, result.json()["images"]) == (0, 1)


def blank_tiff(size: Size, text: str) -> bytes:
    """A TIFF as this program could have made it, of strips with one line."""
    strip = zlib.compress(bytes(3 * size.width))
    places = range(8, 8 + len(strip) * size.height, len(strip))
    counts = [len(strip)] * size.height
    return forged_tiff(strip * size.height, size, 1, [*places], counts, 15.0, text)


LONG: dict[ImageFormat, tuple[Size, Callable[[Size, str], bytes]]] = {
    ImageFormat.PNG: (Size(120_000, 120_000), blank),
    ImageFormat.TIFF: (Size(65_000, 20_000), blank_tiff),
}
"""Images that take many seconds to decode; no JPEG that this program writes does."""


@pytest.mark.parametrize(
    ("command", "form"),
    [
        ("import --decode", ImageFormat.TIFF),
        ("verify --decode", ImageFormat.PNG),
        ("rebuild --offline", ImageFormat.PNG),
    ],
)
def test_the_first_interrupt_ends_a_long_decode(
    exports: Callable[[ImageFormat], Path], tmp_path: Path, command: str, form: ImageFormat
) -> None:
    size, made_by = LONG[form]
    export = exports(form)
    image = made_by(size, facts(export, form))
    root = tmp_path / "m"
    copy = forged(export, tmp_path / "e", image, size)
    if command.startswith("import"):
        words = [*command.split(), str(copy)]
    else:
        shutil.copytree(copy, root)
        words = command.split()
        if command.startswith("rebuild"):
            (root / "catalogue.db").unlink()
    with started("--mirror", root, *words) as process:
        until(lambda: decoding(process.pid), seconds=90)
        process.send_signal(signal.SIGINT)
        result = ended(process, timeout=8)
    assert result.code == 130, result
    assert not list(root.rglob("*.part"))


def decoding(pid: int) -> bool:
    """Whether a process has taken more time of the processor than all that comes before needs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) > 150


def test_a_small_forged_image_passes(
    exports: Callable[[ImageFormat], Path], tmp_path: Path
) -> None:
    export = exports(ImageFormat.PNG)
    text = facts(export, ImageFormat.PNG)
    copy = forged(export, tmp_path / "e", blank(Size(200, 160), text), Size(200, 160))
    assert run("--mirror", tmp_path / "m", "import", copy).code == 0
