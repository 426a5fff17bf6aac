"""Looking after a large mirror and carrying it, beside the usual tools.

`verify` beside `sha256sum`, `export` beside `cp -r` and `tar`, `sync` beside `rsync`, and what
`gallery` takes: each by the command line a user types, the program's start included. Ours and
theirs take turns in one run, on images that are in the page cache; medians are told. `cp`, `tar`
and `rsync` take no digests. Nor does an export, of images that nothing touched since `verify` read
them; what it takes where none was read stands there too.

`python -m tests.bench.carrying` takes about ten minutes; `--doublings` tells instead how the time
grows with the number of images. Either needs 20 GB where temporary files are: small copies are kept
to the end, because ext4 makes files slowly for minutes after many were deleted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import statistics
import struct
import subprocess
import sys
import time
import uuid
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from shutil import rmtree, which
from tempfile import TemporaryDirectory

import numpy as np

from tcgamirror.catalogue import Catalogue
from tcgamirror.compared import FILE
from tcgamirror.dimensions import SIGNATURE
from tcgamirror.encode import FACTS_KEY
from tcgamirror.facts import facts_of
from tcgamirror.files import free_bytes
from tcgamirror.geometry import Size
from tcgamirror.home import CATALOGUE, Home
from tcgamirror.model import Kind, Level, Listing, Mpp, MppSource, Pyramid, Slide, Target
from tcgamirror.settings import Settings
from tcgamirror.store import Store
from tests.bench.aims import number
from tests.bench.ours import PROGRAM
from tests.bench.report import table
from tests.gdc import made_up_name

MANY, FEW = 12_000, 300
COUNTS = (1_500, 3_000, 6_000, 12_000, 24_000)
SMALL = tuple(Size(200, height) for height in range(80, 161, 2))
"""Images of 31 to 62 kB."""
LARGE = (Size(1400, 1100),)
"""Of 3 MB."""

PROJECTS = 30
BASE, TARGET = 0.25, Target(mpp=15.0, max_size=None)
NOW = 1_795_353_255.0
COLUMNS = ("what", "images", "MB", "s", "beside", "its s", "ratio", "aim", "reached")

HEADING = """## Looking after a mirror and carrying it, beside the usual tools

Ratios are of speeds. An export into a directory hands over unread what nothing touched since it
was fetched or verified, and reads all else against its digests: "nothing known" is an export whose
images are all read. Archives and the first sync read every image; `cp -r`, `tar` and `rsync`
compare none. Nobody waits for the disk but archives and sync."""
NEEDED = 20e9
AS_FAST = 0.8
DOUBLED = 2.1
UNCHANGED_GALLERY = 1.5


@dataclass(frozen=True, slots=True)
class Made:
    """A mirror whose images are all done. bytes: of them."""

    root: Path
    images: int
    bytes: int


Command = Callable[[Made, Path], Sequence[str]]
"""The words of a command on a mirror, by a path at which nothing is yet."""


@dataclass(frozen=True, slots=True)
class Contest:
    """What one command is compared with.

    theirs: by what the tables call them, the tool first. aim: our speed by that of the first, at
    least. most: our seconds. warm: whether all run once untimed, because they leave nothing.
    """

    what: str
    ours: Command
    theirs: Mapping[str, Command] = field(default_factory=dict)
    aim: float | None = None
    most: float | None = None
    warm: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What a command took, on so many images of so many MB in all.

    beside: what it is compared with, and its seconds. ratio: our speed by theirs; or, for twice
    the images, our seconds by those for half of them. aim: in words.
    """

    what: str
    files: int
    megabytes: float
    seconds: float
    beside: str = ""
    their_seconds: float | None = None
    ratio: float | None = None
    aim: str = ""
    reached: bool | None = None


# The commands ----------------------------------------------------------------------


def _ours(*words: str) -> Command:
    return lambda made, _: [*PROGRAM, "--mirror", str(made.root), *words]


