"""The directories and one level's tiles, by HTTP Range: exact, for megabytes.

What has come of a slide lies in `work/` at its own place in a sparse file, so
that nothing is fetched twice, in this run or the next.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tcgamirror.imaging.decode import LevelReader, is_rgb_or_ycbcr_jpeg
from tcgamirror.imaging.patches import Fetch
from tcgamirror.imaging.svs import SlideHeader, Svs, read_slide_header
from tcgamirror.imaging.tiff import Tiff
from tcgamirror.model.byteranges import Span, coalesce, split
from tcgamirror.model.errors import (
    BadSlide,
    ChangedFile,
    NetworkError,
    RangeUnsupported,
    SlideError,
    UnsupportedSlide,
)
from tcgamirror.model.slide import Resample, Slide, Target
from tcgamirror.model.text import place
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.base import opened
from tcgamirror.sources.origins import Origin, Origins
from tcgamirror.sources.sparse_file import SparseFile
from tcgamirror.sources.workspace import Lease, Workspace, clear
from tcgamirror.system.files import atomic_write, disk_errors
from tcgamirror.system.parallel import for_each

LOOK_AHEAD = 4096
"""Bytes read at least: a directory with its description, but not its tile arrays."""
HEADER = Span(0, 16)
"""The bytes of a TIFF header, asked for to learn a file's size."""
TAIL = 16384
"""Bytes at the end of a file: there lie its last level's directory and tile arrays."""
MOST_FORESEEN = 8 << 20
"""Bytes that are fetched on a guess at most."""
GAP = 4096
"""Bytes not asked for that cost less than one more request."""
LEAST_PART = 64 << 10
MOST_PART = 4 << 20
"""Bytes of one request for tile data; what is larger is held in memory too often at once."""
PARTS = 4
"""Requests that one slide's tile data are split over."""
AT_ONCE = PARTS + 1
"""Requests for one slide at the same time: a directory's goes along with its tiles'."""
MOST_FOR_PATCHES = 64 << 20
"""Bytes of finer levels that are fetched for what a level lacks, at most."""
SHARE_FOR_PATCHES = 10
"""Part of the file that they are at most: a tenth."""
ALWAYS_FOR_PATCHES = 2 << 20
"""Bytes that they may be of any file: of a small one, another source moves as many."""
Done = TypeVar("Done")


class RemoteFile:
    """A slide at one origin; what is read of it is kept in `partial` and never fetched again.

    Raises ChangedFile if the origin's file is not the one `partial` began with.
    """

    def __init__(
        self,
        client: HttpClient,
        url: str,
        partial: SparseFile,
        tag: Path,
        meter: Meter,
        on_part: Callable[[], None],
    ) -> None:
        """tag: keeps this origin's ETag from one run to the next.

        on_part: called with each part that came, before it is kept; raises if there is
        no room for it.
        """
        self.size = partial.size
        self._client = client
        self._url = url
        self.partial = partial
        self._tag = tag
        self._on_part = on_part
        self._meter = meter
        self._lock = threading.Lock()
        with disk_errors(tag):
            self._etag = tag.read_text("utf-8", "replace") if tag.exists() else None
        self._along: Sequence[Span] = ()

    def along(self, spans: Sequence[Span]) -> None:
        """Fetch `spans` together with what is fetched next, without a round trip of their own."""
        self._along = [*self._along, *spans]

    def read(self, span: Span) -> bytes:
        """The bytes of `span`, fetched with some more behind them if they are not had."""
        if not self.partial.had.holds(span):
            ahead = max(span.stop, min(self.size, span.start + LOOK_AHEAD))
            self.fetch([Span(span.start, ahead)])
        return self.partial.read(span)

    def fetch(self, spans: Iterable[Span]) -> None:
        """Has all of `spans`, in as few requests as is cheap, several at a time.

        Raises BadSlide, before anything is asked for, if one does not lie in the file.
        """
        missing = _missing(self.partial, [*spans, *self._along])
        self._along = ()
        if missing and missing[-1].stop > self.size:
            raise BadSlide(f"bytes {missing[-1]} are outside of the file ({self.size} bytes)")
        parts = (part for span in missing for part in _parts(span))
        for_each(self._fetch_part, parts, AT_ONCE, "range")

    def _fetch_part(self, span: Span) -> None:
        part = self._client.span(
            self._url, span, total=self.size, etag=self._etag, meter=self._meter
        )
        self._on_part()
        if part.etag is not None:
            self._agree(part.etag)
        self.partial.write(span.start, part.data)

    def _agree(self, etag: str) -> None:
        """Keeps the first ETag told; no bytes of two versions get into one file."""
        with self._lock:
            if self._etag is None:
                with atomic_write(self._tag) as file:
                    file.write(etag.encode())
                self._etag = etag
            elif etag != self._etag:
                raise ChangedFile(f"{place(self._url)}: the file was replaced meanwhile")


