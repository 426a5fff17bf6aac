"""Read slides and data releases from the GDC API; the client does the HTTP.

Source: the endpoints `/status`, `/files` and `/files/versions`. Answers are not trusted: any
part may be missing or of another type. A listing is refused if a file_id or a name in it is
unsafe in a path or a URL. Any other invalid value of a slide counts as missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from tcgamirror.model import fields
from tcgamirror.model.errors import WrongContent
from tcgamirror.model.slide import SLIDE_SUFFIX, Barcode, Kind, Listing, Slide
from tcgamirror.model.text import display_url
from tcgamirror.system.parallel import in_batches

PAGE_SIZE = 1000
"""Hits of a page; the GDC times out on much larger ones."""

PAGES_AT_ONCE = 3
"""Pages requested at the same time. The client allows one more connection, for other requests."""

MAX_HITS = 10_000_000
"""Most hits of a plausible listing; TCGA has 30,000 slides."""

VALUES_PER_REQUEST = 500
"""Most values of a filter in one request to `/files`, and file_ids in one to `/files/versions`."""

_FIELDS = (
    "file_id",
    "file_name",
    "md5sum",
    "file_size",
    "state",
    "experimental_strategy",
    "data_format",
    "updated_datetime",
    "version",
    "data_release",
    "cases.case_id",
    "cases.submitter_id",
    "cases.primary_site",
    "cases.disease_type",
    "cases.project.project_id",
    "cases.samples.sample_type",
    "cases.samples.submitter_id",
    "cases.samples.portions.slides.submitter_id",
)
_KINDS = (("Diagnostic Slide", Kind.DIAGNOSTIC), ("Tissue Slide", Kind.TISSUE))
_STATUS_BYTES = 1 << 20
"""Most bytes of an answer of `/status`."""
_PAGE_BYTES = 1 << 20
"""Most bytes of any other answer, without its hits."""
_HIT_BYTES = 1 << 14
"""Most bytes of a hit, on average."""

Part = Mapping[str, object]
Item = TypeVar("Item")
Result = TypeVar("Result")


class JsonClient(Protocol):
    """The part of `HttpClient` that this module needs."""

    def json(
        self, url: str, *, payload: Mapping[str, object] | None = None, limit: int
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """A page of hits.

    items: What was parsed from the hits. seen: Hits of this page and of those before.
    total: Hits of all pages, but see `read_batches`.
    """

    items: list[Item]
    seen: int
    total: int


class _ListingChanged(WrongContent, fault=WrongContent.fault):
    """The number of hits changed between two pages."""


def read_release(client: JsonClient, api: str) -> str:
    """Return the data release, such as `Data Release 45.0 - December 04, 2025`.

    An older server has none. The answer is then `API` and the server's tag, such as `API 1.2.0`.

    Raises WrongContent if the answer is not the GDC's.
    """
    url = f"{api}/status"
    answer = client.json(url, limit=_STATUS_BYTES)
    status = part_of(answer)
    if "data_release" in status or "status" in status:
        release = fields.text(status.get("data_release"))
        tag = fields.text(status.get("tag"))
        if release is not None:
            return release
        if tag is not None:
            return f"API {tag}"
    raise WrongContent(
        f"{display_url(url)} does not answer with a data release, as the GDC does: {answer!r:.80}"
    )


def read_listing(
    client: JsonClient,
    api: str,
    page_size: int = PAGE_SIZE,
    on_page: Callable[[int, int], None] | None = None,
) -> Listing:
    """Return all open TCGA slides of the current data release, held in memory.

    Raises WrongContent for an invalid hit and for pages that do not add up.

    Args:
        on_page: called after each page with the hits so far and the total.
    """
    release = read_release(client, api)
    return Listing(release, stream_slides(client, api, tuple, page_size, on_page))


def stream_slides(
    client: JsonClient,
    api: str,
    consume: Callable[[Iterator[Slide]], Result],
    page_size: int = PAGE_SIZE,
    on_page: Callable[[int, int], None] | None = None,
) -> Result:
    """Return what `consume` returns for an iterator of all open TCGA slides, sorted by file_id.

    If the listing changes meanwhile, `consume` is called once more, with a new iterator. The
    iterator raises WrongContent as `read_listing` does.
    """
    try:
        return consume(_read_slides(client, api, page_size, on_page))
    except _ListingChanged:
        try:
            return consume(_read_slides(client, api, page_size, on_page))
        except _ListingChanged as change:
            raise WrongContent(f"{change}. The listing changed twice. Try again later") from None


def read_first_slides(client: JsonClient, api: str, count: int) -> tuple[list[Slide], int]:
    """Return the open TCGA slides with the `count` lowest file_ids, and the number of all."""
    page = next(read_pages(client, f"{api}/files", _parse_slides, count))
    return page.items, page.total


def find_slides(client: JsonClient, api: str, field: str, values: Sequence[str]) -> Iterator[Slide]:
    """Yield the open TCGA slides with one of these values in a field, such as `file_id`."""
    for page in read_batches(client, f"{api}/files", _parse_slides, field, values, _FIELDS):
        yield from page.items


def read_latest_versions(client: JsonClient, api: str, file_ids: Sequence[str]) -> dict[str, str]:
    """Return the newest version's file_id for each file_id that the GDC knows, often the same."""
    url = f"{api}/files/versions"
    latest: dict[str, str] = {}
    for start in range(0, len(file_ids), VALUES_PER_REQUEST):
        batch = list(file_ids[start : start + VALUES_PER_REQUEST])
        limit = _PAGE_BYTES + len(batch) * _HIT_BYTES
        answer = client.json(url, payload={"ids": batch}, limit=limit)
        if not isinstance(answer, list):
            raise WrongContent(f"{display_url(url)}: expected a list of versions")
        for row in map(part_of, answer):
            old, new = fields.file_id(row.get("id")), fields.file_id(row.get("latest_id"))
            if old is not None and new is not None:
                latest[old] = new
    return latest


