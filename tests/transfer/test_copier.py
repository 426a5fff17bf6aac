"""What an export reads and writes: whole, or not at all, and nothing is left open."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from tcgamirror.imaging.verified import sign
from tcgamirror.model.errors import Damaged, UsageError
from tcgamirror.system.files import PIECE
from tcgamirror.transfer.copier import WHOLE, Copier, loaded, writing_early

SIZES = (0, 1, PIECE, PIECE + 1, WHOLE + 1)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_has_the_bytes_and_the_time(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(data)
    os.utime(source, ns=(5, 1_700_000_000_123_456_789))
    assert Copier().copied_anew(str(source), str(target), sha256(data))
    assert target.read_bytes() == data
    assert target.stat().st_mtime_ns == 1_700_000_000_123_456_789


@pytest.mark.parametrize("size", SIZES)
def test_what_is_known_to_be_right_is_copied_as_it_is(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(data)
    # Under another digest: so it is seen that the bytes are not compared.
    known = sign(source.stat(), sha256(b"other"))
    assert known is not None
    before = open_files()
    assert Copier({known}).copied_anew(str(source), str(target), sha256(b"other"))
    assert target.read_bytes() == data
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns
    os.utime(source)
    assert not Copier({known}).copied_anew(str(source), str(target), sha256(b"other"))
    assert not target.exists() and open_files() == before


@pytest.mark.parametrize("size", SIZES)
def test_what_has_another_digest_is_not_copied(tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(os.urandom(size))
    before = open_files()
    for copy in (Copier().copied, Copier().copied_anew):
        assert not copy(str(source), str(target), sha256(b"other"))
        assert not copy(str(tmp_path), str(target), sha256(b"other"))
        assert not copy(str(tmp_path / "gone"), str(target), sha256(b"other"))
    assert not target.exists()
    assert open_files() == before


def test_a_copy_that_is_right_is_left_alone_and_another_made_anew(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"data")
    for there in (b"data", b"dat", b"other data"):
        target.write_bytes(there)
        os.utime(target, (1, 1))
        assert Copier().copied(str(source), str(target), sha256(b"data"))
        assert target.read_bytes() == b"data"
        assert (target.stat().st_mtime == 1) is (there == b"data")


def test_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"data")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "gone" / "b", Path("/dev/full")):
        for known in ("", str(sign((tmp_path / "a").stat(), sha256(b"data")))):
            with pytest.raises(OSError) as caught:
                Copier({known}).copied_anew(str(tmp_path / "a"), str(target), sha256(b"data"))
            assert caught.value.filename == str(target)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_loaded_is_the_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    before = open_files()
    file = loaded(tmp_path / "a")
    assert file is not None and (file.size, file.sha256) == (size, sha256(data))
    assert b"".join(file.pieces()) == data
    assert open_files() == before


def test_a_large_image_that_reads_otherwise_the_second_time_ends_the_export(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(WHOLE + 1))
    file = loaded(path)
    assert file is not None
    with path.open("r+b") as changed:
        changed.seek(WHOLE // 2)
        changed.write(b"x")
    with pytest.raises(Damaged, match=f"{path} was read twice"):
        list(file.pieces())


def test_nothing_but_a_file_is_loaded_and_nothing_is_left_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = open_files()
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "gone", Path("/dev/zero")):
        assert loaded(path) is None
    assert open_files() == before


def test_early_writing_ends_with_the_block(tmp_path: Path) -> None:
    before = threading.active_count()
    with writing_early(tmp_path):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_disk_that_fails_meanwhile_is_told(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    gone = threading.Event()
    with pytest.raises(UsageError, match="mount the disk"), writing_early(disk):
        disk.rmdir()
        gone.wait(0.5)


def test_the_blocks_own_error_comes_first(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), writing_early(tmp_path / "gone"):
        raise KeyError
    assert threading.active_count() == before
