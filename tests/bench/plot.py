"""Draw seconds against slides: both axes in powers of ten, a line for each way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 30, 50
COLOURS = ("#0b6e4f", "#b23a48", "#3f5fbf", "#8a6d1f")


@dataclass(frozen=True, slots=True)
class Point:
    """The seconds of one way on a number of slides."""

    way: str
    slides: int
    seconds: float


def svg(title: str, points: Sequence[Point]) -> str:
    """Return a self-contained picture. Raises ValueError without points."""
    across = _decades([point.slides for point in points])
    up = _decades([point.seconds for point in points])
    ways = list(dict.fromkeys(point.way for point in points))
    parts = [*_grid(across, up)]
    for way, colour in zip(ways, COLOURS, strict=False):
        mine = [point for point in points if point.way == way]
        places = [(_x(point.slides, across), _y(point.seconds, up)) for point in mine]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" fill="{colour}">{escape(way)}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _decades(values: Sequence[float]) -> range:
    """Return the powers of ten that enclose all of `values`."""
    return range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)


def _x(slides: float, across: range) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(slides) - across[0]) / (len(across) - 1)


def _y(seconds: float, up: range) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log10(seconds) - up[0]) / (len(up) - 1)


def _grid(across: range, up: range) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for power in across:
        x = _x(10**power, across)
        yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10**power:,}</text>'
    for power in up:
        y = _y(10.0**power, up)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:,g}</text>'
    middle = (LEFT + right) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">slides</text>'
    yield f'<text x="{LEFT + 6}" y="{TOP + 14}">seconds</text>'
