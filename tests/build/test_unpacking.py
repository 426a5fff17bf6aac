"""The executable's unpacked copy: made once, whole, its owner's alone, whatever happens."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.binary import PROGRAM, launched, needed, privately, starts
from tests.support.mirrors import until

pytestmark = needed

MONTH = 31 * 24 * 3600


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A user's home, removed at the end: each copy has some 80 MB."""
    (tmp_path / "home").mkdir()
    yield tmp_path / "home"
    shutil.rmtree(tmp_path / "home")


@pytest.fixture
def cache(home: Path) -> Path:
    """Where the copies are, with one in it."""
    assert starts(launched("--version", env={"HOME": str(home)}))
    return home / ".cache" / "tcgamirror"


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.name != "lock"]


def test_one_copy_is_made_and_used_again(home: Path, cache: Path) -> None:
    (copy,) = copies(cache)
    assert cache.stat().st_mode & 0o777 == 0o700
    made = (copy / "libc.so.6").stat().st_ino
    assert starts(launched("--version", env={"HOME": str(home)}))
    assert copies(cache) == [copy] and (copy / "libc.so.6").stat().st_ino == made


@pytest.mark.parametrize("has_locks", [True, False])
def test_many_first_runs_at_once_share_one_copy(home: Path, has_locks: bool) -> None:
    if not has_locks:
        (home / ".cache" / "tcgamirror" / "lock").mkdir(0o700, parents=True)
        (home / ".cache" / "tcgamirror").chmod(0o700)
    env = {"HOME": str(home)}
    runs = [
        subprocess.Popen([PROGRAM, "--version"], env=env, stdout=subprocess.PIPE) for _ in range(6)
    ]
    assert [run.wait(120) for run in runs] == [0] * 6
    for run in runs:
        run.communicate()
    assert len(copies(home / ".cache" / "tcgamirror")) == 1


