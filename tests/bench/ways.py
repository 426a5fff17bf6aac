"""Each way to the images, timed on slides of one kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from tempfile import TemporaryDirectory

import requests

from tests.bench import ours, published
from tests.bench.material import MPP, Kind, needed
from tests.bench.network import shaped, traffic
from tests.gdc import StandIn

CONNECTIONS = 16
"""At once, as `range` has them: four for each of four slides."""
TIMEOUT = 60

A = "published A: whole files"
B = "published B: tiles"
RANGE = "tcgamirror: range"
TILES = "tcgamirror: tiles"
WHOLE = "tcgamirror: whole"
BARE = "bare ranged download"


@dataclass(frozen=True, slots=True)
class Timing:
    """One way on slides of one kind; seconds, bytes and requests are of one slide.

    known: whether the resolution of the images is; None where no image is made.
    """

    kind: Kind
    way: str
    slides: int
    seconds: float
    bytes: float
    requests: float
    known: bool | None


def timed(way: str, kind: Kind, slides: int) -> Timing:
    """The way on that many slides of the kind, which a stand-in lists just for it."""
    with shaped(kind.listing(slides, tiles=True)) as gdc:
        seconds, known = _WAYS[way](gdc, kind)
        moved = traffic(gdc)
    return Timing(
        kind=kind,
        way=way,
        slides=slides,
        seconds=seconds / slides,
        bytes=moved.bytes / slides,
        requests=moved.requests / slides,
        known=known,
    )


def middle(timings: Sequence[Timing]) -> Timing:
    """Of several timings of one way, the one whose seconds are the median."""
    seconds = median_low([timing.seconds for timing in timings])
    return next(timing for timing in timings if timing.seconds == seconds)


def published_a(gdc: StandIn, _: Kind) -> tuple[float, bool]:
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        started = time.monotonic()
        for file in gdc.files:
            image = Path(folder) / f"{file.file_id}.png"
            published.whole_file(gdc.api, file.file_id, MPP, image)
        return time.monotonic() - started, True


def published_b(gdc: StandIn, _: Kind) -> tuple[float, bool]:
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:
        started = time.monotonic()
        for file in gdc.files:
            image = Path(folder) / f"{file.file_id}.png"
            published.tile_by_tile(gdc.tiles, file.file_id, MPP, image)
        return time.monotonic() - started, False


def _ours(via: str, gdc: StandIn) -> tuple[float, bool]:
    done = ours.update(gdc, via)
    return done.footprint.seconds, done.known


def bare_download(gdc: StandIn, kind: Kind) -> tuple[float, None]:
    """The tiles alone, from where they are known to lie: nothing can be faster.

    Every slide's block of them in equal parts, as many as there are connections for it.
    """
    parts = CONNECTIONS // ours.WORKERS
    wanted = []
    for file in gdc.files:
        url = f"{gdc.bucket}/{file.file_id}/{file.file_name}"
        for block in needed(kind).blocks:
            edges = [block.start + block.length * part // parts for part in range(parts + 1)]
            wanted += [(url, *ends) for ends in pairwise(edges)]
    sessions = [requests.Session() for _ in range(CONNECTIONS)]
    started = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        shares = [wanted[index::CONNECTIONS] for index in range(CONNECTIONS)]
        lengths = sum(pool.map(_fetched, sessions, shares))
    seconds = time.monotonic() - started
    if lengths != sum(stop - start for _, start, stop in wanted):
        raise RuntimeError("the bare download did not get what it asked for")
    return seconds, None


def _fetched(session: requests.Session, wanted: Sequence[tuple[str, int, int]]) -> int:
    length = 0
    with session:
        for url, start, stop in wanted:
            headers = {"Range": f"bytes={start}-{stop - 1}"}
            length += len(session.get(url, headers=headers, timeout=TIMEOUT).content)
    return length


_WAYS: Mapping[str, Callable[[StandIn, Kind], tuple[float, bool | None]]] = {
    A: published_a,
    B: published_b,
    RANGE: lambda gdc, _: _ours("range", gdc),
    TILES: lambda gdc, _: _ours("tiles", gdc),
    WHOLE: lambda gdc, _: _ours("whole", gdc),
    BARE: bare_download,
}
