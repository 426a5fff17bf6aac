"""The tables of the bench, as Markdown that also reads well on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from textwrap import fill

from tests.bench import network, scaling
from tests.bench.aims import Aim, number
from tests.bench.decoding import BARE, OURS_FAST, Decoding
from tests.bench.link import LINK, WORKERS, Shared
from tests.bench.material import MPP
from tests.bench.memory import Peak
from tests.bench.profiling import Profile
from tests.bench.scaling import FEW, SMALL, Point
from tests.bench.ways import A, B, Timing

LINE = 100
"""Characters of a line of prose."""
TIMED = (
    "slide",
    "way",
    "slides",
    "s a slide",
    "MB a slide",
    "requests a slide",
    "resolution",
    "faster than A",
    "faster than B",
)

LINKED = (
    "link",
    "slides",
    "s a slide",
    "bare download",
    "times bare",
    "link busy",
    "cores busy",
    "cores serving",
)


@dataclass(frozen=True, slots=True)
class Results:
    """machine: as it was when the run began. timings: those of one kind stand together."""

    machine: str
    timings: Sequence[Timing]
    links: Sequence[Shared]
    profile: Profile
    points: Sequence[Point]
    decodings: Sequence[Decoding]
    peaks: Sequence[Peak]
    aims: Sequence[Aim]


def markdown(results: Results, plot: str) -> str:
    """All tables, with when and where they were made and how to read them.

    plot: name of the picture of `results.points`.
    """
    return "\n\n".join(
        [
            "# Side by side with the published way",
            fill(f"{datetime.now(UTC):%Y-%m-%d}, on {results.machine}.", LINE),
            fill(_how_to_read(), LINE),
            table(TIMED, _timing_rows(results.timings)),
            "## Aims",
            table(("of", "what", "came to", "aim", "reached"), _aim_rows(results.aims)),
            f"## One link for all, {WORKERS} slides at a time",
            fill(_of_links(), LINE),
            table(LINKED, _link_rows(results.links)),
            fill(_of_profile(results.profile), LINE),
            table(("what", "share"), _profile_rows(results.profile)),
            "## Seconds against slides",
            fill(_of_points(), LINE),
            f"![Seconds against slides, both in powers of ten]({plot})",
            table(("slides", "way", "s", "ms a slide"), _point_rows(results.points)),
            "## Decoding and assembling one level, one thread",
            table(
                (
                    *("level", "way", "CPU s", "ns a pixel", "times bare decoding"),
                    "grey levels from the exact image",
                ),
                _decoding_rows(results.decodings),
            ),
            "## Peak memory of `update`, four slides at once, by range, no delays",
            table(("slides", "s", "MB"), _peak_rows(results.peaks)),
        ]
    )


def _how_to_read() -> str:
    in_all = network.DELAY + network.TILE_DELAY
    return (
        f"Every way makes an image of the same made slides for {MPP:g} µm per pixel, from a "
        "stand-in GDC on the same machine in the same run: "
        f"{network.DELAY * 1000:g} ms a request, {network.RATE / 1e6:g} MB/s a connection, "
        f"{in_all:g} s a Deep Zoom tile in all. Read down a slide's rows. A way's seconds are "
        "those of the whole run, start and listing too, divided by its slides, and medians where "
        "a way is repeated. This project has four workers, each with one slide at a time, so one "
        "slide alone takes it up to four times as long; A and B work on one after another, as "
        "published, and need few slides. The bare download is of the level's tiles alone, from "
        "where they are known to lie, over as many connections as `range` has: the limit. A slide "
        "with a base level alone leaves `range` nothing to gain: all of it has to be moved. "
        "Ratios of an idle machine carry over to others; seconds do not."
    )


def _of_links() -> str:
    return (
        f"{network.DELAY * 1000:g} ms a request; all connections together get "
        f"{LINK * 8 / 1e6:g} Mbit/s, or as much as they can take. The bare download moves the "
        "level's tiles alone, from where they are known to lie, over as many connections, and "
        "makes no image. Start and listing count in the seconds, but not in how busy the link was. "
        "The stand-in serves from the same cores, and what it takes nobody else could have."
    )


def _of_profile(measured: Profile) -> str:
    return (
        f"What the processor's time goes to with no link's limit, of {measured.slides} slides of "
        f"{measured.kind.name}: by what each thread was doing whenever it had been on a core. "
        "Decoding, resizing and packing leave the interpreter to the other threads."
    )


def _profile_rows(measured: Profile) -> Iterator[Sequence[str]]:
    for what, share in measured.shares.items():
        yield what, f"{share:.1%}"


def _of_points() -> str:
    return (
        f"Slides of {SMALL.name}, a base level alone, by the network of the first table, "
        f"{scaling.WORKERS} at a time by `range`; the published ways, which are straight lines, "
        f"are timed up to {FEW} slides."
    )


def _link_rows(links: Sequence[Shared]) -> Iterator[Sequence[str]]:
    for measured in links:
        yield (
            "no limit" if measured.rate is None else f"{measured.rate * 8 / 1e6:g} Mbit/s",
            str(measured.slides),
            number(measured.seconds / measured.slides),
            number(measured.bare / measured.slides),
            number(measured.over_bare),
            "" if measured.busy is None else f"{measured.busy:.0%}",
            f"{measured.cpu:.0%}",
            f"{measured.serving:.0%}",
        )


def _point_rows(points: Sequence[Point]) -> Iterator[Sequence[str]]:
    for point in points:
        each = point.seconds / point.slides * 1000
        yield f"{point.slides:,}", point.way, number(point.seconds), number(each)


def _aim_rows(aims: Sequence[Aim]) -> Iterator[Sequence[str]]:
    for aim in aims:
        yield aim.of, aim.what, aim.came, aim.aim, "yes" if aim.reached else "**no**"


def _peak_rows(peaks: Sequence[Peak]) -> Iterator[Sequence[str]]:
    for peak in peaks:
        cost = peak.footprint
        yield peak.slides, f"{cost.seconds:.1f}", f"{cost.peak / 1e6:.0f}"


def _timing_rows(timings: Sequence[Timing]) -> Iterator[Sequence[str]]:
    seconds = {(timing.kind, timing.way): timing.seconds for timing in timings}
    for timing in timings:
        theirs = [seconds.get((timing.kind, way)) for way in (A, B)]
        yield (
            timing.kind.name,
            timing.way,
            str(timing.slides),
            number(timing.seconds),
            number(timing.bytes / 1e6),
            number(timing.requests),
            {True: "known", False: "unknown", None: ""}[timing.known],
            *("" if other is None else number(other / timing.seconds) for other in theirs),
        )


def _decoding_rows(decodings: Sequence[Decoding]) -> Iterator[Sequence[str]]:
    for measured in decodings:
        name = f"{measured.kind.name}, {measured.pixels / 1e6:.0f} Mpx"
        for way, seconds in measured.seconds.items():
            each = seconds / measured.pixels * 1e9
            over = measured.times(way, BARE)
            differs = number(measured.difference) if way == OURS_FAST else ""
            yield name, way, f"{seconds:.2f}", f"{each:.2f}", f"{over:.2f}", differs


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    >>> print(table(("way", "s"), [("A", "136")]))
    | way | s   |
    |-----|-----|
    | A   | 136 |
    """
    listed = [list(columns), *(list(row) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*listed, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in listed]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
