"""The data releases that the stand-in has published, and what it tells about them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.gdc.listing import Listed, Listing

_LABEL = re.compile(r"^Data Release (\d+)\.(\d+) - (\w+ \d+, \d{4})$")


@dataclass(frozen=True, slots=True)
class Release:
    """One data release. label: as `/status` words it."""

    label: str
    number: str
    date: str
    listing: Listing

    @classmethod
    def of(cls, label: str, files: Sequence[Listed]) -> Release:
        match = _LABEL.match(label)
        if match is None:
            raise ValueError(f"not a label like 'Data Release 45.0 - December 04, 2025': {label}")
        date = datetime.strptime(match[3], "%B %d, %Y").date().isoformat()
        return cls(label, f"{match[1]}.{match[2]}", date, Listing(files))


class Releases:
    """All releases, the oldest first. Only the last one's files can be had."""

    def __init__(self, label: str, files: Sequence[Listed]) -> None:
        self._lock = threading.Lock()
        self._all: tuple[Release, ...] = (Release.of(label, files),)

    def publish(self, label: str, files: Sequence[Listed]) -> None:
        release = Release.of(label, files)
        with self._lock:
            self._all = (*self._all, release)

    @property
    def current(self) -> Listing:
        return self._all[-1].listing

    def status(self, *, with_version: bool) -> dict[str, Any]:
        last = self._all[-1]
        major, _, minor = last.number.partition(".")
        version = {"major": int(major), "minor": int(minor), "release_date": last.date}
        return {
            "commit": "74e1e3583c0f39fbf2149322addb7378206be3b9",
            "data_release": last.label,
            **({"data_release_version": version} if with_version else {}),
            "status": "OK",
            "tag": "7.9",
            "version": 1,
        }

    def versions(self, file_ids: Iterable[str]) -> list[dict[str, Any]]:
        """What became of each file that is or was listed; other ids are left out."""
        return [
            self._version(found[0], found[1])
            for file_id in file_ids
            if (found := self._find(file_id)) is not None
        ]

    def history(self, file_id: str) -> list[dict[str, str]]:
        """All files that have borne the same name, the oldest first."""
        found = self._find(file_id)
        if found is None:
            return []
        entries: dict[str, dict[str, str]] = {}
        for release in self._all:
            file = release.listing.by_name.get(found[1].file_name)
            if file is None or file.file_id in entries:
                continue
            for earlier in entries.values():
                earlier["file_change"] = "superseded"
            entries[file.file_id] = {
                "uuid": file.file_id,
                "version": file.version,
                "file_change": "released",
                "release_date": release.date,
                "data_release": release.number,
            }
        return list(entries.values())

    def _find(self, file_id: str) -> tuple[Release, Listed] | None:
        """The file of that id, and the release it came with."""
        for release in self._all:
            file = release.listing.by_id.get(file_id)
            if file is not None:
                return release, file
        return None

    def _version(self, release: Release, file: Listed) -> dict[str, Any]:
        latest = self.current.by_name.get(file.file_name)
        return {
            "id": file.file_id,
            "filename": file.file_name,
            "version": file.version,
            "md5": file.md5,
            "size": file.size,
            "state": file.state,
            "release": release.number,
            "latest_id": latest and latest.file_id,
            "latest_filename": latest and latest.file_name,
            "latest_version": latest and latest.version,
            "latest_size": latest and latest.size,
            "latest_state": latest and latest.state,
            "latest_release": [
                each.number
                for each in self._all
                if latest is not None and latest.file_id in each.listing.by_id
            ],
        }