def _read_slides(
    client: JsonClient, api: str, page_size: int, on_page: Callable[[int, int], None] | None
) -> Iterator[Slide]:
    """Yield all open TCGA slides. Raises WrongContent if a slide is listed twice, or none is."""
    url = f"{api}/files"
    seen: set[str] = set()
    for page in read_pages(client, url, _parse_slides, page_size):
        for slide in page.items:
            if slide.file_id in seen:
                raise WrongContent(f"{display_url(url)} lists the file {slide.file_id} twice")
            seen.add(slide.file_id)
            yield slide
        if on_page is not None:
            on_page(page.seen, page.total)
    if not seen:
        raise WrongContent(f"{display_url(url)} lists no TCGA slide at all")


def _parse_slides(url: str, hits: Sequence[Part]) -> Iterator[Slide]:
    """Yield the slides among hits. Raises WrongContent for a hit without a safe id and name."""
    for hit in hits:
        file_id = fields.file_id(hit.get("file_id"))
        file_name = fields.file_name(hit.get("file_name"))
        if file_id is None or file_name is None:
            raise WrongContent(
                f"{display_url(url)} lists a file with a missing or unsafe name or file_id: "
                f"{hit!r:.120}"
            )
        if file_name.lower().endswith(SLIDE_SUFFIX):
            yield _parse_slide(file_id, file_name, hit)


