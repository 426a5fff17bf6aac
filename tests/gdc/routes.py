"""Which request gets which answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.gdc.answers import (
    Answer,
    Headers,
    Host,
    Request,
    of_file,
    of_json,
    refusal,
    s3_refusal,
    text,
)
from tests.gdc.listing import (
    DEFAULT_FIELDS,
    FIELDS,
    Listed,
    Listing,
    UnknownFilterError,
    document,
    made_up_id,
)
from tests.gdc.tiles import Tiles

_ID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", re.IGNORECASE)

# A long list of ids in the address of a GET is answered by a 404.
LONGEST_ADDRESS = 4096


@dataclass(slots=True)
class Routes:
    """All answers of both hosts, as they are when nothing goes wrong.

    busy: hosts that answer 503 only. withheld: ids of files without bytes. releases: the
    oldest first; only the last one's files can be had. label: the last one's.
    """

    tiles: Tiles
    data_ranges: bool
    bucket_ranges: bool
    busy: frozenset[Host] = frozenset()
    withheld: frozenset[str] = frozenset()
    releases: tuple[Listing, ...] = ()
    label: str = ""

    def publish(self, files: Sequence[Listed], label: str) -> None:
        self.releases, self.label = (*self.releases, Listing(files)), label

    @property
    def current(self) -> Listing:
        return self.releases[-1]

    def answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD", "POST"):
            return refusal(405, "The method is not allowed for the requested URL.")
        if request.host == "bucket":
            return self._of_bucket(request)
        if "api" in self.busy:
            return text(503, "<html><h1>Down for maintenance</h1></html>", "text/html")
        return self._of_api(request)

    def _of_api(self, request: Request) -> Answer:
        if len(request.target) > LONGEST_ADDRESS:
            return _not_found()
        match request.endpoint.strip("/").split("/"):
            case ["status"]:
                status = {"data_release": self.label, "status": "OK", "tag": "7.9", "version": 1}
                return of_json(status)
            case ["files"]:
                return self._files(request)
            case ["files", "versions"] if request.method == "POST":
                return of_json(self._versions(_json_body(request).get("ids", [])))
            case ["data", file_id]:
                return self._data(request, file_id)
            case ["tile", "metadata", file_id]:
                if file := self.current.by_id.get(file_id):
                    return self.tiles.metadata(file)
            case ["tile", file_id]:
                if file := self.current.by_id.get(file_id):
                    return self.tiles.tile(file, request)
        return _not_found()

    def _versions(self, file_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return the successor of each file that is or was listed; other ids are left out."""
        known = {file_id: file for each in self.releases for file_id, file in each.by_id.items()}
        found = [known[file_id] for file_id in file_ids if file_id in known]
        latest = [self.current.by_name.get(file.file_name) for file in found]
        return [
            {
                "id": old.file_id,
                "filename": old.file_name,
                "version": old.version,
                "latest_id": new and new.file_id,
                "latest_version": new and new.version,
            }
            for old, new in zip(found, latest, strict=True)
        ]

    def _files(self, request: Request) -> Answer:
        asked = {**request.query, **_json_body(request)}
        try:
            filters = asked.get("filters")
            if isinstance(filters, str) and filters:
                filters = json.loads(filters)
            size, start = int(asked.get("size", 10)), int(asked.get("from", 0))
            sort = str(asked.get("sort") or "")
            files = self.current.matching(filters, sort)
        except (UnknownFilterError, ValueError) as error:
            return refusal(400, str(error))
        total = len(files)
        page = files[start : start + size]
        if request.fault == "endless-page" and files:
            page = [_made_up(files[place % total], place) for place in range(start, start + size)]
            total = start + 2 * size + 1
        return of_json(_page(page, asked, total, size, start, sort))

    def _data(self, request: Request, file_id: str) -> Answer:
        file = self.current.by_id.get(file_id)
        if file is None and not _ID.match(file_id):
            return _not_found()
        if file is None or file.access != "open" or file.state not in ("released", "validated"):
            return refusal(403, f"You don't have access to the data: ['{file_id}']")
        if file_id in self.withheld:
            refused = f"Requested file {file.file_name} does not allow read access"
            return refusal(403, f"You don't have access to this resource: {refused}")
        if file.path is None or not file.path.is_file():
            return _not_found()
        headers = (
            ("Content-Type", "application/octet-stream"),
            ("Content-Disposition", f"attachment; filename={file.file_name}"),
            ("Content-MD5", file.md5),
        )
        return of_file(file.path, request, headers, ranges=self.data_ranges)

    def _of_bucket(self, request: Request) -> Answer:
        key = request.path.lstrip("/")
        if "bucket" in self.busy:
            return s3_refusal(503, "SlowDown", "Please reduce your request rate.", key)
        file = self.current.by_id.get(key.partition("/")[0])
        if file is not None and file.access != "open":
            return s3_refusal(403, "AccessDenied", "Access Denied", key)
        if (
            file is None
            or file.file_id in self.withheld
            or key != f"{file.file_id}/{file.file_name}"
            or file.path is None
            or not file.path.is_file()
        ):
            return s3_refusal(404, "NoSuchKey", "The specified key does not exist.", key)
        etag = _etag(file.path.stat().st_size, file.md5, changed=request.fault == "changed-etag")
        wanted = request.headers.get("if-match")
        if wanted not in (None, "*", etag):
            message = "At least one of the pre-conditions you specified did not hold"
            return s3_refusal(412, "PreconditionFailed", message, key)
        headers: Headers = (("Content-Type", "binary/octet-stream"), ("ETag", etag))
        if self.bucket_ranges:
            headers += (("Accept-Ranges", "bytes"),)
        answer = of_file(file.path, request, headers, ranges=self.bucket_ranges)
        if answer.status == 416:
            message = "The requested range is not satisfiable"
            refused = s3_refusal(416, "InvalidRange", message, key)
            return Answer(416, refused.headers + answer.headers, refused.body)
        return answer


