"""`export`, `import` and `sync`: the mirror carried to other machines."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from contextlib import closing, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror.cli import output
from tcgamirror.cli.argtypes import byte_count
from tcgamirror.cli.common import home_of
from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.transfer.archive.format import check_suffix
from tcgamirror.transfer.exporter import ExportResult, export

if TYPE_CHECKING:
    from tcgamirror.transfer.importer import ImportResult
    from tcgamirror.transfer.sync.plan import Synced
    from tcgamirror.transfer.sync.remote import Publisher

SHOWN = 20
"""Images named on the terminal."""

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

SYNC = """\
SRC is a mirror's directory, or the address where any web server publishes one. DST is a
directory, which is made if it is missing. Only what differs moves. Run it again after any
interruption.

examples:
  tcgamirror sync tcga /media/stick/tcga
  tcgamirror sync http://server:8000/ tcga --rate 5M
  tcgamirror sync tcga /mnt/share/tcga --delete --dry-run"""


def export_mirror(given: argparse.Namespace) -> ExitCode:
    mirror = home_of(given)
    if given.dest is not None:
        check_suffix(given.dest)
    with closing(ProgressDisplay(quiet=given.json)) as progress:
        made = export(mirror, given.dest, progress, only=given.only, since=given.since)
    code = ExitCode.DAMAGED if made.lacking else ExitCode.DONE
    # Standard output may be the archive itself.
    with redirect_stdout(sys.stderr) if given.dest is None else nullcontext():
        if given.json:
            print(json.dumps({**dataclasses.asdict(made), "exit_code": int(code)}))
        else:
            _tell_exported(made)
    return code


def _tell_exported(made: ExportResult) -> None:
    where = "standard output" if made.dest == "-" else made.dest
    rate = text.in_bytes(made.bytes / max(made.seconds, 0.001))
    print(
        f"{text.slides(sum(made.slides.values()))} with {text.images(made.images)} in "
        f"{where}: {text.in_bytes(made.bytes)} at {rate}/s in {text.in_time(made.seconds)}"
    )
    if made.earlier:
        print(f"{text.images(made.earlier)} left out, because an earlier export has them")
    if made.lacking:
        _name([(path, "damaged or missing") for path in made.lacking], "not exported")
        print("tcgamirror verify --repair fetches them again; in the export they are pending")


def import_into(given: argparse.Namespace) -> ExitCode:
    # Only now: an export decodes nothing.
    from tcgamirror.transfer.importer import import_export

    # A new mirror is made where it is named, as init does; one that is there may be above.
    named = given.mirror or os.environ.get("TCGAMIRROR")
    root = Path(named) if named else home_of(given).root
    with closing(ProgressDisplay(quiet=given.json)) as progress:
        made = import_export(root, given.source, progress)
    if given.json:
        print(json.dumps({**dataclasses.asdict(made), "exit_code": int(made.exit_code)}))
    else:
        _tell_imported(made)
    return made.exit_code


def _tell_imported(made: ImportResult) -> None:
    print(
        f"{'made a mirror in ' if made.new else ''}{made.root}: {text.slides(made.slides)} "
        f"added, {text.images(made.images)} taken in ({text.in_bytes(made.bytes)}), "
        f"{made.same:,} here already"
    )
    if made.older:
        print(f"{text.images(made.older)} left out, because what is here is newer")
    if made.lacking:
        print(
            f"{text.images(made.lacking)} {text.is_or_are(made.lacking)} not in the export: import "
            "the earlier one that it was made since, or run tcgamirror update"
        )
    for words in made.dropped:
        print(text.plain(f"not taken over, because it names a file of the other machine: {words}"))
    if made.refused:
        _name([(stray.path, stray.what) for stray in made.refused], "not taken in")
        print("these slides stay as they were; tcgamirror update fetches what is pending")


def _name(rows: list[tuple[str, str]], title: str) -> None:
    print(output.table((title, "what"), rows[:SHOWN]))
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN:,} more (all of them with --json)")


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


# sync ------------------------------------------------------------------------------


def sync(given: argparse.Namespace) -> ExitCode:
    # Only now: `serve` asks nobody.
    from tcgamirror.mirror.settings import address, byte_rate
    from tcgamirror.transfer.sync.plan import rehearse
    from tcgamirror.transfer.sync.synchronizer import synchronize

    if given.mirror is not None:
        raise UsageError("sync takes the two mirrors as SRC and DST, not by --mirror")
    rate = None if given.rate is None else byte_rate(given.rate, "--rate")
    root = _destination(given.destination)
    shutdown = Shutdown()
    shutdown.install_handlers()
    moving = ProgressDisplay(quiet=given.json)

    def done_from(source: Publisher) -> Synced:
        if given.dry_run:
            return rehearse(source, root, delete=given.delete)
        return synchronize(source, root, moving, shutdown, delete=given.delete)

    from tcgamirror.net.client import HttpClient
    from tcgamirror.transfer.sync.remote import Folder, Web

    try:
        if _is_address(given.source):
            url = address(given.source, "SRC")
            with HttpClient(rate=rate, stop=shutdown.stop) as client:
                found = done_from(Web(url, client, shutdown.stop))
        else:
            found = done_from(Folder(Path(given.source), rate, shutdown.stop))
    finally:
        moving.close()
    if given.json:
        print(json.dumps(dataclasses.asdict(found) | {"exit_code": int(found.exit_code)}))
    else:
        _tell(found)
    return found.exit_code


def _is_address(source: str) -> bool:
    """Whether it is no directory. Raises UsageError for an address that is not of the web."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", source)
    if scheme is not None and scheme[1] not in ("http", "https"):
        raise UsageError(
            f"SRC is an address that begins with {scheme[0]}; only http:// and https:// are known"
        )
    return scheme is not None


def _destination(named: str) -> Path:
    """Where to sync to. Raises UsageError for what is neither a mirror nor free to become one."""
    from tcgamirror.mirror.directory import check_place

    if not named:
        raise UsageError("DST is empty, as a variable that was never set is; name a directory")
    root = Path(named)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is no directory; name another place to sync to")
    check_place(root)
    return root


def _tell(found: Synced) -> None:
    if found.dry_run:
        print(
            f"would fetch {text.images(found.fetched)} ({text.in_bytes(found.bytes)}), check "
            f"{found.adopted:,} that are there, remove {found.removed:,}, and leave {found.kept:,}"
        )
    elif not found.changed:
        kept = f"{text.images(found.kept)} {text.is_or_are(found.kept)}"
        print(f"nothing new: {kept} as at the source")
    else:
        print(
            f"{text.images(found.fetched)} fetched ({text.in_bytes(found.bytes)}), "
            f"{found.adopted:,} found here, {found.removed:,} removed, {found.kept:,} as before"
        )
    if found.others:
        print(
            f"{text.slides(found.others)} that the source lacks, or has no image of, "
            f"{text.is_or_are(found.others)} kept; --delete removes them"
        )
    for failure in found.failed[:SHOWN]:
        output.say(f"failed: {failure.path}: {failure.why}")
    if len(found.failed) > SHOWN:
        output.say(f"... and {len(found.failed) - SHOWN:,} more (all of them with --json)")
    if found.failed:
        print(
            f"{text.images(len(found.failed))} failed; "
            "older ones stay here, and the next sync tries again"
        )


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
