"""Charts as inline SVG, each with a table for readers who cannot see it.

The style sheet gives the colours of classes, for light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tcgamirror.web.gallery.statistics import Bin

WIDTH = 640
ROW = 22
LABEL, VALUE = 150, 110
MOST_ROWS = 60
"""Limit of bars in one chart; TCGA has 33 projects."""

_LONGEST_LABEL = 22
_PLOT_HEIGHT, _AXIS, _MARGIN = 150, 34, 24


@dataclass(frozen=True, slots=True)
class Part:
    """Segment of a bar. look: class that gives its colour."""

    look: str
    value: float


@dataclass(frozen=True, slots=True)
class Bar:
    """Row of a chart. shown: text of its value. cells: row of the table."""

    label: str
    parts: Sequence[Part]
    shown: str
    cells: Sequence[str]


def bars(name: str, title: str, columns: Sequence[str], rows: Sequence[Bar]) -> str:
    """Return a chart of horizontal bars with values beside them.

    name: id, unique on the page. columns: headings of the table, that of the labels first.
    """
    shown = rows[:MOST_ROWS]
    most = max((sum(part.value for part in bar.parts) for bar in shown), default=0) or 1
    shapes = "".join(_bar(bar, number * ROW, most) for number, bar in enumerate(shown))
    height = max(len(shown) * ROW, 1)
    more = len(rows) - len(shown)
    note = f'<p class="note">{more:,} more in the table.</p>' if more > 0 else ""
    table = _table(columns, [[bar.label, *bar.cells] for bar in rows])
    return _chart(name, title, shapes, height, table, note)


def _bar(bar: Bar, top: int, most: float) -> str:
    room = WIDTH - LABEL - VALUE
    left = float(LABEL)
    pieces = []
    for part in bar.parts:
        width = part.value / most * room
        if width > 0:
            pieces.append(
                f'<rect class="{part.look}" x="{left:.2f}" y="{top + 4}" '
                f'width="{max(width, 1):.2f}" height="{ROW - 8}"/>'
            )
        left += width
    label = bar.label
    if len(label) > _LONGEST_LABEL:
        label = f"{label[: _LONGEST_LABEL - 1]}…"
    return (
        f"<g><title>{escape(bar.label)}: {escape(bar.shown)}</title>"
        f'<text class="label" x="{LABEL - 10}" y="{top + 15}">{escape(label)}</text>'
        f"{''.join(pieces)}"
        f'<text x="{left + 8:.2f}" y="{top + 15}">{escape(bar.shown)}</text></g>'
    )


def histogram(name: str, title: str, unit: str, bins: Sequence[Bin]) -> str:
    """Return a chart with a column for each bin and the bins' limits below."""
    most = max((each.count for each in bins), default=0) or 1
    step = min((WIDTH - 2 * _MARGIN) / max(len(bins), 1), 80)
    every = -(-len(bins) * 56 // WIDTH)
    base = 18 + _PLOT_HEIGHT
    shapes = [f'<line class="axis" x1="{_MARGIN}" y1="{base}" x2="{WIDTH - _MARGIN}" y2="{base}"/>']
    for number, each in enumerate(bins):
        left, height = _MARGIN + number * step, each.count / most * _PLOT_HEIGHT
        words = f"{each.low:g} to {each.high:g} {unit}: {each.count:,}"
        shapes.append(f"<g><title>{escape(words)}</title>")
        if each.count:
            height = max(height, 1)
            shapes.append(
                f'<rect class="plain" x="{left + 1:.2f}" y="{base - height:.2f}" '
                f'width="{step - 2:.2f}" height="{height:.2f}"/>'
                f'<text class="middle" x="{left + step / 2:.2f}" '
                f'y="{base - height - 5:.2f}">{_short(each.count)}</text>'
            )
        if number % every == 0:
            shapes.append(f'<text class="tick" x="{left:.2f}" y="{base + 16}">{each.low:g}</text>')
        shapes.append("</g>")
    shapes.append(f'<text class="unit" x="{WIDTH - _MARGIN}" y="{base + 31}">{escape(unit)}</text>')
    rows = [[f"{each.low:g} to {each.high:g}", f"{each.count:,}"] for each in bins]
    table = _table([unit, "slides"], rows)
    return _chart(name, title, "".join(shapes), base + _AXIS, table, "")


def _short(count: int) -> str:
    """Return a count short enough for a narrow column.

    >>> _short(999), _short(1034), _short(12000)
    ('999', '1.0k', '12k')
    """
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"


def _chart(name: str, title: str, shapes: str, height: int, table: str, note: str) -> str:
    return f"""\
<section class="chart" aria-labelledby="{name}">
<h2 id="{name}">{escape(title)}</h2>
<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}">{shapes}</svg>
{note}<details><summary>As a table</summary>{table}</details>
</section>
"""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
