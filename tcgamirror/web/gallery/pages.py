"""The three pages as HTML; values of the catalogue are escaped or inserted by the scripts."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tcgamirror.catalogue.reports import Counts
from tcgamirror.model.text import format_bytes, format_duration
from tcgamirror.web.gallery import charts
from tcgamirror.web.gallery.charts import Bar, Part
from tcgamirror.web.gallery.entries import sanitize
from tcgamirror.web.gallery.statistics import Statistics

_POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; "
    "img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
)
"""`file:` because browsers differ on what 'self' is for a page that was opened from disk."""

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect x='1' y='4' width='14' height='8' rx='2' fill='%230b6e75'/%3E"
    "%3Ccircle cx='9' cy='8' r='2.4' fill='%23f3b6cf'/%3E%3C/svg%3E"
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>{title} · TCGA mirror</title>
<link rel="icon" href="{icon}">
<link rel="stylesheet" href="style.css">
{scripts}</head>
<body class="{name}">
<a class="skip" href="#main">Skip to the content</a>
<header class="top">
<p class="brand">TCGA mirror</p>
<p class="about">{about}</p>
<nav aria-label="Pages">{links}</nav>
</header>
<main id="main" tabindex="-1">
{main}</main>
<footer>
<p>{footer}</p>
</footer>
</body>
</html>
"""

_CREDIT = (
    "Slides: The Cancer Genome Atlas, by the NCI Genomic Data Commons. "
    "Made by tcgamirror; nothing on these pages is loaded from elsewhere."
)

_GRID = """\
<h1 class="hidden">Slides</h1>
<form class="filters" role="search" aria-label="Filter the slides">
<label class="wide">Search
<input type="search" id="text" autocomplete="off" spellcheck="false"
 placeholder="barcode, file_id, site, error …" aria-keyshortcuts="/"></label>
<label>Project <select id="project"></select></label>
<label>Site <select id="site"></select></label>
<label>Kind <select id="kind"></select></label>
<label>Status <select id="status"></select></label>
<label hidden>Label <select id="label"></select></label>
<label hidden>Value <select id="value"></select></label>
<label>Order <select id="sort">
<option value="">Project</option>
<option value="barcode">Barcode</option>
<option value="rank">Rank in the sample</option>
<option value="newest">Fetched last</option>
<option value="finest">Finest first</option>
</select></label>
<button type="reset">Clear</button>
</form>
<div class="results">
<p id="count" role="status" aria-live="polite"></p>
<nav class="pager" aria-label="Pages of slides"></nav>
</div>
<ul class="grid" id="grid" aria-label="Slides"></ul>
<p class="empty" id="empty" hidden>No slide is like that. <a href="index.html#">Show all</a></p>
<nav class="pager low" aria-label="Pages of slides, again"></nav>
<template id="card"><li><a class="card">
<span class="thumb"><img alt="" decoding="async" hidden><span class="none"></span></span>
<span class="name"></span>
<span class="line"><span class="project"></span><span class="mpp"></span></span>
<span class="line"><span class="source"></span><span class="status"></span></span>
</a></li></template>
<noscript><p class="note">The grid is made by the scripts beside this page, which this browser
does not run. The <a href="overview.html">overview</a> does without.</p></noscript>
"""

_SLIDE = """\
<nav class="steps" aria-label="Slides">
<a id="back" href="index.html">All slides</a>
<span id="place"></span>
<a id="before" rel="prev" aria-keyshortcuts="ArrowLeft">Previous</a>
<a id="after" rel="next" aria-keyshortcuts="ArrowRight">Next</a>
</nav>
<h1 id="title" tabindex="-1">Slide</h1>
<p class="under" id="under"></p>
<div class="split">
<section class="viewer" aria-label="Image">
<div class="zoom" role="group" aria-label="Size of the image" hidden>
<button type="button" data-zoom="fit" aria-pressed="true">Fit</button>
<button type="button" data-zoom="1" aria-pressed="false">100 %</button>
<button type="button" data-zoom="2" aria-pressed="false">200 %</button>
<button type="button" data-zoom="4" aria-pressed="false">400 %</button>
<a id="open" hidden>Open the file</a>
</div>
<div class="pane" id="pane" role="region" aria-label="Image, scrolls when enlarged">
<div class="stage" id="stage"><img id="image" hidden>
<div class="scale" id="scale" role="img" hidden><span class="bar" id="bar"></span>
<span id="length"></span></div></div>
</div>
<p class="note" id="said" role="status"></p>
</section>
<section class="facts" id="facts" aria-label="What the catalogue says"></section>
</div>
<noscript><p class="note">A slide is shown by the scripts beside this page, which this browser
does not run.</p></noscript>
"""


