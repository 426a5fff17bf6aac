"""`export` and `import`: the mirror carried to other machines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext, redirect_stdout
from pathlib import Path

from tcgamirror.cli import output
from tcgamirror.cli.common import mirror_text, named_mirror, open_mirror
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, NotAMirror
from tcgamirror.net.object_store import is_object_address
from tcgamirror.transfer.archive.format import check_suffix
from tcgamirror.transfer.exporter import ExportResult, export
from tcgamirror.transfer.importer import ImportResult, import_export
from tcgamirror.transfer.objects import StoredArchive
from tcgamirror.transfer.remote_paths import check_export, check_import


def do_export(args: argparse.Namespace) -> ExitCode:
    dest = _archive_place(args.dest)
    if isinstance(dest, Path):
        check_suffix(dest)
        options = {"--only": args.only, "--since": args.since}
        words = [str(word) for each in options.items() if each[1] is not None for word in each]
        check_export(args.dest, named_mirror(args) or Path(), words)
    mirror = open_mirror(args)
    with closing(ProgressDisplay(quiet=args.json)) as progress:
        made = export(mirror, dest, progress, only=args.only, since=args.since)
    code = ExitCode.DAMAGED if made.lacking else ExitCode.DONE
    # Standard output may be the archive itself.
    with redirect_stdout(sys.stderr) if dest is None else nullcontext():
        return output.finish(args, output.members(made), _export_lines(made, mirror.root), code)


def _export_lines(made: ExportResult, mirror: Path) -> Iterator[str]:
    where = "standard output" if made.dest == "-" else made.dest
    rate = text.format_bytes(made.bytes / max(made.seconds, 0.001))
    yield (
        f"{text.slides(sum(made.slides.values()))} with {text.images(made.images)} in "
        f"{where}: {text.format_bytes(made.bytes)} at {rate}/s "
        f"in {text.format_duration(made.seconds)}"
    )
    if made.earlier:
        yield f"{text.images(made.earlier)} left out, because an earlier export has them"
    if made.lacking:
        lacking = [(path, "damaged or missing") for path in made.lacking]
        yield from output.first_rows("not exported", lacking)
        repair = text.command_line("verify --repair", mirror)
        yield f"in the export they are pending; fetch them again by {repair}"


def do_import(args: argparse.Namespace) -> ExitCode:
    source = _archive_place(args.src)
    if not isinstance(source, StoredArchive):
        check_import(args.src, mirror_text(args) or ".")
    # A new mirror is made only where it is named, as init does.
    try:
        root = named_mirror(args) or open_mirror(args).root
    except NotAMirror as error:
        error.add_note("An import makes the mirror that --mirror names")
        raise
    with closing(ProgressDisplay(quiet=args.json)) as progress:
        made = import_export(root, source, progress, decode=args.decode)
    return output.finish(args, output.members(made), _import_lines(made), made.exit_code)


def _import_lines(made: ImportResult) -> Iterator[str]:
    update = text.command_line("update", Path(made.root))
    yield (
        f"{'made a mirror in ' if made.new else ''}{made.root}: {text.slides(made.slides)} "
        f"added, {text.images(made.images)} taken in ({text.format_bytes(made.bytes)}), "
        f"{made.same:,} here already"
    )
    if made.older:
        yield f"{text.images(made.older)} left out, because what is here is newer"
    if made.lacking:
        yield (
            f"{text.images(made.lacking)} {text.is_or_are(made.lacking)} not in the export: import "
            f"the export given to --since when it was made, or run {update}"
        )
    if made.failed:
        yield f"{text.slides(made.failed)} failed there; status tells when to try again"
    for words in made.dropped:
        yield f"not taken over, because it names a file of the other machine: {words}"
    if made.refused:
        yield from output.first_rows(
            "not taken in", [(each.path, each.what) for each in made.refused]
        )
        yield (
            "these slides stay as they were. Copy or export the images again; if that does not "
            "help, run verify --repair in the mirror that they come from. Fetch pending ones by "
            f"{update}"
        )


def _archive_place(named: str) -> Path | StoredArchive | None:
    """Return a path, or the archive in a bucket; None for `-`."""
    if is_object_address(named):
        return StoredArchive(named)
    return None if named == "-" else Path(named)
