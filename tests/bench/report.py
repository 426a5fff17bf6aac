"""The tables of the bench, as Markdown that also reads well on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.bench import network
from tests.bench.aims import Aim, number
from tests.bench.decoding import BARE, Decoding
from tests.bench.machine import machine
from tests.bench.material import MPP
from tests.bench.memory import Peak
from tests.bench.ways import A, B, Timing

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


@dataclass(frozen=True, slots=True)
class Results:
    """Timings of one kind stand together; those of A and B, where they are, among them."""

    timings: Sequence[Timing]
    decodings: Sequence[Decoding]
    peaks: Sequence[Peak]
    aims: Sequence[Aim]


def markdown(results: Results) -> str:
    """All tables, with when and where they were made and how to read them."""
    return "\n\n".join(
        [
            "# Side by side with the published way",
            f"{datetime.now(UTC):%Y-%m-%d}, on {machine()}.",
            _how_to_read(),
            table(
                TIMED,
                _timing_rows(results.timings),
            ),
            "## Aims",
            table(
                ("of", "what", "came to", "aim", "reached"),
                [
                    (aim.of, aim.what, aim.came, aim.aim, "yes" if aim.reached else "**no**")
                    for aim in results.aims
                ],
            ),
            "## Decoding and assembling one level, one thread",
            table(
                ("level", "way", "CPU s", "ns a pixel", "times bare decoding"),
                _decoding_rows(results.decodings),
            ),
            "## Peak memory of `update`, four slides at once, by range, no delays",
            table(
                ("slides", "s", "MB"),
                [
                    (
                        peak.slides,
                        f"{peak.footprint.seconds:.1f}",
                        f"{peak.footprint.peak / 1e6:.0f}",
                    )
                    for peak in results.peaks
                ],
            ),
        ]
    )


def _how_to_read() -> str:
    in_all = network.DELAY + network.TILE_DELAY
    return (
        f"All ways make the same images, at {MPP:g} µm per pixel, of the same made slides, from a "
        "stand-in GDC on the same machine in the same run: "
        f"{network.DELAY * 1000:g} ms a request, {network.RATE / 1e6:g} MB/s a connection, "
        f"{in_all:g} s a Deep Zoom tile in all. Read down a slide's rows: a way's seconds are "
        "those of the whole run, its start and its listing too, divided by its slides, so `whole` "
        "and the others of this project, with four workers, take four times as long for one slide "
        "alone. A and B work on one slide after another, as published, and so "
        "need few slides; the bare download is of the level's tiles alone, from where they are "
        "known to lie, over as many connections as `range` has: the limit. Seconds are medians "
        "where a way is repeated. A slide with a base level alone is no use to `range`: all of it "
        "has to be moved. Ratios carry over to other machines; seconds do not."
    )


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
            yield name, way, f"{seconds:.2f}", f"{each:.2f}", f"{over:.2f}"


def table(columns: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
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
