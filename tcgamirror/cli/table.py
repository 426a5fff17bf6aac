"""`table`: the mirror's images as other programs read them."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from tcgamirror.cli import output
from tcgamirror.cli.common import open_catalogue, replace_file
from tcgamirror.mirror.tables import FilledTable, fill_table
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.system.files import open_regular

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


def do_table(args: argparse.Namespace) -> ExitCode:
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
