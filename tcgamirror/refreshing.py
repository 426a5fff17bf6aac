"""A mirror's listing brought up to date: from the GDC's data release, or from a manifest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tcgamirror import gdc
from tcgamirror.catalogue import Catalogue
from tcgamirror.errors import BadManifest, NetworkError, WrongContent
from tcgamirror.manifest import identity, in_words, release_of, slides_of
from tcgamirror.merging import Coming, Merged
from tcgamirror.model import Slide

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
    release = gdc.release(answers, api)
    if release == catalogue.release():
        return None

    def merge(slides: Iterator[Slide]) -> Merged:
        return catalogue.merge(
            Coming(release, slides),
            time.time(),
            accept_shrink=accept_shrink,
            successors_of=lambda lost: _successors(answers, api, lost),
        )

    return gdc.given_slides(answers, api, merge, on_page=on_page)


def _successors(answers: gdc.Answers, api: str, lost: list[str]) -> dict[str, str]:
    """The newest file_id of each, as far as it can be known.

    Without it a slide is withdrawn rather than superseded, until a later
    release; that is no reason not to have this one.
    """
    try:
        return gdc.versions(answers, api, lost)
    except NetworkError:
        return {}


def from_manifest(
    catalogue: Catalogue, path: Path, *, accept_shrink: bool, say: Callable[[str], None]
) -> Merged | None:
    """Merges the manifest if it is another than the last time, or there was none; else None.

    One that is gone is as good as unchanged. say: called with that, and with what
    is left out of a new one. Raises BadManifest.
    """
    known = catalogue.fact(_MANIFEST)
    if known is not None and not path.exists():
        say(f"the manifest {path} is gone: its listing of before is kept")
        return None
    now = identity(path)
    if now == known:
        return None
    others = Counter[str]()
    listing = Coming(release_of(path), slides_of(path, others))
    try:
        merged = catalogue.merge(listing, time.time(), accept_shrink=accept_shrink)
    except WrongContent as error:
        # It shrank, as an answer of the GDC may too; but this one the user gave.
        raise BadManifest(str(error)) from error
    catalogue.set_fact(_MANIFEST, now)
    if others:
        say(f"{path}: {in_words(others)}")
    return merged if merged != Merged(unchanged=merged.unchanged) else None
