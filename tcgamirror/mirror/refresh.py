"""Refresh of a mirror's listing, from the GDC or from a manifest."""

from __future__ import annotations

import pickle
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.listing import ListingStream, MergeCounts
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import Interrupted, NetworkError
from tcgamirror.model.labels import SlideLabels
from tcgamirror.model.slide import Slide
from tcgamirror.model.text import timestamp
from tcgamirror.net.client import HttpClient, host_key
from tcgamirror.net.hosts import OnPause
from tcgamirror.sources import gdc
from tcgamirror.sources.labels import read_labels
from tcgamirror.sources.manifest import (
    describe_other_files,
    read_identity,
    read_slides,
    release_name,
)
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.system.parallel import Background

_MANIFEST = "manifest merged"
"""Key of the fact that holds the digest of the last merged manifest."""

_READ = "listing read"
"""Key of the fact that tells when the listing was last read.

Its value is the time in ISO 8601 (UTC), a blank, and the number of the last attempt before.
"""

_LABELS = "labels read"
"""Key of the fact that holds the number of the listing after which labels were last read."""

_NOT_FOUND = "not found at the GDC"
"""Key of the fact that holds a digest of the API's address and the file_ids it does not know."""

_BRIEF_SECONDS = 20.0
"""Most seconds to connect, or until an answer begins that a manifest's mirror can do without."""

READ_AGAIN = 30 * 24 * 3600.0
"""Seconds after which the listing of the same release is read again."""


_LATE_SECONDS = 10.0
"""Seconds after a first page from which on its release may already be the next one."""


def from_gdc(
    catalogue: Catalogue,
    client: gdc.JsonClient,
    api: str,
    *,
    accept_shrink: bool,
    force: bool = False,
    on_page: Callable[[int, int], None] | None = None,
) -> MergeCounts | None:
    """Merge the GDC's listing; return None if it brings nothing new.

    In general one request shows that the release is known. That does not prove that the
    listing is. So the listing is also read if a listed slide was denied since, after READ_AGAIN,
    or by force. The first listing and a forced one are requested together with their release.

    Raises NetworkError or ListingShrunk, before anything is changed.
    """
    reading = Background(partial(gdc.read_release, client, api), "release")
    known, now = catalogue.listing.release(), time.time()
    must_read = force or known is None
    if not must_read and reading.result() == known and not _is_due(catalogue, now):
        return None
    last_attempt = catalogue.queue.last_attempt()

    def successors_of(lost: list[str]) -> dict[str, str]:
        """Return the newest file_id of each slide that the GDC knows; others count as withdrawn."""
        try:
            return gdc.read_latest_versions(client, api, lost)
        except NetworkError:
            return {}

    is_late = False

    def merge(slides: Iterator[Slide]) -> MergeCounts:
        nonlocal is_late
        try:
            # Requests the listing before the release is waited for.
            first = list(islice(slides, 1))
        except NetworkError:
            # The error of another kind of server reads better for the release.
            reading.result()
            raise
        is_late = not reading.has_ended(_LATE_SECONDS)
        return catalogue.listing.merge(
            ListingStream(reading.result(), chain(first, slides)),
            now,
            accept_shrink=accept_shrink,
            successors_of=successors_of,
        )

    before = catalogue.listing.count_merges()
    merged = gdc.stream_slides(client, api, merge, on_page=on_page)
    # After a late release the next run reads the listing again.
    note_read(catalogue, 0 if is_late else now, last_attempt)
    return merged if catalogue.listing.count_merges() > before else None


def note_read(catalogue: Catalogue, now: float, last_attempt: int) -> None:
    """Record when the GDC's listing was read, and the number of the last attempt before."""
    catalogue.set_fact(_READ, f"{timestamp(now)} {last_attempt}")


def _is_due(catalogue: Catalogue, now: float) -> bool:
    """Return whether to read the listing of the same release again."""
    read, _, attempt = (catalogue.fact(_READ) or "").partition(" ")
    # A time in the future was set by a fast clock.
    if not timestamp(now - READ_AGAIN) <= read <= timestamp(now):
        return True
    return catalogue.queue.was_denied_since(int(attempt) if attempt.isdecimal() else 0)


def from_manifest(
    catalogue: Catalogue, path: Path, *, accept_shrink: bool, warn: Callable[[str], None]
) -> MergeCounts | None:
    """Merge the manifest; return None if it brings nothing new or is gone.

    warn: called with a message about a manifest that is gone, or about rows left out.
    Raises BadManifest or ListingShrunk.
    """
    known = catalogue.fact(_MANIFEST)
    if known is not None and not path.exists():
        warn(f"the manifest {path} is gone: its last listing is kept")
        return None
    identity = read_identity(path)
    if identity == known:
        return None
    others = Counter[str]()
    listing = ListingStream(release_name(path), read_slides(path, others))
    merged = catalogue.listing.merge(listing, time.time(), accept_shrink=accept_shrink)
    catalogue.set_fact(_MANIFEST, identity)
    if others:
        warn(f"{path}: {describe_other_files(others)}")
    return merged if merged != MergeCounts(unchanged=merged.unchanged) else None


