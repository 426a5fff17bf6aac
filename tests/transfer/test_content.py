"""The files that an export reads: whole, or not at all, and nothing is left open."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tcgamirror.model.errors import Damaged
from tcgamirror.transfer.content import IN_MEMORY_BYTES, read_content


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size", [0, 1, IN_MEMORY_BYTES, 10 * IN_MEMORY_BYTES + 1])
def test_the_content_is_the_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path, digest = tmp_path / "a", hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    before = open_files()
    for expected in (None, digest):
        content = read_content(path, expected)
        assert content is not None and (content.size, content.sha256) == (size, digest)
        assert b"".join(map(bytes, content.pieces("a"))) == data
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe", tmp_path / "gone", Path("/dev/zero")):
        assert read_content(other) is None
    assert read_content(path, "0" * 64) is None
    assert open_files() == before


@pytest.mark.parametrize("change", ["rewritten", "grown", "cut"])
def test_a_large_file_that_changes_after_its_digest_is_not_exported(
    tmp_path: Path, change: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(IN_MEMORY_BYTES + 1))
    os.utime(path, (0, 0))
    content = read_content(path)
    assert content is not None
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END if change == "grown" else os.SEEK_SET)
        file.write(b"x")
        if change == "cut":
            file.truncate()
    with pytest.raises(Damaged, match="a: was changed during the export"):
        list(content.pieces("a"))