def _export(ending: str = "") -> Command:
    return lambda made, place: _ours("export", f"{place}{ending}")(made, place)


def _to_place(*words: str) -> Command:
    """Words after which come the mirror and the path."""
    return lambda made, place: [*words, str(made.root), str(place)]


def _tar(options: str, ending: str) -> Command:
    return lambda made, place: [
        *("tar", *options.split(), f"{place}{ending}"),
        *("-C", str(made.root), "."),
    ]


def _digests(*program: str, at_once: int = 1) -> Command:
    """Of all images, by so many processes."""

    def command(made: Made, _: Path) -> Sequence[str]:
        share = -(-made.images // at_once)
        words = ["xargs", "-a", str(_list(made)), "-P", str(at_once), "-n", str(share)]
        return [*words, "-s", "2000000", *program]

    return command


def _list(made: Made) -> Path:
    """A file that names all images, made at the first call."""
    path = made.root.with_name(f"{made.root.name}.list")
    if not path.exists():
        path.write_text("".join(f"{image}\n" for image in made.root.glob("images/*/*")))
    return path


def _export_of_unknown(made: Made, place: Path) -> Sequence[str]:
    forgotten = 'rm -f "$0" && exec "$@"'
    return ["sh", "-c", forgotten, str(made.root / FILE), *_export()(made, place)]


def _gallery_anew(made: Made, place: Path) -> Sequence[str]:
    anew = 'rm -rf "$0/gallery" && exec "$@"'
    return ["sh", "-c", anew, str(made.root), *_ours("gallery")(made, place)]


def _in_place(command: Command, place: str) -> Command:
    """Always with the same path, at which the last run left what it made."""
    return lambda made, _: command(made, made.root.with_name(place))


VERIFY = Contest(
    "verify",
    _ours("verify"),
    {
        "sha256sum": _digests("sha256sum"),
        "xargs -P2 sha256sum": _digests("sha256sum", at_once=2),
        "openssl dgst -sha256": _digests("openssl", "dgst", "-sha256"),
    },
    aim=AS_FAST,
    warm=True,
)
_SYNC, _RSYNC = _to_place(*PROGRAM, "sync"), _to_place("rsync", "-a")
_COPY = _to_place("cp", "-r")
_COPY_AND_WAIT = _to_place("sh", "-c", 'cp -r "$0" "$1" && sync -f "$1"')
_DIGEST_BESIDE = 'xargs -a "$2" -P 1 openssl dgst -sha256 & cp -r "$0" "$1" && wait'


def _copy_and_digest(made: Made, place: Path) -> Sequence[str]:
    """By other tools all that such an export does: digests on one core, copies on the other."""
    return ["sh", "-c", _DIGEST_BESIDE, str(made.root), str(place), str(_list(made))]


EXPORT = Contest(
    "export",
    _export(),
    {
        "cp -r": _COPY,
        "cp -r; sync -f": _COPY_AND_WAIT,
    },
    aim=AS_FAST,
)
EXPORT_OF_UNKNOWN = Contest(
    "export, nothing known",
    _export_of_unknown,
    {"cp -r": _COPY, "cp -r, and openssl dgst -sha256": _copy_and_digest},
)
SYNC = Contest("sync, the first", _SYNC, {"rsync -a": _RSYNC, "cp -r": _COPY})
GALLERY = Contest("gallery, the first", _gallery_anew)
FOR_LARGE = (VERIFY, EXPORT, EXPORT_OF_UNKNOWN)
FOR_SMALL = (
    *FOR_LARGE,
    Contest("export .tar", _export(".tar"), {"tar cf": _tar("cf", ".tar")}),
    Contest(
        "export .tar.zst", _export(".tar.zst"), {"zstd by tar": _tar("--zstd -cf", ".tar.zst")}
    ),
    SYNC,
    Contest(
        "sync, nothing new",
        _in_place(_SYNC, "synced"),
        {"rsync -a": _in_place(_RSYNC, "rsynced")},
        warm=True,
    ),
    GALLERY,
    Contest("gallery, unchanged", _ours("gallery"), most=UNCHANGED_GALLERY, warm=True),
)


# The comparison --------------------------------------------------------------------


def carrying(folder: Path, times: int) -> Iterator[Row]:
    """Every comparison, `times` times each, on mirrors that are made in the folder."""
    for made, contests in (
        (mirror(folder / "large", FEW, LARGE), FOR_LARGE),
        (mirror(folder / "small", MANY, SMALL), FOR_SMALL),
    ):
        for contest in contests:
            yield from _compared(contest, made, times)


def _compared(contest: Contest, made: Made, times: int) -> Iterator[Row]:
    """A row for each of theirs, or one for ours alone."""
    there = {name: words for name, words in contest.theirs.items() if which(name.split()[0])}
    commands = {"": contest.ours, **there}
    taken = _medians(contest, commands, made, times)
    ours = taken.pop("")
    megabytes = made.bytes / 1e6
    if not taken:
        aim = "" if contest.most is None else f"≤ {number(contest.most)} s"
        reached = None if contest.most is None else ours <= contest.most
        yield Row(contest.what, made.images, megabytes, ours, aim=aim, reached=reached)
    judged = contest.aim
    for beside, theirs in taken.items():
        yield Row(
            what=contest.what,
            files=made.images,
            megabytes=megabytes,
            seconds=ours,
            beside=beside,
            their_seconds=theirs,
            ratio=theirs / ours,
            aim="" if judged is None else f"≥ {number(judged)}",
            reached=None if judged is None else theirs / ours >= judged,
        )
        judged = None


def doublings(folder: Path, times: int) -> Iterator[Row]:
    """What each of ours takes for twice the images, by what it takes for half of them."""
    before: dict[str, float] = {}
    for count in COUNTS:
        made = mirror(folder / f"of-{count}", count, SMALL)
        for contest in (VERIFY, EXPORT, SYNC, GALLERY):
            seconds = _medians(contest, {"": contest.ours}, made, times)[""]
            if half := before.get(contest.what):
                yield Row(
                    what=contest.what,
                    files=count,
                    megabytes=made.bytes / 1e6,
                    seconds=seconds,
                    beside="half of them",
                    their_seconds=half,
                    ratio=seconds / half,
                    aim=f"≤ {number(DOUBLED)}",
                    reached=seconds / half <= DOUBLED,
                )
            before[contest.what] = seconds


def _medians(
    contest: Contest, commands: Mapping[str, Command], made: Made, times: int
) -> dict[str, float]:
    """Seconds of each command, which take turns so that a busy minute hits all of them."""
    taken = defaultdict(list)
    for _ in range(times + contest.warm):
        for name, command in commands.items():
            place = made.root.with_name(f"copy-{uuid.uuid4()}")
            began = time.monotonic()
            subprocess.run(command(made, place), check=True, stdout=subprocess.DEVNULL)
            taken[name].append(time.monotonic() - began)
            for archive in place.parent.glob(f"{place.name}.*"):
                archive.unlink()
            if made.images <= FEW:
                rmtree(place, ignore_errors=True)
    return {name: statistics.median(seconds[contest.warm :]) for name, seconds in taken.items()}


# A mirror to carry -----------------------------------------------------------------


def mirror(root: Path, images: int, sizes: Sequence[Size]) -> Made:
    """A mirror at `root` that is done, of images of these sizes in turn, each with its own facts.

    Its catalogue is filled by SQL, because going through `record` takes a transaction each.
    """
    home = Home.create(root, Settings(TARGET, slides=images))
    slides = [_slide(number) for number in range(images)]
    with Catalogue.open(root / CATALOGUE) as catalogue:
        catalogue.merge(Listing("Data Release 45.0 - December 04, 2025", tuple(slides)), NOW)
        catalogue.add_to_sample([slide.file_name for slide in slides], NOW)
    pixels = [(size, _noise(size)) for size in sizes]
    pictures = [_put(home, slide, *of) for slide, of in zip(slides, cycle(pixels), strict=False)]
    columns = ("path", "bytes", "sha256", "width", "height", "mpp_x", "mpp_y")
    with closing(sqlite3.connect(root / CATALOGUE)) as connection, connection:
        connection.executemany(
            f"UPDATE images SET {', '.join(f'{column} = ?' for column in columns)}, "
            "status = 'done', attempts = 1, source = 'range', level = 1, level_downsample = 20.0, "
            f"base_mpp = {BASE}, mpp_source = 'header', fetched_at = '2026-11-22T13:57:58Z' "
            "WHERE file_name = ?",
            [(*picture, slide.file_name) for slide, picture in zip(slides, pictures, strict=True)],
        )
    return Made(root, images, sum(size for _, size, *_ in pictures))


Picture = tuple[str, int, str, int, int, float | None, float | None]
"""Path, bytes and SHA-256 of an image's file, its width and height, and its µm per pixel."""


def _slide(number: int) -> Slide:
    return Slide(
        file_id=str(uuid.UUID(int=number)),
        file_name=made_up_name(str(number)),
        md5=f"{number:032x}",
        size=10**9,
        kind=Kind.DIAGNOSTIC,
        project_id=f"TCGA-{number % PROJECTS:02}",
        primary_site="Breast",
    )


def _noise(size: Size) -> bytes:
    """The pixels of a PNG, packed: as much noise as makes stained tissue's two thirds of them."""
    random = np.random.default_rng(0)
    lines = np.zeros((size.height, 1 + 3 * size.width), np.uint8)
    lines[:, 1:] = random.integers(100, 132, (size.height, 3 * size.width), np.uint8)
    return zlib.compress(lines.tobytes(), 1)


def _put(home: Home, slide: Slide, size: Size, pixels: bytes) -> Picture:
    """Writes the slide's image; what its row says of it."""
    levels = [Size(size.width * times, size.height * times) for times in (60, 3)]
    mpp = Mpp(BASE, MppSource.HEADER)
    tile = Size(240, 240)
    pyramid = Pyramid((Level(levels[0], tile, 1.0), Level(levels[1], tile, 20.0)), mpp)
    rendition = TARGET.rendition(pyramid)
    facts = json.dumps(facts_of(slide, "range", pyramid, rendition))
    data = SIGNATURE + b"".join(
        struct.pack(">I", len(chunk)) + name + chunk + struct.pack(">I", zlib.crc32(name + chunk))
        for name, chunk in (
            (b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)),
            (b"tEXt", f"{FACTS_KEY}\0{facts}".encode("ascii")),
            (b"IDAT", pixels),
            (b"IEND", b""),
        )
    )
    path = Store(home.root, home.settings.form).path(slide)
    (home.root / path).parent.mkdir(parents=True, exist_ok=True)
    (home.root / path).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    return path, len(data), sha256, *size, rendition.mpp_x, rendition.mpp_y


# The table -------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.carrying", description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--doublings", action="store_true", help="ever more images instead")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        if free_bytes(Path(folder)) < NEEDED:
            sys.exit(f"{folder} has not the 20 GB that this takes: name another disk by TMPDIR")
        measured = doublings if given.doublings else carrying
        rows = []
        for row in measured(Path(folder), given.times):
            rows.append(_cells(row))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print(f"\n{HEADING}\n\n{table(COLUMNS, rows)}")


def _cells(row: Row) -> Sequence[str]:
    return (
        row.what,
        f"{row.files:,}",
        number(row.megabytes),
        f"{row.seconds:.2f}",
        row.beside,
        "" if row.their_seconds is None else f"{row.their_seconds:.2f}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        row.aim,
        {True: "yes", False: "**no**", None: ""}[row.reached],
    )


if __name__ == "__main__":
    main()