def _cut(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 100)


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _for_others(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("harm", [Path.unlink, _cut, os.utime, _for_others, _linked])
def test_a_harmed_copy_is_made_again(
    home: Path, cache: Path, harm: Callable[[Path], object]
) -> None:
    (copy,) = copies(cache)
    before = (copy / "libm.so.6").stat()
    harm(copy / "libm.so.6")
    assert starts(launched("--version", env={"HOME": str(home)}))
    after = (copy / "libm.so.6").lstat()
    assert (after.st_size, after.st_mode, after.st_mtime) == (
        before.st_size,
        before.st_mode,
        before.st_mtime,
    )
    assert copies(cache) == [copy]


def test_what_a_killed_run_left_is_removed(home: Path) -> None:
    env = {"HOME": str(home)}
    cache = home / ".cache" / "tcgamirror"
    with subprocess.Popen([PROGRAM, "--version"], env=env, stdout=subprocess.DEVNULL) as run:
        until(lambda: list(cache.glob("new-*/*")), pause=0.001)
        run.kill()
    assert list(cache.glob("new-*"))
    assert starts(launched("--version", env=env))
    assert len(copies(cache)) == 1 and not list(cache.glob("new-*"))


def test_old_versions_are_removed_unless_they_run(home: Path, cache: Path) -> None:
    (copy,) = copies(cache)
    old, running, recent = (cache / (letter * 16) for letter in "abc")
    for path in (old, running, recent):
        (path / "folder").mkdir(parents=True)
        os.utime(path, (time.time() - MONTH, time.time() - MONTH))
    os.utime(recent)
    handle = os.open(running, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    (copy / "libc.so.6").unlink()
    assert starts(launched("--version", env={"HOME": str(home)}))
    os.close(handle)
    assert set(copies(cache)) == {copy, running, recent}


# Where no copy may be --------------------------------------------------------------


def test_without_a_home_it_goes_where_temporary_files_go(home: Path) -> None:
    assert starts(launched("--version", env={"TMPDIR": str(home)}))
    assert (home / f"tcgamirror-{os.geteuid()}").is_dir()


@pytest.mark.parametrize("shape", ["a file", "others' writing", "a link"])
def test_a_cache_that_is_not_ours_alone_is_not_used(home: Path, shape: str) -> None:
    cache = home / ".cache" / "tcgamirror"
    cache.parent.mkdir()
    if shape == "a file":
        cache.touch()
    elif shape == "a link":
        cache.symlink_to(home)
    else:
        cache.mkdir()
        cache.chmod(0o777)
    (home / "tmp").mkdir()
    env = {"HOME": str(home), "TMPDIR": str(home / "tmp")}
    assert starts(launched("--version", env=env))
    assert list((home / "tmp").iterdir())
    assert not list(cache.glob("*/libc.so.6"))


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs root")
def test_what_another_user_put_there_is_not_run(home: Path, cache: Path) -> None:
    (home / "tmp").mkdir()
    env = {"HOME": str(home), "TMPDIR": str(home / "tmp")}
    os.chown(home, 12345, 12345)
    assert starts(launched("--version", env=env))
    assert list((home / "tmp").iterdir())
    os.chown(home, 0, 0)
    os.chown(copies(cache)[0] / "libc.so.6", 12345, 12345)
    assert starts(launched("--version", env=env))
    assert (copies(cache)[0] / "libc.so.6").stat().st_uid == 0


def test_a_place_that_bears_no_programs_is_passed_over(home: Path) -> None:
    (home / "tmp").mkdir()
    mounted = privately(f"mount -t tmpfs -o noexec none '{home}/tmp'; exec \"$@\"")
    named = {"TCGAMIRROR_CACHE": str(home / "tmp"), "HOME": str(home)}
    refused = launched("--version", env=named, before=mounted)
    assert refused.code == 2
    assert "noexec" in refused.sentence and "TCGAMIRROR_CACHE" in refused.sentence
    fallback = {"XDG_CACHE_HOME": str(home / "tmp"), "HOME": str(home)}
    assert starts(launched("--version", env=fallback, before=mounted))
    assert len(copies(home / ".cache" / "tcgamirror")) == 1


def test_a_place_that_is_named_need_not_be_there(home: Path) -> None:
    named = {"TCGAMIRROR_CACHE": str(home / "new"), "HOME": str(home)}
    assert starts(launched("--version", env=named))
    assert len(list((home / "new").iterdir())) == 1
    refused = launched("--version", env={**named, "TCGAMIRROR_CACHE": str(home / "no" / "new")})
    assert refused.code == 2 and "TCGAMIRROR_CACHE" in refused.sentence
    odd = home / "one:two"
    refused = launched("--version", env={**named, "TCGAMIRROR_CACHE": str(odd)})
    assert refused.code == 2 and "holds one of : ; $" in refused.sentence
    assert not odd.exists()


def test_a_full_place_is_passed_over_and_left_empty(home: Path) -> None:
    (home / "tmp").mkdir()
    script = f"mount -t tmpfs -o size=20m none '{home}/tmp'; \"$@\" || code=$?; "
    script += f"ls '{home}'/tmp/tcgamirror*; exit $code"
    refused = launched(
        "--version", env={"TCGAMIRROR_CACHE": str(home / "tmp")}, before=privately(script)
    )
    assert refused.code == 6 and refused.out == "lock\n"
    assert "No space left" in refused.sentence and "TCGAMIRROR_CACHE" in refused.sentence


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_damaged_executable_leaves_no_copy(home: Path, share: float) -> None:
    damaged = home / "damaged"
    content = bytearray(PROGRAM.read_bytes())
    content[int(share * len(content))] ^= 1
    damaged.write_bytes(content)
    damaged.chmod(0o755)
    told = launched("--version", env={"TCGAMIRROR_CACHE": str(home)}, program=damaged)
    assert told.code == 2 and "this executable is damaged" in told.sentence
    assert copies(home / f"tcgamirror-{os.geteuid()}") == []


def test_little_memory_suffices(home: Path) -> None:
    little = ["prlimit", "--as=125000000"]
    assert starts(launched("--version", env={"HOME": str(home)}, before=little))
    less = ["prlimit", "--as=60000000"]
    refused = launched("--version", env={"TCGAMIRROR_CACHE": str(home / "new")}, before=less)
    assert refused.code == 6 and "Cannot allocate memory" in refused.sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="to be a user without processes needs root")
def test_it_unpacks_without_threads() -> None:
    alone = ["setpriv", "--reuid", "54321", "--clear-groups", "prlimit", "--nproc=0"]
    # Not below pytest's folder, which is its user's alone.
    with TemporaryDirectory() as folder:
        os.chown(folder, 54321, -1)
        assert starts(launched("--version", env={"TMPDIR": folder}, before=alone))


@pytest.mark.parametrize("name", ["with blanks", "ünï", "a:b", "a;b", "$ORIGIN"])
def test_a_home_may_have_any_name(home: Path, name: str) -> None:
    (home / name).mkdir()
    (home / "tmp").mkdir()
    env = {"HOME": str(home / name), "TMPDIR": str(home / "tmp")}
    assert starts(launched("--version", env=env))
