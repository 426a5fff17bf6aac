"""`make lock`: write every package of a build with its version and digest, as pip chooses them.

pip resolves `pyproject.toml`'s dependencies for the running Python on this machine. The
result is `build/requirements.lock`. It lists only the files chosen: for another Python,
lock again with that one.
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
# Packages inside the executable and of its build, locked for CPython {python} on {machine} Linux.
# Written by `make lock`; do not edit.
"""


def requirements() -> list[str]:
    """Return the program's dependencies and those of its build."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["build"]]


def resolve(requirements: list[str]) -> list[tuple[str, str, str]]:
    """Return name, version and SHA-256 of every wheel that pip would install for them."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", "-"]
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
    lines = [HEAD.format(python=python, machine=platform.machine())]
    for name, version, digest in resolve(requirements()):
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")
    LOCK.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
