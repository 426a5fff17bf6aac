"""Servers on the loopback interface that publish a mirror's directory, and mirrors to publish."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest

from tcgamirror.catalogue.catalogue import Catalogue
from tcgamirror.mirror.directory import CATALOGUE, Mirror
from tcgamirror.mirror.settings import Settings
from tcgamirror.model.slide import Kind, Listing, Slide, Target
from tests.gdc import made_up_name
from tests.support.command import started, went_well
from tests.support.mirrors import column, contents, until

NOW = 1795353255.9
_ONE_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a 0000000d49484452 0000000100000001 0802000000907753de 0000000049444154"
)
_NGINX = """\
daemon off; pid {folder}/pid; error_log {folder}/errors; worker_processes 1; {user}
events {{ worker_connections 64; }}
http {{
  log_format plain '$request_method $uri $status $body_bytes_sent';
  access_log {folder}/log plain;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@dataclass
class Published:
    """A mirror at an address. requests: the server's log of requests, a line each."""

    url: str
    requests: Callable[[], Sequence[str]] = field(default=list)


@contextmanager
def by_serve(root: Path) -> Iterator[Published]:
    with started("--mirror", root, "serve", "--port", "0") as process:
        assert process.stdout is not None
        yield Published(process.stdout.readline().split(" at ")[1].split()[0])


@contextmanager
def by_python(root: Path) -> Iterator[Published]:
    """Python's `http.server`: no Range, no ETag."""
    lines: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            lines.append(format % args)

    handler = functools.partial(Handler, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield Published(
                f"http://127.0.0.1:{server.server_port}/",
                lambda: [line for line in lines if line.startswith('"')],
            )
        finally:
            server.shutdown()


@contextmanager
def by_nginx(root: Path) -> Iterator[Published]:
    """Debian's nginx. Skips where there is none."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("there is no nginx (Debian: apt-get install nginx-light)")
    (port,) = free_ports(1)
    folder = root.with_name(f"{root.name}-nginx-{port}")
    folder.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    text = _NGINX.format(folder=folder, root=root, port=port, user=user)
    (folder / "conf").write_text(text)
    process = subprocess.Popen(
        [program, "-c", folder / "conf", "-e", folder / "errors", "-p", folder],
        stderr=subprocess.DEVNULL,
    )
    try:
        until(functools.partial(_answers, port))
        yield Published(
            f"http://127.0.0.1:{port}/", lambda: (folder / "log").read_text().splitlines()
        )
    finally:
        process.terminate()
        process.wait()


@contextmanager
def by_folder(root: Path) -> Iterator[Published]:
    yield Published(str(root))


WAYS = {"folder": by_folder, "python": by_python, "nginx": by_nginx, "serve": by_serve}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [int(listener.getsockname()[1]) for listener in listeners]


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def got(url: str) -> bytes:
    with urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


# Mirrors ---------------------------------------------------------------------------


def change(root: Path, sql: str, *values: object) -> None:
    """Changes a catalogue as another program would."""
    with closing(sqlite3.connect(root / CATALOGUE, isolation_level=None)) as connection:
        connection.execute(sql, values)


def replace_image(root: Path, path: str, *, tell: bool = True) -> None:
    """Another image of that name: a few bytes longer, which no reader of PNG minds."""
    file = root / path
    data = file.read_bytes() + uuid.uuid4().bytes
    other = file.with_name("other")
    other.write_bytes(data)
    other.replace(file)
    if tell:
        digest = hashlib.sha256(data).hexdigest()
        change(
            root,
            "UPDATE images SET bytes = ?, sha256 = ? WHERE path = ?",
            *(len(data), digest, path),
        )


def rest(root: Path, seconds: float = 10.0) -> None:
    """Makes the catalogue as old as one that nobody has changed for a while."""
    then = time.time() - seconds
    os.utime(root / CATALOGUE, (then, then))


def made_up(root: Path, count: int) -> Path:
    """A mirror of so many tiny files: a PNG's header, of one pixel, and the slide's file_id."""
    mirror = Mirror.create(root, Settings(target=Target(15.0, None)))
    slides = [
        Slide(
            file_id=str(uuid.UUID(int=number)),
            file_name=made_up_name(str(number), "DX1"),
            kind=Kind.DIAGNOSTIC,
            project_id=f"TCGA-{number % 30:02d}",
        )
        for number in range(count)
    ]
    with Catalogue.open(mirror.root / CATALOGUE) as catalogue:
        catalogue.listing.merge(Listing("Data Release 1", tuple(slides)), NOW)
        catalogue.sample.add([slide.file_name for slide in slides], NOW)
    with closing(sqlite3.connect(root / CATALOGUE)) as connection, connection:
        connection.executemany(
            "UPDATE images SET status = 'done', path = ?, bytes = ?, sha256 = ?, width = 1, "
            "height = 1, source = 'range', level = 0, level_downsample = 1, "
            "mpp_source = 'unknown', fetched_at = '2026-11-22T13:14:15Z' WHERE file_name = ?",
            [(*_tiny(root, slide), slide.file_name) for slide in slides],
        )
    return root


def _tiny(root: Path, slide: Slide) -> tuple[str, int, str]:
    data = _ONE_PIXEL + slide.file_id.encode()
    path = f"images/{slide.project_id}/{slide.file_name.removesuffix('.svs')}.png"
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return path, len(data), hashlib.sha256(data).hexdigest()


# Between two of them ---------------------------------------------------------------


def synced(source: Path | str, root: Path | str, *options: str) -> dict[str, object]:
    """Return the answer of a sync that succeeds."""
    answer = went_well("sync", source, root, "--json", *options).json()
    assert isinstance(answer, dict)
    return answer


def verified(root: Path) -> None:
    assert went_well("--mirror", root, "verify").out.count("all as recorded") == 1


def dump(root: Path) -> str:
    return contents(root)["catalogue.db"]


def paths(root: Path) -> list[str]:
    return [str(path) for path in column(root, "select path from mirror order by sample_rank")]
