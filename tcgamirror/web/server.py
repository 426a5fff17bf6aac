"""HTTP server for the application in `app`, safe to leave running.

waitress sends files from its own loop, so that a slow reader holds no thread. Two
limits are added to its own. A request that is unfinished at two checks in a row is cut,
however steadily it drips. A new connection is always accepted: beyond the limits, the
one that has been idle longest is closed.
"""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer

from tcgamirror.model.errors import ExitCode, UsageError
from tcgamirror.system.interrupt import set_handler
from tcgamirror.web.app import Site
from tcgamirror.web.snapshot import Snapshots

if TYPE_CHECKING:
    from waitress.adjustments import Adjustments

THREADS = 8
CONNECTIONS, CONNECTIONS_EACH = 250, 100
"""Limits of connections, in all and from one address."""
IDLE_SECONDS = 30
"""Seconds without a byte in either direction before a connection is closed."""
CHECK_SECONDS = 10
"""Seconds between two checks for connections to cut."""
MOST_HEADER, MOST_BODY = 16 << 10, 1 << 10


class _Parser(HTTPRequestParser):
    """Request parser that refuses requests of ambiguous length."""

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if "CONTENT_LENGTH" in self.headers and (
            self.chunked or "TRANSFER_ENCODING" in self.headers
        ):
            raise ParsingError("both Content-Length and Transfer-Encoding")


class _Channel(HTTPChannel):
    """Connection for which room was made."""

    parser_class = _Parser
    server: Server

    def __init__(
        self,
        server: Server,
        sock: socket.socket,
        addr: tuple[str, int],
        adj: Adjustments,
        map: Mapping[int, socket.socket] | None = None,
    ) -> None:
        server.make_room(addr[0])
        super().__init__(server, sock, addr, adj, map)


def _use(channel: HTTPChannel) -> tuple[bool, float]:
    """Return whether a request is being answered, and the time of the last byte."""
    return bool(channel.requests or channel.total_outbufs_len), channel.last_activity


class Server(TcpWSGIServer):
    """Server that cuts slow requests and idle connections."""

    channel_class = _Channel

    def __init__(self, site: Site, host: str, port: int) -> None:
        self._unfinished: set[HTTPRequestParser] = set()
        super().__init__(
            site,
            listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            threads=THREADS,
            # Never reached, because room is made before.
            connection_limit=2 * CONNECTIONS,
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=CHECK_SECONDS,
            max_request_header_size=MOST_HEADER,
            max_request_body_size=MOST_BODY,
            asyncore_use_poll=True,
            log_socket_errors=False,
            ident="tcgamirror",
        )

    def make_room(self, address: str) -> None:
        """Close a connection if there are too many, one of the address's if these are."""
        channels = list(self._channels())
        own = [channel for channel in channels if channel.addr[0] == address]
        if len(own) >= CONNECTIONS_EACH:
            min(own, key=_use).handle_close()
        elif len(channels) >= CONNECTIONS:
            min(channels, key=_use).handle_close()

    def _channels(self) -> Iterable[_Channel]:
        # The type stubs are wrong: it maps sockets to channels.
        channels: Mapping[int, _Channel] = self.active_channels  # type: ignore[assignment]
        return channels.values()

    def maintenance(self, now: int) -> None:
        super().maintenance(now)
        unfinished = set()
        for channel in self._channels():
            request = channel.request
            if request is None:
                continue
            if request in self._unfinished:
                channel.will_close = True
            unfinished.add(request)
        self._unfinished = unfinished


def serve(root: Path, host: str, port: int, announce: Callable[[str, bool], None]) -> ExitCode:
    """Serve the mirror until a signal; return DONE for SIGTERM, else INTERRUPTED.

    Args:
        announce: Called with the address and whether other machines can reach it.

    Raises:
        UsageError: The address is not available.
        TcgaMirrorError: The catalogue cannot be opened.
    """
    logging.getLogger("waitress").setLevel(logging.ERROR)
    code = ExitCode.INTERRUPTED

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        nonlocal code
        code = ExitCode.DONE if number == signal.SIGTERM else ExitCode.INTERRUPTED
        # waitress's loop ends in order only by this exception.
        raise KeyboardInterrupt

    # A closed terminal must leave no copy of the catalogue either.
    set_handler(stop, signal.SIGHUP)
    with tempfile.TemporaryDirectory(prefix="tcgamirror-") as folder:
        snapshots = Snapshots(root, Path(folder))
        snapshots.current()
        try:
            server = Server(Site(root, snapshots), host, port)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(
                f"{host}:{port}: address not available ({why}). Name another by --host and --port"
            ) from error
        try:
            assert server.socket is not None
            address, number = server.socket.getsockname()[:2]
            host_address = ipaddress.ip_address(address.partition("%")[0])
            shown = f"[{address}]" if ":" in address else address
            announce(f"http://{shown}:{number}/", not host_address.is_loopback)
            server.run()
        except KeyboardInterrupt:
            # A signal before the loop started, or a second one while it ends.
            pass
        finally:
            server.close()
    return code
