"""Files that survive a kill, tried with real processes, full disks and kills."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from tcgamirror.model.errors import Damaged, DiskFull, Locked, TcgaMirrorError, UsageError
from tcgamirror.system import files, lock, mounts
from tcgamirror.system.files import (
    atomic_write,
    disk_errors,
    file_digest,
    free_bytes,
    sync_disk,
    sync_paths,
)
from tcgamirror.system.lock import Lock

OTHER_ERROR = OSError(errno.EBADF, "bad file descriptor")


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "image.png"
    for content in (b"old", b"new"):
        with atomic_write(path) as file:
            file.write(content)
            assert path.exists() is (content == b"new")
            assert entries(path.parent)[0] == ".image.png.part"
        assert path.read_bytes() == content
        assert entries(path.parent) == ["image.png"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OTHER_ERROR])
def test_a_failure_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as raised, atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert raised.value is error
    assert path.read_bytes() == b"old"
    assert entries(tmp_path) == ["image.png"]


@pytest.mark.parametrize("there", ["file", "pipe", "link"])
def test_what_lies_where_it_is_written_first_is_not_written_to(tmp_path: Path, there: str) -> None:
    part, other = tmp_path / ".image.png.part", tmp_path / "other"
    other.write_bytes(b"mine")
    if there == "pipe":
        os.mkfifo(part)
    elif there == "link":
        part.symlink_to(other)
    else:
        part.write_bytes(b"left by a killed run, and longer")
    with atomic_write(tmp_path / "image.png") as file:
        file.write(b"new")
    assert (tmp_path / "image.png").read_bytes() == b"new"
    assert entries(tmp_path) == ["image.png", "other"] and other.read_bytes() == b"mine"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "file.write(bytes(8192))"])
def test_a_kill_or_a_full_disk_leaves_the_old_file(tmp_path: Path, end: str) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"old")
    code = f"""
        import os, pathlib, resource, signal, sys
        from tcgamirror.model.errors import DiskFull
        from tcgamirror.system.files import atomic_write
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with atomic_write(pathlib.Path(sys.argv[1])) as file:
                file.write(b"half")
                file.flush()
                {end}
        except DiskFull as error:
            print(error)
    """
    result = python(code, path)
    if "kill" in end:
        assert result.returncode == -signal.SIGKILL
    else:
        assert f"{path}: the file system" in result.stdout, result.stderr
        assert entries(tmp_path) == ["image.png"]
    assert path.read_bytes() == b"old"
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert entries(tmp_path) == ["image.png"]


def test_writers_of_one_file_may_have_equal_process_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with atomic_write(path, shared=True) as slow:
        slow.write(b"slow")
        with atomic_write(path, shared=True) as quick:
            quick.write(b"quick")
        assert path.read_bytes() == b"quick"
    assert path.read_bytes() == b"slow"
    assert entries(tmp_path) == ["table.csv"]


def test_partial_files_of_killed_writers_are_removed_later(tmp_path: Path) -> None:
    path = tmp_path / "table[1].csv"
    kept = [".table[1].csv.0123abcd.part", ".table[1].csv.part", ".table[1].csv.mine.part"]
    for name in (*kept, ".table[1].csv.89abcdef.part"):
        (tmp_path / name).touch()
        if name != kept[0]:
            os.utime(tmp_path / name, (0, 0))
    with atomic_write(path, shared=True) as file:
        file.write(b"new")
    assert entries(tmp_path) == sorted([*kept, path.name])


@pytest.mark.parametrize(
    ("error", "words", "numbers"),
    [
        (DiskFull, r"no room to write {}/x \(.*bytes free\)", ("ENOSPC", "EDQUOT")),
        (DiskFull, "{}/x: the file system, .* no larger file. Use another", ("EFBIG",)),
        (UsageError, "refuses access to {}/x .*: change its permissions", ("EACCES", "EPERM")),
        (UsageError, "refuses access to {}/x .*: mount it writable", ("EROFS",)),
        (UsageError, "{}/x .*mount the disk", ("ENOTDIR", "EEXIST", "ENOENT", "ELOOP", "EBUSY")),
        (UsageError, "{}/x: Too many open files. Allow more by ulimit -n", ("EMFILE",)),
        (UsageError, "{}/x: .* in system. Close other programs", ("ENFILE",)),
        (Damaged, "the disk fails at {}/x", ("EIO", "ESTALE")),
    ],
)
def test_an_error_of_the_system_is_named_by_kind_and_path(
    tmp_path: Path, error: type[TcgaMirrorError], words: str, numbers: tuple[str, ...]
) -> None:
    match = words.format(tmp_path)
    for number in (getattr(errno, name) for name in numbers):
        # The system names no file, or only its name, if it was opened from its directory.
        for file in (None, "x"):
            with pytest.raises(error, match=match), disk_errors(tmp_path / "x"):
                raise OSError(number, os.strerror(number), file)


def test_digests_are_those_everybody_knows_and_tell_how_far_they_are(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_digest(path, "md5") == "900150983cd24fb0d6963f7d28e17f72"
    assert file_digest(path, "sha256").startswith("ba7816bf8f01cfea414140de5dae2223")
    path.write_bytes(bytes(2_500_000))
    sizes: list[int] = []
    file_digest(path, "md5", sizes.append)
    assert sum(sizes) == 2_500_000 and len(sizes) > 1


@pytest.mark.parametrize("local", [mounts.LOCAL, frozenset()])
def test_paths_are_forced_to_any_disk_or_it_is_told_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: frozenset[str]
) -> None:
    monkeypatch.setattr(mounts, "LOCAL", local)
    file = tmp_path / "file"
    file.touch()
    sync_paths([f"{tmp_path}/", str(file)])
    with pytest.raises(FileNotFoundError, match="gone"):
        sync_paths([str(file), f"{tmp_path}/gone/"])


@pytest.mark.parametrize(
    ("release", "at_once"),
    [("4.18.0-553.el8_10.x86_64", False), ("5.8.0", True), ("6.18-rc1", True), ("Linux", False)],
)
def test_a_disk_is_flushed_at_once_only_where_failures_are_reported(
    release: str, at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    monkeypatch.setattr(mounts, "is_local", lambda _: True)
    monkeypatch.setattr(files, "sync_disk", flushed.append)
    sync_paths([f"{tmp_path}/"])
    assert bool(flushed) is at_once


def test_a_linked_folder_is_forced_to_the_disk_that_it_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("only one disk here")
    forced: list[int] = []
    monkeypatch.setattr(mounts, "is_local", lambda _: True)
    monkeypatch.setattr(files, "sync_disk", lambda path: forced.append(path.stat().st_dev))
    link = tmp_path / "link"
    link.symlink_to(other)
    sync_paths([f"{tmp_path}/", f"{link}/"])
    assert forced == [tmp_path.stat().st_dev, other.stat().st_dev]


def test_a_disk_is_waited_for_or_it_is_told_why_not(tmp_path: Path) -> None:
    sync_disk(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone"):
        sync_disk(tmp_path / "gone")
    # Of what is not there yet, the nearest folder's.
    assert free_bytes(tmp_path / "not" / "yet") > 0


# The lock ---------------------------------------------------------------------

HOLD = """
    import pathlib, sys, time
    from tcgamirror.system.lock import Lock
    with Lock(pathlib.Path(sys.argv[1]), "update"):
        print("held", flush=True)
        time.sleep(20)
