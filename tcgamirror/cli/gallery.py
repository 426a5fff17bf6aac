"""`gallery`: make pages that show the slides."""

from __future__ import annotations

import argparse
import sys

from tcgamirror.cli import output
from tcgamirror.cli.common import open_mirror
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode
from tcgamirror.web.gallery.builder import build


def do_gallery(args: argparse.Namespace) -> ExitCode:
    mirror = open_mirror(args)
    terminal = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        if terminal:
            end = "\r\033[K" if done >= total else f"\rthumbnails: {done:,} of {total:,} "
            print(end, end="", file=sys.stderr, flush=True)

    made = build(mirror, tell)
    new, files = ("" if count == 1 else "s" for count in (made.thumbnails, made.files))
    print(
        f"{text.slides(made.slides)} in {made.page}: {made.thumbnails:,} new thumbnail{new}, "
        f"{made.files:,} file{files} written"
    )
    if made.unreadable:
        images = "1 image has" if made.unreadable == 1 else f"{made.unreadable:,} images have"
        output.say(
            f"{images} no thumbnail, because missing, damaged or very large. Find out by "
            f"{text.command_line('verify', mirror.root)}"
        )
    return ExitCode.DONE
