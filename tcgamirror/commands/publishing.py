"""`sync` and `serve`: the mirror brought to other machines over a share or the web."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tcgamirror.brake import Brake
from tcgamirror.cli import output
from tcgamirror.cli.common import home_of
from tcgamirror.errors import ExitCode, WrongUse

if TYPE_CHECKING:
    from tqdm import tqdm

    from tcgamirror.differences import Synced
    from tcgamirror.publishers import Publisher

SHOWN = 20
"""Images that are named on the terminal."""


class _Moving:
    """Tells how it goes: a bar of bytes on a terminal, else a line now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[NoReturn] | None = None
        self._images = self._total = 0
        self._said = time.monotonic()

    def begins(self, images: int, size: int) -> None:
        self.close()
        self._images, self._total = 0, images
        if images and not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=size, unit="B", unit_scale=True, dynamic_ncols=True)

    def passed(self, images: int, size: int) -> None:
        self._images += images
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._images:,} of {self._total:,}", refresh=False)
            self._bar.update(size)
        elif not self._quiet and time.monotonic() - self._said >= output.QUIET_SECONDS:
            self._said = time.monotonic()
            output.say(f"{self._images:,} of {output.images(self._total)}")

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


# sync ------------------------------------------------------------------------------


def sync(given: argparse.Namespace) -> ExitCode:
    # Only now: `serve` asks nobody.
    from tcgamirror.differences import rehearse
    from tcgamirror.settings import address, byte_rate
    from tcgamirror.sync import synchronize

    if given.mirror is not None:
        raise WrongUse("sync takes the two mirrors as SRC and DST, not by --mirror")
    rate = None if given.rate is None else byte_rate(given.rate, "--rate")
    root = _destination(given.destination)
    brake = Brake()
    brake.listen()
    moving = _Moving(quiet=given.json)

    def done_from(source: Publisher) -> Synced:
        if given.dry_run:
            return rehearse(source, root, delete=given.delete)
        return synchronize(source, root, moving, brake, delete=given.delete)

    from tcgamirror.publishers import Folder, Web
    from tcgamirror.transport import Transport

    try:
        if _is_address(given.source):
            url = address(given.source, "SRC")
            with Transport(rate=rate, stop=brake.stop) as transport:
                found = done_from(Web(url, transport, brake.stop))
        else:
            found = done_from(Folder(Path(given.source), rate, brake.stop))
    finally:
        moving.close()
    if given.json:
        print(json.dumps(dataclasses.asdict(found) | {"exit_code": int(found.exit_code)}))
    else:
        _tell(found)
    return found.exit_code


def _is_address(source: str) -> bool:
    """Whether it is no directory. Raises WrongUse for an address that is not of the web."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", source)
    if scheme is not None and scheme[1] not in ("http", "https"):
        raise WrongUse(
            f"SRC is an address that begins with {scheme[0]}; only http:// and https:// are known"
        )
    return scheme is not None


def _destination(named: str) -> Path:
    """Where to sync to. Raises WrongUse for what is neither a mirror nor free to become one."""
    from tcgamirror.home import check_place

    if not named:
        raise WrongUse("DST is empty, as a variable that was never set is; name a directory")
    root = Path(named)
    if root.exists() and not root.is_dir():
        raise WrongUse(f"{root} is no directory; name another place to sync to")
    check_place(root)
    return root


def _tell(found: Synced) -> None:
    if found.dry_run:
        print(
            f"would fetch {output.images(found.fetched)} ({output.in_bytes(found.bytes)}), check "
            f"{found.adopted:,} that are there, remove {found.removed:,}, and leave {found.kept:,}"
        )
    elif not found.changed:
        kept = f"{output.images(found.kept)} {output.are(found.kept)}"
        print(f"nothing new: {kept} as at the source")
    else:
        print(
            f"{output.images(found.fetched)} fetched ({output.in_bytes(found.bytes)}), "
            f"{found.adopted:,} found here, {found.removed:,} removed, {found.kept:,} as before"
        )
    if found.others:
        print(
            f"{output.slides(found.others)} that the source lacks, or has no image of, "
            f"{output.are(found.others)} kept; --delete removes them"
        )
    for failure in found.failed[:SHOWN]:
        output.say(f"failed: {failure.path}: {failure.why}")
    if len(found.failed) > SHOWN:
        output.say(f"... and {len(found.failed) - SHOWN:,} more (all of them with --json)")
    if found.failed:
        print(
            f"{output.images(len(found.failed))} failed; "
            "older ones stay here, and the next sync tries again"
        )


# serve -----------------------------------------------------------------------------


def serve(given: argparse.Namespace) -> ExitCode:
    from tcgamirror.serve import serve as serve_at

    home = home_of(given)

    def announce(address: str, reachable: bool) -> None:
        print(f"{home.root} is at {address} until Ctrl-C", flush=True)
        if reachable:
            output.say(
                f"everyone who can reach {given.host} can read this mirror: there is no password; "
                "leave out --host to keep it to this machine"
            )

    return serve_at(home.root, given.host, given.port, announce)