def _not_found() -> Answer:
    return refusal(
        404,
        "The requested URL was not found on the server. If you entered the URL manually please "
        "check your spelling and try again.",
    )


def _etag(size: int, md5: str, *, changed: bool) -> str:
    """The quoted ETag of an object; one put up in parts has no md5 for it, as in S3.

    size: bytes.

    >>> _etag(100, "d41d8cd98f00b204e9800998ecf8427e", changed=False)
    '"d41d8cd98f00b204e9800998ecf8427e"'
    >>> _etag(20 * 2**20, "d41d8cd98f00b204e9800998ecf8427e", changed=False)
    '"74be16979710d4c4e7c6647856088456-3"'
    """
    parts = -(-size // 2**23)
    own = f"{md5} changed" if changed else md5
    if parts > 1 or changed:
        own = hashlib.md5(own.encode(), usedforsecurity=False).hexdigest()
    return f'"{own}-{parts}"' if parts > 1 else f'"{own}"'


def _json_body(request: Request) -> Mapping[str, Any]:
    if request.method != "POST" or not request.body:
        return {}
    try:
        value = json.loads(request.body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _made_up(file: Listed, place: int) -> Listed:
    name = f"{file.file_name}.{place}"
    return replace(file, file_name=name, file_id=made_up_id(name))


def _page(
    files: list[Listed], asked: Mapping[str, Any], total: int, size: int, start: int, sort: str
) -> dict[str, Any]:
    """A page of the listing, with its pagination and what was not understood."""
    wanted = asked.get("fields") or DEFAULT_FIELDS
    names = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    names = [name.strip().removeprefix("files.") for name in names]
    unknown = [name for name in names if name not in FIELDS]
    fields = [name for name in names if name in FIELDS]
    warnings = {"fields": f"unrecognized values: [{', '.join(unknown)}]"} if unknown else {}
    pagination = {
        "count": len(files),
        "total": total,
        "size": size,
        "from": start,
        "sort": sort,
        "page": start // size + 1 if size else 1,
        "pages": -(-total // size) if size else 1,
    }
    hits = [document(file, fields) for file in files]
    return {"data": {"hits": hits, "pagination": pagination}, "warnings": warnings}