def read_pages(
    client: JsonClient,
    url: str,
    parse: Callable[[str, Sequence[Part]], Iterable[Item]],
    page_size: int,
    filters: Mapping[str, list[str]] = MappingProxyType({}),
    field_names: Sequence[str] = _FIELDS,
) -> Iterator[Page[Item]]:
    """Yield all pages in order. After the first, PAGES_AT_ONCE are requested at the same time.

    Raises WrongContent for invalid pages, and if the total changes or is not the number of hits.

    Args:
        parse: returns the items of a page; called with the URL and the page's hits.
        filters: values by field; added to the filters of open TCGA slides.
        field_names: fields of each hit.
    """

    def read(start: int, size: int) -> tuple[list[Item], int, int]:
        """Return the items of the page at `start`, how many hits it has, and the total."""
        request = _build_request(size, start, filters, field_names)
        answer = client.json(url, payload=request, limit=_PAGE_BYTES + size * _HIT_BYTES)
        hits, total = _parse_page(url, answer, size)
        return list(parse(url, hits)), len(hits), total

    def read_lean(start: int) -> tuple[list[Item], int, int]:
        try:
            return read(start, size)
        except WrongContent as error:
            # Its frames hold the page: several invalid ones would fill memory.
            raise error.with_traceback(None) from None

    first = read(0, page_size)
    _, size, first_total = first
    # By the size of the first page: a server may give fewer hits than requested.
    starts = range(size, first_total, size) if size else ()
    seen = 0
    with closing(in_batches(read_lean, starts, at_once=PAGES_AT_ONCE, batch_size=1)) as batches:
        rest = (page for ((_, page),) in batches) if starts else ()
        for items, count, total in chain([first], rest):
            if total != first_total:
                raise _ListingChanged(
                    f"{display_url(url)}: {first_total} files became {total} while it was read"
                )
            seen += count
            if seen > total:
                raise WrongContent(f"{display_url(url)} lists more files than its total of {total}")
            yield Page(items, seen, total)
    if seen < first_total:
        raise WrongContent(
            f"{display_url(url)} lists {seen} files, but has a total of {first_total}"
        )


def read_batches(
    client: JsonClient,
    url: str,
    parse: Callable[[str, Sequence[Part]], Iterable[Item]],
    field: str,
    values: Sequence[str],
    field_names: Sequence[str],
) -> Iterator[Page[Item]]:
    """Yield pages of hits with one of these values in a field, such as `file_id`.

    Each page's `total` is the number of values. Its `seen` counts the hits of all batches.
    """
    seen = 0
    for start in range(0, len(values), VALUES_PER_REQUEST):
        filters = {field: list(values[start : start + VALUES_PER_REQUEST])}
        for page in read_pages(client, url, parse, PAGE_SIZE, filters, field_names):
            yield Page(page.items, seen + page.seen, len(values))
        seen += page.seen


def count_files(client: JsonClient, api: str) -> Iterator[tuple[str, int]]:
    """Yield several kinds of files in words, each with the number that the GDC has."""
    url = f"{api}/files"
    queries: dict[str, dict[str, list[str]]] = {"listed": {}}
    for strategy, _ in _KINDS:
        for access in ("open", "controlled"):
            changes = {"experimental_strategy": [strategy], "access": [access]}
            queries[f"{strategy}, {access}"] = changes
    no_filters: dict[str, list[str]] = {"experimental_strategy": [], "access": []}
    queries["Slide Image, of any strategy and access"] = no_filters
    for files, changes in queries.items():
        answer = client.json(url, payload=_build_request(1, 0, changes), limit=_PAGE_BYTES)
        yield files, _parse_page(url, answer, 1)[1]


def _build_request(
    page_size: int,
    start: int,
    changes: Mapping[str, list[str]] = MappingProxyType({}),
    field_names: Sequence[str] = _FIELDS,
) -> dict[str, object]:
    """Return the body of a request to `/files`.

    changes: Values by field, which replace the usual filter. An empty list removes it.
    """
    usual: dict[str, list[str]] = {
        "cases.project.program.name": ["TCGA"],
        "data_type": ["Slide Image"],
        "experimental_strategy": [strategy for strategy, _ in _KINDS],
        "access": ["open"],
    }
    allowed = {field: values for field, values in {**usual, **changes}.items() if values}
    filters = {
        "op": "and",
        "content": [
            {"op": "in", "content": {"field": field, "value": values}}
            for field, values in allowed.items()
        ],
    }
    return {
        "filters": filters,
        "fields": ",".join(field_names),
        "format": "JSON",
        "sort": "file_id:asc",
        "size": page_size,
        "from": start,
    }


