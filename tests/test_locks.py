"""A file system without locks, by a library that takes the place of the system's calls."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.command import Result, run, succeeded
from tests.mirrors import contents, says

WRONG_USE = 2

REFUSING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>

static int refused(void) { errno = atoi(getenv("LOCKS_ANSWER")); return -1; }

int flock(int handle, int operation) { return refused(); }

#define POSIX(name)                                                       \
    int name(int handle, int command, ...) {                              \
        static int (*real)(int, int, ...);                                \
        va_list more;                                                     \
        void *argument;                                                   \
        if (command == F_SETLK || command == F_SETLKW || command == F_GETLK \
            || command == F_OFD_SETLK || command == F_OFD_SETLKW          \
            || command == F_OFD_GETLK)                                    \
            return refused();                                             \
        if (!real) real = dlsym(RTLD_NEXT, #name);                        \
        va_start(more, command);                                          \
        argument = va_arg(more, void *);                                  \
        va_end(more);                                                     \
        return real(handle, command, argument);                           \
    }
POSIX(fcntl)
POSIX(fcntl64)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to make a library of that refuses locks")
    folder = tmp_path_factory.mktemp("locks")
    source, library = folder / "refusing.c", folder / "refusing.so"
    source.write_text(REFUSING)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", "-o", library, source, "-ldl"], check=True, timeout=60
    )
    return library


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def without(request: pytest.FixtureRequest, library: Path) -> Mapping[str, str]:
    """The environment in which the system refuses every lock."""
    return {"LD_PRELOAD": str(library), "LOCKS_ANSWER": str(request.param)}


@pytest.fixture(scope="module")
def archive(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "e.tar"
    succeeded("--mirror", mirror, "export", path)
    return path


def refused(result: Result, place: Path) -> None:
    says(result, WRONG_USE, f"{place}: files cannot be locked", "-o flock", "another file system")


@pytest.mark.parametrize(
    "command",
    (
        *("update", "refresh", "sample", "fetch", "verify --repair", "rebuild", "gallery"),
        *("status", "show x", "query SELECT+1", "export -", "lock x"),
    ),
)
def test_no_command_works_without_locks(
    mirror: Path, without: Mapping[str, str], command: str
) -> None:
    before = contents(mirror)
    words = [word.replace("+", " ") for word in command.split()]
    refused(run("--mirror", mirror, *words, env=without, timeout=20), mirror)
    assert contents(mirror) == before


def test_nothing_is_left_of_a_mirror_that_cannot_be_locked(
    mirror: Path, archive: Path, tmp_path: Path, without: Mapping[str, str]
) -> None:
    new = tmp_path / "above" / "m"
    for command in (
        f"--mirror {new} init --mpp 4",
        f"--mirror {new} import {archive}",
        f"sync {mirror} {new}",
    ):
        refused(run(*command.split(), env=without, timeout=20), tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_doctor_tries_a_lock(mirror: Path, without: Mapping[str, str]) -> None:
    told = run("--mirror", mirror, "doctor", "--json", env=without).out
    assert "without locks" in told and "-o flock" in told
    assert "with locks" in run("--mirror", mirror, "doctor", "--json").out


def test_serve_says_so(mirror: Path, without: Mapping[str, str]) -> None:
    refused(run("--mirror", mirror, "serve", "--port", "0", env=without, timeout=20), mirror)
