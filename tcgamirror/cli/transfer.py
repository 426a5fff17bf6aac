"""`export`, `import` and `sync`: the mirror carried to other machines."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tcgamirror.cli import output
from tcgamirror.cli.common import (
    JSON,
    Commands,
    add_command,
    mirror_text,
    named_mirror,
    open_mirror,
    stoppable_run,
)
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, Interrupted, NotAMirror, UsageError

if TYPE_CHECKING:
    from tcgamirror.transfer.exporter import ExportResult
    from tcgamirror.transfer.importer import ImportResult
    from tcgamirror.transfer.objects import StoredArchive
    from tcgamirror.transfer.sync.plan import SyncResult
    from tcgamirror.transfer.sync.remote import RemoteMirror
    from tcgamirror.transfer.sync.target import Target

SHOWN = 20
"""Images named on the terminal."""

_EXPORT = f"""\
write the mirror, or a part of it, to carry it elsewhere

Writes a directory, a .tar archive (also s3://BUCKET/NAME.tar), or a tar archive to
standard output. Every image is compared with its digest. An update may run meanwhile. An
interrupted export of a directory resumes when run again.

--only SQL      only slides that meet this condition on the view mirror
--since EXPORT  leave out the images of this earlier export (or of its SHA256SUMS)
{JSON}

  tcgamirror --mirror tcga export tcga.tar
  tcgamirror --mirror tcga export - | zstd > tcga.tar.zst
  tcgamirror --mirror tcga export - | ssh there tcgamirror --mirror tcga import -
  tcgamirror --mirror tcga export lung --only "project_id = 'TCGA-LUAD' and status = 'done'"
  tcgamirror --mirror tcga export june.tar --since may.tar"""

_IMPORT = f"""\
add an export to a mirror

Reads an export: a directory, a .tar archive (also s3://BUCKET/NAME.tar), or a tar archive
from standard input. The mirror of --mirror is made if it does not exist. An interrupted
import resumes when run again.

--decode  also decode every pixel of every new image
{JSON}

  tcgamirror --mirror tcga import tcga.tar
  cat /media/stick/tcga.tar.part* | tcgamirror --mirror tcga import -
  zstd -dc tcga.tar.zst | tcgamirror --mirror tcga import -"""

_SYNC = f"""\
bring the images of another mirror into one

Copies only what differs. SRC is a mirror's directory or the address of a web server that
publishes one. DST is a directory, which is made if it does not exist. Both may be places
in a bucket: s3://BUCKET/NAME, gs://... or az://... An interrupted sync resumes when run
again.

--decode      also decode every pixel of every new image
--delete      remove images and rows that SRC does not have
--dry-run     print what would change; change nothing
--rate BYTES  limit of bytes per second, such as 5M (default: none)
{JSON}

  tcgamirror sync tcga /media/stick/tcga
  tcgamirror sync http://server:8000/ tcga --rate 5M
  tcgamirror sync tcga /mnt/share/tcga --delete --dry-run
  tcgamirror sync tcga s3://bucket/tcga"""


def export_mirror(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.cli.progress import ProgressDisplay
    from tcgamirror.transfer.archive.format import check_suffix
    from tcgamirror.transfer.exporter import export
    from tcgamirror.transfer.remote_paths import check_export

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
        if args.json:
            print(json.dumps({**output.members(made), "exit_code": int(code)}))
        else:
            _print_export(made, mirror.root)
    return code


def _print_export(made: ExportResult, mirror: Path) -> None:
    where = "standard output" if made.dest == "-" else made.dest
    rate = text.format_bytes(made.bytes / max(made.seconds, 0.001))
    print(
        f"{text.slides(sum(made.slides.values()))} with {text.images(made.images)} in "
        f"{where}: {text.format_bytes(made.bytes)} at {rate}/s "
        f"in {text.format_duration(made.seconds)}"
    )
    if made.earlier:
        print(f"{text.images(made.earlier)} left out, because an earlier export has them")
    if made.lacking:
        lacking = [(path, "damaged or missing") for path in made.lacking]
        output.print_first("not exported", lacking, SHOWN)
        repair = text.command_line("verify --repair", mirror)
        print(f"in the export they are pending; fetch them again by {repair}")


def import_into(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.cli.progress import ProgressDisplay
    from tcgamirror.transfer.importer import import_export
    from tcgamirror.transfer.objects import StoredArchive
    from tcgamirror.transfer.remote_paths import check_import

    source = _archive_place(args.source)
    if not isinstance(source, StoredArchive):
        check_import(args.source, mirror_text(args) or ".")
    # A new mirror is made only where it is named, as init does.
    try:
        root = named_mirror(args) or open_mirror(args).root
    except NotAMirror as error:
        error.add_note("An import makes the mirror that --mirror names")
        raise
    with closing(ProgressDisplay(quiet=args.json)) as progress:
        made = import_export(root, source, progress, decode=args.decode)
    if args.json:
        print(json.dumps({**output.members(made), "exit_code": int(made.exit_code)}))
    else:
        _print_import(made)
    return made.exit_code


def _print_import(made: ImportResult) -> None:
    update = text.command_line("update", Path(made.root))
    print(
        f"{'made a mirror in ' if made.new else ''}{made.root}: {text.slides(made.slides)} "
        f"added, {text.images(made.images)} taken in ({text.format_bytes(made.bytes)}), "
        f"{made.same:,} here already"
    )
    if made.older:
        print(f"{text.images(made.older)} left out, because what is here is newer")
    if made.lacking:
        print(
            f"{text.images(made.lacking)} {text.is_or_are(made.lacking)} not in the export: import "
            f"the export given to --since when it was made, or run {update}"
        )
    if made.failed:
        print(f"{text.slides(made.failed)} failed there; status tells when to try again")
    for words in made.dropped:
        print(text.plain(f"not taken over, because it names a file of the other machine: {words}"))
    if made.refused:
        refused = [(stray.path, stray.what) for stray in made.refused]
        output.print_first("not taken in", refused, SHOWN)
        print(f"these slides stay as they were; fetch pending ones by {update}")


def _archive_place(named: str) -> Path | StoredArchive | None:
    """Return a path, or the archive in a bucket; None for `-`."""
    from tcgamirror.net.object_store import is_object_address
    from tcgamirror.transfer.objects import StoredArchive

    if is_object_address(named):
        return StoredArchive(named)
    return None if named == "-" else Path(named)


def sync(args: argparse.Namespace) -> ExitCode:
    from tcgamirror.mirror.settings import address, byte_rate
    from tcgamirror.net.client import HttpClient
    from tcgamirror.net.object_store import ObjectStore, is_object_address
    from tcgamirror.transfer.fetching import check_image
    from tcgamirror.transfer.remote_paths import check_sync
    from tcgamirror.transfer.sync.bucket import BucketMirror, BucketTarget
    from tcgamirror.transfer.sync.remote import DirectoryMirror, HttpMirror
    from tcgamirror.transfer.sync.synchronizer import synchronize
    from tcgamirror.transfer.sync.target import DirectoryTarget

    if args.mirror is not None:
        raise UsageError("sync: --mirror is not used. Name the two mirrors as SRC and DST")
    check_sync(args.source, args.destination)
    rate = None if args.rate is None else byte_rate(args.rate, "--rate")
    is_web = args.source.startswith(("http://", "https://"))
    url = address(args.source, "SRC") if is_web else ""
    with (
        stoppable_run(as_json=args.json) as (progress, shutdown),
        HttpClient(rate=rate, stop=shutdown.stop) as client,
    ):

        def check_stopped() -> None:
            if shutdown.stop.is_set():
                raise Interrupted("stopped while an image was decoded; the next sync resumes")

        check = partial(check_image, decode=args.decode, check_stopped=check_stopped)
        target: Target
        if is_object_address(args.destination):
            target = BucketTarget(
                ObjectStore(args.destination, shutdown.stop), shutdown.stop, check
            )
        else:
            target = DirectoryTarget(_destination(args.destination), check)
        source: RemoteMirror
        if is_web:
            source = HttpMirror(url, client, shutdown.stop)
        elif is_object_address(args.source):
            source = BucketMirror(ObjectStore(args.source, shutdown.stop), rate, shutdown.stop)
        else:
            source = DirectoryMirror(Path(args.source), rate, shutdown.stop)
        how = {"delete": args.delete, "dry_run": args.dry_run}
        found = synchronize(source, target, progress, shutdown, **how)
    if args.json:
        print(json.dumps(output.members(found) | {"exit_code": int(found.exit_code)}))
    else:
        _print_sync(found)
    return found.exit_code


def _destination(named: str) -> Path:
    """Return DST; raise UsageError if it is neither a mirror nor free to become one."""
    from tcgamirror.mirror.directory import check_place

    root = Path(named)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: not a directory. Name another DST")
    check_place(root)
    return root


def _print_sync(found: SyncResult) -> None:
    if found.dry_run:
        print(
            f"would fetch {text.images(found.fetched)} ({text.format_bytes(found.bytes)}), check "
            f"{found.adopted:,} that are there, remove {found.removed:,}, and leave {found.kept:,}"
        )
    elif not found.changed:
        kept = f"{text.images(found.kept)} {text.is_or_are(found.kept)}"
        print(f"nothing new: {kept} as at the source")
    else:
        print(
            f"{text.images(found.fetched)} fetched ({text.format_bytes(found.bytes)}), "
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


def add_commands(commands: Commands) -> None:
    """Add `export`, `import` and `sync`."""
    command = add_command(commands, "export", export_mirror, _EXPORT)
    command.add_argument("dest", metavar="DEST", help="directory, .tar archive or object, or -")
    command = add_command(commands, "import", import_into, _IMPORT)
    command.add_argument("source", metavar="SRC", help="directory, .tar archive or object, or -")
    command = add_command(commands, "sync", sync, _SYNC)
    command.add_argument("source", metavar="SRC", help="directory, http(s):// or s3:// address")
    command.add_argument("destination", metavar="DST", help="directory or s3:// address")