def _parse_page(url: str, answer: object, page_size: int) -> tuple[list[Part], int]:
    """Return the hits of a page, at most `page_size`, and the number of all hits."""
    data = part_of(part_of(answer).get("data"))
    hits, total = data.get("hits"), part_of(data.get("pagination")).get("total")
    if not isinstance(hits, list) or not all(isinstance(hit, dict) for hit in hits):
        raise WrongContent(f"{display_url(url)}: expected a list of hits")
    if len(hits) > page_size:
        raise WrongContent(f"{display_url(url)} lists more files than the {page_size} requested")
    if isinstance(total, bool) or not isinstance(total, int) or not 0 <= total <= MAX_HITS:
        raise WrongContent(f"{display_url(url)} has an invalid total of {total!r:.40} files")
    return hits, total


def _parse_slide(file_id: str, file_name: str, hit: Part) -> Slide:
    """Return the slide of a hit.

    Barcodes are those in the file name, if it has any. They also tell a missing kind or sample
    type.
    """
    barcode = Barcode.of(file_name)
    case = _find_owner(parts_of(hit.get("cases")), barcode.case if barcode else None)
    samples = parts_of(case.get("samples"))
    sample = _find_owner(samples, barcode.slide if barcode else None)
    listed_barcodes = chain(*map(_list_barcodes, samples))
    version = hit.get("version")
    kind = dict(_KINDS).get(str(hit.get("experimental_strategy")))
    sample_type = fields.text(sample.get("sample_type"))
    return Slide(
        file_id=file_id,
        file_name=file_name,
        md5=fields.md5(hit.get("md5sum")),
        size=fields.size(hit.get("file_size")),
        kind=kind or (barcode.kind if barcode else None),
        project_id=fields.project_id(part_of(case.get("project")).get("project_id")),
        primary_site=fields.text(case.get("primary_site")),
        disease_type=fields.text(case.get("disease_type")),
        sample_type=sample_type or (barcode.sample_type if barcode else None),
        case_barcode=barcode.case if barcode else fields.text(case.get("submitter_id")),
        slide_barcode=barcode.slide if barcode else next(listed_barcodes, None),
        state=fields.text(hit.get("state")),
        version=fields.text(str(version) if isinstance(version, int) else version),
        data_release=fields.text(hit.get("data_release")),
        updated=fields.text(hit.get("updated_datetime")),
    )


def _find_owner(parts: Sequence[Part], barcode: str | None) -> Part:
    """Return the case or sample to which the slide belongs.

    It is the first that the slide's barcode begins with, or that lists the barcode. If there is
    none, it is the first of all.
    """
    for part in parts:
        name = part.get("submitter_id")
        if barcode is not None and (
            (isinstance(name, str) and name and f"{barcode}-".startswith(f"{name}-"))
            or barcode in _list_barcodes(part)
        ):
            return part
    return parts[0] if parts else {}


def _list_barcodes(sample: Part) -> Iterator[str]:
    """Yield the barcodes of a sample's slides, listed in the sample or in its portions."""
    for holder in (sample, *parts_of(sample.get("portions"))):
        for slide in parts_of(holder.get("slides")):
            name = fields.text(slide.get("submitter_id"))
            if name is not None:
                yield name


def part_of(value: object) -> Part:
    """Return a JSON object, or an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def parts_of(value: object) -> list[Part]:
    """Return the JSON objects of a list, or a single one as a list. Leave out other values."""
    parts = value if isinstance(value, list) else [value]
    return [part for part in parts if isinstance(part, dict)]
