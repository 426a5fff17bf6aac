"""Parts that commands share: the mirror to work on, its settings, the file to write."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import CATALOGUE, Mirror, check_not_own
from tcgamirror.mirror.settings import BUCKET, GDC, GDC_TILES, Settings, address, with_options
from tcgamirror.model.errors import NotAMirror, UsageError
from tcgamirror.model.slide import FALLBACK_MAX_SIZE, Target
from tcgamirror.system.files import atomic_write


def named_mirror(args: argparse.Namespace) -> Path | None:
    """Return the directory of --mirror or TCGAMIRROR.

    Raises UsageError if it is on another machine.
    """
    named = mirror_text(args)
    if named is not None and ":" in named:
        # Imported late: few names have a colon.
        from tcgamirror.transfer.remote_paths import check_mirror

        check_mirror(named, args.command)
    return None if named is None else Path(named)


def mirror_text(args: argparse.Namespace) -> str | None:
    """Return the same as it was typed."""
    named: str | None = args.mirror
    return os.environ.get("TCGAMIRROR") or None if named is None else named


def open_mirror(args: argparse.Namespace) -> Mirror:
    """Return the mirror that is named, or the nearest above the current directory."""
    named = named_mirror(args)
    return Mirror.find(named or Path(), above=named is None)


def find_settings(args: argparse.Namespace) -> tuple[Mirror | None, Settings]:
    """Return the mirror and its settings, changed by `sources`.

    Return None and the usual settings if no mirror was named and there is none here.
    """
    mirror, settings = None, Settings(Target(None, FALLBACK_MAX_SIZE))
    try:
        mirror = open_mirror(args)
        settings = mirror.settings
    except NotAMirror:
        if args.mirror:
            raise
    return mirror, with_options(settings, sources(args))


def sources(args: argparse.Namespace) -> dict[str, object]:
    """Return the sources and servers that the options name, and the servers that --api implies."""
    options = ("via", "api", "tiles", "bucket")
    given = {name: value for name in options if (value := getattr(args, name, None)) is not None}
    if "api" not in given:
        return given
    api = address(given["api"], "--api")
    own = {"tiles": GDC_TILES, "bucket": BUCKET}
    return (own if api == GDC else {"tiles": f"{api}/tile", "bucket": "none"}) | given


@contextmanager
def open_catalogue(args: argparse.Namespace) -> Iterator[tuple[Mirror, Catalogue]]:
    """Open the mirror's catalogue to read it."""
    mirror = open_mirror(args)
    with Catalogue.open(mirror.root / CATALOGUE, read_only=True) as catalogue:
        yield mirror, catalogue


@contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends without an error.

    Raises UsageError if nothing can be written there. The block decides on what is there.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a directory. Name a file in it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.absolute().parent}: no such directory. Make it first")
    check_not_own(path)
    try:
        with atomic_write(path, shared=True) as file:
            yield file
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be written ({why}). Name another file") from error
