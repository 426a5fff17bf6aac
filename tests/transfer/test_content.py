"""The files that an export reads: whole, or not at all, and nothing is left open."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tcgamirror.model.errors import Damaged
from tcgamirror.system.files import PIECE
from tcgamirror.transfer.content import IN_MEMORY_BYTES, read_content

SIZES = (0, 1, PIECE, PIECE + 1, IN_MEMORY_BYTES + 1)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size", SIZES)
def test_the_content_is_the_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path, digest = tmp_path / "a", hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    before = open_files()
    for expected in (None, digest):
        content = read_content(path, expected)
        assert content is not None and (content.size, content.sha256) == (size, digest)
        assert b"".join(content.pieces()) == data
    assert read_content(path, "0" * 64) is None
    assert open_files() == before


def test_a_large_file_that_reads_otherwise_the_second_time_ends_the_export(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(IN_MEMORY_BYTES + 1))
    content = read_content(path)
    assert content is not None
    with path.open("r+b") as changed:
        changed.seek(IN_MEMORY_BYTES // 2)
        changed.write(b"x")
    with pytest.raises(Damaged, match=f"{path}: read twice"):
        list(content.pieces())


def test_only_plain_files_are_read_and_nothing_is_left_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = open_files()
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "gone", Path("/dev/zero")):
        assert read_content(path) is None
    assert open_files() == before