"""


def test_a_lock_is_free_again_when_its_run_ends_or_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        with Lock(path, "update"), pytest.raises(Locked), Lock(path, "update"):
            pass
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        process.kill()
        process.wait()
    assert path.stat().st_size > 0
    with Lock(path, "update"):
        pass


def test_children_do_not_hold_on_to_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = """
        import os, pathlib, subprocess, sys, time
        from tcgamirror.system.lock import Lock
        Lock(pathlib.Path(sys.argv[1]), "update").__enter__()
        sleeper = [sys.executable, "-c", "import time; time.sleep(20)"]
        child = subprocess.Popen(sleeper, close_fds=False, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        forked = os.fork()
        if not forked:
            os.close(1), os.close(2)
            time.sleep(20)
            os._exit(0)
        print(child.pid, forked, flush=True)
        os._exit(9)
    """
    children = [int(word) for word in python(code, path).stdout.split()]
    try:
        assert len(children) == 2
        for child in children:
            os.kill(child, 0)
        with Lock(path, "update"):
            pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_file_that_tells_nonsense_is_still_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"\x00\xff[")
    with Lock(path, "update"):
        path.write_bytes(b"[]")
        with pytest.raises(Locked, match=r"\(unknown\)"), Lock(path, "update"):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_flock_is_used_with_posix_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with Lock(tmp_path / "lock", "update"):
        assert (tmp_path / "lock").read_bytes().startswith(b'{"command": "update"')


@pytest.mark.parametrize(("times", "had"), [(2, True), (99, False)])
def test_a_lock_whose_file_goes_while_it_is_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, had: bool
) -> None:
    path = tmp_path / "folder" / "lock"
    take, left = lock._try_lock, [times]

    def removed(path: Path, handle: int, *, shared: bool = False) -> bool:
        if left[0]:
            left[0] -= 1
            path.unlink()
            path.parent.rmdir()
        return take(path, handle, shared=shared)

    monkeypatch.setattr(lock, "_try_lock", removed)
    if had:
        with Lock(path, "export"), pytest.raises(Locked), Lock(path, "import"):
            pass
    else:
        with pytest.raises(Locked, match="again and again"), Lock(path, "export"):
            pass


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_plain_file_is_no_lock(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        path.mkdir()
    with pytest.raises(UsageError, match=str(path)), Lock(path, "update"):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ValueError()])
def test_an_error_raised_while_a_class_is_made_keeps_its_exit_code(error: BaseException) -> None:
    class Attribute:
        def __set_name__(self, *_: object) -> None:
            raise error

    with pytest.raises(BaseException) as caught:
        type("Class", (), {"attribute": Attribute()})
    assert files.exit_code_of(caught.value) == files.exit_code_of(error)
