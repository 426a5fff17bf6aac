"""Readers of what others wrote, each given real inputs that were spoiled, and plain rubbish.

`python -m tests.support.fuzz READER EXAMPLES SEED FOLDER` runs one in a process of its own, because
its memory is limited: an example may take a few seconds of the processor, may raise errors of
the error tree alone, and may change nothing outside of the folder it is given.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.images import Image
from tcgamirror.imaging.bounded import FileBytes
from tcgamirror.imaging.decode import JpegTiles
from tcgamirror.imaging.deepzoom import DeepZoom, decode_tile
from tcgamirror.imaging.image_reader import decode_all, read_header
from tcgamirror.imaging.image_writer import write_image
from tcgamirror.imaging.level_reader import open_level
from tcgamirror.imaging.metadata import parse_metadata
from tcgamirror.imaging.store import Store
from tcgamirror.imaging.svs import Svs
from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.mirror.lockfile import lock_lines, parse_lock
from tcgamirror.mirror.settings import FILE_NAME, read_settings
from tcgamirror.model.errors import Damaged, TcgaMirrorError
from tcgamirror.model.geometry import Box, Size
from tcgamirror.model.slide import ImageFormat, Resample, Target
from tcgamirror.net.response import parsed as parsed_json
from tcgamirror.sources import gdc
from tcgamirror.sources.labels import read_labels
from tcgamirror.sources.manifest import read_slides
from tcgamirror.sources.whole import LocalFile
from tcgamirror.transfer.archive.reader import Export
from tcgamirror.transfer.sync.remote import DirectoryMirror
from tcgamirror.transfer.untrusted import UntrustedCatalogue
from tcgamirror.web.gallery.thumbnails import Thumbnails
from tests.mirror.test_lockfile import LOCK
from tests.sources.test_gdc import API, STATUS, Scripted, hit, page
from tests.support.strip_tiffs import strip_tiff

MEMORY = 1 << 30
"""Bytes of address space on top of what the libraries take: thumbnails may take 800 MB."""

SECONDS = 5.0
"""Of the processor, for one example."""

_HUGE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)
_NUMBERS = [
    (number & ((1 << 8 * width) - 1)).to_bytes(width, order)
    for number in _HUGE
    for width in (1, 2, 4, 8)
    for order in ("little", "big")
]
_OPERATIONS = ("flip", "number", "number", "word", "cut", "replace", "double")
_WORD = re.compile(rb"[\w.+:-]+")
_WORDS = [b"", b"-1", b"0", b"null", b"true", b"nan", b"inf", b"1e999", b"9" * 400, b"1e-400"]
_WORDS += [b"[]", b"{}", b"[" * 5000, b"a." * 5000, b"a" * 20_000, b"../../a", b"\x1b[2J", b'"']
_WORDS += [b"\xff\xfe", b"\0", b"\\ud800", b"\\u001b", b"\xc3\xa9", b"0x7fffffffffffffff", b"\n"]


class TakesTooLong(BaseException):
    """An example took more of the processor than it may."""


@dataclass(frozen=True, repr=False)
class Reader:
    """One reader. It has no long name, because hypothesis would make one again and again.

    seeds: makes real inputs, given the folder of the material. read: reads one input, in an
    empty folder. mend: makes checksums right again, so that what lies behind them is read.
    """

    seeds: Callable[[Path], Sequence[bytes]]
    read: Callable[[bytes, Path], object]
    mend: Callable[[bytes], bytes] = bytes


# Spoiled inputs --------------------------------------------------------------------


@st.composite
def spoiled(draw: st.DrawFn, reader: Reader, folder: Path) -> bytes:
    """One of the seeds with bytes changed, cut, doubled or made huge; seldom plain rubbish."""
    if draw(st.integers(0, 15)) == 0:
        return draw(st.binary(max_size=2000))
    seeds = reader.seeds(folder)
    data = bytearray(seeds[draw(st.integers(0, len(seeds) - 1))])
    for _ in range(draw(st.integers(1, 6))):
        # Headers come first: half of the changes are there.
        most = max(0, len(data) - 1)
        place = draw(st.integers(0, min(most, 400)) | st.integers(0, most))
        stop = place + draw(st.integers(0, 64) | st.integers(1, max(1, len(data))))
        match draw(st.sampled_from(_OPERATIONS)):
            case "flip" if data:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "number":
                number = draw(st.sampled_from(_NUMBERS))
                data[place : place + len(number)] = number
            case "word" if words := list(_WORD.finditer(data, 0, 20_000)):
                word = words[draw(st.integers(0, len(words) - 1))]
                data[word.start() : word.end()] = draw(st.sampled_from(_WORDS))
            case "cut":
                del data[place:]
            case "replace":
                data[place:stop] = draw(st.binary(max_size=40))
            case "double":
                part = data[place:stop]
                times = draw(st.sampled_from((1, 2, 100)))
                data[place:place] = part * min(times, 1 + 200_000 // (len(part) or 1))
    return reader.mend(bytes(data)) if draw(st.booleans()) else bytes(data)


def with_png_sums(data: bytes) -> bytes:
    """Each chunk with its checksum, as far as chunks follow each other."""
    place, out = 8, data[:8]
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body = data[place + 4 : place + 8 + length]
        if len(body) < 4 + length:
            break
        out += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return out + data[place:]


def with_tar_sums(data: bytes) -> bytes:
    """Every block that looks like a header with its checksum."""
    blocks = []
    for place in range(0, len(data), 512):
        block = data[place : place + 512]
        if block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 8 * 32
            block = block[:148] + b"%06o\0 " % total + block[156:]
        blocks.append(block)
    return b"".join(blocks)


def with_lock_sum(data: bytes) -> bytes:
    title, _, rest = data.partition(b"\n")
    body = rest.partition(b"\n")[2]
    return title + b"\n# sha256 of the lines below: %s\n" % sha256(body).hexdigest().encode() + body


# The readers -----------------------------------------------------------------------


def written(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


def read_metadata(material: Path) -> str:
    image = next((material / "export" / "images").rglob("*.png"))
    with image.open("rb") as file:
        return read_header(file, ImageFormat.PNG).metadata


def images(form: ImageFormat) -> Callable[[Path], Sequence[bytes]]:
    def seeds(material: Path) -> Sequence[bytes]:
        made = []
        for size in (Size(40, 30), Size(700, 90), Size(4097, 3)):
            rng = np.random.default_rng(1)
            pixels = rng.integers(0, 16, (size.height, size.width, 3), np.uint8)
            file = io.BytesIO()
            facts = json.loads(read_metadata(material))
            write_image(file, form, size, iter([pixels]), (4.0, 4.0), facts)
            made.append(file.getvalue())
            if form is ImageFormat.TIFF:
                made.append(strip_tiff(pixels, 4.0, facts))
        return [*made, *copies(material)] if form is ImageFormat.TIFF else made

    return seeds


def copies(material: Path) -> Iterator[bytes]:
    """TIFFs of tiles that were copied from slides, with JPEG tables and in JPEG 2000."""
    store = Store(material, ImageFormat.TIFF)
    target = Target(None, None, Resample.NATIVE, 0)
    for name in ("slide", "tables", "j2k"):
        slide = parse_metadata(read_metadata(material)).slide
        with (
            LocalFile(material / f"{name}.svs") as file,
            open_level(Svs(file), target, material) as reader,
        ):
            picture = store.write(replace(slide, project_id=f"TCGA-{name}"), "range", reader)
        yield (material / picture.path).read_bytes()


def image(form: ImageFormat) -> Reader:
    def read(data: bytes, folder: Path) -> None:
        path = written(data, folder / f"a{form.suffix}")
        Thumbnails().make(path)
        with path.open("rb") as file:
            decode_all(file, form)
            parse_metadata(read_header(file, form).metadata)

    return Reader(images(form), read, with_png_sums if form is ImageFormat.PNG else bytes)


def read_slide(data: bytes, _: Path) -> None:
    source = FileBytes(io.BytesIO(data))
    slide = Svs(source)
    for number, tiled in enumerate(slide.levels):
        slide.array_spans(number)
        slide.data_before(number)
        list(slide.tags(number))
        table = slide.tile_table(number)
        list(table.runs(1000))
        if tiled.is_rgb_or_ycbcr_jpeg:
            tiles = JpegTiles(source, tiled, table)
            for column in range(min(tiles.grid.columns, 2)):
                tiles.read_tile(column, 0)


def read_archive(data: bytes, folder: Path) -> None:
    with ExitStack() as stack:
        export = Export(written(data, folder / "a.tar"), folder, stack)
        for path, member in export.members.items():
            with suppress(Damaged):
                image = Image("a.svs", path, member.size, "", Size(1, 1), None, done=True)
                export.fetch(image, io.BytesIO())


def read_catalogue(data: bytes, folder: Path) -> None:
    """data: a catalogue, its rollback journal and its WAL, with a mark between them."""
    root, copies = folder / "m", folder / "copies"
    root.mkdir()
    copies.mkdir()
    for end, part in zip(("", "-journal", "-wal"), data.split(_MARK), strict=False):
        written(part, root / f"{CATALOGUE}{end}")
    written(b"", root / FILE_NAME)
    with suppress(TcgaMirrorError), Catalogue.open(root / CATALOGUE, read_only=True) as catalogue:
        catalogue.reports.counts()
    seen = DirectoryMirror(root, None, threading.Event()).catalogue(copies, None)
    assert seen is not None
    with closing(UntrustedCatalogue(seen.path(copies), "it")) as foreign:
        foreign.check()
        foreign.images()
        foreign.sample_facts()
        for row in foreign.sampled():
            list(foreign.attempts([str(row["file_name"])]))


_JOURNAL = bytes.fromhex("d9d505f920a163d7")
"""How SQLite's journals begin, and the name of a super-journal in one ends."""
_MARK = b"\n--journal--\n"


