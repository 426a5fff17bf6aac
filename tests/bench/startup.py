"""Start-up times of the executable against the source's: `python -m tests.bench.startup`.

cold: without an unpacked copy, as the first run of a user's has it. warm: each
further one. A quiet night is an `update` on which nothing changed. Medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.slide import Kind, Listing, Slide, Target
from tests.gdc import StandIn
from tests.support.command import BINARY, ROOT
from tests.support.mirrors import small_slide

SLIDES = 12_000
VERSION_AIM, STATUS_AIM, SIZE_AIM = 0.30, 0.50, 32e6
NOW = 1_795_353_255.0


@dataclass(frozen=True, slots=True)
class Timed:
    """What was measured, in seconds: of the executable, and of the source where that can be."""

    what: str
    binary: float
    source: float | None
    aim: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.startup", description=__doc__)
    parser.add_argument("--times", type=int, default=15, help="runs of each (default: 15)")
    times = parser.parse_args().times
    binary = Path(os.environ.get(BINARY) or ROOT / "dist" / "tcgamirror")
    if not binary.is_file():
        sys.exit(f"{binary} is not there: make build makes it")
    size = binary.stat().st_size
    print(f"{binary.name}: {size / 1e6:.1f} MB (aim: {SIZE_AIM / 1e6:.0f} MB)\n")
    print("| what | executable | source | aim |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(Path(folder), binary, times):
            source = "" if row.source is None else f"{row.source:.2f} s"
            aim = "" if row.aim is None else f"{row.aim:.2f} s"
            print(f"| {row.what} | {row.binary:.2f} s | {source} | {aim} |", flush=True)


def measured(folder: Path, binary: Path, times: int) -> Iterator[Timed]:
    env = {"HOME": str(folder / "home"), "PATH": os.environ["PATH"]}
    cache = folder / "home" / ".cache"
    cache.parent.mkdir()
    programs = ([str(binary)], [sys.executable, str(ROOT / "main.py")])

    def forget() -> None:
        shutil.rmtree(cache, ignore_errors=True)

    cold = [_seconds([*programs[0], "--version"], env, forget) for _ in range(max(times // 5, 1))]
    yield Timed("--version, cold", statistics.median(cold), None)
    yield _in_turn("--version, warm", programs, ["--version"], env, times, VERSION_AIM)
    large = folder / "large"
    _large_mirror(large)
    words = ["--mirror", str(large), "status"]
    yield _in_turn(f"status on {SLIDES:,} slides", programs, words, env, times, STATUS_AIM)
    with _small_gdc(folder) as gdc:
        quiet = folder / "quiet"
        words = ["--mirror", str(quiet), "init", "--slides", "4", "--mpp", "4", "--api", gdc.api]
        subprocess.run([*programs[1], *words], env=env, check=True, capture_output=True)
        words = ["--mirror", str(quiet), "update"]
        subprocess.run([*programs[1], *words], env=env, check=True, capture_output=True)
        yield _in_turn("a quiet night", programs, words, env, times, None)


def _in_turn(
    what: str,
    programs: Sequence[Sequence[str]],
    words: Sequence[str],
    env: Mapping[str, str],
    times: int,
    aim: float | None,
) -> Timed:
    """Both programs one after the other, so that a busy minute hits both."""
    taken: list[list[float]] = [[], []]
    for _ in range(times):
        for seconds, program in zip(taken, programs, strict=True):
            seconds.append(_seconds([*program, *words], env))
    return Timed(what, statistics.median(taken[0]), statistics.median(taken[1]), aim)


def _seconds(
    command: Sequence[str], env: Mapping[str, str], before: Callable[[], None] = lambda: None
) -> float:
    before()
    began = time.monotonic()
    subprocess.run(command, env=env, check=True, capture_output=True)
    return time.monotonic() - began


def _large_mirror(root: Path) -> None:
    """A mirror with as many sampled slides as the GDC has diagnostic ones."""
    mirror = Mirror.create(root, Settings(Target(mpp=15.0, max_size=None), slides=None))
    slides = tuple(
        Slide(
            file_id=f"00000000-0000-0000-0000-{number:012}",
            file_name=f"{number}.svs",
            md5=None,
            size=10**9,
            kind=Kind.DIAGNOSTIC,
            project_id=f"TCGA-{number % 30}",
            primary_site="Breast",
            disease_type=None,
            sample_type=None,
            case_barcode=None,
            slide_barcode=None,
            state="released",
            version=None,
            data_release=None,
            updated=None,
        )
        for number in range(SLIDES)
    )
    with Catalogue.open(mirror.root / CATALOGUE) as catalogue:
        catalogue.listing.merge(Listing("Data Release 45.0", slides), NOW)
        catalogue.sample.add([slide.file_name for slide in slides], NOW)


def _small_gdc(folder: Path) -> StandIn:
    made = folder / "slides"
    made.mkdir()
    return StandIn([small_slide(made, number) for number in range(6)])


if __name__ == "__main__":
    main()
