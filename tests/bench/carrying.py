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
from tests.bench.figures import Figure, at_least, at_most, in_turn, seconds
from tests.bench.ours import PROGRAM
from tests.bench.plan import Plan

SMALL = tuple(Size(200, height) for height in range(80, 161, 2))
"""Images of 31 to 62 kB."""
LARGE = (Size(1400, 1100),)
"""Images of 3 MB."""
BYTES_NEEDED = 27e9
AS_FAST, AS_FAST_AS_CP, AS_FAST_AS_TAR = 0.8, 0.9, 0.6
UNCHANGED_GALLERY = 1.5
TIMES = 3
_BEFORE = "-before"
"""At the end of the name of the mirror of the version before."""


@dataclass(frozen=True, slots=True)
class Contest:
    """One command and what it is compared with, as lines of the shell.

    theirs: by the name in the table, which begins with the tool. least: our speed relative to the
    first of them, for large images. most: our seconds. In a line, $OURS is the program, $M the
    mirror, $IMAGES a file that names its images, $TAR an export of it, $NEW a path at which
    nothing is yet and $OLD what the first turn made.
    """

    what: str
    ours: str
    theirs: Mapping[str, str] = field(default_factory=dict)
    least: float | None = None
    most: float | None = None


_CONTESTS = (
    Contest(
        "verify",
        "$OURS verify",
        {
            "sha256sum": "xargs -a $IMAGES sha256sum",
            "openssl dgst -sha256": "xargs -a $IMAGES openssl dgst -sha256",
        },
        least=AS_FAST,
    ),
    Contest(
        "export",
        "$OURS export $NEW",
        {
            "cp -r; sha256sum": "cp -r $M $NEW && xargs -a $IMAGES sha256sum",
            "cp -r; openssl dgst": "xargs -a $IMAGES openssl dgst -sha256 & cp -r $M $NEW && wait",
        },
        least=AS_FAST_AS_CP,
    ),
    Contest(
        "export .tar",
        "$OURS export $NEW.tar",
        {
            "tar cf": "tar cf $NEW.tar -C $M .",
            "tar cf; sync": "tar cf $NEW.tar -C $M . && sync -f $NEW.tar",
        },
        least=AS_FAST_AS_TAR,
    ),
    Contest(
        "import .tar",
        "$OURS --mirror $NEW import $TAR",
        {
            "tar xf; sync": "mkdir $NEW && tar xf $TAR -C $NEW && sync -f $NEW",
            "tar xf": "mkdir $NEW && tar xf $TAR -C $NEW",
        },
        least=AS_FAST_AS_TAR,
    ),
    Contest(
        "sync, the first",
        "$OURS sync $M $NEW",
        {
            "rsync -a; sync": "rsync -a $M $NEW && sync -f $NEW",
            "rsync -a": "rsync -a $M $NEW",
        },
        least=AS_FAST_AS_TAR,
    ),
    Contest(
        "sync, nothing new",
        "$OURS sync $M $OLD",
        {"rsync -a": "rsync -a $M $OLD-rsync"},
    ),
    Contest("gallery, the first", "rm -rf $M/gallery; $OURS gallery"),
    Contest("gallery, unchanged", "$OURS gallery", most=UNCHANGED_GALLERY),
)


def section(plan: Plan) -> str:
    """Raises SystemExit if the disk has too little room."""
    prose = (
        "Ratios are of speeds. Exports and the first sync read every image and compare it with "
        "its digest; `cp -r`, `tar` and `rsync` compare none. Import and sync also force each "
        "image to the disk, as `sync` does. The aims are for images of the usual 1 to 3 MB. The "
        "version before works on a mirror of its own, of the same images."
    )
    few, many = plan.carried
    rows = [
        *_figures("large", few, LARGE, plan.before),
        *_figures("small", many, SMALL, plan.before),
    ]
    return figures.section("Looking after a mirror and carrying it", prose, rows)


def _figures(
    name: str, images: int, sizes: Sequence[Size], before: Sequence[str]
) -> Iterator[Figure]:
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        if free_bytes(Path(folder)) < BYTES_NEEDED:
            needed = f"{BYTES_NEEDED / 1e9:.0f} GB"
            raise SystemExit(f"{folder}: less than {needed} are free. Name another disk by TMPDIR")
        made = mirror(Path(folder, name), images, sizes)
        names = "".join(f"{image}\n" for image in made.root.glob("images/*/*"))
        Path(f"{made.root}.list").write_text(names)
        _export(PROGRAM, made.root)
        if before:
            older = f"{made.root}{_BEFORE}"
            pixels = ", ".join(f"Size({size.width}, {size.height})" for size in sizes)
            made_before(before, f"mirror(Path({older!r}), {images}, [{pixels}])")
            _export(before, Path(older))
        for contest in _CONTESTS:
            yield from _compared(contest, made, before)


def _export(program: Sequence[str], root: Path) -> None:
    subprocess.run([*program, "--mirror", root, "export", f"{root}-export.tar"], check=True)


def _compared(contest: Contest, made: Made, before: Sequence[str]) -> Iterator[Figure]:
    theirs = {name: line for name, line in contest.theirs.items() if which(name.split()[0])}
    runs = {name: _run(line, made.root) for name, line in {"ours": contest.ours, **theirs}.items()}
    if before:
        older = Path(f"{made.root}{_BEFORE}")
        runs["the version before"] = _run(contest.ours, older, before)
    taken = in_turn(runs, TIMES, float)
    ours = taken.pop("ours")
    of = f"{made.images:,} images, {made.bytes / 1e6:.0f} MB"
    if contest.most or not taken:
        yield at_most(of, f"{contest.what}: seconds", ours, contest.most)
    least = contest.least if made.root.name == "large" else None
    for name, other in taken.items():
        words = f"{contest.what}, {ours:.3g} s: times as fast as {name}"
        yield at_least(of, words, other / ours, least)
        least = None


def _run(line: str, root: Path, program: Sequence[str] = PROGRAM) -> Callable[[], float]:
    def run() -> float:
        new = root.with_name(f"copy-{uuid.uuid4()}")
        places = {"M": root, "IMAGES": f"{root}.list", "TAR": f"{root}-export.tar", "NEW": new}
        places |= {"OLD": f"{root}-copy", "OURS": " ".join(program), "TCGAMIRROR": root}
        env = os.environ | {name: str(place) for name, place in places.items()}
        taken = seconds(["sh", "-c", line], env)
        new.with_name(f"{new.name}.tar").unlink(missing_ok=True)
        if root.name.startswith("large"):
            rmtree(new, ignore_errors=True)
        return taken

    return run
