"""`make build`: make PyInstaller's folder one executable in `dist/`, with digests and documents.

A static executable holds the files as a few zstd frames, their table and the launcher. It
unpacks them once and runs them by the loader among them. The same commit gives the same
bytes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import zstandard

HERE = Path(__file__).parent
ROOT = HERE.parent
MACHINE = platform.machine()
BUILD = ROOT / ".build" / MACHINE
TREE = BUILD / "tree" / "tree"
DIST = ROOT / "dist"
NAME = "tcgamirror" if MACHINE == "x86_64" else f"tcgamirror-{MACHINE}"
PATCHED = ".libs"
"""Suffix of the wheels' folders of libraries whose sections patchelf moved: strip breaks those."""

PACKING = zstandard.ZstdCompressionParameters.from_level(19, window_log=23, write_checksum=True)
"""A window of 8 MB, not of all files: a start that reuses so little memory unpacks faster."""

PARTS = 3
"""Number of frames. A start unpacks all at the same time; more would pack less."""

COMPILE = ("-std=gnu11", f"-DPARTS={PARTS}", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s")


@dataclass(frozen=True, slots=True)
class File:
    """A file to pack. name: path below the folder. mode: permissions."""

    name: str
    mode: int
    content: bytes


def collect() -> None:
    """Fill the folder by PyInstaller."""
    # A cache of its own: one shared with other builds is not clean.
    fixed = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    fixed["PYINSTALLER_CONFIG_DIR"] = str(BUILD / "pyinstaller")
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "WARN"]
    command += ["--distpath", str(BUILD / "tree"), "--workpath", str(BUILD / "work")]
    command += [str(HERE / "tcgamirror.spec")]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **fixed})


def strip(path: Path) -> None:
    """Remove the debug symbols of a shared library."""
    if ".so" in path.name and not path.parent.name.endswith(PATCHED):
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


def read_file(path: Path) -> File:
    """Return a file to pack, stripped."""
    strip(path)
    content = path.read_bytes()
    # The loader and the program are executed, other files only read.
    mode = 0o555 if content[:4] == b"\x7fELF" else 0o444
    return File(str(path.relative_to(TREE)), mode, content)


def split(files: list[File]) -> list[list[File]]:
    """Return the files in PARTS parts of about the same size."""
    parts: list[list[File]] = [[] for _ in range(PARTS)]
    total, start = sum(len(file.content) for file in files), 0
    for file in files:
        middle = start + len(file.content) // 2
        parts[middle * PARTS // total].append(file)
        start += len(file.content)
    return parts


def write_payload(files: list[File], stamp: str) -> str:
    """Write the payload, and return its tables as C source for the launcher."""
    row = '    {{"{}", 0{:o}, {}}},\n'
    rows = "".join(row.format(file.name, file.mode, len(file.content)) for file in files)
    digest = hashlib.sha256(rows.encode() + stamp.encode())
    payload, first, parts = b"", 0, ""
    for part in split(files):
        contents = b"".join(file.content for file in part)
        digest.update(contents)
        packed = zstandard.ZstdCompressor(compression_params=PACKING).compress(contents)
        place = f"{len(payload)}, {len(packed)}, entries + {first}, {len(part)}"
        parts += f"    {{{place}}},\n"
        payload += packed
        first += len(part)
    (BUILD / "payload").write_bytes(payload)
    return f"""\
#include "launcher.h"

__asm__(".section .rodata\\n.globl payload, payload_end\\n"
        "payload: .incbin \\"payload\\"\\npayload_end:\\n.previous");
const char digest[] = "{digest.hexdigest()[:16]}";
const time_t stamp = {stamp};
const struct entry entries[] = {{
{rows}    {{NULL, 0, 0}},
}};
const struct part parts[] = {{
{parts}}};
"""


def compile_launcher(source: str) -> Path:
    """Return the executable made of the launcher and the payload."""
    (BUILD / "payload.c").write_text(source, encoding="utf-8")
    shutil.copytree(HERE / "launcher", BUILD / "launcher", dirs_exist_ok=True)
    # By relative paths only: the compiler records the paths it gets.
    parts = [f"launcher/{name}.c" for name in ("main", "copy", "unpack")]
    command = ["gcc", *COMPILE, "-Ilauncher", *parts, "payload.c", "-lzstd", "-o", "tcgamirror"]
    subprocess.run(command, check=True, cwd=BUILD)
    return BUILD / "tcgamirror"


def write_documents() -> None:
    """Write man page, completions and the list of parts."""
    shutil.copyfile(BUILD / "tcgamirror.sbom.json", DIST / f"{NAME}.sbom.json")
    subprocess.run([sys.executable, str(HERE / "man_page.py"), str(DIST)], check=True)


def write_digests() -> None:
    """Write SHA256SUMS, with every file in `dist/`."""
    sums = DIST / "SHA256SUMS"
    sums.unlink(missing_ok=True)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(DIST)}\n"
        for path in sorted(DIST.rglob("*"))
        if path.is_file()
    ]
    sums.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    # The time of the commit, which every file gets; make sets it.
    stamp = os.environ["SOURCE_DATE_EPOCH"]
    DIST.mkdir(exist_ok=True)
    collect()
    # Links are left out: wheels find their libraries by paths of their own.
    paths = [path for path in sorted(TREE.rglob("*")) if path.is_file() and not path.is_symlink()]
    files = [read_file(path) for path in paths]
    shutil.copy(compile_launcher(write_payload(files, stamp)), DIST / NAME)
    write_documents()
    write_digests()
    size = (DIST / NAME).stat().st_size
    print(f"dist/{NAME}: {size / 1e6:.1f} MB, {len(files)} files inside")


if __name__ == "__main__":
    main()
