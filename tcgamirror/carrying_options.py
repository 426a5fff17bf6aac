"""What may be said to `export` and `import`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tcgamirror.amounts import byte_count

EXPORT = """\
DEST is a directory, or an archive by its ending: .tar, .tar.zst or .zip. It may be made
while an update runs. Run it again after any interruption.

examples:
  tcgamirror --mirror tcga export tcga.tar
  tcgamirror --mirror tcga export /media/stick/tcga.tar --split 4G
  tcgamirror --mirror tcga export lung --only "project_id = 'TCGA-LUAD' and status = 'done'"
  tcgamirror --mirror tcga export june.tar --since may.tar"""
IMPORT = """\
SRC is an export: a directory, an archive, or the first part of one (NAME.part001). It is
taken into the mirror of --mirror, which is made if there is none. Run it again after any
interruption.

examples:
  tcgamirror --mirror tcga import tcga.tar
  tcgamirror --mirror tcga import /media/stick/tcga.tar.part001"""


def say_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("dest", type=Path, metavar="DEST", help="directory or archive to make")
    export.add_argument(
        "--only", metavar="SQL", help="slides that meet a condition on the view mirror, no others"
    )
    export.add_argument(
        "--since",
        type=Path,
        metavar="EXPORT",
        help="leave out images that this earlier export (or its SHA256SUMS) has",
    )
    export.add_argument(
        "--split",
        type=byte_count,
        metavar="SIZE",
        help="cut the archive in parts of at most so many bytes, such as 4G for FAT32 sticks",
    )
    export.add_argument("--json", action="store_true", help="the result as one JSON line")


def say_import(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="SRC", help="directory, archive, first part")
    command.add_argument("--json", action="store_true", help="the result as one JSON line")
