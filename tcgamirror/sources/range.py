"""The source `range`: the TIFF directories and one level's tiles, by HTTP Range.

The resolution is exact and a slide takes a few megabytes. Fetched bytes are kept in a
sparse file in `work/`, at their own offsets, so that no run fetches them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from tcgamirror.imaging.svs import SlideHeader, Svs, read_slide_header
from tcgamirror.imaging.tiff import Directory, Tag, Tiff
from tcgamirror.model.byteranges import Span, SpanSet, coalesce, split
from tcgamirror.model.errors import BadSlide, ChangedFile, SlideError, UnsupportedSlide
from tcgamirror.model.slide import Resample, Slide, Target
from tcgamirror.model.text import display_url
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.origins import Origin, Origins
from tcgamirror.sources.sparse_file import SparseFile
from tcgamirror.sources.workspace import Lease, Workspace
from tcgamirror.system.parallel import Task, TaskQueue

if TYPE_CHECKING:
    from tcgamirror.imaging.level_reader import LevelReader
    from tcgamirror.imaging.patched_tiles import Fetch

LOOK_AHEAD = 4096
"""Bytes of the smallest read: a directory with its description, without its tile arrays."""
HEADER = Span(0, 16)
"""The TIFF header, requested to learn a file's size."""
TAIL = 16384
"""Bytes at the end of a file that are likely to hold its last directory and tile arrays."""
WINDOW = 8192
"""Bytes before an image's data that are likely to hold the directory of the image before."""
MAX_SPECULATIVE_BYTES = 8 << 20
"""Bytes of one guess, which are fetched before they are known to be needed."""
GAP = 4096
"""Unneeded bytes that cost less than one more request."""
MIN_PART_BYTES = 320 << 10
"""Bytes that take a connection of 2.6 MB/s longer than the 0.1 s of one more request."""
MAX_PART_BYTES = 2 << 20
"""Bytes of one request for tiles; each request in flight is held in memory."""
PARTS = 4
"""Requests that an urgent span is split into, unless it is very large or small."""
PARALLEL_REQUESTS = PARTS + 3
"""Requests in flight for one slide: those for tiles, the base's counts and a directory."""
MAX_PATCH_BYTES = 64 << 20
"""Bytes of finer levels fetched to patch a level's tiles, at most."""
PATCH_SHARE = 10
"""Bytes for patches are also limited to the file's size divided by this."""
MIN_PATCH_LIMIT = 2 << 20
"""Lowest limit of bytes for patches, at which another source would move as many."""

Result = TypeVar("Result")


class RemoteFile:
    """A slide's file at one origin. Bytes are kept in `sparse` and never fetched again.

    Its methods raise ChangedFile if the origin's ETag differs from the earlier one.
    """

    def __init__(
        self,
        client: HttpClient,
        slide: Slide,
        sparse: SparseFile,
        meter: Meter,
        is_urgent: Callable[[], bool],
        origin: Origin,
    ) -> None:
        self.size = sparse.size
        self.sparse = sparse
        self._client = client
        self._url = origin.url(slide)
        self._meter = meter
        self._is_urgent = is_urgent
        self._origin = origin
        self._queue = TaskQueue(PARALLEL_REQUESTS, "range")
        self._requested: dict[Span, Task] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the requests in flight, and drop those that have not begun."""
        self._queue.close()

    def begin(self, spans: Iterable[Span]) -> None:
        """Queue few requests for `spans`, which are made while other bytes are waited for.

        Raises BadSlide, before any request, if a span is not within the file.
        """
        missing = _missing(self._known, spans)
        if missing and missing[-1].stop > self.size:
            raise BadSlide(f"bytes {missing[-1]} are outside of the file ({self.size} bytes)")
        count = PARTS if self._is_urgent() else 1
        for span in missing:
            for part in _split_into_parts(span, count):
                self._requested[part] = self._queue.add(partial(self._fetch_part, part))

    def fetch(self, spans: Iterable[Span]) -> None:
        """Make `spans` available by several requests at a time. Raises as `begin`."""
        spans = list(spans)
        self.begin(spans)
        self._finish(spans)

    def read(self, span: Span) -> bytes:
        """Return the bytes of `span`. If any is missing, more bytes are fetched after it."""
        if self.sparse.missing(span):
            ahead = max(span.stop, min(self.size, span.start + LOOK_AHEAD))
            self.begin([Span(span.start, ahead)])
            self._finish([span])
        return self.sparse.read(span)

    @property
    def _known(self) -> SpanSet:
        """The bytes that are available or requested."""
        return SpanSet([*self.sparse.available, *self._requested])

    def _finish(self, spans: Iterable[Span]) -> None:
        needed = SpanSet(spans)
        parts = [part for part in self._requested if needed.gaps(part) != [part]]
        self._queue.finish([self._requested[part] for part in parts])
        for part in parts:
            del self._requested[part]

    def _fetch_part(self, span: Span) -> None:
        etag = self.sparse.etag(self._origin.name)
        part = self._client.span(self._url, span, total=self.size, etag=etag, meter=self._meter)
        # Recorded at the first part, since a later answer may ignore Range.
        self._origin.honours_range = True
        # Several first answers may arrive together, of different versions.
        if part.etag is not None and not self.sparse.check_etag(self._origin.name, part.etag):
            raise ChangedFile(f"{display_url(self._url)}: the file was replaced meanwhile")
        self.sparse.write(span.start, part.data)


def _missing(known: SpanSet, spans: Iterable[Span]) -> list[Span]:
    """Return what to request for `spans`, with small gaps, but without known bytes."""
    needed = coalesce((gap for span in spans for gap in known.gaps(span)), GAP)
    return [gap for span in needed for gap in known.gaps(span)]


def _split_into_parts(span: Span, count: int) -> list[Span]:
    """Split a span into `count` nearly equal parts: more if they are large, fewer if small."""
    return split(span, max(count, -(-span.length // MAX_PART_BYTES)), MIN_PART_BYTES)


Connect = Callable[[Origin], RemoteFile]
"""Returns a slide's file at an origin."""