def _missing(partial: SparseFile, spans: Iterable[Span]) -> list[Span]:
    """Return what is to be fetched for `spans`: small gaps come along, nothing comes twice."""
    had = partial.had
    wanted = coalesce((gap for span in spans for gap in had.gaps(span)), GAP)
    return [gap for span in wanted for gap in had.gaps(span)]


def _parts(span: Span) -> list[Span]:
    """Nearly equal parts: PARTS of them, more where those would be large, fewer where small.

    At most MOST_PART bytes each, and at least LEAST_PART if there are several.
    """
    most = max(PARTS, -(-span.length // MOST_PART))
    return split(span, most, LEAST_PART)


class Range:
    """Gets the level at or above the target from the first origin that honours Range."""

    name = "range"

    def __init__(self, client: HttpClient, origins: Origins, work: Workspace) -> None:
        self._client = client
        self._origins = origins
        self._work = work

    @contextmanager
    def open(self, slide: Slide, target: Target, meter: Meter) -> Iterator[LevelReader]:
        with self._work.lease(slide.file_id, self.name) as lease:

            def fetch(file: RemoteFile) -> None:
                _fetch_level(file, target, lease)

            sized = self._sized(slide, meter)
            self._from_origins(sized, lease.folder, meter, fetch)
            try:
                with self._partial(sized, lease.folder) as partial:
                    finer = self._fetching_finer(sized, lease.folder, partial, meter)
                    with opened(partial, target, lease.folder, fetch=finer) as ready:
                        yield ready
            except ChangedFile:
                # The next try begins anew: what is there is of the file before.
                clear(lease.folder)
                raise

    def _fetching_finer(
        self, slide: Slide, folder: Path, partial: SparseFile, meter: Meter
    ) -> Fetch:
        """Return what fetches from finer levels, from the first origin that gives them.

        It raises UnsupportedSlide, before anything is asked for, where so much would be
        moved that another source is cheaper. `work/` may so hold more than was granted.
        """
        share = max(partial.size // SHARE_FOR_PATCHES, ALWAYS_FOR_PATCHES)
        most, moved = min(MOST_FOR_PATCHES, share), 0

        def fetch(spans: Sequence[Span]) -> None:
            nonlocal moved
            moved += sum(span.length for span in _missing(partial, spans))
            if moved > most:
                raise UnsupportedSlide(
                    f"the level lacks tiles whose place takes {moved:,} bytes of finer levels, "
                    f"and {most:,} are the most"
                )

            def fetched_from(origin: Origin) -> ChangedFile | None:
                try:
                    self._remote(origin, slide, folder, partial, meter).fetch(spans)
                except ChangedFile as error:
                    # No other origin's bytes make the file before whole.
                    return error
                return None

            changed = self._first(fetched_from)
            if changed is not None:
                raise changed

        return fetch

    def read_header(self, slide: Slide, meter: Meter) -> SlideHeader:
        """Return the slide's size and resolution, for a few small requests.

        Raises NetworkError if nobody lets it be read, SlideError for no slide. An
        image made without a header that could not be read would have no resolution.
        """
        with self._work.held(slide.file_id, self.name) as lease:
            try:
                slide = self._sized(slide, meter)
                return self._from_origins(slide, lease.folder, meter, read_slide_header)
            except SlideError:
                # What the next try finds must not be the bytes that are in doubt.
                clear(lease.folder)
                raise

    def _sized(self, slide: Slide, meter: Meter) -> Slide:
        """Return the slide with its size, from a first part if the listing does not tell it."""
        if slide.size is not None:
            return slide

        def size_at(origin: Origin) -> int:
            part = self._client.span(origin.url(slide), HEADER, total=None, meter=meter)
            self._origins.gave_part(origin)
            return part.total

        return dataclasses.replace(slide, size=self._first(size_at))

    def _partial(self, slide: Slide, folder: Path) -> SparseFile:
        if slide.size is None:
            raise ValueError("a slide without its size")
        identity = f"{slide.file_id} {slide.md5}"
        return SparseFile.open(folder / "slide.part", identity=identity, size=slide.size)

    def _from_origins(
        self, slide: Slide, folder: Path, meter: Meter, work: Callable[[RemoteFile], Done]
    ) -> Done:
        """Return what `work` makes of the slide at the first origin where it succeeds."""
        return self._first(lambda origin: self._at_one_version(origin, slide, folder, meter, work))

    def _first(self, ask: Callable[[Origin], Done]) -> Done:
        """Return what `ask` gives for the first origin where it succeeds.

        Raises the NetworkError of an origin, a retryable one if there is one.
        """
        failures: list[NetworkError] = []
        for origin in self._origins.to_try(ranged=True):
            try:
                done = ask(origin)
            except NetworkError as error:
                self._origins.failed(origin, error)
                failures.append(error)
            else:
                self._origins.worked(origin, ranged=True)
                return done
        lasting = failures[-1] if failures else RangeUnsupported("no origin gives parts of files")
        raise next((failure for failure in failures if failure.retryable), lasting)

    def _at_one_version(
        self,
        origin: Origin,
        slide: Slide,
        folder: Path,
        meter: Meter,
        work: Callable[[RemoteFile], Done],
    ) -> Done:
        """Begins anew, once, if the file turns out to be another than the one begun with."""
        try:
            return self._at(origin, slide, folder, meter, work)
        except ChangedFile:
            clear(folder)
        try:
            return self._at(origin, slide, folder, meter, work)
        except ChangedFile:
            # The next origin must not go on with this one's bytes.
            clear(folder)
            raise

    def _at(
        self,
        origin: Origin,
        slide: Slide,
        folder: Path,
        meter: Meter,
        work: Callable[[RemoteFile], Done],
    ) -> Done:
        with self._partial(slide, folder) as partial:
            return work(self._remote(origin, slide, folder, partial, meter))

    def _remote(
        self, origin: Origin, slide: Slide, folder: Path, partial: SparseFile, meter: Meter
    ) -> RemoteFile:
        tag = folder / f"{origin.name}.etag"

        def on_part() -> None:
            # Not once the slide is done: by then a single whole answer may have told otherwise.
            self._origins.gave_part(origin)
            self._work.check()

        return RemoteFile(self._client, origin.url(slide), partial, tag, meter, on_part)


def _fetch_level(file: RemoteFile, target: Target, lease: Lease) -> None:
    """Has in `file` all that reading the level nearest to `target` needs."""
    tail = Span(max(0, file.size - TAIL), file.size)
    file.fetch([Span(0, min(file.size, LOOK_AHEAD)), tail])
    read_slide_header(file)
    # The directories are chained, so each costs a round trip: the tiles come meanwhile,
    # and what tells which tiles of the base are missing.
    file.along(_foreseen(file.partial, target, tail))
    file.along([_counts_of_base(file)])
    svs = Svs(file)
    level = target.rendition(svs.pyramid).level
    arrays = svs.array_spans(level)
    before = svs.data_before(level)
    if any(map(file.partial.had.gaps, arrays)):
        if before is not None:
            file.along([Span(before.start, min(before.stop, before.start + MOST_FORESEEN))])
        file.fetch(arrays)
    table = svs.tile_table(level)
    tiles = sum(run.length for run in table.runs(gap=0))
    plain = is_rgb_or_ycbcr_jpeg(svs.levels[level])
    # Of anything else OpenSlide is given a copy.
    lease.grow(tiles if plain else 2 * tiles)
    file.fetch(table.runs(GAP))
    if not plain:
        for _ in svs.values(level):
            pass  # read, so that they are had when the level is written out


def _counts_of_base(file: RemoteFile) -> Span:
    """Return where the first directory says how many bytes each of its tiles has."""
    first = next(Tiff(file).directories())
    return Svs(file, [first]).counts_span(0)


def _foreseen(had: SparseFile, target: Target, tail: Span) -> Sequence[Span]:
    """What the last level, whose directory ends the file, needs, if that level is likely to do.

    Its tiles, or else the arrays that tell where they lie; nothing if all that
    is had makes no slide, or if that lies outside of the file or is more than
    MOST_FORESEEN. Whether it was right the whole chain tells later.
    """
    if target.resample is Resample.NATIVE and target.max_size is not None:
        return ()  # the finest level that fits
    try:
        tiff = Tiff(had)
        first, last = next(tiff.directories()), tiff.last_in(tail)
        if last is None:
            return ()
        guess = Svs(had, [first] if last == first else [first, last])
        level = target.rendition(guess.pyramid).level
        if guess.levels[level].directory != last:
            return ()
        spans = guess.array_spans(level)
        if not any(map(had.had.gaps, spans)):
            spans = list(guess.tile_table(level).runs(GAP))
    except SlideError:
        return ()
    # A wrong guess may name any bytes; it must neither fail a good slide nor move much.
    inside = all(span.stop <= had.size for span in spans)
    return spans if inside and sum(span.length for span in spans) <= MOST_FORESEEN else ()
