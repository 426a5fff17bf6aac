"""The directories and one level's tiles, by HTTP Range: exact, for megabytes.

What has come of a slide lies in `work/` at its own place in a sparse file, so
that nothing is fetched twice, in this run or the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tcgamirror.decode import is_plain_jpeg
from tcgamirror.errors import (
    ChangedFile,
    NetworkError,
    RangeIgnored,
    SlideError,
    UnusualSlide,
)
from tcgamirror.files import replacing
from tcgamirror.model import Slide, Target
from tcgamirror.origins import Origin, Origins
from tcgamirror.partial import PartialFile
from tcgamirror.sources import Opened
from tcgamirror.sources.reading import clear, opened, work_folder
from tcgamirror.spans import Span, coalesce, split
from tcgamirror.svs import Base, Svs, read_base
from tcgamirror.transport import Meter, Transport

LOOK_AHEAD = 4096
"""Bytes read at least: a directory with its description, but not its tile arrays."""
GAP = 4096
"""Bytes not asked for that cost less than one more request."""
LEAST_PART = 256 << 10
MOST_PART = 4 << 20
"""Bytes of one request for tile data; what is larger is held in memory too often at once."""
AT_ONCE = 4
"""Requests for one slide's tile data at the same time."""


Done = TypeVar("Done")


class RemoteFile:
    """A slide at one origin; what is read of it is kept in `partial` and never fetched again.

    Raises ChangedFile if the origin's file is not the one `partial` began with.
    """

    def __init__(
        self, transport: Transport, url: str, partial: PartialFile, tag: Path, meter: Meter
    ) -> None:
        """tag: the file that keeps this origin's ETag from one run to the next."""
        self.size = partial.size
        self._transport = transport
        self._url = url
        self._partial = partial
        self._tag = tag
        self._meter = meter
        self._etag = tag.read_text() if tag.exists() else None

    def read(self, span: Span) -> bytes:
        """The bytes of `span`, fetched with some more behind them if they are not had."""
        if not self._partial.had.holds(span):
            ahead = max(span.stop, min(self.size, span.start + LOOK_AHEAD))
            self.fetch([Span(span.start, ahead)])
        return self._partial.read(span)

    def fetch(self, spans: Iterable[Span]) -> None:
        """Has all of `spans`, in as few requests as is cheap, several at a time."""
        had = self._partial.had
        missing = [gap for wanted in coalesce(spans, GAP) for gap in had.gaps(wanted)]
        parts = [part for span in missing for part in _parts(span)]
        if self._etag is None and parts:
            self._fetch_part(parts.pop(0))
        with ThreadPoolExecutor(AT_ONCE, "range") as pool:
            waiting = [pool.submit(self._fetch_part, part) for part in parts]
            try:
                for fetched in waiting:
                    fetched.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _fetch_part(self, span: Span) -> None:
        part = self._transport.span(
            self._url, span, total=self.size, etag=self._etag, meter=self._meter
        )
        if self._etag is None and part.etag is not None:
            self._etag = part.etag
            with replacing(self._tag) as file:
                file.write(part.etag.encode())
        self._partial.write(span.start, part.data)


def _parts(span: Span) -> list[Span]:
    """Equal parts: as many as are fetched at once, or more where those would be large."""
    most = max(AT_ONCE, -(-span.length // MOST_PART))
    return split(span, most, LEAST_PART)


class Range:
    """Gets the level at or above the target from the first origin that honours Range."""

    name = "range"

    def __init__(self, transport: Transport, origins: Origins, work: Path) -> None:
        self._transport = transport
        self._origins = origins
        self._work = work

    @contextmanager
    def open(self, slide: Slide, target: Target, meter: Meter) -> Iterator[Opened]:
        def fetch(file: RemoteFile) -> None:
            svs = Svs(file)
            level = target.rendition(svs.pyramid).level
            file.fetch(svs.array_spans(level))
            file.fetch(svs.tile_table(level).spans())
            if not is_plain_jpeg(svs.levels[level]):
                for _ in svs.values(level):
                    pass  # read, so that they are had when the level is written out

        with work_folder(self._work, slide.file_id, self.name) as folder:
            self._from_origins(slide, folder, meter, fetch)
            with (
                self._partial(slide, folder) as partial,
                opened(partial, target, folder) as ready,
            ):
                yield ready

    def read_header(self, slide: Slide, meter: Meter) -> Base | None:
        """The slide's size and resolution, for a few small requests; None if nobody gives it."""
        folder = self._work / slide.file_id / self.name
        try:
            return self._from_origins(slide, folder, meter, read_base)
        except (NetworkError, SlideError):
            return None

    def _partial(self, slide: Slide, folder: Path) -> PartialFile:
        if slide.size is None:
            raise UnusualSlide("the listing does not tell its size")
        identity = f"{slide.file_id} {slide.md5}"
        return PartialFile.open(folder / "slide.part", identity=identity, size=slide.size)

    def _from_origins(
        self, slide: Slide, folder: Path, meter: Meter, work: Callable[[RemoteFile], Done]
    ) -> Done:
        """What `work` makes of the slide at the first origin where it goes well."""
        failure: NetworkError = RangeIgnored("no origin gives parts of files")
        for origin in self._origins.to_try(ranged=True):
            try:
                try:
                    done = self._at(origin, slide, folder, meter, work)
                except ChangedFile:
                    clear(folder)
                    done = self._at(origin, slide, folder, meter, work)
            except NetworkError as error:
                self._origins.failed(origin, error)
                failure = error
            else:
                self._origins.worked(origin, ranged=True)
                return done
        raise failure

    def _at(
        self,
        origin: Origin,
        slide: Slide,
        folder: Path,
        meter: Meter,
        work: Callable[[RemoteFile], Done],
    ) -> Done:
        tag = folder / f"{origin.name}.etag"
        with self._partial(slide, folder) as partial:
            return work(RemoteFile(self._transport, origin.url(slide), partial, tag, meter))
