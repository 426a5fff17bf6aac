"""What can go wrong, and when."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field, replace
from typing import Literal

from tests.gdc.answers import Answer, Content, Host, Request, of_json, s3_refusal, text

Status = Literal["203", "403", "404", "429", "500", "503", "504", "redirect"]
Wrong = Literal["empty", "html", "foreign-json", "truncated-json", "as-html", "flipped"]
Framing = Literal["length-too-large", "length-too-small", "empty-200", "slice-200"]
Ranges = Literal["range-ignored", "wrong-content-range", "wrong-total", "changed-etag"]
Flow = Literal["reset", "reset-mid-body", "cut", "stall", "drip", "slow-headers"]
Endless = Literal["endless-body", "endless-page"]
Kind = Literal[Status, Wrong, Framing, Ranges, Flow, Endless]


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule of what goes wrong with which requests.

    path: pattern to be found in path and query. when: "always", "once", "third" (every third
    matching request), or the number of requests to spoil, the first ones. host and method:
    None for any. after: bytes of the body that still go out well (reset-mid-body, cut, stall);
    None for half of them. hold: seconds that a stall or an endless body lasts at most.
    interval: seconds between two bytes of a drip or of slow headers. retry_after: seconds, for
    429 and 503; None leaves the header out. to: where a redirect leads. over: ends a stall when
    it is set.
    """

    path: str
    kind: Kind
    when: Literal["always", "once", "third"] | int = "always"
    host: Host | None = None
    method: str | None = None
    after: int | None = None
    hold: float = 600.0
    interval: float = 0.2
    retry_after: int | None = 1
    to: str = "http://127.0.0.1:9/"
    over: threading.Event = field(default_factory=threading.Event)

    def matches(self, request: Request) -> bool:
        return (
            self.host in (None, request.host)
            and self.method in (None, request.method)
            and re.search(self.path, request.target) is not None
        )

    def is_due(self, nth: int) -> bool:
        """Whether the nth matching request, counted from 1, is spoiled."""
        if self.when == "always":
            return True
        if self.when == "third":
            return nth % 3 == 0
        return nth <= (1 if self.when == "once" else self.when)


class Faults:
    """The rules in force. A request meets the first rule that matches it and is due."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[tuple[Fault, list[int]]] = []

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._rules += [(fault, [0]) for fault in faults]

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def take(self, request: Request) -> Fault | None:
        """The fault for this request. Rules after the one that strikes do not count it."""
        with self._lock:
            for fault, matched in self._rules:
                if fault.matches(request):
                    matched[0] += 1
                    if fault.is_due(matched[0]):
                        return fault
        return None


def instead(fault: Fault | None, host: Host) -> Answer | None:
    """The answer that comes in place of the right one, if this is such a fault."""
    if fault is None:
        return None
    retry = None if fault.retry_after is None else str(fault.retry_after)
    match fault.kind:
        case "redirect":
            return Answer(302, (("Location", fault.to),), Content(b""))
        case "html":
            return text(200, _page("The GDC is down for maintenance"), "text/html; charset=utf-8")
        case "foreign-json":
            return of_json({"login": "required", "portal": "Conference WiFi", "data": None})
        case "504":
            return text(504, _page("504 Gateway Time-out"), "text/html")
        case "403" | "404" | "500":
            return _error(int(fault.kind), host)
        case "429" | "503":
            return _error(int(fault.kind), host).with_header("Retry-After", retry)
        case _:
            return None


def _error(status: int, host: Host) -> Answer:
    code, message = {
        403: ("AccessDenied", "You don't have access to the data: a fault of the stand-in"),
        404: ("NoSuchKey", "The requested URL was not found on the server: a fault"),
        429: ("TooManyRequests", "Too many requests"),
        500: ("InternalError", "Internal server error"),
        503: ("SlowDown", "Service unavailable"),
    }[status]
    if host == "bucket":
        return s3_refusal(status, code, message)
    return of_json({"message": message}, status)


def _page(title: str) -> str:
    return f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><h1>{title}</h1></html>\n"


def spoiled(kind: Kind | None, answer: Answer) -> Answer:
    """Return the answer with what this kind of fault does to it before it is sent."""
    match kind:
        case "empty":
            return replace(answer, body=Content(b""))
        case "flipped":
            data = bytearray(b"".join(answer.body.chunks(65536)))
            for part in (1, 3, 4, 5, 7) if data else ():
                data[len(data) * part // 8] ^= 0xFF
            return replace(answer, body=Content(bytes(data)))
        case "203":
            return replace(answer, status=203) if answer.status in (200, 206) else answer
        case "as-html":
            return answer.with_header("Content-Type", "text/html; charset=utf-8")
        case "empty-200" | "slice-200":
            body = Content(b"") if kind == "empty-200" else answer.body
            return replace(answer, status=200, body=body).with_header("Content-Range", None)
        case "truncated-json":
            whole = b"".join(answer.body.chunks(65536))
            return replace(answer, body=Content(whole[: len(whole) // 2]))
        case "wrong-content-range" | "wrong-total":
            pattern, right = r"bytes (\d+)-(\d+)/(\d+)", dict(answer.headers).get("Content-Range")
            if right is None or (match := re.fullmatch(pattern, right)) is None:
                return answer
            start, last, total = map(int, match.groups())
            moved = (1, 1, 0) if kind == "wrong-content-range" else (0, 0, 1)
            wrong = f"bytes {start + moved[0]}-{last + moved[1]}/{total + moved[2]}"
            return answer.with_header("Content-Range", wrong)
        case _:
            return answer
