"""Time each way to make images of slides of one kind."""

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

from tests.bench import figures, network, ours, published
from tests.bench.figures import LINE, Figure, cell, in_turn, number, table
from tests.bench.material import MPP, Kind, needed
from tests.bench.network import Traffic, measure_rounds, measure_traffic, serve_slowly
from tests.bench.plan import OTHERS, SEVERAL, TILES, WHOLE, A, B, Plan, Trial
from tests.gdc import Listed, StandIn

CONNECTIONS = 16
"""Connections at once for whole files, each with a file of its own."""
BARE_CONNECTIONS, BARE_PARTS = 64, 4
"""Connections at once of a bare download, as a mirror has by default, and parts of a block."""
TIMEOUT = 60
"""Seconds for which a request of the bare download may wait."""

BEFORE = "tcgamirror before: range"
RANGE = "tcgamirror: range"
BARE = "bare ranged download"

FASTER_THAN_A, FASTER_THAN_B = 300, 25
"""Aims: how many times as fast as A and B `range` is."""
OF_BEFORE = 0.70
"""Aim: seconds as a part of those of the version before."""
BYTES_OVER_TILES, BYTES_BESIDES = 1.10, 100_000
"""Aim for a slide's bytes: so many times those needed, and so many more."""
REQUESTS_BESIDES_DIRECTORIES = 6
"""Aim for a slide's requests: one for each directory, and so many more."""
MOST_ROUNDS = 5
SECONDS, MB, REQUESTS = OF_A_SLIDE = ("seconds a slide", "MB a slide", "requests a slide")
_AS_FAST = ("times as fast as A", "times as fast as B")
COLUMNS = ("slide", "way", "slides", *OF_A_SLIDE, "resolution", *_AS_FAST)


@dataclass(frozen=True, slots=True)
class Timing:
    """The time and traffic of one way for slides of one kind.

    seconds, moved: Of all slides together. known: Whether the images have a resolution; None
    where no image is made.
    """

    slides: int
    seconds: float
    moved: Traffic
    known: bool | None

    @property
    def values(self) -> dict[str, float]:
        """The figures of a slide, by the names in OF_A_SLIDE."""
        totals = (self.seconds, self.moved.bytes / 1e6, self.moved.requests)
        return {what: total / self.slides for what, total in zip(OF_A_SLIDE, totals, strict=True)}


def section(plan: Plan) -> str:
    timed = [(trial, _time_ways(trial, plan)) for trial in plan.trials]
    ways = [row for trial, timings in timed if trial.others for row in _rows(trial.kind, timings)]
    one = [row for trial, timings in timed for row in _figures(trial, timings, plan)]
    prose = (
        f"Every way makes an image of the same synthetic slides, of {MPP:g} µm per pixel, from a "
        f"stand-in GDC on the same machine: {network.DELAY * 1000:g} ms a request, "
        f"{network.RATE / 1e6:g} MB/s a connection, {network.DELAY + network.TILE_DELAY:g} s a "
        "Deep Zoom tile. A and B are the published sampler's ways. A resolution is known if the "
        "way tells the image's µm per pixel. Seconds are those of the whole run divided by its "
        "slides, medians where it is repeated. `range` chooses its slides in flight, `tiles` and "
        "`whole` have "
        f"{ours.WORKERS}. A and B fetch one after another, as published; several connections are "
        f"{CONNECTIONS}, each with a file of its own. Ratios of an idle machine carry over to "
        f"others; seconds do not. Aims for `range`: {FASTER_THAN_A} times as fast as A, "
        f"{FASTER_THAN_B} times as fast as B. Figures that miss their aim are bold, here and below."
    )
    of_one = (
        "`range` in the same runs. Bare is a download of only what the image needs, from where it "
        "is known to lie. Rounds are the longest chain of requests that each begin after the "
        "last ended, in a run of one slide."
    )
    return "\n\n".join(
        [fill(prose, LINE), table(COLUMNS, ways), figures.section("One slide", of_one, one)]
    )


def _time_ways(trial: Trial, plan: Plan) -> dict[str, Timing]:
    """Return the timing of each way of a trial.

    The ways with whole files run at the same time, because they wait for connections of their
    own. The rest run one after another.
    """
    # Makes the slide and its tiles, so that no way is timed doing it.
    trial.kind.listing(1, tiles=True)
    others = {way: partial(_time_way, way, trial.kind, OTHERS[way]) for way in trial.others}
    whole = [way for way in trial.others if way in (A, SEVERAL, WHOLE)]
    with ThreadPoolExecutor(len(OTHERS)) as pool:
        started = {way: pool.submit(others.pop(way)) for way in whole}
        timings = {way: each.result() for way, each in started.items()}
    timings |= {way: run() for way, run in others.items()}
    compared = (BEFORE, RANGE, BARE) if plan.before else (RANGE, BARE)
    runs = {
        way: partial(_time_way, way, trial.kind, trial.range_slides, plan.before)
        for way in compared
    }
    return timings | in_turn(runs, plan.repetitions, lambda timing: timing.seconds)


