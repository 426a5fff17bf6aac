"""What may be said to `sync` and `serve`."""

from __future__ import annotations

import argparse

from tcgamirror.cli.argtypes import byte_count

SYNC = """\
SRC is a mirror's directory, or the address where any web server publishes one. DST is a
directory, which is made if it is missing. Only what differs moves. Run it again after any
interruption.

examples:
  tcgamirror sync tcga /media/stick/tcga
  tcgamirror sync http://server:8000/ tcga --rate 5M
  tcgamirror sync tcga /mnt/share/tcga --delete --dry-run"""
SERVE = """\
Images, a whole copy of the catalogue and the gallery; nothing else of the directory. Ctrl-C
ends it with exit code 130, SIGTERM with 0.

examples:
  tcgamirror --mirror tcga serve
  tcgamirror --mirror tcga serve --host 0.0.0.0 --port 8080"""


def port(text: str) -> int:
    """A TCP port; 0 for any free one."""
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return int(text)


def say_sync(sync: argparse.ArgumentParser) -> None:
    sync.add_argument("source", metavar="SRC", help="directory, or http(s):// address")
    sync.add_argument("destination", metavar="DST", help="directory")
    sync.add_argument(
        "--delete", action="store_true", help="remove images and rows that SRC does not have"
    )
    sync.add_argument("--dry-run", action="store_true", help="tell what would be done; do nothing")
    sync.add_argument(
        "--rate", type=byte_count, metavar="BYTES", help="most per second (default: unlimited)"
    )
    sync.add_argument("--json", action="store_true", help="the result as one JSON line")


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
