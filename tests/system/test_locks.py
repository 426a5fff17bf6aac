"""A file system without locks: the kernel refuses them to the program, also to the executable."""

from __future__ import annotations

import errno
import itertools
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.command import Result, run, succeeded
from tests.support.mirrors import contents, says

USAGE_ERROR = 2

LAUNCHER = r"""
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IS(value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1), REFUSE
#define REFUSE BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | refusal)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define LOAD(what) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, what))

int main(int count, char **words) {
    unsigned refusal = atoi(words[1]);
    struct sock_filter filter[] = {
        LOAD(nr), IS(__NR_flock),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_fcntl, 1, 0), ALLOW,
        LOAD(args[1]), IS(F_GETLK), IS(F_SETLK), IS(F_SETLKW), IS(36), IS(37), IS(38), ALLOW,
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return 99;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 99;
    execvp(words[2], words + 2);
    return 98;
}
"""
"""Runs a command for which the kernel refuses locks; 36 to 38 are those of open files."""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None or not sys.platform.startswith("linux"):
        pytest.skip("no gcc for Linux, to make a launcher that has locks refused")
    folder = tmp_path_factory.mktemp("locks")
    source, launcher = folder / "launcher.c", folder / "launcher"
    source.write_text(LAUNCHER)
    subprocess.run(["gcc", "-o", launcher, source], check=True, timeout=60)
    if subprocess.run([launcher, "37", "true"], check=False).returncode:
        pytest.skip("this system lets no filter of system calls be set")
    return launcher


@pytest.fixture
def without(launcher: Path) -> Sequence[str]:
    """Words before the program that have the system refuse every lock."""
    return (str(launcher), str(errno.ENOLCK))


@pytest.fixture(scope="module")
def archive(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "e.tar"
    succeeded("--mirror", mirror, "export", path)
    return path


def refused(result: Result, place: Path) -> None:
    says(result, USAGE_ERROR, f"{place}: files cannot be locked", "-o flock", "another file system")


@pytest.mark.parametrize(
    ("command", "refusal"),
    list(
        zip(
            (
                *("update", "refresh", "sample", "fetch", "fetch --shard 1/2", "verify --repair"),
                *("rebuild", "gallery", "status", "show x", "query SELECT+1", "export -", "lock x"),
            ),
            itertools.cycle((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)),
        )
    ),
)
def test_no_command_works_without_locks(
    mirror: Path, launcher: Path, command: str, refusal: int
) -> None:
    before = contents(mirror)
    words = [word.replace("+", " ") for word in command.split()]
    by = (str(launcher), str(refusal))
    refused(run("--mirror", mirror, *words, by=by), mirror)
    assert contents(mirror) == before


def test_nothing_is_left_of_a_mirror_that_cannot_be_locked(
    mirror: Path, archive: Path, tmp_path: Path, without: Sequence[str]
) -> None:
    new = tmp_path / "above" / "m"
    for command in (
        f"--mirror {new} init --mpp 4",
        f"--mirror {new} import {archive}",
        f"sync {mirror} {new}",
    ):
        refused(run(*command.split(), by=without), tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_doctor_tries_a_lock(mirror: Path, without: Sequence[str]) -> None:
    message = run("--mirror", mirror, "doctor", "--json", by=without).out
    assert "without locks" in message and "-o flock" in message
    assert "with locks" in run("--mirror", mirror, "doctor", "--json").out


def test_serve_says_so(mirror: Path, without: Sequence[str]) -> None:
    refused(run("--mirror", mirror, "serve", "--port", "0", by=without), mirror)
