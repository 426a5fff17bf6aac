"""A mirror's listing brought up to date: from the GDC's data release, or from a manifest."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tcgamirror import gdc
from tcgamirror.catalogue import Catalogue
from tcgamirror.errors import BadManifest, NetworkError, WrongContent
from tcgamirror.files import digest
from tcgamirror.manifest import read_manifest
from tcgamirror.merging import Merged
from tcgamirror.model import Listing

_MANIFEST = "manifest merged"
"""The catalogue's fact under which the digest of the manifest merged last stands."""


def from_gdc(
    catalogue: Catalogue,
    answers: gdc.Answers,
    api: str,
    *,
    accept_shrink: bool,
    on_page: Callable[[int, int], None] | None = None,
) -> Merged | None:
    """Merges the GDC's listing if its data release is a new one; else None, after one request.

    Raises NetworkError: before anything is changed.
    """
    if gdc.release(answers, api) == catalogue.release():
        return None
    listing = gdc.listing(answers, api, on_page=on_page)
    lost = catalogue.unlisted(listing, accept_shrink=accept_shrink)
    successors = _successors(answers, api, lost)
    return catalogue.merge(listing, time.time(), accept_shrink=accept_shrink, successors=successors)


def _successors(answers: gdc.Answers, api: str, lost: list[str]) -> dict[str, str]:
    """The newest file_id of each, as far as it can be known.

    Without it a slide is withdrawn rather than superseded, until a later
    release; that is no reason not to have this one.
    """
    try:
        return gdc.versions(answers, api, lost) if lost else {}
    except NetworkError:
        return {}


def from_manifest(
    catalogue: Catalogue, path: Path, *, accept_shrink: bool, say: Callable[[str], None]
) -> Merged | None:
    """Merges the manifest if it is another than the last time, or there was none; else None.

    One that is gone is as good as unchanged, and `say` is told so. Raises BadManifest.
    """
    known = catalogue.fact(_MANIFEST)
    if known is not None and not path.exists():
        say(f"the manifest {path} is gone: its listing of before is kept")
        return None
    listing = read_manifest(path)
    now = _identity(listing, path)
    if now == known:
        return None
    try:
        merged = catalogue.merge(listing, time.time(), accept_shrink=accept_shrink)
    except WrongContent as error:
        # It shrank, as an answer of the GDC may too; but this one the user gave.
        raise BadManifest(str(error)) from error
    catalogue.set_fact(_MANIFEST, now)
    return merged if merged != Merged(unchanged=merged.unchanged) else None


def _identity(listing: Listing, path: Path) -> str:
    return f"{listing.release} {digest(path, 'sha256')}"
