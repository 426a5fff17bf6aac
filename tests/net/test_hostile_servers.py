"""Servers that never end, drip, or speak to the terminal: what `sync` and `update` make of them."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from tcgamirror.cli.progress import ProgressDisplay
from tcgamirror.mirror.directory import CATALOGUE
from tcgamirror.model.errors import NetworkError, Timeout, TooLong
from tcgamirror.system.interrupt import Shutdown
from tcgamirror.transfer.sync import remote
from tcgamirror.transfer.sync.remote import HttpMirror
from tcgamirror.transfer.sync.synchronizer import synchronize
from tcgamirror.transfer.sync.target import DirectoryTarget
from tests.mirror.test_nights import HOSTILE, TERMINAL_OBEYS
from tests.sources.test_gdc import hit, page
from tests.support.command import Result, run, succeeded
from tests.support.mirrors import impatient
from tests.support.publishing import made_up
from tests.support.raw_server import (
    CHUNKED,
    RawServer,
    Request,
    Script,
    Step,
    asking,
    dripped,
    endless,
    head,
    plays,
    whole,
    within,
)

ENDLESS = endless(CHUNKED, b"10000\r\n" + bytes(0x10000) + b"\r\n")
DRIP = dripped(bytes(9999), head("200 OK", "Content-Length: 9999"))
SLOW_IMAGE = dripped(bytes(36), head("200 OK", "Content-Length: 36"), every=0.4)
NONE = whole(b"", "404 Not Found")


def publishing(catalogue: Script, image: Script) -> Script:
    """A web server of a mirror that answers so."""

    def script(request: Request) -> Iterable[Step]:
        if request.path.endswith(CATALOGUE):
            return catalogue(request)
        return image(request) if "/images/" in request.path else NONE(request)

    return script


def synced(root: Path, script: Script) -> object:
    with asking(script) as (server, client):
        web = HttpMirror(server.url("/m"), client, threading.Event())
        return synchronize(
            web, DirectoryTarget(root), ProgressDisplay(quiet=True), Shutdown(), delete=False
        )


@pytest.mark.parametrize(("answer", "error"), [(ENDLESS, TooLong), (DRIP, Timeout)])
def test_a_catalogue_without_end_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Script, error: type[NetworkError]
) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 5_000_000)
    with within(20), pytest.raises(error):
        synced(tmp_path / "m", publishing(answer, NONE))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ENDLESS, TooLong),
        (SLOW_IMAGE, NetworkError),
        (endless(head("200 OK"), bytes(1 << 16)), TooLong),
    ],
)
def test_endless_images_make_no_mirror(
    tmp_path: Path, answer: Script, error: type[NetworkError]
) -> None:
    source = made_up(tmp_path / "source", 3)
    root = tmp_path / "m"
    catalogue = whole((source / CATALOGUE).read_bytes())
    with within(30), pytest.raises(error, match=r"images? can be fetched|no image any more"):
        synced(root, publishing(catalogue, answer))
    most = max(path.stat().st_size for path in (source / "images").rglob("*.png"))
    left = [path for path in (root / "images").rglob("*") if path.is_file()]
    assert all(path.suffix == ".part" and path.stat().st_size <= most for path in left)
    assert not (root / CATALOGUE).exists()


# Terminals -------------------------------------------------------------------------


def hostile_gdc(request: Request) -> Iterable[Step]:
    """Speaks to the terminal wherever it can."""
    words = {"message": HOSTILE, "error": HOSTILE}
    if request.path.endswith("/status"):
        answer: object = {"data_release": f"{HOSTILE} 45.0", "tag": HOSTILE, "status": HOSTILE}
    elif request.path.endswith("/files"):
        more = {"primary_site": HOSTILE, "project": {"project_id": HOSTILE}, "state": HOSTILE}
        hits = [hit(n, file_size=10_000, md5sum=HOSTILE, cases=[more]) for n in (1, 2)]
        answer = page([{**each, "experimental_strategy": "Diagnostic Slide"} for each in hits], 2)
    elif "/tile/" in request.path:
        sizes = dict.fromkeys(("Width", "Height", "TileSize", "Overlap"), HOSTILE)
        answer = {"Format": HOSTILE, **sizes}
    elif request.path.startswith("/bucket"):
        kind = "Content-Type: text/\x1b[2J\x07\r\nETag: \x1b[2J\r\nContent-Range: bytes \x1b[31m"
        return plays(head("206 Partial \x1b[2J", kind, "Content-Length: 3") + b"\x1b[2")(request)
    else:
        return whole(json.dumps(words).encode(), "403 \x1b[2J")(request)
    return whole(json.dumps(answer).encode(), "200 OK", "Content-Type: application/json")(request)


def test_nothing_that_servers_say_reaches_the_terminal(tmp_path: Path) -> None:
    root, log = tmp_path / "m", tmp_path / "log"
    shown: list[Result] = []
    with RawServer(hostile_gdc) as server:
        urls = ("--api", server.url(""), "--bucket", server.url("/bucket"))
        shown.append(succeeded("--mirror", root, "init", "--mpp", "4", "--slides", "2", *urls))
        impatient(root)
        shown.append(run("--mirror", root, "update", "--log", log))
        assert shown[-1].code == 3, shown
        shown.append(run("--mirror", root, "verify", "--repair"))
        shown.append(run("--mirror", root, "doctor"))
    with closing(sqlite3.connect(root / CATALOGUE)) as catalogue, catalogue:
        # As one that came on a stick may say.
        catalogue.execute("UPDATE facts SET value = value || ?", (HOSTILE,))
    looks = (["status"], ["show", str(hit(1)["file_id"])], ["changes"], ["update"])
    shown += [run("--mirror", root, *words) for words in looks]
    said = [result.out + result.err for result in shown] + [log.read_text()]
    for text in said:
        assert not [sign for sign in TERMINAL_OBEYS if sign in text], text
    assert "\\u001b" not in said[-1]