def _time_way(way: str, kind: Kind, slides: int, before: Sequence[str] = ()) -> Timing:
    """Time a way on so many slides of a kind, from a stand-in of its own."""
    with serve_slowly(kind.listing(slides, tiles=True)) as gdc:
        seconds, known = _run_ours("range", gdc, before) if way == BEFORE else _WAYS[way](gdc, kind)
        return Timing(slides, seconds, measure_traffic(gdc), known)


def _rows(kind: Kind, timings: Mapping[str, Timing]) -> Iterator[Sequence[str]]:
    seconds = {way: timing.values[SECONDS] for way, timing in timings.items()}
    for way in timings:
        if way in (BEFORE, BARE):
            continue
        leasts = {A: FASTER_THAN_A, B: FASTER_THAN_B} if way == RANGE else {}
        yield (
            *(kind.name, way, str(timings[way].slides)),
            *map(number, timings[way].values.values()),
            "known" if timings[way].known else "unknown",
            *(
                cell(seconds[each] / seconds[way] if each in seconds else None, leasts.get(each))
                for each in (A, B)
            ),
        )


def _figures(trial: Trial, timings: Mapping[str, Timing], plan: Plan) -> Iterator[Figure]:
    """Compare `range` with the version before and the bare download."""
    kind = trial.kind
    now, older, bare = (
        timings[way].values if way in timings else {} for way in (RANGE, BEFORE, BARE)
    )
    if not kind.has_levels:
        yield Figure(kind.name, SECONDS, now[SECONDS], older.get(SECONDS), bare[SECONDS])
        return
    need = needed(kind)
    most = {
        MB: (BYTES_OVER_TILES * need.bytes + BYTES_BESIDES) / 1e6,
        REQUESTS: need.directories + REQUESTS_BESIDES_DIRECTORIES,
    }
    for what, value in now.items():
        yield Figure(
            *(kind.name, what, value, older.get(what), bare[what] if what != REQUESTS else None),
            most=most.get(what),
            most_of_before=OF_BEFORE if what == SECONDS else None,
        )
    if trial.others:
        run = partial(_count_rounds, kind)
        rounds, older_rounds = ours.beside(run, plan.before, plan.repetitions, float)
        yield Figure(kind.name, "rounds of one slide", rounds, older_rounds, most=MOST_ROUNDS)


def _count_rounds(kind: Kind, program: Sequence[str]) -> int:
    """Return the rounds of a run that fetches one slide."""
    with serve_slowly(kind.listing(1)) as gdc:
        ours.update(gdc, "range", 1, program=program)
        return measure_rounds(gdc)


def time_published_a(gdc: StandIn, _: Kind, connections: int = 1) -> tuple[float, bool]:
    return _time_published(gdc, partial(published.whole_file, gdc.api), connections), True


def time_published_b(gdc: StandIn, _: Kind) -> tuple[float, bool]:
    return _time_published(gdc, partial(published.tile_by_tile, gdc.tiles)), False


def _time_published(
    gdc: StandIn, fetch: Callable[[str, float, Path], None], connections: int = 1
) -> float:
    with TemporaryDirectory(prefix="tcgamirror-bench-") as folder:

        def one(file: Listed) -> None:
            fetch(file.file_id, MPP, Path(folder) / f"{file.file_id}.png")

        started = time.monotonic()
        with ThreadPoolExecutor(connections) as pool:
            list(pool.map(one, gdc.files))
        return time.monotonic() - started


def _run_ours(via: str, gdc: StandIn, program: Sequence[str] = ours.PROGRAM) -> tuple[float, bool]:
    workers = None if via == "range" else ours.WORKERS
    update = ours.update(gdc, via, workers, program=program)
    return update.footprint.seconds, update.known


def time_bare_download(gdc: StandIn, kind: Kind) -> tuple[float, None]:
    """Fetch only what is needed, from where it is known to lie, each block in equal parts.

    Return the seconds, and None because no image is made.
    """
    ranges = []
    for file in gdc.files:
        url = f"{gdc.bucket}/{file.file_id}/{file.file_name}"
        for block in needed(kind).blocks:
            edges = [block.start + block.length * part // BARE_PARTS for part in range(BARE_PARTS)]
            ranges += [(url, *ends) for ends in pairwise([*edges, block.stop])]
    sessions = [requests.Session() for _ in range(BARE_CONNECTIONS)]
    started = time.monotonic()
    with ThreadPoolExecutor(BARE_CONNECTIONS) as pool:
        shares = [ranges[index::BARE_CONNECTIONS] for index in range(BARE_CONNECTIONS)]
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
    A: time_published_a,
    B: time_published_b,
    SEVERAL: partial(time_published_a, connections=CONNECTIONS),
    RANGE: lambda gdc, _: _run_ours("range", gdc),
    TILES: lambda gdc, _: _run_ours("tiles", gdc),
    WHOLE: lambda gdc, _: _run_ours("whole", gdc),
    BARE: time_bare_download,
}
