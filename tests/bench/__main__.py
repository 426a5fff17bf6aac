"""Run the bench and print its tables; the package's docstring says what it measures."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from textwrap import fill

from tests.bench import carrying, catalogue, cost, link, scaling, startup, ways
from tests.bench.figures import LINE
from tests.bench.plan import FULL, QUICK

RESULTS = Path(__file__).with_name("RESULTS.md")
LIBRARIES = ("pillow", "simplejpeg", "imagecodecs", "numpy", "requests", "openslide-bin")
PARTS = {
    "ways": ways.section,
    "cost": cost.section,
    "link": link.section,
    "scaling": scaling.section,
    "carrying": carrying.section,
    "catalogue": catalogue.section,
    "startup": startup.section,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="small slides, only printed")
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="source of the version to compare with"
    )
    arguments = parser.parse_args()
    parts = arguments.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    plan = QUICK if arguments.quick else FULL
    if arguments.before:
        own = arguments.before / ".venv" / "bin" / "python"
        python = str(own) if own.exists() else sys.executable
        plan = replace(plan, before=[python, str(arguments.before / "main.py")])
    about = _machine() + (_version(arguments.before) if arguments.before else "")
    if arguments.quick:
        about += " The aims are for the large slides of a run without --quick."
    sections = ["# Side by side with the published way", fill(about, LINE)]
    print(*sections, sep="\n\n")
    for part in parts:
        print(f"{datetime.now(UTC):%H:%M:%S} measuring: {part}", file=sys.stderr)
        sections.append(PARTS[part](plan))
        print(f"\n{sections[-1]}", flush=True)
    if not arguments.quick and not arguments.parts:
        RESULTS.write_text("\n\n".join([*sections, ""]), encoding="utf-8")


def _machine() -> str:
    """Return the date, the processor, its cores and load, and the libraries' versions."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, on {names[0] if names else platform.machine()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.system()}; "
        f"Python {platform.python_version()}, {libraries}."
    )


def _version(source: Path) -> str:
    """Return a sentence that names the version before, which may be no checkout of git."""
    command = ["git", "-C", str(source), "log", "-1", "--format=%h of %cs"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f' "Before" is {found or source}, run in turns with this version.'


if __name__ == "__main__":
    main()
