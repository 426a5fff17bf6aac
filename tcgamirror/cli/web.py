"""`gallery` and `serve`: show the mirror in a browser."""

from __future__ import annotations

import argparse
import sys

from tcgamirror.cli import output
from tcgamirror.cli.common import Commands, add_command, open_mirror
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode

_SERVE = """\
publish the mirror by HTTP, read-only

Serves images, a copy of the catalogue and the gallery, and nothing else of the directory.
There is no password. Ctrl-C stops it with exit code 130, SIGTERM with 0.

--host ADDRESS  address to listen on (default: 127.0.0.1, this machine only)
--port N        port to listen on; 0 for any free one (default: 8000)

  tcgamirror --mirror tcga serve
  tcgamirror --mirror tcga serve --host 0.0.0.0 --port 8080"""

_GALLERY = """\
make pages that show the slides

Open DIR/gallery/index.html in a browser. Run it again after an update.

  tcgamirror --mirror tcga gallery"""


def serve(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.web.server import serve as serve_at

    mirror = open_mirror(args)

    def announce(address: str, reachable: bool) -> None:
        print(f"{mirror.root} is at {address} until Ctrl-C", flush=True)
        if reachable:
            output.say(
                f"--host {args.host}: everyone who can reach it can read this mirror without a "
                "password. Leave out --host to keep it to this machine"
            )

    return serve_at(mirror.root, args.host, args.port, announce)


def gallery(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.web.gallery.builder import build

    mirror = open_mirror(args)
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
            f"{images} no thumbnail, because missing, damaged or very large. Find out by "
            f"{text.command_line('verify', mirror.root)}"
        )
    return ExitCode.DONE


def port(text: str) -> int:
    """Return a TCP port; 0 stands for any free one."""
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(
            f"invalid port {text!r:.60}. Expected a number from 0 to 65535"
        )
    return int(text)


def add_commands(commands: Commands) -> None:
    """Add `gallery` and `serve`."""
    add_command(commands, "gallery", gallery, _GALLERY)
    port_of = {"type": port, "default": 8000}
    add_command(commands, "serve", serve, _SERVE, host={"default": "127.0.0.1"}, port=port_of)
