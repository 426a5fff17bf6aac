"""Time each way to the images on slides of one kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill

import requests

from tests.bench import network, ours, published
from tests.bench.figures import LINE, cell, in_turn, number, table
from tests.bench.material import MPP, Kind, needed
from tests.bench.network import shaped, traffic
from tests.bench.plan import Plan, Trial
from tests.gdc import StandIn

CONNECTIONS = 16
"""At once, as `range` has them: four for each of four slides."""
TIMEOUT = 60

A = "published A: whole files"
B = "published B: tiles"
SEVERAL = "whole files, several connections"
BEFORE = "tcgamirror before: range"
RANGE = "tcgamirror: range"
TILES = "tcgamirror: tiles"
WHOLE = "tcgamirror: whole"
BARE = "bare ranged download"
ORDER = (A, SEVERAL, B, WHOLE, TILES, BEFORE, RANGE, BARE)

FASTER_THAN_A, FASTER_THAN_B = 300, 25
OF_BEFORE = 0.70
BYTES_OVER_TILES, BYTES_BESIDES = 1.10, 100_000
REQUESTS_BESIDES_DIRECTORIES = 6
COLUMNS = (
    *("slide", "way", "slides", "s a slide", "MB a slide", "requests a slide", "resolution"),
    *("faster than A", "faster than B", "times before"),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """One way on slides of one kind. seconds, bytes and requests are of one slide.

    known: whether the images have a resolution; None where no image is made.
    """

    kind: Kind
    way: str
    slides: int
    seconds: float
    bytes: float
    requests: float
    known: bool | None


def section(plan: Plan) -> str:
    rows = [row for trial in plan.trials for row in _rows(trial, plan.before)]
    prose = (
        f"Every way makes an image of the same made slides for {MPP:g} µm per pixel, from a "
        f"stand-in GDC on the same machine: {network.DELAY * 1000:g} ms a request, "
        f"{network.RATE / 1e6:g} MB/s a connection, {network.DELAY + network.TILE_DELAY:g} s a "
        "Deep Zoom tile. A way's seconds are those of the whole run, start and listing too, "
        "divided by its slides, and medians where a way is repeated. `range` has as many slides "
        "in flight as it chooses, `tiles` and `whole` four. A and B fetch one after another, as "
        f"published; several connections are {CONNECTIONS}, each with a file of its own that "
        "OpenSlide reads. The bare download moves the level's "
        "tiles and the base's counts of their bytes, from where both are known to lie. "
        "Of a slide with a base level alone, `range` has to move all. Ratios of an idle machine "
        "carry over to others; seconds do not."
    )
    aims = (
        f"Aims for `range`, on slides with a level near the target: {FASTER_THAN_A} times as fast "
        f"as A, {FASTER_THAN_B} times as fast as B, and {OF_BEFORE:g} times the seconds of the "
        f"version before; {BYTES_OVER_TILES:g} times the bytes of the "
        f"bare download and {BYTES_BESIDES / 1e6:g} MB more at most; at most a request for each "
        f"directory and {REQUESTS_BESIDES_DIRECTORIES} more. Figures that miss their aim are bold, "
        "here and below."
    )
    return "\n\n".join([fill(prose, LINE), fill(aims, LINE), table(COLUMNS, rows)])


def _timings(trial: Trial, before: Sequence[str]) -> list[Timing]:
    """Time whole files all at once, as they wait for connections of their own; the rest in turn."""
    trial.kind.listing(1, tiles=True)  # makes the slide and its tiles
    slow = {A: 1} if trial.by_a else {}
    slow |= {WHOLE: trial.whole} if trial.whole else {}
    slow |= {SEVERAL: trial.several} if trial.several else {}
    with ThreadPoolExecutor(len(ORDER)) as pool:
        started = [pool.submit(_timed, way, trial.kind, count) for way, count in slow.items()]
        timings = [each.result() for each in started]
    counts = {RANGE: trial.fast, B: 1, BARE: trial.fast}
    counts |= {BEFORE: trial.fast} if before else {}
    runs = {way: partial(_timed, way, trial.kind, count, before) for way, count in counts.items()}
    timings += in_turn(runs, trial.repetitions, lambda timing: timing.seconds).values()
    timings.append(_timed(TILES, trial.kind, 2 * ours.WORKERS))
    return sorted(timings, key=lambda timing: ORDER.index(timing.way))


def _rows(trial: Trial, before: Sequence[str]) -> Iterator[Sequence[str]]:
    timings = _timings(trial, before)
    seconds = {timing.way: timing.seconds for timing in timings}
    need = needed(trial.kind)
    most_bytes = BYTES_OVER_TILES * need.bytes + BYTES_BESIDES
    most_requests = need.directories + REQUESTS_BESIDES_DIRECTORIES
    for timing in timings:
        free = timing.way != RANGE or not trial.judged
        ratios = {way: seconds[way] / timing.seconds for way in (A, B) if way in seconds}
        leasts = {A: FASTER_THAN_A, B: FASTER_THAN_B}
        faster = {way: cell(ratio, free or ratio >= leasts[way]) for way, ratio in ratios.items()}
        if timing.way == RANGE and BEFORE in seconds:
            ratio = timing.seconds / seconds[BEFORE]
            faster[BEFORE] = cell(ratio, free or ratio <= OF_BEFORE)
        yield (
            timing.kind.name,
            timing.way,
            str(timing.slides),
            number(timing.seconds),
            cell(timing.bytes / 1e6, free or timing.bytes <= most_bytes),
            cell(timing.requests, free or timing.requests <= most_requests),
            {True: "known", False: "unknown", None: ""}[timing.known],
            *(faster.get(way, "") for way in (A, B, BEFORE)),
        )


def _timed(way: str, kind: Kind, slides: int, before: Sequence[str] = ()) -> Timing:
    """Time a way on that many slides of the kind, which a stand-in lists just for it."""
    with shaped(kind.listing(slides, tiles=True)) as gdc:
        found = _ours("range", gdc, before) if way == BEFORE else _WAYS[way](gdc, kind)
        moved = traffic(gdc)
    return Timing(
        kind=kind,
        way=way,
        slides=slides,
        seconds=found[0] / slides,
        bytes=moved.bytes / slides,
        requests=moved.requests / slides,
        known=found[1],
    )


def published_a(gdc: StandIn, _: Kind) -> tuple[float, bool]:
    return _one_by_one(gdc, partial(published.whole_file, gdc.api)), True


def published_b(gdc: StandIn, _: Kind) -> tuple[float, bool]:
    return _one_by_one(gdc, partial(published.tile_by_tile, gdc.tiles)), False


def _one_by_one(gdc: StandIn, fetch: Callable[[str, float, Path], None]) -> float:
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        started = time.monotonic()
        for file in gdc.files:
            fetch(file.file_id, MPP, Path(folder) / f"{file.file_id}.png")
        return time.monotonic() - started


def several_connections(gdc: StandIn, _: Kind) -> tuple[float, bool]:
    """Fetch whole files side by side, as people do who write their own script."""
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        started = time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            images = [(file.file_id, Path(folder) / f"{file.file_id}.png") for file in gdc.files]
            fetched = [
                pool.submit(published.whole_file, gdc.api, file_id, MPP, image)
                for file_id, image in images
            ]
            for each in fetched:
                each.result()
        return time.monotonic() - started, True


def _ours(via: str, gdc: StandIn, program: Sequence[str] = ours.PROGRAM) -> tuple[float, bool]:
    workers = None if via == "range" else ours.WORKERS
    update = ours.update(gdc, via, workers, program=program)
    return update.footprint.seconds, update.known


def bare_download(gdc: StandIn, kind: Kind) -> tuple[float, None]:
    """Fetch only what is needed, from where it is known to lie: nothing can be faster.

    Each slide's block is fetched in equal parts, as many as it has connections.
    """
    parts = CONNECTIONS // ours.WORKERS
    ranges = []
    for file in gdc.files:
        url = f"{gdc.bucket}/{file.file_id}/{file.file_name}"
        for block in needed(kind).blocks:
            edges = [block.start + block.length * part // parts for part in range(parts + 1)]
            ranges += [(url, *ends) for ends in pairwise(edges)]
    sessions = [requests.Session() for _ in range(CONNECTIONS)]
    started = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        shares = [ranges[index::CONNECTIONS] for index in range(CONNECTIONS)]
        lengths = sum(pool.map(_fetch, sessions, shares))
    seconds = time.monotonic() - started
    if lengths != sum(stop - start for _, start, stop in ranges):
        raise RuntimeError("the bare download is incomplete")
    return seconds, None


def _fetch(session: requests.Session, ranges: Sequence[tuple[str, int, int]]) -> int:
    length = 0
    with session:
        for url, start, stop in ranges:
            headers = {"Range": f"bytes={start}-{stop - 1}"}
            length += len(session.get(url, headers=headers, timeout=TIMEOUT).content)
    return length


_WAYS: Mapping[str, Callable[[StandIn, Kind], tuple[float, bool | None]]] = {
    A: published_a,
    B: published_b,
    SEVERAL: several_connections,
    RANGE: lambda gdc, _: _ours("range", gdc),
    TILES: lambda gdc, _: _ours("tiles", gdc),
    WHOLE: lambda gdc, _: _ours("whole", gdc),
    BARE: bare_download,
}
