"""The three pages as HTML; values of the catalogue are escaped or inserted by the scripts."""

from __future__ import annotations

from html import escape

from tcgamirror.web.gallery.entries import sanitize

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


def all_pages(target: str, release: str | None, overview: str) -> dict[str, bytes]:
    """Return the text of each page by its name. overview: content of that page, as HTML."""
    listed = escape(str(sanitize(release or "nothing listed yet")))
    about = f"{escape(target)} · <bdi>{listed}</bdi>"
    keys = "Keys: ← → go to other slides, 0 fits the image, 1 2 4 enlarge it. "
    pages = (
        _page("index", about, "Slides", _GRID, "grid.js", "Keys: / searches. "),
        _page("slide", about, "Slide", _SLIDE, "viewer.js", keys),
        _page("overview", about, "Overview", overview),
    )
    return {f"{name}.html": text.encode() for name, text in pages}


def _page(
    name: str, about: str, title: str, main: str, script: str = "", hint: str = ""
) -> tuple[str, str]:
    """Return name and text of a page. script: the page's own, if it needs the data."""
    links = '<a href="index.html">Slides</a><a href="overview.html">Overview</a>'
    scripts = ("common.js", "index.js", script) if script else ()
    return name, _PAGE.format(
        policy=_POLICY,
        icon=_ICON,
        title=title,
        name=name,
        about=about,
        links=links.replace(f'"{name}.html"', f'"{name}.html" aria-current="page"'),
        main=main,
        scripts="".join(f'<script src="{each}" defer></script>\n' for each in scripts),
        footer=f"{hint}{_CREDIT}",
    )
