"""`make build`: from PyInstaller's folder to one executable, its digest and its papers, in `dist/`.

The files, packed as one zstd frame, a table of them and the launcher make a
static executable, which unpacks them once and runs them by the loader among
them. The same commit gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import zstandard

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ROOT / ".build"
TREE = BUILD / "tree" / "tree"
DIST = ROOT / "dist"
REWRITTEN = ".libs"
"""How the folders end in which wheels bring libraries whose sections patchelf moved: strip
breaks those."""

PACKING = zstandard.ZstdCompressionParameters.from_level(19, window_log=27, write_checksum=True)
"""A window as long as all files: the libraries hold much of what others hold."""

COMPILE = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s")


@dataclass(frozen=True, slots=True)
class File:
    """A file as it goes in. name: below the folder; mode: its permissions."""

    name: str
    mode: int
    content: bytes


def committed() -> str:
    """The time of the commit, in seconds since 1970: what every file bears."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told:
        return told
    git = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    asked = subprocess.run(git, capture_output=True, text=True, check=False)
    # Not 0: some file systems know no times before 1980.
    return asked.stdout.strip() or "315532800"


def collect(stamp: str) -> None:
    """Has PyInstaller fill the folder."""
    # Where PyInstaller itself caches must be ours: a cache shared with other builds is not clean.
    settled = {"PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": stamp, "LC_ALL": "C.UTF-8"}
    settled["PYINSTALLER_CONFIG_DIR"] = str(BUILD / "pyinstaller")
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "WARN"]
    command += ["--distpath", str(BUILD / "tree"), "--workpath", str(BUILD / "work")]
    command += [str(HERE / "tcgamirror.spec")]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **settled})


def strip(path: Path) -> None:
    """Takes the debug symbols out of a shared library."""
    if ".so" in path.name and not path.parent.name.endswith(REWRITTEN):
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


def taken(path: Path) -> File:
    strip(path)
    content = path.read_bytes()
    # The loader and the program are run, libraries only read; nobody writes to either.
    mode = 0o555 if content[:4] == b"\x7fELF" else 0o444
    return File(str(path.relative_to(TREE)), mode, content)


def table(files: list[File], stamp: str) -> str:
    """Writes the payload, and returns the C text that tells the launcher what is in it."""
    row = '    {{"{}", 0{:o}, {}}},\n'
    rows = "".join(row.format(file.name, file.mode, len(file.content)) for file in files)
    contents = b"".join(file.content for file in files)
    digest = hashlib.sha256(rows.encode() + stamp.encode() + contents).hexdigest()[:16]
    packed = zstandard.ZstdCompressor(compression_params=PACKING).compress(contents)
    (BUILD / "payload").write_bytes(packed)
    return f"""\
#include "launcher.h"

__asm__(".section .rodata\\n.globl payload, payload_end\\n"
        "payload: .incbin \\"payload\\"\\npayload_end:\\n.previous");
const char digest[] = "{digest}";
const time_t stamp = {stamp};
const struct entry entries[] = {{
{rows}    {{NULL, 0, 0}},
}};
"""


def compiled(source: str) -> Path:
    """The executable of the launcher and the payload."""
    (BUILD / "payload.c").write_text(source, encoding="utf-8")
    shutil.copytree(HERE / "launcher", BUILD / "launcher", dirs_exist_ok=True)
    # By relative names only: the compiler writes down what it is told.
    parts = [f"launcher/{name}.c" for name in ("main", "copy", "unpack")]
    command = ["gcc", *COMPILE, "-Ilauncher", *parts, "payload.c", "-lzstd", "-o", "tcgamirror"]
    subprocess.run(command, check=True, cwd=BUILD)
    return BUILD / "tcgamirror"


def papers() -> None:
    """Man page, completions and the list of what is inside."""
    shutil.copyfile(BUILD / "tcgamirror.sbom.json", DIST / "tcgamirror.sbom.json")
    command = [sys.executable, str(HERE / "manual.py"), str(DIST)]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": committed()})


def main() -> None:
    stamp = committed()
    DIST.mkdir(exist_ok=True)
    collect(stamp)
    # Links lead to libraries that are found without them, by the wheels' own paths.
    paths = [path for path in sorted(TREE.rglob("*")) if path.is_file() and not path.is_symlink()]
    files = [taken(path) for path in paths]
    made = compiled(table(files, stamp))
    shutil.copy(made, DIST / "tcgamirror")
    papers()
    names = ("tcgamirror", "tcgamirror.sbom.json")
    sums = [f"{hashlib.sha256((DIST / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (DIST / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    size = (DIST / "tcgamirror").stat().st_size
    print(f"dist/tcgamirror: {size / 1e6:.1f} MB, {len(files)} files inside")


if __name__ == "__main__":
    main()
