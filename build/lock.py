"""`make lock`: every package of a build with its version and digest, as pip itself chose them.

Reads what pip would install of `pyproject.toml`'s dependencies for the running
Python on this machine, and writes `build/requirements.lock`. Only the very
files chosen are listed: for another Python, lock again with that one.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
LOCK = HERE / "requirements.lock"
HEAD = """\
# What the executable is made of and made with, locked for CPython {python} on {machine} Linux.
# Written by `make lock`; do not edit.
"""


def wanted() -> list[str]:
    """The program's dependencies and those of its build."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["build"]]


def chosen(requirements: list[str]) -> list[tuple[str, str, str]]:
    """Name, version and SHA-256 of every wheel that pip would install for them."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", "-"]
    told = subprocess.run([*command, *requirements], check=True, stdout=subprocess.PIPE, text=True)
    rows = []
    for item in json.loads(told.stdout)["install"]:
        digest = item["download_info"]["archive_info"]["hash"].removeprefix("sha256=")
        rows.append((item["metadata"]["name"].lower(), item["metadata"]["version"], digest))
    return sorted(rows)


def main() -> None:
    python = ".".join(platform.python_version_tuple()[:2])
    lines = [HEAD.format(python=python, machine=platform.machine())]
    for name, version, digest in chosen(wanted()):
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")
    LOCK.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
