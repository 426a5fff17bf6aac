"""The stand-in itself."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Literal

from tests.gdc.answers import Host
from tests.gdc.door import Door, Inside
from tests.gdc.faults import Faults
from tests.gdc.listing import Listed
from tests.gdc.releases import Releases
from tests.gdc.report import Record
from tests.gdc.routes import Routes
from tests.gdc.shaping import Shaping
from tests.gdc.tiles import TileFormat, Tiles

State = Literal["up", "refused", "503"]


class StandIn(Shaping):
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
        self._releases = Releases(release, files)
        self._tiles = Tiles(tile_size, overlap, tile_format)
        self.routes = Routes(self._releases, self._tiles, data_ranges, bucket_ranges)
        self._inside = Inside(self, self.routes.answer)
        self._ports: dict[Host, int] = {"api": port, "bucket": bucket_port}
        self._doors: dict[Host, Door] = {}
        self._peaks: dict[Host, int] = {"api": 0, "bucket": 0}

    def __enter__(self) -> StandIn:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Opens both ports. A stand-in that was stopped gets the same ports again."""
        self._open("api")
        self._open("bucket")

    def stop(self) -> None:
        """Ends all connections, also those that a fault holds."""
        self._close("api")
        self._close("bucket")
        self._tiles.close()

    def switch(self, host: Host, state: State) -> None:
        """Takes a host off the network ("refused"), makes it answer 503 only, or brings it back."""
        if host == "bucket":
            self.routes.bucket_is_busy = state == "503"
        else:
            self.routes.api_is_busy = state == "503"
        if state == "refused":
            self._close(host)
        else:
            self._open(host)

    def publish(self, files: Sequence[Listed], release: str) -> None:
        """A new data release, whose files take the place of those listed so far."""
        self._releases.publish(release, files)

    def withhold(self, *file_ids: str) -> None:
        """Play a release's first days: these files are listed and have tiles, but no bytes.

        The bucket lacks them, and `/data` refuses them. None: all files can be had again.
        """
        self.routes.withheld = frozenset(file_ids)

    @property
    def files(self) -> tuple[Listed, ...]:
        return self._releases.current.files

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

    @property
    def faults(self) -> Faults:
        return self._inside.faults

    @property
    def served(self) -> list[Record]:
        """All requests so far, in order of arrival."""
        return self._inside.report.served

    def requests(self, pattern: str = "", host: Host | None = None) -> list[Record]:
        return self._inside.report.requests(pattern, host)

    def bytes_sent(self, pattern: str = "", host: Host | None = None) -> int:
        return self._inside.report.bytes_sent(pattern, host)

    def clear(self) -> None:
        """Forgets the requests so far and the peaks."""
        self._inside.report.clear()
        self._peaks = {"api": 0, "bucket": 0}
        for door in self._doors.values():
            door.forget_peak()

    @property
    def connections_open_peak(self) -> dict[Host, int]:
        """The most connections that were open at the same time, for each host."""
        now = {host: door.peak for host, door in self._doors.items()}
        return {host: max(peak, now.get(host, 0)) for host, peak in self._peaks.items()}

    def _open(self, host: Host) -> None:
        if host not in self._doors:
            door = Door(host, self._ports[host], self._inside)
            self._ports[host] = door.port
            self._doors[host] = door
            door.start()

    def _close(self, host: Host) -> None:
        door = self._doors.pop(host, None)
        if door is not None:
            door.stop()
            self._peaks[host] = max(self._peaks[host], door.peak)
