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
import statistics
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree, which
from tempfile import TemporaryDirectory

from tcgamirror.model.geometry import Size
from tcgamirror.system.files import free_bytes
from tests.bench.aims import number
from tests.bench.done import Made, mirror
from tests.bench.ours import PROGRAM
from tests.bench.report import table

MANY, FEW = 12_000, 300
COUNTS = (1_500, 3_000, 6_000, 12_000, 24_000)
SMALL = tuple(Size(200, height) for height in range(80, 161, 2))
"""Images of 31 to 62 kB."""
LARGE = (Size(1400, 1100),)
"""Of 3 MB."""

COLUMNS = ("what", "images", "MB", "s", "beside", "its s", "ratio", "aim", "reached")

HEADING = """## Looking after a mirror and carrying it, beside the usual tools

Ratios are of speeds. Exports and the first sync compare every image with its digest; `cp -r`,
`tar` and `rsync` compare none. Only archives and sync wait for the disk."""
NEEDED = 20e9
AS_FAST = 0.8
DOUBLED = 2.1
UNCHANGED_GALLERY = 1.5


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
_DIGEST_BESIDE = 'xargs -a "$2" -P 1 openssl dgst -sha256 & cp -r "$0" "$1" && wait'


def _copy_and_digest(made: Made, place: Path) -> Sequence[str]:
    """By other tools all that such an export does: digests on one core, copies on the other."""
    return ["sh", "-c", _DIGEST_BESIDE, str(made.root), str(place), str(_list(made))]


EXPORT = Contest(
    "export",
    _export(),
    {"cp -r": _COPY, "cp -r, and openssl dgst -sha256": _copy_and_digest},
)
SYNC = Contest("sync, the first", _SYNC, {"rsync -a": _RSYNC, "cp -r": _COPY})
GALLERY = Contest("gallery, the first", _gallery_anew)
FOR_LARGE = (VERIFY, EXPORT)
FOR_SMALL = (
    *FOR_LARGE,
    Contest("export .tar", _export(".tar"), {"tar cf": _tar("cf", ".tar")}),
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
