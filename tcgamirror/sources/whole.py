"""The source `whole`: the slide's file is downloaded, checked, read and removed.

The resolution is exact, but a slide takes about a gigabyte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tcgamirror.imaging.svs import Svs
from tcgamirror.model.byteranges import Span
from tcgamirror.model.errors import BadSlide, ChecksumMismatch
from tcgamirror.model.slide import Slide, Target
from tcgamirror.net.client import HttpClient
from tcgamirror.net.throttle import Meter
from tcgamirror.sources.origins import Origins
from tcgamirror.sources.workspace import Workspace
from tcgamirror.system.files import disk_errors, file_digest

if TYPE_CHECKING:
    from tcgamirror.imaging.level_reader import LevelReader

USUAL_BYTES = 1_000_000_000
"""Bytes reserved for a slide whose size is not listed."""


class LocalFile:
    """A local file, readable at any offset by any number of threads. size: bytes.

    Raises Damaged where the disk fails, as `disk_errors` does.
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
        """Return the bytes of `span`. Raises BadSlide if the file ends before."""
        with disk_errors(self._path):
            data = os.pread(self._handle, span.length, span.start)
        if len(data) != span.length:
            raise BadSlide(f"the file ends within bytes {span}")
        return data


class Whole:
    """Downloads the file from the first origin that has it, and checks its size and md5."""

    name = "whole"

    def __init__(self, client: HttpClient, origins: Origins, work: Workspace) -> None:
        self._client = client
        self._origins = origins
        self._work = work

    @contextmanager
    def open(self, slide: Slide, target: Target, meter: Meter) -> Iterator[LevelReader]:
        with self._work.lease(slide.file_id, self.name) as lease:
            lease.reserve(slide.size or USUAL_BYTES)
            # Named by its md5, so that another version's bytes are never continued.
            path = lease.folder / f"{slide.md5 or 'slide'}.svs"
            if slide.md5 is None:
                path.unlink(missing_ok=True)
            self._origins.first_success(
                lambda origin: self._download(origin.url(slide), slide, path, meter), ranged=False
            )
            # Imported late: slides are under way while large libraries load.
            from tcgamirror.imaging.level_reader import open_level

            with (
                LocalFile(path) as file,
                open_level(Svs(file), target, lease.folder, slide_file=path) as reader,
            ):
                yield reader

    def _download(self, url: str, slide: Slide, path: Path, meter: Meter) -> None:
        """Resume the download and check it; if it is wrong, download once more from the start."""
        with disk_errors(path):
            is_resumed = path.exists() and path.stat().st_size > 0
        for _ in range(2 if is_resumed else 1):
            with disk_errors(path), path.open("a+b") as file:
                self._client.download(url, file, size=slide.size, meter=meter)
            with disk_errors(path):
                if slide.md5 is None or file_digest(path, "md5") == slide.md5:
                    return
                path.unlink()
        raise ChecksumMismatch("the file's md5 is not the listed one")
