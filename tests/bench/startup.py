"""Start-up times of the executable against the source's.

The first start of a version unpacks the executable.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.bench import figures
from tests.bench.done import made_before, sampled
from tests.bench.figures import Figure, in_turn, seconds
from tests.bench.ours import PROGRAM
from tests.bench.plan import Plan
from tests.support.command import BINARY, ROOT

SLIDES = 12_000
"""Number of diagnostic slides at the GDC."""
VERSION_AIM, STATUS_AIM, FIRST_AIM, SIZE_AIM = 0.10, 0.10, 0.25, 32.0
OF_BEFORE = 1.0
TIMES = 15


def section(plan: Plan) -> str:
    binary = Path(os.environ.get(BINARY) or ROOT / "dist" / "tcgamirror")
    if not binary.is_file():
        return f"## Start of the executable\n\n{binary} is missing: `make build` makes it."
    with tempfile.TemporaryDirectory() as folder:
        prose = (
            "Medians of seconds of the executable, the source and the source before, in turns. The "
            "first start of a version unpacks the executable."
        )
        return figures.section(
            "Start of the executable", prose, _figures(Path(folder), binary, plan.before)
        )


def _figures(folder: Path, binary: Path, before: Sequence[str]) -> Iterator[Figure]:
    yield Figure("executable", "MB", binary.stat().st_size / 1e6, most=SIZE_AIM)
    home = folder / "home"
    home.mkdir()
    env = {"HOME": str(home), "PATH": os.environ["PATH"]}

    def first() -> float:
        shutil.rmtree(home / ".cache", ignore_errors=True)
        return seconds([str(binary), "--version"], env)

    median = in_turn({"first": first}, TIMES // 5, float)["first"]
    yield Figure("executable", "first --version: seconds", median, most=FIRST_AIM)
    large = str(folder / "large")
    sampled(Path(large), SLIDES)
    older = f"{large}-before"
    if before:
        made_before(before, f"sampled(Path({older!r}), {SLIDES})")
    for what, words, most in (
        ("--version", ["--version"], VERSION_AIM),
        (f"status, {SLIDES:,} slides", ["--mirror", large, "status"], STATUS_AIM),
    ):
        programs = {"executable": [str(binary)], "source": [sys.executable, PROGRAM[1]]}
        runs = {of: partial(seconds, [*each, *words], env) for of, each in programs.items()}
        if before:
            own = [older if word == large else word for word in words]
            runs["before"] = partial(seconds, [*before, *own], env)
        medians = in_turn(runs, TIMES, float)
        source, what = medians["source"], f"{what}: seconds"
        yield Figure("executable", what, medians["executable"], most=most)
        yield Figure("source", what, source, medians.get("before"), most_of_before=OF_BEFORE)
