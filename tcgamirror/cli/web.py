"""`gallery` and `serve`: the mirror as pages for people."""

from __future__ import annotations

import argparse
import sys

from tcgamirror.cli import output
from tcgamirror.cli.common import home_of
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode

SERVE = """\
Images, a whole copy of the catalogue and the gallery; nothing else of the directory. Ctrl-C
ends it with exit code 130, SIGTERM with 0.

examples:
  tcgamirror --mirror tcga serve
  tcgamirror --mirror tcga serve --host 0.0.0.0 --port 8080"""


GALLERY = """\
Open DIR/gallery/index.html in a browser; run this again after an update.

example:
  tcgamirror --mirror tcga gallery"""


# serve -----------------------------------------------------------------------------


def serve(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.web.server import serve as serve_at

    mirror = home_of(given)

    def announce(address: str, reachable: bool) -> None:
        print(f"{mirror.root} is at {address} until Ctrl-C", flush=True)
        if reachable:
            output.say(
                f"everyone who can reach {given.host} can read this mirror: there is no password; "
                "leave out --host to keep it to this machine"
            )

    return serve_at(mirror.root, given.host, given.port, announce)


def gallery(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.web.gallery.builder import build

    mirror = home_of(given)
    terminal = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        if terminal:
            end = "\r\033[K" if done >= total else f"\rthumbnails: {done:,} of {total:,} "
            print(end, end="", file=sys.stderr, flush=True)

    made = build(mirror, tell)
    print(
        f"{text.slides(made.slides)} in {made.page}: {made.thumbnails:,} new thumbnails, "
        f"{made.files:,} files written"
    )
    if made.unreadable:
        images = "1 image has" if made.unreadable == 1 else f"{made.unreadable:,} images have"
        output.say(
            f"{images} no thumbnail, being missing, damaged or very large: "
            "tcgamirror verify tells more"
        )
    return ExitCode.DONE


def port(text: str) -> int:
    """A TCP port; 0 for any free one."""
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return int(text)


def say_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (default: 127.0.0.1, for this machine alone)",
    )
    serve.add_argument(
        "--port", type=port, default=8000, metavar="N", help="default: 8000; 0 for any free one"
    )
