"""Check and carry a large mirror, beside the usual tools.

Each line is what a user types, the program's start included, on images in the page cache.
Small copies are kept to the end, because ext4 makes files slowly for minutes after many were
deleted.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree, which
from tempfile import TemporaryDirectory

from tcgamirror.model.geometry import Size
from tcgamirror.system.files import free_bytes
from tests.bench import figures
from tests.bench.done import Made, made_before, mirror
from tests.bench.figures import Figure, at_most, compare, in_turn, seconds
from tests.bench.ours import PROGRAM
from tests.bench.plan import Plan

SMALL = tuple(Size(200, height) for height in range(80, 161, 2))
"""Images of 31 to 62 kB."""
LARGE = (Size(1400, 1100),)
"""Images of 3 MB."""
BYTES_NEEDED = 20e9
AS_FAST, AS_FAST_AS_CP, AS_FAST_AS_TAR = 0.8, 0.9, 0.6
UNCHANGED_GALLERY = 1.5
TIMES = 3


@dataclass(frozen=True, slots=True)
class Contest:
    """One command and what it is compared with, as lines of the shell.

    theirs: by the name in the table, which begins with the tool. least: our speed relative to the
    first of them. most: our seconds. In a line, $M is the mirror, $IMAGES a file that names its
    images, $TAR an export of it, $NEW a path at which nothing is yet and $OLD what the first turn
    made.
    """

    what: str
    ours: str
    theirs: Mapping[str, str] = field(default_factory=dict)
    least: float | None = None
    most: float | None = None


_OURS = f"exec {' '.join(PROGRAM)} --mirror $M"
_ONE_MIRROR = (
    Contest(
        "verify",
        f"{_OURS} verify",
        {
            "sha256sum": "xargs -a $IMAGES sha256sum",
            "openssl dgst -sha256": "xargs -a $IMAGES openssl dgst -sha256",
        },
        least=AS_FAST,
    ),
    Contest(
        "export",
        f"{_OURS} export $NEW",
        {
            "cp -r; sha256sum": "cp -r $M $NEW && xargs -a $IMAGES sha256sum",
            "cp -r; openssl dgst": "xargs -a $IMAGES openssl dgst -sha256 & cp -r $M $NEW && wait",
        },
        least=AS_FAST_AS_CP,
    ),
)
_MANY_IMAGES = (
    *_ONE_MIRROR,
    Contest(
        "export .tar",
        f"{_OURS} export $NEW.tar",
        {"tar cf": "tar cf $NEW.tar -C $M ."},
        least=AS_FAST_AS_TAR,
    ),
    Contest(
        "import .tar",
        f"exec {' '.join(PROGRAM)} --mirror $NEW import $TAR",
        {
            "tar xf; sync": "mkdir $NEW && tar xf $TAR -C $NEW && sync -f $NEW",
            "tar xf": "mkdir $NEW && tar xf $TAR -C $NEW",
        },
        least=AS_FAST_AS_TAR,
    ),
    Contest(
        "sync, the first",
        f"exec {' '.join(PROGRAM)} sync $M $NEW",
        {
            "rsync -a; sync": "rsync -a $M $NEW && sync -f $NEW",
            "rsync -a": "rsync -a $M $NEW",
        },
        least=AS_FAST_AS_TAR,
    ),
    Contest(
        "sync, nothing new",
        f"exec {' '.join(PROGRAM)} sync $M $OLD",
        {"rsync -a": "rsync -a $M $OLD-rsync"},
    ),
    Contest("gallery, the first", f"rm -rf $M/gallery; {_OURS} gallery"),
    Contest("gallery, unchanged", f"{_OURS} gallery", most=UNCHANGED_GALLERY),
)


def section(plan: Plan) -> str:
    """Raises SystemExit if the disk has too little room."""
    prose = (
        "Ratios are of speeds. Exports and the first sync read every image and compare it with "
        "its digest; `cp -r`, `tar` and `rsync` compare none. Import and sync also force each "
        "image to the disk, as `sync` does. The version before works on a mirror of its own, of "
        "the same images."
    )
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        if free_bytes(Path(folder)) < BYTES_NEEDED:
            raise SystemExit(f"{folder}: less than 20 GB are free. Name another disk by TMPDIR")
        rows = list(_figures(Path(folder), *plan.carried, plan.before))
    return figures.section("Looking after a mirror and carrying it", prose, rows)


def _figures(folder: Path, few: int, many: int, before: Sequence[str]) -> Iterator[Figure]:
    for name, images, sizes, contests in (
        ("large", few, LARGE, _ONE_MIRROR),
        ("small", many, SMALL, _MANY_IMAGES),
    ):
        made = mirror(folder / name, images, sizes)
        names = "".join(f"{image}\n" for image in made.root.glob("images/*/*"))
        folder.joinpath(f"{name}.list").write_text(names)
        _export(PROGRAM, made.root)
        if before:
            older = made.root.with_name(f"{name}-before")
            pixels = ", ".join(f"Size({size.width}, {size.height})" for size in sizes)
            made_before(before, f"mirror(Path({str(older)!r}), {images}, [{pixels}])")
            _export(before, older)
        for contest in contests:
            yield from _compared(contest, made, before)


def _export(program: Sequence[str], root: Path) -> None:
    subprocess.run([*program, "--mirror", root, "export", f"{root}-export.tar"], check=True)


def _compared(contest: Contest, made: Made, before: Sequence[str]) -> Iterator[Figure]:
    theirs = {name: line for name, line in contest.theirs.items() if which(name.split()[0])}
    if before and contest.ours.startswith("exec "):
        line = contest.ours.replace(" ".join(PROGRAM), " ".join(before))
        for name in ("$M", "$TAR", "$OLD"):
            line = line.replace(name, f"{name}_BEFORE")
        theirs["the version before"] = line
    runs = {name: _run(line, made) for name, line in {"ours": contest.ours, **theirs}.items()}
    of = f"{made.images:,} images, {made.bytes / 1e6:.0f} MB"
    if theirs:
        yield from compare(of, contest.what, runs, TIMES, contest.least)
    else:
        taken = in_turn(runs, TIMES, float)["ours"]
        yield at_most(of, f"{contest.what}: seconds", taken, contest.most)


def _run(line: str, made: Made) -> Callable[[], float]:
    def run() -> float:
        new = made.root.with_name(f"copy-{uuid.uuid4()}")
        root = made.root
        places = {"M": root, "IMAGES": f"{root}.list", "NEW": new, "OLD": f"{root}-copy"}
        places |= {"TAR": f"{root}-export.tar", "M_BEFORE": f"{root}-before"}
        places |= {"TAR_BEFORE": f"{root}-before-export.tar", "OLD_BEFORE": f"{root}-copy-before"}
        env = os.environ | {name: str(place) for name, place in places.items()}
        taken = seconds(["sh", "-c", line], env)
        new.with_name(f"{new.name}.tar").unlink(missing_ok=True)
        if made.root.name == "large":
            rmtree(new, ignore_errors=True)
        return taken

    return run
