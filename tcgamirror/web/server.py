"""The server around `site`: one that may be left on.

waitress sends files from its own loop, so that a slow reader keeps no thread.
Its limits are set here, and two more. A request that is not whole when it has
been seen unfinished twice is cut, however steadily it drips. A new connection is
always accepted: beyond the limits, the one that has been idle longest is closed.
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
from tcgamirror.web.app import Site
from tcgamirror.web.snapshot import Snapshots

if TYPE_CHECKING:
    from waitress.adjustments import Adjustments

THREADS = 8
CONNECTIONS, CONNECTIONS_EACH = 250, 100
"""At once, in all and from one address."""
IDLE_SECONDS = 30
"""Without a byte in either direction."""
LOOK_EVERY = 10
"""Seconds between two looks for connections to be cut."""
MOST_HEADER, MOST_BODY = 16 << 10, 1 << 10


class _Parser(HTTPRequestParser):
    """Refuses requests of which two readers could see different ends."""

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if "CONTENT_LENGTH" in self.headers and (
            self.chunked or "TRANSFER_ENCODING" in self.headers
        ):
            raise ParsingError("both Content-Length and Transfer-Encoding")


class _Channel(HTTPChannel):
    """A connection for which room was made."""

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
    """Return whether a request is being answered, and when something last came or went."""
    return bool(channel.requests or channel.total_outbufs_len), channel.last_activity


class Server(TcpWSGIServer):
    """Cuts requests that take too long to come, and connections that keep others waiting."""

    channel_class = _Channel

    def __init__(self, site: Site, host: str, port: int) -> None:
        self._unfinished: set[HTTPRequestParser] = set()
        super().__init__(
            site,
            listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            threads=THREADS,
            # Never reached: room is made before.
            connection_limit=2 * CONNECTIONS,
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=LOOK_EVERY,
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
        # The stubs take it for one channel.
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


class _Asked:
    """Which signal asked the server to end."""

    def __init__(self) -> None:
        self.terminate = False

    def listen(self) -> None:
        signal.signal(signal.SIGINT, self._end)
        signal.signal(signal.SIGTERM, self._end)

    def _end(self, number: int, _frame: FrameType | None) -> NoReturn:
        self.terminate = number == signal.SIGTERM
        # waitress's loop ends in order by this, and by nothing else that a handler can do.
        raise KeyboardInterrupt


def serve(root: Path, host: str, port: int, announce: Callable[[str, bool], None]) -> ExitCode:
    """Serves the mirror until a signal ends it: DONE for SIGTERM, INTERRUPTED for Ctrl-C.

    announce: told the address, and whether other machines can reach it. Raises
    UsageError for an address that cannot be had, and what `Catalogue.open` does.
    """
    logging.getLogger("waitress").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="tcgamirror-") as folder:
        snapshots = Snapshots(root, Path(folder))
        snapshots.now()
        try:
            server = Server(Site(root, snapshots), host, port)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(
                f"{host}:{port} cannot be served at ({why}): name another by --host and --port"
            ) from error
        asked = _Asked()
        asked.listen()
        try:
            assert server.socket is not None
            address, number = server.socket.getsockname()[:2]
            shown = f"[{address}]" if ":" in address else address
            announce(f"http://{shown}:{number}/", not _is_loopback(address))
            server.run()
        except KeyboardInterrupt:
            # Before the loop began, or a second one while it ends.
            pass
        finally:
            server.close()
    return ExitCode.DONE if asked.terminate else ExitCode.INTERRUPTED


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
