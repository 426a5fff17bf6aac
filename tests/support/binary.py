"""The executable under test, and the kinds of machines it has to run on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.command import BINARY, ROOT, Result, finished

ARM = ROOT / "dist" / "tcgamirror-aarch64"
NATIVE = ROOT / "dist" / "tcgamirror" if platform.machine() == "x86_64" else ARM
PROGRAM = Path(os.environ.get(BINARY) or NATIVE)


def lack(program: Path, target: str = "build") -> str:
    """Why there is nothing to test; empty if there is. target: what makes the program."""
    if not program.is_file():
        return f"there is no dist/{program.name}: make {target} makes it"
    made = program.stat().st_mtime
    source = [*(ROOT / "tcgamirror").rglob("*.py"), *(ROOT / "build").rglob("*.*")]
    if BINARY not in os.environ and any(path.stat().st_mtime > made for path in source):
        return f"dist/{program.name} is older than the source. Run make {target}"
    return ""


needed = pytest.mark.skipif(bool(lack(PROGRAM)), reason=lack(PROGRAM) or "it is there")
"""Marks tests of the executable itself."""

SECONDS = 120
"""For one command, unpacking on a busy machine among it."""


def launched(
    *words: str | Path,
    env: Mapping[str, str],
    program: str | Path = PROGRAM,
    cwd: Path | None = None,
    before: Sequence[str] = (),
) -> Result:
    """Run the executable in exactly that environment. before: what to run it by."""
    return finished([*before, str(program), *map(str, words)], env, cwd, SECONDS)


def starts(result: Result) -> bool:
    return result.code == 0 and result.out.startswith("tcgamirror ") and not result.err


def privately(script: str) -> list[str]:
    """The words that run a shell script whose mounts nobody else sees. Skips where that cannot be.

    The words after them are the script's "$@".
    """
    words = ["unshare", "--mount", "sh", "-ec", script, "sh"]
    allowed = os.geteuid() == 0 and shutil.which("unshare")
    if not allowed or subprocess.run([*words[:2], "true"], check=False).returncode:
        pytest.skip("mounts of its own need root")
    return words


def bare_root(root: Path) -> Path:
    """A root file system that holds the executable and nothing else."""
    for name in ("proc", "dev", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(PROGRAM, root / "tcgamirror")
    return root


def inside(root: Path, *, proc: bool = True) -> list[str]:
    """The words that run a command in another root file system, on this machine's network.

    proc: whether /proc is mounted there.
    """
    script = f"mount -t proc proc '{root}/proc'; " if proc else ""
    script += f"mount --rbind /dev '{root}/dev'; exec chroot '{root}' \"$@\""
    return privately(script)
