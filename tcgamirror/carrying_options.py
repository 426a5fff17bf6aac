"""What may be said to `export` and `import`."""

from __future__ import annotations

import argparse
from pathlib import Path

EXPORT = """\
DEST is a directory, a .tar archive, or - for a tar archive on standard output. It may be
made while an update runs. Run it again after any interruption.

examples:
  tcgamirror --mirror tcga export tcga.tar
  tcgamirror --mirror tcga export - | ssh there tcgamirror --mirror tcga import -
  tcgamirror --mirror tcga export lung --only "project_id = 'TCGA-LUAD' and status = 'done'"
  tcgamirror --mirror tcga export june.tar --since may.tar"""
IMPORT = """\
SRC is an export: a directory, a .tar archive, or - for a tar archive on standard input. It
is taken into the mirror of --mirror, which is made if there is none. Run it again after
any interruption.

examples:
  tcgamirror --mirror tcga import tcga.tar
  cat /media/stick/tcga.tar.part* | tcgamirror --mirror tcga import -"""


def _path_or_stream(text: str) -> Path | None:
    """Return a path; None for `-`."""
    return None if text == "-" else Path(text)


def say_export(export: argparse.ArgumentParser) -> None:
    export.add_argument(
        "dest", type=_path_or_stream, metavar="DEST", help="directory or .tar to make, or -"
    )
    export.add_argument(
        "--only", metavar="SQL", help="slides that meet a condition on the view mirror, no others"
    )
    export.add_argument(
        "--since",
        type=Path,
        metavar="EXPORT",
        help="leave out images that this earlier export (or its SHA256SUMS) has",
    )
    export.add_argument("--json", action="store_true", help="the result as one JSON line")


def say_import(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source", type=_path_or_stream, metavar="SRC", help="directory, .tar archive, or -"
    )
    command.add_argument("--json", action="store_true", help="the result as one JSON line")
