"""The overview page: numbers of the mirror, as tables with a bar in each row.

A bar is inline SVG. The style sheet gives the colours of its parts, for light and dark.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.catalogue.reports import Counts
from tcgamirror.model.text import format_bytes, format_duration
from tcgamirror.web.gallery.entries import Entries, Fact, sanitize

MOST_BINS = 16

_FAILURES = """
SELECT coalesce(last.fault, 'unknown'), coalesce(last.source, 'none'), count(*)
FROM mirror LEFT JOIN attempts AS last ON last.attempt = (
    SELECT max(attempt) FROM attempts WHERE attempts.file_name = mirror.file_name
)
WHERE mirror.status = 'failed' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""


class _Row(NamedTuple):
    """Row of a chart. parts: class and length of each part of its bar. cells: beside the bar."""

    label: str
    parts: Sequence[tuple[str, float]]
    cells: Sequence[str]


def build_overview(catalogue: Catalogue, counts: Counts, entries: Entries) -> str:
    """Return the page's content."""
    states = zip(entries.column("status"), entries.column("mpp_x"), strict=True)
    unknown = sum(status == "done" and mpp is None for status, mpp in states)
    unknowns = f" ({unknown:,} unknown)" if unknown else ""
    charts = [
        _projects(counts),
        _resolutions("bases", "Resolution of the slides' bases", entries.column("base_mpp")),
        _resolutions("images", f"Resolution of the images{unknowns}", entries.column("mpp_x")),
        _sources(counts),
        _failures(catalogue),
    ]
    return f'<h1>Overview</h1>\n{_tiles(counts)}<div class="charts">\n{"".join(charts)}</div>\n'


def _tiles(counts: Counts) -> str:
    tiles = (
        ("sampled", f"{counts.sampled:,}", f"of {counts.listed:,} listed"),
        ("done", f"{counts.done:,}", format_bytes(counts.bytes)),
        ("pending", f"{counts.pending:,}", ""),
        ("failed some" if counts.failed else "failed", f"{counts.failed:,}", ""),
        ("moved", format_bytes(counts.bytes_fetched), "over the network"),
    )
    items = "".join(
        f'<div class="tile {name}"><dt>{name.split()[0]}</dt>'
        f"<dd><b>{value}</b> <small>{more}</small></dd></div>"
        for name, value, more in tiles
    )
    return f'<dl class="tiles">{items}</dl>\n'


def _projects(counts: Counts) -> str:
    rows = []
    for row in counts.by_project:
        parts = {"done": row.done, "failed": row.failed}
        parts["pending"] = row.sampled - sum(parts.values())
        cells = [f"{count:,}" for count in (row.sampled, *parts.values())]
        label = row.project or "unknown"
        rows.append(_Row(label, list(parts.items()), [*cells, format_bytes(row.bytes)]))
    keys = ("done", "failed", "pending")
    note = "".join(f'<span class="key {name}">{name}</span>' for name in keys)
    columns = ("project", "sampled", *keys, "images")
    return _chart("projects", "Slides per project", columns, rows, f'<p class="keys">{note}</p>\n')


def _sources(counts: Counts) -> str:
    rows = [
        _Row(
            each.source,
            [("plain", each.bytes_fetched)],
            [
                f"{each.images:,}",
                format_bytes(each.bytes_fetched),
                f"{each.tries:,}",
                format_duration(each.seconds),
            ],
        )
        for each in counts.by_source
    ]
    return _chart("moved", "Bytes by source", ("source", "images", "moved", "tries", "time"), rows)


def _failures(catalogue: Catalogue) -> str:
    rows = [
        _Row(str(fault), [("failed", int(str(slides)))], [str(source), str(slides)])
        for fault, source, slides in catalogue.reports.query(_FAILURES).rows
    ]
    see = '<a href="index.html#status=failed">See the failed slides</a>'
    note = f'<p class="note">{see if rows else "No slide has failed."}</p>\n'
    return _chart("failures", "Failures by reason", ("reason", "source", "slides"), rows, note)


def _resolutions(name: str, title: str, facts: Iterable[Fact]) -> str:
    # Only plausible values, so that they fit an axis.
    values = [fact for fact in facts if isinstance(fact, int | float) and 1e-4 < fact < 1e6]
    rows = [
        _Row(f"{low:g} to {high:g}", [("plain", count)], [f"{count:,}"])
        for low, high, count in count_bins(values)
    ]
    return _chart(name, title, ("µm per pixel", "slides"), rows)


def _chart(
    name: str, title: str, columns: Sequence[str], rows: Sequence[_Row], note: str = ""
) -> str:
    """Return a table with bars. name: id, unique on the page. note: HTML above the table."""
    most = max((sum(value for _, value in row.parts) for row in rows), default=0) or 1
    first, *others = (f'<th scope="col">{column}</th>' for column in columns)
    head = f"<thead><tr>{first}<td></td>{''.join(others)}</tr></thead>\n" if rows else ""
    return (
        f'<section class="chart" aria-labelledby="{name}">\n<h2 id="{name}">{title}</h2>\n{note}'
        f"<table>{head}<tbody>\n{''.join(_draw_row(row, most) for row in rows)}</tbody></table>\n"
        "</section>\n"
    )


def _draw_row(row: _Row, most: float) -> str:
    bar, start = "", 0.0
    for style, value in row.parts:
        width = 100 * value / most
        bar += f'<rect class="{style}" x="{start:.2f}%" width="{width:.2f}%" height="14"/>'
        start += width
    label, *cells = (escape(str(sanitize(text))) for text in (row.label, *row.cells))
    values = "".join(f"<td>{cell}</td>" for cell in cells)
    svg = f'<svg aria-hidden="true">{bar}</svg>'
    return f'<tr><th scope="row">{label}</th><td>{svg}</td>{values}</tr>\n'


def count_bins(values: Sequence[float]) -> Sequence[tuple[float, float, int]]:
    """Return start, end and count of the filled bins, at most MOST_BINS, of one round width.

    >>> [(low, count) for low, _, count in count_bins([15.0, 15.01, 15.03])]
    [(15.0, 1), (15.01, 1), (15.03, 1)]
    >>> count_bins([0.25, 0.25])
    [(0.25, 0.2502, 2)]
    """
    if not values:
        return []
    least, most = min(values), max(values)
    width = round_up(max((most - least) / (MOST_BINS - 1), most / 2000))
    counted = Counter(math.floor(value / width + 1e-9) for value in values)
    return [
        (_tidy(place * width), _tidy((place + 1) * width), count)
        for place, count in sorted(counted.items())
    ]


def round_up(least: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is not below `least`.

    >>> round_up(0.0031), round_up(14), round_up(5)
    (0.005, 20.0, 5.0)
    """
    power = 10.0 ** math.floor(math.log10(least))
    return _tidy(
        next(times * power for times in (1, 2, 5, 10) if times * power >= 0.999999 * least)
    )


def _tidy(value: float) -> float:
    """Return a value without the rounding errors of binary fractions."""
    return float(f"{value:.10g}")
