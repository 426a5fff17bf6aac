"""Raw answers of the servers, for a report to somebody who cannot ask them.

Nothing here judges an answer. What could be secret is left out: cookies,
credentials, queries of redirects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from json import JSONDecodeError, loads

from tcgamirror.imaging.deepzoom import DeepZoom
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.errors import NetworkError
from tcgamirror.model.slide import Slide
from tcgamirror.model.text import display_url, printable
from tcgamirror.net.client import HttpClient
from tcgamirror.net.response import HttpResponse
from tcgamirror.sources import gdc
from tcgamirror.sources.origins import Origin

PART = 1 << 16
"""Bytes asked for, and bytes of a body that are read at most."""

SHOWN = 16
"""Bytes of a body that are shown."""

_SECRET = ("cookie", "auth", "token", "secret", "session", "signature", "key", "client", "forward")
"""In the name of a header whose value is left out."""

_TILES_WITHOUT_METADATA = 8
"""The level that is asked for where the metadata does not come."""


def probes(settings: Settings, client: HttpClient, slide: Slide | None) -> Iterator[str]:
    """Yield the lines of the report: counts of the listing, then the answers about one slide."""
    yield "counts of the listing"
    try:
        for what, count in gdc.count_files(client, settings.api):
            yield f"  {count:>9,}  {what}"
    except NetworkError as error:
        yield f"  {printable(str(error))}"
    if slide is None:
        yield "\nanswers\n  not tried: no slide is known to try it with"
        return
    size = "unknown size" if slide.size is None else f"{slide.size:,} bytes"
    yield f"\nanswers for {slide.file_id} ({slide.file_name}, {size} as listed)"
    bucket = [Origin("bucket", settings.bucket)] if settings.bucket else []
    for origin in (*bucket, Origin("gdc", settings.api)):
        name = "/data" if origin.name == "gdc" else origin.name
        for what, start in (("first bytes", 0), ("beyond the end", slide.size)):
            if start is not None:
                headers = {"Range": f"bytes={start}-{start + PART - 1}"}
                yield from _answer(client, f"{name}, {what}", origin.url(slide), headers)
    yield from _tiles(settings.tiles, client, slide)


def _tiles(address: str, client: HttpClient, slide: Slide) -> Iterator[str]:
    url = f"{address}/metadata/{slide.file_id}"
    yield from _answer(client, "tiles, metadata", url, {}, text=True)
    level, columns, rows = _TILES_WITHOUT_METADATA, 1 << 20, 1 << 20
    try:
        zoom = DeepZoom.from_metadata(client.json(url, limit=PART))
    except NetworkError as error:
        yield f"  {printable(str(error))}"
    else:
        level = zoom.finest_one_tile_dz_level
        columns, rows = zoom.grid(level).columns, zoom.grid(level).rows
    for what, x, y in (("inside the grid", 0, 0), ("outside the grid", columns, rows)):
        query = f"level={level}&x={x}&y={y}"
        url = f"{address}/{slide.file_id}?{query}"
        yield from _answer(client, f"tiles, {what} ({query})", url, {})


def _answer(
    client: HttpClient, what: str, url: str, headers: Mapping[str, str], *, text: bool = False
) -> Iterator[str]:
    """Yield status line, headers and the body's first bytes. text: whether to show the body."""

    def describe(answer: HttpResponse) -> list[str]:
        lines = [f"  {answer.line}"]
        lines += [f"  {name}: {_value(name, value)}" for name, value in answer.headers.items()]
        body = _beginning(answer)
        lines.append(f"  body begins: {body[:SHOWN].hex(' ') or 'empty'}")
        if b"iCCP" in body or b"ICC_PROFILE" in body:
            lines.append("  body: has a colour profile")
        content = printable(body.decode("utf-8", "replace"), 500) if text else _message(body)
        return [*lines, f"  body: {content}"] if content else lines

    sent = "".join(f", {name}: {value}" for name, value in headers.items())
    yield f"\n{what}\n  GET {display_url(url)}{sent}"
    try:
        yield from client.ask(url, describe, {"Accept-Encoding": "identity", **headers})
    except NetworkError as error:
        yield f"  {printable(str(error))}"


def _beginning(answer: HttpResponse) -> bytes:
    """Return the body up to PART bytes; of a whole file no more is read."""
    body = b""
    for piece in answer.pieces():
        body += piece
        if len(body) >= PART:
            break
    return body[:PART]


def _value(name: str, value: str) -> str:
    if any(word in name.lower() for word in _SECRET):
        return "(left out)"
    return (
        display_url(value) if name.lower() in ("location", "content-location") else printable(value)
    )


def _message(body: bytes) -> str:
    """Return the message of an error as the GDC words it."""
    try:
        error = loads(body)
    except (JSONDecodeError, UnicodeDecodeError, RecursionError):
        return ""
    message = error.get("message") if isinstance(error, dict) else None
    return printable(message) if isinstance(message, str) else ""
