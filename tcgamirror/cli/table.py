"""`table`: the mirror's images as other programs read them."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from tcgamirror.cli import output
from tcgamirror.cli.common import Commands, add_command, open_catalogue, replace_file
from tcgamirror.model.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tcgamirror.mirror.tables import FilledTable

KINDS = {
    "trident": "TRIDENT's --custom_list_of_wsis",
    "slide2vec": "its manifest",
    "clam": "CLAM's list of slides; with --label its dataset",
    "slideflow": "its annotations",
    "stamp": "STAMP's slide table; with --label its clini table",
    "qupath": "a script that sets the pixel sizes",
    "mirror": "the whole view mirror, slides without an image too",
}
"""Kinds of tables, and what each is for."""

_KIND_LINES = "\n".join(f"  {name:9}  {purpose}" for name, purpose in KINDS.items())

_TABLE = f"""\
print the images as a table for another program

tcgamirror help table tells how to call each program with its table. Slides without an
image are left out, and those for which the program's columns are unknown: stderr counts
these. FILE is replaced if it is an older table of this kind, no other file is.

kinds:
{_KIND_LINES}

--where SQL     condition on the views mirror and labels, such as "mpp_x < 2"
--label COLUMN  column to learn, for clam, slideflow and stamp
--output FILE   file to write (default: standard output)

  tcgamirror --mirror tcga table trident --output wsis.csv
  tcgamirror --mirror tcga table clam --label tumor_grade --where "kind = 'diagnostic'"
  tcgamirror --mirror tcga table mirror > mirror.csv"""

_SCRIPT = """\
// Sets the pixel sizes of a mirror's images in QuPath, by tcgamirror table qupath.
// Choose Run for project in the script editor. A line has µm across, down, and the file's name.
def lines = new StringBuilder()
"""

_SCRIPT_END = """
def name = new File(getCurrentServer().getURIs().first().getPath()).getName()
def found = lines.toString().readLines().find { it.endsWith('\\t' + name) }
if (found) {
    def (across, down) = found.split('\\t')
    setPixelSizeMicrons(across as double, down as double)
} else {
    println name + ': not in the mirror, or of unknown resolution'
}
"""

_LITERAL_CHARACTERS = 50_000
"""Limit of one literal of the script; Java allows 65,535 bytes."""


def table(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.tables import fill_table

    with open_catalogue(args) as (mirror, catalogue):
        filled = fill_table(catalogue, mirror.root, args.kind, where=args.where, label=args.label)
        if args.output is None:
            _write(filled, args.kind, sys.stdout)
        else:
            _write_file(filled, args.kind, args.output)
            print(f"{args.output}: {filled.count:,} row{'' if filled.count == 1 else 's'}")
    for note in filled.notes():
        output.say(f"table {args.kind}: {note}")
    return ExitCode.DONE


def _write(filled: FilledTable, kind: str, out: TextIO) -> None:
    if kind == "qupath":
        out.writelines(_script(filled.rows))
    else:
        output.write_rows(filled.columns, filled.rows, "csv", out)


def _write_file(filled: FilledTable, kind: str, path: Path) -> None:
    """Write the table in place of an older one of this kind, and of no other file."""
    with replace_file(path) as file:
        # A mirror's own path need not be UTF-8.
        out = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        _write(filled, kind, out)
        out.flush()
        out.detach()
        if not _replaces(path, file):
            raise UsageError(
                f"{path}: exists and is not such a table. Name another file or remove it"
            )


def _replaces(path: Path, file: BinaryIO) -> bool:
    """Return whether `path` is free, empty, or begins with the line that the new file begins with.

    So a nightly table replaces that of yesterday.
    """
    from tcgamirror.system.files import open_regular

    try:
        with open_regular(path) as old, Path(file.name).open("rb") as new:
            line = new.readline()
            return old.read(len(line)) in (b"", line)
    except FileNotFoundError:
        return True


def _script(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the parts of a Groovy script for QuPath, in ASCII."""
    yield _SCRIPT
    lines: list[str] = []
    size = 0
    for row in rows:
        lines.append("\t".join(map(_escaped, row)))
        size += len(lines[-1])
        if size > _LITERAL_CHARACTERS:
            yield _literal(lines)
            lines, size = [], 0
    if lines:
        yield _literal(lines)
    yield _SCRIPT_END


def _literal(lines: Sequence[str]) -> str:
    return "lines << '''" + "\n".join(lines) + "\n'''\n"


def _escaped(value: object) -> str:
    """Return a value as a literal of Groovy in three single quotes holds it."""
    shown = str(value).replace("\\", "\\\\").replace("'", "\\'")
    if shown.isascii():
        return shown
    units = shown.encode("utf-16-be", "surrogatepass")
    return "".join(
        chr(unit) if unit < 128 else f"\\u{unit:04x}"
        for unit in (int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))
    )


def add_commands(commands: Commands) -> None:
    """Add `table`."""
    command = add_command(commands, "table", table, _TABLE)
    command.add_argument("kind", metavar="KIND", choices=tuple(KINDS), help="kind of table")