def all_pages(target: str, statistics: Statistics) -> Iterator[tuple[str, str]]:
    """Yield name and text of each page."""
    release = str(sanitize(statistics.counts.release or "nothing listed yet"))
    about = f"{escape(target)} · <bdi>{escape(release)}</bdi>"
    grid = ("common.js", "index.js", "grid.js")
    hint = "Keys: / searches. "
    yield "index.html", _page("index", "Slides", about, _GRID, grid, hint)
    viewer = ("common.js", "index.js", "viewer.js")
    hint = "Keys: ← → go to other slides, 0 fits the image, 1 2 4 enlarge it. "
    yield "slide.html", _page("slide", "Slide", about, _SLIDE, viewer, hint)
    yield "overview.html", _page("overview", "Overview", about, _overview(statistics), (), "")


def _page(name: str, title: str, about: str, main: str, scripts: tuple[str, ...], hint: str) -> str:
    current = {name: ' aria-current="page"'}
    links = "".join(
        f'<a href="{page}.html"{current.get(page, "")}>{words}</a>'
        for page, words in (("index", "Slides"), ("overview", "Overview"))
    )
    return _PAGE.format(
        policy=_POLICY,
        icon=_ICON,
        title=title,
        name=name,
        about=about,
        links=links,
        main=main,
        scripts="".join(f'<script src="{script}" defer></script>\n' for script in scripts),
        footer=f"{hint}{_CREDIT}",
    )


# The overview --------------------------------------------------------------------


def _overview(statistics: Statistics) -> str:
    counts = statistics.counts
    parts = [
        "<h1>Overview</h1>\n",
        _tiles(counts),
        '<div class="charts">',
        _projects(counts),
        charts.histogram(
            "bases", "Resolution of the slides' bases", "µm per pixel", statistics.bases
        ),
        charts.histogram(
            "images",
            f"Resolution of the images{_unknown(statistics)}",
            "µm per pixel",
            statistics.images,
        ),
        *_sources(counts),
        _failures(statistics),
        "</div>\n",
    ]
    return "".join(parts)


def _unknown(statistics: Statistics) -> str:
    return f" ({statistics.unknown:,} of unknown one)" if statistics.unknown else ""


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
        pending = row.sampled - row.done - row.failed
        parts = (("done", row.done), ("failed", row.failed), ("pending", pending))
        rows.append(
            Bar(
                label=str(sanitize(row.project or "unknown")),
                parts=[Part(look, count) for look, count in parts],
                shown=f"{row.sampled:,}",
                cells=[f"{count:,}" for count in (row.sampled, row.done, row.failed, pending)]
                + [format_bytes(row.bytes)],
            )
        )
    columns = ("project", "sampled", "done", "failed", "pending", "images")
    key = "".join(
        f'<span class="key {name}">{name}</span>' for name in ("done", "failed", "pending")
    )
    chart = charts.bars("projects", "Slides per project", columns, rows)
    return chart.replace("</h2>", f'</h2>\n<p class="keys">{key}</p>', 1)


def _sources(counts: Counts) -> Iterator[str]:
    def row(source: str, value: float, shown: str, *cells: str) -> Bar:
        return Bar(str(sanitize(source)), [Part("plain", value)], shown, [*cells, shown])

    by_bytes = [
        row(each.source, each.bytes_fetched, format_bytes(each.bytes_fetched), f"{each.images:,}")
        for each in counts.by_source
    ]
    yield charts.bars("moved", "Bytes by source", ("source", "images", "moved"), by_bytes)
    by_time = [
        row(each.source, each.seconds, format_duration(each.seconds), f"{each.tries:,}")
        for each in counts.by_source
    ]
    yield charts.bars("spent", "Time by source", ("source", "tries", "time"), by_time)


def _failures(statistics: Statistics) -> str:
    if not statistics.failures:
        return (
            '<section class="chart" aria-labelledby="failures"><h2 id="failures">Failures by '
            'reason</h2><p class="note">No slide has failed.</p></section>\n'
        )
    rows = [
        Bar(
            label=each.fault,
            parts=[Part("failed", each.slides)],
            shown=f"{each.slides:,} ({each.source})",
            cells=[each.source, f"{each.slides:,}"],
        )
        for each in statistics.failures
    ]
    chart = charts.bars("failures", "Failures by reason", ("reason", "source", "slides"), rows)
    see = '<p class="note"><a href="index.html#status=failed">See the failed slides</a></p>'
    return chart.replace("<details>", f"{see}<details>", 1)