def catalogues(material: Path) -> Sequence[bytes]:
    """At rest, with what a killed writer left, and with what names a file to be deleted."""
    path = material / "export" / CATALOGUE
    pages = path.read_bytes()
    (size,) = struct.unpack(">H", pages[16:18])
    head = _JOURNAL + struct.pack(">IIIII", 1, 7, len(pages) // size, 512, size)
    page = pages[:size]
    total = (7 + sum(page[place] for place in range(size - 200, 0, -200))) & 0xFFFFFFFF
    journal = head.ljust(512, b"\0") + struct.pack(">I", 1) + page + struct.pack(">I", total)
    name = str(material / "precious").encode()
    end = struct.pack(">I", 0xFFFFFFFF) + name + struct.pack(">II", len(name), sum(name))
    parts = [(pages,), (pages, journal), (pages, journal + end + _JOURNAL), with_wal(material)]
    return [_MARK.join(each) for each in parts]


def with_wal(material: Path) -> tuple[bytes, bytes, bytes]:
    path = material / "wal.db"
    shutil.copy(material / "export" / CATALOGUE, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("INSERT INTO facts VALUES ('whole', 'change')")
        return path.read_bytes(), b"", (material / "wal.db-wal").read_bytes()


def lines(*names: str) -> Callable[[Path], Sequence[bytes]]:
    return lambda material: [(material / name).read_bytes() for name in names]


def manifests(_: Path) -> Sequence[bytes]:
    listed = [(hit(n)["file_id"], hit(n)["file_name"], f"{n:032x}", n) for n in (1, 2, 3)]
    rows = ["\t".join(map(str, (*row, "released"))) for row in listed]
    text = "\n".join(["id\tfilename\tmd5\tsize\tstate", *rows, ""])
    return [text.encode(), text.encode("utf-16"), text.replace("\t", ",").encode()]


def read_answers(data: bytes, _: Path) -> None:
    answer = parsed_json("it", "application/json", data)
    for server in (Scripted(lambda *_: answer), Scripted(lambda *_: answer, status=answer)):
        for ask in (
            gdc.read_listing,
            gdc.read_release,
            lambda s, a: gdc.read_first_slides(s, a, 3),
            lambda s, a: list(read_labels(s, a)),
        ):
            with suppress(TcgaMirrorError):
                ask(server, API)
    gdc.read_latest_versions(Scripted(lambda *_: answer), API, [str(hit(1)["file_id"])])


def answers(_: Path) -> Sequence[bytes]:
    tissue = {"submitter_id": "TCGA-22-0001-01Z-00-DX1", "percent_necrosis": 5}
    portions = [{"slides": [tissue]}]
    samples = [{"sample_type": "Tumor", "portions": portions}]
    diagnoses = [{"ajcc_pathologic_stage": "Stage I", "diagnosis_is_primary_disease": "true"}, {}]
    person = {"gender": "male", "days_to_death": 415}
    case = {"project": {"project_id": "TCGA-LUSC"}, "samples": samples}
    case |= {"diagnoses": diagnoses, "demographic": person}
    hits = [hit(n, md5sum="0" * 32, file_size=n, cases=[case], version="1") for n in (1, 2, 3)]
    rows = [{"id": each["file_id"], "latest_id": each["file_id"]} for each in hits]
    return [json.dumps(each).encode() for each in (page(hits, 3), STATUS, rows)]


def read_zoom(data: bytes, _: Path) -> None:
    zoom = DeepZoom.from_metadata(parsed_json("it", "application/json", data))
    for level in range(zoom.last_dz_level + 1):
        grid = zoom.grid(level)
        zoom.served_box(grid, grid.columns - 1, grid.rows - 1)


def zooms(_: Path) -> Sequence[bytes]:
    sizes = {"Width": "109559", "Height": "89665", "TileSize": "512", "Overlap": "1"}
    return [json.dumps({"Format": "jpeg", "uuid": "a", **sizes}).encode()]


def tiles(material: Path) -> Sequence[bytes]:
    made = (images(form)(material)[0] for form in (ImageFormat.PNG, ImageFormat.JPEG))
    return list(made)


READERS = {
    "slides": Reader(lines("slide.svs"), read_slide),
    **{f"{form} images": image(form) for form in ImageFormat},
    "facts": Reader(
        lambda material: [read_metadata(material).encode()],
        lambda data, _: parse_metadata(data.decode("latin-1")),
    ),
    "archives": Reader(lines("export.tar"), read_archive, with_tar_sums),
    "catalogues": Reader(catalogues, read_catalogue),
    "manifests": Reader(
        manifests, lambda data, folder: list(read_slides(written(data, folder / "a.txt")))
    ),
    "tile metadata": Reader(zooms, read_zoom),
    "tiles": Reader(
        tiles,
        lambda data, _: decode_tile(data, Box(0, 0, 40, 30), Box(1, 1, 40, 30)),
        with_png_sums,
    ),
    "answers": Reader(answers, read_answers),
    "lock files": Reader(
        lambda _: [b"".join(lock_lines(replace(LOCK, slides=LOCK.slides[:5])))],
        lambda data, _: parse_lock(io.BytesIO(data)),
        with_lock_sum,
    ),
    "settings": Reader(
        lines(f"export/{FILE_NAME}"),
        lambda data, folder: read_settings(written(data, folder / FILE_NAME)),
    ),
}


# One process -----------------------------------------------------------------------

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_WRITES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod"}
_WRITES |= {"os.chown", "os.truncate", "os.utime", "shutil.rmtree", "sqlite3.connect"}
_FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.")


class Watch:
    """Notes what is done outside of a folder while an example is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[object, ...]) -> None:
        if not self.on:
            return
        if event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {args}")
        writes = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
        if writes or event in _WRITES:
            self._check(event, args[0])

    def _check(self, event: str, path: object) -> None:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        place = text.removeprefix("file://")
        if place and place != ":memory:" and not place.startswith(self._folder):
            self.seen.append(f"{event} {text}")


def main(name: str, examples: int, number: int, folder: Path) -> None:
    """Reads so many spoiled inputs; whatever may not be ends it with a traceback."""
    reader = READERS[name]
    reader = replace(reader, seeds=cache(reader.seeds))
    work = folder / f"work-{name.replace(' ', '-')}"
    precious = folder / "precious"
    watch = Watch(work)
    signal.signal(signal.SIGPROF, _too_long)
    _limit_memory()

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(spoiled(reader, folder))
    def read(data: bytes) -> None:
        work.mkdir()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        watch.on = True
        try:
            reader.read(data, work)
        except TcgaMirrorError as error:
            assert "\n" not in str(error) and str(error), "no sentence"
            assert len(str(error)) < 1000, "a long sentence"
        finally:
            watch.on = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            for path in sorted(work.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            work.rmdir()
        assert precious.read_text() == "precious", "another file was changed"
        assert not watch.seen, watch.seen

    read()


def _too_long(*_: object) -> None:
    raise TakesTooLong(f"more than {SECONDS} s")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    # As the program itself has it.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
