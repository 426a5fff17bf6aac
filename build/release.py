"""The last step of `make dist`: write wheel and source archive, and digests of all of `dist/`.

Both come from a copy of the tracked files with fixed times and permissions, so the same
commit gives the same bytes.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from pack import BUILD, DIST, ROOT, write_digests

COPY = BUILD / "source"


def copy_tracked_files() -> list[str]:
    """Copy the tracked files to COPY. Return their names."""
    shutil.rmtree(COPY, ignore_errors=True)
    listing = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    names = listed.rstrip("\0").split("\0")
    for name in names:
        path = COPY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, path)
        path.chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)
    return names


def build_wheel() -> Path:
    """Build the wheel of COPY by the locked setuptools. Return its path in `dist/`."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(DIST), str(COPY)], check=True)
    (wheel,) = DIST.glob("*.whl")
    return wheel


def write_source_archive(names: list[str], wheel: Path) -> None:
    """Write the named files of COPY, with the wheel's metadata, as one archive."""
    stamp = int(os.environ["SOURCE_DATE_EPOCH"])
    release = "-".join(wheel.name.split("-")[:2])
    with zipfile.ZipFile(wheel) as archive:
        (COPY / "PKG-INFO").write_bytes(archive.read(f"{release}.dist-info/METADATA"))
    (COPY / "PKG-INFO").chmod(0o644)

    def normalise(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = stamp
        return member

    with (
        (DIST / f"{release}.tar.gz").open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=stamp) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as out,
    ):
        for name in sorted([*names, "PKG-INFO"]):
            out.add(COPY / name, f"{release}/{name}", filter=normalise)


def main() -> None:
    # For the files that setuptools makes.
    os.umask(0o022)
    write_source_archive(copy_tracked_files(), build_wheel())
    write_digests()


if __name__ == "__main__":
    main()
