"""The partial file of one image, on a disk that ends within it."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
from pathlib import Path
from typing import BinaryIO

import pytest

from tcgamirror.catalogue.images import Image
from tcgamirror.model.geometry import Size
from tcgamirror.transfer.fetching import fetch_to_partial

LIMIT = 100_000


class Memory:
    """A source of one image."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        digest = hashlib.sha256(data).hexdigest()
        self.image = Image("a.svs", "images/P/a.png", len(data), digest, Size(1, 1), None, True)

    def fetch(self, image: Image, file: BinaryIO) -> None:
        file.write(self.data[file.seek(0, os.SEEK_END) : image.bytes])


@pytest.mark.parametrize("size", [LIMIT + 1, 2 << 20])
def test_a_disk_that_ends_within_an_image_fails_it(tmp_path: Path, size: int) -> None:
    source, part = Memory(bytes(size)), tmp_path / "part"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        with pytest.raises(OSError, match=str(errno.EFBIG)):
            fetch_to_partial(source, source.image, str(part), lambda *_: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fetch_to_partial(source, source.image, str(part), lambda *_: None)
    assert part.read_bytes() == source.data


@pytest.mark.parametrize("size", [10, 2_000_000])
@pytest.mark.parametrize("left", ["", "x", "0" * 10, "0" * 9 + "x", "0" * 11])
def test_what_a_killed_run_left_does_not_stay_in_the_image(
    tmp_path: Path, left: str, size: int
) -> None:
    """left: a character for each tenth of the image."""
    source, part = Memory(b"0" * size), tmp_path / "part"
    part.write_bytes(b"".join(each.encode() * (size // 10) for each in left))
    fetch_to_partial(source, source.image, str(part), lambda *_: None)
    assert part.read_bytes() == source.data
