"""The manual's pages and README: their tables, their examples, and a shell to run these in."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.gdc import StandIn
from tests.support.command import BINARY, ROOT, program, surroundings

README = ROOT / "README.md"
MANUAL = ROOT / "tcgamirror" / "manual"
PAGES = {path.stem: path for path in sorted(MANUAL.glob("*.md"))}

_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
_LAUNCHER = """\
#!/bin/sh
# The program; `init`, `get` and `doctor` are led to the stand-in.
case " $* " in
    " help "* | *" help "*) exec {program} "$@" ;;
    *" init "* | *" get "* | *" doctor "*) exec {program} "$@" --api {api} --bucket {bucket} ;;
esac
exec {program} "$@"
"""


@dataclass(frozen=True, slots=True)
class Example:
    """A fenced block. info: the words after the fence, of which the first is the language."""

    info: str
    text: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def needs(self) -> str | None:
        """Return the program that it needs, if that may be missing."""
        return self._mark("needs")

    @property
    def not_run(self) -> str | None:
        """Return why no test can run it."""
        return self._mark("not-run")

    def _mark(self, name: str) -> str | None:
        found = re.search(rf" {name}=(\S+)", self.info)
        return found[1] if found else None


def examples(path: Path) -> list[Example]:
    """Return the fenced blocks of a page, in their order."""
    return [Example(*found) for found in _FENCE.findall(path.read_text(encoding="utf-8"))]


def table(path: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without the table's own head."""
    _, found, below = path.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert found, f"{path} has no heading {heading}"
    lines = below.partition("\n## ")[0].splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def sentences(path: Path) -> Iterator[str]:
    """Yield the sentences of a page, those of items too; not those of tables and examples."""
    text = re.sub(r"^(\||#).*$", "", _FENCE.sub("", path.read_text(encoding="utf-8")), flags=re.M)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:-|\d+\.) )", text):
        yield from re.split(r"(?<=[.:!?;])\s+(?=[A-Z`])", " ".join(paragraph.split()))


def sessions(example: Example) -> Iterator[tuple[str, str]]:
    """Yield each command of a console example with the output that the page shows."""
    for part in re.split(r"^\$ ", example.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


class Shell:
    """A shell that knows the command `tcgamirror`, in a folder of its own."""

    def __init__(self, folder: Path, gdc: StandIn) -> None:
        self.folder = folder / "here"
        self.folder.mkdir()
        tools = folder / "bin"
        tools.mkdir()
        launcher = tools / "tcgamirror"
        launcher.write_text(
            _LAUNCHER.format(program=shlex.join(program()), api=gdc.api, bucket=gdc.bucket)
        )
        launcher.chmod(0o755)
        (folder / "home").mkdir()
        # sqlite-utils lies beside Python.
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = surroundings({"PATH": path, "HOME": str(folder / "home")})

    def run(self, script: str) -> str:
        """Run lines of a shell and return what they print. Fails at the first one that fails."""
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, f"{script}\nexit code {ended.returncode}\n{ended.stdout}"
        return ended.stdout

    def perform(self, example: Example) -> None:
        """Run an example of a shell or of Python."""
        if example.language == "python":
            self.run(f"{shlex.quote(sys.executable)} -c {shlex.quote(example.text)}")
        else:
            self.run(example.text)


def is_missing(example: Example) -> bool:
    """Return whether the program that an example needs is missing here."""
    if example.needs == "dask":
        # A library of this Python, which the executable does not use.
        return BINARY in os.environ
    return example.needs is not None and shutil.which(example.needs) is None
