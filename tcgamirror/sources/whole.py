"""The whole file: downloaded, checked, read, deleted. Exact, and dear: a gigabyte a slide."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tcgamirror.imaging.decode import LevelReader
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadSlide, ChecksumMismatch, NetworkError, NotFound
from tcgamirror.model.slide import Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.base import opened
from tcgamirror.sources.origins import Origin, Origins
from tcgamirror.sources.workspace import SpaceCheckedFile, Workspace
from tcgamirror.system.files import disk_errors, file_digest

UNNAMED = "slide"
USUAL_BYTES = 1_000_000_000
"""Of a slide whose size is not listed."""


class LocalFile:
    """A file's bytes at any place; any number of threads may read. size: bytes.

    Raises Damaged where the disk fails, as `files.disk_errors` does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors(path):
            self._handle = os.open(path, os.O_RDONLY)
            self.size = os.fstat(self._handle).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def read(self, span: Span) -> bytes:
        """The bytes of `span`. Raises BadSlide if the file ends before."""
        with disk_errors(self._path):
            data = os.pread(self._handle, span.length, span.start)
        if len(data) != span.length:
            raise BadSlide(f"the file ends within bytes {span}")
        return data


class Whole:
    """Gets the file from the first origin that gives it, and checks its size and md5."""

    name = "whole"

    def __init__(self, client: HttpClient, origins: Origins, work: Workspace) -> None:
        self._client = client
        self._origins = origins
        self._work = work

    @contextmanager
    def open(self, slide: Slide, target: Target, meter: Meter) -> Iterator[LevelReader]:
        with self._work.lease(slide.file_id, self.name) as lease:
            lease.grow(slide.size or USUAL_BYTES)
            # By its md5: another version's bytes are never gone on with.
            path = lease.folder / f"{slide.md5 or UNNAMED}.svs"
            if slide.md5 is None:
                path.unlink(missing_ok=True)
            self._download(slide, path, meter)
            with (
                LocalFile(path) as source,
                opened(source, target, lease.folder, whole=path) as ready,
            ):
                yield ready

    def _download(self, slide: Slide, path: Path, meter: Meter) -> None:
        """Has the listed file at `path`; another file is removed and the next origin asked."""
        failure: NetworkError | ChecksumMismatch = NotFound("no origin is left to ask")
        for origin in self._origins.to_try(ranged=False):
            try:
                self._download_from(origin, slide, path, meter)
            except NetworkError as error:
                self._origins.failed(origin, error)
                if not isinstance(failure, ChecksumMismatch):
                    failure = error
            except ChecksumMismatch as error:
                failure = error
            else:
                self._origins.worked(origin, ranged=False)
                return
        raise failure

    def _download_from(self, origin: Origin, slide: Slide, path: Path, meter: Meter) -> None:
        """Goes on with what is there; if that turns out wrong, begins anew, once."""
        with disk_errors(path):
            begun = path.exists() and path.stat().st_size > 0
        try:
            self._fetch(origin, slide, path, meter)
        except ChecksumMismatch:
            if not begun:
                raise
            self._fetch(origin, slide, path, meter)

    def _fetch(self, origin: Origin, slide: Slide, path: Path, meter: Meter) -> None:
        """Has the file, of the listed md5. Raises ChecksumMismatch, with nothing left there."""
        with disk_errors(path), io.BufferedRandom(SpaceCheckedFile(path, self._work)) as file:
            self._client.download(origin.url(slide), file, size=slide.size, meter=meter)
        with disk_errors(path):
            if slide.md5 is None or file_digest(path, "md5") == slide.md5:
                return
            path.unlink()
        raise ChecksumMismatch("the file's md5 is not the listed one")
