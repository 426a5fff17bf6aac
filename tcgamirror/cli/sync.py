"""`sync`: the images of another mirror brought into one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tcgamirror.cli import output
from tcgamirror.cli.progress import stoppable_run
from tcgamirror.mirror.directory import check_place
from tcgamirror.mirror.settings import address, byte_rate
from tcgamirror.model import text
from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.net.client import HttpClient
from tcgamirror.net.object_store import ObjectStore, is_object_address
from tcgamirror.transfer.fetching import check_image
from tcgamirror.transfer.remote_paths import check_sync
from tcgamirror.transfer.sync.bucket import BucketMirror, BucketTarget
from tcgamirror.transfer.sync.plan import SyncResult
from tcgamirror.transfer.sync.remote import DirectoryMirror, HttpMirror, RemoteMirror
from tcgamirror.transfer.sync.synchronizer import synchronize
from tcgamirror.transfer.sync.target import DirectoryTarget, Target

SHOWN = 20
"""Failed images that are named on the terminal."""


def do_sync(args: argparse.Namespace) -> ExitCode:
    if args.mirror is not None:
        raise UsageError("sync: --mirror is not used. Name the two mirrors as SRC and DST")
    check_sync(args.src, args.dst)
    rate = None if args.rate in (None, "unlimited") else byte_rate(args.rate, "--rate")
    is_web = args.src.startswith(("http://", "https://"))
    url = address(args.src, "SRC") if is_web else ""
    with (
        stoppable_run(args) as (progress, shutdown),
        HttpClient(rate=rate, stop=shutdown.stop) as client,
    ):
        stop = shutdown.stop
        check = partial(check_image, decode=args.decode, stop=stop)
        target: Target
        if is_object_address(args.dst):
            target = BucketTarget(ObjectStore(args.dst, stop), stop, check)
        else:
            target = DirectoryTarget(_directory(args.dst), check)
        source: RemoteMirror
        if is_web:
            source = HttpMirror(url, client, stop)
        elif is_object_address(args.src):
            source = BucketMirror(ObjectStore(args.src, stop), rate, stop)
        else:
            source = DirectoryMirror(Path(args.src), rate, stop)
        found = synchronize(
            source, target, progress, shutdown, delete=args.delete, dry_run=args.dry_run
        )
    if not args.json:
        for failure in found.failed[:SHOWN]:
            output.say(f"failed: {failure.path}: {failure.why}")
        if len(found.failed) > SHOWN:
            output.say(f"... and {len(found.failed) - SHOWN:,} more (all of them with --json)")
    return output.finish(args, output.members(found), _lines(found), found.exit_code)


def _directory(named: str) -> Path:
    """Return DST; raise UsageError if it is neither a mirror nor free to become one."""
    root = Path(named)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: not a directory. Name another DST")
    check_place(root)
    return root


def _lines(found: SyncResult) -> Iterator[str]:
    if found.dry_run:
        yield (
            f"would fetch {text.images(found.fetched)} ({text.format_bytes(found.bytes)}), check "
            f"{found.adopted:,} that are there, remove {found.removed:,}, and leave {found.kept:,}"
        )
    elif not found.changed:
        kept = f"{text.images(found.kept)} {text.is_or_are(found.kept)}"
        yield f"nothing new: {kept} as at the source"
    else:
        yield (
            f"{text.images(found.fetched)} fetched ({text.format_bytes(found.bytes)}), "
            f"{found.adopted:,} found here, {found.removed:,} removed, {found.kept:,} as before"
        )
    if found.others:
        yield (
            f"{text.slides(found.others)} that the source lacks, or has no image of, "
            f"{text.is_or_are(found.others)} kept; --delete removes them"
        )
    if found.failed:
        yield (
            f"{text.images(len(found.failed))} failed; "
            "older ones stay here, and the next sync tries again. Those that are damaged at the "
            "source are mended there by verify --repair"
        )