def look_up(
    catalogue: Catalogue,
    client: HttpClient,
    settings: Settings,
    shutdown: Shutdown,
    warn: Callable[[str], None],
) -> None:
    """Look up what a manifest does not tell of its slides; leave it to a later run if that fails.

    The slides can be fetched without it, so each request is tried once and briefly. Slides that
    the GDC does not know, such as those of other programs, are looked up again only together
    with further ones.

    warn: called with why the GDC did not answer.
    """

    def digest_of(file_ids: list[str]) -> str:
        return sha256("\n".join([settings.api, *sorted(file_ids)]).encode()).hexdigest()

    file_ids = catalogue.listing.without_project()
    if not file_ids or catalogue.fact(_NOT_FOUND) == digest_of(file_ids):
        return
    try:
        brief = with_one_brief_try(client, settings)
        slides = list(gdc.find_slides(brief, settings.api, "file_id", file_ids))
    except (NetworkError, Interrupted) as error:
        # Without a request to stop, --time-limit interrupted it.
        if shutdown.requested:
            raise
        warn(f"projects and sites of the manifest's slides are looked up another time ({error})")
        return
    catalogue.listing.complete(slides)
    catalogue.set_fact(_NOT_FOUND, digest_of(catalogue.listing.without_project()))


class LabelReader:
    """The labels of slides, read by another thread while slides are fetched.

    seen, total: slides whose labels were read so far, and all. listing: number of the listing.
    has_ended: waits at most the given seconds, and returns whether the reading has ended.
    is_taken: `take` was called.
    """

    is_taken = False

    def __init__(
        self, client: gdc.JsonClient, api: str, file_ids: Sequence[str] | None, listing: str
    ) -> None:
        """Begin to read. file_ids: of the slides; None for all. Raises MemoryError."""
        self.listing = listing
        self.seen = self.total = 0
        # Compressed until they are needed, which takes a fiftieth of the memory.
        self._pages: list[bytes] = []
        self._reading = Background(lambda: self._read(client, api, file_ids), "labels")
        self.has_ended = self._reading.has_ended

    def _read(self, client: gdc.JsonClient, api: str, file_ids: Sequence[str] | None) -> None:
        for page in read_labels(client, api, file_ids):
            self._pages.append(zlib.compress(pickle.dumps(page.items)))
            self.seen, self.total = page.seen, page.total

    def take(self, check: Callable[[], None]) -> Iterator[SlideLabels]:
        """Wait for all labels and return them. Raises NetworkError or Interrupted.

        check: called while they are waited for.
        """
        self.is_taken = True
        self._reading.result(check)
        return chain.from_iterable(pickle.loads(zlib.decompress(page)) for page in self._pages)


def begin_labels(
    catalogue: Catalogue,
    client: gdc.JsonClient,
    api: str,
    *,
    of_manifest: bool,
    force: bool = False,
) -> LabelReader | None:
    """Begin to read the labels of all slides; None if those of the last listing were read.

    of_manifest: ask only for the slides listed here.
    """
    listing = str(catalogue.listing.count_merges())
    if catalogue.fact(_LABELS) == listing and not force:
        return None
    file_ids = catalogue.listing.listed_ids() if of_manifest else None
    return LabelReader(client, api, file_ids, listing)


def put_labels(catalogue: Catalogue, reader: LabelReader, check: Callable[[], None]) -> None:
    """Put labels into the catalogue once all are read. Raises as `LabelReader.take`."""
    catalogue.labels.put(reader.take(check))
    catalogue.set_fact(_LABELS, reader.listing)


def with_one_brief_try(client: HttpClient, settings: Settings) -> HttpClient:
    """Return the client with timeouts for what a manifest's mirror can do without."""
    usual = settings.timeouts
    connect, first_byte = (min(_BRIEF_SECONDS, x) for x in (usual.connect, usual.first_byte))
    return client.for_optional(replace(usual, tries=1, connect=connect, first_byte=first_byte))


def open_client(
    settings: Settings, shutdown: Shutdown, on_pause: OnPause = lambda *_: None
) -> HttpClient:
    """Return an HTTP client with the limits of the settings."""
    limits = dict.fromkeys(map(host_key, (settings.api, settings.tiles)), settings.api_connections)
    if settings.bucket is not None:
        limits[host_key(settings.bucket)] = settings.bucket_connections
    return HttpClient(
        timeouts=settings.timeouts,
        limits=limits,
        rate=settings.rate,
        stop=shutdown.stop,
        on_pause=on_pause,
    )
