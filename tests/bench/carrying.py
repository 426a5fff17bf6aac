"""Check and carry a large mirror, beside the usual tools.

Each line is what a user types, the program's start included, on images in the page cache.
Small copies are kept to the end, because ext4 makes files slowly for minutes after many were
deleted.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree, which
from tempfile import TemporaryDirectory
from textwrap import fill

from tcgamirror.model.geometry import Size
from tcgamirror.system.files import free_bytes
from tests.bench.done import Made, made_before, mirror
from tests.bench.figures import LINE, aim, cell, in_turn, seconds, table
from tests.bench.ours import PROGRAM
from tests.bench.plan import Plan

SMALL = tuple(Size(200, height) for height in range(80, 161, 2))
"""Images of 31 to 62 kB."""
LARGE = (Size(1400, 1100),)
"""Images of 3 MB."""
BYTES_NEEDED = 27e9
AS_FAST, AS_FAST_AS_CP, AS_FAST_AS_TAR = 0.8, 0.9, 0.6
UNCHANGED_GALLERY = 1.5
_BEFORE = "-before"
"""At the end of the name of the mirror of the version before."""


@dataclass(frozen=True, slots=True)
class Contest:
    """One command and a tool, as lines of the shell.

    tool: its name in the table, which begins with its program. theirs: its line. forced: a path
    for `sync -f`, with which the tool is timed, too. least: our speed relative to the tool's, for
    large images. most: our seconds. small: whether it is timed on small images, too. In a line,
    $OURS is the program, $M the mirror, $IMAGES a file that names its images, $TAR an export of it
    and $NEW a path at which nothing is yet.
    """

    what: str
    ours: str
    tool: str = ""
    theirs: str = ""
    forced: str = ""
    least: float | None = None
    most: float | None = None
    small: bool = True


_CONTESTS = (
    Contest(
        "verify",
        "$OURS verify",
        "sha256sum",
        "xargs -a $IMAGES sha256sum",
        least=AS_FAST,
        small=False,
    ),
    Contest(
        "export",
        "$OURS export $NEW",
        "cp -r; sha256sum",
        "cp -r $M $NEW && xargs -a $IMAGES sha256sum",
        least=AS_FAST_AS_CP,
    ),
    Contest(
        "export .tar",
        "$OURS export $NEW.tar",
        "tar cf",
        "tar cf $NEW.tar -C $M .",
        forced="$NEW.tar",
        least=AS_FAST_AS_TAR,
    ),
    Contest(
        "import .tar",
        "$OURS --mirror $NEW import $TAR",
        "tar xf",
        "mkdir $NEW && tar xf $TAR -C $NEW",
        forced="$NEW",
        least=AS_FAST_AS_TAR,
    ),
    Contest(
        "sync, the first",
        "$OURS sync $M $NEW",
        "rsync -a",
        "rsync -a $M $NEW",
        forced="$NEW",
        least=AS_FAST_AS_TAR,
    ),
    Contest("gallery, unchanged", "$OURS gallery", most=UNCHANGED_GALLERY, small=False),
)
_AS_FAST = ("times as fast as the tool", "as tool and sync -f", "as before")
_COLUMNS = ("images", "command", "s", "tool", *_AS_FAST, "aim")


def section(plan: Plan) -> str:
    """Raises SystemExit if the disk has too little room."""
    prose = (
        "Our seconds, and how many times as fast that is as the tool, as the tool with `sync -f` "
        "after it, and as the version before. Exports and the first sync read every image and "
        "compare it with its digest; `cp -r`, `tar` and `rsync` compare none. Import and sync also "
        "force each image to the disk. The aims are for images of the usual 1 to 3 MB."
    )
    few, many = plan.image_counts
    rows = [
        *_rows("large", few, LARGE, plan),
        *_rows("small", many, SMALL, plan),
    ]
    title = "## Looking after a mirror and carrying it"
    return "\n\n".join([title, fill(prose, LINE), table(_COLUMNS, rows)])


def _rows(name: str, images: int, sizes: Sequence[Size], plan: Plan) -> Iterator[Sequence[str]]:
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        if free_bytes(Path(folder)) < BYTES_NEEDED:
            needed = f"{BYTES_NEEDED / 1e9:.0f} GB"
            raise SystemExit(f"{folder}: less than {needed} are free. Name another disk by TMPDIR")
        made = mirror(Path(folder, name), images, sizes)
        names = "".join(f"{image}\n" for image in made.root.glob("images/*/*"))
        Path(f"{made.root}.list").write_text(names)
        _export(PROGRAM, made.root)
        if before := plan.before:
            older = f"{made.root}{_BEFORE}"
            pixels = ", ".join(f"Size({size.width}, {size.height})" for size in sizes)
            made_before(before, f"mirror(Path({older!r}), {images}, [{pixels}])")
            _export(before, Path(older))
        for contest in _CONTESTS:
            if contest.small or name == "large":
                yield _row(contest, made, plan)


def _export(program: Sequence[str], root: Path) -> None:
    seconds([*program, "--mirror", str(root), "export", f"{root}-export.tar"])


def _row(contest: Contest, made: Made, plan: Plan) -> Sequence[str]:
    lines = {"ours": contest.ours}
    if contest.tool and which(contest.tool.split()[0]):
        lines["tool"] = contest.theirs
        if contest.forced:
            lines["sync"] = f"{contest.theirs} && sync -f {contest.forced}"
    runs = {name: _run(line, made.root) for name, line in lines.items()}
    if plan.before:
        runs["before"] = _run(contest.ours, Path(f"{made.root}{_BEFORE}"), plan.before)
    taken = in_turn(runs, plan.repetitions, float)
    ours = taken.pop("ours")
    faster = {name: seconds / ours for name, seconds in taken.items()}
    least = contest.least if made.root.name == "large" else None
    return (
        f"{made.images:,}, {made.bytes / 1e6:.0f} MB",
        contest.what,
        cell(ours, most=contest.most),
        contest.tool,
        cell(faster.get("tool"), least),
        *(cell(faster.get(name)) for name in ("sync", "before")),
        aim(least, contest.most),
    )


def _run(line: str, root: Path, program: Sequence[str] = PROGRAM) -> Callable[[], float]:
    def run() -> float:
        new = root.with_name(f"copy-{uuid.uuid4()}")
        places = {"M": root, "IMAGES": f"{root}.list", "TAR": f"{root}-export.tar", "NEW": new}
        places |= {"OURS": " ".join(program), "TCGAMIRROR": root}
        env = os.environ | {name: str(place) for name, place in places.items()}
        taken = seconds(["sh", "-c", line], env)
        new.with_name(f"{new.name}.tar").unlink(missing_ok=True)
        if root.name.startswith("large"):
            rmtree(new, ignore_errors=True)
        return taken

    return run