class Range:
    """The source `range`: the level for the target, from the first origin that gives it."""

    name = "range"

    def __init__(
        self,
        client: HttpClient,
        origins: Origins,
        work: Workspace,
        is_urgent: Callable[[], bool],
    ) -> None:
        """is_urgent: whether cores are idle, so that bytes are worth more requests."""
        self._client = client
        self._origins = origins
        self._work = work
        self._is_urgent = is_urgent

    @contextmanager
    def open(self, slide: Slide, target: Target, meter: Meter) -> Iterator[LevelReader]:
        with (
            self._work.lease(slide.file_id, self.name) as lease,
            self._open_sparse(slide, lease.folder, meter) as (sparse, connect),
        ):
            svs = self._try_origins(sparse, connect, lambda file: _fetch_level(file, target, lease))
            # Imported late: slides are under way while large libraries load.
            from tcgamirror.imaging.level_reader import open_level

            fetch = self._finer_level_fetcher(sparse, connect)
            with open_level(svs, target, lease.folder, fetch=fetch) as reader:
                yield reader

    def read_header(self, slide: Slide, meter: Meter) -> SlideHeader:
        """Return the slide's size and resolution, by a few small requests.

        Raises NetworkError if no origin gives the header, SlideError if it is not a slide's.
        """
        with (
            self._work.lease(slide.file_id, self.name, keep=True) as lease,
            self._open_sparse(slide, lease.folder, meter) as (sparse, connect),
        ):
            return self._try_origins(sparse, connect, read_slide_header)

    @contextmanager
    def _open_sparse(
        self, slide: Slide, folder: Path, meter: Meter
    ) -> Iterator[tuple[SparseFile, Connect]]:
        """Open what an earlier run fetched. Request the size if the listing lacks it."""

        def read_size(origin: Origin) -> int:
            part = self._client.span(origin.url(slide), HEADER, total=None, meter=meter)
            origin.honours_range = True
            return part.total

        size = slide.size
        if size is None:
            size = self._origins.first_success(read_size, ranged=True)
        identity = f"{slide.file_id} {slide.md5}"
        with SparseFile.open(folder / "slide.part", identity=identity, size=size) as sparse:
            yield sparse, partial(RemoteFile, self._client, slide, sparse, meter, self._is_urgent)

    def _finer_level_fetcher(self, sparse: SparseFile, connect: Connect) -> Fetch:
        """Return a function that fetches parts of finer levels from the first origin with them.

        Once another source would move fewer bytes, it raises UnsupportedSlide before any
        request. The lease's reservation does not include these bytes.
        """
        limit = min(MAX_PATCH_BYTES, max(sparse.size // PATCH_SHARE, MIN_PATCH_LIMIT))
        total = 0

        def fetch(spans: Sequence[Span]) -> None:
            nonlocal total
            total += sum(span.length for span in _missing(sparse.available, spans))
            if total > limit:
                raise UnsupportedSlide(
                    f"patching the level's tiles takes {total:,} bytes of finer levels, "
                    f"more than {limit:,}"
                )

            def fetch_from(origin: Origin) -> ChangedFile | None:
                try:
                    with connect(origin) as file:
                        file.fetch(spans)
                except ChangedFile as error:
                    # Raised below, as no other origin may complete the old file's bytes.
                    return error
                return None

            change = self._origins.first_success(fetch_from, ranged=True)
            if change is not None:
                sparse.clear()
                raise change

        return fetch

    def _try_origins(
        self, sparse: SparseFile, connect: Connect, fetch: Callable[[RemoteFile], Result]
    ) -> Result:
        """Return what `fetch` returns for the first origin where it succeeds.

        If the file was replaced since the last fetch, `fetch` starts again, once.
        """

        def fetch_once(origin: Origin) -> Result:
            try:
                with connect(origin) as file:
                    return fetch(file)
            except ChangedFile:
                # Neither another try nor the next origin must continue these bytes.
                sparse.clear()
                raise

        def fetch_from(origin: Origin) -> Result:
            try:
                return fetch_once(origin)
            except ChangedFile:
                return fetch_once(origin)

        return self._origins.first_success(fetch_from, ranged=True)


def _fetch_level(file: RemoteFile, target: Target, lease: Lease) -> Svs:
    """Fetch all bytes that the level for `target` needs. Return the slide, which reads them."""
    slide = Svs(file, _read_directories(file, target, lease))
    level = target.rendition(slide.pyramid).level
    arrays = slide.array_spans(level)
    if any(map(file.sparse.missing, arrays)):
        data = slide.data_before(level)
        if data is not None and lease.may_guess:
            file.begin([Span(data.start, min(data.stop, data.start + MAX_SPECULATIVE_BYTES))])
        file.fetch(arrays)
    table = slide.tile_table(level)
    tile_bytes = sum(run.length for run in table.runs(gap=0))
    needed = [slide.counts_span(0), *table.runs(GAP)]
    if slide.levels[level].may_need_openslide:
        # OpenSlide then reads a copy of the level.
        lease.reserve(2 * tile_bytes)
        needed += slide.tag_spans(level)
    else:
        lease.reserve(tile_bytes)
    file.fetch(needed)
    return Svs(file.sparse, slide.directories)


def _read_directories(file: RemoteFile, target: Target, lease: Lease) -> list[Directory]:
    """Return the chain of directories. Each round trip gives one from either end.

    Meanwhile fetch the likely tiles, and the base's tile counts, which tell the missing tiles.
    """
    guess = _Guess(file, target)
    chain: list[Directory] = []
    for directory in Tiff(file).directories():
        chain.append(directory)
        guess.advance(directory.next)
        if directory is chain[0]:
            file.begin([Svs(file, chain).counts_span(0)])
        if lease.may_guess:
            guess.begin_tiles(chain[0])
    return chain


class _Guess:
    """The directories that seem to end a slide's chain, and the tiles that they locate.

    Writers put each image's directory after its data, so the directory before ends where that
    data begins. Only the chain decides: a wrong guess costs no more than the bytes fetched for it.
    """

    def __init__(self, file: RemoteFile, target: Target) -> None:
        """Fetch the file's beginning and end."""
        self._file = file
        self._target = target
        self._found: list[Directory] = []
        self._tiles_begun = False
        self._window: Span | None = Span(max(0, file.size - TAIL), file.size)
        file.fetch([Span(0, min(file.size, LOOK_AHEAD)), self._window])
        self.advance(Tiff(file).first)

    def advance(self, following: int) -> None:
        """Look for one more directory, and begin to fetch the likely place of the one before.

        Args:
            following: Offset of the chain's next directory, where the guess ends.
        """
        if self._window is None:
            return
        self._file.fetch([self._window])
        window, self._window = self._window, None
        with suppress(SlideError):
            tiff = Tiff(self._file.sparse)
            directory = tiff.guess_directory(window, self._found[0].offset if self._found else 0)
            if directory is not None:
                self._found.insert(0, directory)
                start, counts = directory.data_start, directory.entries.get(Tag.TILE_COUNTS)
                # The next finer level has at least four times as many tiles, in two arrays.
                finer = 0 if counts is None else 2 * 4 * counts.span.length
                if following < start - WINDOW < directory.offset and finer < WINDOW:
                    self._window = Span(start - WINDOW, start)
        if self._window is not None:
            self._file.begin([self._window])

    def begin_tiles(self, first: Directory) -> None:
        """Begin to fetch the tiles of the level for the target, once it is found.

        They are fetched after the arrays that locate them. If they have more than
        MAX_SPECULATIVE_BYTES, they wait for the chain.
        """
        target, sparse = self._target, self._file.sparse
        of_scale = target.level is None and (target.mpp or target.resample is not Resample.NATIVE)
        if self._tiles_begun or not of_scale:
            return  # Only the whole chain tells a numbered level, or the finest that fits.
        try:
            guess = Svs(sparse, [first, *self._found])
            level = target.rendition(guess.pyramid).level
            if not level:
                return
            spans = guess.array_spans(level)
            if not any(map(sparse.missing, spans)):
                spans = list(guess.tile_table(level).runs(GAP))
                self._tiles_begun = True
        except SlideError:
            return
        # A wrong guess may name any bytes; it must neither fail the slide nor cost much.
        within = all(span.stop <= sparse.size for span in spans)
        if within and sum(span.length for span in spans) <= MAX_SPECULATIVE_BYTES:
            self._file.begin(spans)
