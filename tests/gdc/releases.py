"""The data releases that the stand-in has published."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from tests.gdc.listing import Listed, Listing


class Releases:
    """All releases, the oldest first. Only the last one's files can be had."""

    def __init__(self, label: str, files: Sequence[Listed]) -> None:
        self._lock = threading.Lock()
        self._all: tuple[Listing, ...] = ()
        self.publish(label, files)

    def publish(self, label: str, files: Sequence[Listed]) -> None:
        with self._lock:
            self._all = (*self._all, Listing(files))
            self._label = label

    @property
    def current(self) -> Listing:
        return self._all[-1]

    def status(self) -> dict[str, Any]:
        return {"data_release": self._label, "status": "OK", "tag": "7.9", "version": 1}

    def versions(self, file_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return the successor of each file that is or was listed; other ids are left out."""
        known = {file_id: file for each in self._all for file_id, file in each.by_id.items()}
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
