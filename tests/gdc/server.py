"""The stand-in itself: two hosts, and their connections with one request after another."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.gdc.answers import Host, Request
from tests.gdc.faults import Faults, instead, spoiled
from tests.gdc.listing import Listed
from tests.gdc.report import Record, Report
from tests.gdc.routes import Routes
from tests.gdc.shaping import Shaping
from tests.gdc.tiles import TileFormat, Tiles
from tests.gdc.wire import StoppingError, Wire, is_reset_on_close

State = Literal["up", "refused", "503"]


class StandIn(Report, Shaping):
    """A GDC on the loopback interface: the API with its tile server, and the open-data bucket.

    Its slowness may be set while it runs (see `Shaping`), and so may data_ranges and
    bucket_ranges of its `routes`.
    """

    def __init__(
        self,
        files: Sequence[Listed],
        *,
        release: str = "Data Release 45.0 - December 04, 2025",
        tile_size: int = 512,
        overlap: int = 1,
        tile_format: TileFormat = "png",
        data_ranges: bool = True,
        bucket_ranges: bool = True,
        port: int = 0,
        bucket_port: int = 0,
    ) -> None:
        super().__init__()
        self.routes = Routes(Tiles(tile_size, overlap, tile_format), data_ranges, bucket_ranges)
        self.publish(files, release)
        self.faults = Faults()
        self.numbers = itertools.count(1)
        self._ports: dict[Host, int] = {"api": port, "bucket": bucket_port}
        self._doors: dict[Host, Door] = {}
        self._kept: dict[Host, socket.socket] = {}
        self._peaks: dict[Host, int] = {"api": 0, "bucket": 0}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Open both ports. A stand-in that was stopped gets the same ports again."""
        for host in self._ports:
            self._open(host)

    def stop(self) -> None:
        """End all connections, also those that a fault holds."""
        for host in self._ports:
            self._close(host)
        self.routes.tiles.close()

    def switch(self, host: Host, state: State) -> None:
        """Take a host off the network ("refused"), make it answer 503 only, or bring it back."""
        self.routes.busy -= {host}
        if state == "503":
            self.routes.busy |= {host}
        if state == "refused":
            self._close(host)
            # Kept without listening, so that nobody else is given the port meanwhile.
            self._kept[host] = socket.socket()
            self._kept[host].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._kept[host].bind(("127.0.0.1", self._ports[host]))
        else:
            self._open(host)

    def publish(self, files: Sequence[Listed], release: str) -> None:
        """Publish a new data release, whose files take the place of those listed so far."""
        self.routes.publish(files, release)

    def withhold(self, *file_ids: str) -> None:
        """Play a release's first days: these files are listed and have tiles, but no bytes.

        The bucket lacks them, and `/data` refuses them. None: all files can be had again.
        """
        self.routes.withheld = frozenset(file_ids)

    @property
    def files(self) -> tuple[Listed, ...]:
        return self.routes.current.files

    @property
    def api(self) -> str:
        """Address of the API, without a slash at its end."""
        return f"http://127.0.0.1:{self._ports['api']}"

    @property
    def tiles(self) -> str:
        """Address of the tile server; `/metadata/{file_id}` and `/{file_id}` go after it."""
        return f"{self.api}/tile"

    @property
    def bucket(self) -> str:
        """Address of the bucket; `/{file_id}/{file_name}` goes after it."""
        return f"http://127.0.0.1:{self._ports['bucket']}"

    def clear(self) -> None:
        """Forget the requests so far and the peaks."""
        super().clear()
        self._peaks = {"api": 0, "bucket": 0}
        for door in self._doors.values():
            door.forget_peak()

    @property
    def connections_open_peak(self) -> dict[Host, int]:
        """The most connections that were open at the same time, for each host."""
        now = {host: door.peak for host, door in self._doors.items()}
        return {host: max(peak, now.get(host, 0)) for host, peak in self._peaks.items()}

    def _open(self, host: Host) -> None:
        if kept := self._kept.pop(host, None):
            kept.close()
        if host not in self._doors:
            door = Door(self, host, self._ports[host])
            self._ports[host] = int(door.server_address[1])
            self._doors[host] = door
            threading.Thread(target=door.serve_forever, args=(0.01,), daemon=True).start()

    def _close(self, host: Host) -> None:
        if kept := self._kept.pop(host, None):
            kept.close()
        door = self._doors.pop(host, None)
        if door is not None:
            door.stop()
            self._peaks[host] = max(self._peaks[host], door.peak)


class Door(ThreadingHTTPServer):
    """A host's port. peak: the most connections that were open at the same time."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, gdc: StandIn, host: Host, port: int) -> None:
        self.gdc = gdc
        self.host = host
        self.stopping = threading.Event()
        self.peak = 0
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Conversation)

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host's name, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        with self._changed:
            self._open.add(request)
            self.peak = max(self.peak, len(self._open))
            return True

    def shutdown_request(self, request: Any) -> None:
        # A shutdown before the close would be an orderly end, not a reset.
        if is_reset_on_close(request):
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def close_request(self, request: Any) -> None:
        super().close_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def forget_peak(self) -> None:
        with self._changed:
            self.peak = len(self._open)

    def stop(self) -> None:
        """End all connections and wait for their threads, a few seconds at most."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._changed:
            for connection in self._open:
                # The other side may have ended it already.
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            self._changed.wait_for(lambda: not self._open, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not self.stopping.is_set():
            super().handle_error(request, client_address)


class Conversation(BaseHTTPRequestHandler):
    """One connection to a host."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._door = cast(Door, self.server)
        self._number = next(self._door.gdc.numbers)
        self._wire = Wire(self.connection, self._door.gdc, self._door.stopping)

    def handle_one_request(self) -> None:
        try:
            self.raw_requestline = self.rfile.readline(65537)
            if self.raw_requestline and self.parse_request():
                self.close_connection = not self._serve() or self.close_connection
            else:
                self.close_connection = True
        except (OSError, StoppingError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: the report has more."""

    def _serve(self) -> bool:
        """Read the request and answer it. Return whether the connection can go on."""
        gdc = self._door.gdc
        request = self._request()
        fault = gdc.faults.take(request)
        kind = None if fault is None else fault.kind
        record = Record(
            time=time.monotonic(),
            host=request.host,
            method=request.method,
            path=request.target,
            range=request.headers.get("range"),
            connection=self._number,
            fault=kind,
        )
        gdc.enter(record)
        self._wire.wait(gdc.delay)
        if request.is_tile:
            self._wire.wait(gdc.tile_delay)
        answer = instead(fault, request.host) or gdc.routes.answer(replace(request, fault=kind))
        return self._wire.send(spoiled(kind, answer), record, fault, closing=self.close_connection)

    def _request(self) -> Request:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = urlsplit(self.path)
        return Request(
            host=self._door.host,
            method=self.command,
            target=self.path,
            path=unquote(parts.path),
            query=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
        )
