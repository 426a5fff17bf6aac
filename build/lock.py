"""`make lock`: write every package of a build with its version and digest, as pip chooses them.

pip resolves `pyproject.toml`'s dependencies for the running Python on each processor. The
results are `build/requirements-*.lock`. They list only the files chosen: for another
Python, lock again with that one.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
MACHINES = ("x86_64", "aarch64")
LIBC = range(5, 37)
"""Minor versions of glibc 2 whose wheels run with Debian 12's, which the executable brings."""

HEAD = """\
# Packages inside the executable and of its build, locked for CPython {python} on {machine} Linux.
# Written by `make lock`; do not edit.
"""


def requirements() -> list[str]:
    """Return the program's dependencies and those of its build."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["build"]]


def resolve(requirements: list[str], machine: str) -> list[tuple[str, str, str]]:
    """Return name, version and SHA-256 of every wheel that pip would install for them."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", "-"]
    # pip demands a target where it may not install; nothing is written to it.
    command += ["--target", "none"]
    for libc in (*(f"_2_{minor}" for minor in reversed(LIBC)), "2014"):
        command += ["--platform", f"manylinux{libc}_{machine}"]
    report = subprocess.run(
        [*command, *requirements], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    rows = []
    for item in json.loads(report)["install"]:
        digest = item["download_info"]["archive_info"]["hash"].removeprefix("sha256=")
        rows.append((item["metadata"]["name"].lower(), item["metadata"]["version"], digest))
    return sorted(rows)


def main() -> None:
    python = ".".join(platform.python_version_tuple()[:2])
    for machine in MACHINES:
        lines = [HEAD.format(python=python, machine=machine)]
        for name, version, digest in resolve(requirements(), machine):
            lines.append(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")
        (HERE / f"requirements-{machine}.lock").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
